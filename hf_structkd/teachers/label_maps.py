"""Label maps between common label sets, by name, and what to write where a map is missing."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from ..modeling.tag_scheme import split_tag

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
    own, wanted = set(teacher_types), set(student_types)
    fitting = []
    for name, known in LABEL_MAPS.items():
        given = {target for kind in own & known.keys() for target in _as_list(known[kind])} - {"O"}
        if (
            own <= known.keys() | wanted
            and given <= wanted
            and (own - wanted or given - own)
            and (given or own & wanted)
        ):
            fitting.append(name)
    return fitting


def suggest_map(teacher_types: Iterable[str], student_types: Iterable[str]) -> dict[str, str | list[str]]:
    """A label map to start from: nearest names; `O` for what has none; what the teacher lacks hides in its `O`."""
    own, wanted = list(teacher_types), list(student_types)
    suggested: dict[str, str | list[str]] = {
        kind: nearest_name(kind, wanted) or "O" for kind in own if kind not in wanted
    }
    # The student has the teacher's name for a type and another teacher's: one of them is enough.
    for other in [kind for kind in wanted if kind not in (*own, *suggested.values())]:
        if same := next((kind for kind in own if kind not in suggested and nearest_name(kind, [other])), None):
            suggested[same] = other
    if missing := [kind for kind in wanted if kind not in (*own, *suggested.values())]:
        suggested["O"] = ["O", *missing]
    return suggested


def _as_list(target: str | Sequence[str]) -> list[str]:
    return [target] if isinstance(target, str) else list(target)


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
