"""Reader of CoNLL-U and CoNLL-U Plus files.

A sentence's text says where its words stand, and which of them follow their neighbour without a blank.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

from ..modeling.glued_words import glued_flags
from .source_text import CorpusError, RawSentence, blocks, read_lines, setting

logger = logging.getLogger(__name__)

CONLLU_FIELDS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")


_GLOBAL_COLUMNS = "# global.columns ="


def read_conllu(path: Path, field: str | None = None) -> Iterator[RawSentence]:
    """Read the sentences of a CoNLL-U file; multiword ranges (`3-4`) and empty nodes (`3.1`) are skipped.

    CoNLL-U Plus names its columns in the first line (`# global.columns = ID FORM ...`); any of them may be the field.

    Args:
        path: the file.
        field: a field by name (`upos`, the default, `xpos`, `deprel`, ...), or a key inside one: `misc:NER` (`O` where
            a word has none) or `feats:Case` (`_` where a word has none).

    Returns:
        The sentences, with the field's values for tags.

    Raises:
        CorpusError: on an unknown field, a key that no word has, a line without ten columns, or a word without UPOS
            where the field is `upos`.
    """
    columns = _columns(path)
    if field is None and "upos" not in columns:
        raise CorpusError(
            f"{path}: choose the column of the tags with {setting('tags_column')}; there are {', '.join(columns)}."
        )
    field = field or "upos"
    name, key = (field, "") if field.lower() in columns else field.partition(":")[::2]
    if name.lower() not in columns or (key and name.lower() not in ("misc", "feats")):
        raise CorpusError(
            f"{path}: no CoNLL-U field {field!r}. Choose one of {', '.join(columns)}, misc:KEY or feats:KEY."
        )
    sentences = _sentences(path, columns, columns.index(name.lower()))
    if not key:
        yield from sentences
        return
    held: list[RawSentence] = []  # until a word has the key
    keys: set[str] = set()
    for sentence in sentences:
        values = [dict(part.partition("=")[::2] for part in tag.split("|")) for tag in sentence.tags or ()]
        keys.update(*values)
        sentence.tags = [value.get(key, "O" if name.lower() == "misc" else "_") for value in values]
        if "" in sentence.tags:
            raise CorpusError(f"{sentence.place(sentence.tags.index(''))}: an empty {key!r}.")
        held.append(sentence)
        if key in keys:
            yield from held
            held = []
    if held and key not in keys:
        present = ", ".join(sorted(keys - {"_"})) or "none"
        raise CorpusError(f"{path}: no word has the key {key!r} in its {name.lower()}; the keys there are {present}.")


def _columns(path: Path) -> tuple[str, ...]:
    """The names of a file's columns in lower case."""
    first = next((line for _, line in read_lines(path)), "")
    if not first.startswith(_GLOBAL_COLUMNS):
        return CONLLU_FIELDS
    columns = tuple(first.removeprefix(_GLOBAL_COLUMNS).lower().split())
    if "form" not in columns or len(set(columns)) < len(columns):
        raise CorpusError(f"{path}:1: the columns {', '.join(columns)} need a FORM, and each name once.")
    return columns


def _sentences(path: Path, fields: tuple[str, ...], index: int) -> Iterator[RawSentence]:
    """Sentences with the field of a number for tags."""
    document: str | None = None
    skipped, form, number_column = 0, fields.index("form"), fields.index("id") if "id" in fields else None
    misc = fields.index("misc") if "misc" in fields else None
    other_texts: list[str] = []  # places of sentences whose words are not those of their text
    for block in blocks(read_lines(path)):
        tokens, tags, lines = [], [], []
        text: str | None = None
        surface: list[SurfaceToken] = []  # what stands in the text: words, and contractions of several words
        range_end = 0
        for number, line in block:
            columns = line.split("\t")
            if line.startswith("#") and len(columns) != len(fields):
                if re.match(r"#\s*newdoc\b", line):
                    document = f"{path}:{number}"
                elif line.startswith(TEXT):
                    text = line.removeprefix(TEXT)
                continue
            if len(columns) != len(fields):
                raise CorpusError(
                    f"{path}:{number}: {len(columns)} tab-separated columns instead of {len(fields)}: {line!r}."
                )
            has_blank = misc is None or "SpaceAfter=No" not in columns[misc].split("|")
            if number_column is not None and ("-" in columns[number_column] or "." in columns[number_column]):
                skipped += 1
                first, _, last = columns[number_column].partition("-")
                if first.isdecimal() and last.isdecimal():
                    range_end = int(last)
                    surface.append(SurfaceToken(columns[form], max(0, range_end - int(first) + 1), has_blank))
                continue
            tag = columns[index]
            if tag == "_" and fields[index] == "upos":
                raise CorpusError(f"{path}:{number}: word {columns[form]!r} has no UPOS.")
            if not columns[form].strip() or not tag:
                raise CorpusError(f"{path}:{number}: an empty word or tag: {line!r}.")
            tokens.append(columns[form])
            tags.append(tag)
            lines.append(number)
            word_number = columns[number_column] if number_column is not None else ""
            if not (word_number.isdecimal() and int(word_number) <= range_end):
                surface.append(SurfaceToken(columns[form], 1, has_blank))
        if tokens:
            sentence = RawSentence(tokens, tags, str(path), lines, document=document)
            if not place_words(sentence, surface, text):
                other_texts.append(f"{path}:{lines[0]}")
            yield sentence
    if skipped:
        logger.info("%s: skipped %d multiword range(s) and empty node(s).", path, skipped)
    if other_texts:
        warn_of_other_texts(path, other_texts)


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
