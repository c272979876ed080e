"""Dangers: a raw traceback where something else than a teacher is given, and a damaged checkpoint that teaches."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, TokenClassificationPipeline, XLMRobertaConfig, XLMRobertaForTokenClassification

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher, annotate
from hf_structkd.recipes.fields import DataArguments, ModelArguments
from hf_structkd.recipes.growth import student_labels
from hf_structkd.recipes.models import check_model
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.teachers import kinds
from hf_structkd.teachers.function import CallableTeacher
from hf_structkd.teachers.kinds import load_teacher, split_kind
from hf_structkd.teachers.label_map import LABEL_MAPS, read_labels, suggest_map
from hf_structkd.teachers.panel import Panel, load_teachers
from hf_structkd.training.teacher_embeddings import teacher_views
from tests.conftest import label_fields


@pytest.fixture
def folder(make_student, tokenizer, tmp_path):
    make_student(seed=1).save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    return tmp_path / "tagger"


def softmax_tagger(tokenizer, labels):
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=60, type_vocab_size=1, pad_token_id=tokenizer.pad_token_id, **label_fields(labels),
    )  # fmt: skip
    return XLMRobertaForTokenClassification(config).eval()


def test_a_folder_is_loaded_where_a_teacher_is_meant(folder, make_student, tokenizer, corpus, labels, tmp_path):
    few = corpus.select(range(6))
    options = {"label_names": labels, "targets": ["teacher_marginals"], "progress": False}
    expected = annotate(few, Teacher(make_student(seed=1), tokenizer), **options).to_dict()
    for given in (str(folder), folder, {"en": str(folder)}, [(folder, 2.0)]):
        assert annotate(few, given, **options).to_dict() == expected
    args = StructKDTrainingArguments(str(tmp_path / "run"), objective="posterior", use_cpu=True, report_to="none")
    trainer = StructKDTrainer(
        make_student(), args, None, few, processing_class=tokenizer, teachers={"en": str(folder)}
    )
    assert trainer.train_dataset["teacher_marginals"] == expected["teacher_marginals"]
    assert next(iter(trainer.teachers.values())).name == str(folder)


def test_a_pipeline_is_its_model_and_tokenizer(tokenizer, corpus, labels):
    model = softmax_tagger(tokenizer, labels)
    pipeline = TokenClassificationPipeline(model=model, tokenizer=tokenizer)
    sentences = corpus["tokens"][:3]
    assert Panel(pipeline).tag(sentences, labels) == Teacher(model, tokenizer).tag(sentences, labels)


class FlairTagger:
    __module__ = "flair.models"


@pytest.mark.parametrize("kind", ["model", "model and tokenizer", "function", "flair", "number", "weight", "none"])
def test_what_is_no_teacher_is_refused_with_the_way_to_make_one(
    kind, tokenizer, labels, make_student, tmp_path, corpus
):
    model = softmax_tagger(tokenizer, labels)
    given, message = {
        "model": (model, r"XLMRobertaForTokenClassification is no teacher: .*Teacher\(model, tokenizer\)"),
        "model and tokenizer": ((model, tokenizer), r"is no teacher: .*Teacher\(model, tokenizer\)"),
        "function": (lambda sentences: [], r"function is no teacher: give CallableTeacher\(function"),
        "flair": (FlairTagger(), r"flair.models.FlairTagger is no teacher: give CallableTeacher\(function"),
        "number": (3, "int is no teacher: give a Teacher"),
        "weight": ([(Teacher(model, tokenizer), "2")], r"stand teachers or \(teacher, weight\)"),
        "none": (None, "NoneType is no teacher"),
    }[kind]
    with pytest.raises(TypeError, match=message):
        annotate(corpus, {"en": given, "ru": given}, label_names=labels, targets=["teacher_marginals"])
    args = StructKDTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(TypeError, match=message):
        StructKDTrainer(make_student(), args, None, corpus, processing_class=tokenizer, teachers={"en": given})
    with pytest.raises(TypeError, match="made of a transformers model and its fast tokenizer"):
        Teacher("some/model", tokenizer)


def test_a_teacher_in_training_mode_answers_without_dropout(make_student, tokenizer, corpus, labels):
    teacher = Teacher(make_student(seed=1, hidden_dropout_prob=0.5), tokenizer)
    sentences = corpus["tokens"][:4]
    calm = teacher.distribution(sentences, labels).marginals
    views = teacher_views(tokenizer, teacher)[0][0]
    teacher.model.train()
    modes = [module.training for module in teacher.model.modules()]
    torch.testing.assert_close(teacher.distribution(sentences, labels).marginals, calm)
    torch.testing.assert_close(teacher_views(tokenizer, teacher)[0][0], views)
    assert [module.training for module in teacher.model.modules()] == modes
    for ask in (lambda: teacher.tag(sentences, batch_size=0), lambda: teacher_views(tokenizer, teacher, batch_size=0)):
        with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
            ask()


def change_config(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def excluding(mask):
    def change(weights):
        weights["crf.transitions"] = torch.where(mask, -torch.inf, weights["crf.transitions"])

    return change


def two_cycles(folder):
    """Tags follow each other in cycles of 2 and of 5: of all lengths, 10 words (20, ...) alone have no sequence."""

    def change(weights):
        for part in weights:
            if part.startswith("crf."):
                weights[part].fill_(-torch.inf)
        for cycle in ((0, 1), (2, 3, 4, 5, 6)):
            for tag, following in zip(cycle, (*cycle[1:], cycle[0])):
                weights["crf.transitions"][tag, following] = 0.0
        weights["crf.start_transitions"][[0, 2]] = 0.0
        weights["crf.end_transitions"][[0, 2, 3, 4, 5]] = 0.0

    change_config(folder, crf_constraints="none")
    change_weights(folder, change)


def larger_vocabulary(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"piece{number}" for number in range(50)])
    tokenizer.save_pretrained(folder)


def cut(name):
    def change(folder):
        file = folder / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change_config(f, num_hidden_layers=0), "holds weights that its configuration has no place for"),
        (lambda f: change_config(f, num_hidden_layers=2), "lacks the weights"),
        (lambda f: change_config(f, hidden_size=32), "cannot be loaded; it may be damaged"),
        (lambda f: change_config(f, hidden_size="wide"), "tagger"),
        (lambda f: change_config(f, id2label={"0": "O", "5": "B-PER"}), "tagger"),
        (lambda f: change_weights(f, excluding(torch.ones(7, 7, dtype=torch.bool))), "exclude all tag .* of 2 word"),
        (two_cycles, "exclude all tag .* of 10 word"),
        (lambda f: change_weights(f, lambda w: w["crf.transitions"].fill_(float("nan"))), "crf.transitions holds NaN"),
        (lambda f: change_weights(f, lambda w: w["classifier.bias"].fill_(float("inf"))), "classifier.bias holds NaN"),
        (larger_vocabulary, "has a tokenizer with .* pieces and embeddings for"),
        (cut("model.safetensors"), r"cannot be loaded; it may be damaged \(SafetensorError"),
        (cut("config.json"), "config.json"),
        (cut("tokenizer.json"), "cannot be loaded; it may be damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(folder, damage, message):
    """Danger: zeros or noise are taught for hours, or a traceback names neither checkpoint nor what is wrong."""
    damaged = folder.with_name("damaged tagger")
    shutil.copytree(folder, damaged)
    damage(damaged)
    with pytest.raises((ValueError, OSError), match="damaged tagger") as refused:
        Teacher.from_pretrained(str(damaged))
    assert refused.match(message)
    assert Teacher.from_pretrained(str(folder)).labels


def test_some_excluded_transitions_and_a_pooler_are_no_damage(folder, tokenizer, labels, tmp_path):
    """Danger: sound checkpoints are refused."""
    few = torch.zeros(7, 7, dtype=torch.bool)
    few[0, 2] = True
    change_weights(folder, excluding(few))
    assert Teacher.from_pretrained(str(folder)).model.crf.transitions[0, 2] == -torch.inf
    softmax_tagger(tokenizer, labels).save_pretrained(tmp_path / "pooled")
    tokenizer.save_pretrained(tmp_path / "pooled")
    change_weights(tmp_path / "pooled", lambda w: w.update({"roberta.pooler.dense.weight": torch.zeros(16, 16)}))
    assert Teacher.from_pretrained(str(tmp_path / "pooled")).labels == labels


def test_a_folder_that_is_not_there_is_said_to_be_no_teacher(tmp_path):
    """The Hub's message was about the form of repository names."""
    with pytest.raises(
        OSError, match=r"no teacher can be loaded from .*nowhere'.* neither the folder of a checkpoint"
    ):
        load_teachers({"en": str(tmp_path / "nowhere")})


