"""Sentences without gold tags, from text or from tables: what students learn from teachers alone."""

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets

from .column_files import read_columns
from .columns import TOKEN_COLUMNS
from .conllu import read_conllu
from .impostors import what_a_row_is
from .readers import pick_column, read_json
from .source_text import CorpusError, is_text, read_lines
from .sources import JSON_ENDINGS, Source, file_suffix, numbered_rows, open_table, source_name

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
