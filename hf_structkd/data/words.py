"""Corpora in memory: their columns of words and tags, and their conversion to subwords and label ids."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Features, LargeList, List, Value, concatenate_datasets

from ..modeling.glued_words import sentences_of
from ..modeling.words import tokenize_words
from .columns import GLUED, IGNORED, SUBWORD_LABELS, SUBWORDS, TAG_COLUMNS, TOKENS, column_values

logger = logging.getLogger(__name__)


def check_corpus(dataset: Any, columns: Sequence[str] = (TOKENS,)) -> None:
    """Check that a dataset is a corpus.

    Args:
        dataset: should be a `Dataset`.
        columns: the columns that it must have; `tokens` must hold lists of words.

    Raises:
        ValueError: for a stream or anything else that is no `Dataset`, for a missing column, and for texts, or
            nothing, in place of lists of words.
    """
    if not isinstance(dataset, Dataset):
        advice = ": make one of a stream with Dataset.from_list(list(stream.take(100_000)))"
        raise ValueError(
            f"a corpus must be a datasets.Dataset, not {type(dataset).__name__}"
            + (advice if hasattr(dataset, "take") else "")
        )
    for column in columns:
        if column not in dataset.column_names:
            content = " with lists of words" if column == TOKENS else ""
            raise ValueError(f"a corpus needs a column {column!r}{content}; this one has {dataset.column_names}")
        feature = dataset.features[column]
        inner = getattr(feature, "feature", None)
        text = isinstance(feature, Value) and "string" in feature.dtype
        if column == TOKENS and len(dataset) and not _is_words(inner):
            content = "texts" if text else str(feature)
            raise ValueError(
                f"the column {column!r} holds {content} where lists of words are meant"
                + (": split them first, for instance by text.split()" if text else "")
            )


def _is_words(inner: Any) -> bool:
    return isinstance(inner, Value) and ("string" in inner.dtype or inner.dtype == "null")


def check_words(sentences: Sequence[Any], rows: Sequence[int]) -> None:
    """Check that sentences are lists of words.

    Args:
        sentences: of a batch.
        rows: their rows in the dataset, for messages.

    Raises:
        ValueError: for a sentence that is no list of words, or an empty one; it names the row.
    """
    for words, row in zip(sentences, rows):
        if words is None or isinstance(words, (str, bytes)) or not len(words):
            content = "no words" if words is None or not len(words) else f"the text {words!r:.60} in place of words"
            raise ValueError(f"row {row} has {content}: a sentence is a list of words; leave empty ones out")
        if wrong := [word for word in words if not isinstance(word, str)]:
            raise ValueError(f"row {row}: {wrong[0]!r} is no word")


def warn_of_unknown_blanks(dataset: Dataset) -> None:
    """Log a warning if a corpus does not say of all its sentences which words are glued to their neighbours."""
    known = GLUED in dataset.column_names
    unknown = dataset.with_format("arrow")[:][GLUED].null_count if known else len(dataset)
    if unknown:
        logger.warning(
            "the model has glued_words, and %d of %d sentences do not say which words follow their neighbour without "
            "a blank (column %r): all of these count as standing between blanks",
            unknown,
            len(dataset),
            GLUED,
        )


def tag_column(dataset: Dataset) -> str | None:
    """The column that holds the gold tags of words, or `None`.

    In a tokenised corpus the column `labels` holds the labels of subwords, and is not the column of the tags.

    Raises:
        ValueError: if several columns may hold the tags, if the column holds no lists, or if the only class labels are
            in a column without a usual name.
    """
    lists = [name for name, feature in dataset.features.items() if isinstance(feature, List | LargeList)]
    usual = [name for name in TAG_COLUMNS if name != SUBWORD_LABELS or SUBWORDS not in dataset.column_names]
    named = [name for name in usual if name in dataset.column_names]
    candidates = [name for name in named if name in lists]
    if len(candidates) > 1:
        raise ValueError(
            f"several columns may be the tags ({', '.join(candidates)}): keep one of them, with "
            "dataset.remove_columns(...)"
        )
    if candidates:
        return candidates[0]
    if not named:
        unusual = [
            name for name in lists if name != SUBWORD_LABELS and isinstance(dataset.features[name].feature, ClassLabel)
        ]
        if unusual and TOKENS in dataset.column_names and SUBWORD_LABELS not in dataset.column_names:
            raise ValueError(
                f"the column {unusual[0]!r} holds class labels, but under a name that is not looked for: call it "
                "'tags' if it is the tags, with dataset.rename_column(...), or remove it"
            )
        return None
    feature = dataset.features[named[0]]
    if isinstance(feature, Value) and feature.dtype == "null":
        return named[0]
    if named[0] in ("label", "pos"):  # of the whole sentence
        return None
    raise ValueError(f"the column {named[0]!r} holds {feature} where lists of tags are meant")


def tag_names(dataset: Dataset) -> list[str] | None:
    """The names of a `ClassLabel` tag column in the order of their ids; `None` if the tags are strings or missing."""
    column = tag_column(dataset)
    return None if column is None else _class_names(dataset, column)


def gold_tags(dataset: Dataset) -> Iterator[list[Any] | None]:
    """The gold tags of each sentence, by name where they are class labels.

    Yields:
        One tag per word, `None` or -100 for a word without one; `None` for a sentence without tags.
    """
    column, names = tag_column(dataset), tag_names(dataset)
    for tags in [None] * len(dataset) if column is None else column_values(dataset, column):
        yield None if tags is None else [_tag_name(tag, names) for tag in tags]


def _tag_name(tag: Any, names: Sequence[str] | None) -> Any:
    return names[tag] if names is not None and isinstance(tag, int) and 0 <= tag < len(names) else tag


def subword_label_names(dataset: Dataset) -> list[str] | None:
    """The label names of a tokenised corpus, in the order of the ids in `labels`; `None` where it has no names."""
    if not is_tokenised(dataset) or SUBWORD_LABELS not in dataset.column_names:
        return None
    return _class_names(dataset, SUBWORD_LABELS)


def is_tokenised(dataset: Dataset) -> bool:
    """Whether a corpus has subwords."""
    return SUBWORDS in dataset.column_names


def _class_names(dataset: Dataset, column: str) -> list[str] | None:
    feature = getattr(dataset.features[column], "feature", None)
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def reorder_labels(dataset: Dataset, label_names: Sequence[str]) -> Dataset:
    """Renumber the `labels` of a tokenised corpus in the order of a model's labels.

    Args:
        dataset: a tokenised corpus. One whose labels have no names (another program tokenised it) is not changed.
        label_names: the model's labels, in the order of their ids.

    Returns:
        The corpus; the same object if its order is the model's already.

    Raises:
        ValueError: if it has labels that the model lacks.
    """
    names = subword_label_names(dataset)
    if names is None or names == list(label_names):
        return dataset
    labels = (
        dataset.with_format(None)
        .select_columns([SUBWORD_LABELS])
        .map(
            label_reordering(names, label_names),
            batched=True,
            with_indices=True,
            features=Features({SUBWORD_LABELS: List(ClassLabel(names=list(label_names)))}),
            desc="Ordering labels",
        )
    )
    return with_column(dataset, SUBWORD_LABELS, labels)


def label_reordering(
    names: Sequence[str], label_names: Sequence[str]
) -> Callable[[Mapping[str, list], list[int]], dict[str, list]]:
    """What [`reorder_labels`] does to a batch: the function (batch, rows) -> the new column.

    Args:
        names: the labels of the corpus, in the order of its ids.
        label_names: the model's likewise.
    """
    ids = {name: i for i, name in enumerate(label_names)}
    new = {IGNORED: IGNORED, **{i: ids.get(name, -1) for i, name in enumerate(names)}}

    def reorder(batch: Mapping[str, list], rows: list[int]) -> dict[str, list]:
        for labels, row in zip(batch[SUBWORD_LABELS], rows):
            if lacking := [names[label] for label in labels or () if new[label] == -1]:
                raise ValueError(
                    f"row {row} of a tokenised corpus has the label {lacking[0]!r}, which is not among the model's "
                    f"labels {list(label_names)}"
                )
        return {SUBWORD_LABELS: [labels and [new[label] for label in labels] for labels in batch[SUBWORD_LABELS]]}

    return reorder


def with_column(dataset: Dataset, name: str, column: Dataset) -> Dataset:
    """The dataset with one column replaced by another dataset's; the other columns are not written anew."""
    combined = concatenate_datasets([dataset.remove_columns(name), column], axis=1)
    return combined.select_columns(dataset.column_names)


