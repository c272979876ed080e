"""The sentences of one source, held as Arrow columns: about what their words take, and not ten times as much.

A million sentences as Python lists take several gigabytes, and Python's garbage collector visits all of them again and
again. Here only a batch is in lists at any time. Tags are numbers into a list of their names: to rename a tag costs
nothing, and all tags of a corpus are known at once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, overload

import datasets
import pyarrow as pa

from ..modeling.glued_words import GluedWords
from .source_text import RawSentence

BATCH = 10_000  # sentences; a constant, so that the same sentences always make the same dataset, to the byte
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


class SentenceTable(Sequence[RawSentence]):
    """Sentences of one source. They are read as [`RawSentence`] objects, made when they are asked for.

    To change such an object does not change the table; [`rename_tags`] and [`rewrite_tags`] do.

    Args:
        sentences: with words; of one source, and read once.
        texts: of how many sentences with a text, from the start, the text and the places of the words in it are kept;
            of all where `None`.
        glued: whether it is kept of all sentences which words are glued.
    """

    def __init__(self, sentences: Iterable[RawSentence], texts: int | None = None, glued: bool = True) -> None:
        self._batches: list[Mapping[str, pa.Array]] = []
        self._tags: list[pa.Array] = []
        self._source = ""
        numbers: dict[str, int] = {}
        iterator = iter(sentences)
        while batch := list(islice(iterator, BATCH)):
            self._source = batch[0].source
            kept = []
            for sentence in batch:
                has_text = sentence.text is not None and (texts is None or texts > 0)
                kept.append(has_text)
                if has_text and texts is not None:
                    texts -= 1
            self._batches.append(_columns(batch, kept, glued))
            self._tags.append(_numbered((sentence.tags for sentence in batch), numbers))
        self._names = list(numbers)

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


def _numbered(rows: Iterable[Sequence[str] | None], numbers: dict[str, int]) -> pa.Array:
    """Tags as numbers; new tags get the next ones."""
    return pa.array(
        [None if tags is None else [numbers.setdefault(tag, len(numbers)) for tag in tags] for tags in rows], _NUMBERS
    )


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
