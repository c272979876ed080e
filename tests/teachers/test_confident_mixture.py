"""Dangers: a sentence listens to the teacher that is lost, weights that do not add up to 1, or answers that are stored
as those of other weights."""

import itertools

import pytest
import torch

from hf_structkd import Teacher
from hf_structkd.distillation.focal import sentence_confidence
from hf_structkd.distillation.targets import Targets
from hf_structkd.teachers.confident_mixture import ConfidentMixture
from hf_structkd.teachers.distribution import TagChain
from hf_structkd.teachers.panel import Panel

LENGTHS = [3, 2]


def chain(seed, sharpness):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return TagChain(
        sharpness[:, None, None] * draw(2, 3, 3), draw(3, 3), draw(3), draw(3), lengths=torch.tensor(LENGTHS)
    )


@pytest.fixture
def mixture():
    """The first member is sure of the first sentence, the second of the second."""
    sure = torch.tensor([8.0, 0.2], dtype=torch.float64)
    return ConfidentMixture([chain(0, sure), chain(1, sure.flip(0))], [1.0, 3.0], 0.5)


def test_each_sentence_weighs_its_teachers_by_their_entropy(mixture):
    for row, length in enumerate(LENGTHS):
        entropies = torch.stack([member.entropy()[row] for member in mixture.members])
        expected = torch.tensor([0.25, 0.75]) * torch.exp(-entropies / (length * 0.5))
        torch.testing.assert_close(mixture.sentence_weights[:, row], expected / expected.sum())
    assert mixture.sentence_weights[0, 0] > mixture.sentence_weights[0, 1]
    sharper = ConfidentMixture(mixture.members, [1.0, 3.0], 0.01)
    assert sharper.sentence_weights[0, 0] > 0.999


def test_marginals_paths_and_probabilities_are_those_of_the_mixture(mixture):
    for row, length in enumerate(LENGTHS):
        paths = torch.zeros(3**length, 3, dtype=torch.long)
        paths[:, :length] = torch.tensor(list(itertools.product(range(3), repeat=length)))
        both = paths.expand(2, -1, -1)
        parts = [member.log_prob(both)[row].exp() for member in mixture.members]
        weights = mixture.sentence_weights[:, row]
        expected = weights[0] * parts[0] + weights[1] * parts[1]
        torch.testing.assert_close(expected.sum(), torch.tensor(1.0, dtype=torch.float64))
        torch.testing.assert_close(mixture.log_prob(both)[row].exp(), expected)
        marginals = torch.zeros(length, 3, dtype=torch.float64)
        for word in range(length):
            marginals[word].index_add_(0, paths[:, word], expected)
        torch.testing.assert_close(mixture.marginals[row, :length], marginals)
        best = expected.topk(4)
        found = mixture.topk(4)
        torch.testing.assert_close(found.log_prob[row].exp(), best.values)
        assert found.tags[row, :, :length].tolist() == paths[best.indices, :length].tolist()
    swapped = mixture.select(torch.tensor([1, 0]))
    torch.testing.assert_close(swapped.marginals[0], mixture.marginals[1])
    assert torch.equal(mixture.with_temperature(2.0).sentence_weights, mixture.sentence_weights)


def test_a_panel_records_how_it_weighs(make_student, tokenizer):
    teachers = [Teacher(make_student(seed=seed), tokenizer) for seed in (1, 2)]
    plain, sure = Panel(teachers), Panel(teachers, 0.1)
    assert plain.record() != sure.record()
    assert Panel(sure).record() == sure.record()
    assert Panel(teachers[:1], 0.1).record() == Panel(teachers[:1]).record(), "one teacher answers alone"
    sentences = [["Anna", "flew"], ["to"]]
    labels = teachers[0].labels
    assert not torch.equal(
        plain.distribution(sentences, labels).marginals, sure.distribution(sentences, labels).marginals
    )
    with pytest.raises(ValueError, match="nats per word above 0"):
        Panel(teachers, 0.0)


def test_the_weight_of_a_sentence_falls_with_the_entropy_per_word():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    targets = Targets(teacher_entropy=torch.tensor([1.0, 1.0]))
    weights = sentence_confidence(targets, mask, 2.0)
    torch.testing.assert_close(weights, torch.exp(torch.tensor([-1.0, -2.0])))
    assert sentence_confidence(targets, mask, 0.0).tolist() == [1.0, 1.0]
