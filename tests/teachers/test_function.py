"""Danger: a function answers in the wrong shape, order or number, and is believed."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

from hf_structkd import annotate
from hf_structkd.teachers.function import CallableTeacher

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
