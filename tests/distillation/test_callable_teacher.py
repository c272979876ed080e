"""Danger: a function answers in the wrong shape, order or number, and is believed."""

import numpy as np
import pytest
import torch

from hf_structkd.distillation.callable_teacher import CallableTeacher

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
