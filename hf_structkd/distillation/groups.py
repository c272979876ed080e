"""Teachers that cannot tell some of the student's tags apart: the student's probability of groups of tags.

A teacher that knows no locations says O where a location stands; of its O the student's O, B-LOC and I-LOC are one
*group*. Groups partition the student's tags, and the teacher's answers name each group by its first tag, the
representative (`teacher_groups`: tag -> representative). What a distribution over tags says about a sequence of
groups is a sum over all tag sequences that pass through them, which a chain computes exactly: the probability of the
teacher's path is the student's probability of a set of paths (marginal distillation; Yu and Yang 2020, arXiv
2004.05140).
"""

import torch
from torch import Tensor

from ..modeling.linear_chain import LinearChainCRF


def group_log_probs(log_probs: Tensor, groups: Tensor | None) -> Tensor:
    """Log-probabilities of groups, at their representatives; -inf at other tags.

    Args:
        log_probs: (batch, words, tags), nats.
        groups: (batch, tags), each tag's representative; `None` where every tag is alone.
    """
    if groups is None:
        return log_probs
    index = groups[:, None, :].expand_as(log_probs)
    peak = torch.full_like(log_probs, -torch.inf).scatter_reduce(2, index, log_probs.detach(), "amax")
    peak = torch.where(peak > -torch.inf, peak, 0.0)
    sums = torch.zeros_like(log_probs).scatter_add(2, index, (log_probs - peak.gather(2, index)).exp())
    exists = sums > 0
    return torch.where(exists, torch.where(exists, sums, 1.0).log() + peak, -torch.inf)


def group_sets(tags: Tensor, num_tags: int, groups: Tensor | None) -> Tensor:
    """The tags that any of some paths has at each word, with all that are in their groups.

    Args:
        tags: (batch, k, words), -100 beyond the words and the paths there are.
        num_tags: the student's.
        groups: (batch, tags), or `None`.

    Returns:
        (batch, words, num_tags), boolean.
    """
    batch, _, words = tags.shape
    seen = torch.zeros(batch, words, num_tags + 1, device=tags.device)  # the last column collects the padding
    seen = seen.scatter(2, torch.where(tags < 0, num_tags, tags).transpose(1, 2), 1.0)[..., :num_tags]
    if groups is not None:
        seen = seen.gather(2, groups[:, None, :].expand_as(seen))
    return seen > 0


def path_group_log_probs(student: LinearChainCRF, tags: Tensor, groups: Tensor) -> Tensor:
    """The student's log-probability of each path of groups, (batch, k) in nats: the sum over all paths within it.

    Args:
        student: the student's distribution.
        tags: (batch, k, words), representatives, -100 beyond the words and the paths there are.
        groups: (batch, tags), each tag's representative.
    """
    emissions = student.scores.emissions
    k = tags.shape[1]
    inside = groups[:, None, None, :] == tags.unsqueeze(-1)  # (batch, k, words, tags)
    missing = tags[:, :, :1, None] < 0  # no such path: any tag will do, nobody reads the answer
    repeated = LinearChainCRF(
        emissions.repeat_interleave(k, dim=0).masked_fill(~(inside | missing).flatten(0, 1), -torch.inf),
        *student.scores[1:],
        lengths=student.lengths.repeat_interleave(k),
    )
    within = repeated.log_partition.view(-1, k)
    possible = within > -torch.inf
    return torch.where(possible, torch.where(possible, within, 0.0) - student.log_partition[:, None], -torch.inf)
