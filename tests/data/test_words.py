"""Dangers: a word without subwords loses its tag, labels slip by one, a wrong tag is silently taken for another."""

import json
import logging
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, annotate, load_corpora, load_corpus
from hf_structkd.data.augmentation import Augmentation, augment
from hf_structkd.data.collator import DataCollatorForStructKD
from hf_structkd.data.columns import EDGE_COUNTS, MARGINALS, TOPK_LOG_PROBS, TOPK_TAGS
from hf_structkd.data.conllu import read_conllu
from hf_structkd.data.corpora import label_inventory
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.data.unlabelled import hide_gold
from hf_structkd.data.word_agreement import compare_words
from hf_structkd.data.words import encode_corpus, gold_tags, reorder_labels, subword_label_names, tag_column
from hf_structkd.modeling.words import split_words, tokenize_words

# What real text holds: zero-width and combining characters, no-break spaces, emoji, scripts the tokenizer never saw.
WORDS = st.text(alphabet=st.sampled_from("aB.9 ​‍́é中🙂ي️\x00­"), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(sentences=st.lists(st.lists(WORDS, min_size=1, max_size=6), min_size=1, max_size=3))
def test_every_word_has_exactly_one_first_subword(tokenizer, sentences):
    encoded = tokenize_words(sentences, tokenizer)
    for words, mask, ids in zip(sentences, encoded["word_mask"], encoded["input_ids"]):
        assert sum(mask) == len(words)
        assert len(mask) == len(ids)
        assert mask[0] == mask[-1] == 0  # special tokens


def test_subwords_of_a_series_in_its_order(tokenizer):
    sentences = [["Olu", "hums", "here"], ["Bay"], ["no", "one"]]
    series = pd.Series([pd.Series(words, index=range(1, len(words) + 1)) for words in sentences], index=[2, 0, 1])
    assert tokenize_words(series, tokenizer) == tokenize_words(sentences, tokenizer)


def test_a_word_that_tokenises_to_nothing_becomes_the_unknown_token(tokenizer):
    ids = tokenize_words([["Anna", "", "Paris"]], tokenizer)
    assert tokenizer.unk_token_id in ids["input_ids"][0]
    assert sum(ids["word_mask"][0]) == 3


def test_nothing_is_truncated(tokenizer):
    words = ["Boston"] * 5000
    assert sum(tokenize_words([words], tokenizer)["word_mask"][0]) == 5000


def test_a_sentence_without_words_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="sentence 1 has no words"):
        tokenize_words([["a"], []], tokenizer)


def test_labels_stand_on_first_subwords_in_order(tokenizer, labels, corpus):
    for row in encode_corpus(corpus, tokenizer, labels):
        on_words = [label for label, first in zip(row["labels"], row["word_mask"]) if first]
        assert [labels[label] for label in on_words] == row["tags"]
        assert all(label == -100 for label, first in zip(row["labels"], row["word_mask"]) if not first)


def test_class_labels_are_read_by_name_not_by_number(tokenizer, labels, corpus):
    names = list(reversed(labels))
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
    data = Dataset.from_dict(
        {"tokens": corpus["tokens"], "ner_tags": [[names.index(tag) for tag in tags] for tags in corpus["tags"]]},
        features=features,
    )
    assert encode_corpus(data, tokenizer, labels)["labels"] == encode_corpus(corpus, tokenizer, labels)["labels"]


def test_missing_tags_make_an_unlabelled_sentence(tokenizer):
    data = Dataset.from_dict({"tokens": [["a", "b"], ["c"]], "tags": [["O", "O"], None]})
    encoded = encode_corpus(data, tokenizer, ["O"])
    assert any(label == 0 for label in encoded[0]["labels"])
    assert all(label == -100 for label in encoded[1]["labels"])
    without = encode_corpus(data.remove_columns("tags"), tokenizer, ["O"])
    assert all(label == -100 for row in without["labels"] for label in row)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"tokens": [["a", "b"]], "tags": [["O", "B-X"]]},
            r"row 0: tag 'B-X' is not among the model's labels \['O'\]",
        ),
        ({"tokens": [["a", "b"]], "tags": [["O"]]}, "row 0 has 2 tokens and 1 tags"),
        ({"text": ["a b"]}, "needs a column 'tokens'"),
    ],
)
def test_bad_rows_are_named(tokenizer, columns, message):
    with pytest.raises(ValueError, match=message):
        encode_corpus(Dataset.from_dict(columns), tokenizer, ["O"])


