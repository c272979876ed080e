"""Sentences without gold tags, which are learnt from teachers alone."""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, concatenate_datasets

from .column_files import read_columns
from .columns import IGNORED, SUBWORD_LABELS, SUBWORDS, TOKEN_COLUMNS, TOKENS
from .conllu import read_conllu
from .impostors import what_a_row_is
from .readers import pick_column, read_json
from .source_text import CorpusError, is_text, read_lines
from .sources import JSON_ENDINGS, Source, file_suffix, numbered_rows, open_table, source_name
from .words import check_corpus, is_tokenised, tag_column, with_column

logger = logging.getLogger(__name__)

FEATURES = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "language": datasets.Value("string")})


def load_sentences(
    source: Source,
    *,
    language: str,
    split: str | None = "train",
    tokens_column: str | int | None = None,
    sentence_column: str | int | None = None,
    max_sentences: int | None = None,
) -> datasets.Dataset:
    """Load the sentences of one language; tags, where there are some, are not looked at.

    Args:
        source: A ``.txt`` file with one sentence a line, its words between blanks (gzipped or not); or what
            ``load_corpus`` reads: column files, ``.csv``, ``.conllu``, ``.json``, ``.jsonl``, ``.parquet``, a folder
            written by ``save_to_disk``, a Hub id, a ``Dataset``, where no tag column is needed.
        language: The value of the ``language`` column.
        split: Which split, for sources that have several.
        tokens_column: The column of the words: a name in tables (by default one of ``TOKEN_COLUMNS``); in column
            files and CSV a number (by default 0), or a name where the first line names the columns.
        sentence_column: As for ``load_corpus``.
        max_sentences: Take only this many, the first ones.

    Returns:
        A dataset with the columns ``tokens`` and ``language``. Empty lines and sentences without words are left out.

    Raises:
        CorpusError: If the source is missing, empty or broken; the message names file and line, or row.
    """
    name = source_name(source)
    found = (words for words in _open(source, split, tokens_column, sentence_column) if words)
    try:
        sentences = list(islice(found, max_sentences))
    except MemoryError:
        raise CorpusError(f"{name}: does not fit into memory: take its first sentences (max_sentences=).") from None
    if not sentences:
        raise CorpusError(f"{name}: no sentences. Is it the right file, and complete?")
    columns = {"tokens": sentences, "language": [language] * len(sentences)}
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def _open(
    source: Source, split: str | None, tokens_column: str | int | None, sentence_column: str | int | None
) -> Iterator[list[str]]:
    name = source_name(source)
    table = open_table(source, split)
    path = Path(name)
    suffix = "" if table is not None else file_suffix(path)
    is_columns = table is None and not suffix.endswith((".txt", ".conllu", *JSON_ENDINGS))
    if sentence_column is not None and not is_columns:
        raise CorpusError(f"{name}: sentence_column says nothing of a source of this kind: leave it out.")
    if table is not None:
        return _words_of_rows(name, numbered_rows(name, table), tokens_column)
    if suffix.endswith(".txt"):
        if tokens_column is not None:
            raise CorpusError(
                f"{name}: a .txt file holds one sentence a line and has no columns: leave tokens_column out, or give "
                "a file with columns another ending, .conll say."
            )
        return _words_of_lines(path)
    if suffix.endswith(JSON_ENDINGS):
        return _words_of_rows(name, read_json(path), tokens_column)
    if suffix.endswith(".conllu"):
        return (sentence.tokens for sentence in read_conllu(path, "form"))
    is_csv = suffix.endswith(".csv")
    rows = read_columns(path, None, tokens_column, sentence_column, is_csv=is_csv, words_only=True)
    return (sentence.tokens for sentence in rows)


def _words_of_lines(path: Path) -> Iterator[list[str]]:
    for number, line in read_lines(path):
        if "\t" in line:
            raise CorpusError(
                f"{path}:{number}: a tab; a .txt file holds one sentence a line, words between spaces. Give a file "
                "with columns another ending, .conll say."
            )
        yield [word for word in line.split(" ") if word]


def _words_of_rows(source: str, rows: Any, tokens_column: str | int | None) -> Iterator[list[str]]:
    wanted = None if tokens_column is None else str(tokens_column)
    for place, row in rows:
        try:
            column = pick_column(f"{source}{place}", row, wanted, TOKEN_COLUMNS, "tokens")
        except CorpusError as error:
            found = what_a_row_is(row)
            raise CorpusError(f"{source}{place}: {found}.") if found else error from None
        words = row[column]
        if not isinstance(words, (list, tuple)) or not all(is_text(word) and word for word in words):
            raise CorpusError(f"{source}{place}: {column!r} must be a list of words, not {words!r:.80}.")
        yield list(words)


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
