"""Reading annotated sentences out of files, with the place of every word kept for error messages."""

import codecs
import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

CONLLU_FIELDS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
TOKENS_COLUMNS = ("tokens", "words")
TAGS_COLUMNS = ("tags", "ner_tags", "upos", "labels")
DOCUMENT_START = "-DOCSTART"
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # JSON can escape halves of surrogate pairs; nothing can store them
_LINE_END = re.compile(r"\r+(\n|$)")  # "\r\r\n" is what a file becomes that is converted twice


class CorpusError(ValueError):
    """A corpus that cannot be read as asked. The message names the place (file and line, or row) and what to do."""


@dataclass
class RawSentence:
    """A sentence as found.

    Attributes:
        tokens: The words.
        tags: One tag per word; numbers where a table stores class indices.
        source: The file or dataset.
        lines: The line of each word where words have lines of their own.
        row: Otherwise, which row (or line) of the source the sentence is, as text: ``":12"`` or ``", row 12"``.
    """

    tokens: list[str]
    tags: list[str]
    source: str
    lines: Sequence[int] = ()
    row: str = ""

    def place(self, word: int) -> str:
        """Where word number ``word`` stands: ``train.conll:17`` or ``train.jsonl:3, word 5``."""
        return f"{self.source}:{self.lines[word]}" if self.lines else f"{self.source}{self.row}, word {word + 1}"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, gzipped or not, without byte order mark and with ``\\n`` line ends.

    Raises:
        CorpusError: If the file is missing, a broken gzip file, not UTF-8, or holds NUL characters or lines that end
            with a carriage return alone.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":  # by content: a download is often already unpacked, or packed, despite its name
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{path}: cannot be read ({error}). Is it complete?") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        encoding = "UTF-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "LATIN1"
        raise CorpusError(
            f"{path}:{line}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8. Convert the file, for "
            f"instance with `iconv -f {encoding} -t UTF-8`."
        ) from error
    if (nul := text.find("\0")) >= 0:
        line = text.count("\n", 0, nul) + 1
        raise CorpusError(f"{path}:{line}: a NUL character. The file is damaged or not a text file in UTF-8.")
    text = _LINE_END.sub("\n", text)
    if (lone := text.find("\r")) >= 0:
        line = text.count("\n", 0, lone) + 1
        raise CorpusError(
            f"{path}:{line}: a carriage return inside a line. If it ends lines, as on old Macs, convert the file with "
            "`tr '\\r' '\\n'`."
        )
    return text


def _blocks(text: str) -> Iterator[list[tuple[int, str]]]:
    """Blank-line separated blocks of (line number, line)."""
    block: list[tuple[int, str]] = []
    # Only "\n" ends a line, and only ASCII blanks are blank: U+2028, U+0085, U+00A0 occur inside words.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip(" \t"):
            block.append((number, line.rstrip(" \t")))
        elif block:
            yield block
            block = []
    if block:
        yield block