def named(names, **columns):
    features = {name: List(Value("string")) for name in columns}
    if names:
        features["ner_tags"] = List(ClassLabel(names=names))
    return Dataset.from_dict(columns, features=Features(features))


class TestWhereTagsAre:
    @pytest.mark.parametrize(
        "column", ["tags", "ner_tags", "labels", "ner", "tag", "pos_tags", "upos", "label", "pos"]
    )
    def test_every_usual_name_is_seen(self, tokenizer, column):
        """`labels`, `ner` and `tag` were not: the corpus was trained on as if it had no tags."""
        data = Dataset.from_dict({"tokens": [["a", "b"]], column: [["O", "B-X"]]})
        assert tag_column(data) == column
        assert [label for label in encode_corpus(data, tokenizer, ["O", "B-X"])[0]["labels"] if label >= 0] == [0, 1]
        assert label_inventory(data) == ["O", "B-X"]

    def test_nobody_guesses(self):
        both = Dataset.from_dict({"tokens": [["a"]], "ner_tags": [["O"]], "pos_tags": [["X"]]})
        with pytest.raises(ValueError, match=r"several columns .* the tags \(ner_tags, pos_tags\).*remove_columns"):
            tag_column(both)
        with pytest.raises(ValueError, match=r"'tags' holds .*string.* where lists of tags are meant"):
            tag_column(Dataset.from_dict({"tokens": [["a", "b"]], "tags": ["O B-X"]}))
        strange = named(["O", "B-X"], tokens=[["a"]], ner_tags=[[1]]).rename_column("ner_tags", "chunks")
        with pytest.raises(ValueError, match=r"'chunks' holds class labels.*rename_column"):
            tag_column(strange)
        numbers = Dataset.from_dict({"tokens": [["a"]], "tags": [[1]]})
        with pytest.raises(ValueError, match="1 and the like, and nothing names them"):
            label_inventory(numbers)

    def test_a_class_of_the_whole_sentence_is_no_tag(self):
        assert tag_column(Dataset.from_dict({"tokens": [["a"]], "tags": [["O"]], "label": [3]})) == "tags"
        assert tag_column(Dataset.from_dict({"tokens": [["a"]], "label": [3]})) is None
        assert tag_column(Dataset.from_dict({"tokens": [["a"]], "lemmas": [["a"]]})) is None


class TestTextsInPlaceOfWords:
    @pytest.mark.parametrize("use", [encode_corpus, augment, annotate], ids=lambda use: use.__name__)
    def test_no_text_is_cut_into_letters(self, tokenizer, use):
        options = {
            encode_corpus: {"tokenizer": tokenizer, "label_names": ["O"]},
            augment: {"augmentation": Augmentation(), "tokenizer": tokenizer},
            annotate: {"teachers": {}, "label_names": ["O"], "targets": []},
        }[use]
        texts = Dataset.from_dict({"tokens": ["Olu hums"], "tags": [["O", "O"]]})
        with pytest.raises(ValueError, match="'tokens' holds texts where lists of words are meant: split them"):
            use(texts, **options)
        with pytest.raises(ValueError, match="a corpus needs a column 'tokens' with lists of words"):
            use(texts.rename_column("tokens", "text"), **options)
        stream = Dataset.from_dict({"tokens": [["Olu"]]}).to_iterable_dataset()
        with pytest.raises(ValueError, match=r"a stream .*stream\.take"):
            use(stream, **options)

    @pytest.mark.parametrize("words", [None, []])
    def test_sentences_without_words_are_named(self, tokenizer, words):
        data = Dataset.from_dict({"tokens": [["a"], words]})
        with pytest.raises(ValueError, match="row 1 has no words"):
            encode_corpus(data, tokenizer, ["O"])
        with pytest.raises(ValueError, match="row 1 has no words"):
            augment(data, Augmentation(vocabulary_rate=0))
        with pytest.raises(ValueError, match="row 0: None is no word"):
            encode_corpus(Dataset.from_dict({"tokens": [["a", None]]}), tokenizer, ["O"])


