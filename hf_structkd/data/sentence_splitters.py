"""How the text of a document becomes sentences: by name, by an installed library, or by a function.

| name | sentences |
|---|---|
| `icu` | those of ICU's sentence breaker; for scripts that mark the ends of sentences |
| `spacy:LANGUAGE` | those of spaCy's rule-based sentencizer, after its tokenizer of the language |
| `pythainlp` | PyThaiNLP's default, for Thai, whose sentences end without a mark |

Other names are looked up among the entry points of the group `hf_structkd.sentence_splitters`: each is a function as
described at `get_splitter`. A name always means the same sentences: a missing library is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..modeling.segmenters import Segmenter, SegmenterError, checked
from ..modeling.unspaced_scripts import icu_breaks

ENTRY_POINT_GROUP = "hf_structkd.sentence_splitters"
_KIND = "sentence splitter"


def get_splitter(sentences: str | Callable[[str], Iterable[Any]]) -> Segmenter:
    """The function that finds the sentences of a text.

    Args:
        sentences: the name of a splitter, see the module; or a function from a text to its sentences, in order:
            strings, or pairs of first character and one past the last.

    Returns:
        A function from a text to the offsets of its sentences. It raises `SegmenterError` as those of
        [`~.modeling.segmenters.get_segmenter`] do: every visible character belongs to one sentence.

    Raises:
        SegmenterError: if the name is unknown, or its library is not installed; the message names what to install.
    """
    if callable(sentences):
        return checked(sentences, getattr(sentences, "__name__", type(sentences).__name__), _KIND)
    if not isinstance(sentences, str):
        raise SegmenterError(
            f"sentences must be the name of a sentence splitter or a function, not {type(sentences).__name__}"
        )
    return _named(sentences)


@cache
def _named(name: str) -> Segmenter:
    kind, _, argument = name.partition(":")
    if kind in _LIBRARIES and bool(argument) == (kind == "spacy"):
        library, extra, make = _LIBRARIES[kind]
        try:
            split = make(argument) if argument else make()
        except ImportError as error:
            raise SegmenterError(
                f"the sentences of {name!r} need {library}: pip install 'hf_structkd[{extra}]' ({error})"
            ) from error
        return checked(split, name, _KIND)
    installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name in installed:
        return checked(installed[name].load(), name, _KIND)
    known = [*(f"{k}:LANGUAGE" if k == "spacy" else k for k in _LIBRARIES), *installed]
    near = get_close_matches(name, known, n=1)
    raise SegmenterError(
        f"unknown sentence splitter {name!r}. {f'Did you mean {near[0]!r}? ' if near else ''}There are "
        f"{', '.join(known)}; packages add others by an entry point of the group {ENTRY_POINT_GROUP!r}."
    )


def _icu() -> Callable[[str], Iterable[Any]]:
    icu = import_module("icu")
    return icu_breaks(icu.BreakIterator.createSentenceInstance(icu.Locale.getRoot()))


def _spacy(language: str) -> Callable[[str], Iterable[Any]]:
    try:
        sentencizer = import_module("spacy").blank(language)
    except ImportError as error:
        if str(error).startswith("[E048]"):  # no such language; other errors name a library to install
            raise SegmenterError(f"spaCy has no language {language!r} for the sentences 'spacy:{language}'") from error
        raise
    sentencizer.add_pipe("sentencizer")
    sentencizer.max_length = 1 << 40  # its limit is for parsers, which need memory
    return lambda text: ((sentence.start_char, sentence.end_char) for sentence in sentencizer(text).sents)


def _pythainlp() -> Callable[[str], Iterable[Any]]:
    import_module("pycrfsuite")  # which its default splitter imports when it is called
    sent_tokenize = import_module("pythainlp.tokenize").sent_tokenize
    return lambda text: sent_tokenize(text, keep_whitespace=True)


_LIBRARIES: dict[str, tuple[str, str, Callable[..., Callable[[str], Iterable[Any]]]]] = {
    "icu": ("PyICU", "icu", _icu),
    "spacy": ("spaCy", "spacy", _spacy),
    "pythainlp": ("PyThaiNLP and python-crfsuite", "thai", _pythainlp),
}