@pytest.mark.parametrize("name", ["{}/nowhere", "./nowhere", "runs/one/nowhere", "{}/a file"])
def test_a_path_without_a_folder_is_told_as_such(name, tmp_path):
    """The Hub's message was about the form of repository names, wherever a checkpoint is named by its path."""
    (tmp_path / "a file").touch()
    path = name.format(tmp_path)
    with pytest.raises(OSError, match=f"there is no folder '{path}' \\((it is a file|there is nothing of this name)"):
        Teacher.from_pretrained(path)
    for check in (check_model, lambda args: student_labels(args, ["O"], DataArguments("demo"))):
        with pytest.raises(RecipeError, match=f"model '{path}': there is no folder '{path}'"):
            check(ModelArguments(model=path))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("./my_modle", "./my_model"),
        ("runs/x/student", "runs/xx/student"),
        ("runs/xx/studnet/", "runs/xx/student"),
        ("my_modle", "my_model"),  # may be a name on the Hub: the Hub's answer comes first
        ("rnus/first", "runs/first"),
        ("somebody/tagger", None),
        ("./nowhere", None),
    ],
)
def test_the_nearest_folder_is_named(name, near, tmp_path, monkeypatch):
    """Danger: a slip of the finger is answered with rules for the names of repositories."""
    for folder in ("my_model", "runs/xx/student", "runs/first"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for load in (Teacher.from_pretrained, lambda name: check_model(ModelArguments(model=name))):
        with pytest.raises((OSError, RecipeError)) as caught:
            load(name)
        message = str(caught.value)
        is_path = name.startswith(".") or name.count("/") > 1
        assert ("there is no folder" in message) == is_path
        assert ("huggingface.co" in message) == (not is_path)
        assert "Repo id" not in message
        assert (f"the nearest is '{near}'" in message) == (near is not None)


def test_a_folder_has_no_revisions(folder):
    """It was loaded as it is, whatever was asked for, and the card said that it was of the revision."""
    loaders = (
        lambda: Teacher.from_pretrained(str(folder), revision="v1"),
        lambda: load_teacher(str(folder), revision="v1"),
        lambda: check_model(ModelArguments(model=str(folder), revision="v1")),
        lambda: student_labels(ModelArguments(model=str(folder), revision="v1"), ["O"], DataArguments("demo")),
    )
    for load in loaders:
        with pytest.raises(ValueError, match=r"revision 'v1' is for a model on the Hub, and '.*tagger' is a folder"):
            load()


# Danger: a name is taken for another teacher than the user meant, or a label map for another one.


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


# Danger: a function answers in the wrong shape, order or number, and is believed.


LABELS = ["O", "B-PER"]
SENTENCES = [["Anna", "sings"], ["No"]]


def teacher_of(answers, kind="probabilities", **options):
    return CallableTeacher(lambda sentences: answers, LABELS, name="T", revision="1", answers=kind, **options)


def test_probabilities_are_a_chain_without_transitions_in_the_students_order():
    rows = [np.array([[0.1, 0.9], [0.8, 0.2]]), [[1.0, 0.0]]]
    distribution = teacher_of(rows).distribution(SENTENCES, ["B-PER", "O"])
    torch.testing.assert_close(distribution.marginals[0], torch.tensor([[0.9, 0.1], [0.2, 0.8]]).double())
    assert distribution.edge_counts[0, 0, 1].item() == pytest.approx(0.9 * 0.8)
    assert teacher_of(rows).tag(SENTENCES) == [["B-PER", "O"], ["O"]]


def test_one_list_of_sequences_may_be_shorter_than_another():
    answers = [[(["O", "O"], 3), (["B-PER", "O"], 1)], [(["O"], 0.2)]]
    paths = teacher_of(answers, "paths").distribution(SENTENCES, LABELS).topk(5)
    assert paths.valid.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(paths.log_prob.exp(), torch.tensor([[0.75, 0.25], [1.0, 0.0]]).double())


@pytest.mark.parametrize(
    ("kind", "answers", "message"),
    [
        ("probabilities", [[[0.5, 0.5]] * 2], "gave 1 answers to 2 sentences"),
        ("probabilities", [[[0.5, 0.5]], [[1.0, 0.0]]], "'Anna sings'.* 2 words x 2 labels, got shape"),
        ("probabilities", [[[0.5, 0.2]] * 2, [[1.0, 0.0]]], "'Anna sings'.*add up to 1"),
        ("probabilities", [[[float("nan"), 0.2]] * 2, [[1.0, 0.0]]], "'Anna sings'.*add up to 1"),
        ("scores", [(np.zeros((2, 2)), np.zeros((3, 3)))] * 2, "wanted .emissions, transitions."),
        (
            "scores",
            [(np.zeros((2, 2)), np.zeros((2, 2))), (np.zeros((1, 2)), np.ones((2, 2)))],
            "'No'.*differ from those of the sentences before",
        ),
        ("paths", [[(["O", "O"], 1.0)], []], "'No'.*empty"),
        ("paths", [[(["O"], 1.0)], [(["O"], 1.0)]], "not one of the labels for each of 2 words"),
        ("paths", [[(["O", "X"], 1.0)], [(["O"], 1.0)]], "not one of the labels"),
        ("paths", [[(["O", "O"], 0.0)], [(["O"], 1.0)]], "must be above 0"),
    ],
)
def test_wrong_answers_name_the_sentence_and_what_was_wanted(kind, answers, message):
    with pytest.raises(ValueError, match=message):
        teacher_of(answers, kind).distribution(SENTENCES, LABELS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"answers": "logits"}, "answers must be one of"),
        ({"labels": ["O", "O"]}, "labels must differ"),
        ({"revision": ""}, "needs a revision"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    settings = {"function": list, "labels": LABELS, "name": "T", "revision": "1", **arguments}
    with pytest.raises(ValueError, match=message):
        CallableTeacher(**settings)


def test_the_temperature_of_listed_sequences_divides_what_the_teacher_said_not_what_was_merged():
    """Danger: calibration goes the wrong way: merged probabilities of .4 and .6 grow apart where the paths do not."""
    said = [(["O"], 0.4), (["B-X"], 0.3), (["B-Y"], 0.3)]

    def merging(**options):
        return CallableTeacher(
            lambda sentences: [said] * len(sentences), ["O", "B-X", "B-Y"], name="T", revision="1", answers="paths",
            label_map={"Y": "X"}, **options,
        )  # fmt: skip

    student = ["O", "B-X"]
    expected = torch.tensor([0.4, 0.3, 0.3]).double().pow(1 / 2.0)
    expected = torch.stack([expected[0], expected[1:].sum()]) / expected.sum()
    asked = merging().distribution([["Nile"]], student)
    for hot in (asked.with_temperature(2.0), merging(temperature=2.0).distribution([["Nile"]], student)):
        torch.testing.assert_close(hot.marginals[0, 0], expected)
    cooled = asked.with_temperature(4.0).select(torch.tensor([0])).with_temperature(0.25)
    torch.testing.assert_close(cooled.marginals, asked.marginals)
    half = Dataset.from_dict({"tokens": [["Nile"]] * 4, "tags": [["O"], ["B-X"]] * 2})
    teacher = merging()
    found = teacher.calibrate(half, student)
    assert found.temperature < 1.0
    assert found.nll == pytest.approx(math.log(2), abs=1e-4)
    marginals = teacher.distribution([["Nile"]], student).marginals[0, 0]
    assert -marginals.log().mean().item() == pytest.approx(found.nll)
    answers = annotate(
        half, merging(), label_names=student, targets=["teacher_marginals"], temperature=2.0, progress=False
    )
    assert answers[0]["teacher_marginals"][0] == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_sequence_that_is_listed_twice_is_one_before_any_temperature():
    twice = [[(["O", "O"], 0.3), (["B-PER", "O"], 0.4), (["O", "O"], 0.3)], [(["O"], 1.0)]]
    once = [[(["O", "O"], 0.6), (["B-PER", "O"], 0.4)], [(["O"], 1.0)]]
    found = [
        teacher_of(answers, "paths", temperature=3.0).distribution(SENTENCES, LABELS).marginals
        for answers in (twice, once)
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("part", ["start", "end", "left out"])
def test_a_sentences_own_start_and_end_scores_are_refused_and_not_given_to_all(part):
    """Danger: the last sentence's start and end serve the whole batch."""
    emissions, transitions, zero, other = (np.zeros(shape) for shape in ((2, 2), (2, 2), 2, 2))
    other = other + np.array([0.0, 5.0])
    full = (emissions, transitions, zero, other) if part == "end" else (emissions, transitions, other, zero)
    second = (emissions[:1], transitions) if part == "left out" else (emissions[:1], transitions, zero, zero)
    with pytest.raises(ValueError, match="sentence 'No': its transition, start or end scores differ"):
        teacher_of([full, second], "scores").distribution(SENTENCES, LABELS)
    same = [(emissions, transitions, zero, zero), (emissions[:1], transitions)]
    marginals = teacher_of(same, "scores").distribution(SENTENCES, LABELS).marginals
    torch.testing.assert_close(marginals[0], torch.full((2, 2), 0.5).double())


@pytest.mark.parametrize("sentences", [["Nadia sails"], "Nadia sails", [["Nadia"], None], [["Nadia", 7]]])
def test_a_text_where_words_are_meant_is_never_cut_into_letters(sentences):
    teacher = CallableTeacher(
        lambda given: [[[0.5, 0.5]] * len(words) for words in given], LABELS, name="T", revision="1"
    )
    for ask in (teacher.tag, teacher.distribution):
        with pytest.raises(TypeError, match=r"no list of words|each a list of words|word 1 is no string"):
            ask(sentences)


@pytest.mark.parametrize("kind", ["probabilities", "paths"])
def test_a_series_is_read_in_its_order_not_by_its_labels(kind):
    """What is labelled 0 is not what stands first: answers went to other sentences, or there was a KeyError."""
    sentences = [["Olu", "hums", "here"], ["Bay"], ["no", "one"]]

    def answer(given):
        sure = [[[1.0, 0.0] if word.islower() else [0.0, 1.0] for word in words] for words in given]
        paths = [[([LABELS[row.index(1.0)] for row in rows], 1.0)] for rows in sure]
        return sure if kind == "probabilities" else paths

    teacher = CallableTeacher(answer, LABELS, name="T", revision="1", answers=kind)
    expected = [["B-PER", "O", "O"], ["B-PER"], ["O", "O"]]
    for index in ([2, 0, 1], [5, 6, 7], list("abc")):
        series = pd.Series([pd.Series(words, index=range(1, len(words) + 1)) for words in sentences], index=index)
        assert teacher.tag(series) == teacher.tag(sentences) == expected
        assert teacher.distribution(series).lengths.tolist() == [3, 1, 2]