class TestLabelsOfATokenisedCorpus:
    """Danger: labels are numbers, and a model that counts them otherwise learns other tags."""

    DATA: ClassVar = {"tokens": [["a", "b", "c"], ["d"]], "tags": [["B-X", "O", "B-Y"], None]}

    def test_names_travel_with_them(self, tokenizer, tmp_path):
        names = ["O", "B-Y", "B-X"]
        encoded = encode_corpus(Dataset.from_dict(self.DATA), tokenizer, names)
        kept = encoded.remove_columns(["tokens", "tags"])
        kept = concatenate_datasets([kept, kept]).select([3, 0]).map(lambda row: {"more": 1}).filter(lambda row: True)
        kept.save_to_disk(tmp_path / "kept")
        kept = load_from_disk(tmp_path / "kept")
        assert subword_label_names(kept) == names
        assert [[n for n in row if n >= 0] for row in kept["labels"]] == [[], [2, 0, 1]]
        assert subword_label_names(encoded.cast_column("labels", List(Value("int64")))) is None
        with pytest.raises(ValueError, match="aligned"):
            concatenate_datasets([encoded, encode_corpus(Dataset.from_dict(self.DATA), tokenizer, names[::-1])])

    def test_they_are_counted_as_the_model_counts(self, tokenizer):
        names, other = ["O", "B-Y", "B-X"], ["B-X", "O", "B-Z", "B-Y"]
        encoded = encode_corpus(Dataset.from_dict(self.DATA), tokenizer, names)
        same = reorder_labels(encoded.add_column("teacher_entropy", [0.5, 0.25]), other)
        assert subword_label_names(same) == other
        assert same.column_names == [*encoded.column_names, "teacher_entropy"]
        assert same["teacher_entropy"][:] == [0.5, 0.25]
        assert same["labels"][:] == encode_corpus(Dataset.from_dict(self.DATA), tokenizer, other)["labels"][:]
        assert reorder_labels(encoded, names) is encoded
        with pytest.raises(ValueError, match=r"row 0 .*label 'B-Y', which is not among the model's labels"):
            reorder_labels(encoded, ["O", "B-X"])
        assert reorder_labels(encoded.select([1]), ["O", "B-X"])["labels"][:] == encoded.select([1])["labels"][:]

    @pytest.mark.parametrize("text", [True, False])
    def test_a_trainer_learns_the_tags_that_were_meant(self, corpus, tokenizer, labels, make_student, tmp_path, text):
        other = encode_corpus(corpus, tokenizer, list(reversed(labels)))
        if not text:
            other = other.remove_columns(["tokens", "tags"])
        args = StructKDTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", objective="none")
        trainer = StructKDTrainer(make_student(), args, None, other, {"dev": other}, tokenizer)
        wanted = encode_corpus(corpus, tokenizer, labels)["labels"][:]
        assert trainer.train_dataset["labels"][:] == trainer.eval_dataset["dev"]["labels"][:] == wanted
        with pytest.raises(ValueError, match="not among the model's labels"):
            StructKDTrainer(make_student(), args, None, encode_corpus(corpus, tokenizer, ["Z", *labels]).map(
                lambda row: {"labels": [max(n, 0) if n > -100 else n for n in [0, *row["labels"][1:]]]}
            ), None, tokenizer)  # fmt: skip