def encode_corpus(
    dataset: Dataset,
    tokenizer: Any,
    label_names: Sequence[str],
    *,
    glued_words: bool = False,
    batch_size: int = 1000,
    num_proc: int | None = None,
) -> Dataset:
    """Add `input_ids`, `attention_mask`, `word_mask` and `labels` to a corpus; other columns stay.

    Args:
        dataset: columns `tokens` and, for gold tags, one of `TAG_COLUMNS` (`tags`, `ner_tags`, `labels` and so on):
            strings or `ClassLabel` ids. A row without tags (`None`, or all `None` or -100) is unlabelled.
        tokenizer: a fast tokenizer.
        label_names: the model's labels, in the order of their ids.
        glued_words: as in the model's configuration. The column `glued` then says which words follow the word before
            them without a blank (`load_corpus(..., glued=True)`); where it is missing, or `None`, the log says that
            all words count as standing between blanks.
        batch_size, num_proc: as for `Dataset.map`.

    Returns:
        The dataset with the new columns; `labels` are on subwords, -100 off the first subword of each word, and store
        the names of the ids ([`subword_label_names`]).

    Raises:
        ValueError: for a missing `tokens` column, texts in place of lists of words, several columns of tags,
            tags and tokens of different length, or a tag that is no label; the row is named.
    """
    check_corpus(dataset)
    encode, features = subword_encoder(dataset, tokenizer, label_names, glued_words)
    return dataset.map(
        encode,
        batched=True,
        with_indices=True,
        batch_size=batch_size,
        num_proc=num_proc,
        features=features,
        desc="Tokenising",
    )


