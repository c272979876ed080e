"""Tag schemes: what a sequence of BIO, BIOES or plain tags means, and which sequences are legal.

BIO is IOB2: every entity opens with ``B-``. BIOES also closes entities with ``E-`` and marks one-word entities with
``S-``. Plain tags, such as parts of speech, have no structure. Positions count words, never subwords.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

SchemeName = Literal["BIO", "BIOES", "plain"]
SCHEME_NAMES: tuple[SchemeName, ...] = ("BIO", "BIOES", "plain")
IGNORED = -100  # replaces a tag on padding, on later subwords and on unlabelled words (`ignore_index` of torch)
ANNOTATED_TYPES = "annotated_types"  # column: the types that a sentence's annotators looked for; None: all

_USUAL_ENTITY = 16  # words; the tags of longer entities are not kept
_PREFIXES = {"BIO": "BI", "BIOES": "BIES"}
# A type may itself contain hyphens (`B-event-war`); a bare `B` or `I` (aspect and term extraction) has the type "".
_PREFIXED = re.compile(r"([BIES])(?:-(.+))?", re.DOTALL)


class Span(NamedTuple):
    """An entity: the words ``start`` to ``end`` (exclusive) of a sentence, and the entity's type."""

    start: int
    end: int
    type: str


@lru_cache(maxsize=1 << 14)  # every tag of every sentence is split, and there are few different ones
def split_tag(tag: str) -> tuple[str, str]:
    """``"B-PER"`` -> ``("B", "PER")``; a tag without a prefix, ``"O"`` included, -> ``("", tag)``."""
    match = _PREFIXED.fullmatch(tag)
    return (match[1], match[2] or "") if match else ("", tag)


def tag_type(tag: str) -> str | None:
    """The entity type of a tag: ``"PER"`` of ``"B-PER"`` and of the plain tag ``"PER"``; ``None`` for ``"O"``."""
    return None if tag == "O" else split_tag(tag)[1]


def _join(prefix: str, entity_type: str) -> str:
    return f"{prefix}-{entity_type}" if entity_type else prefix


def infer_scheme(tags: Sequence[str]) -> SchemeName:
    """The scheme that a label set follows, by the rule of `TagScheme`."""
    parts = [split_tag(tag) for tag in tags if tag != "O"]
    if not all(prefix for prefix, _ in parts):
        return "plain"
    bare_prefixes = {prefix for prefix, entity_type in parts if not entity_type}
    # Part-of-speech sets have tags such as `I` and `E` too: bare prefixes are a scheme only as a complete set.
    complete = bare_prefixes in ({"B", "I"}, {"B", "I", "E", "S"}) and len(bare_prefixes) == len(parts)
    if bare_prefixes and not complete:
        return "plain"
    return "BIOES" if any(prefix in "ES" for prefix, _ in parts) else "BIO"


