"""Inputs of the pipeline: one sentence or many, as texts or as words, in any ordered collection."""

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

from .glued_words import GluedWords, flags_of
from .segmenters import Segmenter

TEXT_COLUMNS = ("tokens", "text")
_ADVICE = (
    "give a text, a list of words with is_split_into_words=True, or a list, an array, a column, a generator or a "
    "dataset of either"
)
_BYTES = (bytes, bytearray, memoryview)
_UNORDERED_OR_TEXT = (Mapping, Set, str, *_BYTES)


class Sentence(NamedTuple):
    """One input.

    Attributes:
        text: the text in which offsets count.
        offsets: first character and one past the last of each word.
        words: the words, which know where no blank stands before them.
    """

    text: str
    offsets: list[tuple[int, int]]

    @property
    def words(self) -> GluedWords:
        return GluedWords.of_text(self.text, self.offsets)


def is_one_sentence(inputs: Any, is_split_into_words: bool) -> bool:
    """Whether the inputs are a single sentence: a text, or, with `is_split_into_words`, a list or array of words."""
    return isinstance(inputs, str) or (is_split_into_words and _is_words(inputs))


def read_sentence(item: Any, segment: Segmenter, is_split_into_words: bool = False) -> Sentence:
    """The words of one input.

    Args:
        item: a text, or a list or array of words. Words are joined by blanks, but for those that `GluedWords` glues.
        segment: finds the words of a text.
        is_split_into_words: whether a text is an error.

    Raises:
        TypeError: if it is neither a text nor a list or array of words, or a text with `is_split_into_words`.
    """
    if isinstance(item, str):
        if is_split_into_words:
            raise TypeError(
                f"with is_split_into_words=True an input is a list of words, not a text: {item[:80]!r}; leave the "
                "option out for texts"
            )
        return Sentence(item, segment(item))
    if not _is_words(item):
        raise TypeError(f"an input is a text or a list of words, not {type(item).__name__}: {_hint(item)}")
    text, offsets = "", []
    for place, (word, is_glued) in enumerate(zip(item, flags_of(item))):
        text += word if is_glued or not place else f" {word}"
        offsets.append((len(text) - len(word), len(text)))
    return Sentence(text, offsets)


def iterate_inputs(inputs: Any) -> Iterator[Any]:
    """The inputs one by one, in order; of a `datasets.Dataset` its column of words or texts.

    Raises:
        TypeError: if the object is no collection, has no order, or is a table, whose column must be named.
        ValueError: for a dataset without a column of words or texts.
    """
    if isinstance(inputs, _UNORDERED_OR_TEXT) or _dimensions(inputs) == 0:
        raise TypeError(f"{_ADVICE}, not {type(inputs).__name__}: {_hint(inputs)}")
    if hasattr(inputs, "columns"):
        raise TypeError(f"{_ADVICE}, not {type(inputs).__name__}: name a column, table['text'] for example")
    if (columns := getattr(inputs, "column_names", None)) is not None:
        return _column(inputs, columns)
    if hasattr(inputs, "__iter__"):
        return iter(inputs)
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):  # a dataset in the style of torch
        return (inputs[i] for i in range(len(inputs)))
    raise TypeError(f"{_ADVICE}, not {type(inputs).__name__}")


def _column(dataset: Iterable[Any], columns: Iterable[str]) -> Iterator[Any]:
    for name in TEXT_COLUMNS:
        if name in columns:
            return (row[name] for row in dataset)
    raise ValueError(
        f"a dataset needs a column of words or texts, {' or '.join(map(repr, TEXT_COLUMNS))}; this one has {columns}: "
        "name the column with KeyDataset(dataset, column)"
    )


def _is_words(item: Any) -> bool:
    """Whether an object is a sized, ordered collection of strings: a list, tuple, numpy array, Series or column."""
    if isinstance(item, _UNORDERED_OR_TEXT) or _dimensions(item) == 0 or hasattr(item, "column_names"):
        return False
    if not all(hasattr(item, name) for name in ("__iter__", "__len__", "__getitem__")):
        return False
    return not hasattr(item, "columns") and all(isinstance(word, str) for word in item)


def _dimensions(item: Any) -> int | None:
    dimensions = getattr(item, "ndim", None)
    return dimensions if isinstance(dimensions, int) else None


def _hint(item: Any) -> str:
    """The beginning of a wrong input, and what to do about it."""
    if isinstance(item, _BYTES):
        return "decode them first, for example by data.decode()"
    hint = "; of a dataset, name the column with KeyDataset(dataset, column)" if isinstance(item, Mapping) else ""
    return f"{str(item)[:80]!r}{hint}"
