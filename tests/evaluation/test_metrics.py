"""Scores: strict, offline, plain floats, and honest about what cannot be scored."""

import json
import random
import socket

import evaluate
import numpy as np
import pytest
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2, IOBES
from transformers import EvalPrediction

from hf_structkd.evaluation import (
    StrictSeqeval,
    TaggingMetrics,
    WordAccuracy,
    accuracy,
    macro_average,
    micro_average,
    seqeval_metric,
    strict_seqeval,
    word_accuracy,
)
from hf_structkd.training.card import evaluation_reports

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
BIOES = ["O", *(f"{prefix}-{kind}" for kind in ("PER", "LOC") for prefix in "BIES")]


def random_tags(labels: list[str], seed: int, sentences: int = 200) -> list[list[str]]:
    generator = random.Random(seed)
    lengths = random.Random(0)  # the same lengths for every seed
    return [generator.choices(labels, k=lengths.randint(0, 8)) for _ in range(sentences)]


@pytest.mark.parametrize(("labels", "scheme", "theirs"), [(BIO, "BIO", IOB2), (BIOES, "BIOES", IOBES)])
def test_scores_are_those_of_strict_seqeval(labels, scheme, theirs):
    # random tags: mostly malformed entities, which seqeval's default mode would count
    predictions, references = random_tags(labels, 1), random_tags(labels, 2)
    ours = strict_seqeval(predictions, references, scheme)
    for average in ("micro", None):
        expected = precision_recall_fscore_support(
            references, predictions, scheme=theirs, average=average, zero_division=0
        )
        if average == "micro":
            assert (ours["precision"], ours["recall"], ours["f1"]) == pytest.approx(expected[:3])
        else:
            for i, kind in enumerate(("LOC", "PER")):
                assert ours["by_type"][kind]["f1"] == pytest.approx(expected[2][i])
                assert ours["by_type"][kind]["number"] == expected[3][i]


@pytest.mark.parametrize(
    ("prediction", "gold", "scheme", "f1"),
    [
        ("B-PER I-PER", "B-PER I-PER", "BIO", 1.0),
        ("B-PER O", "B-PER I-PER", "BIO", 0.0),  # boundaries count
        ("B-LOC I-LOC", "B-PER I-PER", "BIO", 0.0),  # so does the type
        ("O I-PER", "O I-PER", "BIO", 0.0),  # a malformed entity is none, in the gold too
        ("O B-PER", "O I-PER", "BIO", 0.0),  # ... and what its annotator meant is a false positive
        ("B-PER B-PER", "B-PER I-PER", "BIO", 0.0),
        ("B-PER E-PER", "B-PER E-PER", "BIOES", 1.0),
        ("B-PER I-PER", "B-PER E-PER", "BIOES", 0.0),  # never closed
        ("S-PER S-LOC", "S-PER O", "BIOES", 2 / 3),
    ],
)
def test_strictness(prediction, gold, scheme, f1):
    assert strict_seqeval([prediction.split()], [gold.split()], scheme)["f1"] == pytest.approx(f1)


@pytest.mark.parametrize("zero_division", [0.0, 1.0])
def test_nothing_to_score(zero_division):
    for sentences in ([], [[]], [["O", "O"]]):
        scores = strict_seqeval(sentences, sentences, zero_division=zero_division)
        assert scores["f1"] == scores["precision"] == scores["recall"] == zero_division
    assert strict_seqeval([["B-PER"]], [["O"]], zero_division=1.0)["f1"] == 0.0
    assert word_accuracy([], [], zero_division)["accuracy"] == zero_division