def read_conll(path: Path, column: int = -1, tokens_column: int = 0) -> Iterator[RawSentence]:
    """Sentences of a column file: one word per line, blank lines between sentences.

    Columns are separated by tabs if the first word's line has one, otherwise by spaces. ``-DOCSTART-`` lines end a
    sentence and are skipped. Since ``#`` may be a word, a line that begins with it is a comment only before the first
    word of a sentence, and only if it has not the file's number of columns or, between tabs, goes on with a space.

    Args:
        path: The file.
        column: The column of the tags, counted from 0, or from the end if negative. From the end, all lines must
            have as many columns as the first: in a shorter line, the last column would be another one.
        tokens_column: The column of the words, counted likewise.

    Raises:
        CorpusError: If there is no such column, on a line with too few columns, or on an empty word.
    """
    text = read_text(path)
    words = (line for block in _blocks(text) for _, line in block if not line.startswith(("#", DOCUMENT_START)))
    first = next(words, "")
    separator = "\t" if "\t" in first else None
    expected = len(_columns(first, separator))
    for wanted in (column, tokens_column):
        if first and not -expected <= wanted < expected:
            raise CorpusError(f"{path}: {expected} column(s), so there is no column {wanted}.")

    def sentence(rows: list[tuple[int, list[str]]]) -> RawSentence:
        tokens, tags = [row[tokens_column] for _, row in rows], [row[column] for _, row in rows]
        return RawSentence(tokens, tags, str(path), [number for number, _ in rows])

    comments = documents = 0
    for block in _blocks(text):
        rows: list[tuple[int, list[str]]] = []
        for number, line in block:
            columns = _columns(line, separator)
            if line.startswith(DOCUMENT_START):
                documents += 1
                if rows:
                    yield sentence(rows)
                    rows = []
                continue
            reads_as_comment = len(columns) != expected or (separator and line.startswith("# "))
            if not rows and line.startswith("#") and reads_as_comment:
                comments += 1
                continue
            from_the_end = min(column, tokens_column) < 0
            needed = expected if from_the_end else max(column, tokens_column) + 1
            if len(columns) < needed or (from_the_end and len(columns) > expected):
                blanks = "tabs" if separator else "spaces"
                raise CorpusError(
                    f"{path}:{number}: {len(columns)} column(s) between {blanks} instead of {needed}: {line!r}. "
                    "Correct the line, or name the tag column by its number (column=)."
                )
            if not columns[tokens_column].strip() or not columns[column]:
                raise CorpusError(f"{path}:{number}: an empty word or tag: {line!r}.")
            rows.append((number, columns))
        if rows:
            yield sentence(rows)
    if comments or documents:
        logger.info("%s: skipped %d comment(s) and %d -DOCSTART- line(s).", path, comments, documents)


def _columns(line: str, separator: str | None) -> list[str]:
    return line.split(separator) if separator else [part for part in re.split("[ \t]+", line) if part]


def read_conllu(path: Path, field: str = "upos") -> Iterator[RawSentence]:
    """Sentences of a CoNLL-U file; multiword ranges (``3-4``) and empty nodes (``3.1``) are skipped.

    Args:
        path: The file.
        field: A field by name (``upos``, ``xpos``, ``deprel``, ...), or a key inside one: ``misc:NER`` (``O`` where
            a word has none) or ``feats:Case`` (``_`` where a word has none).

    Raises:
        CorpusError: On an unknown field, a line that has not ten columns, or a word without UPOS where that is asked.
    """
    name, _, key = field.partition(":")
    if name.lower() not in CONLLU_FIELDS or (key and name.lower() not in ("misc", "feats")):
        raise CorpusError(
            f"{path}: no CoNLL-U field {field!r}. Choose one of {', '.join(CONLLU_FIELDS)}, misc:KEY or feats:KEY."
        )
    index = CONLLU_FIELDS.index(name.lower())
    skipped = 0
    for block in _blocks(read_text(path)):
        tokens, tags, lines = [], [], []
        for number, line in block:
            columns = line.split("\t")
            if line.startswith("#") and len(columns) != len(CONLLU_FIELDS):
                continue
            if len(columns) != len(CONLLU_FIELDS):
                raise CorpusError(f"{path}:{number}: {len(columns)} tab-separated columns instead of 10: {line!r}.")
            if "-" in columns[0] or "." in columns[0]:
                skipped += 1
                continue
            tag = columns[index]
            if key:
                keys = dict(part.partition("=")[::2] for part in tag.split("|"))
                tag = keys.get(key, "O" if name.lower() == "misc" else "_")
            elif tag == "_" and name.lower() == "upos":
                raise CorpusError(f"{path}:{number}: word {columns[1]!r} has no UPOS.")
            if not columns[1].strip() or not tag:
                raise CorpusError(f"{path}:{number}: an empty word or tag: {line!r}.")
            tokens.append(columns[1])
            tags.append(tag)
            lines.append(number)
        if tokens:
            yield RawSentence(tokens, tags, str(path), lines)
    if skipped:
        logger.info("%s: skipped %d multiword range(s) and empty node(s).", path, skipped)


