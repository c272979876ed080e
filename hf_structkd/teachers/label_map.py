"""Label maps: a teacher's tags read as a student's.

Tags may be renamed, merged, dropped, left open (a group of the student's tags that the teacher cannot tell apart), and
converted between BIO and BIOES.

A teacher's chain becomes a chain over *states*, each of which is read as one tag or one group of the student's.
Renaming and merging need no new states: several tags are read as one. Conversion needs more states, because a tag of
one scheme may depend on its neighbours in the other (B-X is S-X where nothing continues it): a state is then a tag
together with whether an entity opens and closes there, and transitions keep neighbouring states consistent, so that
every tag sequence is exactly one state sequence. Sums over states are therefore exact sums over the teacher's tag
sequences.

Maps between common label sets have names; where a map is missing, the error shows what to write.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ..data.columns import EDGE_COUNTS, EMISSIONS, START_END, TRANSITIONS
from ..modeling.tag_scheme import infer_scheme, split_tag

LabelMap = Mapping[str, str | Sequence[str]] | str  # or the name of one, see `LABEL_MAPS`


@dataclass(frozen=True)
class Reading:
    """How a teacher's tags are read as a student's.

    Args:
        num_tags: the number of the student's labels.
        teacher_tags: for each state, the teacher's tag.
        student_tags: for each state, the student's tag, or the representative of a group of tags.
        groups: for each of the student's tags the representative of its group; `None` where every tag is alone.
        allowed, allowed_start, allowed_end: which states may follow, begin and end; `None` where states are tags.
    """

    num_tags: int
    teacher_tags: tuple[int, ...]
    student_tags: tuple[int, ...]
    groups: tuple[int, ...] | None = None
    allowed: Tensor | None = None
    allowed_start: Tensor | None = None
    allowed_end: Tensor | None = None

    @property
    def one_to_one(self) -> bool:
        """No two states are read as the same tag."""
        return len(set(self.student_tags)) == len(self.student_tags)

    @property
    def renames_only(self) -> bool:
        """The teacher's chain is a chain over the student's tags, in another order."""
        return self.one_to_one and self.groups is None and self.allowed is None

    def check_targets(self, targets: Sequence[str], teacher: str) -> None:
        """Refuse target columns that this reading cannot give exactly.

        Args:
            targets: names of columns.
            teacher: its name, for messages.

        Raises:
            ValueError: it names the objective that needs the column.
        """
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


def mapped_labels(
    labels: Sequence[str], label_map: Mapping[str, str | Sequence[str]], teacher: str
) -> list[list[str]]:
    """For each of the teacher's labels the student's labels that it is read as; several form a group.

    Args:
        labels: the teacher's.
        label_map: a label or an entity type (all its labels, prefixes kept) -> a label or type, `"O"`, or a list.
        teacher: its name, for messages.

    Raises:
        ValueError: if a key is neither a label nor a type of the teacher.
    """
    types = {kind for prefix, kind in map(split_tag, labels) if prefix}
    if unknown := sorted(set(label_map) - set(labels) - types):
        raise ValueError(f"label_map of teacher {teacher}: it has no label {unknown}; it has {list(labels)}")
    mapped = []
    for label in labels:
        prefix, kind = split_tag(label)
        if label in label_map:
            names = _as_list(label_map[label])
        elif prefix and kind in label_map:
            names = [name if name == "O" else f"{prefix}-{name}" for name in _as_list(label_map[kind])]
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
        ValueError: if some labels match nothing on either side, or groups overlap; it names them.
    """
    primary = [names[0] for names in mapped]
    teacher_scheme, student_scheme = scheme or infer_scheme(primary), infer_scheme(label_names)
    converts = {teacher_scheme, student_scheme} == {"BIO", "BIOES"}
    if converts:
        states = _boundary_states(primary, student_scheme)
    else:
        states = [_State(tag, True, None, "") for tag in range(len(mapped))]

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
            if name in index:
                matching = [index[name]]
            else:
                matching = [i for i, tag in enumerate(label_names) if _has_type(tag, name)]
            inside.update(dict.fromkeys(matching))
            if not matching:
                extra[name] = None
        members.append(tuple(inside))
    covered = {tag for inside in members for tag in inside}
    # Under conversion the teacher may lack a tag that its type never needs (I-X where all entities have one word).
    missing = [
        label for label, i in index.items() if i not in covered and not (converts and split_tag(label)[1] in kinds)
    ]
    if missing or extra:
        raise ValueError(
            f"the labels of teacher {teacher} and of the student differ: the teacher lacks {missing or 'none'}, "
            f"and has {list(extra) or 'none'} beyond the student's. (The student's labels are those of all corpora; "
            "in recipes without gold tags those of all teachers, as their label maps read them.)"
            f"{_suggestion(primary, label_names)}. In a label_map {{'PERSON': 'PER'}} renames or merges, "
            "{'MISC': 'O'} drops, {'O': ['O', 'MISC']} says that a type which the teacher does not know hides in its "
            "O."
        )
    student_tags, groups = _group_tags(members, label_names, teacher)
    masks = _boundary_masks(states, primary) if converts else (None, None, None)
    return Reading(len(label_names), tuple(state.tag for state in states), student_tags, groups, *masks)


