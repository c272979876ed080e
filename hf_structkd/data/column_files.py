"""Reader of column files and of CSV and TSV tables: one word per line."""

import csv
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import regex

from .columns import SENTENCE_COLUMNS, TAG_COLUMNS, TOKEN_COLUMNS
from .conllu import TEXT, SurfaceToken, place_words, warn_of_other_texts
from .foreign_formats import advice_on_single_column, describe_foreign_columns
from .sentence_table import SentenceColumns, columns_of_lines
from .source_text import CorpusError, RawSentence, TextPart, read_lines, read_parts, setting

logger = logging.getLogger(__name__)

DOCUMENT_START = "-DOCSTART"
_LOOK_AHEAD = 10_000  # lines from which the tags are collected before the first sentence is read
_LONG_SENTENCE = 500  # words; a whole file with so many is hardly one sentence
_MANY_SENTENCES = 100  # that are checked for words that count 1, 2, 3
_NUMBER = re.compile(r"\d+")
_ENTITY_TAG = re.compile(r"O|[BIESLUM]-.+")
_ID = re.compile(r"\d+([-.]\d+)?")
_CLUSTER = regex.compile(r"\X")


@dataclass(frozen=True)
class _KnownColumns:
    """The columns of a format that has always the same.

    Attributes:
        counter: the column that counts the words of each sentence.
        tokens, tags: the columns of the words and the tags.
        inner: the column of entities inside of those of `tags`, which are counted and left out.
        width: the number of columns that every line has at least.
        any_width: whether the number of columns differs between sentences.
        has_texts: whether comments `# text = ...` have the texts of sentences.
    """

    counter: int
    tokens: int
    tags: int
    width: int
    inner: int | None = None
    any_width: bool = False
    has_texts: bool = False


# Universal NER; Benikova et al. (2014), GermEval; Pradhan et al. (2012), CoNLL-2012, with a column for each predicate.
_KNOWN_COLUMNS = {
    "uner": _KnownColumns(counter=0, tokens=1, tags=2, width=3, has_texts=True),
    "germeval": _KnownColumns(counter=0, tokens=1, tags=2, width=4, inner=3),
    "ontonotes": _KnownColumns(counter=2, tokens=3, tags=10, width=12, any_width=True),
}
_Row = tuple[int, str, list[str]]  # line number, line, its columns; no columns where a line is blank


@dataclass(frozen=True)
class _Layout:
    """The meaning of a file's columns.

    Attributes:
        width: the number of columns.
        tokens: the column of the words, from 0.
        tags: the column of the tags, or `None` where only words are wanted.
        sentence: the column that numbers the sentences, if there is one.
        named: whether the column of the words was chosen by an argument or named in the first line.
        from_the_end: whether a column is counted from the end.
        separator: the character between columns: `"\\t"`, or `None` for spaces.
        header: whether the first line names the columns.
        known: the columns of the format, where it has always the same.
    """

    width: int
    tokens: int
    tags: int | None
    sentence: int | None
    named: bool
    from_the_end: bool
    separator: str | None
    header: bool
    known: _KnownColumns | None = None


