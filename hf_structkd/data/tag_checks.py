"""Checks of a corpus's tags: in the label set, in a known scheme, legal in it; and conversion to another scheme."""

import logging
import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any, Literal, cast, get_args

from ..modeling.tag_scheme import SchemeName, TagScheme, convert_tags, infer_scheme, split_tag
from .foreign_schemes import rewrite_foreign_tags
from .sentence_table import SentenceTable
from .source_text import CorpusError, RawSentence, setting

logger = logging.getLogger(__name__)

Orphans = Literal["accept", "repair", "refuse"]
CorpusScheme = Literal["BIO", "BIOES", "plain", "BILOU", "BMES", "IOB1", "IO", "brackets"]
CORPUS_SCHEMES: tuple[str, ...] = get_args(CorpusScheme)
# What a corpus of a scheme is rewritten as. (BMES and BILOU are BIOES in other letters.)
_BECOMES: dict[str, SchemeName] = {
    "BILOU": "BIOES", "BMES": "BIOES", "IOB1": "BIO", "IO": "BIO", "brackets": "BIO",
}  # fmt: skip
_OTHER_PREFIX = re.compile(r"([BIESLUMW])-.+", re.DOTALL)  # of BILOU, BMES and their relatives


def check_labels(sentences: SentenceTable, label_names: Sequence[str]) -> None:
    """Refuse tags outside the label set.

    Raises:
        CorpusError: it names the place, and the nearest label.
    """
    unknown = sentences.tag_set - set(label_names)
    if not unknown:
        return
    sentence, i = _first_of(sentences, unknown)
    tag = (sentence.tags or ())[i]
    near = get_close_matches(tag, label_names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise CorpusError(
        f"{sentence.place(i)}: tag {tag!r} of {sentence.tokens[i]!r} is not in the label set "
        f"{list(label_names)}.{hint}"
    )


def _first_of(sentences: SentenceTable, tags: Collection[str]) -> tuple[RawSentence, int]:
    """The first sentence that has one of these tags, of which one has, and the number of its first such word."""
    rows = enumerate(sentences.tags())
    row, word = next((row, i) for row, row_tags in rows for i, tag in enumerate(row_tags or ()) if tag in tags)
    return sentences[row], word


def read_scheme(
    source: str, sentences: SentenceTable, scheme: CorpusScheme | None, label_names: Sequence[str] | None
) -> None:
    """Rewrite tags of another scheme or notation, in place, as BIO or BIOES.

    Args:
        source: the name of the corpus, for messages.
        sentences: the sentences.
        scheme: as for [`load_corpus`]. With BIO, BIOES and plain the tags are taken as they stand.
        label_names: the label set; tags that are all in it are taken as they stand.

    Raises:
        CorpusError: if `scheme` is another one, and the tags do not follow it.
    """
    if scheme in ("BIO", "BIOES", "plain"):
        return
    tags = sentences.tag_set
    if scheme is None and label_names is not None and tags <= set(label_names):
        return
    notation = rewrite_foreign_tags(source, sentences)
    if scheme in ("BILOU", "BMES", "brackets"):
        # Where no entity has a last or a single word, BILOU and BMES tags are those of BIO or BIOES.
        others = [name for name in ("BILOU", "BMES", "brackets") if name in (notation or "") and name != scheme]
        unread = notation is None and any(scheme == "brackets" or not split_tag(tag)[0] for tag in tags - {"O"})
        if others or unread:
            shown = ", ".join(sorted(tags)[:8])
            raise CorpusError(f"{source}: the tags {shown} are not those of {scheme}.")


def treat_orphans(
    source: str,
    sentences: SentenceTable,
    scheme: CorpusScheme | None,
    orphans: Orphans,
    label_names: Sequence[str] | None,
) -> SchemeName:
    """Count illegal tag sequences, and accept, repair (in place) or refuse them.

    Args:
        source: the name of the corpus, for messages.
        sentences: the sentences.
        scheme: as for [`load_corpus`], like the other arguments.

    Returns:
        The scheme that the tags follow.

    Raises:
        CorpusError: if the tags follow a scheme that is not supported, or are illegal and `orphans` is "refuse".
    """
    tags = sorted(sentences.tag_set)
    name = infer_scheme(label_names or tags)
    if scheme is not None:
        name = cast("SchemeName", _BECOMES.get(scheme, scheme))
    if name == "plain":
        if scheme is None:
            _check_plain(source, tags)
        return name
    # With the complete label set, so that an IOB1 corpus without any B-PER is judged, and repaired, as BIO.
    types = sorted({split_tag(tag)[1] for tag in tags if split_tag(tag)[0]})
    full = TagScheme.from_entity_types(types, name)
    if other := set(tags) - set(full.tags):
        sentence, i = _first_of(sentences, other)
        raise CorpusError(f"{sentence.place(i)}: {(sentence.tags or ())[i]!r} is not a {name} tag.")
    legal = {(a, b) for a, row in zip(full.tags, full.allowed.tolist()) for b, ok in zip(full.tags, row) if ok}
    rows = sentences.illegal_rows(legal)
    if not rows:
        return name
    illegal, chosen = len(rows), set(rows)
    words = sum(len(full.violations(own or ())) for row, own in enumerate(sentences.tags()) if row in chosen)
    sentence = sentences[rows[0]]
    first = full.violations(sentence.tags or ())[0]
    where, before, tag = sentence.place(first), ("O", *(sentence.tags or ()))[first], (sentence.tags or ())[first]
    is_iob1 = scheme in ("IOB1", "IO") or (name == "BIO" and _is_iob1(sentences))
    if orphans == "refuse":
        reading = (
            f"The corpus reads as IOB1, which {setting('orphans', 'accept')} makes BIO" if is_iob1 else "Correct it"
        )
        raise CorpusError(
            f"{where}: {tag!r} after {before!r} is not legal {name}. {reading}, or load with "
            f"{setting('orphans', 'repair')} or {setting('orphans', 'accept')}."
        )
    if is_iob1 or orphans == "repair":
        sentences.rewrite_tags(lambda _, own: own if _is_legal(own, legal) else full.repair(own))
        missing = sorted(sentences.tag_set - set(label_names)) if label_names is not None else []
        if missing:
            raise CorpusError(f"{where}: the repair needs {missing}, not in label_names.")
    if is_iob1:
        logger.warning(
            "%s: read as IOB1, since B- stands only between two entities of one type, or nowhere: %d I- tag(s) that "
            "begin an entity are now B-, in %d of %d sentences. (IO tags read the same.)",
            *(source, words, illegal, sentences.num_tagged),
        )
        return name
    outcome = "repaired" if orphans == "repair" else "accepted (strict evaluation sees no entity there)"
    counted = (source, words, name, illegal, sentences.num_tagged, outcome)
    logger.warning("%s: %d illegal %s tag(s) in %d of %d sentences %s.", *counted)
    return name


def convert(source: str, sentences: SentenceTable, scheme: Any, to_scheme: Any) -> None:
    """Rewrite tags in another scheme, in place.

    Raises:
        CorpusError: for plain tags, and for tag sequences that are illegal in their scheme.
    """
    if "plain" in (scheme, to_scheme):
        raise CorpusError(f"{source}: {scheme} tags cannot be rewritten as {to_scheme} tags.")

    def rewrite(row: int, tags: list[str]) -> Sequence[str]:
        try:
            return convert_tags(tags, scheme, to_scheme)
        except ValueError as error:
            raise CorpusError(f"{sentences[row].place(0)}: {error} {setting('orphans', 'repair')} does.") from error

    sentences.rewrite_tags(rewrite)


def _is_legal(tags: Sequence[str], legal: set[tuple[str, str]]) -> bool:
    return all(pair in legal for pair in zip(("O", *tags), (*tags, "O")))


def _is_iob1(sentences: SentenceTable) -> bool:
    """Whether every B- stands as in IOB1: after a word of the same type."""
    for tags in sentences.tags():
        before = ("", "")
        for tag in tags or ():
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
    letters = {match[1] for tag in inside if (match := _OTHER_PREFIX.fullmatch(tag))}
    if inside and all(_OTHER_PREFIX.fullmatch(tag) for tag in inside) and letters & set("BILUM"):
        raise CorpusError(
            f"{source}: the tags {', '.join(inside[:8])} have the letters of several schemes "
            f"({', '.join(sorted(letters))}). Write BIO (B-, I-) or BIOES (B-, I-, E-, S-), or give "
            f"{setting('scheme', 'plain')} if the tags are no entities."
        )
    prefixed = [tag for tag in inside if split_tag(tag)[0] and tag not in ("B", "I", "E", "S")]
    odd = [tag for tag in inside if not split_tag(tag)[0]]
    if inside and "O" in tags and not prefixed:
        logger.warning(
            "%s: the tags %s are read as plain ones: one for each word, scored by word. If they mark entities, write "
            "tags such as B-PER and I-PER; %s says that they do not.",
            *(source, ", ".join(inside[:8]), setting("scheme", "plain")),
        )
    if prefixed and len(odd) < len(inside):  # one mistyped tag undoes the inference
        logger.warning(
            "%s: read as plain tags because of %s; give %s if it is BIO or BIOES.", source, odd, setting("scheme")
        )
