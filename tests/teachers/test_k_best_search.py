"""Dangers: a list called the k best that is not, or one that is and is not trusted."""

import itertools
import math

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_structkd import annotate
from hf_structkd.teachers.distribution import BestPaths, best_candidates
from hf_structkd.teachers.function import CallableTeacher
from hf_structkd.teachers.panel import Panel
from hf_structkd.teachers.readings import Mixture

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def chain(seed, lengths, scale, labels=LABELS, **options):
    generator = torch.Generator().manual_seed(seed)
    count = len(labels)
    shared = [scale * torch.randn(shape, generator=generator) for shape in ((count, count), (count,), (count,))]
    emissions = [scale * torch.randn(words, count, generator=generator) for words in lengths]
    teacher = CallableTeacher(
        lambda sentences: [(e, *shared) for e in emissions],
        labels,
        name="T",
        revision="1",
        answers="scores",
        **options,
    )
    return teacher.distribution([["w"] * words for words in lengths], ["O", "B-PER", "I-PER"] if options else labels)


def all_of(distribution, row, words, num_tags):
    """Every sequence of a sentence, with its probability, best first."""
    width = int(distribution.lengths.max())
    tags = torch.full((1, num_tags**words, width), -100)
    tags[0, :, :words] = torch.tensor(list(itertools.product(range(num_tags), repeat=words)))
    one = distribution.select(torch.tensor([row]))
    return one.log_prob(tags)[0].exp().sort(descending=True).values


def listed(lengths):
    """A teacher that gives three sequences, which may end alike."""
    rows = [[(["O"] * n, 0.5), (["B-PER"] * n, 0.3), (["O"] * (n - 1) + ["B-PER"], 0.2)] for n in lengths]
    teacher = CallableTeacher(lambda sentences: rows, LABELS[:3], name="L", revision="1", answers="paths")
    return teacher.distribution([["w"] * words for words in lengths], LABELS[:3])


def of_kind(kind, seed, lengths, scale):
    merged = [chain(seed + i, lengths, scale, label_map={"LOC": "PER"}) for i in range(2)]
    if kind == "merged":
        return merged[0], 3
    if kind == "mixed":
        return Mixture([chain(seed + i, lengths, scale) for i in range(2)], [3.0, 1.0]), 5
    plain = chain(seed, lengths, scale, LABELS[:3])
    return Mixture([Mixture(merged, [1.0, 2.0]), plain, listed(lengths)], [1.0, 2.0, 0.5]), 3


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.1, 1.0, 3.0, 30.0]),
    st.integers(1, 6),
    st.sampled_from(["merged", "mixed", "everything"]),
)
def test_what_is_called_proven_is_what_enumeration_finds(seed, scale, k, kind):
    lengths = [1, 4, 3]
    distribution, num_tags = of_kind(kind, seed, lengths, scale)
    found = distribution.topk(k)
    assert isinstance(found, BestPaths)
    assert found.proven.all()  # sentences as short as these leave nothing open
    torch.testing.assert_close(found.log_prob, distribution.log_prob(found.tags), atol=1e-4, rtol=1e-5)
    for row, words in enumerate(lengths):
        best = all_of(distribution, row, words, num_tags)
        mine = found.log_prob[row].exp()[found.valid[row]]
        assert len(mine) == min(k, len(best)) or float(best[len(mine)]) < 1e-12
        torch.testing.assert_close(mine.double(), best[: len(mine)].double(), atol=2e-6, rtol=1e-4)
        assert len(set(map(tuple, found.tags[row, : len(mine)].tolist()))) == len(mine)


def test_a_narrow_beam_that_drops_something_better_is_not_believed(monkeypatch):
    """Danger: what fell off is forgotten. A beam of one finds what it finds; proven only where it is the best."""
    monkeypatch.setattr("hf_structkd.teachers.k_best_search._WIDTHS", (1,))
    lengths, told = [4] * 60, set()
    distribution = chain(0, lengths, 0.4, label_map={"LOC": "PER"})
    found = distribution.topk(1)
    for row in range(len(lengths)):
        right = abs(float(found.log_prob[row, 0].exp() - all_of(distribution, row, 4, 3)[0])) < 1e-6
        assert right or not found.proven[row]
        told.add((right, bool(found.proven[row])))
    assert {(True, True), (False, False)} <= told


def test_long_sentences_of_flat_and_of_sure_teachers_are_proven_in_probabilities_that_no_float_holds():
    """Danger: underflow. 400 words, each tag equally likely: probabilities of e^-440."""
    flat = chain(0, [400, 1], 0.0, label_map={"LOC": "PER"}).topk(3)
    assert flat.proven.tolist() == [True, True]
    assert flat.log_prob[0].tolist() == pytest.approx([400 * math.log(2 / 5)] * 3, rel=1e-5)
    assert int(flat.valid[1].sum()) == 3
    sure = Mixture([chain(seed, [400], 30.0) for seed in (1, 2)], [1.0, 1.0])
    found = sure.topk(3)
    assert found.proven.all()
    torch.testing.assert_close(found.log_prob, sure.log_prob(found.tags), rtol=1e-4, atol=1e-4)


def test_unproven_sentences_are_counted_in_the_summary(caplog):
    """Sixty words, every tag nearly as likely as any other: more good sequences than any search keeps."""

    def nearly_flat(sentences):
        generator = torch.Generator().manual_seed(0)
        return [(0.05 * torch.randn(len(s), 5, generator=generator), transitions) for s in sentences]

    transitions = 0.05 * torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    flat = CallableTeacher(nearly_flat, LABELS, name="flat", revision="1", answers="scores", label_map={"LOC": "PER"})
    corpus = Dataset.from_dict({"tokens": [["w"] * 60, ["w"], ["w"] * 2]})
    annotate(corpus, flat, label_names=LABELS[:3], targets=["teacher_topk_tags"], top_k=4, progress=False)
    assert "for 1 of 3 sentences a sequence outside the k best may be more probable" in caplog.text


def test_the_pool_knows_equal_sequences_and_only_those():
    tags = torch.tensor([[[1, 2, -100], [1, 2, -100], [2, 1, -100], [-100, -100, -100]]])
    best = best_candidates(tags, torch.tensor([[0.5, 0.5, 0.25, 1.0]]).log(), 3)
    assert best.tags[0].tolist() == [[1, 2, -100], [2, 1, -100], [-100] * 3]
    assert best.valid[0].tolist() == [True, True, False]


@pytest.mark.parametrize("rows", [[0], [2, 1]])
def test_some_sentences_of_any_distribution_are_those_sentences(rows):
    lengths = [4, 2, 3]
    listed = CallableTeacher(
        lambda sentences: [[(["O"] * len(words), 0.6), (["B-LOC"] * len(words), 0.4)] for words in sentences],
        LABELS, name="T", revision="1", answers="paths",
    )  # fmt: skip
    words = [["w"] * n for n in lengths]
    one = CallableTeacher(
        lambda s: [[[0.2] * 5] * len(w) for w in s], LABELS, name="U", revision="1", label_map={"LOC": "PER"}
    )
    for distribution in (
        listed.distribution(words, LABELS),
        Panel([listed, listed]).distribution(words, LABELS),
        one.distribution(words, LABELS[:3]),
    ):
        part = distribution.select(torch.tensor(rows))
        torch.testing.assert_close(part.marginals, distribution.marginals[rows])
        assert part.lengths.tolist() == [lengths[row] for row in rows]
