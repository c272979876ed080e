"""Dangers: columns hold other sentences than a reader gave, equal files make unequal datasets, memory runs full."""

import gzip
import json
import logging
import pickle
import random

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value, concatenate_datasets
from datasets.fingerprint import Hasher
from torch.utils.data import DataLoader

from hf_structkd import CRFTokenClassificationPipeline, tag_dataset
from hf_structkd.data import column_files, readers, sentence_table, source_text, sources
from hf_structkd.data.collator import DataCollatorForStructKD
from hf_structkd.data.columns import (
    ANNOTATED_TYPES,
    TARGET_COLUMNS,
    ArrayRows,
    column_lengths,
    column_values,
    labels_key,
)
from hf_structkd.data.corpora import load_corpus, read_sentences
from hf_structkd.data.sentence_table import SentenceTable
from hf_structkd.data.source_text import CorpusError, RawSentence
from hf_structkd.data.sources import ReadingOptions
from hf_structkd.data.unlabelled import load_sentences
from tests.conftest import label_fields


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(sentence_table, "BATCH", 3)


def drawn(count: int) -> list[RawSentence]:
    """Sentences with all that a reader can know, or only some of it."""
    draw = random.Random(0)
    sentences = []
    for number in range(count):
        words = [draw.choice(["Olu", "ສະບາຍ", "木", "a b"]) for _ in range(draw.randint(1, 4))]
        tags = None if draw.random() < 0.3 else [draw.choice(["O", "B-P", "I-P"]) for _ in words]
        sentence = RawSentence(words, tags, "made")
        kind = draw.randrange(4)
        if kind == 0:
            sentence.lines = list(range(number * 10, number * 10 + len(words)))
        elif kind == 1:
            sentence.lines = [number * 10 + 2 * i for i in range(len(words))]
        else:
            sentence.row = f":{number}"
        if draw.random() < 0.5:
            sentence.text = "".join(words)
            sentence.offsets = [(0, 1) if draw.random() < 0.7 else None for _ in words]
            sentence.glued = [draw.random() < 0.5 for _ in words]
            sentence.own_words = draw.random() < 0.5
        sentence.annotated_types = draw.choice([None, [], ["P"]])
        sentence.document = draw.choice([None, "1"])
        sentences.append(sentence)
    return sentences


def comparable(sentence: RawSentence) -> RawSentence:
    sentence.lines, sentence.offsets = list(sentence.lines), list(sentence.offsets)
    return sentence


def test_a_table_gives_the_sentences_that_it_was_given(small_batches):
    given = drawn(40)
    table = SentenceTable(iter(given))
    assert [comparable(sentence) for sentence in table] == list(map(comparable, given))
    assert [comparable(table[row]) for row in range(-40, 40)] == given + given
    assert list(table.tags()) == [sentence.tags for sentence in given]
    assert table.num_tagged == sum(sentence.tags is not None for sentence in given)
    with pytest.raises(IndexError):
        table[40]


def test_only_so_many_texts_are_kept(small_batches):
    given = drawn(40)
    kept = list(SentenceTable(given, texts=4).with_texts())
    assert [s.text for s in kept] == [s.text for s in given if s.text is not None][:4]
    assert not list(SentenceTable(given, texts=0).with_texts())


def test_tags_are_renamed_and_rewritten_in_their_places(small_batches):
    given = drawn(40)
    table = SentenceTable(given)
    table.rename_tags({"O": "O", "B-P": "B-Q", "I-P": "B-Q"})  # two become one
    assert table.tag_set == {"O", "B-Q"}
    table.rewrite_tags(lambda row, tags: [f"{row}:{tag}" for tag in tags])
    read = {"O": "O", "B-P": "B-Q", "I-P": "B-Q"}
    wanted = [s.tags and [f"{row}:{read[tag]}" for tag in s.tags] for row, s in enumerate(given)]
    assert list(table.tags()) == wanted
    assert [sentence.tags for sentence in table] == wanted
    assert [row for batch in table.arrow_batches() for row in batch["tags"].to_pylist()] == wanted