def read_json(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a JSON-lines file, or of a JSON file that is one list (or ``{"data": list}``).

    Returns:
        Pairs of the place inside the file (``":12"``, ``", row 12"``) and the row.

    Raises:
        CorpusError: On broken JSON or a row that is not an object.
    """
    text = read_text(path)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):  # lines, or told below by the line
        whole = None
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        whole = whole["data"]
    if isinstance(whole, list):
        numbered: Iterable[tuple[str, Any]] = ((f", row {i}", row) for i, row in enumerate(whole, 1))
    else:
        numbered = _json_lines(path, text)
    for place, row in numbered:
        if not isinstance(row, dict):
            raise CorpusError(f"{path}{place}: an object with words and tags was expected, not {type(row).__name__}.")
        yield place, row


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f":{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise CorpusError(f"{path}:{number}: not JSON ({error.msg}, column {error.colno}).") from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets without end
                raise CorpusError(f"{path}:{number}: JSON that cannot be read ({error}).") from None


def pick_column(source: str, present: Iterable[str], wanted: str | None, candidates: Sequence[str], what: str) -> str:
    """The column to use: the one asked for, or the only one with a usual name.

    Raises:
        CorpusError: If there is none, or several; the message lists what is there.
    """
    present = list(present)
    found = [name for name in ([wanted] if wanted is not None else candidates) if name in present]
    if len(found) == 1:
        return found[0]
    problem = f"several {what} columns ({', '.join(found)})" if found else f"no column {wanted or candidates[0]!r}"
    raise CorpusError(f"{source}: {problem}; there are {', '.join(present) or 'none'}. Choose with {what}_column=.")


def sentences_from_rows(
    source: str,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    tokens_column: str | None,
    tags_column: str | None,
    names: Sequence[str] | None,
) -> Iterator[RawSentence]:
    """Sentences of a table's rows.

    Args:
        source: The name of the table, for messages.
        rows: Pairs of place and row.
        tokens_column: The column of the words, by default ``tokens`` or ``words``.
        tags_column: The column of the tags, by default ``tags``, ``ner_tags``, ``upos`` or ``labels``.
        names: What class indices mean.

    Raises:
        CorpusError: If a column is missing, words and tags differ in number, or are not what they should be.
    """
    for place, row in rows:
        tokens_name = pick_column(f"{source}{place}", row, tokens_column, TOKENS_COLUMNS, "tokens")
        tags_name = pick_column(f"{source}{place}", row, tags_column, TAGS_COLUMNS, "tags")
        tokens, tags = row[tokens_name], row[tags_name]
        for name, values in ((tokens_name, tokens), (tags_name, tags)):
            if not isinstance(values, (list, tuple)):
                raise CorpusError(f"{source}{place}: {name!r} must be a list, not {type(values).__name__}.")
        if len(tokens) != len(tags):
            raise CorpusError(f"{source}{place}: {len(tokens)} {tokens_name} but {len(tags)} {tags_name}.")
        sentence = RawSentence(list(tokens), list(tags), source, row=place)
        for i, token in enumerate(tokens):
            if not is_text(token):
                raise CorpusError(f"{sentence.place(i)}: {token!r:.80} is not a word in {tokens_name!r}.")
        sentence.tags = [_tag_name(sentence, i, tag, names) for i, tag in enumerate(tags)]
        yield sentence


def is_text(value: Any) -> bool:
    """Whether a value of a table is text that every file can hold: no NUL, no half of a surrogate pair."""
    return isinstance(value, str) and not _NO_TEXT.search(value)


def _tag_name(sentence: RawSentence, word: int, tag: Any, names: Sequence[str] | None) -> str:
    if is_text(tag):
        return tag
    if isinstance(tag, int) and not isinstance(tag, bool):
        if names is None:
            raise CorpusError(f"{sentence.place(word)}: tag {tag} is a number; say what it means with label_names=.")
        if 0 <= tag < len(names):
            return names[tag]
        raise CorpusError(f"{sentence.place(word)}: tag {tag}, but there are only {len(names)} label names.")
    raise CorpusError(f"{sentence.place(word)}: {tag!r:.80} is not a tag.")