@pytest.mark.parametrize(
    ("predictions", "references", "scheme", "message"),
    [
        ([["O"]], [["O"], ["O"]], "BIO", "1 predicted sentences, but 2"),
        ([["O"], ["O", "O"]], [["O"], ["O"]], "BIO", "Sentence 1 has 2 predicted"),
        ([["S-PER"]], [["O"]], "BIO", "Sentence 0 .* not BIO"),
        ([["NOUN"]], [["O"]], "BIO", "Sentence 0 .* not BIO"),
        ([["O"]], [["O"]], "IOB1", "'IOB1'"),
        (["B-PER", "O"], [["B-PER", "O"]], "BIO", r"predictions\[0\] is 'B-PER'.*list of the tags of one sentence"),
        ([["B-PER", "O"]], ["B-PER", "O"], "BIO", r"references\[0\] is 'B-PER'"),
        ("O", [["O"]], "BIO", "predictions is 'O'"),
        ([["O"]], None, "BIO", "references is None"),
        ([["O"]], [None], "BIO", r"references\[0\] is None"),
        ([[1]], [["O"]], "BIO", r"predictions\[0\] holds 1, but tags are strings"),
    ],
)
def test_what_cannot_be_scored_is_named(predictions, references, scheme, message):
    with pytest.raises(ValueError, match=message):
        strict_seqeval(predictions, references, scheme)


FLAT = ["X", "O"]


@pytest.mark.parametrize(
    "score",
    [
        lambda: TaggingMetrics(BIO).report(["B-PER", "O"], ["B-PER", "O"]),
        lambda: TaggingMetrics(FLAT).report(FLAT, FLAT),
        lambda: strict_seqeval(["B", "O"], ["B", "O"]),
        lambda: word_accuracy(FLAT, FLAT),
        lambda: StrictSeqeval().compute(predictions=["B", "O"], references=["B", "O"]),
        lambda: WordAccuracy().compute(predictions=FLAT, references=FLAT),
        lambda: TaggingMetrics("XO"),
    ],
)
def test_tags_of_one_sentence_are_not_sentences_of_one_letter_tags(score):
    """Danger: a string is a sequence of letters too, and those of a one-letter tag are scored without a word."""
    with pytest.raises(ValueError, match=r"list|expected"):
        score()


NAMES = ["number", "precision", "recall", "f1", "correct", "predicted", "accuracy", "by_type", "loss", "avg"]


@pytest.mark.parametrize("name", NAMES)
def test_entity_types_and_tags_may_be_called_like_scores(name):
    """Danger: a corpus with a type `number` is trained on for an epoch, and then cannot be scored."""
    gold = [[f"B-{name}", "O", "B-PER"], ["O", "O", f"B-{name}"]]
    guess = [[f"B-{name}", "O", "O"], ["O", "O", f"B-{name}"]]
    metrics = TaggingMetrics(["O", f"B-{name}", f"I-{name}", "B-PER", "I-PER"])
    report = metrics.report(guess, gold)
    assert (report["f1"], report["number"]) == (pytest.approx(0.8), 3.0)
    assert report["by_type"][name]["number"] == 2.0
    flat = metrics.flatten(report)
    assert (flat[f"f1_{name}"], flat["f1_PER"], flat["f1"]) == (1.0, 0.0, pytest.approx(0.8))
    assert micro_average({"en": report})["by_type"][name]["f1"] == 1.0
    assert macro_average({"en": flat, "de": flat})[f"f1_{name}"] == 1.0
    words = word_accuracy([[name, "X"]], [[name, name]])
    assert (words["accuracy"], words["number"], words["by_type"][name]["number"]) == (0.5, 2.0, 2.0)
    flat_log = {f"eval_en_{score}": value for score, value in flat.items()} | {"step": 1}
    read = evaluation_reports([flat_log], ["en"], "f1")["en"]
    assert (read["f1"], read["by_type"][name]["f1"]) == (pytest.approx(0.8), 1.0)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a metric reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("load", [False, True])
