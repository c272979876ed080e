"""Sums over all paths as autograd sees them: values from the packed pass, gradients from its rules where it has them.

`forward_backward.py` knows values and first derivatives of what training needs; `log_space.py` knows everything, but
slowly. Here each request goes to the one that can answer it.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from .chain_checks import check_scores
from .forward_backward import PackedPass
from .log_space import NEG_INF, REFERENCE, Scores, completions
from .packing import Packing


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

    def __init__(self, scores: Scores, lengths: Tensor):
        self.scores, self.lengths = scores, lengths

    @cached_property
    def packing(self) -> Packing:
        emissions = self.scores.emissions
        with torch.inference_mode(False):  # its indices may be kept for a backward pass later
            return Packing(self.lengths, emissions.shape[1], emissions.device)

    @cached_property
    def packed(self) -> PackedPass:
        packing = self.packing
        with torch.inference_mode():
            packed = PackedPass(Scores(*(part.detach() for part in self.scores)), packing)
        if not packed.ok:
            names = ("transitions", "start_transitions", "end_transitions")
            check_scores(self.scores.emissions, self.lengths, **dict(zip(names, self.scores[1:])))
        return packed

    @torch.compiler.disable
    def evaluate(self, quantity: str) -> Tensor:
        """One of the `REFERENCE` quantities of `log_space.py`, float64, differentiable twice."""
        if torch.is_grad_enabled() and any(part.requires_grad for part in self.scores):
            return _Sum.apply(self, quantity, *self.scores)
        return self.value(quantity)

    def _clean(self, scores: Scores) -> tuple[Scores, Tensor]:
        """Float64 scores with zeroed padding, and lengths on their device, as `log_space.py` wants them."""
        lengths = self.lengths.to(scores.emissions.device)
        position = torch.arange(scores.emissions.shape[1], device=lengths.device)
        alive = (position < lengths[:, None])[..., None]
        emissions = torch.where(alive, scores.emissions.double(), 0.0)
        return Scores(emissions, *(part.double() for part in scores[1:])), lengths

    def value(self, quantity: str) -> Tensor:
        if not self.packed.ok:
            with torch.no_grad():
                return REFERENCE[quantity](*self._clean(self.scores))
        with torch.inference_mode():
            value = getattr(self.packed, quantity)()
        return value.clone()  # what leaves inference mode by a copy may take part in autograd

    def gradient(self, quantity: str, scores: Scores, upstream: Tensor) -> list[Tensor]:
        """The first derivative, analytically where there is a rule."""
        rule = getattr(self.packed, quantity + "_gradient", None)
        if rule is None or not self.packed.ok:
            return self.reference_gradient(quantity, scores, upstream, False)
        packing, emissions = self.packing, scores.emissions
        if quantity != "log_partition":
            upstream = packing.pack(upstream)
        nodes, edges = rule(upstream)
        parts = [packing.unpack(nodes, emissions.shape[1], emissions.dtype), edges]
        parts += [nodes[: len(packing.order)].sum(0), nodes.index_select(0, packing.last).sum(0)]
        return [part.to(score.dtype) for part, score in zip(parts, scores)]

    def reference_gradient(self, quantity: str, scores: Scores, upstream: Tensor, record: bool) -> list[Tensor]:
        """The first derivative by automatic differentiation, itself differentiable if it is recorded."""
        with torch.enable_grad():
            # Aliases, so that one score's dependence on another (shared parameters) is not counted here.
            inputs = [part.view_as(part) if record else part.detach() for part in scores]
            inputs = [part if part.requires_grad else part.detach().requires_grad_() for part in inputs]
            value = REFERENCE[quantity](*self._clean(Scores(*inputs)))
            gradients = torch.autograd.grad(value, inputs, upstream, create_graph=record, materialize_grads=True)
        return list(gradients)

    @torch.no_grad()
    def completions(self) -> Tensor:
        """Log-sum (B, T, C) over the rest of the sentence from a word's tag on, its own emission included.

        Nats, float64, without gradients, up to a constant per word: what p(y_t | y_{t-1}) ∝ transition + completion
        wants.
        """
        if self.packed.ok:
            return self.packed.completions().clone()
        return completions(*self._clean(Scores(*(part.detach() for part in self.scores))))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact independent samples (B, n, T), -100 on padding and where no path exists.

        Forwards: p(y_1) ∝ start + completion, p(y_t | y_{t-1}) ∝ transition + completion, where the completion is the
        log-sum over all that follows. The draw is an exponential race: argmax of p / noise with noise ~ Exp(1).
        """
        scores, lengths = self._clean(Scores(*(part.detach() for part in self.scores)))
        complete = self.completions()
        B, T, C = complete.shape
        tags = torch.empty(B, n, T, dtype=torch.long, device=complete.device)
        logits = scores.start
        for t in range(T):
            noise = torch.empty(B, n, C, dtype=torch.float64, device=complete.device).exponential_(generator=generator)
            tags[..., t] = (logits + complete[:, None, t] - noise.log()).argmax(-1)
            logits = scores.transitions[tags[..., t]]
        alive = torch.arange(T, device=lengths.device) < lengths[:, None]
        exists = (scores.start + complete[:, 0]).amax(1, keepdim=True) > NEG_INF
        return tags.masked_fill(~(alive & exists)[:, None], -100)
