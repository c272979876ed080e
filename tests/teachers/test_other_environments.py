"""Dangers: a library that cannot live beside this package answers about other words, other labels or another model.

The models are made and asked by the libraries themselves, in an environment of their own:
`make test-flair` builds it, and names its interpreter in FLAIR_PYTHON.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_structkd import load_teacher
from hf_structkd.modeling.crf import LinearChainCRF
from hf_structkd.teachers import other_environments

PYTHON = os.environ.get("FLAIR_PYTHON")
needs_flair = pytest.mark.skipif(
    PYTHON is None, reason="FLAIR_PYTHON names no interpreter that has flair: make test-flair"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, dict]:
    """A folder of models, and what their libraries say of some sentences."""
    folder = tmp_path_factory.mktemp("models")
    script = str(Path(__file__).with_name("make_foreign_models.py"))
    subprocess.run([PYTHON, "-I", script, str(folder)], check=True, capture_output=True, timeout=250)
    return folder, json.loads((folder / "sentences.json").read_text())


def load(kind: str, models, name: str, **kwargs):
    return load_teacher(f"{kind}:{models[0] / name}", options={"python": PYTHON}, **kwargs)


@needs_flair
def test_a_tagger_with_crf_answers_with_its_own_likelihood_and_best_tags(models):
    teacher, said = load("flair", models, "crf"), models[1]
    assert teacher.tag(said["sentences"]) == [answer["best"] for answer in said["crf"]]
    for words, tags, answer in zip(said["sentences"], said["tags"], said["crf"]):
        scores, lengths, constraints = teacher.chain_scores([words])
        assert not constraints  # like the library's CRF: what BIOES does not allow has a probability, too
        gold = torch.tensor([[teacher.unmapped_labels.index(tag) for tag in to_bioes(tags)]])
        nll = -float(LinearChainCRF(*scores, lengths=lengths).log_prob(gold)[0])
        assert nll == pytest.approx(answer["loss of gold"], abs=1e-4)


def to_bioes(tags: list[str]) -> list[str]:
    closed = [*tags, "O"]
    changed = []
    for tag, after in itertools.pairwise(closed):
        last = not after.startswith("I-")
        changed.append(tag if tag == "O" or not last else {"B": "S", "I": "E"}[tag[0]] + tag[1:])
    return changed


@needs_flair
def test_a_tagger_without_crf_answers_with_its_softmax(models):
    teacher, said = load("flair", models, "softmax"), models[1]
    scores = teacher.chain_scores(said["sentences"]).scores
    for row, answer in enumerate(said["softmax"]):
        ours = scores.emissions[row].softmax(dim=-1)
        for word, probabilities in enumerate(answer["probabilities"]):
            for label, probability in probabilities.items():
                assert float(ours[word, teacher.unmapped_labels.index(label)]) == pytest.approx(
                    float(probability), abs=1e-5
                )


@needs_flair
def test_spans_have_the_probabilities_of_the_model(models):
    teacher, said = load("span_marker", models, "span_marker"), models[1]
    for words, entities in zip(said["sentences"], said["span_marker"]):
        (candidates,) = teacher._score([words])
        scores = {(start, end, kind): score for start, end, kind, score in candidates}
        for entity in entities:
            span = entity["word_start_index"], entity["word_end_index"], entity["label"]
            best = entity["score"]
            others = [
                score for (start, end, kind), score in scores.items() if (start, end) == span[:2] and kind != span[2]
            ]
            # softmax over none and the types, from the log-odds against none
            ours = np.exp(scores[span]) / (1 + np.exp(scores[span]) + sum(map(np.exp, others)))
            assert ours == pytest.approx(best, abs=1e-4)


@needs_flair
def test_batches_give_what_sentences_give_alone(models):
    for kind, name in (("flair", "crf"), ("span_marker", "span_marker")):
        teacher, sentences = load(kind, models, name), models[1]["sentences"]
        together = teacher.distribution(sentences).marginals
        for row, words in enumerate(sentences):
            alone = teacher.distribution([words]).marginals[0]
            torch.testing.assert_close(together[row, : len(words)], alone, atol=1e-6, rtol=1e-5)


@needs_flair
def test_the_revision_is_that_of_the_weights(models):
    assert load("flair", models, "crf").revision == load("flair", models, "crf").revision
    assert load("flair", models, "crf").revision != load("flair", models, "softmax").revision


@needs_flair
def test_there_is_no_such_model(models):
    with pytest.raises(OSError, match="cannot be loaded by"):
        load("span_marker", models, "nothing")


def test_an_environment_without_the_library_is_told_what_to_install():
    with pytest.raises(
        ImportError, match=r"flair is not installed for .*pip install flair`.*`python: flair_environment"
    ):
        load_teacher("flair:ner", options={"python": sys.executable})


def test_an_interpreter_that_is_none_is_named():
    with pytest.raises(OSError, match="the interpreter /nowhere/python cannot be started"):
        load_teacher("span_marker:x", options={"python": "/nowhere/python"})


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("import sys; print('{}'); sys.stdout.flush(); sys.stdin.readline(); sys.exit('out of memory')", RuntimeError,
         "flair:x: its process ended with status 1: out of memory"),
        ("import sys; print('{}'); sys.stdout.flush(); sys.stdin.readline(); print('{\"error\": \"IndexError: 5\"}')",
         ValueError, "flair:x: IndexError: 5"),
    ],
)  # fmt: skip
def test_a_process_that_fails_is_one_clear_error(tmp_path, monkeypatch, code, error, message):
    (tmp_path / "worker.py").write_text(code)
    monkeypatch.setattr(other_environments, "WORKER", tmp_path / "worker.py")
    worker = other_environments.WorkerProcess("flair", "x", sys.executable, "cpu")
    with pytest.raises(error, match=message):
        worker.ask([["a"]])