def test_gold_alone_needs_gold(corpus, tokenizer, make_student, tmp_path):
    """Loss 0 and F1 0, without a word, where the tags stood under a name that nobody looked for."""
    args = StructKDTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", objective="none")
    for data in (corpus.rename_column("tags", "bio"), hide_gold(corpus)):
        with pytest.raises(ValueError, match=r"objective 'none' learns from gold tags alone.*columns tags, ner_tags"):
            StructKDTrainer(make_student(), args, None, data, None, tokenizer)
    with pytest.raises(ValueError, match="a corpus needs a column 'tokens'"):
        StructKDTrainer(make_student(), args, None, corpus.rename_column("tokens", "words"), None, tokenizer)


@pytest.mark.parametrize("form", ["numpy", "torch"])
def test_a_tokenised_corpus_of_arrays_is_counted_anew_too(tokenizer, form):
    corpus = Dataset.from_dict({"tokens": [["Olu", "hums"], ["no"]], "tags": [["B-X", "O"], ["O"]]})
    encoded = encode_corpus(corpus, tokenizer, ["B-X", "O"])
    wanted = encode_corpus(corpus, tokenizer, ["O", "B-X"])["labels"][:]
    assert reorder_labels(encoded.with_format(form), ["O", "B-X"]).with_format(None)["labels"][:] == wanted


def test_gold_tags_are_read_by_name_however_they_are_stored():
    """Each reader of gold tags once did this for itself; -1 is no last label, and numbers are no names."""
    names, tokens = ["O", "B-LOC"], [["Oslo", "calls"], ["Rain", "falls"], ["So", "what"]]
    stored = {"tokens": tokens, "tags": [[1, 0], None, [-100, -1]]}
    numbers = Dataset.from_dict(
        stored, Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=names))})
    )
    assert list(gold_tags(numbers)) == [["B-LOC", "O"], None, [-100, -1]]
    assert list(gold_tags(Dataset.from_dict({"tokens": tokens[:1], "tags": [["B-LOC", "O"]]}))) == [["B-LOC", "O"]]
    assert list(gold_tags(numbers.remove_columns("tags"))) == [None, None, None]


# Dangers: a tagger learns other words than its pipeline makes of the same text, and nothing says so; words that are
# placed elsewhere in their text; words that count as glued where a blank stands.


SENTENCE = """\
# text = Va al mar, can't!
1\tVa\t_\tV\t_\t_\t_\t_\t_\t_
2-3\tal\t_\t_\t_\t_\t_\t_\t_\t_
2\ta\t_\tP\t_\t_\t_\t_\t_\t_
3\tel\t_\tD\t_\t_\t_\t_\t_\t_
4\tmar\t_\tN\t_\t_\t_\t_\t_\tSpaceAfter=No
5\t,\t_\tX\t_\t_\t_\t_\t_\t_
6-7\tcan't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
6\tca\t_\tV\t_\t_\t_\t_\t_\t_
7\tn't\t_\tX\t_\t_\t_\t_\t_\t_
8\t!\t_\tX\t_\t_\t_\t_\t_\t_
"""


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "a.conllu"
        path.write_text(content)
        return next(read_conllu(path))

    return read


class TestConlluTexts:
    def test_words_are_placed_in_their_text(self, read):
        sentence = read(SENTENCE)
        assert sentence.text == "Va al mar, can't!"
        placed = [place and sentence.text[slice(*place)] for place in sentence.offsets]
        assert placed == ["Va", None, None, "mar", ",", "ca", "n't", "!"]
        assert [word for word, glued in zip(sentence.tokens, sentence.glued) if glued] == [",", "n't", "!"]

    def test_blanks_that_misc_tells(self, read):
        """Without a text, SpaceAfter=No makes one; a file without either says nothing."""
        sentence = read(SENTENCE.partition("\n")[2])
        assert sentence.text == "Va al mar, can't!"
        assert [word for word, glued in zip(sentence.tokens, sentence.glued) if glued] == [",", "n't", "!"]
        silent = read(SENTENCE.partition("\n")[2].replace("SpaceAfter=No", "_"))
        assert (silent.text, silent.glued) == (None, None)

    def test_a_text_of_other_words(self, read, caplog):
        sentence = read(SENTENCE.replace("mar,", "marx,"))
        assert (sentence.text, sentence.glued) == (None, None)

    def test_it_is_said(self, tmp_path, caplog):
        path = tmp_path / "a.conllu"
        path.write_text(SENTENCE.replace("mar,", "marx,"))
        load_corpus(path, language="es")
        assert f"the words of 1 sentence(s) are not those of their '# text' comment, first at {path}:2" in caplog.text


