"""The sentences of one source, held as Arrow columns: about what their words take, and not ten times as much.

A million sentences as Python lists take several gigabytes, and Python's garbage collector visits all of them again and
again. Here only a batch is in lists at any time. Tags are numbers into a list of their names: to rename a tag costs
nothing, and all tags of a corpus are known at once.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any, overload

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..modeling.glued_words import GluedWords
from .source_text import RawSentence, is_text

BATCH = 10_000  # sentences; a constant, so that the same sentences always make the same dataset, to the byte
_NEWLINE, _TAB, _BLANK = b"\n\t "
_DOCUMENT_LINE = re.compile(rb"^-DOCSTART", re.MULTILINE)
_TAGS = "tag numbers"
_WORDS, _NUMBERS = pa.list_(pa.string()), pa.list_(pa.int32())
_TYPES = {
    "tokens": _WORDS,
    "first_line": pa.int64(),
    "lines": pa.list_(pa.int64()),
    "row": pa.string(),
    "text": pa.string(),
    "offsets": pa.list_(_NUMBERS),
    "own_words": pa.bool_(),
    "glued": pa.list_(pa.bool_()),
    "annotated_types": _WORDS,
    "document": pa.string(),
}


@dataclass
class SentenceColumns:
    """Sentences that a reader has checked and made columns of, many at a time: what 1,000 `RawSentence`s would hold.

    Attributes:
        source: the file or dataset.
        tokens: lists of words.
        tags: lists of tags, as a dictionary array; one for each word.
        first_line: the line of each sentence's first word, where one word stands on each line.
        row: the place of each sentence, in other formats.
        document: the number or name of each sentence's document; `None` where the source does not mark them.
    """

    source: str
    tokens: pa.ListArray
    tags: pa.ListArray
    first_line: pa.Array | None = None
    row: pa.Array | None = None
    document: pa.Array | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def first(self, count: int) -> "SentenceColumns":
        """The first sentences."""
        parts = (None if part is None else part[:count] for part in (self.first_line, self.row, self.document))
        return SentenceColumns(self.source, self.tokens[:count], self.tags[:count], *parts)

    def columns(self) -> dict[str, pa.Array]:
        """The columns of a [`SentenceTable`]."""
        known = {"tokens": self.tokens, "first_line": self.first_line, "row": self.row, "document": self.document}
        known["own_words"] = pa.repeat(True, len(self))
        return {name: pa.nulls(len(self)) if known.get(name) is None else known[name] for name in _TYPES}


class SentenceTable(Sequence[RawSentence]):
    """Sentences of one source. They are read as [`RawSentence`] objects, made when they are asked for.

    To change such an object does not change the table; [`rename_tags`] and [`rewrite_tags`] do.

    Args:
        sentences: with words, one by one or as [`SentenceColumns`]; of one source, and read once.
        texts: of how many sentences with a text, from the start, the text and the places of the words in it are kept;
            of all where `None`.
        glued: whether it is kept of all sentences which words are glued.
    """

    def __init__(
        self, sentences: Iterable[RawSentence | SentenceColumns], texts: int | None = None, glued: bool = True
    ) -> None:
        self._batches: list[Mapping[str, pa.Array]] = []
        self._tags: list[pa.Array] = []
        self._source = ""
        self._left, self._glued = texts, glued
        numbers: dict[str, int] = {}
        parts: list[Mapping[str, pa.Array]] = []  # less than a batch
        single: list[RawSentence] = []
        count = 0

        def end_single() -> None:
            if single:
                self._source = single[0].source
                parts.append({**self._columns(single), _TAGS: _numbered((s.tags for s in single), numbers)})
                single.clear()

        for sentence in sentences:
            if isinstance(sentence, SentenceColumns):
                end_single()
                self._source = sentence.source
                parts.append({**sentence.columns(), _TAGS: _renumbered(sentence.tags, numbers)})
                count += len(sentence)
            else:
                single.append(sentence)
                count += 1
            if count >= BATCH:
                end_single()
                *whole, rest = _regrouped(parts)
                for columns in whole:
                    self._keep(columns)
                parts, count = ([rest], len(rest[_TAGS])) if rest else ([], 0)
        end_single()
        for columns in _regrouped(parts):
            if columns:
                self._keep(columns)
        self._names = list(numbers)

    def _keep(self, columns: dict[str, pa.Array]) -> None:
        self._tags.append(columns.pop(_TAGS))
        self._batches.append(columns)

    def _columns(self, batch: Sequence[RawSentence]) -> dict[str, pa.Array]:
        kept = []
        for sentence in batch:
            has_text = sentence.text is not None and (self._left is None or self._left > 0)
            kept.append(has_text)
            if has_text and self._left is not None:
                self._left -= 1
        return _columns(batch, kept, self._glued)

    def __len__(self) -> int:
        return sum(map(len, self._tags))

    def __iter__(self) -> Iterator[RawSentence]:
        for number in range(len(self._batches)):
            yield from self._sentences(number)

    @overload
    def __getitem__(self, index: int) -> RawSentence: ...
    @overload
    def __getitem__(self, index: slice) -> list[RawSentence]: ...
    def __getitem__(self, index: int | slice) -> RawSentence | list[RawSentence]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        number, row = divmod(range(len(self))[index], BATCH)
        return next(self._sentences(number, row))

    @property
    def tag_set(self) -> set[str]:
        """All tags that occur."""
        return set(self._names)

    @property
    def num_tagged(self) -> int:
        """The number of sentences that have tags."""
        return sum(len(tags) - tags.null_count for tags in self._tags)

    def tags(self) -> Iterator[list[str] | None]:
        """The tags of each sentence."""
        names = self._names
        for batch in self._tags:
            for row in batch.to_pylist():
                yield None if row is None else [names[number] for number in row]

    def with_texts(self) -> Iterator[RawSentence]:
        """The sentences whose text is kept."""
        for number, columns in enumerate(self._batches):
            if columns["text"].null_count < len(columns["text"]):
                yield from (sentence for sentence in self._sentences(number) if sentence.text is not None)

    def rename_tags(self, names: Mapping[str, str]) -> None:
        """Give tags other names.

        Args:
            names: each tag that occurs -> its new name.
        """
        self._names = [names[name] for name in self._names]

    def rewrite_tags(self, rewrite: Callable[[int, list[str]], Sequence[str]]) -> None:
        """Give sentences other tags.

        Args:
            rewrite: (number of the sentence, its tags) -> its new tags. It is not asked about sentences without tags.
        """
        numbers: dict[str, int] = {}
        rows = enumerate(self.tags())
        new = (None if tags is None else rewrite(row, tags) for row, tags in rows)
        # The names of the old numbers are needed until the last row has been read.
        rewritten = [_numbered(islice(new, len(batch)), numbers) for batch in self._tags]
        self._tags, self._names = rewritten, list(numbers)

    def illegal_rows(self, legal: Collection[tuple[str, str]]) -> list[int]:
        """The numbers of the sentences in which a tag follows another that it may not follow.

        Args:
            legal: pairs of a tag and the one after it; `O` stands before the first word and after the last.
        """
        names = [*self._names, "O"]
        allowed = np.array([[(a, b) in legal for b in names] for a in names], dtype=bool)
        outside, start, rows = len(names) - 1, 0, []
        for batch in self._tags:
            offsets, numbers = batch.offsets.to_numpy(), batch.values.to_numpy()
            numbers = numbers[offsets[0] : offsets[-1]]
            start += len(batch)
            if not len(numbers):
                continue
            first = (offsets[:-1] - offsets[0])[np.diff(offsets) > 0]  # of each sentence that has tags
            before = np.concatenate(([outside], numbers[:-1]))
            before[first] = outside
            last = np.append(first[1:], len(numbers)) - 1
            wrong = ~allowed[before, numbers]
            wrong[last] |= ~allowed[numbers[last], outside]
            words = np.flatnonzero(wrong)
            inside = np.unique(np.searchsorted(offsets - offsets[0], words, side="right") - 1)  # of the batch
            rows += (inside + start - len(batch)).tolist()
        return rows

    def values(self, name: str) -> Iterator[Any]:
        """An attribute of all sentences that is neither their tags nor their lines: `"tokens"`, `"document"`, ..."""
        for columns in self._batches:
            yield from columns[name].to_pylist()

    def any_value(self, name: str) -> bool:
        """Whether an attribute is not `None` for some sentence."""
        return any(columns[name].null_count < len(columns[name]) for columns in self._batches)

    def arrow_batches(self) -> Iterator[dict[str, pa.Array]]:
        """Words and tags (as text), some sentences at a time: `{"tokens": ..., "tags": ...}`."""
        names = pa.array(self._names, pa.string())
        for columns, tags in zip(self._batches, self._tags):
            as_text = names.take(tags.values)
            mask = tags.is_null() if tags.null_count else None
            yield {"tokens": columns["tokens"], "tags": pa.ListArray.from_arrays(tags.offsets, as_text, mask=mask)}

    def _sentences(self, number: int, row: int | None = None) -> Iterator[RawSentence]:
        """The sentences of a batch, or one of them."""
        start, count = (0, BATCH) if row is None else (row, 1)
        columns = self._batches[number]
        lists = {name: column.slice(start, count).to_pylist() for name, column in columns.items()}
        tags = self._tags[number].slice(start, count).to_pylist()
        for values, numbers in zip(zip(*lists.values()), tags):
            fields = dict(zip(lists, values))
            first, lines = fields.pop("first_line"), fields.pop("lines")
            if first is not None:
                lines = range(first, first + len(fields["tokens"]))
            fields["row"] = fields["row"] or ""
            fields["offsets"] = [None if place is None else (place[0], place[1]) for place in fields["offsets"] or ()]
            named = None if numbers is None else [self._names[each] for each in numbers]
            yield RawSentence(tags=named, source=self._source, lines=lines or (), **fields)


def _columns(batch: Sequence[RawSentence], kept: Sequence[bool], glued: bool) -> dict[str, pa.Array]:
    # Words of a sentence mostly stand on lines that follow each other: the first is enough then.
    in_sequence = [
        bool(s.lines) and list(s.lines) == list(range(s.lines[0], s.lines[0] + len(s.lines))) for s in batch
    ]
    values: dict[str, list[Any]] = {
        "tokens": [s.tokens for s in batch],
        "first_line": [s.lines[0] if follow else None for s, follow in zip(batch, in_sequence)],
        "lines": [list(s.lines) if s.lines and not follow else None for s, follow in zip(batch, in_sequence)],
        "row": [s.row or None for s in batch],
        "text": [s.text if keep else None for s, keep in zip(batch, kept)],
        "offsets": [s.offsets if keep else None for s, keep in zip(batch, kept)],
        "own_words": [s.own_words for s in batch],
        "glued": [s.glued if glued else None for s in batch],
        "annotated_types": [s.annotated_types for s in batch],
        "document": [s.document for s in batch],
    }
    # Nulls alone take no memory as a column of the type null.
    return {
        name: pa.nulls(len(batch)) if all(value is None for value in column) else pa.array(column, _TYPES[name])
        for name, column in values.items()
    }


def _regrouped(parts: Sequence[Mapping[str, pa.Array]]) -> list[dict[str, pa.Array]]:
    """The same rows in batches of `BATCH`, and what is left; `{}` if nothing is."""
    total = sum(len(part[_TAGS]) for part in parts)
    joined: dict[str, pa.Array] = {}
    for name in parts[0] if parts else ():
        arrays = [part[name] for part in parts]
        typed = [array.type for array in arrays if not pa.types.is_null(array.type)]
        arrays = [pa.nulls(len(a), typed[0]) if typed and pa.types.is_null(a.type) else a for a in arrays]
        joined[name] = pa.concat_arrays(arrays) if len(arrays) > 1 else arrays[0]
    starts = range(0, total, BATCH)
    whole = [{name: _apart(array, start) for name, array in joined.items()} for start in starts]
    return [*whole, {}] if total % BATCH == 0 else whole


def _apart(column: pa.Array, start: int) -> pa.Array:
    """A batch of a column that holds no other rows."""
    if start == 0 and len(column) <= BATCH:
        return column
    part = column.slice(start, BATCH)
    # Nulls alone take no memory as a column of the type null.
    return pa.nulls(len(part)) if part.null_count == len(part) else pa.concat_arrays([part, part[:0]])


def _renumbered(tags: pa.ListArray, numbers: dict[str, int]) -> pa.Array:
    """Tags of a dictionary as numbers; new tags get the next ones."""
    encoded = tags.flatten()
    names = encoded.dictionary.to_pylist()
    indices = encoded.indices.to_numpy()
    _, first = np.unique(indices, return_index=True)  # tags that occur, in the order in which they do
    new = np.zeros(len(names), np.int32)
    for index in indices[np.sort(first)].tolist():
        new[index] = numbers.setdefault(names[index], len(numbers))
    offsets = tags.offsets.to_numpy()
    return pa.ListArray.from_arrays(pa.array(offsets - offsets[0], pa.int32()), pa.array(new[indices], pa.int32()))


def _numbered(rows: Iterable[Sequence[str] | None], numbers: dict[str, int]) -> pa.Array:
    """Tags as numbers; new tags get the next ones."""
    return pa.array(
        [None if tags is None else [numbers.setdefault(tag, len(numbers)) for tag in tags] for tags in rows], _NUMBERS
    )


def columns_of_lists(
    source: str, tokens: pa.Array, tags: pa.Array, names: Sequence[str] | None, places: Sequence[str]
) -> SentenceColumns | None:
    """Sentences of two columns of lists, if nothing is wrong with them: `None` leaves it to others to say what is.

    Args:
        source: the name of the table.
        tokens: lists of words.
        tags: lists of tags, or of class indices.
        names: the names of class indices.
        places: the place of each row.
    """
    try:
        if not (_are_lists(tokens) and _are_lists(tags) and _are_texts(tokens.type.value_type)):
            return None
        tokens = tokens.cast(_WORDS)
        words, flat = tokens.flatten(), tags.flatten()
        if pa.types.is_integer(flat.type):
            if names is None or flat.null_count or not len(flat):
                return None
            bounds = pc.min_max(flat)
            if bounds["min"].as_py() < 0 or bounds["max"].as_py() >= len(names):
                return None
            encoded = pa.DictionaryArray.from_arrays(flat.cast(pa.int32()), pa.array(list(names), pa.string()))
        elif _are_texts(flat.type):
            encoded = flat.cast(pa.string()).dictionary_encode()
        else:
            return None
        words.validate(full=True)
        encoded.dictionary.validate(full=True)
    except pa.ArrowException:
        return None
    offsets, tag_offsets = (column.offsets.to_numpy() for column in (tokens, tags))
    offsets, tag_offsets = offsets - offsets[0], tag_offsets - tag_offsets[0]
    known = encoded.dictionary.to_pylist()
    if (
        not np.array_equal(offsets, tag_offsets)
        or (np.diff(offsets) == 0).any()
        or words.null_count
        or encoded.null_count
        or not are_words(words)
        or not all(is_text(tag) and tag and tag == tag.strip() for tag in known)
    ):
        return None
    bounds = pa.array(offsets, pa.int32())
    return SentenceColumns(
        source,
        pa.ListArray.from_arrays(bounds, words),
        pa.ListArray.from_arrays(bounds, encoded),
        row=pa.array(places, pa.string()),
    )


def _are_lists(column: pa.Array) -> bool:
    return pa.types.is_list(column.type) and column.null_count == 0


def _are_texts(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def are_words(words: pa.StringArray) -> bool:
    """Whether all are words that every file can store: not empty, no blanks alone, no NUL."""
    lengths = pc.binary_length(words)
    if len(words) and pc.min(lengths).as_py() == 0:
        return False
    values = np.frombuffer(words.buffers()[2], np.uint8)  # with those of other rows, where the column is a part
    # What the characters 28 to 31 are, Arrow and Python do not agree on.
    if (values == 0).any() or ((values >= 28) & (values < 32)).any():
        return False
    return not pc.any(pc.utf8_is_space(words)).as_py()


def columns_of_lines(
    source: str, data: bytes, number: int, separator: str, width: int, tokens: int, tags: int, documents: int
) -> tuple[SentenceColumns, int] | None:
    """Sentences of lines with one word each, if all are what most are: `None` leaves them to a reader of lines.

    Lines that are not are those with another number of columns, blanks around them, comments before a sentence,
    carriage returns and other control characters, cells without a text, or printed lists; and bytes that are no UTF-8.

    Args:
        source: the file.
        data: whole lines, and whole sentences.
        number: of the first line.
        separator: between columns, a tab or a blank.
        width: the number of columns.
        tokens, tags: which columns the words and the tags are.
        documents: how many documents have begun before.

    Returns:
        The sentences, and how many documents begin among them.
    """
    data = data.replace(b"\r\n", b"\n")
    if not data.endswith(b"\n"):
        data += b"\n"
    text, between = np.frombuffer(data, np.uint8), ord(separator)
    is_end = text == _NEWLINE
    is_cell_end = is_end | (text == between)
    if np.count_nonzero(text < _BLANK) != np.count_nonzero(is_cell_end if between < _BLANK else is_end):
        return None
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    ends = np.flatnonzero(is_cell_end)
    starts = np.concatenate(([0], ends[:-1] + 1))
    last_cells = np.flatnonzero(is_end[ends])  # of each line
    cells = np.diff(last_cells, prepend=-1)
    line_ends = ends[last_cells]
    line_starts = np.concatenate(([0], line_ends[:-1] + 1))
    is_blank = line_starts == line_ends
    begins_document = np.zeros(len(line_ends), dtype=bool)
    for match in _DOCUMENT_LINE.finditer(data):
        begins_document[np.searchsorted(line_starts, match.start())] = True
    is_word = ~(is_blank | begins_document)
    is_first = is_word & ~np.concatenate(([False], is_word[:-1]))
    last_bytes = text[line_ends[is_word] - 1]
    if (
        not is_word.any()
        or (cells[is_word] != width).any()
        or ((last_bytes == _BLANK) | (last_bytes == _TAB)).any()
        or (text[line_starts[is_first]] == ord("#")).any()
    ):
        return None
    of_words = np.repeat(is_word, cells)
    starts, ends = starts[of_words].reshape(-1, width), ends[of_words].reshape(-1, width)
    wanted = slice(None) if between == _BLANK else [tokens, tags]  # blanks that follow each other are one separator
    if (starts[:, wanted] == ends[:, wanted]).any() or (text[starts[:, tags]] == ord("[")).any():
        return None
    if between == _TAB and any((text[at[:, [tokens, tags]]] == _BLANK).any() for at in (starts, ends - 1)):
        return None  # blanks at the ends of a cell
    words, tag_texts = (_texts(text, starts[:, column], ends[:, column]) for column in (tokens, tags))
    if not are_words(words):
        return None
    first = np.flatnonzero(is_first)
    offsets = pa.array(np.append(np.cumsum(is_word)[first] - 1, len(words)), pa.int32())
    document = None
    begun = np.cumsum(begins_document) + documents
    if begun[-1]:
        document = pa.array([str(count) if count else None for count in begun[first].tolist()], pa.string())
    columns = SentenceColumns(
        source,
        pa.ListArray.from_arrays(offsets, words),
        pa.ListArray.from_arrays(offsets, tag_texts.dictionary_encode()),
        first_line=pa.array(first + number, pa.int64()),
        document=document,
    )
    return columns, int(begun[-1]) - documents


def _texts(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> pa.StringArray:
    """Texts that stand between two places each."""
    lengths = ends - starts
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    values = data[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)]
    buffers = pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(values)
    return pa.StringArray.from_buffers(len(lengths), *buffers)


def word_batches(sentences: Iterable[Sequence[str]], glued: bool = False) -> Iterator[dict[str, pa.Array]]:
    """Sentences without tags as Arrow columns, some at a time: `{"tokens": ...}`.

    Args:
        sentences: lists of words.
        glued: adds a column `glued`: which words follow their neighbour without a blank, null where nobody knows.
    """
    iterator = iter(sentences)
    while batch := list(islice(iterator, BATCH)):
        columns = {"tokens": pa.array(batch, _WORDS)}
        if glued:
            flags = [words.glued if isinstance(words, GluedWords) else None for words in batch]
            columns["glued"] = pa.array(flags, _TYPES["glued"])
        yield columns


def arrow_dataset(batches: Iterable[Mapping[str, pa.Array]], info: datasets.DatasetInfo) -> datasets.Dataset:
    """A dataset in memory of Arrow batches, without a copy.

    Args:
        batches: one at least, with the columns of `info.features`.
        info: of the dataset.

    Returns:
        The dataset. Its fingerprint, by which `datasets` finds what it has stored, is a hash of the content.
    """
    schema = info.features.arrow_schema
    digest = sha256(repr((schema, info)).encode())
    records = []
    for columns in batches:
        arrays = [columns[name].cast(schema.field(name).type) for name in schema.names]
        record = pa.RecordBatch.from_arrays(arrays, schema=schema)
        digest.update(record.serialize())
        records.append(record)
    table = datasets.table.InMemoryTable(pa.Table.from_batches(records, schema))
    return datasets.Dataset(table, info=info, fingerprint=digest.hexdigest()[:16])
