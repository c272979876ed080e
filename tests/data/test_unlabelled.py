"""Dangers: gold that was to be hidden is learnt from all the same, or hiding it loses words, columns or names."""

import gzip
import json
import logging

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher, encode_corpus, load_corpus
from hf_structkd.data import default_words, sentence_splitters
from hf_structkd.data.sentence_splitters import get_splitter
from hf_structkd.data.source_text import CorpusError
from hf_structkd.data.unlabelled import has_any_gold, has_gold, hide_gold, load_sentences, mix_unlabelled, select_gold
from hf_structkd.modeling.segmenters import SegmenterError


def test_hidden_gold_is_gone_and_nothing_else(corpus, tokenizer, labels):
    hidden = hide_gold(corpus)
    assert hidden["tags"][:] == [None] * len(corpus)
    assert hidden.features == corpus.features
    assert hidden.column_names == corpus.column_names
    assert hidden["tokens"][:] == corpus["tokens"][:]
    assert corpus["tags"][0] is not None
    encoded = encode_corpus(hidden, tokenizer, labels)
    assert {label for row in encoded["labels"] for label in row} == {-100}


def test_class_labels_keep_their_names():
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-X"]))})
    data = Dataset.from_dict({"tokens": [["a"]], "ner_tags": [[1]]}, features=features)
    assert hide_gold(data).features == features
    mixed = mix_unlabelled(data, Dataset.from_dict({"tokens": [["b", "c"]]}))
    assert mixed.features == features
    assert mixed["ner_tags"][:] == [[1], None]


def test_mixing_takes_text_with_and_without_tags(corpus, tokenizer, labels):
    bare = Dataset.from_dict({"tokens": [["Anna", "flew"]], "language": ["en"], "source": ["web"]})
    mixed = mix_unlabelled(corpus.select(range(3)), [corpus.select(range(3, 5)), bare])
    assert mixed.column_names == corpus.column_names
    assert has_gold(mixed) == [True] * 3 + [False] * 3
    assert has_gold(encode_corpus(mixed, tokenizer, labels)) == [True] * 3 + [False] * 3
    assert has_gold(bare) == [False]


def test_corpora_that_cannot_be_mixed_are_named(corpus):
    with pytest.raises(ValueError, match="needs a column 'tokens'"):
        mix_unlabelled(corpus, Dataset.from_dict({"text": ["a b"]}))
    with pytest.raises(ValueError, match="labelled corpus has no tags"):
        mix_unlabelled(corpus.remove_columns("tags"), corpus)


class TestTokenised:
    """Danger: the tags of a tokenised corpus are in its labels too, and stay there when they are hidden."""

    @pytest.mark.parametrize("dropped", [[], ["tags"], ["tokens", "tags"]])
    def test_hidden_gold_is_gone(self, corpus, tokenizer, labels, dropped):
        encoded = encode_corpus(corpus, tokenizer, labels).remove_columns(dropped)
        hidden = hide_gold(encoded)
        assert not has_any_gold(hidden)
        assert has_gold(hidden) == [False] * len(corpus)
        assert hidden.features == encoded.features
        assert hidden.column_names == encoded.column_names
        assert hidden["input_ids"][:] == encoded["input_ids"][:]
        assert [len(row) for row in hidden["labels"]] == [len(row) for row in encoded["input_ids"]]
        assert has_any_gold(encoded)
        rows = [5, 1]
        assert hide_gold(encoded.select(rows))["input_ids"][:] == encoded.select(rows)["input_ids"][:]

    @pytest.mark.parametrize("dropped", [[], ["tokens", "tags"]])
    def test_mixing(self, corpus, tokenizer, labels, dropped):
        encoded = encode_corpus(corpus, tokenizer, labels).remove_columns(dropped)
        answered = encoded.select([7]).add_column("teacher_entropy", [0.5])
        mixed = mix_unlabelled(encoded.select(range(3)), [encoded.select([3, 4]), answered])
        assert has_gold(mixed) == [True] * 3 + [False] * 3
        assert mixed.features == encoded.features
        assert mixed["input_ids"][:] == encoded.select([0, 1, 2, 3, 4, 7])["input_ids"][:]
        bare = mix_unlabelled(encoded.select([0]), encoded.select([1]).remove_columns("labels"))
        assert has_gold(bare) == [True, False]
        assert len(bare[1]["labels"]) == len(bare[1]["input_ids"])
        for one, other in ((encoded, corpus), (corpus, encode_corpus(corpus, tokenizer, labels))):
            with pytest.raises(ValueError, match=r"all are tokenised .*, or none is"):
                mix_unlabelled(one, other)

    def test_only_what_has_gold_is_scored(self, corpus, caplog):
        mixed = mix_unlabelled(corpus.select([0, 1]), corpus.select([2]))
        assert select_gold(mixed)["tokens"][:] == corpus["tokens"][:2]
        assert "1 of 3 sentences have no gold tags and are not scored" in caplog.text
        assert select_gold(corpus) is corpus
        with pytest.raises(ValueError, match="none of the sentences has gold tags"):
            select_gold(hide_gold(corpus))


