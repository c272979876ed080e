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
    (B, T, C), packing = chain.scores.emissions.shape, chain.packing
    K = tags.shape[1]
    rows = tags.long().transpose(1, 2).reshape(B * T, K).index_select(0, packing.word)
    missing = None
    if bool((rows.amin() < 0) | (rows.amax() >= C)):
        missing = (rows.new_zeros(B, K).index_add_(0, packing.sentence, (rows != -100).long())) == 0
        real = torch.zeros(B * T, dtype=torch.bool, device=rows.device).index_fill_(0, packing.word, True)
        check_tags(tags, real.view(B, 1, T) & ~missing[:, :, None], C)
        rows = rows.masked_fill(missing[packing.sentence], 0)
    word = (packing.word[:, None] * C + rows).flatten()
    pair = (rows.index_select(0, packing.previous) * C + rows[B:]).flatten()
    first, last = rows[:B], rows.index_select(0, packing.last)
    sentence, order = packing.sentence, packing.order

    def value(scores: Scores) -> Tensor:
        emissions, transitions, start, end = scores
        total = torch.zeros(B, K, dtype=torch.float64, device=rows.device)
        total.index_add_(0, sentence, emissions.flatten().index_select(0, word).double().view(-1, K))
        total.index_add_(0, sentence[B:], transitions.double().flatten().index_select(0, pair).view(-1, K))
        return total.index_add_(0, order, start.double()[first] + end.double()[last])

    def gradient(upstream: Tensor) -> list[Tensor]:
        each = upstream.index_select(0, sentence)
        of_sentence = upstream.index_select(0, order).flatten()
        sizes, indices = (B * T * C, C * C, C, C), (word, pair, first.flatten(), last.flatten())
        weights = (each.flatten(), each[B:].flatten(), of_sentence, of_sentence)
        parts = [upstream.new_zeros(n).index_add(0, i, w) for n, i, w in zip(sizes, indices, weights)]
        return [parts[0].view(B, T, C), parts[1].view(C, C), parts[2], parts[3]]

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
        total = torch.zeros(len(nodes), dtype=torch.float64, device=nodes.device)
        for count, score in zip(counts, scores):
            # A count of zero takes no part, whatever the score: 0 * -inf or the padding's NaN must not become NaN.
            total = total + (count * torch.where(count != 0, score.double(), 0.0)).flatten(1).sum(1)
        return total

    def gradient(upstream: Tensor) -> list[Tensor]:
        shared = [torch.tensordot(upstream, count, 1) for count in counts[1:]]
        return [upstream[:, None, None] * nodes, *shared]

    if nodes.requires_grad or edges.requires_grad:
        return value(chain.scores)  # bilinear then: both sides have gradients
    return _Linear.apply(value, gradient, *chain.scores)