class TestAgreement:
    def test_the_share_and_examples(self, read):
        agreement = compare_words([read(SENTENCE)], split_words)
        assert (agreement.sentences, agreement.words, agreement.same) == (1, 8, 6)
        assert agreement.examples == [("a", "not in the text")]

    def test_it_is_logged_once_per_language(self, tmp_path, caplog):
        for split in ("train", "dev"):
            (tmp_path / f"{split}.conllu").write_text(SENTENCE)
        measured: dict = {}
        sources = {"es": {s: tmp_path / f"{s}.conllu" for s in ("train", "dev")}}
        load_corpora(sources, splits=["train", "dev"], measure_words=measured)
        summary = {"segmenter": "rules", "share": 0.75, "words": 8, "sentences": 1}
        assert measured["es"].summary() == summary
        assert caplog.text.count("the words 'rules' find 75.0 % of 8 words ('a' is 'not in the text')") == 1
        caplog.clear()
        load_corpus(tmp_path / "dev.conllu", language="es", measure_words=False)
        assert "75.0 %" not in caplog.text

    def test_words_of_a_tool(self, tmp_path, caplog):
        tokens = [{"text": "Olu-Ade", "start": 0, "end": 7}, {"text": ".", "start": 7, "end": 8}]
        row = {"text": "Olu-Ade.", "spans": [], "tokens": tokens}
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps(row))
        with caplog.at_level(logging.INFO):
            load_corpus(path, language="xx")
        assert "the words 'rules' find 100.0 % of 2 words" in caplog.text
        load_corpus(path, language="xx", words="characters")
        assert "the words 'characters' find 50.0 % of 2 words ('Olu-Ade' is 'O l u - A d e')" in caplog.text
        assert "WARNING" in caplog.text

    def test_words_of_the_segmenter_itself_say_nothing(self, tmp_path, caplog):
        (tmp_path / "a.jsonl").write_text(json.dumps({"text": "Olu.", "spans": []}))
        with caplog.at_level(logging.INFO):
            load_corpus(tmp_path / "a.jsonl", language="xx")
        assert " find " not in caplog.text


# The tokenizer trained for languages without an encoder: XLM-R's shape, words recoverable, always the same.


@pytest.fixture(scope="module")
def sentences():
    return [tokens for language in ("en", "ru", "hi") for tokens in load_demo_corpus(language, "dev")["tokens"]]


@pytest.fixture(scope="module")
def trained(sentences):
    return train_tokenizer(sentences, vocab_size=800, model_max_length=128)


def test_shape(trained):
    assert trained.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert trained.mask_token_id == len(trained) - 1
    assert len(trained) <= 800
    assert trained.model_max_length == 128
    ids = trained(["Hallo"], is_split_into_words=True)["input_ids"]
    assert (ids[0], ids[-1]) == (0, 2)


def test_words_are_recoverable(trained, sentences):
    """Labels are aligned through word_ids(): every word needs at least one piece, in order."""
    for words in sentences:
        encoding = trained(words, is_split_into_words=True)
        assert list(dict.fromkeys(i for i in encoding.word_ids() if i is not None)) == list(range(len(words)))


def test_same_words_same_tokenizer(sentences, trained, tmp_path):
    again = train_tokenizer(iter(sentences), vocab_size=800, model_max_length=128)
    assert again.backend_tokenizer.to_str() == trained.backend_tokenizer.to_str()
    trained.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    words = ["नई", "दिल्ली", "Москва", "(", "xyz", "\u4e2d"]
    expected = trained(words, is_split_into_words=True)
    for other in (again, loaded):
        encoding = other(words, is_split_into_words=True)
        assert (encoding.word_ids(), encoding["input_ids"]) == (expected.word_ids(), expected["input_ids"])