def arguments(folder, **fields):
    return StructKDTrainingArguments(
        output_dir=str(folder), num_train_epochs=2, per_device_train_batch_size=4, use_cpu=True, report_to="none",
        disable_tqdm=True, save_strategy="no", **fields,
    )  # fmt: skip


@pytest.fixture
def mixed(corpus):
    return mix_unlabelled(corpus.select(range(8)), corpus.select(range(8, 40)))


class CountingCollator:
    """Notes, for each sentence of each batch, whether it had gold, and which sentences had none."""

    def __init__(self, collator):
        self.collator, self.seen, self.unlabelled = collator, [], set()

    def __call__(self, features):
        self.seen.append([any(label != -100 for label in f["labels"]) for f in features])
        self.unlabelled |= {tuple(f["input_ids"]) for f, gold in zip(features, self.seen[-1]) if not gold}
        return self.collator(features)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_the_trainer_draws_at_the_rate(make_student, mixed, tokenizer, tmp_path, strategy):
    teacher = Teacher(make_student(seed=1), tokenizer)
    args = arguments(tmp_path, objective="posterior", unlabelled_rate=0.75, train_sampling_strategy=strategy)
    trainer = StructKDTrainer(make_student(), args, None, mixed, None, tokenizer, teachers=teacher)
    trainer.data_collator = collator = CountingCollator(trainer.data_collator)
    trainer.train()
    assert trainer.state.max_steps == 2 * 32 // 4
    for epoch in (collator.seen[:8], collator.seen[8:]):
        assert sum(map(sum, epoch)) == 8
        assert sum(map(len, epoch)) == 32
    # 24 of 32 an epoch: only if the sampler is told the epoch do two epochs see them all.
    assert len(collator.unlabelled) == len({tuple(words) for words in mixed["tokens"][8:]})


def test_without_a_rate_all_sentences_are_drawn_alike(make_student, mixed, tokenizer, tmp_path):
    teacher = Teacher(make_student(seed=1), tokenizer)
    args = arguments(tmp_path, objective="posterior")
    trainer = StructKDTrainer(make_student(), args, None, mixed, None, tokenizer, teachers=teacher)
    assert sorted(trainer._get_train_sampler()) == list(range(40))


def test_a_rate_out_of_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unlabelled_rate must be in \[0, 1\), not 1.5"):
        arguments(tmp_path, unlabelled_rate=1.5)


# Dangers: a document that is one sentence of 10,000 words, sentences without some of their text, other words on
# another machine and nothing that says so.


DOCUMENT = "Olu hums. Ade, of Kano, doesn't! \U0001f600 Why?\n\u200bBye."
LIBRARIES = {"icu": "icu", "spacy:en": "spacy", "pythainlp": "pycrfsuite"}


