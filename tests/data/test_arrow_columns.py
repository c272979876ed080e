"""Danger: a column that is read by batches differs from the same column read row by row."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_structkd.data.arrow_columns import column_lengths, column_values

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
