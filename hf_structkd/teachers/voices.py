"""What teachers with different blind spots say together about the tags of a word.

One knows persons, another places; to each of them what the other knows is O. No distribution over tags is asked of
either. The distribution that agrees best with all of them, each heard by its weight, is the one that a student reaches
that learns from their losses without an encoder's limits: the minimum of

    sum over voices v of  -w_v sum over groups g of  q_v(g) log p(g),    p(g) = sum over the tags j of g of p(j)

It is found by expectation maximisation: p(j) <- p(j) sum over v of w_v q_v(g_v(j)) / p(g_v(j)).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..modeling.tag_scheme import TagScheme
from .distribution import TagChain, TagDistribution

_STEPS = 200  # of expectation maximisation; the tags with the highest probability are found much earlier


def pooled_marginals(marginals: Sequence[Tensor], groups: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The distribution of each word's tag that agrees best with several voices.

    Args:
        marginals: for each voice (batch, words, tags), probabilities at the representatives of groups; 0 on padding.
        groups: for each voice (tags,), each tag's representative.
        weights: of each voice, adding up to 1.

    Returns:
        (batch, words, tags), float64. Tags that no voice tells apart are one: their probability stands at the first
        of them that is a representative, or at the lowest.
    """
    first = marginals[0]
    representatives = _representatives(groups)
    pooled = torch.zeros_like(first, dtype=torch.float64)
    pooled[..., representatives] = 1.0 / len(representatives)
    answers = [values.to(first.device, torch.float64) for values in marginals]
    indices = [group.to(first.device).expand_as(pooled) for group in groups]
    for _ in range(_STEPS):
        parts = []
        for answer, index, weight in zip(answers, indices, weights):
            of_groups = torch.zeros_like(pooled).scatter_add(-1, index, pooled)
            ratio = torch.where(of_groups > 0, answer / torch.where(of_groups > 0, of_groups, 1.0), 0.0)
            parts.append(weight * ratio.gather(-1, index))
        pooled = pooled * torch.stack(parts).sum(dim=0)
    return pooled


def _representatives(groups: Sequence[Tensor]) -> list[int]:
    """One tag of each set of tags that no voice tells apart."""
    members: dict[tuple[int, ...], list[int]] = {}
    for tag in range(len(groups[0])):
        members.setdefault(tuple(int(group[tag]) for group in groups), []).append(tag)
    return [next((tag for tag in tags if tag in leaders), tags[0]) for leaders, tags in members.items()]


def pooled_chain(
    distributions: Sequence[TagDistribution],
    groups: Sequence[tuple[int, ...] | None],
    weights: Sequence[float],
    label_names: Sequence[str],
) -> TagChain:
    """The pooled marginals of several voices as a chain, whose best sequence is legal in the tag scheme.

    Args:
        distributions: one per voice, of the same sentences.
        groups: for each voice each tag's representative; `None` where every tag is alone.
        weights: of each voice, adding up to 1.
        label_names: the student's labels.
    """
    num_tags = len(label_names)
    of_voices = [torch.tensor(group or range(num_tags)) for group in groups]
    pooled = pooled_marginals([voice.marginals for voice in distributions], of_voices, weights)
    lengths = distributions[0].lengths
    inside = torch.arange(pooled.shape[1]) < lengths.cpu()[:, None]
    emissions = torch.where(inside.to(pooled.device)[..., None], pooled.log().clamp(min=-1e4), 0.0)
    zeros = emissions.new_zeros(num_tags)
    masks = TagScheme(label_names).masks(emissions.device)
    return TagChain(emissions, zeros.expand(num_tags, -1), zeros, zeros, lengths=lengths, **masks)