def _suggestion(teacher_labels: Sequence[str], student_labels: Sequence[str]) -> str:
    """What to write, as sentences; empty if one side has entities and the other plain tags."""
    teacher_types, wanted = (
        list(dict.fromkeys(kind for prefix, kind in map(split_tag, labels) if prefix and kind))
        for labels in (teacher_labels, student_labels)
    )
    if not teacher_types and not wanted:  # plain tags
        teacher_types, wanted = (list(dict.fromkeys(labels)) for labels in (teacher_labels, student_labels))
        suggested: Mapping[str, str | list[str]] = {
            label: nearest_name(label, wanted) or "?" for label in teacher_types if label not in wanted
        }
    elif not teacher_types or not wanted:
        return ""
    else:
        suggested = suggest_map(teacher_types, wanted)
    if fitting := fitting_maps(teacher_types, wanted):
        written = {kind: target for kind, target in LABEL_MAPS[fitting[0]].items() if kind in teacher_types}
        return (
            f" A map of the package fits this teacher: label_map: {fitting[0]}. Written out, to be changed: {written}"
        )
    lacking = [kind for kind in wanted if kind not in teacher_types]
    if others := [name for name in fitting_maps(lacking, teacher_types) if set(lacking) <= LABEL_MAPS[name].keys()]:
        return (
            f" What the teacher lacks, the map {others[0]} of the package reads as what it has: give the teacher that "
            f"has {', '.join(lacking[:3])} label_map: {others[0]}"
        )
    if not suggested:
        return ""
    if list(suggested) == ["O"]:
        return f" If it does not know {', '.join(lacking)}: label_map: {suggested}"
    return f" Nearest names, to be checked: label_map: {suggested}"


