"""Columns of a dataset read by Arrow batches: `for value in dataset[name]` makes a table of every row."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

_ROWS_AT_ONCE = 1000


def column_batches(dataset: Dataset, name: str, rows: int = _ROWS_AT_ONCE) -> Iterator[pa.ChunkedArray]:
    """The values of a column, some rows at a time.

    Args:
        dataset: A dataset.
        name: The column.
        rows: How many rows at a time.
    """
    for table in dataset.with_format("arrow").select_columns([name]).iter(batch_size=rows):
        yield table[name]


def column_values(dataset: Dataset, name: str) -> Iterator[Any]:
    """The values of a column as Python objects, one after another."""
    for batch in column_batches(dataset, name):
        yield from batch.to_pylist()


def column_lengths(dataset: Dataset, name: str) -> np.ndarray:
    """(rows,): the length of each row's list, 0 where it is null."""
    lengths = [pc.list_value_length(batch).fill_null(0).to_numpy() for batch in column_batches(dataset, name, 10_000)]
    return np.concatenate(lengths).astype(np.int64) if lengths else np.zeros(0, np.int64)
