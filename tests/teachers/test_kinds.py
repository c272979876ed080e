"""Danger: a name is taken for another teacher than the user meant, or a label map for another one."""

from types import SimpleNamespace

import pytest

from hf_structkd.teachers import kinds
from hf_structkd.teachers.function import CallableTeacher
from hf_structkd.teachers.kinds import load_teacher, split_kind
from hf_structkd.teachers.label_map import read_labels
from hf_structkd.teachers.label_maps import LABEL_MAPS, suggest_map

from .test_function import teacher_of

ONTONOTES = sorted(LABEL_MAPS["ontonotes-to-conll"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("spacy:en_core_web_sm", ("spacy", "en_core_web_sm")),
        ("gliner:owner/model", ("gliner", "owner/model")),
        ("spacy:/some/folder", ("spacy", "/some/folder")),
        ("owner/model", (None, "owner/model")),
        ("runs/a:b", (None, "runs/a:b")),
        (r"C:\models\x", (None, r"C:\models\x")),
        ("https://example.org/x", (None, "https://example.org/x")),
    ],
)
def test_a_kind_is_told_from_a_place(name, expected):
    assert split_kind(name) == expected


def test_an_existing_folder_is_no_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spacy:x").mkdir()
    assert split_kind("spacy:x") == (None, "spacy:x")


def test_other_packages_add_kinds_and_unknown_ones_are_named(monkeypatch):
    class Added:
        @classmethod
        def from_pretrained(cls, name, *, label_map, scheme, temperature, device):
            return (cls, name, label_map, temperature)

    point = SimpleNamespace(name="rules", load=lambda: Added)
    monkeypatch.setattr(kinds, "entry_points", lambda group: [point] if group == "hf_structkd.teachers" else [])
    assert load_teacher("rules:one", label_map={"A": "B"}) == (Added, "one", {"A": "B"}, 1.0)
    with pytest.raises(ValueError, match="no kind of teacher 'spcy'; did you mean spacy:"):
        load_teacher("spcy:en")
    with pytest.raises(ValueError, match=r"no kind of teacher 'zzz'; the kinds are .*rules, spacy"):
        load_teacher("zzz:en")
    with pytest.raises(ValueError, match="kind rules has no option size"):
        load_teacher("rules:one", options={"size": 3})
    with pytest.raises(ValueError, match="is a checkpoint and takes no options, not size"):
        load_teacher("owner/model", options={"size": 3})


def test_a_named_map_is_about_the_types_that_the_teacher_has():
    labels = ["O", *(f"{prefix}-{kind}" for kind in ("PERSON", "DATE", "GPE") for prefix in "BI")]
    for name in ("ontonotes-to-conll", "ontonotes-to-wikiann"):
        teacher = CallableTeacher(len, labels, name="T", revision="1", label_map=name)
        assert teacher.label_map == {"PERSON": "PER", "DATE": "O", "GPE": "LOC"}
        assert teacher.labels == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    with pytest.raises(ValueError, match="no label_map 'ontonotes-to-conl'; did you mean ontonotes-to-conll"):
        teacher_of([], label_map="ontonotes-to-conl")
    with pytest.raises(ValueError, match="'conll-to-wikiann' is about none of its labels"):
        teacher_of([], label_map="conll-to-wikiann")


def test_the_map_to_write_is_shown_with_nearest_names():
    assert suggest_map(["PERSON", "GPE", "DATE"], ["LOC", "ORG", "PER"]) == {
        "PERSON": "PER",
        "GPE": "LOC",
        "DATE": "O",
        "O": ["O", "ORG"],
    }
    labels = ["O", *(f"{prefix}-{kind}" for kind in ONTONOTES for prefix in "BI")]
    student = ["O", *(f"{prefix}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for prefix in "BI")]
    with pytest.raises(ValueError, match=r"fits this teacher: label_map: ontonotes-to-conll.*'PERSON': 'PER'"):
        read_labels([[label] for label in labels], student, "T")


def tags_of(*kinds: str) -> list[str]:
    return ["O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI")]


@pytest.mark.parametrize(
    ("own", "student", "advice"),
    [
        # Danger: the union of spaCy's English types and the other languages' is met with "your PER hides in O".
        (
            ONTONOTES,
            [*ONTONOTES, "MISC", "PER"],
            "A map of the package fits this teacher: label_map: ontonotes-to-conll",
        ),
        (["LOC", "MISC", "ORG", "PER"], [*ONTONOTES, "MISC", "PER"], "label_map: ontonotes-to-conll. In a label_map"),
        (
            ["LOC", "ORG", "PER"],
            [*ONTONOTES, "PER"],
            "give the teacher that has CARDINAL, DATE, EVENT label_map: onto",
        ),
        (ONTONOTES, ["LOC", "ORG", "PER"], "A map of the package fits this teacher: label_map: ontonotes-to-wikiann."),
        (["PERSON", "GPE"], ["PER", "LOC"], "A map of the package fits this teacher: label_map: ontonotes-to-conll."),
        (
            ["LOC", "MISC", "ORG", "PER"],
            ["LOC", "ORG", "PER"],
            "this teacher: label_map: conll-to-wikiann. Written out",
        ),
        (
            ["PERSONNE"],
            ["PERSONNE", "PERSONNES"],
            "Nearest names, to be checked: label_map: {'PERSONNE': 'PERSONNES'}",
        ),
        (["LOC"], ["LOC", "DRUG"], "If it does not know DRUG: label_map: {'O': ['O', 'DRUG']}"),
        (["DRUG"], ["DISEASE"], "Nearest names, to be checked: label_map: {'DRUG': 'O', 'O': ['O', 'DISEASE']}"),
    ],
)
def test_a_map_of_the_package_is_offered_first(own, student, advice):
    with pytest.raises(ValueError, match="those of all teachers, as their label maps read them") as caught:
        read_labels([[label] for label in tags_of(*own)], tags_of(*student), "T")
    assert advice in str(caught.value)
    assert "{'O': ['O', 'MISC', 'PER']}" not in str(caught.value)


def test_parts_of_speech_of_the_penn_treebank_have_a_map():
    """Groups where one of its tags is one or another universal tag; plain tags without a map get a suggestion, too."""
    penn = ["NN", "VB", "IN", "DT", "."]
    universal = ["ADP", "ADV", "AUX", "DET", "NOUN", "PART", "PRON", "PUNCT", "SCONJ", "VERB"]
    teacher = CallableTeacher(len, penn, name="T", revision="1", label_map="ptb-to-upos")
    groups = teacher.reading(universal).groups
    together = {frozenset(t for t, g in zip(universal, groups) if g == leader) for leader in set(groups)}
    assert {frozenset({"AUX", "VERB"}), frozenset({"DET", "PRON"}), frozenset({"NOUN"})} < together
    plain = CallableTeacher(len, penn, name="T", revision="1")
    with pytest.raises(ValueError, match=r"fits this teacher: label_map: ptb-to-upos.*'NN': 'NOUN'"):
        plain.reading(universal)
    with pytest.raises(ValueError, match=r"label_map: \{'CONJ': 'CCONJ', 'ZZZ': '\?'\}\. In a"):
        read_labels([["CONJ"], ["ZZZ"]], ["CCONJ", "NOUN"], "T")