def read_columns(
    path: Path,
    tags_column: str | int | None = None,
    tokens_column: str | int | None = None,
    sentence_column: str | int | None = None,
    *,
    is_csv: bool = False,
    words_only: bool = False,
    known_format: str = "conll",
    in_columns: bool = False,
) -> Iterator[RawSentence | SentenceColumns]:
    """Read the sentences of a column file: one word per line, blank lines between sentences.

    Columns are separated by tabs if the first word's line has a tab, otherwise by spaces; in CSV by commas or
    semicolons, with quotes. A first line that names the columns (`word`, `tag` and the like) is no word. All lines
    have as many columns as the first; between tabs a line may have more or fewer, if the columns wanted are counted
    from 0 and present. `-DOCSTART-` lines end a sentence and are skipped. A line that begins with `#` before a
    sentence's first word is a comment, unless `#` is the word: the line has the file's number of columns, and its
    tag occurs with other words or looks like a tag (`B-X`, `O`).

    Args:
        path: the file.
        tags_column: the column of the tags, counted from 0, or from the end if negative, or by its name where the
            first line names the columns. By default the one with a usual name, or else the last.
        tokens_column: the column of the words likewise, by default the one with a usual name, or else the first.
        sentence_column: a column that has another value in every sentence (an empty cell continues the sentence), by
            default the one with a usual name, if any.
        is_csv: whether the file is CSV.
        words_only: Read the words and ignore the tags.
        known_format: `"uner"`, `"germeval"` or `"ontonotes"`: the columns are those of that format.
        in_columns: Give many sentences at a time as [`SentenceColumns`], where nothing is unusual about them.

    Returns:
        The sentences, read as they are asked for.

    Raises:
        CorpusError: if there is no such column, on a line with too many or too few columns, on an empty word, and
            where the file has another format: one column, CoNLL-U, JSON, words that count 1, 2, 3.
    """
    lines = read_lines(path)
    rows = _csv_rows(path, lines) if is_csv else _blank_rows(lines)
    ahead: list[_Row] = []
    first: _Row | None = None
    for row in rows:
        ahead.append(row)
        if first is None and row[2] and (is_csv or not row[1].startswith(("#", DOCUMENT_START))):
            first = row
        if first is not None and len(ahead) >= _LOOK_AHEAD:
            break
    if first is None:
        return
    known = _KNOWN_COLUMNS.get(known_format)
    if known is not None:
        layout = _known_layout(path, first, known_format, known)
    else:
        layout = _layout(path, first, tags_column, tokens_column, sentence_column, is_csv, words_only)
    rest: Iterable[_Row | TextPart] = rows
    usual = known is None and not is_csv and layout.sentence is None and layout.tags is not None
    if in_columns and usual and path.is_file():
        rest = read_parts(path, ahead[-1][0])
    elif layout.separator:
        rest = _tab_rows(rows)
    if layout.separator:
        ahead = list(_tab_rows(ahead))
    if layout.header or _names_columns(path, first, ahead, layout, is_csv):
        ahead = [row for row in ahead if row[0] != first[0]]
    known_tags = _collect_tags(ahead, layout)
    if known is None and tags_column is None and not layout.header:
        _refuse_second_layer(path, ahead, layout)
    sentences = _sentences(path, chain(ahead, rest), layout, known_tags, is_csv)
    yield from sentences if layout.named else _refuse_counters(path, sentences)


def _refuse_second_layer(path: Path, rows: Sequence[_Row], layout: _Layout) -> None:
    """Raise CorpusError if another column has tags of the same entity types as the last one, which nobody chose.

    The outer and the inner entities of nested ones are written so (DaN+), and gold tags beside predicted ones. Chunks
    (`B-NP`) beside entities have other types.
    """
    if layout.tags is None:
        return
    words = [cells for _, line, cells in rows if len(cells) == layout.width and not line.startswith("#")]
    types: dict[int, set[str]] = {}
    for column in range(layout.width):
        tags = {cells[column] for cells in words}
        if column != layout.tokens and all(map(_ENTITY_TAG.fullmatch, tags)):
            types[column] = {tag[2:] for tag in tags if tag != "O"}
    for column, others in types.items():
        if column != layout.tags and (shared := others & types.get(layout.tags, set())):
            shown = ", ".join(sorted(shared)[:5])
            raise CorpusError(
                f"{path}: columns {column} and {layout.tags} (from 0) both have tags of {shown}: "
                f"perhaps outer and inner entities, or gold and predicted ones. Choose with {setting('tags_column')}."
            )


def _names_columns(path: Path, first: _Row, ahead: Sequence[_Row], layout: _Layout, is_csv: bool) -> bool:
    """Whether the first line names the columns, in a file whose columns are given by number.

    It does if its value in the column of the tags is a usual name of such columns, and no other word's tag.

    Raises:
        CorpusError: If the first line of a CSV file has another tag than all others have, of entities (`B-X`, `O`).
    """
    number, line, cells = first
    cells = line.split("\t") if layout.separator else cells
    if layout.tags is None or not layout.named or len(cells) <= layout.tags:
        return False
    others = _collect_tags([row for row in ahead if row[0] != first[0]], layout) - {""}
    tag = cells[layout.tags].strip()
    if not others or not tag or tag in others:
        return False
    if tag.lower() in TAG_COLUMNS:
        logger.info("%s: the first line names the columns, and is no word: %s.", path, line)
        return True
    if is_csv and "O" in others and all(map(_ENTITY_TAG.fullmatch, others)) and not _ENTITY_TAG.fullmatch(tag):
        raise CorpusError(
            f"{path}:{number}: {tag!r} where all other words have tags of entities ({', '.join(sorted(others)[:5])}): "
            f"{line!r:.80}. If the line names the columns, give tokens_column and tags_column by these names; if not, "
            "correct its tag."
        )
    return False


