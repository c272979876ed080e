"""Sentences without gold tags, which are learnt from teachers alone."""

import logging
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, Features, concatenate_datasets

from .columns import IGNORED, SUBWORD_LABELS, SUBWORDS, TOKENS
from .words import check_corpus, is_tokenised, tag_column, with_column

logger = logging.getLogger(__name__)


def hide_gold(dataset: Dataset) -> Dataset:
    """The same sentences without their gold tags.

    Args:
        dataset: a corpus; it stays as it is.

    Returns:
        The corpus, its tag column (where there is one) `None` in every row, with the features that it had. Where it
        is tokenised, the labels of its subwords are all -100.

    Raises:
        ValueError: if it is no `Dataset`.
    """
    check_corpus(dataset, ())
    hidden = dataset
    if column := tag_column(dataset):
        feature = dataset.features[column]
        hidden = dataset.remove_columns(column).add_column(column, [None] * len(dataset), feature=feature)
        hidden = hidden.select_columns(dataset.column_names)
    if is_tokenised(dataset) and SUBWORD_LABELS in dataset.column_names:
        labels = dataset.select_columns([SUBWORDS]).map(
            lambda batch: {SUBWORD_LABELS: [[IGNORED] * len(ids) for ids in batch[SUBWORDS]]},
            batched=True,
            remove_columns=[SUBWORDS],
            features=Features({SUBWORD_LABELS: dataset.features[SUBWORD_LABELS]}),
            desc="Hiding gold",
        )
        hidden = with_column(hidden, SUBWORD_LABELS, labels)
    return hidden


def mix_unlabelled(labelled: Dataset, unlabelled: Dataset | Sequence[Dataset]) -> Dataset:
    """Training data of sentences with gold tags and sentences without.

    Args:
        labelled: a corpus with tags, tokenised or not.
        unlabelled: one corpus or several, tokenised as the first is; whatever tags they have are hidden.

    Returns:
        All sentences with the columns of `labelled`; `StructKDTrainingArguments.unlabelled_rate` says how often the
        unlabelled ones are drawn.

    Raises:
        ValueError: if a corpus has no words, or the first one no tags, or if some are tokenised and others not.
    """
    parts = [unlabelled] if isinstance(unlabelled, Dataset) else list(unlabelled)
    check_corpus(labelled, ())
    tokenised = is_tokenised(labelled)
    if tag_column(labelled) is None and not (tokenised and SUBWORD_LABELS in labelled.column_names):
        raise ValueError(f"the labelled corpus has no tags, only the columns {labelled.column_names}")
    hidden = []
    for part in parts:
        check_corpus(part, ())
        if is_tokenised(part) != tokenised:
            raise ValueError("of corpora to mix all are tokenised (encode_corpus), or none is")
        needed = SUBWORDS if tokenised else TOKENS
        if needed not in part.column_names:
            raise ValueError(f"an unlabelled corpus needs a column {needed!r}; this one has {part.column_names}")
        own = tag_column(part)
        bare = part.remove_columns(own) if own else part
        if tokenised and SUBWORD_LABELS in bare.column_names:
            bare = bare.remove_columns(SUBWORD_LABELS)
        bare = bare.remove_columns([name for name in bare.column_names if name not in labelled.column_names])
        for name in labelled.column_names:
            if name not in bare.column_names:
                nothing: list[Any] = [None] * len(bare)
                if tokenised and name == SUBWORD_LABELS:
                    nothing = [[IGNORED] * len(ids) for ids in bare[SUBWORDS]]
                bare = bare.add_column(name, nothing, feature=labelled.features[name])
        hidden.append(bare.select_columns(labelled.column_names).cast(labelled.features))
    return concatenate_datasets([labelled, *hidden])


def has_gold(dataset: Dataset) -> list[bool]:
    """Whether each sentence has gold tags; read from `labels` where the corpus is tokenised, else from its tags."""
    column = _gold_column(dataset)
    if column is None:
        return [False] * len(dataset)
    return [_any_tag(tags) for tags in dataset.with_format(None)[column]]


def has_any_gold(dataset: Dataset) -> bool:
    """Whether a sentence at all has gold tags."""
    column = _gold_column(dataset)
    if column is None:
        return False
    batches = dataset.with_format(None).select_columns(column).iter(batch_size=100)
    return any(_any_tag(tags) for batch in batches for tags in batch[column])


def with_gold(dataset: Dataset) -> Dataset:
    """The sentences that have gold tags, to score answers on; how many others there are is logged.

    Raises:
        ValueError: if no sentence has.
    """
    rows = [row for row, gold in enumerate(has_gold(dataset)) if gold]
    if not rows:
        raise ValueError("none of the sentences has gold tags, so there is nothing to compare answers with")
    if len(rows) == len(dataset):
        return dataset
    logger.warning("%d of %d sentences have no gold tags and are not scored", len(dataset) - len(rows), len(dataset))
    return dataset.select(rows)


def _gold_column(dataset: Dataset) -> str | None:
    return SUBWORD_LABELS if is_tokenised(dataset) and SUBWORD_LABELS in dataset.column_names else tag_column(dataset)


def _any_tag(tags: Sequence[Any] | None) -> bool:
    return any(tag is not None and tag != IGNORED for tag in tags or ())
