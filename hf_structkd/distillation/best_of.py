"""The k best sequences of distributions whose sequences can only be listed by way of something else."""

from typing import Protocol

import torch
from torch import Tensor

from .tag_distribution import BestPaths, TagDistribution, select, top_of_pool

_MOST_CANDIDATES = 32  # times k
_SLACK = 1e-6  # what sums of float32 probabilities cannot tell from nothing


class Listing(TagDistribution, Protocol):
    """A distribution that can list candidates and say what the others can have at most."""

    def candidates(self, number: int) -> tuple[Tensor, Tensor]:
        """Some sequences (batch, any, words), -100 beyond the words and on those that do not exist; and a probability
        (batch,) that no other sequence exceeds."""
        ...


def best_of(distribution: Listing, k: int) -> BestPaths:
    """The k most probable sequences where only candidates can be listed, their probabilities exact.

    Candidates are added, to the sentences that need more, until no other sequence can be among the k best: because
    the distribution says that none exceeds the k-th, or because all others together weigh no more than it (a
    probability of 1e-6 aside, which sums cannot tell from nothing). Finding the most probable sequence of merged tags
    is NP-hard in general, so after 32 k candidates the best of them are returned as not proven.

    Args:
        distribution: of a batch of sentences.
        k: how many are wanted.
    """
    everything = list(range(len(distribution.lengths)))
    found: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
    rows, number, current = everything, 2 * k, distribution
    while rows:
        candidates, bound = current.candidates(number)
        # One more than wanted: the next one is the most probable that will not be listed.
        pool = top_of_pool(candidates, current.log_prob(candidates), candidates.shape[1])
        p = torch.nn.functional.pad(pool.log_prob.double().exp(), (0, max(0, k + 1 - pool.log_prob.shape[1])))
        others = torch.minimum(bound.double().to(p.device), (1.0 - p.sum(dim=1)).clamp(min=0.0))
        proven = others <= p[:, k - 1] + _SLACK
        settled = proven | (number >= _MOST_CANDIDATES * k)
        outside = torch.maximum(others, p[:, k])
        for place in settled.nonzero()[:, 0].tolist():
            found[rows[place]] = (pool.tags[place, :k], pool.log_prob[place, :k], proven[place], outside[place])
        left = (~settled).nonzero()[:, 0].cpu()
        rows = [rows[place] for place in left.tolist()]
        if rows:
            current, number = select(current, left), 2 * number  # type: ignore[assignment]
    width = max(1, max(int((log_prob > -torch.inf).sum()) for _, log_prob, _, _ in found.values()))
    tags, log_probs, proofs, outsides = zip(*(found[row] for row in everything))
    missing = [max(0, width - len(part)) for part in log_probs]
    pad = torch.nn.functional.pad
    log_prob = torch.stack([pad(part, (0, n), value=-torch.inf)[:width] for part, n in zip(log_probs, missing)])
    return BestPaths(
        torch.stack([pad(part, (0, 0, 0, n), value=-100)[:width] for part, n in zip(tags, missing)]),
        log_prob,
        log_prob > -torch.inf,
        torch.stack(proofs),
        torch.stack(outsides),
    )
