"""Best path and exact k best paths (first, plain version)."""

from __future__ import annotations

import torch
from torch import Tensor

from .log_space import NEG_INF, Scores


@torch.no_grad()
def k_best(scores: Scores, lengths: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best paths (B, K, T), -100 on padding and for paths that do not exist, and their validity (B, K)."""
    emissions = scores.emissions.detach().double()
    lengths = lengths.to(emissions.device)
    B, T, C = emissions.shape
    device = emissions.device
    transitions, start, end = (part.detach().double() for part in scores[1:])
    delta = torch.full((B, C, k), NEG_INF, dtype=torch.float64, device=device)
    delta[:, :, 0] = start + emissions[:, 0]
    pointers = []
    for t in range(1, T):
        candidates = delta[:, :, :, None] + transitions[:, None, :]  # (B, from, K, to)
        best, index = candidates.reshape(B, C * k, C).topk(k, 1)
        step = best.transpose(1, 2) + emissions[:, t, :, None]
        alive = (t < lengths)[:, None, None]
        delta = torch.where(alive, step, delta)
        pointers.append(torch.where(alive, index.transpose(1, 2), torch.arange(C * k, device=device).view(C, k)))
    best, index = (delta + end[:, None]).reshape(B, C * k).topk(min(k, C * k), 1)
    states = [index]
    for pointer in reversed(pointers):
        index = pointer.reshape(B, C * k).gather(1, index)
        states.append(index)
    tags = torch.stack(states[::-1], 2).div(k, rounding_mode="floor")
    valid = best > NEG_INF
    keep = valid[:, :, None] & (torch.arange(T, device=device) < lengths[:, None])[:, None]
    return torch.where(keep, tags, -100), valid
