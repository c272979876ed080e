"""Reading one tagger's tags as another's: renamed, merged, dropped, left open, or in the other of BIO and BIOES.

A teacher's chain becomes a chain over *states*, each of which is read as one tag of the student (or one group of tags
that the teacher cannot tell apart). Renaming and merging need no new states: several tags are read as one. BIO and
BIOES need some, because a tag of one scheme may depend on its neighbours in the other (B-X is S-X where nothing
continues it): a state is then a tag together with whether an entity opens and closes there, and transitions tie the
claims together, so that every tag sequence is exactly one state sequence. Sums over states are therefore exact sums
over the teacher's tag sequences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ..data.columns import EDGE_COUNTS, EMISSIONS, START_END, TRANSITIONS
from ..modeling.tag_scheme import infer_scheme, split_tag

LabelMap = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Reading:
    """How a teacher's tags are read as a student's.

    Args:
        num_tags: the student's labels.
        tag_of_state: for each state, the teacher's tag.
        read_as: for each state, the student's tag, or the representative of a group of them.
        groups: for each of the student's tags the representative of its group; `None` where every tag is alone.
        allowed, allowed_start, allowed_end: which states may follow, begin and end; `None` where states are tags.
    """

    num_tags: int
    tag_of_state: tuple[int, ...]
    read_as: tuple[int, ...]
    groups: tuple[int, ...] | None = None
    allowed: Tensor | None = None
    allowed_start: Tensor | None = None
    allowed_end: Tensor | None = None

    @property
    def one_to_one(self) -> bool:
        """No two states are read as the same tag."""
        return len(set(self.read_as)) == len(self.read_as)

    @property
    def renames_only(self) -> bool:
        """The teacher's chain is a chain over the student's tags, in another order."""
        return self.one_to_one and self.groups is None and self.allowed is None

    def check_targets(self, targets: Sequence[str], teacher: str) -> None:
        """Raises ValueError if targets are asked that this reading cannot give exactly."""
        if self.groups is not None and EDGE_COUNTS in targets:
            raise ValueError(
                f"teacher {teacher} cannot tell some of the student's tags apart, so it has no expected transitions "
                "between them: the structural objective needs teachers that know all types; use posterior or top_wk"
            )
        if self.allowed is not None and EMISSIONS in targets:
            raise ValueError(
                f"teacher {teacher} is read in the other of BIO and BIOES, where a word's emissions say nothing "
                "without its neighbours: use posterior, top_wk or structural instead of emission or substructure"
            )
        if not self.renames_only and (TRANSITIONS in targets or START_END in targets):
            raise ValueError(
                f"the label_map of teacher {teacher} merges or leaves open tags, so it has no transition scores "
                "between the student's: the substructure objective needs teachers with the student's tags"
            )


def mapped_labels(own: Sequence[str], label_map: LabelMap, teacher: str) -> list[list[str]]:
    """For each of the teacher's labels the student's names it is read as; more than one form a group.

    Args:
        own: the teacher's labels.
        label_map: a label or an entity type (all its labels, prefixes kept) -> a label or type, `"O"`, or a list.
        teacher: its name, for messages.

    Raises:
        ValueError: if a key is neither a label nor a type of the teacher.
    """
    types = {kind for prefix, kind in map(split_tag, own) if prefix}
    if unknown := sorted(set(label_map) - set(own) - types):
        raise ValueError(f"label_map of teacher {teacher}: it has no label {unknown}; it has {list(own)}")
    mapped = []
    for label in own:
        prefix, kind = split_tag(label)
        if label in label_map:
            names = _listed(label_map[label])
        elif prefix and kind in label_map:
            names = [name if name == "O" else f"{prefix}-{name}" for name in _listed(label_map[kind])]
        else:
            names = [label]
        if not names:
            raise ValueError(f"label_map of teacher {teacher}: {label!r} is read as nothing; name a label, or 'O'")
        mapped.append(names)
    return mapped


def read_labels(
    mapped: Sequence[Sequence[str]], label_names: Sequence[str], teacher: str, scheme: str | None = None
) -> Reading:
    """Match a teacher's mapped labels with the student's.

    Args:
        mapped: what `mapped_labels` gives.
        label_names: the student's labels.
        teacher: its name, for messages.
        scheme: the teacher's tag scheme; inferred where `None`.

    Raises:
        ValueError: naming the labels, if some match nothing on either side, or groups overlap.
    """
    primary = [names[0] for names in mapped]
    theirs, mine = scheme or infer_scheme(primary), infer_scheme(label_names)
    converts = {theirs, mine} == {"BIO", "BIOES"}
    states = (
        _boundary_states(primary, mine) if converts else [_State(tag, True, None, "") for tag in range(len(mapped))]
    )

    index = {label: i for i, label in enumerate(label_names)}
    members: list[tuple[int, ...]] = []
    extra: dict[str, None] = {}
    kinds = set()
    for state in states:
        inside: dict[int, None] = {}
        for name in mapped[state.tag]:
            prefix, kind = split_tag(name)
            if state.prefix and prefix:
                kinds.add(kind)
                name = f"{state.prefix}-{kind}" if kind else state.prefix
            named = [index[name]] if name in index else [i for i, tag in enumerate(label_names) if _is_of(tag, name)]
            inside.update(dict.fromkeys(named))
            if not named:
                extra[name] = None
        members.append(tuple(inside))
    covered = {tag for inside in members for tag in inside}
    # Under conversion a tag that a known type never needs (I-X of a type whose entities have one word) is no gap.
    missing = [
        label for label, i in index.items() if i not in covered and not (converts and split_tag(label)[1] in kinds)
    ]
    if missing or extra:
        raise ValueError(
            f"the labels of teacher {teacher} and of the student differ: the teacher lacks {missing or 'none'}, "
            f"and has {list(extra) or 'none'} beyond the student's. Give the teacher a label_map from its names to "
            "the student's: {'PERSON': 'PER'} renames or merges, {'MISC': 'O'} drops, {'O': ['O', 'MISC']} says that "
            "a type it does not know hides in its O; or train one with the student's labels"
        )
    read_as, groups = _grouped(members, label_names, teacher)
    masks = _boundary_masks(states, primary) if converts else (None, None, None)
    return Reading(len(label_names), tuple(state.tag for state in states), read_as, groups, *masks)


def _grouped(
    members: Sequence[tuple[int, ...]], label_names: Sequence[str], teacher: str
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """For each state the representative of its tags, and for each of the student's tags that of its group."""
    leader: dict[frozenset[int], int] = {}
    for inside in members:
        leader.setdefault(frozenset(inside), inside[0])
    groups = list(range(len(label_names)))
    taken: dict[int, frozenset[int]] = {}
    for group, representative in leader.items():
        for tag in group:
            if tag in taken:
                both = [[label_names[i] for i in sorted(part)] for part in (taken[tag], group)]
                raise ValueError(
                    f"label_map of teacher {teacher}: {both[0]} and {both[1]} overlap; labels that it cannot tell "
                    "apart form groups, and each label belongs to one"
                )
            taken[tag] = group
            groups[tag] = representative
    read_as = tuple(leader[frozenset(inside)] for inside in members)
    return read_as, None if groups == list(range(len(label_names))) else tuple(groups)


