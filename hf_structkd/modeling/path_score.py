"""Scores of given paths and expected scores: linear functions of a chain's scores, with their constant gradients.

Automatic differentiation would get these right too, through some twenty small operations each; written as one function
whose gradient is known, they cost a fraction of the forward-backward pass beside them instead of doubling it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .chain import Chain
from .chain_checks import check_tags
from .log_space import NEG_INF, Scores


class _Linear(torch.autograd.Function):
    """A function that is linear in the scores: its gradient depends on the upstream gradient only.

    ``gradient`` is made of differentiable operations on the upstream gradient, which makes second derivatives right.
    """

    @staticmethod
    def forward(ctx, value: Callable, gradient: Callable, *scores: Tensor) -> Tensor:
        ctx.gradient, ctx.dtypes = gradient, [part.dtype for part in scores]
        return value(Scores(*scores))

    @staticmethod
    def backward(ctx, upstream: Tensor):
        return (None, None, *(part.to(dtype) for part, dtype in zip(ctx.gradient(upstream), ctx.dtypes)))


@torch.compiler.disable
def path_score(chain: Chain, tags: Tensor) -> Tensor:
    """Score (B, K), float64, of paths (B, K, T); ``-inf`` for a path that is -100 throughout.

    Raises:
        ValueError: if another path has something that is not a tag on a real word.
    """
    B, T, C = chain.scores.emissions.shape
    alive, lengths = chain.alive[:, None], chain.lengths_there
    inside, missing = torch.where(alive, tags.long(), 0), None
    if bool((inside.amin() < 0) | (inside.amax() >= C)):
        missing = ((tags == -100) | ~alive).all(-1)
        check_tags(tags, alive & ~missing[..., None], C)
        inside = inside.masked_fill(missing[..., None], 0)
    words = inside + torch.arange(0, B * T * C, C, device=inside.device).view(B, 1, T)
    followed = alive[..., 1:]
    pairs = inside[..., :-1] * C + inside[..., 1:]
    first = inside[..., 0]
    last = inside.gather(2, (lengths - 1)[:, None, None].expand(B, inside.shape[1], 1)).squeeze(2)

    def value(scores: Scores) -> Tensor:
        emissions, transitions, start, end = scores
        each = emissions.flatten().index_select(0, words.flatten()).view(words.shape)
        total = torch.where(alive, each, 0.0).sum(2, dtype=torch.float64)
        steps = transitions.double().flatten().index_select(0, pairs.flatten()).view(pairs.shape)
        total += torch.where(followed, steps, 0.0).sum(2)
        return total.add_(start.double()[first]).add_(end.double()[last])

    def gradient(upstream: Tensor) -> list[Tensor]:
        each = upstream[..., None]
        parts = zip(
            (B * T * C, C * C, C, C), (words, pairs, first, last), (each * alive, each * followed, upstream, upstream)
        )
        nodes, edges, *ends = (upstream.new_zeros(n).index_add(0, i.flatten(), w.flatten()) for n, i, w in parts)
        return [nodes.view(B, T, C), edges.view(C, C), *ends]

    total = _Linear.apply(value, gradient, *chain.scores)
    return total if missing is None else total.masked_fill(missing, NEG_INF)


@torch.compiler.disable
def expected_score(chain: Chain, nodes: Tensor, edges: Tensor) -> Tensor:
    """⟨expected counts, scores⟩ (B,), float64; ``-inf`` where counts fall on structural zeros.

    Args:
        nodes: (B, T, C) float64 expected tags; what is on padding is ignored.
        edges: (B, C, C) float64 expected transitions.
    """
    nodes = torch.where(chain.alive[..., None], nodes, 0.0)
    last = nodes[torch.arange(len(nodes), device=nodes.device), chain.lengths_there - 1]
    counts = (nodes, edges, nodes[:, 0], last)

    def value(scores: Scores) -> Tensor:
        scores = Scores(*(part.double() for part in scores))
        total = torch.linalg.vecdot(nodes.flatten(1), scores.emissions.flatten(1))
        for count, score in zip(counts[1:], scores[1:]):
            total = total + count.flatten(1) @ score.flatten()
        if bool(torch.isfinite(total).all()):
            return total
        # 0 * -inf or the padding's NaN must become NaN neither here nor in gradients: what is infinite stands apart.
        total, excluded = torch.zeros_like(total), torch.zeros_like(total, dtype=torch.bool)
        for count, score in zip(counts, scores):
            exists = score.isfinite()
            total = total + (count * torch.where(exists, score, 0.0)).flatten(1).sum(1)
            excluded |= ((count != 0) & ~exists).flatten(1).any(1)
        return total.masked_fill(excluded, NEG_INF)

    def gradient(upstream: Tensor) -> list[Tensor]:
        shared = [torch.tensordot(upstream, count, 1) for count in counts[1:]]
        return [upstream[:, None, None] * nodes, *shared]

    if nodes.requires_grad or edges.requires_grad:
        return value(chain.scores)  # bilinear then: both sides have gradients
    return _Linear.apply(value, gradient, *chain.scores)
