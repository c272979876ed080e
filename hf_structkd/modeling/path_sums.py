"""Sums over all paths as autograd sees them: values from the packed pass, gradients from its rules where it has them.

`forward_backward.py` knows values and first derivatives of what training needs; `log_space.py` knows everything, but
slowly. Here each request goes to the one that can answer it.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from .chain import Chain
from .chain_checks import check_scores
from .forward_backward import PackedPass
from .log_space import NEG_INF, REFERENCE, Scores, completions
from .messages import Messages
from .native import native_on
from .native_sums import NativePass


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
        """One of the `REFERENCE` quantities of `log_space.py`, float64, differentiable twice."""
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
        return tags.masked_fill(~(self.chain.alive & exists)[:, None], -100)