def test_a_rewriting_that_fails_changes_nothing(small_batches):
    table = SentenceTable(drawn(10))
    before = list(table.tags())
    with pytest.raises(ZeroDivisionError):
        table.rewrite_tags(lambda row, tags: tags if row < 5 else 1 / 0)
    assert list(table.tags()) == before


@pytest.mark.parametrize("other", ["Olu\tB-P\n\nthe\tO\nend\tO\n\n", None])
def test_fingerprints_tell_contents_apart_and_nothing_else(tmp_path, other):
    """`datasets.map` finds stored results by it: equal contents must be found, others never."""
    text = "Olu\tB-P\nsings\tO\n\nthe\tO\nend\tO\n\n"
    (tmp_path / "a.conll").write_text(text)
    (tmp_path / "b.conll").write_text(other or text)
    one, two = (load_corpus(tmp_path / f"{name}.conll", language="en") for name in "ab")
    assert (one._fingerprint == two._fingerprint) == (other is None)
    assert (Hasher.hash(one) == Hasher.hash(two)) == (other is None)
    assert load_corpus(tmp_path / "a.conll", language="fr")._fingerprint != one._fingerprint


def test_texts_that_nobody_compares_are_not_read_into_memory(tmp_path, small_batches):
    (tmp_path / "a.jsonl").write_text('{"text": "Olu sings", "label": [[0, 3, "P"]]}\n' * 9)
    without = read_sentences(tmp_path / "a.jsonl", "en", None, ReadingOptions(), texts=0)
    whole = read_sentences(tmp_path / "a.jsonl", "en", None, ReadingOptions())
    assert not without.any_value("text")
    assert all(sentence.text == "Olu sings" for sentence in whole)