def subword_encoder(
    dataset: Dataset, tokenizer: Any, label_names: Sequence[str], glued_words: bool = False
) -> tuple[Callable[[Mapping[str, list], list[int]], dict[str, list]], Features]:
    """What [`encode_corpus`] does to a batch: the function (batch, rows) -> new columns, and all columns after it.

    Args:
        dataset, tokenizer, label_names, glued_words: as for [`encode_corpus`].
    """
    column, names = tag_column(dataset), tag_names(dataset)
    if glued_words:
        warn_of_unknown_blanks(dataset)
    label_ids = {name: i for i, name in enumerate(label_names)}

    def encode(batch: Mapping[str, list], rows: list[int]) -> dict[str, list]:
        check_words(batch[TOKENS], rows)
        sentences = sentences_of(batch, rows) if glued_words else batch[TOKENS]
        encoded = tokenize_words(sentences, tokenizer, glued_words)
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
            # The names are stored with the ids, so that these cannot be read as another model's.
            SUBWORD_LABELS: List(ClassLabel(names=list(label_names))),
        }
    )
    return encode, features


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
        name = _tag_name(tag, names)
        if name not in label_ids:
            raise ValueError(f"row {row}: tag {name!r} is not among the model's labels {list(label_ids)}")
        labels.append(label_ids[name])
    by_word = iter(labels)
    return [next(by_word) if first else IGNORED for first in word_mask]
