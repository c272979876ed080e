"""Sentences without gold tags, which are learnt from teachers alone."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset, concatenate_datasets

from .columns import IGNORED, TOKENS
from .words import tag_column


def hide_gold(dataset: Dataset) -> Dataset:
    """The same sentences without their gold tags.

    Args:
        dataset: a corpus; it stays as it is.

    Returns:
        The corpus, its tag column (where there is one) `None` in every row, with the features that it had.
    """
    column = tag_column(dataset)
    if column is None:
        return dataset
    features = dataset.features
    hidden = dataset.remove_columns(column).add_column(column, [None] * len(dataset), feature=features[column])
    return hidden.select_columns(dataset.column_names)


def mix_unlabelled(labelled: Dataset, unlabelled: Dataset | Sequence[Dataset]) -> Dataset:
    """Training data of sentences with gold tags and sentences without.

    Args:
        labelled: a corpus with a tag column.
        unlabelled: one corpus or several; whatever tags they have are hidden.

    Returns:
        All sentences with the columns of `labelled`; `StructKDTrainingArguments.unlabelled_rate` says how often the
        unlabelled ones are drawn.

    Raises:
        ValueError: if a corpus has no words, or the first one no tags.
    """
    parts = [unlabelled] if isinstance(unlabelled, Dataset) else list(unlabelled)
    column = tag_column(labelled)
    if column is None:
        raise ValueError(f"the labelled corpus has no tags, only the columns {labelled.column_names}")
    hidden = []
    for part in parts:
        if TOKENS not in part.column_names:
            raise ValueError(f"an unlabelled corpus needs a column {TOKENS!r}; this one has {part.column_names}")
        own = tag_column(part)
        bare = part.remove_columns(own) if own else part
        bare = bare.remove_columns([name for name in bare.column_names if name not in labelled.column_names])
        for name in labelled.column_names:
            if name not in bare.column_names:
                bare = bare.add_column(name, [None] * len(bare), feature=labelled.features[name])
        hidden.append(bare.select_columns(labelled.column_names).cast(labelled.features))
    return concatenate_datasets([labelled, *hidden])


def has_gold(dataset: Dataset) -> list[bool]:
    """Whether each sentence has gold tags; read from `labels` where the corpus is tokenised, else from its tags."""
    column = "labels" if "labels" in dataset.column_names else tag_column(dataset)
    if column is None:
        return [False] * len(dataset)
    return [_any_tag(tags) for tags in dataset.with_format(None)[column]]


def _any_tag(tags: Sequence[Any] | None) -> bool:
    return any(tag is not None and tag != IGNORED for tag in tags or ())