def _csv_rows(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[_Row]:
    iterator = (line for _, line in lines)
    start: list[str] = []
    for line in iterator:
        start.append(line)
        if line.strip():
            break
    separator = max(",;\t", key=start[-1].count) if start else ","
    reader = csv.reader((f"{line}\n" for line in chain(start, iterator)), delimiter=separator, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, separator.join(cells), cells if any(cell.strip() for cell in cells) else []
    except csv.Error as error:
        raise CorpusError(f"{path}:{reader.line_num}: not CSV ({error}).") from error


def _blank_rows(lines: Iterable[tuple[int, str]]) -> Iterator[_Row]:
    """Lines split at blanks; in files with tabs they are split again later, when the separator is known."""
    for number, line in lines:
        line = line.rstrip(" \t")
        yield number, line, [part for part in re.split("[ \t]+", line) if part]


def _tab_rows(rows: Iterable[_Row]) -> Iterator[_Row]:
    return ((number, line, line.split("\t") if columns else []) for number, line, columns in rows)


def _layout(
    path: Path,
    first: _Row,
    tags_column: str | int | None,
    tokens_column: str | int | None,
    sentence_column: str | int | None,
    is_csv: bool,
    words_only: bool,
) -> _Layout:
    number, line, cells = first
    separator = "\t" if not is_csv and "\t" in line else None
    cells = line.split("\t") if separator else cells
    if tokens_column is None and not is_csv and (description := describe_foreign_columns(line)):
        raise CorpusError(f"{path}:{number}: {description}.")
    names = [cell.strip() for cell in cells]
    lower_names = [name.lower() for name in names]
    wanted = [column for column in (tokens_column, tags_column, sentence_column) if column is not None]
    chosen_names = [str(column) for column in wanted if not _is_number(column)]
    if missing := [name for name in chosen_names if name not in names]:
        raise CorpusError(
            f"{path}:{number}: no column {missing[0]!r} is named in the first line, which has {', '.join(names)}. "
            f"Name one of those, or give a number, from 0 ({setting('tokens_column')}, {setting('tags_column')})."
        )
    usual = any(name in TOKEN_COLUMNS for name in lower_names) and any(name in TAG_COLUMNS for name in lower_names)
    header = bool(chosen_names) or (usual and len(set(lower_names)) == len(lower_names))
    if is_csv and not header and (tokens_column is None or (tags_column is None and not words_only)):
        raise CorpusError(
            f"{path}:{number}: the first line does not name the columns: {', '.join(names)}. Say with tokens_column "
            "and tags_column which are the words and the tags: by name if it does after all, else by number, from 0."
        )
    if header:
        logger.info("%s: the first line names the columns: %s.", path, ", ".join(names))

    def index(column: str | int | None, usual_names: Sequence[str], content: str, default: int | None) -> int | None:
        if column is not None and not _is_number(column):
            if names.count(str(column)) > 1:
                raise CorpusError(f"{path}:{number}: several columns are called {column!r}: give the number of one.")
            return names.index(str(column))
        if column is not None:
            if not -len(cells) <= int(column) < len(cells):
                raise CorpusError(f"{path}: {len(cells)} column(s), so there is no column {column}.")
            return int(column) % len(cells)
        candidates = [i for i, name in enumerate(lower_names) if name in usual_names] if header else []
        if len(candidates) > 1:
            several = ", ".join(names[i] for i in candidates)
            raise CorpusError(
                f"{path}: several {content} columns ({several}). Choose with {setting(f'{content}_column')}."
            )
        return candidates[0] if candidates else default

    tokens = index(tokens_column, TOKEN_COLUMNS, "tokens", 0) or 0
    tags = None if words_only else index(tags_column, TAG_COLUMNS, "tags", None)
    from_the_end = any(map(_is_negative, wanted)) or (tags is None and not words_only)
    if tags is None and not words_only:
        tags = len(cells) - 1
    if len(cells) == 1 and not words_only:
        raise CorpusError(f"{path}:{number}: only one column: {line!r:.80}: {advice_on_single_column(line)}.")
    if tokens == tags:
        raise CorpusError(f"{path}: column {tokens} for both the words and the tags.")
    return _Layout(
        width=len(cells),
        tokens=tokens,
        tags=tags,
        sentence=index(sentence_column, SENTENCE_COLUMNS, "sentence", None),
        named=header or tokens_column is not None,
        from_the_end=from_the_end,
        separator=separator,
        header=header,
    )


def _known_layout(path: Path, first: _Row, name: str, known: _KnownColumns) -> _Layout:
    number, line, cells = first
    separator = "\t" if "\t" in line else None
    cells = line.split("\t") if separator else cells
    if len(cells) < known.width or not _NUMBER.fullmatch(cells[known.counter]):
        raise CorpusError(
            f"{path}:{number}: not {name}, which has {known.width} columns or more, column {known.counter} (from 0) "
            f"counting the words: {line!r:.120}."
        )
    return _Layout(len(cells), known.tokens, known.tags, None, True, False, separator, False, known)


def _is_number(column: str | int) -> bool:
    return isinstance(column, int) or re.fullmatch(r"-?\d+", column) is not None


def _is_negative(column: str | int) -> bool:
    return _is_number(column) and int(column) < 0


def _collect_tags(rows: Iterable[_Row], layout: _Layout) -> set[str]:
    """The tags of words that do not begin with `#`."""
    column = layout.tags
    if column is None:
        return set()
    return {cells[column].strip() for _, line, cells in rows if len(cells) > column and not line.startswith("#")}


def _sentences(
    path: Path, parts: Iterable[_Row | TextPart], layout: _Layout, known_tags: set[str], is_csv: bool
) -> Iterator[RawSentence | SentenceColumns]:
    words: list[str] = []
    tags: list[str] = []
    lines: list[int] = []
    sentence_id: str | None = None
    comments = documents = count = inner = 0
    known = layout.known
    text: str | None = None
    other_texts: list[str] = []  # places of sentences whose words are not those of their text
    doubtful: list[int] = []

    def end_sentence() -> Iterator[RawSentence]:
        nonlocal words, tags, lines, count, text
        if words:
            count += 1
            document = str(documents) if documents else None
            sentence = RawSentence(words, None if layout.tags is None else tags, str(path), lines, document=document)
            if text is not None and not place_words(sentence, [SurfaceToken(word, 1, True) for word in words], text):
                other_texts.append(f"{path}:{lines[0]}")
            yield sentence
            text = None
        words, tags, lines = [], [], []

    def single_rows() -> Iterator[_Row | SentenceColumns]:
        nonlocal documents, count
        for part in parts:
            if not isinstance(part, TextPart):
                yield part
                continue
            known = (layout.separator or " ", layout.width, layout.tokens, layout.tags or 0, documents)
            may = part.whole and not words
            if not may or (found := columns_of_lines(str(path), part.data, part.number, *known)) is None:
                rows = _blank_rows(part.lines())
                yield from _tab_rows(rows) if layout.separator else rows
                continue
            columns, begun = found
            documents += begun
            count += len(columns)
            known_tags.update(columns.tags.values.dictionary.to_pylist())
            yield columns

    for row in single_rows():
        if isinstance(row, SentenceColumns):
            yield row
            continue
        number, line, cells = row
        if not cells or line.startswith(DOCUMENT_START):
            yield from end_sentence()
            documents += bool(cells)
            continue
        if known is not None and known.any_width and re.match("#(begin|end) document", line):
            yield from end_sentence()
            documents += line.startswith("#begin")
            continue
        if known is not None and known.has_texts and not words and line.startswith(TEXT):
            text = line.removeprefix(TEXT)
        if not is_csv and not words and line.startswith("#"):
            has_all_columns = len(cells) == layout.width
            if not has_all_columns or not _is_word(cells, layout, known_tags):
                comments += 1
                doubtful += [number] if has_all_columns else []
                continue
        _check_width(path, number, line, cells, layout, is_csv)
        if layout.sentence is not None and (value := cells[layout.sentence].strip()) not in ("", sentence_id):
            yield from end_sentence()
            sentence_id = value
        # A blank after a comma, or before a tab, belongs to no cell: `B-X ` would be another label than `B-X`.
        word = _without_blanks(cells[layout.tokens])
        tag = cells[layout.tags].strip() if layout.tags is not None else "O"
        if not word.strip() or not tag:
            raise CorpusError(f"{path}:{number}: an empty word or tag: {line!r}.")
        if _is_printed_list(word) and _is_printed_list(tag):
            raise CorpusError(
                f"{path}:{number}: a list of words and a list of tags where one word and its tag are expected: "
                f"{line!r:.80}. Tables with one sentence per row are read as JSON lines or Parquet: "
                "frame.to_json(path, orient='records', lines=True), before the lists are written as text."
            )
        if broken := next((cell for cell in cells if "\n" in cell), None):
            raise CorpusError(
                f"{path}:{number}: a cell of several lines, {broken!r:.60}. A quotation mark that is a word has to be "
                'quoted itself, """" (or separate the columns by tabs, in a .tsv file); leave out a column with '
                "line breaks in its texts."
            )
        if known is not None and known.inner is not None and len(cells) > known.inner:
            inner += cells[known.inner] != "O"
        words.append(word)
        tags.append(tag)
        lines.append(number)
        known_tags.add(tag)
    if not count and layout.sentence is None:
        _check_one_sentence(path, len(words), is_csv)
    yield from end_sentence()
    if comments or documents:
        mark = "#begin document" if known is not None and known.any_width else f"{DOCUMENT_START}-"
        logger.info("%s: skipped %d comment(s) and %d %s line(s).", path, comments, documents, mark)
    if known is not None and known.inner is not None:
        logger.warning("%s: the outer entities are read; inner ones of %d word(s) are left out.", path, inner)
    if other_texts:
        warn_of_other_texts(path, other_texts)
    if doubtful:
        logger.warning(
            "%s: %d line(s) that begin with # have as many columns as words have, but a tag that no word has: taken "
            "for comments. The first is line %d.",
            path,
            len(doubtful),
            doubtful[0],
        )


def _check_one_sentence(path: Path, words: int, is_csv: bool) -> None:
    """Warn that a file without a blank line is one sentence, or refuse it.

    Raises:
        CorpusError: for a long CSV file.
    """
    problem = f"{path}: no blank lines and no column that numbers the sentences: all {words} words are one sentence"
    if is_csv and words >= _LONG_SENTENCE:
        raise CorpusError(
            f"{problem}. Name such a column with {setting('sentence_column')}, or put blank lines between sentences."
        )
    if is_csv or words >= _LONG_SENTENCE:
        logger.warning("%s.", problem)


def _without_blanks(cell: str) -> str:
    """A word without the blanks around it, but for one that carries an accent (as `characters` cuts texts)."""
    word = cell.strip(" \t")
    if len(word) == len(cell) or not word:
        return word
    carrier = cell[: cell.index(word)][-1:]
    return carrier + word if carrier and _CLUSTER.match(carrier + word).end() > 1 else word


def _is_printed_list(cell: str) -> bool:
    """Whether a cell looks like a list that was written as text."""
    return len(cell) > 2 and cell[0] == "[" and cell[-1] == "]"


def _is_word(cells: Sequence[str], layout: _Layout, known_tags: set[str]) -> bool:
    """Whether a line that begins with # before a sentence's first word, and has all columns, is a word."""
    if layout.tags is None:
        return layout.width == 1 or cells[0] != "#"
    tag = cells[layout.tags].strip()
    return tag in known_tags or _ENTITY_TAG.fullmatch(tag) is not None


def _check_width(path: Path, number: int, line: str, cells: Sequence[str], layout: _Layout, is_csv: bool) -> None:
    wanted = [column for column in (layout.tokens, layout.tags, layout.sentence) if column is not None]
    # Between tabs a column keeps its number whatever follows it; a space inside a word shifts all later columns.
    any_width = layout.separator or (layout.known is not None and layout.known.any_width)
    if len(cells) == layout.width or (any_width and not layout.from_the_end and len(cells) > max(wanted)):
        return
    advice = "Correct the line"
    if layout.separator:
        advice += ", or name the columns by their numbers from 0 "
        advice += f"({setting('tags_column')}, {setting('tokens_column')})"
    elif not is_csv:
        advice += "; if a word has a blank inside, separate the columns by tabs"
    raise CorpusError(
        f"{path}:{number}: {len(cells)} column(s) where the first line has {layout.width}: {line!r:.200}. {advice}."
    )


def _refuse_counters(
    path: Path, sentences: Iterable[RawSentence | SentenceColumns]
) -> Iterator[RawSentence | SentenceColumns]:
    """The same sentences.

    Raises:
        CorpusError: if the words of all of the first hundred are 1, 2, 3 and so on.
    """
    held: list[RawSentence] = []
    columns: SentenceColumns | None = None
    iterator = iter(sentences)
    later_error: CorpusError | None = None
    try:
        for sentence in iterator:
            if isinstance(sentence, SentenceColumns):
                columns = sentence
                break
            held.append(sentence)
            if not _is_counter(sentence.tokens) or len(held) == _MANY_SENTENCES:
                break
    except CorpusError as error:
        later_error = error
    if all(_is_counter(sentence.tokens) for sentence in held) and any(len(sentence.tokens) > 1 for sentence in held):
        raise CorpusError(
            f"{path}: the first column counts 1, 2, 3 in every sentence, so it is not the words. Say which columns "
            "are the words and the tags with tokens_column and tags_column, counted from 0; or that the file is of "
            f"Universal NER or GermEval: {setting('format', 'uner')}, {setting('format', 'germeval')}."
        )
    yield from held
    if columns is not None:
        yield columns
    if later_error is not None:
        raise later_error
    yield from iterator


def _is_counter(tokens: Sequence[str]) -> bool:
    if not all(_ID.fullmatch(token) for token in tokens):
        return False
    numbers = [int(token) for token in tokens if _NUMBER.fullmatch(token)]
    return bool(numbers) and numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
