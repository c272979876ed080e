"""Danger: a corpus that Python reads cannot be named in a recipe, or is read otherwise there."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from transformers import pipeline

from hf_structkd import CRFTokenClassificationPipeline, Teacher, annotate, encode_corpus, load_corpora, load_corpus
from hf_structkd.cli import COMMANDS
from hf_structkd.data.foreign_formats import FORMATS
from hf_structkd.data.unlabelled import load_sentences, mix_unlabelled
from hf_structkd.modeling.glued_words import GLUED, GluedWords, sentences_of
from hf_structkd.modeling.words import tokenize_words
from hf_structkd.recipes.data import labels_of, load_data, load_unlabelled
from hf_structkd.recipes.fields import DataArguments, ModelArguments
from hf_structkd.recipes.models import make_tagger
from hf_structkd.recipes.parser import RecipeError, parse_recipe
from hf_structkd.recipes.recipe import Recipe
from hf_structkd.recipes.run import DistillationRun
from hf_structkd.teachers.annotate import corpus_fingerprint
from hf_structkd.training.smaller_student import trim_vocabulary
from tests.conftest import draw_student
from tests.modeling.conftest import wordpiece

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
NUMBERED = "# text = Olu hums\n1\tOlu\tB-P\t-\tq\n2\thums\tO\t-\tq\n\n1\tKano\tB-L\n"
ANSWER = [(["Olu", "hums"], ["B-P", "O"]), (["Kano"], ["B-L"])]


@pytest.fixture
def read(tmp_path):
    """Reads a file by a recipe, and by the command line; both must give the same."""

    def read(content, name, split="train", **fields):
        for own in ("train", "dev"):
            (tmp_path / f"{own}{name}").write_text(content)
        fields = {"corpus": f"{tmp_path}/{{split}}{name}", "languages": ["ha"], **fields}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
        options = [part for key, value in fields.items()
                   for part in (f"--{key}", *map(str, value if isinstance(value, list) else [value]))]  # fmt: skip
        answers = []
        for argv in ([str(tmp_path / "recipe.yaml")], options):
            (args,) = parse_recipe([DataArguments], argv)
            data = load_data(args, splits=("train", "dev"))["ha"][split]
            answers.append((list(zip(data["tokens"], data["tags"])), args))
        assert answers[0][0] == answers[1][0]
        return answers[0]

    return read


def test_columns_by_number(read):
    assert read(NUMBERED, ".iob2", tokens_column=1, tags_column=2)[0] == ANSWER
    assert read(NUMBERED, ".iob2", tokens_column=1, column=2)[0] == ANSWER


def test_the_format_of_a_language_can_be_forced(read, tmp_path):
    """Danger: a corpus that Python reads cannot be named in a recipe."""
    assert read(NUMBERED, ".iob2", corpus_format="uner")[0] == ANSWER
    (tmp_path / "en.data").write_text("Olu B-P\nhums O\n\nKano B-L\n")
    (args,) = parse_recipe([DataArguments], ["--corpus", json.dumps({"ha": f"{tmp_path}/train.iob2",
                           "en": f"{tmp_path}/en.data"}), "--corpus_format", '{"ha": "uner"}'])  # fmt: skip
    for language, splits in load_data(args, splits=("train",)).items():
        assert list(zip(splits["train"]["tokens"], splits["train"]["tags"])) == ANSWER, language
    for wrong in ("unner", '{"ha": "unner"}'):
        with pytest.raises(RecipeError, match=r"not 'unner'. Did you mean 'uner'"):
            parse_recipe([DataArguments], ["--corpus", "x", "--corpus_format", wrong])
    with pytest.raises(ValueError, match="format names de, but the languages are ha, en"):
        load_data(replace(args, corpus_format={"de": "uner"}), splits=("train",))


def test_every_format_is_named_where_one_looks_for_it():
    """Danger: a format that can be forced, and that neither the page nor the help knows."""
    (corpus_format,) = (field for field in fields(DataArguments) if field.name == "corpus_format")
    page = (Path(__file__).parents[2] / "docs" / "corpora.md").read_text().partition("**The format of a file**")[2]
    table = page.partition("\n\n|")[2].partition("\n\n")[0]
    assert set(FORMATS) == set(re.findall(r"`([\w-]+)`", "".join(row.split("|")[1] for row in table.split("\n")[2:])))
    for text in (corpus_format.metadata["help"], COMMANDS["convert"].description):
        listed = text.partition("recognised: ")[2].partition("gliner")[0]
        assert {*re.findall("[a-z-]+", listed), "gliner"} - {"or"} == set(FORMATS)


def test_columns_by_name(read):
    table = "nr,word,tag\n0,Olu,B-P\n0,hums,O\n1,Kano,B-L\n"
    names = {"tokens_column": "word", "tags_column": "tag"}
    assert read(table, ".csv", sentence_column="nr", **names)[0] == ANSWER
    assert read(table, ".csv", sentence_column=0, **names)[0] == ANSWER


def test_tags_that_are_numbers_count_in_the_labels(read):
    rows = '{"tokens": ["Olu", "hums"], "ner_tags": [1, 0]}\n{"tokens": ["Kano"], "ner_tags": [2]}\n'
    found, args = read(rows, ".jsonl", labels=["O", "B-P", "B-L"])
    assert found == ANSWER
    assert labels_of(args, load_data(args, splits=["train"])) == ["O", "B-P", "B-L"]
    with pytest.raises(ValueError, match=r"tag 1 is a number.*\(in recipes: labels\)"):
        read(rows, ".jsonl")
    with pytest.raises(ValueError, match="tag 2, but there are only 2 label names"):
        read(rows, ".jsonl", labels=["O", "B-P"])


def test_sentences_without_tags_are_trained_on_and_not_scored(read):
    rows = '{"tokens": ["Olu", "hums"], "tags": ["B-P", "O"]}\n{"tokens": ["Kano"], "tags": null}\n'
    assert read(rows, ".jsonl")[0] == [ANSWER[0], (["Kano"], None)]
    assert read(rows, ".jsonl", split="dev")[0] == ANSWER[:1]


def test_text_has_no_columns(tmp_path):
    (tmp_path / "ha.txt").write_text("Olu hums\n")
    (tmp_path / "ha.iob2").write_text(NUMBERED)
    for name, words in (("ha.txt", [["Olu", "hums"]]), ("ha.iob2", [["Olu", "hums"], ["Kano"]])):
        args = DataArguments("demo", unlabelled_corpus=str(tmp_path / name), tokens_column=1)
        assert load_unlabelled(args, ["ha"])["ha"]["tokens"] == words
    with pytest.raises(RecipeError, match="would give every language the same"):
        load_unlabelled(args, ["ha", "yo"])


TEXTS = [
    {"text": "สมชายไปกรุงเทพ", "label": [[0, 5, "P"], [7, 14, "L"]]},
    {"text": "กรุงเทพ", "label": [[0, 7, "L"]]},
]


def task(text, *spans):
    """As Label Studio exports it: offsets count UTF-16 units."""
    values = [{"start": start, "end": end, "text": own, "labels": [kind]} for start, end, own, kind in spans]
    result = [{"type": "labels", "from_name": "label", "to_name": "text", "value": value} for value in values]
    return {"data": {"text": text}, "annotations": [{"was_cancelled": False, "result": result}]}


TASKS = [
    task("\U0001f600王小明住在上海。", (2, 5, "王小明", "P"), (7, 9, "上海", "L")),
    task("上海很大。", (0, 2, "上海", "L")),
]


@pytest.mark.slow
def test_a_recipe_over_exports_trains_a_tagger_of_raw_text(tmp_path):
    """Danger: a model is trained on other words than its pipeline finds, or its offsets are not those of the text."""
    for split in ("train", "dev", "test"):
        (tmp_path / f"th.{split}.jsonl").write_text(
            "\n".join(json.dumps(row, ensure_ascii=False) for row in TEXTS * 4)
        )
        (tmp_path / f"zh.{split}.json").write_text(json.dumps(TASKS * 4))
    (tmp_path / "more.txt").write_text("สมชาย\n")
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    recipe = {
        "corpus": {"th": f"{tmp_path}/th.{{split}}.jsonl", "zh": f"{tmp_path}/zh.{{split}}.json"},
        "words": "characters",
        "teacher_model": "scratch",
        "teacher_model_config": shape,
        "teacher_num_train_epochs": 1,
        "baseline": False,
        "model": "scratch",
        "vocab_size": 120,
        "model_config": shape,
        "objective": "none",
        "num_train_epochs": 40,
        "learning_rate": 1e-2,
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
        "report_to": "none",
    }
    DistillationRun(Recipe.from_mapping(recipe)).run()
    pipe = pipeline("crf-token-classification", model=str(tmp_path / "out" / "student"))
    for text, answer in {
        "สมชาย ไปกรุงเทพ": [("P", "สมชาย"), ("L", "กรุงเทพ")],
        " \U0001f600 王小明\u3000住在上海。\n": [
            ("P", "王小明"),
            ("L", "上海"),
        ],  # the words of training, other blanks
        "上海\n很大。": [("L", "上海")],
    }.items():
        entities = pipe(text)["entities"]
        assert [(entity["entity_group"], text[entity["start"] : entity["end"]]) for entity in entities] == answer
    assert load_unlabelled(DataArguments(corpus="demo", unlabelled_corpus={"th": str(tmp_path / "more.txt")},
                                         words="characters"), ["th"])["th"]["tokens"] == [list("สมชาย")]  # fmt: skip
    other = {**recipe, "model_config": {**shape, "words": "rules"}, "output_dir": str(tmp_path / "o")}
    run = DistillationRun(Recipe.from_mapping(other))
    with pytest.raises(RecipeError, match=r"words: 'characters', but model_config says words: 'rules'"):
        run.run()
    with pytest.raises(RecipeError, match="unknown segmenter 'thai'"):
        Recipe.from_mapping({**recipe, "words": "thai"})


# Danger: a recipe's teachers read other neighbours than those of the document, or none without a word about it.


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer, labels):
    """Two languages: one with marked documents of three sentences, one without; plain text; and a teacher."""
    folder = tmp_path_factory.mktemp("context")
    for language, splits in load_corpora("demo", ["de", "en"], max_sentences=12).items():
        for split, data in splits.items():
            lines = []
            for number, (words, tags) in enumerate(zip(data["tokens"], data["tags"])):
                if language == "en" and number % 3 == 0:
                    lines += ["-DOCSTART- O", ""]
                lines += [*(f"{word} {tag}" for word, tag in zip(words, tags)), ""]
            (folder / f"{language}.{split}.conll").write_text("\n".join(lines))
        (folder / f"{language}.txt").write_text("\n".join(" ".join(words) for words in splits["train"]["tokens"]))
    draw_student(tokenizer, labels).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    return folder


def recipe_of(place, **changes):
    fields = {
        **{"languages": ["de", "en"], "corpus": str(place / "{language}.{split}.conll"), "objective": "posterior"},
        **{"teachers": str(place / "teacher"), "model": "scratch", "model_config": TINY, "vocab_size": 300},
        **{"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True, "annotation_context": 1},
        "documents": {"de": "source", "en": "marked"},
    }
    return Recipe.from_mapping({name: value for name, value in (fields | changes).items() if value is not None})


def test_a_recipes_teachers_read_the_neighbours(place, tmp_path):
    run = DistillationRun(
        recipe_of(
            place, output_dir=str(tmp_path), max_train_sentences=5, unlabelled_sentences=4, augmentation={"copies": 1}
        )
    )
    annotated = run.annotate()
    assert json.loads((tmp_path / "annotations" / "annotation.json").read_text())["context"]["sentences"] == 1
    documents = annotated["document"]
    assert documents[:10] == ["de/train"] * 5 + ["en/train/1"] * 3 + ["en/train/2"] * 2
    assert documents[10:18] == ["unlabelled/de/train"] * 4 + ["unlabelled/en/train/2"] + ["unlabelled/en/train/3"] * 3
    assert documents[18:] == [None] * 18  # rewritten sentences have no neighbours
    teacher = run.teachers()["en"]
    rows = annotated.to_list()[5:8]
    before, after = rows[0]["tokens"], rows[2]["tokens"]
    found = teacher.distribution([rows[1]["tokens"]], run.data.labels, [(before, after)]).marginals[0]
    assert abs(found.numpy(force=True) - rows[1]["teacher_marginals"]).max() < 1e-3


def test_a_text_is_one_document_where_the_recipe_says_so(place, tmp_path):
    recipe = recipe_of(
        place,
        corpus=None,
        unlabelled_corpus=str(place / "{language}.txt"),
        documents="source",
        output_dir=str(tmp_path),
    )
    run = DistillationRun(recipe)
    annotated = run.annotate()
    assert set(annotated["document"]) == {"de/unlabelled", "en/unlabelled"}
    own = annotated.select_columns(["tokens", "language", "document"])
    alone = annotate(
        own, run.teachers(), label_names=run.data.labels, targets=["teacher_marginals"], progress=False, context=1
    )
    assert alone["teacher_marginals"] == annotated["teacher_marginals"]


def test_a_run_with_context_ends_with_a_report(place, tmp_path):
    results = DistillationRun(recipe_of(place, output_dir=str(tmp_path))).run()
    assert set(results.scores["test"]) >= {"teachers", "posterior"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": None}, "annotation_context: say which sentences are neighbours"),
        ({"annotation_context": 0}, "documents.*annotation_context is 0"),
        ({"annotation_context": -1}, "annotation_context must be at least 0"),
        ({"documents": "marked"}, "language 'de'.*nothing marks documents"),
        ({"documents": {"fr": "source"}}, "documents names fr"),
    ],
)
def test_what_means_nothing_is_refused(place, tmp_path, changes, message):
    with pytest.raises((RecipeError, ValueError), match=message):
        DistillationRun(recipe_of(place, output_dir=str(tmp_path), **changes)).annotate()


# Dangers: a recipe that asks for glued words trains on words between blanks, tells nobody where blanks are unknown,
# or scores other pieces than those it trained on; answers of teachers that another reading of the words gave.


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
