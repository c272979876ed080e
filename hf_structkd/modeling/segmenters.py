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
| `rules+icu` | those of `rules`, but of Thai, Lao, Khmer, Burmese and Japanese ICU's: see `rules_and_icu` |
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

from .unspaced_scripts import icu_words, rules_and_icu
from .words import split_words

ENTRY_POINT_GROUP = "hf_structkd.segmenters"
DEFAULT_WORDS = "rules"
DEFAULT_UNSPACED_WORDS = "rules+icu"  # of texts with scripts that have no blanks between words

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
        return checked(words, getattr(words, "__name__", type(words).__name__))
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
            raise SegmenterError(_missing(name, library, extra, error)) from error
        return checked(segment, name)
    installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name in installed:
        return checked(installed[name].load(), name)
    known = [*_BUILT_IN, *(f"{k}:LANGUAGE" if k == "spacy" else k for k in _LIBRARIES), *installed]
    near = get_close_matches(name, known, n=1)
    raise SegmenterError(
        f"unknown segmenter {name!r}. {f'Did you mean {near[0]!r}? ' if near else ''}There are {', '.join(known)}; "
        f"packages add others by an entry point of the group {ENTRY_POINT_GROUP!r}."
    )


def _missing(name: str, library: str, extra: str, error: ImportError) -> str:
    return f"the words of {name!r} need {library}: pip install 'hf_structkd[{extra}]' ({error})"


def checked(segment: Callable[[str], Iterable[Any]], name: str, kind: str = "segmenter") -> Segmenter:
    """A function that finds the parts of a text, with its answers checked.

    Args:
        segment: gives strings or pairs of offsets, as described at [`get_segmenter`].
        name: its name, for messages.
        kind: what it is, for messages.
    """
    source = f"the {kind} {name!r}"

    def find(text: str) -> Offsets:
        offsets: Offsets = []
        if not _VISIBLE.search(text):
            return offsets
        position = 0
        for part in segment(text):
            start, end = _place(part, text, position, source)
            _refuse_lost(text, position, start, source)
            if _VISIBLE.search(text, start, end):
                offsets.append((start, end))
            position = end
        _refuse_lost(text, position, len(text), source)
        return offsets

    return find


def _place(part: Any, text: str, position: int, source: str) -> tuple[int, int]:
    if isinstance(part, str):
        start = text.find(part, position)
        if start < 0 or not part:
            raise SegmenterError(
                f"{source} gave {part!r}, which does not stand in the text from character {position} on: "
                f"{text[position : position + 40]!r}"
            )
        return start, start + len(part)
    try:
        start, end = (int(bound) for bound in part)
    except (TypeError, ValueError):
        raise SegmenterError(
            f"{source} gave {part!r:.60} where a part of the text, or its first character and one past the last, is "
            "meant"
        ) from None
    if not position <= start < end <= len(text):
        raise SegmenterError(
            f"{source} gave the part from character {start} to {end}, after one that ends at {position}, in a text "
            f"of {len(text)} characters"
        )
    return start, end


def _refuse_lost(text: str, start: int, end: int, source: str) -> None:
    if lost := _VISIBLE.search(text, start, end):
        raise SegmenterError(
            f"{source} lost the character {lost.group()!r} at {lost.start()}, in "
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


def _rules_and_icu() -> Callable[[str], Iterable[Any]]:
    def segment(text: str) -> Offsets:
        try:
            return rules_and_icu(text)
        except ImportError as error:
            raise SegmenterError(_missing(DEFAULT_UNSPACED_WORDS, "PyICU", "icu", error)) from error

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
    DEFAULT_UNSPACED_WORDS: ("PyICU", "icu", _rules_and_icu),
    "icu": ("PyICU", "icu", icu_words),
    "jieba": ("jieba", "chinese", _jieba),
    "pythainlp": ("PyThaiNLP", "thai", _pythainlp),
    "spacy": ("spaCy", "spacy", _spacy),
}
