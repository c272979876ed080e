"""Readers of tables with one sentence per row: JSON, and the rows of any dataset."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from .columns import ANNOTATED_TYPES, DOCUMENT, TAG_COLUMNS, TOKEN_COLUMNS
from .sentence_table import SentenceColumns, columns_of_lists
from .source_text import CorpusError, RawSentence, is_text, read_lines, setting
from .tool_exports import SPAN_COLUMNS

__all__ = ["CorpusError", "RawSentence", "pick_column", "read_json", "sentences_from_rows"]

_ROWS_AT_ONCE = 1_000
_LONGEST_JSON = 1 << 30  # bytes of a line: a whole corpus may be one line


def read_json(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read the rows of a JSON-lines file, or of a JSON file that is one list (or `{"data": list}`).

    Lines are read as they are asked for; a list has to be read as a whole.

    Returns:
        Pairs of the place inside the file (`":12"`, `", row 12"`) and the row.

    Raises:
        CorpusError: on broken JSON or a row that is not an object.
    """
    filled = ((number, line) for number, line in read_lines(path, _LONGEST_JSON) if line.strip())
    first = next(filled, None)
    if first is None:
        return
    lines = chain([first], filled)
    numbered: Iterable[tuple[str, Any]]
    whole = _read_json(first[1])
    if isinstance(whole, dict) and not isinstance(whole.get("data"), list):
        numbered = _json_lines(path, lines)
    else:
        all_lines = list(lines)
        if len(all_lines) > 1:  # or the file has been parsed already
            whole = _read_json("\n".join(line for _, line in all_lines))
        if isinstance(whole, dict) and isinstance(whole.get("data"), list):
            whole = whole["data"]
        if isinstance(whole, list):
            numbered = ((f", row {i}", row) for i, row in enumerate(whole, 1))
        else:
            numbered = _json_lines(path, all_lines)
    for place, row in numbered:
        if not isinstance(row, dict):
            raise CorpusError(f"{path}{place}: an object with words and tags was expected, not {type(row).__name__}.")
        yield place, row


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or an error that is raised with its line later
        return None


def _json_lines(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[str, Any]]:
    for number, line in lines:
        try:
            yield f":{number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{path}:{number}: not JSON ({error.msg}, column {error.colno}).") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets without end
            raise CorpusError(f"{path}:{number}: JSON that cannot be read ({error}).") from None


def read_csv_texts(path: Path, without_spans: bool = False) -> Iterator[tuple[str, Mapping[str, Any]]] | None:
    """The rows of a CSV or TSV file with texts and spans, by its first line; `None` for a file of words.

    Args:
        path: the file.
        without_spans: whether a file with texts alone is read too.

    Returns:
        Pairs of the place (`":12"`, the row's last line) and the row.

    Raises:
        CorpusError: if two columns have the same name; while iterating, on a row that is no CSV or has more cells than
            columns.
    """
    head = next((line for _, line in read_lines(path) if line.strip()), "")
    separator = max(",;\t", key=head.count)
    names = [name.strip().lower() for name in next(csv.reader([head], delimiter=separator), [])]
    has_words = any(name in TOKEN_COLUMNS for name in names)
    if "text" not in names or has_words or not (without_spans or any(name in SPAN_COLUMNS for name in names)):
        return None
    if several := [name for name in names if name and names.count(name) > 1]:
        raise CorpusError(f"{path}: several columns are called {several[0]!r}: leave one of them.")
    return _csv_texts(path, separator, names)


