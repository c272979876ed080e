"""Corpora that are read from their start (`datasets.IterableDataset`): checked, and tokenised while they are read.

Their sentences are never all in memory. What can be wrong with a corpus is looked for in the first ones, before
teachers are asked or a training starts; later ones are checked when they come.
"""

from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, IterableDataset, List

from .columns import SUBWORD_LABELS
from .words import check_corpus, is_tokenised, label_reordering, subword_encoder, subword_label_names

SENTENCES_CHECKED = 1_000
_ROWS_AT_ONCE = 100


def first_rows(stream: IterableDataset, count: int = SENTENCES_CHECKED) -> Dataset:
    """The first sentences of a stream, as a dataset in memory.

    Raises:
        ValueError: if it has none.
    """
    rows = list(stream.with_format(None).take(count))
    if not rows:
        raise ValueError("the stream has no sentences")
    return Dataset.from_list(rows, features=stream.features)


def with_features(stream: IterableDataset, first: Dataset) -> IterableDataset:
    """The stream with the types of its columns: its own, or those of its first rows where it does not say.

    Args:
        stream: a stream.
        first: see [`first_rows`].

    Raises:
        ValueError: if the first rows do not tell the type of a column, because they have only `None` in it.
    """
    if stream.features is not None:
        return stream
    if unknown := [field.name for field in first.features.arrow_schema if pa.types.is_null(field.type)]:
        raise ValueError(
            f"the first {len(first):,} sentences of the stream have nothing in the columns {', '.join(unknown)}, so "
            "their type is unknown: make the stream with features=, or remove the columns"
        )
    return stream.cast(first.features)


def encode_stream(
    stream: IterableDataset, tokenizer: Any, label_names: list[str], glued_words: bool = False
) -> IterableDataset:
    """Tokenise a stream, and number its labels as a model does, while it is read.

    Args:
        stream: sentences as for [`~.data.words.encode_corpus`], tokenised or not.
        tokenizer, label_names, glued_words: as for `encode_corpus`.

    Returns:
        The stream, with subwords and their labels.

    Raises:
        ValueError: as `encode_corpus` does: at once for the first sentences, and while the others are read.
    """
    first = first_rows(stream)
    if is_tokenised(first):
        names = subword_label_names(first)
        if names is None or names == label_names:
            return stream
        change, features = label_reordering(names, label_names), Features(first.features)
        features[SUBWORD_LABELS] = List(ClassLabel(names=label_names))
    else:
        check_corpus(first)
        change, features = subword_encoder(first, tokenizer, label_names, glued_words)
    change(first[:], list(range(len(first))))
    return (
        with_features(stream, first)
        .with_format(None)
        .map(change, batched=True, with_indices=True, batch_size=_ROWS_AT_ONCE, features=features)
    )