def test_refuses(sentences):
    with pytest.raises(ValueError, match="No sentences"):
        train_tokenizer([], 100)
    with pytest.raises(ValueError, match="too small"):
        train_tokenizer(sentences, 20)


def test_offsets_into_raw_text_are_those_of_the_words(trained):
    """Danger: an entity of the stock pipeline that begins with the space before it."""
    text = "Ada  lives in Amsterdam"
    encoding = trained(text, return_offsets_mapping=True, add_special_tokens=False)
    covered = {place for start, end in encoding["offset_mapping"] for place in range(start, end)}
    assert covered == {place for place, character in enumerate(text) if character != " "}
    words = trained(text.split(), is_split_into_words=True, add_special_tokens=False)
    assert encoding["input_ids"] == words["input_ids"]


# Danger: padding that counts, as a label, a word, or a teacher's answer.


def feature(words: int, answered: bool = True, k: int = 2, tags: int = 3) -> dict:
    row = {
        "input_ids": [0, *range(10, 10 + words), 2],
        "attention_mask": [1] * (words + 2),
        "word_mask": [0, *[1] * words, 0],
        "labels": [-100, *[1] * words, -100],
        MARGINALS: np.full((words, tags), 1 / tags, dtype=np.float16),
        EDGE_COUNTS: np.full((tags, tags), (words - 1) / tags**2),
        TOPK_TAGS: np.ones((k, words), dtype=np.int16),
        TOPK_LOG_PROBS: np.full(k, -1.0, dtype=np.float32),
    }
    return row if answered else {name: None if name.startswith("teacher") else value for name, value in row.items()}


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_kind_is_padded_its_own_way(tokenizer, side, monkeypatch):
    monkeypatch.setattr(tokenizer, "padding_side", side)
    batch = DataCollatorForStructKD(tokenizer, num_tags=3)([feature(4), feature(2, k=1), feature(3, answered=False)])
    assert batch["input_ids"].shape == batch["labels"].shape == (3, 6)
    padding = batch["attention_mask"] == 0
    assert (batch["labels"][padding] == -100).all()
    assert not batch["word_mask"][padding].any()
    assert (batch["input_ids"][padding] == tokenizer.pad_token_id).all()
    assert batch["word_mask"].sum(dim=1).tolist() == [4, 2, 3]
    assert batch[MARGINALS].shape == (3, 4, 3)
    assert batch[MARGINALS].sum(dim=(1, 2)).tolist() == pytest.approx([4, 2, 0], abs=1e-2)
    assert batch[TOPK_TAGS].shape == (3, 2, 4)
    assert (batch[TOPK_TAGS][1, 1] == -100).all()
    assert batch[TOPK_LOG_PROBS][1].tolist() == [-1.0, float("-inf")]
    assert (batch[TOPK_LOG_PROBS][2] == float("-inf")).all()
    assert batch[EDGE_COUNTS][2].sum() == 0
    assert batch[TOPK_TAGS].dtype == torch.long


def test_targets_are_as_wide_as_the_widest_sentence_even_if_it_has_none(tokenizer):
    batch = DataCollatorForStructKD(tokenizer)([feature(5, answered=False), feature(2)])
    assert batch[MARGINALS].shape[1] == 5


def test_answers_for_another_label_set_are_refused(tokenizer):
    with pytest.raises(ValueError, match="teacher_marginals has 3 tags where the student has 7"):
        DataCollatorForStructKD(tokenizer, num_tags=7)([feature(2)])


def test_subwords_are_rounded_up_on_request(tokenizer):
    assert DataCollatorForStructKD(tokenizer, pad_to_multiple_of=8)([feature(7)])["input_ids"].shape == (1, 16)