def test_as_evaluate_metric_offline(load, no_network, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path))
    metric = evaluate.load(seqeval_metric.__file__, scheme="BIOES") if load else StrictSeqeval("BIOES")
    metric.add_batch(predictions=[["S-PER", "O"]], references=[["S-PER", "O"]])
    metric.add_batch(predictions=[[]], references=[[]])
    scores = metric.compute()
    assert scores["f1"] == scores["by_type"]["PER"]["f1"] == 1.0
    assert metric.compute(predictions=[], references=[])["f1"] == 0.0
    assert metric.compute(predictions=[["B-PER"]], references=[["B-PER"]], scheme="BIO")["f1"] == 1.0
    words = evaluate.load(accuracy.__file__) if load else WordAccuracy()
    assert words.compute(predictions=[["X", "Y", "Y"], ["X"]], references=[["X", "X", "Y"], ["X"]])["accuracy"] == 0.75


def test_all_numbers_are_plain():
    # numpy's floats corrupt the YAML of model cards
    def numbers(scores):
        for value in scores.values():
            yield from numbers(value) if isinstance(value, dict) else [value]

    report = TaggingMetrics(BIO)(EvalPrediction(np.array([[1, 2]]), np.array([[1, 2]])))
    for scores in (report, strict_seqeval([["B-PER"]], [["B-PER"]]), word_accuracy([["X"]], [["X"]])):
        assert {type(number) for number in numbers(scores)} == {float}
    json.dumps(report)


LABELS = np.array([[-100, 1, 2, -100, 0, -100], [-100, 3, 0, 0, -100, -100], [-100, -100, -100, -100, -100, -100]])
TAGS = np.where(LABELS == -100, -100, LABELS)
LOGITS = np.eye(5)[np.where(LABELS == -100, 4, LABELS)].astype(np.float32)


@pytest.mark.parametrize(
    "predictions",
    [
        TAGS,
        LOGITS,
        (LOGITS, TAGS),  # the model's outputs as the Trainer hands them over
        (TAGS, LOGITS),
        np.pad(TAGS, ((0, 0), (0, 3)), constant_values=-100),
        TAGS[:, :5],
        np.where(TAGS == -100, 4, TAGS),  # tags off words are nobody's business
    ],
    ids=["tags", "logits", "logits first", "tags first", "wider", "narrower", "tags everywhere"],
)
def test_predictions_in_every_shape(predictions):
    scores = TaggingMetrics(BIO)(EvalPrediction(predictions, LABELS))
    assert scores == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "accuracy": 1.0, "f1_PER": 1.0, "f1_LOC": 1.0}


def test_wrong_predictions_lower_the_score():
    wrong = np.where(TAGS == 3, 0, TAGS)
    scores = TaggingMetrics(BIO)(EvalPrediction(wrong, LABELS))
    assert (scores["recall"], scores["f1_LOC"], scores["accuracy"]) == (0.5, 0.0, pytest.approx(5 / 6))


def test_batches_of_different_width():
    # eval_do_concat_batches=False
    prediction = EvalPrediction([TAGS[:1, :5], TAGS[1:]], [LABELS[:1], LABELS[1:]])
    assert TaggingMetrics(BIO)(prediction)["f1"] == 1.0


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (np.full_like(TAGS, -100), "no predicted tag"),  # model and collator disagree about words
        (TAGS[:, :3], "no predicted tag"),
        (np.where(TAGS == 3, 5, TAGS), "leave the label set"),
        (TAGS[:2], "do not fit"),
        (TAGS.astype(np.float32), "No tag ids"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(predictions, message):
    with pytest.raises(ValueError, match=message):
        TaggingMetrics(BIO)(EvalPrediction(predictions, LABELS))


def test_the_headline_follows_the_scheme():
    assert TaggingMetrics(BIO).metric_name == TaggingMetrics(BIOES).metric_name == "f1"
    plain = TaggingMetrics(["NOUN", "VERB"])
    assert (plain.metric_name, plain.scheme) == ("accuracy", "plain")
    assert plain(EvalPrediction(np.array([[0, 1, -100]]), np.array([[0, 0, -100]]))) == {"accuracy": 0.5}
    with pytest.raises(ValueError, match="NOUN"):
        TaggingMetrics(["NOUN", "O"], "BIO")
