"""Reader of CoNLL-U files."""

import logging
from collections.abc import Iterator
from pathlib import Path

from .source_text import CorpusError, RawSentence, blocks, read_lines

logger = logging.getLogger(__name__)

CONLLU_FIELDS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")


def read_conllu(path: Path, field: str = "upos") -> Iterator[RawSentence]:
    """Read the sentences of a CoNLL-U file; multiword ranges (`3-4`) and empty nodes (`3.1`) are skipped.

    Args:
        path: the file.
        field: a field by name (`upos`, `xpos`, `deprel`, ...), or a key inside one: `misc:NER` (`O` where
            a word has none) or `feats:Case` (`_` where a word has none).

    Returns:
        The sentences, with the field's values for tags.

    Raises:
        CorpusError: on an unknown field, a key that no word has, a line without ten columns, or a word without UPOS
            where the field is `upos`.
    """
    name, _, key = field.partition(":")
    if name.lower() not in CONLLU_FIELDS or (key and name.lower() not in ("misc", "feats")):
        raise CorpusError(
            f"{path}: no CoNLL-U field {field!r}. Choose one of {', '.join(CONLLU_FIELDS)}, misc:KEY or feats:KEY."
        )
    index = CONLLU_FIELDS.index(name.lower())
    sentences = _sentences(path, index)
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


def _sentences(path: Path, index: int) -> Iterator[RawSentence]:
    """Sentences with the field of a number for tags."""
    skipped = 0
    for block in blocks(read_lines(path)):
        tokens, tags, lines = [], [], []
        for number, line in block:
            columns = line.split("\t")
            if line.startswith("#") and len(columns) != len(CONLLU_FIELDS):
                continue
            if len(columns) != len(CONLLU_FIELDS):
                raise CorpusError(f"{path}:{number}: {len(columns)} tab-separated columns instead of 10: {line!r}.")
            if "-" in columns[0] or "." in columns[0]:
                skipped += 1
                continue
            tag = columns[index]
            if tag == "_" and CONLLU_FIELDS[index] == "upos":
                raise CorpusError(f"{path}:{number}: word {columns[1]!r} has no UPOS.")
            if not columns[1].strip() or not tag:
                raise CorpusError(f"{path}:{number}: an empty word or tag: {line!r}.")
            tokens.append(columns[1])
            tags.append(tag)
            lines.append(number)
        if tokens:
            yield RawSentence(tokens, tags, str(path), lines)
    if skipped:
        logger.info("%s: skipped %d multiword range(s) and empty node(s).", path, skipped)