@pytest.mark.parametrize("load", [load_corpus, load_sentences])
def test_max_sentences_stops_before_the_rest_of_a_packed_file(tmp_path, load):
    """The rest is damaged: who reads it fails. (Column files are read some lines ahead.)"""
    lines = "".join(f"w{random.Random(i).random()}\tO\n\n" for i in range(60_000))
    packed = gzip.compress(lines.encode())
    (tmp_path / "a.conll.gz").write_bytes(packed[: len(packed) * 2 // 3])
    assert len(load(tmp_path / "a.conll.gz", language="en", max_sentences=50)) == 50
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "a.conll.gz", language="en")


# Lines of which each ends, begins or breaks a sentence, or is a word of it, in a way of its own.
ODD_LINES = [
    b"", b"", b"", b"\r", b" ", b"\t ",
    b"-DOCSTART- -X- O", b"-DOCSTART-\tO", b"# a comment", b"#", b"#\tO", b"# O", b"#hash\tB-P",
    b"Olu\tB-P ", b" Olu\tO", b"Olu\t", b"\tO", b"Olu", b"Olu\tX\tO", b"a  O", b"I\tI-P",
    b"\xc2\xa0\tO", b"\xe3\x80\x80 O", b"\xe2\x80\xa8x\tO", b"\x1c\tO", b"nul\0\tO", b"\xff\tO",
    b"[1]\t[2]", b"[1]\tO", b"Olu\tO\r\r", b"O\rlu\tO",
]  # fmt: skip


@pytest.fixture
def both_ways(monkeypatch, caplog):
    """Reads a source by columns and one sentence after another; the results have to be the same."""
    caplog.set_level(logging.INFO)
    for module, name in ((readers, "_ROWS_AT_ONCE"), (sources, "_ROWS_AT_ONCE"), (column_files, "_LOOK_AHEAD")):
        monkeypatch.setattr(module, name, 4)
    monkeypatch.setattr(source_text, "_FIRST_PART", 8)
    monkeypatch.setattr(source_text, "_PART", 60)
    made = []

    def read(source, **options):
        caplog.clear()
        try:
            table = read_sentences(source, "en", None, ReadingOptions(), **options)
            result = [comparable(s) for s in table], load_corpus(source, language="en", **options)._fingerprint
        except CorpusError as error:
            result = str(error)
        return result, [record.getMessage() for record in caplog.records]

    def checked(source, **options):
        fast = read(source, **options)
        with monkeypatch.context() as context:
            for module in (column_files, readers, sources):
                for name in ("columns_of_lines", "columns_of_lists"):
                    if function := getattr(module, name, None):
                        made.append(function)
                        context.setattr(module, name, lambda *_: None)
            assert fast == read(source, **options)
        return fast[0]

    return checked


@pytest.mark.parametrize("separator", [b"\t", b" "])
def test_a_file_is_read_by_columns_as_it_is_line_by_line(tmp_path, both_ways, small_batches, separator):
    draw, read, refused = random.Random(1), 0, 0
    for number in range(150):
        lines = []
        for _ in range(draw.randint(4, 60)):
            if draw.random() < (0.04 if number % 2 else 0.004):
                lines.append(draw.choice(ODD_LINES[6:]))
            elif draw.random() < 0.2:
                lines.append(draw.choice(ODD_LINES[:6]))
            else:
                word = draw.choice(["Olu", "ສະບາຍ", "木", "a", "#", "100"]).encode()
                lines.append(word + separator + draw.choice([b"O", b"O", b"B-P", b"I-P"]))
        end = draw.choice([b"\n", b"\n", b"\r\n"])
        path = tmp_path / f"{number}.conll"
        path.write_bytes(end.join([b"Olu" + separator + b"O", *lines]) + draw.choice([b"", end]))
        for limit in (None, 3):
            result = both_ways(path, max_sentences=limit)
            read, refused = read + isinstance(result, tuple), refused + isinstance(result, str)
    assert min(read, refused) > 20, "both kinds are compared"


ODD_ROWS = [
    {"tokens": []}, {"tokens": None}, {"tokens": ["a"]}, {"tokens": "Olu"}, {"tokens": ["a", 5]}, {"tokens": [1, 2]},
    {"tokens": ["a", None]}, {"tokens": ["a", ""]}, {"tokens": ["a", " "]}, {"tokens": ["a", "\u3000"]},
    {"tokens": ["a", "\x1c"]}, {"tokens": ["a", "\0"]}, {"tokens": ["a", "\ud800"]},
    {"tags": None}, {"tags": "O"}, {"tags": ["O", 1]}, {"tags": [0, 1]}, {"tags": [True, False]},
    {"tags": ["O", "\0"]}, {"tags": ["O", None]}, {"tags": ["O", ""]}, {"tags": ["O", "O", "O"]},
    {"document": "d"}, {"annotated_types": ["P"]}, {"ner_tags": ["O", "O"]}, {"note": 1},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "dataset"])
def test_rows_are_read_by_columns_as_they_are_one_by_one(tmp_path, both_ways, small_batches, kind):
    draw, read, refused = random.Random(2), 0, 0
    for number in range(80):
        rows = [
            {"tokens": ["Olu", "木"], "tags": ["B-P", draw.choice(["O", "I-P"])]} for _ in range(draw.randint(3, 20))
        ]
        if draw.random() < 0.6:
            rows[draw.randrange(1, len(rows))] |= draw.choice(ODD_ROWS)
        path = tmp_path / f"{number}.{kind}"
        source = path
        if kind == "jsonl":
            path.write_text("\n".join([json.dumps(row) for row in rows] + ["{"] * (draw.random() < 0.2)))
        elif kind == "json":
            path.write_text(json.dumps(rows))
        else:
            try:
                source = Dataset.from_list(rows)
            except Exception:  # what a table cannot hold at all
                continue
            if kind == "parquet":
                source.select(range(2, len(source))).to_parquet(path)
                source = path
        result = both_ways(source, max_sentences=draw.choice([None, 7]))
        read, refused = read + isinstance(result, tuple), refused + isinstance(result, str)
    assert read > 10
    assert refused > 3


