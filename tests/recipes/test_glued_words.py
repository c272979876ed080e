"""Dangers: a recipe that asks for glued words trains on words between blanks, tells nobody where blanks are unknown,
or scores other pieces than those it trained on; answers of teachers that another reading of the words gave."""

import json

import pytest
from datasets import Dataset

from hf_structkd import CRFTokenClassificationPipeline, Teacher, annotate, encode_corpus, load_corpus
from hf_structkd.data.unlabelled import load_sentences, mix_unlabelled
from hf_structkd.modeling.glued_words import GLUED, GluedWords, sentences_of
from hf_structkd.modeling.words import tokenize_words
from hf_structkd.recipes.fields import ModelArguments
from hf_structkd.recipes.models import make_tagger
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.teachers.annotate import corpus_fingerprint
from hf_structkd.training.smaller_vocabulary import trim_vocabulary
from tests.conftest import draw_student
from tests.modeling.conftest import wordpiece

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
NAMES, PLACES = ["安娜", "马利", "王小"], ["北京", "上海", "巴黎"]


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Texts without blanks, as doccano exports them."""
    folder = tmp_path_factory.mktemp("exports")
    for split, count in {"train": 40, "dev": 6, "test": 9}.items():
        rows = []
        for number in range(count):
            name, place = NAMES[number % 3], PLACES[number % 2]
            text = f"{name}去{place}，很好。"
            row = {"text": text, "label": [[0, 2, "PER"], [3, 5, "LOC"]]}
            if split == "train":  # a tool that stores its words
                row["tokens"] = [{"start": place, "end": place + 1} for place in range(len(text))]
            rows.append(row)
        (folder / f"zh.{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def glued(tokenizer, labels):
    model = draw_student(tokenizer, labels)
    model.config.glued_words = True
    return model


def corpus_of(*sentences, flags=True):
    columns = {"tokens": [list(words) for words in sentences]}
    if flags:
        columns[GLUED] = [words.glued if isinstance(words, GluedWords) else None for words in sentences]
    return Dataset.from_dict(columns)


WORDS = GluedWords(["Anna", ",", "Paris"], [False, True, True])


class TestCorpora:
    def test_which_sources_know_their_blanks(self, tmp_path, exports):
        texts = load_corpus(exports / "zh.train.jsonl", language="zh", glued=True)
        assert texts[0][GLUED] == [False] + [True] * 8
        assert GLUED not in load_corpus(exports / "zh.train.jsonl", language="zh").column_names
        (tmp_path / "a.conll").write_text("Anna O\n, O\n")
        columns = load_corpus(tmp_path / "a.conll", language="en", glued=True)
        assert columns[GLUED] == [None]
        raw = load_sentences(exports / "zh.test.jsonl", language="zh", glued=True)
        assert raw[0][GLUED] == [False] + [True] * 8
        (tmp_path / "a.txt").write_text("Anna , Bo\n")
        lines = load_sentences(tmp_path / "a.txt", language="en", glued=True)
        assert lines[GLUED] == [None]
        mixed = mix_unlabelled(columns, lines)
        assert mix_unlabelled(texts, raw)[GLUED][-1] == raw[-1][GLUED]
        assert mixed[GLUED] == [None, None]

    def test_training_reads_the_column(self, tokenizer, labels, caplog):
        expected = tokenize_words([WORDS], tokenizer, glued_words=True)["input_ids"]
        assert encode_corpus(corpus_of(WORDS), tokenizer, labels, glued_words=True)["input_ids"] == expected
        assert not caplog.text
        plain = tokenize_words([list(WORDS)], tokenizer)["input_ids"]
        assert encode_corpus(corpus_of(WORDS), tokenizer, labels)["input_ids"] == plain
        mixed = encode_corpus(corpus_of(WORDS, ["a"]), tokenizer, labels, glued_words=True)
        assert mixed["input_ids"][0] == expected[0]
        assert "1 of 2 sentences do not say which words follow their neighbour without a blank" in caplog.text
        caplog.clear()
        assert encode_corpus(corpus_of(WORDS, flags=False), tokenizer, labels, glued_words=True)["input_ids"] == plain
        assert "1 of 1 sentences do not say" in caplog.text

    def test_a_wrong_number_of_flags_names_the_row(self, tokenizer, labels):
        corpus = Dataset.from_dict({"tokens": [["a"], ["a", "b"]], GLUED: [[False], [True]]})
        with pytest.raises(ValueError, match="row 1: there are 2 words, and 1 flags"):
            encode_corpus(corpus, tokenizer, labels, glued_words=True)


class TestTeachers:
    def test_a_teacher_with_glued_words_is_asked_with_the_blanks(self, glued, tokenizer, labels):
        teacher = Teacher(glued, tokenizer)
        ask = {"label_names": labels, "targets": ["teacher_marginals"], "progress": False}
        known, unknown = (annotate(corpus_of(WORDS, flags=flags), teacher, **ask) for flags in (True, False))
        assert known["teacher_marginals"] != unknown["teacher_marginals"]
        expected = teacher.distribution([WORDS]).marginals[0]
        assert abs(expected - expected.new_tensor(known["teacher_marginals"][0])).max() < 2e-3

    def test_its_context_keeps_the_blanks(self, glued, tokenizer, labels):
        teacher = Teacher(glued, tokenizer)
        corpus = corpus_of(WORDS, WORDS).add_column("document", ["d", "d"])
        ask = {"label_names": labels, "targets": ["teacher_marginals"], "progress": False, "context": 1}
        answers = annotate(corpus, teacher, **ask)["teacher_marginals"]
        both = GluedWords([*WORDS, *WORDS], [*WORDS.glued, *WORDS.glued])
        scores = teacher.chain_scores([both]).scores.emissions[0]
        direct = teacher.distribution([WORDS], context=[([], WORDS)])
        assert abs(direct.marginals[0] - scores.new_tensor(answers[0])).max() < 2e-3

    def test_stored_answers_belong_to_the_blanks(self):
        known, unknown = corpus_of(WORDS), corpus_of(WORDS, flags=False)
        assert corpus_fingerprint(known) != corpus_fingerprint(unknown)
        other = corpus_of(GluedWords(WORDS, [False, False, True]))
        assert corpus_fingerprint(known) != corpus_fingerprint(other)


def test_a_smaller_vocabulary_keeps_the_pieces_of_glued_words(glued, tokenizer):
    sentences = [WORDS, GluedWords(["Boston", "Anna", "."], [False, True, True])]
    trimmed = trim_vocabulary(glued, tokenizer, sentences, keep_characters=False)
    before = tokenize_words(sentences, tokenizer, glued_words=True)["input_ids"]
    after = tokenize_words(sentences, trimmed.tokenizer, glued_words=True)["input_ids"]
    assert [[trimmed.kept[piece] for piece in row] for row in after] == before


class TestRecipes:
    def test_train_store_score_and_tag_raw_text(self, exports, tmp_path, run_script, caplog):
        fields = {
            **{"corpus": {"zh": f"{exports}/zh.{{split}}.jsonl"}, "model": "scratch", "vocab_size": 60},
            **{"model_config": TINY, "num_train_epochs": 12, "learning_rate": 2e-2, "crf_learning_rate": 5e-2},
            **{"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "seed": 1},
            **{"glued_words": True, "output_dir": str(tmp_path / "tagger")},
        }
        (tmp_path / "recipe.yaml").write_text(json.dumps(fields))
        run_script("structkd teacher", tmp_path / "recipe.yaml")
        teacher = Teacher.from_pretrained(str(tmp_path / "tagger"))
        assert teacher.glued_words
        assert "do not say which words" not in caplog.text
        test = load_corpus(exports / "zh.test.jsonl", language="zh", glued=True)
        of_words = teacher.tag(sentences_of(test))
        results = json.loads((tmp_path / "tagger" / "results.json").read_text())
        assert results["scores"]["test"]["tagger"]["zh"]["f1"] > 0.9
        measured = {"segmenter": "rules", "share": 1.0, "words": 360, "sentences": 40}
        assert results["word_agreement"] == {"zh": measured}
        assert of_words == list(test["tags"])
        pipe = CRFTokenClassificationPipeline(model=teacher.model, tokenizer=teacher.tokenizer)
        text = "马利去上海，很好。"
        assert [(e["word"], e["start"], e["end"]) for e in pipe(text)["entities"]] == [("马利", 0, 2), ("上海", 3, 5)]
        scored = run_script(
            "structkd evaluate", "--checkpoint", tmp_path / "tagger", "--corpus",
            json.dumps(fields["corpus"]), "--splits", "test",
        )  # fmt: skip
        assert f"{100 * results['scores']['test']['tagger']['zh']['f1']:.2f}" in scored

    def test_what_cannot_be_is_refused(self, glued, tokenizer, labels, corpus, tmp_path, refusal, exports):
        no_sentences: list = []
        glued.save_pretrained(tmp_path / "glued")
        tokenizer.save_pretrained(tmp_path / "glued")
        arguments = ModelArguments(model=str(tmp_path / "glued"))
        with pytest.raises(RecipeError, match="as running text: say glued_words: true"):
            make_tagger(arguments, labels, "BIO", lambda: no_sentences)
        model, _ = make_tagger(arguments, labels, "BIO", lambda: no_sentences, glued_words=True)
        assert model.config.glued_words
        model, _ = make_tagger(arguments, labels, "BIO", lambda: no_sentences, glued_words=False)
        assert not model.config.glued_words
        plain = draw_student(tokenizer, labels)
        plain.save_pretrained(tmp_path / "plain")
        wordpiece(list(corpus["tokens"])).save_pretrained(tmp_path / "plain")
        with pytest.raises(RecipeError, match=r"glued_words: .* does not mark the blank"):
            make_tagger(
                ModelArguments(model=str(tmp_path / "plain")), labels, "BIO", lambda: no_sentences, glued_words=True
            )
        told = refusal(
            "structkd teacher", "--corpus", json.dumps({"zh": f"{exports}/zh.{{split}}.jsonl"}), "--model", "scratch",
            "--head", "softmax", "--glued_words", "true", "--output_dir", tmp_path / "out",
        )  # fmt: skip
        assert "head 'softmax' reads every word as if between blanks" in told
        told = refusal(
            "structkd distill", "--corpus", "demo", "--glued_words", "true", "--augmentation", '{"copies": 1}',
            "--teacher_model", "scratch", "--output_dir", tmp_path / "out",
        )  # fmt: skip
        assert "glued_words needs sentences that know their blanks" in told
