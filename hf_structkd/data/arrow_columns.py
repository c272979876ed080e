"""Columns of a dataset read by Arrow batches, and rows read as arrays.

`for value in dataset[name]` makes a table of every row, and `dataset[name]` a list of every list.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
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


class ArrayRows(Dataset):
    """A dataset whose rows, fetched as a batch by a `DataLoader`, hold numpy arrays where it has numbers.

    Arrays are views of Arrow's memory: to make Python lists of a batch's rows, and numbers of the lists again, takes
    most of the time in which it is fetched and collated. Everything else is as in [`datasets.Dataset`], and so are
    the values of all columns that are not named.

    Args:
        dataset: A dataset without a format.
        columns: The columns that are wanted as arrays. Those that the dataset lacks, or that do not hold numbers or
            (nested) lists of numbers, are left out.
    """

    def __init__(self, dataset: Dataset, columns: Iterable[str]) -> None:
        # `datasets` names the rows that `select` and `shuffle` chose in this table; nothing public does.
        indices = dataset._indices
        super().__init__(dataset.data, dataset.info, dataset.split, indices, dataset._fingerprint)
        schema = dataset.data.schema
        self.array_columns = [
            name for name in columns if name in schema.names and _holds_numbers(schema.field(name).type)
        ]
        others = [name for name in dataset.column_names if name not in self.array_columns]
        self._others = dataset.select_columns(others) if others else None
        self._readers: dict[str, _ArrayColumn] = {}

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_chosen_rows"}
        return {**state, "_readers": {}}  # another process makes its own views

    def __getitems__(self, keys: list[int]) -> list[dict[str, Any]]:
        """The rows of some numbers."""
        rows = [{} for _ in keys] if self._others is None else self._others.__getitems__(keys)
        numbers = np.asarray(keys, np.int64)
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        if self._indices is not None:
            numbers = self._chosen_rows[numbers].astype(np.int64)
        for name in self.array_columns:
            if name not in self._readers:
                self._readers[name] = _ArrayColumn(self.data.column(name))
            for row, value in zip(rows, self._readers[name].values(numbers)):
                row[name] = value
        return rows

    @cached_property
    def _chosen_rows(self) -> np.ndarray:
        return self._indices.column(0).to_numpy()


class _ArrayColumn:
    """The values of a column of numbers, or of lists of numbers, as views of its chunks.

    Args:
        column: The column.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.chunks = column.chunks
        self.starts = np.cumsum([0, *map(len, self.chunks)])
        self.views: dict[int, _ChunkView] = {}

    def values(self, rows: np.ndarray) -> Iterator[Any]:
        """The values of some rows: arrays, numbers, `None`, or lists where lists inside have several lengths."""
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        for number, row in zip(numbers.tolist(), (rows - self.starts[numbers]).tolist()):
            if number not in self.views:
                self.views[number] = _ChunkView(self.chunks[number])
            yield self.views[number].value(row)


class _ChunkView:
    """The offsets and the numbers of a chunk, without a copy.

    Args:
        chunk: Numbers, lists of them, or lists of lists of them.
    """

    def __init__(self, chunk: pa.Array) -> None:
        self.chunk = chunk
        self.present = None if chunk.null_count == 0 else chunk.is_valid().to_numpy(zero_copy_only=False)
        self.offsets: list[np.ndarray] = []
        self.numbers: np.ndarray | None = None
        nulls_inside = False
        while _is_list(chunk.type):
            self.offsets.append(chunk.offsets.to_numpy())
            chunk = chunk.values
            nulls_inside = nulls_inside or chunk.null_count > 0
        if not nulls_inside and (self.offsets or self.present is None):
            self.numbers = chunk.to_numpy()

    def value(self, row: int) -> Any:
        """The value of a row."""
        if self.present is not None and not self.present[row]:
            return None
        if self.numbers is None:
            return self.chunk[row].as_py()
        if not self.offsets:
            return self.numbers[row]
        first, *inner = self.offsets
        start, end = first[row], first[row + 1]
        if not inner:
            return self.numbers[start:end]
        bounds = inner[0][start : end + 1]
        count, size = int(end - start), int(bounds[-1] - bounds[0])
        if not count or size % count or (bounds[1:] - bounds[:-1] != size // count).any():
            return self.chunk[row].as_py()
        return self.numbers[bounds[0] : bounds[-1]].reshape(count, size // count)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _holds_numbers(kind: pa.DataType) -> bool:
    depth = 0
    while _is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth <= 2 and (pa.types.is_integer(kind) or pa.types.is_floating(kind))