class TagScheme:
    """A label set and the scheme that its labels follow.

    A tag whose partners are not in the label set, such as ``I-X`` without ``B-X`` or, in BIOES, ``B-X`` without
    ``E-X``, can occur in no legal sequence. Masking it would give probability zero to sentences that carry it, so such
    a *stray* tag is legal wherever ``O`` is; but it forms no entity, as in strict seqeval, and building the scheme
    warns about it. (``I-X`` without ``B-X`` indicates an IOB1 corpus: read it with
    ``load_corpus(..., orphans="repair")``, which turns IOB1 into BIO exactly.) ``B-X`` without ``I-X`` is an ordinary
    BIO label set whose entities of type X have one word.

    Args:
        tags: the label names, in the model's label order.
        scheme: ``"BIO"``, ``"BIOES"`` or ``"plain"``. By default inferred: only ``O`` and ``B-``/``I-`` labels are
            BIO; with ``E-`` or ``S-`` labels, BIOES; all other label sets are plain. The bare label sets ``O, B, I``
            and ``O, B, I, E, S`` are BIO and BIOES with one nameless type ``""``.

    Attributes:
        name: ``"BIO"``, ``"BIOES"`` or ``"plain"``.
        tags: the label names.
        entity_types: the types in order of first appearance; for plain tags, the tags other than ``O``.
        allowed: (C, C), boolean, [from, to]: whether tag ``to`` may follow tag ``from``.
        allowed_start, allowed_end: (C,), boolean: whether a sentence may begin, or end, with the tag.
        continuation: per tag, the index of the tag that continuation subwords of its word carry: ``I-X`` for any tag
            of type X, since the subword is inside the entity of its word (with ``B-X``, ``S-X`` or ``E-X`` a reader of
            subwords would open or close the entity again). ``O``, plain tags, and tags of a type without ``I-X``
            continue as themselves.
        bio_reading: per tag, the index of the tag with the same meaning for a reader of ``B-`` and ``I-`` only, such
            as the stock pipeline: ``B-X`` for ``S-X``, ``I-X`` for ``E-X``, else (and where the label set lacks those)
            the tag itself.

    Raises:
        ValueError: if ``tags`` is empty, has duplicates, or has labels that the given scheme cannot read; the message
            names them.
    """

    def __init__(self, tags: Sequence[str], scheme: str | None = None):
        self.tags: tuple[str, ...] = tuple(tags)
        if not self.tags:
            raise ValueError("A tag scheme needs at least one tag.")
        if not_strings := [tag for tag in self.tags if not isinstance(tag, str)]:
            raise ValueError(f"Tags are strings; got {not_strings}.")
        if duplicates := sorted(tag for tag, count in Counter(self.tags).items() if count > 1):
            raise ValueError(f"Tags must differ; these occur more than once: {duplicates}.")
        named = [name for name in SCHEME_NAMES if name == scheme]
        if scheme is not None and not named:
            raise ValueError(f"Unknown tag scheme {scheme!r}: choose 'BIO', 'BIOES' or 'plain'.")
        self.name: SchemeName = infer_scheme(self.tags) if scheme is None else named[0]
        self._index = {tag: index for index, tag in enumerate(self.tags)}
        self._parts = {tag: self._parse(tag) for tag in self.tags if self._is_readable(tag)}
        if unreadable := [tag for tag in self.tags if tag not in self._parts]:
            prefixes = ", ".join(f"{prefix}-" for prefix in _PREFIXES[self.name])
            raise ValueError(f"Not {self.name} tags: {unreadable}. {self.name} tags are O or begin with {prefixes}.")

        types = (entity_type for tag in self.tags if tag != "O" for _, entity_type in [self._parts[tag]])
        self.entity_types: tuple[str, ...] = tuple(dict.fromkeys(types))
        self._type_numbers = {entity_type: number for number, entity_type in enumerate(self.entity_types)}
        self._stray = {tag for tag in self.tags if self._is_stray(tag)}
        if self._stray:
            warnings.warn(
                f"{sorted(self._stray)} can form no {self.name} entity with this label set (their B- or E- partners "
                "are missing); they are legal anywhere and count as no entity. An IOB1 corpus becomes BIO with "
                "load_corpus(..., orphans='repair').",
                stacklevel=2,
            )
        self.continuation: tuple[int, ...] = tuple(self._continuation(tag) for tag in self.tags)
        self.bio_reading: tuple[int, ...] = tuple(self._bio_reading(tag) for tag in self.tags)
        self._masks: dict[torch.device, dict[str, Tensor]] = {}
        self._entity_paths: dict[tuple[int, str], tuple[tuple[int, ...], frozenset[int]]] = {}  # by size and type

    @cached_property
    def allowed(self) -> Tensor:
        opens, continues, types = (torch.tensor(part) for part in zip(*map(self._role, self.tags)))
        within = opens[:, None] & (types[:, None] == types)
        return torch.where(continues, within, ~opens[:, None] | (self.name != "BIOES"))

    @cached_property
    def allowed_start(self) -> Tensor:
        return torch.tensor([self._may_follow("O", tag) for tag in self.tags])

    @cached_property
    def allowed_end(self) -> Tensor:
        return torch.tensor([self._may_follow(tag, "O") for tag in self.tags])

    def masks(self, device: torch.device) -> dict[str, Tensor]:
        """`allowed`, `allowed_start` and `allowed_end` on a device, as arguments of `LinearChainCRF`; cached."""
        if device not in self._masks:
            names = ("allowed", "allowed_start", "allowed_end")
            self._masks[device] = {name: getattr(self, name).to(device) for name in names}
        return self._masks[device]

    @classmethod
    def from_entity_types(cls, entity_types: Iterable[str], scheme: Literal["BIO", "BIOES"] = "BIO") -> "TagScheme":
        """The complete label set of some types: ``O``, then per type every prefix of the scheme.

        Args:
            entity_types: the types, in order.
            scheme: ``"BIO"`` or ``"BIOES"``.

        Returns:
            A scheme that can write every sequence of entities of these types.
        """
        return cls(["O", *(_join(prefix, t) for t in entity_types for prefix in _PREFIXES[scheme])], scheme)

    def __repr__(self) -> str:
        return f"TagScheme({list(self.tags)}, scheme={self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TagScheme) and (self.name, self.tags) == (other.name, other.tags)

    def __hash__(self) -> int:
        return hash((self.name, self.tags))

    def _is_readable(self, tag: str) -> bool:
        return self.name == "plain" or tag == "O" or split_tag(tag)[0] in tuple(_PREFIXES[self.name])

    def _parse(self, tag: str) -> tuple[str, str]:
        return ("", tag) if self.name == "plain" else split_tag(tag)

    def _has(self, prefix: str, entity_type: str) -> bool:
        return _join(prefix, entity_type) in self._index

    def _is_stray(self, tag: str) -> bool:
        prefix, entity_type = self._parts[tag]
        if self.name == "plain" or prefix in ("", "S"):
            return False
        can_open, can_close = self._has("B", entity_type), self.name == "BIO" or self._has("E", entity_type)
        return not (can_open and can_close)

    def _may_follow(self, tag: str, following: str) -> bool:
        """Whether `following` may come directly after `tag`; "O" stands for the sentence's edges too."""
        opens, _, entity_type = self._role(tag)
        _, continues, next_type = self._role(following)
        if continues:
            return opens and entity_type == next_type
        return not opens or self.name != "BIOES"

    def _role(self, tag: str) -> tuple[bool, bool, int]:
        """Whether a tag leaves an entity open, whether it continues one, and the number of the entity's type."""
        if self.name == "plain" or tag in self._stray:
            return False, False, -1
        prefix, entity_type = split_tag(tag)
        return prefix in ("B", "I"), prefix in ("I", "E"), self._type_numbers.get(entity_type, -1)

    def _continuation(self, tag: str) -> int:
        prefix, entity_type = self._parts[tag]
        return self._index.get(_join("I", entity_type), self._index[tag]) if prefix else self._index[tag]

    def _bio_reading(self, tag: str) -> int:
        prefix, entity_type = self._parts[tag]
        if self.name != "BIOES" or not prefix:
            return self._index[tag]
        bio_prefix = {"S": "B", "E": "I"}.get(prefix, prefix)
        return self._index.get(_join(bio_prefix, entity_type), self._index[tag])

    def _check_known(self, tags: Sequence[str]) -> None:
        if unknown := sorted({tag for tag in tags if tag not in self._index}):
            raise ValueError(f"Tags outside the label set: {unknown}. The label set is {list(self.tags)}.")

    def spans(self, tags: Sequence[str]) -> list[Span]:
        """The entities of a sentence, read strictly: malformed entities do not count.

        As seqeval's ``mode="strict"`` with ``IOB2`` or ``IOBES``. Plain tags have no entities of several words: every
        word whose tag is not ``O`` is a span.

        Args:
            tags: one tag per word. Types outside the label set are read as well; other tags raise.

        Returns:
            The spans from left to right.

        Raises:
            ValueError: if a tag cannot be read in this scheme.
        """
        if unreadable := sorted({tag for tag in tags if not self._is_readable(tag)}):
            raise ValueError(f"Not {self.name} tags: {unreadable}.")
        if self.name == "plain":
            return [Span(i, i + 1, tag) for i, tag in enumerate(tags) if tag != "O"]
        spans: list[Span] = []
        start: int | None = None  # of the entity that is open at the current word
        open_type = ""
        for i, tag in enumerate((*tags, "O")):
            prefix, entity_type = split_tag(tag)
            if start is not None and not (prefix in ("I", "E") and entity_type == open_type):
                if self.name == "BIO":
                    spans.append(Span(start, i, open_type))
                start = None
            if prefix == "B":
                start, open_type = i, entity_type
            elif prefix == "S":
                spans.append(Span(i, i + 1, entity_type))
            elif prefix == "E" and start is not None:
                spans.append(Span(start, i + 1, open_type))
                start = None
        return spans

    def tags_from_spans(self, spans: Iterable[Span | tuple[int, int, str]], length: int) -> list[str]:
        """Write entities as tags; the inverse of `spans`.

        Args:
            spans: entities in any order.
            length: number of words of the sentence.

        Returns:
            ``length`` tags.

        Raises:
            ValueError: if spans overlap, are empty or leave the sentence, or need a tag that the label set lacks.
        """
        tags = ["O"] * length
        previous: Span | None = None
        for span in sorted(Span(*span) for span in spans):
            if not 0 <= span.start < span.end <= length:
                raise ValueError(f"{span} is empty or outside a sentence of {length} words.")
            if previous is not None and span.start < previous.end:
                raise ValueError(f"Overlapping spans: {previous} and {span}. A word carries one tag.")
            path, _ = self.entity_path(span)
            tags[span.start : span.end] = [self.tags[index] for index in path]
            previous = span
        self._check_known(tags)
        return tags

    def entity_path(self, span: Span | tuple[int, int, str]) -> tuple[tuple[int, ...], frozenset[int]]:
        """The tags with which a sentence contains exactly this entity, as `LinearChainCRF.span_log_prob` takes them.

        Args:
            span: the entity.

        Returns:
            The tag indices that the words ``start .. end - 1`` must carry, and the tag indices that the word at
            ``end`` must *not* carry because they would continue the entity (in BIO ``I-X``; in BIOES and for plain
            tags none).

        Raises:
            ValueError: if the span is empty or cannot be written with this label set; the message names the tag.
        """
        start, end, entity_type = span
        size = end - start
        if (known := self._entity_paths.get((size, entity_type))) is not None:
            return known
        if size < 1:
            raise ValueError(f"{Span(*span)} is empty.")
        if self.name == "plain":
            if size > 1:
                raise ValueError(f"{Span(*span)}: plain tags have no spans of several words.")
            names = [entity_type]
        elif self.name == "BIO":
            names = [_join(prefix, entity_type) for prefix in "B" + "I" * (size - 1)]
        else:
            names = [_join(prefix, entity_type) for prefix in ("S" if size == 1 else "B" + "I" * (size - 2) + "E")]
        self._check_known(names)
        continuing = {_join("I", entity_type)} & self._index.keys() if self.name == "BIO" else set()
        path = tuple(self._index[tag] for tag in names), frozenset(self._index[tag] for tag in continuing)
        if size <= _USUAL_ENTITY:
            self._entity_paths[size, entity_type] = path
        return path

    def violations(self, tags: Sequence[str]) -> list[int]:
        """The positions at which a tag sequence breaks the scheme.

        Args:
            tags: one tag of the label set per word.

        Returns:
            Ascending word positions: those whose tag may not follow the tag before it (an orphan ``I-X``, a BIOES
            entity that the previous word left open), and the last one if the sentence may not end with its tag.
            Empty if and only if `allowed`, `allowed_start` and `allowed_end` permit the sequence.

        Raises:
            ValueError: if a tag is not in the label set.
        """
        self._check_known(tags)
        before = ("O", *tags)
        positions = [i for i, tag in enumerate(tags) if not self._may_follow(before[i], tag)]
        last = len(tags) - 1
        if tags and not self._may_follow(tags[-1], "O") and last not in positions:
            positions.append(last)
        return positions

    def repair(self, tags: Sequence[str]) -> list[str]:
        """Make a tag sequence legal without moving an entity boundary that the tags mark.

        BIO: an orphan ``I-X`` becomes ``B-X``. BIOES: neighbouring words that continue one another (``B`` or ``I``,
        then ``I`` or ``E`` of the same type) are one entity, every other tag of a type starts a new one, and each
        entity is written properly (``S``, or ``B I.. E``). Legal sequences do not change, and a second repair changes
        nothing.

        Args:
            tags: one tag of the label set per word.

        Returns:
            A legal sequence of the same length.

        Raises:
            ValueError: if a tag is not in the label set, or the repaired sequence needs one that is not.
        """
        self._check_known(tags)
        if self.name == "plain":
            return list(tags)
        repaired = list(tags)
        start = 0
        while start < len(tags):
            prefix, entity_type = self._parts[tags[start]]
            if not prefix or tags[start] in self._stray:
                start += 1
                continue
            end = start + 1
            while end < len(tags) and self._continues(tags[end - 1], tags[end]):
                end += 1
            path, _ = self.entity_path(Span(start, end, entity_type))
            repaired[start:end] = [self.tags[index] for index in path]
            start = end
        return repaired

    def _continues(self, tag: str, following: str) -> bool:
        prefix, entity_type = self._parts[tag]
        next_prefix, next_type = self._parts[following]
        return (
            prefix in ("B", "I") and next_prefix in ("I", "E") and entity_type == next_type
        ) and following not in self._stray


