"""Words to subwords and tags to label ids: a corpus made ready for the collator."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value

from ..modeling.subwords import tokenize_words
from .columns import IGNORED, TAG_COLUMNS, TOKENS

logger = logging.getLogger(__name__)


def tag_column(dataset: Dataset) -> str | None:
    """The column that holds the gold tags, or `None`."""
    return next((name for name in TAG_COLUMNS if name in dataset.column_names), None)


def tag_names(dataset: Dataset) -> list[str] | None:
    """The names of a `ClassLabel` tag column in the order of their ids; `None` if the tags are strings or missing."""
    column = tag_column(dataset)
    feature = getattr(dataset.features.get(column), "feature", None) if column else None
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def encode_corpus(
    dataset: Dataset,
    tokenizer: Any,
    label_names: Sequence[str],
    *,
    batch_size: int = 1000,
    num_proc: int | None = None,
) -> Dataset:
    """Add `input_ids`, `attention_mask`, `word_mask` and `labels` to a corpus; other columns stay.

    Args:
        dataset: columns `tokens` and, where there is gold, one of `tags`, `ner_tags`, `upos`, `pos_tags`: strings or
            `ClassLabel` ids. A row whose tags are missing (`None`, or all `None` or -100) is unlabelled.
        tokenizer: a fast tokenizer.
        label_names: the model's labels, in the order of their ids.
        batch_size, num_proc: as for `Dataset.map`.

    Returns:
        The dataset with the new columns; `labels` are on subwords, -100 off the first subword of each word.

    Raises:
        ValueError: for a missing `tokens` column, tags and tokens of different length, or a tag that is no label;
            the row is named.
    """
    if TOKENS not in dataset.column_names:
        raise ValueError(
            f"a corpus needs a column {TOKENS!r} with lists of words; this one has {dataset.column_names}"
        )
    column, names = tag_column(dataset), tag_names(dataset)
    label_ids = {name: i for i, name in enumerate(label_names)}

    def encode(batch: Mapping[str, list], rows: list[int]) -> dict[str, list]:
        encoded = tokenize_words(batch[TOKENS], tokenizer)
        tags = batch[column] if column else [None] * len(rows)
        encoded["labels"] = [
            _labels(words, row_tags, mask, names, label_ids, row)
            for words, row_tags, mask, row in zip(batch[TOKENS], tags, encoded["word_mask"], rows)
        ]
        return encoded

    features = Features(
        {
            **dataset.features,
            "input_ids": List(Value("int32")),
            "attention_mask": List(Value("int8")),
            "word_mask": List(Value("int8")),
            "labels": List(Value("int64")),
        }
    )
    return dataset.map(
        encode,
        batched=True,
        with_indices=True,
        batch_size=batch_size,
        num_proc=num_proc,
        features=features,
        desc="Tokenising",
    )


def _labels(
    words: list[str],
    tags: list[Any] | None,
    word_mask: list[int],
    names: list[str] | None,
    label_ids: Mapping[str, int],
    row: int,
) -> list[int]:
    if tags is None or all(tag is None or tag == IGNORED for tag in tags):
        return [IGNORED] * len(word_mask)
    if len(tags) != len(words):
        raise ValueError(f"row {row} has {len(words)} tokens and {len(tags)} tags")
    labels = []
    for tag in tags:
        name = names[tag] if names is not None and isinstance(tag, int) and 0 <= tag < len(names) else tag
        if name not in label_ids:
            raise ValueError(f"row {row}: tag {name!r} is not among the model's labels {list(label_ids)}")
        labels.append(label_ids[name])
    by_word = iter(labels)
    return [next(by_word) if first else IGNORED for first in word_mask]
