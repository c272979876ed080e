"""Dangers: a list called the k best that is not, or one that is and is not trusted."""

import itertools

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_structkd import annotate
from hf_structkd.distillation.callable_teacher import CallableTeacher
from hf_structkd.distillation.mixtures import Mixture, Panel
from hf_structkd.distillation.tag_distribution import BestPaths, select, top_of_pool

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
    one = select(distribution, torch.tensor([row]))
    return one.log_prob(tags)[0].exp().sort(descending=True).values


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 3.0]), st.integers(1, 6), st.booleans())
def test_what_is_called_proven_is_what_enumeration_finds_and_bounds_hold(seed, scale, k, merged):
    lengths = [1, 4, 3]
    if merged:
        distribution, num_tags = chain(seed, lengths, scale, label_map={"LOC": "PER"}), 3
    else:
        distribution, num_tags = Mixture([chain(seed + i, lengths, scale) for i in range(2)], [3.0, 1.0]), 5
    found = distribution.topk(k)
    assert isinstance(found, BestPaths)
    for row, words in enumerate(lengths):
        best = all_of(distribution, row, words, num_tags)
        listed = found.log_prob[row].exp()[found.valid[row]]
        assert len(listed) == min(k, len(best))
        if found.proven[row]:
            torch.testing.assert_close(listed, best[: len(listed)], atol=2e-6, rtol=1e-4)
        others = best[len(listed) :] if torch.allclose(listed, best[: len(listed)], rtol=1e-4) else best[:1]
        if len(others):
            assert others[0] <= found.outside[row] + 2e-6


def test_two_flat_teachers_are_proven_long_before_their_lists_hold_most_of_the_probability():
    """Danger: no more than a mass bound, which 9 words with 5 tags (two million sequences) never meet."""
    sentences = [9, 9]
    distribution = Mixture([chain(seed, sentences, 0.7) for seed in (1, 2)], [1.0, 1.0])
    found = distribution.topk(5)
    assert float(found.log_prob.exp().sum(dim=1).max()) < 0.2
    assert found.proven.tolist() == [True, True]


def test_merged_labels_of_a_teacher_that_knows_nothing_are_not_called_proven():
    """Danger: 12 words, each tag equally likely: thousands of state sequences for each merged one."""
    distribution = chain(0, [12, 1], 0.0, label_map={"LOC": "PER"})
    found = distribution.topk(3)
    assert found.proven.tolist() == [False, True]
    assert int(found.valid[1].sum()) == 3


def test_unproven_sentences_are_counted_in_the_summary(caplog):
    count = len(LABELS)
    flat = CallableTeacher(
        lambda sentences: [[[1 / count] * count] * len(words) for words in sentences],
        LABELS, name="flat", revision="1", label_map={"LOC": "PER"},
    )  # fmt: skip
    corpus = Dataset.from_dict({"tokens": [["w"] * 12, ["w"], ["w"] * 2]})
    annotate(corpus, flat, label_names=LABELS[:3], targets=["teacher_topk_tags"], top_k=4, progress=False)
    assert "for 1 of 3 sentences a sequence outside the k best may be more probable" in caplog.text


def test_the_pool_knows_equal_sequences_and_only_those():
    tags = torch.tensor([[[1, 2, -100], [1, 2, -100], [2, 1, -100], [-100, -100, -100]]])
    best = top_of_pool(tags, torch.tensor([[0.5, 0.5, 0.25, 1.0]]).log(), 3)
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
        part = select(distribution, torch.tensor(rows))
        torch.testing.assert_close(part.marginals, distribution.marginals[rows])
        assert part.lengths.tolist() == [lengths[row] for row in rows]