@dataclass(frozen=True)
class _State:
    tag: int
    opens: bool
    closes: bool | None  # None: the student's scheme does not mark where entities end
    prefix: str  # in the student's scheme; "" for O and where nothing is converted


def _listed(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _is_of(label: str, kind: str) -> bool:
    prefix, own = split_tag(label)
    return bool(prefix) and own == kind


def _continues(tag: str, following: str) -> bool:
    """Whether the entity of a word goes on at the next, in either scheme; orphans open entities, as in `repair`."""
    (prefix, kind), (next_prefix, next_kind) = split_tag(tag), split_tag(following)
    return prefix in ("B", "I") and next_prefix in ("I", "E") and kind == next_kind


def _boundary_states(labels: Sequence[str], target: str) -> list[_State]:
    marks = {(True, True): "S", (True, False): "B", (False, True): "E", (False, False): "I"}
    states = []
    for tag, label in enumerate(labels):
        prefix, _ = split_tag(label)
        if not prefix:
            states.append(_State(tag, True, None if target == "BIO" else True, ""))
            continue
        opens = (True,) if prefix in ("B", "S") else (True, False)
        if target == "BIO":
            states += [_State(tag, open_, None, "B" if open_ else "I") for open_ in opens]
        else:
            states += [_State(tag, o, closes, marks[o, closes]) for o, closes in product(opens, (True, False))]
    return states


def _boundary_masks(states: Sequence[_State], labels: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Which states may follow, begin and end."""

    def fits(state: _State, following: _State) -> bool:
        goes_on = _continues(labels[state.tag], labels[following.tag])
        return following.opens is not goes_on and (state.closes is None or state.closes is not goes_on)

    return (
        torch.tensor([[fits(a, b) for b in states] for a in states]),
        torch.tensor([state.opens for state in states]),
        torch.tensor([state.closes is not False for state in states]),
    )
