"""The chain in log space, written with differentiable operations: slow, simple, right at every score.

It serves two rare cases: sentences whose scores span more than float64 probabilities can hold, and derivatives beyond
the first (of `log_marginals`, `edge_counts`), for which `crf_sums.py` has no analytic rule. Everything is float64 and
padded `(batch, words, tags)`; ``-inf`` is a structural zero and never produces a NaN, in values or in gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEG_INF = float("-inf")
IMPOSSIBLE = -1e300  # replaces -inf where differences would be NaN; far below float32's least number, which masks use
LIMIT = 1e299  # a path whose score is below -LIMIT passes a structural zero


class Scores(NamedTuple):
    """The scores of a batch, nats: emissions (B, T, C), transitions (C, C) [from, to], start and end (C,)."""

    emissions: Tensor
    transitions: Tensor
    start: Tensor
    end: Tensor


def logsumexp(values: Tensor, dim: int) -> Tensor:
    """`torch.logsumexp` whose gradient is zero, not NaN, where every term is ``-inf``."""
    peak = values.detach().amax(dim, keepdim=True)
    peak = torch.where(torch.isfinite(peak), peak, 0.0)
    total = (values - peak).exp().sum(dim)
    positive = total > 0
    return torch.where(positive, torch.where(positive, total, 1.0).log() + peak.squeeze(dim), NEG_INF)


def forward_backward(scores: Scores, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Forward scores, backward scores and log partition.

    Args:
        scores: float64, finite or ``-inf``; zero on padding.
        lengths: (B,) words per sentence, on the device of the scores.

    Returns:
        log alpha (B, T, C), the log-sum over prefixes that end in a tag, the word's emission included; log beta
        (B, T, C), the log-sum over all that follows, the word's emission excluded; log Z (B,). Nats. On padding, alpha
        repeats its last value and beta is the end score: never NaN, so that both can be masked later.
    """
    emissions, transitions, start, end = scores
    T = emissions.shape[1]
    alive = (torch.arange(T, device=lengths.device) < lengths[:, None])[..., None]
    alphas = [start + emissions[:, 0]]
    for t in range(1, T):
        step = logsumexp(alphas[-1][:, :, None] + transitions, 1) + emissions[:, t]
        alphas.append(torch.where(alive[:, t], step, alphas[-1]))
    last = end.expand_as(alphas[0])
    betas = [last]
    for t in range(T - 1, 0, -1):
        step = logsumexp(transitions + (emissions[:, t] + betas[-1])[:, None, :], 2)
        betas.append(torch.where(alive[:, t], step, last))
    return torch.stack(alphas, 1), torch.stack(betas[::-1], 1), logsumexp(alphas[-1] + end, 1)


def _finite(log_z: Tensor) -> Tensor:
    return torch.where(log_z > NEG_INF, log_z, 0.0)


def log_marginals(scores: Scores, lengths: Tensor) -> Tensor:
    """log p(tag at word) (B, T, C): 0 on padding, ``-inf`` (with zero gradient) where no allowed path passes."""
    alphas, betas, log_z = forward_backward(scores, lengths)
    value = alphas + betas - _finite(log_z)[:, None, None]
    value = torch.where(value > NEG_INF, value, NEG_INF)  # cuts the gradient of impossible tags
    alive = torch.arange(value.shape[1], device=lengths.device) < lengths[:, None]
    return torch.where(alive[..., None], value, 0.0)


def marginals(scores: Scores, lengths: Tensor) -> Tensor:
    """p(tag at word) (B, T, C), 0 on padding."""
    value = log_marginals(scores, lengths)
    alive = torch.arange(value.shape[1], device=lengths.device) < lengths[:, None]
    return torch.where(alive[..., None], value.exp(), 0.0)


def log_partition(scores: Scores, lengths: Tensor) -> Tensor:
    """log Z (B,)."""
    return forward_backward(scores, lengths)[2]


def _edge_steps(scores: Scores, lengths: Tensor):
    alphas, betas, log_z = forward_backward(scores, lengths)
    right = scores.emissions + betas - _finite(log_z)[:, None, None]
    for t in range(1, alphas.shape[1]):
        pair = alphas[:, t - 1, :, None] + scores.transitions + right[:, t, None, :]
        yield torch.where((t < lengths)[:, None, None], pair, NEG_INF).exp()


def edge_marginals(scores: Scores, lengths: Tensor) -> Tensor:
    """p(tag at word t, tag at word t + 1) (B, T - 1, C, C), 0 on padding."""
    steps = list(_edge_steps(scores, lengths))
    B, T, C = scores.emissions.shape
    return torch.stack(steps, 1) if steps else scores.emissions.new_zeros(B, T - 1, C, C)


def edge_counts(scores: Scores, lengths: Tensor) -> Tensor:
    """Expected number of times each transition is taken (B, C, C)."""
    B, _, C = scores.emissions.shape
    total = scores.emissions.new_zeros(B, C, C)
    for pair in _edge_steps(scores, lengths):
        total = total + pair
    return total


def completions(scores: Scores, lengths: Tensor) -> Tensor:
    """Log-sum (B, T, C) over the rest of the sentence from a word's tag on, the word's emission included."""
    return scores.emissions + forward_backward(scores, lengths)[1]


# Each quantity by name, as `PathSums.evaluate` takes it.
REFERENCE = {
    "log_partition": log_partition,
    "log_marginals": log_marginals,
    "marginals": marginals,
    "edge_counts": edge_counts,
    "edge_marginals": edge_marginals,
}