def _csv_texts(path: Path, separator: str, names: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # With the line ends inside of cells, which the offsets of spans count.
    lines = (line for _, line in read_lines(path, keep_ends=True))
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        header = True
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header:
                header = False
                continue
            if len(cells) != len(names):
                raise CorpusError(
                    f"{path}:{reader.line_num}: {len(cells)} cells where the first line names {len(names)} columns."
                )
            yield f":{reader.line_num}", dict(zip(names, cells))
    except csv.Error as error:
        raise CorpusError(f"{path}:{reader.line_num}: not CSV ({error}).") from error


def pick_column(
    source: str,
    present: Iterable[str],
    wanted: str | None,
    usual_names: Sequence[str],
    content: str,
    lists: Iterable[str] = (),
) -> str:
    """The column to use: the one asked for, or the only one with a usual name.

    Args:
        source: the name of the table, for messages.
        present: the columns of the table.
        wanted: the column asked for, if any.
        usual_names: the names that such a column usually has.
        content: what the column holds, `tokens` or `tags`, as in the name of the argument that chooses it.
        lists: the columns that hold lists; where several columns have a usual name, only these count.

    Raises:
        CorpusError: if there is none, or several; the message lists the columns of the table.
    """
    present, lists = list(present), list(lists)
    candidates = [name for name in ([wanted] if wanted is not None else usual_names) if name in present]
    if len(candidates) > 1:
        candidates = [name for name in candidates if name in lists] or candidates
    if len(candidates) == 1:
        return candidates[0]
    problem = f"no column {wanted or usual_names[0]!r}"
    if candidates:
        problem = f"several {content} columns ({', '.join(candidates)})"
    raise CorpusError(
        f"{source}: {problem}; there are {', '.join(present) or 'none'}. Choose with {setting(f'{content}_column')}."
    )


def sentences_from_rows(
    source: str,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    tokens_column: str | None,
    tags_column: str | None,
    names: Sequence[str] | None,
) -> Iterator[RawSentence | SentenceColumns]:
    """Read the sentences of a table's rows: many at a time, where nothing is wrong with them.

    Args:
        source: the name of the table, for messages.
        rows: Pairs of place and row.
        tokens_column: the column of the words, by default the one with a usual name (`TOKEN_COLUMNS`).
        tags_column: the column of the tags, by default the one with a usual name (`TAG_COLUMNS`). A row whose tags
            are `None` is a sentence without tags.
        names: the names of class indices.

    Returns:
        The sentences.

    Raises:
        CorpusError: if a column is missing, words and tags differ in number, or a value is no word or no tag.
    """
    for batch in _batches(rows):
        columns = _columns_of_rows(source, batch, tokens_column, tags_column, names)
        if columns is not None:
            yield columns
        else:
            yield from _single_sentences(source, batch, tokens_column, tags_column, names)


def _batches(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[list[tuple[str, Mapping[str, Any]]]]:
    """Rows, more and more at a time; those before an error come before it.

    Who wants the first rows alone waits for few others.
    """
    batch: list[tuple[str, Mapping[str, Any]]] = []
    size = 1
    iterator = iter(rows)
    while True:
        try:
            row = next(iterator, None)
        except Exception:
            yield batch
            raise
        if row is not None:
            batch.append(row)
        if row is None or len(batch) == size:
            yield batch
            batch, size = [], min(2 * size, _ROWS_AT_ONCE)
        if row is None:
            return


def _columns_of_rows(
    source: str,
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    tokens_column: str | None,
    tags_column: str | None,
    names: Sequence[str] | None,
) -> SentenceColumns | None:
    """Sentences of rows with the same columns, if nothing is wrong with them."""
    present = rows[0][1].keys() if rows else set()
    chosen = sentence_columns(present, tokens_column, tags_column)
    if chosen is None or not all(row.keys() == present for _, row in rows):
        return None
    try:
        tokens, tags = (pa.array([row[name] for _, row in rows]) for name in chosen)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return None
    return columns_of_lists(source, tokens, tags, names, [place for place, _ in rows])


def sentence_columns(
    present: Iterable[str], tokens_column: str | None = None, tags_column: str | None = None
) -> tuple[str, str] | None:
    """The columns of words and tags of a table that has no other column that says something about a sentence.

    Args:
        present: the columns of the table.
        tokens_column, tags_column: those asked for, if any.

    Returns:
        Their names; `None` if there are none or several, or a column for documents or annotated types.
    """
    present = set(present)
    if present & {ANNOTATED_TYPES, DOCUMENT}:
        return None
    tokens = [name for name in ([tokens_column] if tokens_column else TOKEN_COLUMNS) if name in present]
    tags = [name for name in ([tags_column] if tags_column else TAG_COLUMNS) if name in present]
    return (tokens[0], tags[0]) if len(tokens) == len(tags) == 1 else None


def _single_sentences(
    source: str,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    tokens_column: str | None,
    tags_column: str | None,
    names: Sequence[str] | None,
) -> Iterator[RawSentence]:
    for place, row in rows:
        where = f"{source}{place}"
        lists = [name for name, value in row.items() if value is None or isinstance(value, (list, tuple))]
        tokens_name = pick_column(where, row, tokens_column, TOKEN_COLUMNS, "tokens", lists)
        tags_name = pick_column(where, row, tags_column, TAG_COLUMNS, "tags", lists)
        tokens, tags = row[tokens_name], row[tags_name]
        for name, values in ((tokens_name, tokens), (tags_name, tags)):
            if not isinstance(values, (list, tuple)) and not (values is None and name == tags_name):
                raise CorpusError(f"{where}: {name!r} must be a list, not {type(values).__name__}.")
        if tags is not None and len(tokens) != len(tags):
            raise CorpusError(f"{where}: {len(tokens)} {tokens_name} but {len(tags)} {tags_name}.")
        sentence = RawSentence(list(tokens), None, source, row=place)
        for i, token in enumerate(tokens):
            if not is_text(token):
                raise CorpusError(f"{sentence.place(i)}: {token!r:.80} is not a word in {tokens_name!r}.")
            if not token.strip():
                raise CorpusError(f"{sentence.place(i)}: an empty word: {token!r:.80} in {tokens_name!r}.")
        if tags is not None:
            sentence.tags = [_tag_name(sentence, i, tag, names) for i, tag in enumerate(tags)]
        types = row.get(ANNOTATED_TYPES)
        if types is not None:
            if not isinstance(types, (list, tuple)) or not all(map(is_text, types)):
                raise CorpusError(f"{where}: {ANNOTATED_TYPES!r} must be a list of entity types, not {types!r:.80}.")
            sentence.annotated_types = list(types)
        if row.get(DOCUMENT) is not None:
            sentence.document = str(row[DOCUMENT])
        yield sentence


def _tag_name(sentence: RawSentence, word: int, tag: Any, names: Sequence[str] | None) -> str:
    if is_text(tag):
        if not tag.strip():
            raise CorpusError(f"{sentence.place(word)}: an empty tag, {tag!r:.80}.")
        return tag.strip()
    if isinstance(tag, int) and not isinstance(tag, bool):
        if names is None:
            raise CorpusError(
                f"{sentence.place(word)}: tag {tag} is a number; say what it means with {setting('label_names')}."
            )
        if 0 <= tag < len(names):
            return names[tag]
        raise CorpusError(f"{sentence.place(word)}: tag {tag}, but there are only {len(names)} label names.")
    raise CorpusError(f"{sentence.place(word)}: {tag!r:.80} is not a tag.")
