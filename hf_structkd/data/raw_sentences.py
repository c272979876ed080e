"""Sentences without gold tags, from text or from tables: what students learn from teachers alone."""

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets

from .readers import TOKENS_COLUMNS, CorpusError, is_text, pick_column, read_conll, read_conllu, read_json, read_text
from .sources import file_suffix, numbered_rows, open_table

logger = logging.getLogger(__name__)

FEATURES = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "language": datasets.Value("string")})


def load_sentences(
    source: str | Path,
    *,
    language: str,
    split: str | None = "train",
    tokens_column: str | int | None = None,
    max_sentences: int | None = None,
) -> datasets.Dataset:
    """Load the sentences of one language; tags, where there are some, are not looked at.

    Args:
        source: A ``.txt`` file with one sentence a line, its words between blanks (gzipped or not); or what
            ``load_corpus`` reads: column files, ``.conllu``, ``.json``, ``.jsonl``, ``.parquet``, a folder written by
            ``save_to_disk``, a Hub id, where no tag column is needed.
        language: The value of the ``language`` column.
        split: Which split, for sources that have several.
        tokens_column: The column of the words: a name in tables (by default ``tokens`` or ``words``), a number in
            column files (by default 0).
        max_sentences: Take only this many, the first ones.

    Returns:
        A dataset with the columns ``tokens`` and ``language``. Empty lines and sentences without words are left out.

    Raises:
        CorpusError: If the source is missing, empty or broken; the message names file and line, or row.
    """
    found = (words for words in _open(source, split, tokens_column) if words)
    sentences = list(islice(found, max_sentences))
    if not sentences:
        raise CorpusError(f"{source}: no sentences. Is it the right file, and complete?")
    columns = {"tokens": sentences, "language": [language] * len(sentences)}
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def _open(source: str | Path, split: str | None, tokens_column: str | int | None) -> Iterator[list[str]]:
    path, name = Path(source), str(source)
    table = open_table(source, split)
    if table is not None:
        return _words_of_rows(name, numbered_rows(name, table), tokens_column)
    suffix = file_suffix(path)
    if suffix.endswith(".txt"):
        return _words_of_lines(path)
    if suffix.endswith((".json", ".jsonl")):
        return _words_of_rows(name, read_json(path), tokens_column)
    if suffix.endswith(".conllu"):
        return (sentence.tokens for sentence in read_conllu(path, "form"))
    if isinstance(tokens_column, str):
        raise CorpusError(f"{name}: a column file has numbered columns; choose with tokens_column=.")
    words = tokens_column or 0
    return (sentence.tokens for sentence in read_conll(path, column=words, tokens_column=words))


def _words_of_lines(path: Path) -> Iterator[list[str]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if "\t" in line:
            raise CorpusError(
                f"{path}:{number}: a tab; a .txt file holds one sentence a line, words between spaces. Give a file "
                "with columns another ending, .conll say."
            )
        yield [word for word in line.split(" ") if word]


def _words_of_rows(source: str, rows: Any, tokens_column: str | int | None) -> Iterator[list[str]]:
    wanted = None if tokens_column is None else str(tokens_column)
    for place, row in rows:
        column = pick_column(f"{source}{place}", row, wanted, TOKENS_COLUMNS, "tokens")
        words = row[column]
        if not isinstance(words, (list, tuple)) or not all(is_text(word) and word for word in words):
            raise CorpusError(f"{source}{place}: {column!r} must be a list of words, not {words!r:.80}.")
        yield list(words)
