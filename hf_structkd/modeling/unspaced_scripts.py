"""Words of scripts that put no blanks between words, as ICU's dictionaries know them.

ICU's word breaker reads any text (`icu_words`). `rules_and_icu` keeps the rules of `words.py` for all scripts that
they can read, and asks ICU where only a dictionary tells words apart: Thai, Lao, Khmer, Burmese, and Japanese. A text
with Kana is Japanese; its Han characters then belong to ICU's words too. Without Kana each Han character stays a word.
"""

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module

import regex

from .words import split_words

Offsets = list[tuple[int, int]]

_UNSPACED = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Hiragana}\p{Katakana}"
UNSPACED = regex.compile(rf"[{_UNSPACED}]")
_KANA = regex.compile(r"[\p{Hiragana}\p{Katakana}]")
_PROLONGED_SOUND = "\u30fc\uff70"  # of Kana, but in no script of its own
_WITH_HAN = regex.compile(rf"[{_UNSPACED}{_PROLONGED_SOUND}\p{{Han}}]")


def icu_words() -> Callable[[str], Iterator[tuple[int, int]]]:
    """ICU's word breaker: a function from a text to the offsets between its breaks, blanks included.

    Raises:
        ImportError: if PyICU is not installed.
    """
    # Imported by name: transformers requires whatever a checkpoint's code imports.
    icu = import_module("icu")
    return icu_breaks(icu.BreakIterator.createWordInstance(icu.Locale.getRoot()))


def icu_breaks(breaker: object) -> Callable[[str], Iterator[tuple[int, int]]]:
    """What stands between the breaks of one of ICU's iterators, as offsets that count characters."""
    icu = import_module("icu")

    def segment(text: str) -> Iterator[tuple[int, int]]:
        breaker.setText(icu.UnicodeString(text))  # type: ignore[attr-defined]
        # ICU counts UTF-16 units: a character beyond U+FFFF is two of them.
        character_at, units = {0: 0}, 0
        for index, character in enumerate(text, 1):
            units += 2 if character > "\uffff" else 1
            character_at[units] = index
        start = 0
        for unit in breaker:  # type: ignore[attr-defined]
            end = character_at[unit]
            yield start, end
            start = end

    return segment


_breaker = cache(icu_words)


def rules_and_icu(text: str) -> Offsets:
    """The words of a text: by rules, and by ICU where a script has no blanks between words.

    Args:
        text: any text.

    Returns:
        The offsets of its words. PyICU is needed for texts with such scripts alone.

    Raises:
        ImportError: if the text has such a script, and PyICU is not installed.
    """
    words = split_words(text)
    if not UNSPACED.search(text):
        return words
    inside = _WITH_HAN if _KANA.search(text) else UNSPACED
    offsets: Offsets = []
    run: tuple[int, int] | None = None  # neighbouring words by rules that ICU cuts together
    for start, end in [*words, (len(text) + 1, len(text) + 1)]:
        is_unspaced = inside.search(text, start, end) is not None
        if run is not None and is_unspaced and run[1] == start:
            run = run[0], end
            continue
        if run is not None:
            offsets += [(run[0] + a, run[0] + b) for a, b in _breaker()(text[run[0] : run[1]])]
            run = None
        if is_unspaced:
            run = start, end
        elif end <= len(text):
            offsets.append((start, end))
    return offsets