# Danger: a column that is read by batches, or as arrays, differs from the same column read row by row.


ROWS = [["a", "b"], [], None, ["c"]] * 700


@pytest.mark.parametrize("rows", [slice(None), slice(5, 1900), slice(None, None, -3), slice(0, 0)])
def test_batches_hold_what_rows_hold(rows):
    words = Dataset.from_dict({"tokens": ROWS}, features=Features({"tokens": List(Value("string"))}))
    chosen = words.select(range(len(ROWS))[rows])
    expected = [row["tokens"] for row in chosen]
    assert list(column_values(chosen, "tokens")) == expected
    assert column_lengths(chosen, "tokens").tolist() == [len(row or []) for row in expected]


def test_formats_and_class_labels_do_not_matter():
    labels = Features({"tags": List(ClassLabel(names=["O", "X"]))})
    data = Dataset.from_dict({"tags": [[0, 1], [1]]}, features=labels).with_format("numpy")
    assert list(column_values(data, "tags")) == [[0, 1], [1]]
    assert np.array_equal(column_lengths(data, "tags"), [2, 1])


NAMES = ["O", "B-PER", "I-PER"]


def sentences(count: int, seed: int = 0) -> Dataset:
    """Subwords, gold tags, answers of every kind (some sentences have none), and columns that a user may add."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        words, paths = int(draw.integers(1, 9)), int(draw.integers(1, 4))
        sizes = {"k": paths, "words": words, "tags": len(NAMES), "ends": 2, "columns": 7}
        row = {
            "input_ids": [0, *range(10, 10 + words), 2],
            "attention_mask": [1] * (words + 2),
            "word_mask": [0, *[1] * words, 0],
            "labels": [-100, *draw.integers(0, len(NAMES), words).tolist(), -100],
            "note": None if number % 5 == 0 else f"sentence {number}",
            "users": [[1.5] * length for length in range(number % 3)],
            ANNOTATED_TYPES: ["PER"] if number % 2 else None,
        }
        for name, column in TARGET_COLUMNS.items():
            value = draw.integers(0, 2, [sizes[axis] for axis in column.axes])
            row[name] = None if (number + len(name)) % 4 == 0 else value.astype(column.stored).tolist()
        rows.append({**row, "teacher_labels": labels_key(NAMES), "teacher_marginals_2": row["teacher_emissions"]})
    whole = {"input_ids": Value("int32"), "attention_mask": Value("int8"), "word_mask": Value("int8")}
    features = {name: List(kind) for name, kind in whole.items()}
    features |= {"labels": LargeList(ClassLabel(names=NAMES)), "note": Value("string")}
    features |= {"users": List(List(Value("float64"))), ANNOTATED_TYPES: List(Value("string"))}
    for name, column in {**TARGET_COLUMNS, "teacher_marginals_2": TARGET_COLUMNS["teacher_marginals"]}.items():
        features[name] = Value(column.stored)
        for _ in column.axes:
            features[name] = List(features[name])
    return Dataset.from_list(rows, features=Features(features))


VIEWS = {
    "as made": lambda data: data,
    "chosen": lambda data: data.select([5, 5, 40, 1, 0]),
    "a part": lambda data: data.select(range(7, 31)),
    "shuffled": lambda data: data.shuffle(seed=1),
    "joined": lambda data: concatenate_datasets([data.select(range(3, 20)), sentences(30, seed=1), data]),
    "beside others": lambda data: concatenate_datasets(
        [data.select_columns(["input_ids", "word_mask", "attention_mask"]), data.select_columns(["teacher_entropy"])],
        axis=1,
    ),
    "few columns": lambda data: data.select_columns(["input_ids", "labels", "note", "attention_mask"]),
}


@pytest.mark.parametrize("view", VIEWS)
def test_rows_of_arrays_have_the_values_of_rows_of_lists(view, tokenizer):
    data = VIEWS[view](sentences(50))
    arrays = ArrayRows(data, ["input_ids", "attention_mask", "word_mask", "labels", "users", "note", *TARGET_COLUMNS])
    order = [3, 0, len(data) - 1, 3, *range(len(data))]
    for rows in (arrays, pickle.loads(pickle.dumps(arrays))):
        for expected, row in zip(data.__getitems__(order), rows.__getitems__(order), strict=True):
            assert row.keys() == expected.keys()
            assert {n: v.tolist() if isinstance(v, np.ndarray | np.number) else v for n, v in row.items()} == expected
    assert isinstance(arrays.__getitems__([1])[0]["input_ids"], np.ndarray), "or nothing was gained"
    assert arrays[1] == data[1], "one row is as in any dataset"


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_arrays_are_those_of_lists(tokenizer, workers):
    data = sentences(64).shuffle(seed=2)
    arrays = ArrayRows(data, ["input_ids", "attention_mask", "word_mask", "labels", *TARGET_COLUMNS])
    collator = DataCollatorForStructKD(tokenizer, len(NAMES), label_names=NAMES)
    loaders = (
        DataLoader(data, batch_size=8, collate_fn=collator),
        DataLoader(arrays, batch_size=8, collate_fn=collator, num_workers=workers),
    )
    for expected, batch in zip(*loaders, strict=True):
        assert batch.keys() == expected.keys() >= {"open_tags", *TARGET_COLUMNS}
        for name, tensor in expected.items():
            assert batch[name].dtype == tensor.dtype
            torch.testing.assert_close(batch[name], tensor, rtol=0, atol=0, equal_nan=True)


# Danger: a batch without any entity, whose type Arrow cannot know, or gold tags that are overwritten.


TEXTS = ["", " ", "Anna flew from Boston to Paris .", "Paris ."]


@pytest.mark.parametrize("labels", [["O", "B-PER", "I-PER"], ["NOUN", "VERB"]])
def test_answers_become_columns(make_student, tokenizer, labels):
    pipe = CRFTokenClassificationPipeline(model=make_student(**label_fields(labels)), tokenizer=tokenizer)
    options = {"top_k": 2, "marginals": True, "entropy": True}
    mapped = tag_dataset(Dataset.from_dict({"text": TEXTS}), pipe, batch_size=2, **options)
    expected = pipe(TEXTS, batch_size=2, **options)
    for row, answer in zip(mapped, expected):
        assert set(row) == {"text", *answer}
        for key in ("tags", "entities"):
            if key in answer:
                assert [one["word"] for one in row[key]] == [one["word"] for one in answer[key]]
        assert row["entropy"] == pytest.approx(answer["entropy"], abs=1e-5)
        assert len(row["marginals"]) == len(answer["marginals"])


def test_columns_are_never_overwritten_or_guessed(make_student, tokenizer):
    pipe = CRFTokenClassificationPipeline(model=make_student(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"columns \['entities'\] already"):
        tag_dataset(Dataset.from_dict({"text": ["a"], "entities": ["b"]}), pipe)
    with pytest.raises(ValueError, match=r"no column 'text'.*\['words'\]"):
        tag_dataset(Dataset.from_dict({"words": ["a"]}), pipe)
    for batch_size in (0, -1):  # which `Dataset.map` takes for one batch of everything
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            tag_dataset(Dataset.from_dict({"text": ["a"]}), pipe, batch_size=batch_size)


def test_what_the_pipeline_was_made_with_becomes_columns_too(make_student, tokenizer):
    pipe = CRFTokenClassificationPipeline(model=make_student(), tokenizer=tokenizer, top_k=2, entropy=True)
    assert tag_dataset(Dataset.from_dict({"text": TEXTS}), pipe).column_names == [
        "text",
        "entities",
        "top_k",
        "entropy",
    ]