def convert_tags(
    tags: Sequence[str], from_scheme: Literal["BIO", "BIOES"], to_scheme: Literal["BIO", "BIOES"]
) -> list[str]:
    """Rewrite legal BIO tags as BIOES or the reverse; the entities stay exactly the same.

    Args:
        tags: one tag per word.
        from_scheme: the scheme of ``tags``.
        to_scheme: the scheme of the result.

    Returns:
        One tag per word, in the other scheme.

    Raises:
        ValueError: if ``tags`` are illegal in ``from_scheme`` (the message names the first position; see
            `TagScheme.repair`), or a scheme is neither BIO nor BIOES.
    """
    if from_scheme not in _PREFIXES or to_scheme not in _PREFIXES:
        raise ValueError(f"Only BIO and BIOES convert into each other, not {from_scheme!r} into {to_scheme!r}.")
    types = dict.fromkeys(split_tag(tag)[1] for tag in tags if tag != "O")
    source = TagScheme.from_entity_types(types, from_scheme)
    if illegal := source.violations(tags):
        raise ValueError(
            f"Illegal {from_scheme} tag {tags[illegal[0]]!r} at word {illegal[0]}; repair the tags before converting."
        )
    return TagScheme.from_entity_types(types, to_scheme).tags_from_spans(source.spans(tags), len(tags))
