"""The columns of a corpus: their names, reading by Arrow batches and as arrays, and how teacher columns are stored and
padded.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset

from ..modeling.glued_words import GLUED as GLUED
from ..modeling.tag_scheme import ANNOTATED_TYPES as ANNOTATED_TYPES
from ..modeling.tag_scheme import IGNORED

TOKENS = "tokens"
LANGUAGE = "language"
DOCUMENT = "document"  # of a sentence: sentences of one document stand together, in their order
SUBWORDS = "input_ids"  # a corpus with this column is tokenised
SUBWORD_LABELS = "labels"  # in a tokenised corpus: the label of each subword
# The usual names of columns, in files, tables, datasets in memory and recipes. Where a corpus has several of one kind,
# the choice is not guessed but an error.
TOKEN_COLUMNS = ("tokens", "words", "token", "word", "form")
TAG_COLUMNS = ("tags", "ner_tags", "pos_tags", "upos", "labels", "tag", "ner_tag", "label", "ner", "pos")
SENTENCE_COLUMNS = ("sentence_id", "sent_id", "sentence", "sentence #", "sentence_number", "sentence_idx", "sent")


@dataclass(frozen=True)
class TargetColumn:
    """How a teacher's answers of one kind are stored and batched.

    Args:
        axes: the meaning of each axis of one sentence's value: `"k"` (paths), `"words"`, `"tags"`, `"ends"` (the
            sentence's start and its end), or `"columns"` (`TEMPERED_COLUMNS`).
        padding: fills a batch where a sentence is shorter, has fewer paths, or has no answer. `teacher_groups` are
            padded with the identity: every tag alone. A `teacher_weight` that is missing is 1.
        stored: the Arrow type of the numbers.
        dtype: the torch type in a batch.
    """

    axes: tuple[Literal["k", "words", "tags", "ends", "columns"], ...]
    padding: float
    stored: str
    dtype: torch.dtype


TOPK_TAGS = "teacher_topk_tags"
TOPK_LOG_PROBS = "teacher_topk_log_probs"
MARGINALS = "teacher_marginals"
EDGE_COUNTS = "teacher_edge_counts"
EMISSIONS = "teacher_emissions"
TRANSITIONS = "teacher_transitions"
START_END = "teacher_start_end"
ENTROPY = "teacher_entropy"
GROUPS = "teacher_groups"
WEIGHT = "teacher_weight"
TEMPERATURE = "teacher_temperature"
LABELS = "teacher_labels"
# Each of these may have another temperature of the teacher; `teacher_temperature` holds them in this order.
TEMPERED_COLUMNS = (TOPK_LOG_PROBS, MARGINALS, EDGE_COUNTS, EMISSIONS, TRANSITIONS, START_END, ENTROPY)

TARGET_COLUMNS = {
    TOPK_TAGS: TargetColumn(("k", "words"), IGNORED, "int16", torch.long),
    TOPK_LOG_PROBS: TargetColumn(("k",), float("-inf"), "float32", torch.float32),
    MARGINALS: TargetColumn(("words", "tags"), 0.0, "float16", torch.float32),
    EDGE_COUNTS: TargetColumn(("tags", "tags"), 0.0, "float32", torch.float32),
    EMISSIONS: TargetColumn(("words", "tags"), float("nan"), "float32", torch.float32),
    TRANSITIONS: TargetColumn(("tags", "tags"), 0.0, "float32", torch.float32),
    START_END: TargetColumn(("ends", "tags"), 0.0, "float32", torch.float32),
    ENTROPY: TargetColumn((), 0.0, "float32", torch.float32),
    GROUPS: TargetColumn(("tags",), 0, "int16", torch.long),
    WEIGHT: TargetColumn((), 1.0, "float32", torch.float32),
    TEMPERATURE: TargetColumn(("columns",), 1.0, "float32", torch.float32),
    LABELS: TargetColumn((), 0, "int64", torch.long),
}
# Columns that `annotate` adds without being asked.
AUTOMATIC_COLUMNS = (GROUPS, WEIGHT, TEMPERATURE, LABELS)


def voice_column(name: str, voice: int) -> str:
    """The column of a voice's answers: teachers of one language that leave different labels open are several voices.

    Args:
        name: of [`TARGET_COLUMNS`].
        voice: from 0; the first one has the column's plain name, the second `teacher_marginals_2`.
    """
    return name if voice == 0 else f"{name}_{voice + 1}"


def target_of(column: str) -> str | None:
    """The key of [`TARGET_COLUMNS`] whose answers a column of a corpus holds; `None` if it holds none."""
    name = re.sub(r"_[1-9][0-9]*$", "", column)
    return name if name in TARGET_COLUMNS else None


def labels_key(label_names: Sequence[str]) -> int:
    """The value of `teacher_labels`: a hash of the names of labels in their order, never 0."""
    # Stored answers hold it. The bytes are those of `json_sha256`, which this room does not import.
    digest = hashlib.sha256(json.dumps(list(label_names)).encode()).digest()
    return int.from_bytes(digest[:6], "big") or 1  # 48 bits: exact in a float64 too


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