def _group_tags(
    members: Sequence[tuple[int, ...]], label_names: Sequence[str], teacher: str
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """For each state the representative of its tags, and for each of the student's tags the one of its group."""
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
    student_tags = tuple(leader[frozenset(inside)] for inside in members)
    return student_tags, None if groups == list(range(len(label_names))) else tuple(groups)


@dataclass(frozen=True)
class _State:
    tag: int
    opens: bool
    closes: bool | None  # None: the student's scheme does not mark where entities end
    prefix: str  # in the student's scheme; "" for O and where nothing is converted


def _as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _has_type(label: str, entity_type: str) -> bool:
    prefix, kind = split_tag(label)
    return bool(prefix) and kind == entity_type


def _continues(tag: str, following: str) -> bool:
    """Whether an entity continues at the next word, in either scheme; orphans open entities, as in `repair`."""
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
    """Which states may follow each other (states, states), begin (states,) and end (states,)."""

    def fits(state: _State, following: _State) -> bool:
        goes_on = _continues(labels[state.tag], labels[following.tag])
        return following.opens is not goes_on and (state.closes is None or state.closes is not goes_on)

    return (
        torch.tensor([[fits(a, b) for b in states] for a in states]),
        torch.tensor([state.opens for state in states]),
        torch.tensor([state.closes is not False for state in states]),
    )


_NUMBERS_AND_TIMES = ("CARDINAL", "DATE", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME")
_NAMES = {"PERSON": "PER", "ORG": "ORG", "GPE": "LOC", "LOC": "LOC", "FAC": "LOC"}
_MISCELLANEOUS = ("EVENT", "LANGUAGE", "LAW", "NORP", "PRODUCT", "WORK_OF_ART")
_ADPOSITIONS = ["ADP", "ADV", "PART", "SCONJ"]  # of one PTB tag many words are one, others the other: IN, TO, RB
_VERBS, _DETERMINERS = ["AUX", "VERB"], ["DET", "PRON"]

LABEL_MAPS: Mapping[str, Mapping[str, str | Sequence[str]]] = {
    # the 18 types of OntoNotes in the four of CoNLL-2003: nationalities, events, works and the like are MISC
    "ontonotes-to-conll": _NAMES | dict.fromkeys(_MISCELLANEOUS, "MISC") | dict.fromkeys(_NUMBERS_AND_TIMES, "O"),
    # ... in the three of WikiAnn and Universal NER
    "ontonotes-to-wikiann": _NAMES | dict.fromkeys((*_MISCELLANEOUS, *_NUMBERS_AND_TIMES), "O"),
    "conll-to-wikiann": {"MISC": "O"},
    # The Penn Treebank's parts of speech in the universal ones. Where its tags do not decide, as between verbs and
    # auxiliaries, the universal ones form a group that the teacher cannot tell apart.
    "ptb-to-upos": {
        **dict.fromkeys(("IN", "TO", "RP", "RB", "RBR", "RBS", "WRB"), _ADPOSITIONS),
        **dict.fromkeys(("VB", "VBD", "VBG", "VBN", "VBP", "VBZ", "MD"), _VERBS),
        **dict.fromkeys(("DT", "PDT", "WDT", "EX", "PRP", "PRP$", "WP", "WP$"), _DETERMINERS),
        **dict.fromkeys(("JJ", "JJR", "JJS"), "ADJ"),
        **dict.fromkeys(("NN", "NNS"), "NOUN"),
        **dict.fromkeys(("NNP", "NNPS"), "PROPN"),
        **{"CC": "CCONJ", "CD": "NUM", "UH": "INTJ", "POS": "PART", "$": "SYM", "#": "SYM"},
        **dict.fromkeys((".", ",", ":", "``", "''", '"', "-LRB-", "-RRB-", "(", ")", "HYPH", "NFP"), "PUNCT"),
        **dict.fromkeys(("FW", "LS", "ADD", "AFX", "GW", "XX", "_SP"), "X"),
        "SYM": "SYM",
    },
}
# Other words for a type, for suggestions only.
_ALIASES = (
    ("PER", "PERSON", "PERS", "PEOPLE", "HUM"),
    ("LOC", "LOCATION", "PLACE", "GPE", "FAC", "CITY", "COUNTRY"),
    ("ORG", "ORGANIZATION", "ORGANISATION", "COMPANY", "CORPORATION", "GROUP"),
    ("MISC", "MISCELLANEOUS", "OTHER"),
)


def resolve_label_map(
    label_map: Mapping[str, str | Sequence[str]] | str | None, labels: Sequence[str], teacher: str
) -> dict[str, str | Sequence[str]]:
    """A label map as a mapping; of a map that is named, the part about the types that the teacher has.

    Args:
        label_map: a mapping, the name of one in `LABEL_MAPS`, or nothing.
        labels: the teacher's.
        teacher: its name, for messages.

    Raises:
        ValueError: if there is no map of this name, or it is about none of the teacher's types.
    """
    if not isinstance(label_map, str):
        return dict(label_map or {})
    if label_map not in LABEL_MAPS:
        near = difflib.get_close_matches(label_map, LABEL_MAPS, n=1)
        advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(LABEL_MAPS)}"
        raise ValueError(f"teacher {teacher}: there is no label_map {label_map!r}; {advice}")
    types = {kind if prefix else label for label in labels for prefix, kind in [split_tag(label)]}
    chosen: dict[str, str | Sequence[str]] = {
        kind: target for kind, target in LABEL_MAPS[label_map].items() if kind in types
    }
    if not chosen:
        raise ValueError(f"teacher {teacher}: label_map {label_map!r} is about none of its labels {list(labels)}")
    return chosen


def fitting_maps(teacher_types: Iterable[str], student_types: Iterable[str]) -> list[str]:
    """The maps of the package that read a teacher's types, or plain tags, as types of the student, by name.

    A map fits if it is about all types that the student lacks, gives nothing but types that the student has, and
    brings the two together: it is about a type that the student lacks, or gives one that the teacher lacks. The
    second is the case of a student whose labels are those of its teachers: it has the teacher's own names as well.
    """
    known_types, wanted = set(teacher_types), set(student_types)
    fitting = []
    for name, known in LABEL_MAPS.items():
        given = {target for kind in known_types & known.keys() for target in _as_list(known[kind])} - {"O"}
        if (
            known_types <= known.keys() | wanted
            and given <= wanted
            and (known_types - wanted or given - known_types)
            and (given or known_types & wanted)
        ):
            fitting.append(name)
    return fitting


def suggest_map(teacher_types: Iterable[str], student_types: Iterable[str]) -> dict[str, str | list[str]]:
    """A label map to start from: nearest names; `O` for what has none; what the teacher lacks hides in its `O`."""
    known_types, wanted = list(teacher_types), list(student_types)
    suggested: dict[str, str | list[str]] = {
        kind: nearest_name(kind, wanted) or "O" for kind in known_types if kind not in wanted
    }
    # The student has the teacher's name for a type and another teacher's: one of them is enough.
    for other in [kind for kind in wanted if kind not in (*known_types, *suggested.values())]:
        if same := next((kind for kind in known_types if kind not in suggested and nearest_name(kind, [other])), None):
            suggested[same] = other
    if missing := [kind for kind in wanted if kind not in (*known_types, *suggested.values())]:
        suggested["O"] = ["O", *missing]
    return suggested


def nearest_name(kind: str, wanted: Sequence[str]) -> str | None:
    """The one of the student's names that a teacher's name probably means, if any."""
    upper = {other.upper(): other for other in wanted}
    if kind.upper() in upper:
        return upper[kind.upper()]
    for names in _ALIASES:
        if kind.upper() in names:
            for name in names:
                if name in upper:
                    return upper[name]
    near = difflib.get_close_matches(kind.upper(), upper, n=1, cutoff=0.75)
    return upper[near[0]] if near else None
