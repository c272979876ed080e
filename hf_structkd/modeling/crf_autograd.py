"""Sums over all paths as autograd sees them: values from the packed pass, gradients from its rules where it has them.

`crf_sums.py` knows values and first derivatives of what training needs; `crf_reference.py` knows everything, but
slowly. Here each request goes to the one that can answer it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from .crf_batch import Chain, check_scores, check_tags
from .crf_compiled import NativePass, native_on
from .crf_reference import NEG_INF, REFERENCE, Scores, completions
from .crf_sums import Messages, PackedPass
from .tag_scheme import IGNORED


class _Sum(torch.autograd.Function):
    """A quantity of a `PathSums`, with the analytic gradient where there is one."""

    @staticmethod
    def forward(ctx, sums: PathSums, quantity: str, *scores: Tensor) -> Tensor:
        ctx.sums, ctx.quantity = sums, quantity
        ctx.save_for_backward(*scores)
        return sums.value(quantity)

    @staticmethod
    def backward(ctx, upstream: Tensor):
        scores = Scores(*ctx.saved_tensors)
        # Gradients are recorded here only under create_graph: someone wants a derivative of this derivative.
        if torch.is_grad_enabled():
            gradients = ctx.sums.reference_gradient(ctx.quantity, scores, upstream, True)
        else:
            gradients = ctx.sums.gradient(ctx.quantity, scores, upstream)
        return (None, None, *gradients)


class PathSums:
    """Sums over the paths of one batch, computed when first asked for and shared by all quantities."""

    def __init__(self, chain: Chain):
        self.chain = chain

    @cached_property
    def messages(self) -> Messages:
        chain = self.chain
        with torch.inference_mode():
            messages = (NativePass if native_on(chain.device) else PackedPass)(chain)
        if not messages.ok:
            names = ("transitions", "start_transitions", "end_transitions")
            check_scores(chain.scores.emissions, chain.lengths, **dict(zip(names, chain.scores[1:])))
        return messages

    @torch.compiler.disable
    def evaluate(self, quantity: str) -> Tensor:
        """One of the `REFERENCE` quantities of `crf_reference.py`, float64, differentiable twice."""
        if torch.is_grad_enabled() and any(part.requires_grad for part in self.chain.scores):
            return _Sum.apply(self, quantity, *self.chain.scores)
        return self.value(quantity)

    def value(self, quantity: str) -> Tensor:
        if not self.messages.ok:
            with torch.no_grad():
                return self._reference(quantity, self.chain.scores)
        with torch.no_grad():
            value = getattr(self.messages, quantity)()
        # The messages were made in inference mode; what leaves it by a copy may take part in autograd.
        return value.clone() if value.is_inference() else value

    def _reference(self, quantity: str, scores: Scores) -> Tensor:
        return REFERENCE[quantity](self.chain.clean(scores), self.chain.lengths_there)

    def gradient(self, quantity: str, scores: Scores, upstream: Tensor) -> list[Tensor]:
        """The first derivative, analytically where there is a rule."""
        rule = getattr(self.messages, quantity + "_gradient", None)
        if rule is None or not self.messages.ok:
            return self.reference_gradient(quantity, scores, upstream, False)
        nodes, edges = rule(upstream)
        lengths = self.chain.lengths_there
        last = nodes[torch.arange(len(lengths), device=lengths.device), lengths - 1]
        parts = (nodes, edges, nodes[:, 0].sum(0), last.sum(0))
        return [part.to(score.dtype) for part, score in zip(parts, scores)]

    def reference_gradient(self, quantity: str, scores: Scores, upstream: Tensor, record: bool) -> list[Tensor]:
        """The first derivative by automatic differentiation, itself differentiable if it is recorded."""
        with torch.enable_grad():
            # Aliases, so that one score's dependence on another (shared parameters) is not counted here.
            inputs = [part.view_as(part) if record else part.detach() for part in scores]
            inputs = [part if part.requires_grad else part.detach().requires_grad_() for part in inputs]
            value = self._reference(quantity, Scores(*inputs))
            if not value.requires_grad:  # transitions of sentences of one word: there are none, whatever the scores
                return [torch.zeros_like(part) for part in scores]
            gradients = torch.autograd.grad(value, inputs, upstream, create_graph=record, materialize_grads=True)
        return list(gradients)

    @torch.no_grad()
    def completions(self) -> Tensor:
        """Log-sum (B, T, C) over the rest of the sentence from a word's tag on, its own emission included.

        Nats, float64, without gradients, up to a constant per word: what p(y_t | y_{t-1}) ∝ transition + completion
        wants.
        """
        if self.messages.ok:
            return self.messages.completions().clone()
        return completions(self.chain.clean(self.chain.detached()), self.chain.lengths_there)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact independent samples (B, n, T), -100 on padding and where no path exists.

        Forwards: p(y_1) ∝ start + completion, p(y_t | y_{t-1}) ∝ transition + completion, where the completion is the
        log-sum over all that follows. The draw is an exponential race: argmax of p / noise with noise ~ Exp(1).
        """
        scores = self.chain.clean(self.chain.detached())
        complete = self.completions()
        B, T, C = complete.shape
        tags = torch.empty(B, n, T, dtype=torch.long, device=complete.device)
        logits = scores.start
        for t in range(T):
            noise = torch.empty(B, n, C, dtype=torch.float64, device=complete.device).exponential_(generator=generator)
            tags[..., t] = (logits + complete[:, None, t] - noise.log()).argmax(-1)
            logits = scores.transitions[tags[..., t]]
        exists = (scores.start + complete[:, 0]).amax(1, keepdim=True) > NEG_INF
        return tags.masked_fill(~(self.chain.alive & exists)[:, None], IGNORED)


# Scores of given paths and expected scores: linear functions of a chain's scores, with their constant gradients.
#
# Automatic differentiation would get these right too, through some twenty small operations each; written as one
# function whose gradient is known, they cost a fraction of the forward-backward pass beside them instead of doubling
# it.


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
        missing = ((tags == IGNORED) | ~alive).all(-1)
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