@pytest.fixture(params=LIBRARIES)
def splitter(request):
    package = LIBRARIES[request.param]
    pytest.importorskip(package, reason=f"needs {package}, of an extra of the package")
    return get_splitter(request.param)


def join(dataset):
    return [" ".join(words) for words in dataset["tokens"]]


class TestSplitters:
    @pytest.mark.parametrize("text", [DOCUMENT, "", " \n\u200b", "。。กรุง a\u0301\U0001f1e9\ufeff.\r\n!", "no end"])
    def test_every_visible_character_is_in_one_sentence(self, splitter, text):
        covered = "".join(text[start:end] for start, end in splitter(text))
        assert "".join(covered.split()).replace("\u200b", "") == "".join(text.split()).replace("\u200b", "")

    @pytest.mark.parametrize("name", ["icu", "spacy:en"])
    def test_sentences_are_those_of_the_text(self, name):
        pytest.importorskip(LIBRARIES[name], reason=f"needs {LIBRARIES[name]}, of an extra of the package")
        text = "Olu hums. Ade doesn't! Why?"
        sentences = [text[start:end].strip() for start, end in get_splitter(name)(text)]
        assert sentences == ["Olu hums.", "Ade doesn't!", "Why?"]

    def test_wrong_names_and_functions(self, monkeypatch):
        with pytest.raises(SegmenterError, match=r"unknown sentence splitter 'icu:de'. Did you mean 'icu'\?"):
            get_splitter("icu:de")
        with pytest.raises(SegmenterError, match="must be the name of a sentence splitter or a function, not int"):
            get_splitter(3)
        with pytest.raises(SegmenterError, match=r"the sentence splitter 'split' lost the character '\.' at 1"):
            get_splitter(_Named())("a. b")

        def missing(name):
            raise ModuleNotFoundError(f"No module named {name!r}")

        monkeypatch.setattr(sentence_splitters, "import_module", missing)
        sentence_splitters._named.cache_clear()
        for name, extra in {"icu": "icu", "spacy:de": "spacy", "pythainlp": "thai"}.items():
            with pytest.raises(SegmenterError, match=rf"pip install 'hf_structkd\[{extra}\]'"):
                get_splitter(name)
        sentence_splitters._named.cache_clear()

    def test_entry_points_add_splitters(self, monkeypatch):
        class Point:
            name = "halves"

            def load(self):
                return lambda text: [text[: len(text) // 2], text[len(text) // 2 :]]

        monkeypatch.setattr(sentence_splitters, "entry_points", lambda group: [Point()])
        sentence_splitters._named.cache_clear()
        assert get_splitter("halves")("abcd") == [(0, 2), (2, 4)]
        sentence_splitters._named.cache_clear()


class _Named:
    __name__ = "split"

    def __call__(self, text):
        return text.split(".")


def halves(text):
    middle = text.find("|") + 1
    return [text[:middle], text[middle:]] if middle else [text]


class TestDocuments:
    """Texts of several sentences, without tags."""

    def test_lines_of_a_file(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("Olu hums,|Ade doesn't.\n\nBye\n")
        assert join(load_sentences(path, language="en")) == ["Olu hums,|Ade doesn't.", "Bye"]
        split = load_sentences(path, language="en", sentences=halves)
        assert join(split) == ["Olu hums , |", "Ade does n't .", "Bye"]
        limited = load_sentences(path, language="en", sentences=halves, words="whitespace", max_sentences=1)
        assert join(limited) == ["Olu hums,|"]

    def test_texts_of_tables(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps({"text": "Olu hums,|Ade too."}))
        expected = ["Olu hums , |", "Ade too ."]
        assert join(load_sentences(path, language="en", sentences=halves)) == expected
        table = Dataset.from_dict({"text": ["Olu hums,|Ade too."]})
        assert join(load_sentences(table, language="en", sentences=halves)) == expected

    @pytest.mark.parametrize("name", ["a.conll", "a.conllu", "a.jsonl"])
    def test_sources_of_words_are_refused(self, tmp_path, name):
        content = {"a.jsonl": '{"tokens": ["Olu"]}', "a.conllu": "\t".join(["1", "Olu", *"_" * 8])}
        (tmp_path / name).write_text(content.get(name, "Olu O\n"))
        with pytest.raises(CorpusError, match="this source holds sentences of words: leave it out"):
            load_sentences(tmp_path / name, language="en", sentences=halves)

    def test_a_splitter_that_loses_text_names_the_line(self, tmp_path):
        (tmp_path / "a.txt").write_text("Olu\nAde. Bye\n")
        with pytest.raises(CorpusError, match=r"a.txt:2: the sentence splitter 'split' lost the character '\.'"):
            load_sentences(tmp_path / "a.txt", language="en", sentences=_Named())


THAI = {"text": "สมชายไปกรุงเทพ", "label": [[0, 5, "P"], [7, 14, "L"]]}


class TestDefaultWords:
    def test_icu_where_it_is_installed(self, tmp_path, caplog):
        pytest.importorskip("icu", reason="needs PyICU, the `icu` extra")
        (tmp_path / "a.jsonl").write_text(json.dumps(THAI))
        with caplog.at_level(logging.INFO):
            corpus = load_corpus(tmp_path / "a.jsonl", language="th")
        assert "its words of Thai" in caplog.text
        assert "words 'rules+icu' is the name" in caplog.text
        assert [w for w, t in zip(corpus["tokens"][0], corpus["tags"][0]) if t == "B-L"] == ["กรุงเทพ"]
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert default_words.default_words_of([corpus.select([]), corpus]) == "rules+icu"
        assert "the model stores words 'rules+icu'" in caplog.text

    def test_rules_and_a_warning_where_it_is_not(self, tmp_path, caplog, monkeypatch):
        monkeypatch.setattr(default_words, "find_spec", lambda name: None)
        (tmp_path / "a.jsonl").write_text(json.dumps({"text": "สมชาย ไป", "label": [[0, 5, "P"]]}))
        corpus = load_corpus(tmp_path / "a.jsonl", language="th")
        assert corpus["tokens"][0] == ["สมชาย", "ไป"]
        assert "because PyICU is not installed" in caplog.text
        assert default_words.default_words_of([corpus]) == "rules"
        assert "cannot tell them apart in raw text" in caplog.text

    def test_rules_for_other_scripts(self, caplog):
        corpora = [
            Dataset.from_dict({"tokens": [["Olu", "hums"], ["我", "爱"]]}),
            Dataset.from_dict({"tokens": [[], None]}),
        ]
        with caplog.at_level(logging.INFO):
            assert default_words.default_words_of(corpora) == "rules"
        assert not caplog.text


@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz"])
def test_what_was_taken_for_words_is_said(tmp_path, caplog, name):
    """Danger: raw text without `words` is cut at blanks alone, and "Lyon." is a word that no teacher knows."""
    raw, tokenised = "Anna Berg lives in Lyon.\nShe said: it rains, again!\n", "Anna Berg lives in Lyon .\n"
    pack = gzip.compress if name.endswith(".gz") else bytes

    def read(text: str, **options) -> list[list[str]]:
        caplog.clear()
        (tmp_path / name).write_bytes(pack(text.encode()))
        with caplog.at_level(logging.INFO):
            return list(load_sentences(tmp_path / name, language="en", **options)["tokens"])

    assert read(raw)[0][-1] == "Lyon."
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "40 % of these words are several, such as Lyon., said:, rains,, again!." in record.getMessage()
    assert "words='rules' (in recipes words: rules)" in record.getMessage()
    assert read(tokenised)[0][-1] == "."
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "each line is read as words between blanks" in caplog.text
    for options in ({"words": "rules"}, {"words": "whitespace"}):
        read(raw, **options)
        assert "between blanks" not in caplog.text
