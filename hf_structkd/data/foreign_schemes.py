"""Tags in schemes and notations other than BIO and BIOES, rewritten as one of these; the entities stay the same.

| name | written | becomes |
|---|---|---|
| BILOU (BILUO) | B, I, L(ast), U(nit), O | BIOES |
| BMES (BMEWO) | B, M(iddle), E, S or W, O | BIOES |
| brackets | `(PER*`, `*`, `*)`, `(PER)`, as in CoNLL-2005, CoNLL-2011/12 and OntoNotes | BIO |
| suffix | `PER-B`, `PER-I` | whatever the letters say |
| other separators, lower case | `B_PER`, `b-per`, `B:PER` | whatever the letters say |
| another word for outside | `o`, `0`, `_`, `OUT`, ... | `O` |

IOB1 and IO tags have the letters of BIO; `tag_checks.py` recognises them. A notation is recognised over the whole
corpus and said in the log; where some tags follow it and others do not, nothing is rewritten.
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence

from .sentence_table import SentenceTable
from .source_text import CorpusError, RawSentence

logger = logging.getLogger(__name__)

_PREFIX = re.compile(r"([BIESLUMW])-(.+)", re.DOTALL)
_SUFFIX = re.compile(r"(.+)-([BIESLUMW])", re.DOTALL)
_NOTATION = re.compile(r"([BIESLUMW])[-_:/|.](.+)", re.DOTALL | re.IGNORECASE)
_BRACKETS = re.compile(r"(?:((?:\([^()*\s]+)*)\*|((?:\([^()*\s]+)+)(?=\)))(\)*)")  # CoNLL-2012 has (PER) for one word
_LETTERS = {"L": "E", "U": "S", "M": "I", "W": "S"}
# In place of O; the last two are the Cyrillic and the Greek letter.
LIKE_O = ("o", "0", "_", "-", "out", "outside", "none", "null", "other", "\u043e", "\u03bf")


def rewrite_foreign_tags(source: str, sentences: SentenceTable) -> str | None:
    """Recognise the notation of a corpus and rewrite its tags, in place, as BIO or BIOES.

    Args:
        source: the name of the corpus, for messages.
        sentences: the sentences.

    Returns:
        What was recognised; `None` if the tags are BIO, BIOES or plain ones, or nothing certain.

    Raises:
        CorpusError: for brackets that do not close, or nested ones.
    """
    tags = sorted(sentences.tag_set)
    if _are_brackets(tags):
        sentences.rewrite_tags(lambda row, brackets: _without_brackets(brackets, lambda: sentences[row]))
        return _say(source, "brackets (PER* *)", "BIO", tags)
    outside = _outside(tags)
    inside = [tag for tag in tags if tag not in (outside, "O")]
    if not inside:
        return None
    rewrite, names = _reader(inside)
    if rewrite is None:
        return None
    if outside is not None:
        names.append(f"{outside!r} as outside")
    if not names:
        return None
    new = {tag: rewrite(tag) for tag in inside} | {outside: "O", "O": "O"}
    sentences.rename_tags({tag: new[tag] for tag in tags})
    scheme = "BIOES" if any(tag[0] in "ES" for tag in new.values() if tag != "O") else "BIO"
    return _say(source, ", ".join(names), scheme, tags)


def _say(source: str, name: str, scheme: str, tags: Sequence[str]) -> str:
    shown = ", ".join([tag for tag in tags if tag != "O"][:6])
    logger.warning("%s: the tags (%s) are read as %s, and rewritten as %s.", source, shown, name, scheme)
    return name


def _outside(tags: Iterable[str]) -> str | None:
    """The one tag that stands where O is meant; `None` if O itself occurs, or none or several might."""
    if "O" in tags:
        return None
    candidates = [tag for tag in tags if tag.lower() in LIKE_O]
    return candidates[0] if len(candidates) == 1 else None


def _reader(inside: Sequence[str]) -> tuple[Callable[[str], str] | None, list[str]]:
    """How tags are read, the function and what is unusual about it; no function where they follow no notation."""
    names: list[str] = []
    read: Callable[[str], tuple[str, str]]
    # An entity begins with one of BIUSW: where no prefix does, L is a type (`L-B`, `L-I`).
    if all(_PREFIX.fullmatch(tag) for tag in inside) and {tag[0] for tag in inside} & set("BIUSW"):
        read = lambda tag: (tag[0], tag[2:])  # noqa: E731
    elif all(_SUFFIX.fullmatch(tag) for tag in inside) and {tag[-1] for tag in inside} & set("BSU"):
        read, names = (lambda tag: (tag[-1], tag[:-2])), ["suffixes"]
    elif all(_NOTATION.fullmatch(tag) for tag in inside) and {tag[0].upper() for tag in inside} & set("BSU"):
        read, names = (lambda tag: (tag[0].upper(), tag[2:])), ["prefixes in another notation"]
    else:
        return None, []
    letters = {read(tag)[0] for tag in inside}
    if letters & set("LUMW"):
        if not (letters <= set("BILU") or letters <= set("BMESW")):
            return None, []
        names.insert(0, "BILOU" if letters & set("LU") else "BMES")
    elif letters == {"I"} and names:
        return None, []

    def rewrite(tag: str) -> str:
        letter, entity_type = read(tag)
        return f"{_LETTERS.get(letter, letter)}-{entity_type}"

    return rewrite, names


def _are_brackets(tags: Sequence[str]) -> bool:
    # A part of a corpus may hold no entity: then `*`, which is no bracket itself, is its only tag.
    return (list(tags) == ["*"] or any("(" in tag or ")" in tag for tag in tags)) and all(
        _BRACKETS.fullmatch(tag) for tag in tags
    )


def _without_brackets(brackets: Sequence[str], sentence: Callable[[], RawSentence]) -> list[str]:
    """The tags of a sentence, which is asked for only where its place is to be named."""
    tags, entity_type = [], ""
    for word, tag in enumerate(brackets):
        match = _BRACKETS.fullmatch(tag)
        opened, alone, closed = match.groups("") if match else ("", "", "")
        types = (opened or alone).split("(")[1:]
        if len(types) > 1 or (types and entity_type) or len(closed) > bool(types or entity_type):
            raise CorpusError(
                f"{sentence().place(word)}: the bracket {tag!r} is nested in another one, or closes none; a tagger "
                "needs entities that do not overlap."
            )
        if types:
            entity_type = types[0]
        tags.append(f"{'B' if types else 'I'}-{entity_type}" if entity_type else "O")
        if closed:
            entity_type = ""
    if entity_type:
        raise CorpusError(f"{sentence().place(len(tags) - 1)}: the bracket ({entity_type}* is not closed.")
    return tags
