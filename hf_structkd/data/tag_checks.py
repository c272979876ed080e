"""Checks of a corpus's tags: in the label set, in a known scheme, legal in it; and conversion to another scheme."""

import logging
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from ..modeling.tag_scheme import SchemeName, TagScheme, convert_tags, infer_scheme, split_tag
from .source_text import CorpusError, RawSentence

logger = logging.getLogger(__name__)

Orphans = Literal["accept", "repair", "refuse"]
_OTHER_PREFIX = re.compile(r"([BIESLUMW])-.+", re.DOTALL)  # of BILOU, BMES and their relatives
_SUFFIX = re.compile(r".+-([BIESLUM])", re.DOTALL)
_NOTATION = re.compile(r"([BIESLUMW])([-_:/|.])(.+)", re.DOTALL | re.IGNORECASE)  # B_PER, b-per, B:PER
# In place of O; the last two are the Cyrillic and the Greek letter.
_LIKE_O = ("o", "0", "_", "-", "out", "outside", "none", "null", "other", "\u043e", "\u03bf")


def check_labels(sentences: Iterable[RawSentence], label_names: Sequence[str]) -> None:
    """Refuse tags outside the label set.

    Raises:
        CorpusError: it names the place, and the nearest label.
    """
    labels = set(label_names)
    for sentence in sentences:
        for i, tag in enumerate(sentence.tags or ()):
            if tag not in labels:
                near = get_close_matches(tag, label_names, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise CorpusError(
                    f"{sentence.place(i)}: tag {tag!r} of {sentence.tokens[i]!r} is not in the label set "
                    f"{list(label_names)}.{hint}"
                )


def treat_orphans(
    source: str,
    sentences: Sequence[RawSentence],
    scheme: SchemeName | None,
    orphans: Orphans,
    label_names: Sequence[str] | None,
) -> SchemeName:
    """Count illegal tag sequences, and accept, repair (in place) or refuse them.

    Args:
        source: the name of the corpus, for messages.
        sentences: the sentences that have tags.
        scheme: as for [`load_corpus`], like the other arguments.

    Returns:
        The scheme that the tags follow.

    Raises:
        CorpusError: if the tags follow a scheme that is not supported, or are illegal and `orphans` is "refuse".
    """
    tags = sorted({tag for sentence in sentences for tag in sentence.tags or ()})
    name = scheme or infer_scheme(label_names or tags)
    if name == "plain":
        if scheme is None:
            _check_plain(source, tags)
        return name
    # With the complete label set, so that an IOB1 corpus without any B-PER is judged, and repaired, as BIO.
    types = sorted({split_tag(tag)[1] for tag in tags if split_tag(tag)[0]})
    full = TagScheme.from_entity_types(types, name)
    for sentence in sentences:
        for i, tag in enumerate(sentence.tags or ()):
            if tag not in full.tags:
                raise CorpusError(f"{sentence.place(i)}: {tag!r} is not a {name} tag.")
    legal = {(a, b) for a, row in zip(full.tags, full.allowed.tolist()) for b, ok in zip(full.tags, row) if ok}
    illegal = [sentence for sentence in sentences if not _is_legal(sentence, legal)]
    if not illegal:
        return name
    first = full.violations(illegal[0].tags or ())[0]
    where, before = illegal[0].place(first), ("O", *(illegal[0].tags or ()))[first]
    tag = (illegal[0].tags or ())[first]
    is_iob1 = name == "BIO" and _is_iob1(sentences)
    if orphans == "refuse":
        reading = "The corpus reads as IOB1, which orphans='accept' makes BIO" if is_iob1 else "Correct it"
        raise CorpusError(
            f"{where}: {tag!r} after {before!r} is not legal {name}. {reading}, or load with orphans='repair' or "
            "orphans='accept'."
        )
    words = sum(len(full.violations(sentence.tags or ())) for sentence in illegal)
    if is_iob1 or orphans == "repair":
        for sentence in illegal:
            sentence.tags = full.repair(sentence.tags or ())
            missing = sorted(set(sentence.tags) - set(label_names)) if label_names is not None else []
            if missing:
                raise CorpusError(f"{where}: the repair needs {missing}, not in label_names.")
    if is_iob1:
        logger.warning(
            "%s: read as IOB1, since B- stands only between two entities of one type, or nowhere: %d I- tag(s) that "
            "begin an entity are now B-, in %d of %d sentences. (IO tags read the same.)",
            *(source, words, len(illegal), len(sentences)),
        )
        return name
    outcome = "repaired" if orphans == "repair" else "accepted (strict evaluation sees no entity there)"
    counted = (source, words, name, len(illegal), len(sentences), outcome)
    logger.warning("%s: %d illegal %s tag(s) in %d of %d sentences %s.", *counted)
    return name


def convert(source: str, sentences: Sequence[RawSentence], scheme: Any, to_scheme: Any) -> None:
    """Rewrite tags in another scheme, in place.

    Raises:
        CorpusError: for plain tags, and for tag sequences that are illegal in their scheme.
    """
    if "plain" in (scheme, to_scheme):
        raise CorpusError(f"{source}: {scheme} tags cannot be rewritten as {to_scheme} tags.")
    for sentence in sentences:
        try:
            sentence.tags = convert_tags(sentence.tags or (), scheme, to_scheme)
        except ValueError as error:
            raise CorpusError(f"{sentence.place(0)}: {error} orphans='repair' does.") from error


def _is_legal(sentence: RawSentence, legal: set[tuple[str, str]]) -> bool:
    tags = sentence.tags or ()
    return all(pair in legal for pair in zip(("O", *tags), (*tags, "O")))


def _is_iob1(sentences: Iterable[RawSentence]) -> bool:
    """Whether every B- stands as in IOB1: after a word of the same type."""
    for sentence in sentences:
        before = ("", "")
        for tag in sentence.tags or ():
            prefix, entity_type = split_tag(tag)
            if prefix == "B" and not (before[0] and before[1] == entity_type):
                return False
            before = (prefix, entity_type)
    return True


def _check_plain(source: str, tags: Sequence[str]) -> None:
    """Check that tags that are neither BIO nor BIOES are plain tags.

    Raises:
        CorpusError: if they follow another scheme of entities, or one of them stands in place of `O`.
    """
    inside = [tag for tag in tags if tag != "O"]
    advice = "or give scheme='plain' (tag_scheme in recipes) if the tags are no entities"
    prefixes = {match[1] for tag in inside if (match := _OTHER_PREFIX.fullmatch(tag))}
    if inside and all(_OTHER_PREFIX.fullmatch(tag) for tag in inside) and prefixes & {"B", "I", "L", "U", "M"}:
        kind = "BMES" if "M" in prefixes else "BILOU"
        rewrite = "M- as I-" if "M" in prefixes else "L- as E- and U- as S-"
        raise CorpusError(
            f"{source}: the tags {', '.join(inside[:8])} look like {kind}, which is not read. Write {rewrite} "
            f"(W- as S-), which is BIOES, {advice}."
        )
    suffixes = {match[1] for tag in inside if (match := _SUFFIX.fullmatch(tag))}
    if inside and all(_SUFFIX.fullmatch(tag) for tag in inside) and suffixes & {"B", "S", "U"}:
        raise CorpusError(
            f"{source}: the tags {', '.join(inside[:8])} have B and I at their end. Write PER-B as B-PER, {advice}."
        )
    written = [_NOTATION.fullmatch(tag) for tag in inside if tag.lower() not in _LIKE_O]
    prefixes = {match[1].upper() for match in written if match}
    if written and all(written) and "B" in prefixes and any(not split_tag(match[0])[0] for match in written if match):
        example = next(match for match in written if match and not split_tag(match[0])[0])
        raise CorpusError(
            f"{source}: the tags {', '.join(inside[:8])} look like entities in another notation. Write {example[0]} "
            f"as {example[1].upper()}-{example[3]}, and what is outside of all entities as O, {advice}."
        )
    odd = [tag for tag in inside if not split_tag(tag)[0]]
    prefixed = [tag for tag in inside if split_tag(tag)[0] and tag not in ("B", "I", "E", "S")]
    if prefixed and "O" not in tags and len(odd) == 1 and odd[0].lower() in _LIKE_O:
        raise CorpusError(
            f"{source}: {odd[0]!r} stands where O is meant: all other tags ({', '.join(prefixed[:8])}) begin with B- "
            f"or I-, and only 'O' is outside of all entities. Write 'O', {advice}."
        )
    if inside and "O" in tags and not prefixed:
        logger.warning(
            "%s: the tags %s are read as plain ones: one for each word, scored by word. If they mark entities, write "
            "tags such as B-PER and I-PER; scheme='plain' (tag_scheme in recipes) says that they do not.",
            *(source, ", ".join(inside[:8])),
        )
    if prefixed and len(odd) < len(inside):  # one mistyped tag undoes the inference
        logger.warning("%s: read as plain tags because of %s; give scheme= if it is BIO or BIOES.", source, odd)
