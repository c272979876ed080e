"""Teachers' answers as Arrow columns: ragged, small types, straight from padded arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features, List, Value

from ..data.columns import TARGET_COLUMNS, TOPK_LOG_PROBS, TOPK_TAGS


def target_features(targets: Sequence[str], num_tags: int) -> Features:
    """The types of target columns; tags are a byte each where `num_tags`, the student's labels, fit into one."""
    features = {}
    for name in targets:
        column = TARGET_COLUMNS[name]
        feature: Any = Value("int8" if name == TOPK_TAGS and num_tags <= 127 else column.stored)
        for _ in column.axes:
            feature = List(feature)
        features[name] = feature
    return Features(features)


def arrow_batch(values: Mapping[str, np.ndarray], lengths: np.ndarray, features: Features) -> pa.RecordBatch:
    """A batch of sentences' answers as rows of the target columns, cut to their words and paths.

    Args:
        values: for each column an array over the batch, shaped and padded as in [`Targets`].
        lengths: (batch,), words.
        features: of `target_features`.
    """
    columns = [_column(name, values, lengths, pa_type) for name, pa_type in _types(features)]
    return pa.RecordBatch.from_arrays(columns, schema=features.arrow_schema)


def check_word_counts(table: pa.Table, words: np.ndarray) -> None:
    """Raise ValueError if answers are not of as many words as their sentences; `words` (rows,)."""
    if len(table) != len(words):
        raise ValueError(f"there are answers to {len(table):,} sentences where {len(words):,} were asked about")
    start = 0
    for batch in table.to_batches():
        here = words[start : start + len(batch)]
        for name in batch.schema.names:
            axes = TARGET_COLUMNS[name].axes
            if "words" not in axes:
                continue
            column, row_of = batch[name], np.arange(len(batch))
            for _ in axes[: axes.index("words")]:
                row_of = row_of[pc.list_parent_indices(column).to_numpy()]
                column = pc.list_flatten(column)
            counts = pc.list_value_length(column).to_numpy(zero_copy_only=False)
            if len(wrong := np.flatnonzero(counts != here[row_of])):
                row = int(row_of[wrong[0]])
                raise ValueError(
                    f"{name} of row {start + row} has {counts[wrong[0]]} words where the sentence has {here[row]}"
                )
        start += len(batch)


def _types(features: Features) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in features.arrow_schema]


def _column(name: str, values: Mapping[str, np.ndarray], lengths: np.ndarray, pa_type: pa.DataType) -> pa.Array:
    axes, padded = TARGET_COLUMNS[name].axes, values[name]
    batch = len(padded)
    kept = np.ones((batch,) + (1,) * (padded.ndim - 1), dtype=bool)
    counts: list[np.ndarray] = []  # at each level, outermost first, how long each list is
    sentences = np.arange(batch)  # of which sentence each list of the level before is
    for axis, meaning in enumerate(axes, start=1):
        if meaning == "k":
            exists = values[TOPK_LOG_PROBS] > -np.inf
            kept = kept & exists.reshape(batch, -1, *(1,) * (padded.ndim - 2))
            counts.append(exists.sum(axis=1)[sentences])
        elif meaning == "words":
            inside = np.arange(padded.shape[axis]) < lengths[:, None]
            kept = kept & inside.reshape(batch, *(1,) * (axis - 1), -1, *(1,) * (padded.ndim - axis - 1))
            counts.append(lengths[sentences])
        else:
            counts.append(np.full(len(sentences), padded.shape[axis]))
        sentences = np.repeat(sentences, counts[-1])
    flat = padded[np.broadcast_to(kept, padded.shape)]
    levels = [pa_type]
    for _ in axes:
        levels.append(levels[-1].value_type)
    array = pa.array(flat.astype(levels[-1].to_pandas_dtype(), copy=False), type=levels[-1])
    for level, count in zip(reversed(levels[:-1]), reversed(counts)):
        offsets = np.concatenate(([0], np.cumsum(count))).astype(np.int32)
        array = pa.ListArray.from_arrays(pa.array(offsets), array, type=level)
    return array
