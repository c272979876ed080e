"""Sums over all paths of a batch of chains."""

from __future__ import annotations

import torch
from torch import Tensor

from .log_space import Scores, edge_counts, edge_marginals, log_marginals, log_partition, marginals

_REFERENCE = {
    "log_partition": log_partition,
    "log_marginals": log_marginals,
    "marginals": marginals,
    "edge_counts": edge_counts,
    "edge_marginals": edge_marginals,
}


class ForwardBackward:
    """Sums over the paths of one batch."""

    def __init__(self, scores: Scores, lengths: Tensor):
        self.scores, self.lengths = scores, lengths

    def evaluate(self, quantity: str) -> Tensor:
        """One of log_partition, log_marginals, marginals, edge_counts, edge_marginals; float64, differentiable."""
        emissions = self.scores.emissions.double()
        lengths = self.lengths.to(emissions.device)
        alive: Tensor = torch.arange(emissions.shape[1], device=emissions.device) < lengths[:, None]
        emissions = torch.where(alive[..., None], emissions, 0.0)
        rest = (part.double() for part in self.scores[1:])
        return _REFERENCE[quantity](Scores(emissions, *rest), lengths)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent exact samples (B, n, T), -100 on padding."""
        from .log_space import forward_backward as fb

        emissions = self.scores.emissions.detach().double()
        lengths = self.lengths.to(emissions.device)
        B, T, _ = emissions.shape
        alive: Tensor = torch.arange(T, device=emissions.device) < lengths[:, None]
        emissions = torch.where(alive[..., None], emissions, 0.0)
        scores = Scores(emissions, *(part.detach().double() for part in self.scores[1:]))
        alphas, _, _ = fb(scores, lengths)
        tags = torch.full((B, n, T), -100, dtype=torch.long, device=emissions.device)
        state = torch.zeros(B, n, dtype=torch.long, device=emissions.device)
        into = scores.transitions.T
        for t in range(T - 1, -1, -1):
            follow = torch.where((t == lengths - 1)[:, None, None], scores.end, into[state])
            p = (alphas[:, t, None, :] + follow).softmax(-1)
            draw = torch.multinomial(p.flatten(0, 1), 1, generator=generator).view(B, n)
            state = torch.where((t < lengths)[:, None], draw, state)
            tags[:, :, t] = torch.where((t < lengths)[:, None], draw, -100)
        return tags
