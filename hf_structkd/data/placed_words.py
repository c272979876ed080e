"""Where the words of a sentence stand in its text, and which of them follow their neighbour without a blank."""

import logging
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

from ..modeling.glued_words import glued_flags
from .source_text import RawSentence

logger = logging.getLogger(__name__)

TEXT = "# text = "  # how CoNLL-U, and column files like it, give the text of a sentence


class SurfaceToken(NamedTuple):
    """A token as it stands in the text.

    Attributes:
        form: its characters.
        words: how many words it is; several for a contraction.
        has_blank: whether a blank follows it, as the source marks it.
    """

    form: str
    words: int
    has_blank: bool


def place_words(sentence: RawSentence, surface: Sequence[SurfaceToken], text: str | None) -> bool:
    """Give a sentence its text, the offsets of its words, and which of them are glued to the one before.

    Without a text it is made of the tokens, if any is marked as having no blank behind it: else nothing tells whether
    the source knows its blanks. The words of a contraction stand in the text if they are its parts (`can`, `not`);
    others (`de`, `el` of `del`) do not, and count as words between blanks.

    Args:
        sentence: its words are those of the tokens; `text`, `offsets` and `glued` are set where they are known.
        surface: the tokens, in order.
        text: as the source has it, or `None`.

    Returns:
        False if the tokens do not stand in the text that the source has.
    """
    if sum(token.words for token in surface) != len(sentence.tokens):
        return text is None
    is_known = text is not None or not all(token.has_blank for token in surface)
    if not is_known:
        return True
    made = "".join(token.form + " " * token.has_blank for token in surface).rstrip(" ")
    bounds = _bounds(surface, made if text is None else text)
    if bounds is None:
        return False
    offsets: list[tuple[int, int] | None] = []
    glued: list[bool] = []
    words = iter(sentence.tokens)
    for (start, _), token, is_glued in zip(bounds, surface, glued_flags(bounds)):
        parts = [next(words) for _ in range(token.words)]
        is_cut = "".join(parts) == token.form
        part_ends = list(accumulate(map(len, parts), initial=start))
        offsets += [(a, b) if is_cut else None for a, b in pairwise(part_ends)]
        glued += [is_glued, *[is_cut] * (len(parts) - 1)][: len(parts)]
    sentence.text, sentence.offsets, sentence.glued = made if text is None else text, offsets, glued
    return True


def _bounds(surface: Sequence[SurfaceToken], text: str) -> list[tuple[int, int]] | None:
    """Where tokens stand in a text, with nothing but blanks between them."""
    bounds, position = [], 0
    for token in surface:
        start = text.find(token.form, position)
        if start < 0 or text[position:start].strip():
            return None
        position = start + len(token.form)
        bounds.append((start, position))
    return None if text[position:].strip() else bounds


def warn_of_other_texts(path: Path, places: Sequence[str]) -> None:
    """Log the number of sentences of a file for which `place_words` returned False, and the first place."""
    logger.warning(
        "%s: the words of %d sentence(s) are not those of their '# text' comment, first at %s.",
        path,
        len(places),
        places[0],
    )
