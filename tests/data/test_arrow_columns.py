"""Danger: a column that is read by batches, or as arrays, differs from the same column read row by row."""

import pickle

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value, concatenate_datasets
from torch.utils.data import DataLoader

from hf_structkd.data.arrow_columns import ArrayRows, column_lengths, column_values
from hf_structkd.data.collator import DataCollatorForStructKD
from hf_structkd.data.columns import ANNOTATED_TYPES, TARGET_COLUMNS, labels_key

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
