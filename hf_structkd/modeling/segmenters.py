"""How raw text becomes words: by name, by an installed library, or by a function.

A tagger knows words as its training corpora cut them. So the name of its segmenter is stored in its configuration
(`words`), and everything that meets raw text uses it: the pipeline, ONNX, readers of annotations with character
offsets, text without tags. A name always means the same words: where its library is missing, that is an error and not
another segmenter.

| name | words |
|---|---|
| `rules` | those of `split_words`, for scripts with spaces between words |
| `whitespace` | whatever stands between blanks |
| `characters` | one character each, with its marks; blanks belong to none. For scripts without spaces |
| `icu` | ICU's word breaker; dictionaries for Thai, Lao, Khmer, Burmese, Chinese and Japanese |
| `jieba` | jieba's, for Chinese |
| `pythainlp` | PyThaiNLP's default, for Thai |
| `spacy:LANGUAGE` | the tokenizer of spaCy's blank pipeline of a language, such as `spacy:ja` |

Other names are looked up among the entry points of the group `hf_structkd.segmenters`: each is a function as described
at `get_segmenter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import regex

from .words import split_words

ENTRY_POINT_GROUP = "hf_structkd.segmenters"
DEFAULT_WORDS = "rules"

Offsets = list[tuple[int, int]]
Segmenter = Callable[[str], Offsets]

_VISIBLE = regex.compile(r"[^\p{Z}\p{Cc}\p{Cf}\p{Cs}]")
_NOT_BLANK = regex.compile(r"[^\p{Z}\p{Cc}]+")
_CHARACTER = regex.compile(r"\X")


class SegmenterError(ValueError):
    """A segmenter that is unknown, not installed, or gives words that are not those of the text."""


def get_segmenter(words: str | Callable[[str], Iterable[Any]]) -> Segmenter:
    """The function that finds the words of a text.

    Args:
        words: the name of a segmenter, see the module; or a function from a text to its words, in order: strings, or
            pairs of first character and one past the last.

    Returns:
        A function from a text to the offsets of its words, in code points of the text as it is given. It raises
        `SegmenterError` where words overlap, go backwards, are empty or not in the text, or where visible characters
        belong to no word. Words of blanks and invisible characters alone are left out.

    Raises:
        SegmenterError: if the name is unknown, or its library is not installed; the message names what to install.
    """
    if callable(words):
        return _checked(words, getattr(words, "__name__", type(words).__name__))
    if not isinstance(words, str):
        raise SegmenterError(f"words must be the name of a segmenter or a function, not {type(words).__name__}")
    return _named(words)


@cache
def _named(name: str) -> Segmenter:
    kind, _, argument = name.partition(":")
    if kind in _BUILT_IN and not argument:
        return _BUILT_IN[kind]
    if kind in _LIBRARIES and bool(argument) == (kind == "spacy"):
        library, extra, make = _LIBRARIES[kind]
        try:
            segment = make(argument) if argument else make()
        except ImportError as error:
            raise SegmenterError(
                f"the words of {name!r} need {library}: pip install 'hf_structkd[{extra}]' ({error})"
            ) from error
        return _checked(segment, name)
    installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name in installed:
        return _checked(installed[name].load(), name)
    known = [*_BUILT_IN, *(f"{k}:LANGUAGE" if k == "spacy" else k for k in _LIBRARIES), *installed]
    near = get_close_matches(name, known, n=1)
    raise SegmenterError(
        f"unknown segmenter {name!r}. {f'Did you mean {near[0]!r}? ' if near else ''}There are {', '.join(known)}; "
        f"packages add others by an entry point of the group {ENTRY_POINT_GROUP!r}."
    )


def _checked(segment: Callable[[str], Iterable[Any]], name: str) -> Segmenter:
    def checked(text: str) -> Offsets:
        offsets: Offsets = []
        position = 0
        for word in segment(text):
            start, end = _place(word, text, position, name)
            _refuse_lost(text, position, start, name)
            if _VISIBLE.search(text, start, end):
                offsets.append((start, end))
            position = end
        _refuse_lost(text, position, len(text), name)
        return offsets

    return checked


def _place(word: Any, text: str, position: int, name: str) -> tuple[int, int]:
    if isinstance(word, str):
        start = text.find(word, position)
        if start < 0 or not word:
            raise SegmenterError(
                f"the segmenter {name!r} gave the word {word!r}, which does not stand in the text from character "
                f"{position} on: {text[position : position + 40]!r}"
            )
        return start, start + len(word)
    try:
        start, end = (int(bound) for bound in word)
    except (TypeError, ValueError):
        raise SegmenterError(
            f"the segmenter {name!r} gave {word!r:.60} where a word, or its first character and one past the last, is "
            "meant"
        ) from None
    if not position <= start < end <= len(text):
        raise SegmenterError(
            f"the segmenter {name!r} gave the word from character {start} to {end}, after one that ends at "
            f"{position}, in a text of {len(text)} characters"
        )
    return start, end


def _refuse_lost(text: str, start: int, end: int, name: str) -> None:
    if lost := _VISIBLE.search(text, start, end):
        raise SegmenterError(
            f"the segmenter {name!r} lost the character {lost.group()!r} at {lost.start()}, in "
            f"{text[max(0, lost.start() - 20) : lost.start() + 20]!r}"
        )


# ---- segmenters that are always there ----


def _split_at_blanks(text: str) -> Offsets:
    return [match.span() for match in _NOT_BLANK.finditer(text) if _VISIBLE.search(match.group())]


def _split_characters(text: str) -> Offsets:
    return [match.span() for match in _CHARACTER.finditer(text) if _VISIBLE.search(match.group())]


_BUILT_IN: dict[str, Segmenter] = {
    DEFAULT_WORDS: split_words,
    "whitespace": _split_at_blanks,
    "characters": _split_characters,
}

# ---- segmenters of libraries ----

# Imported when they are asked for, and by name: transformers requires whatever a checkpoint's code imports.


def _icu() -> Callable[[str], Iterable[Any]]:
    icu = import_module("icu")
    breaker = icu.BreakIterator.createWordInstance(icu.Locale.getRoot())

    def segment(text: str) -> Iterable[tuple[int, int]]:
        breaker.setText(icu.UnicodeString(text))
        # ICU counts UTF-16 units: a character beyond U+FFFF is two of them.
        character_at, units = {0: 0}, 0
        for index, character in enumerate(text, 1):
            units += 2 if character > "\uffff" else 1
            character_at[units] = index
        start = 0
        for unit in breaker:
            end = character_at[unit]
            yield start, end
            start = end

    return segment


def _jieba() -> Callable[[str], Iterable[Any]]:
    jieba = import_module("jieba")
    jieba.setLogLevel("WARNING")
    return lambda text: ((start, end) for _, start, end in jieba.tokenize(text))


def _pythainlp() -> Callable[[str], Iterable[Any]]:
    word_tokenize = import_module("pythainlp.tokenize").word_tokenize
    return lambda text: word_tokenize(text, keep_whitespace=True)


def _spacy(language: str) -> Callable[[str], Iterable[Any]]:
    try:
        tokenizer = import_module("spacy").blank(language).tokenizer
    except ImportError as error:
        if str(error).startswith("[E048]"):  # no such language; other errors name a library to install
            raise SegmenterError(f"spaCy has no language {language!r} for the words 'spacy:{language}'") from error
        raise
    return lambda text: ((token.idx, token.idx + len(token)) for token in tokenizer(text))


_LIBRARIES: dict[str, tuple[str, str, Callable[..., Callable[[str], Iterable[Any]]]]] = {
    "icu": ("PyICU", "icu", _icu),
    "jieba": ("jieba", "chinese", _jieba),
    "pythainlp": ("PyThaiNLP", "thai", _pythainlp),
    "spacy": ("spaCy", "spacy", _spacy),
}
