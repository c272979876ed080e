"""The quantities of a chain as differentiable functions of its scores.

Sums over all paths (`PathSums`): `crf_sums.py` computes values and the first derivatives that training needs, fast;
`crf_reference.py` computes all of them and further derivatives, slowly. `PathSums` chooses between the two.

Scores of given paths and expected scores (`path_score`, `expected_score`): linear functions of the scores, each
written as one autograd function whose gradient is known. Automatic differentiation would be right too, through some
twenty small operations each, and would double the time of the forward-backward pass beside them.

Shapes: B sentences of at most T words, C tags, K paths per sentence; values are float64 and in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from .crf_batch import Chain, check_scores, check_tags
from .crf_compiled import NativePass, native_path_scores, native_sums
from .crf_reference import NEG_INF, REFERENCE, Scores, completions
from .crf_sums import Messages, PackedPass
from .tag_scheme import IGNORED

# ---- sums over all paths ----


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
        # Gradients are recorded here only under create_graph: the caller needs a derivative of this derivative.
        if torch.is_grad_enabled():
            gradients = ctx.sums.reference_gradient(ctx.quantity, scores, upstream, True)
        else:
            gradients = ctx.sums.gradient(ctx.quantity, scores, upstream)
        return (None, None, *gradients)


class _LogProb(torch.autograd.Function):
    """Log probabilities of paths from a `NativePass`: one compiled call for the values, one for the gradients."""

    @staticmethod
    def forward(ctx, sums: PathSums, paths: Tensor, *scores: Tensor) -> Tensor:
        ctx.sums, ctx.paths = sums, paths
        value = sums.native_log_prob(paths)
        ctx.save_for_backward(value, *scores)
        return value

    @staticmethod
    def backward(ctx, upstream: Tensor):
        value, *scores = ctx.saved_tensors
        exists = value > NEG_INF
        if torch.is_grad_enabled():  # see `_Sum`
            gradients = ctx.sums.composed_log_prob_gradient(ctx.paths, exists, Scores(*scores), upstream)
        else:
            gradients = ctx.sums.messages.log_prob_gradient(upstream, ctx.paths, exists)
        return (None, None, *(part.to(score.dtype) for part, score in zip(gradients, scores)))


class PathSums:
    """Sums over the paths of one batch. One forward-backward pass, made when first needed, serves all quantities."""

    def __init__(self, chain: Chain):
        self.chain = chain

    @cached_property
    def messages(self) -> Messages:
        """The forward-backward pass. Raises ValueError if scores of real words are NaN or +inf."""
        chain = self.chain
        with torch.inference_mode():
            messages = (NativePass if native_sums(chain) else PackedPass)(chain)
        if not messages.ok:
            names = ("transitions", "start_transitions", "end_transitions")
            check_scores(chain.scores.emissions, chain.lengths, **dict(zip(names, chain.scores[1:])))
        return messages

    @torch.compiler.disable
    def evaluate(self, quantity: str) -> Tensor:
        """One of the quantities that `REFERENCE` in `crf_reference.py` names, float64, differentiable twice."""
        if torch.is_grad_enabled() and any(part.requires_grad for part in self.chain.scores):
            return _Sum.apply(self, quantity, *self.chain.scores)
        return self.value(quantity)

    def value(self, quantity: str) -> Tensor:
        """The same without gradients."""
        if not self.messages.ok:
            with torch.no_grad():
                return self._reference(quantity, self.chain.scores)
        with torch.no_grad():
            value = getattr(self.messages, quantity)()
        # The messages were made in inference mode; only a copy may take part in autograd.
        return value.clone() if value.is_inference() else value

    def _reference(self, quantity: str, scores: Scores) -> Tensor:
        return REFERENCE[quantity](self.chain.clean(scores), self.chain.device_lengths)

    def gradient(self, quantity: str, scores: Scores, upstream: Tensor) -> list[Tensor]:
        """The first derivative by each score, from an analytic rule where there is one.

        Args:
            quantity: as in `evaluate`.
            scores: those to differentiate by.
            upstream: the loss' derivative by the quantity, in its shape.
        """
        rule = getattr(self.messages, quantity + "_gradient", None)
        if rule is None or not self.messages.ok:
            return self.reference_gradient(quantity, scores, upstream, False)
        nodes, edges = rule(upstream)
        lengths = self.chain.device_lengths
        last = nodes[torch.arange(len(lengths), device=lengths.device), lengths - 1]
        parts = (nodes, edges, nodes[:, 0].sum(0), last.sum(0))
        return [part.to(score.dtype) for part, score in zip(parts, scores)]

    def reference_gradient(self, quantity: str, scores: Scores, upstream: Tensor, record: bool) -> list[Tensor]:
        """The first derivative by automatic differentiation, itself differentiable if ``record`` is set."""
        return _differentiate(lambda inputs: self._reference(quantity, inputs), scores, upstream, record)

    @torch.compiler.disable
    def log_prob(self, paths: Tensor) -> Tensor | None:
        """The log probabilities (B, K) of paths (B, K, T), `-inf` for illegal and missing ones, by compiled loops.

        Returns:
            float64, nats, differentiable twice; `None` where the chain's messages are not those of compiled loops.

        Raises:
            ValueError: as `path_score`.
        """
        if not (isinstance(self.messages, NativePass) and self.messages.ok):
            return None
        if torch.is_grad_enabled() and any(part.requires_grad for part in self.chain.scores):
            return _LogProb.apply(self, paths.long(), *self.chain.scores)
        return self.native_log_prob(paths)

    def native_log_prob(self, paths: Tensor) -> Tensor:
        """The same without gradients."""
        with torch.no_grad():
            scores = native_path_scores(self.chain, paths)
            # A path that exists is one of the paths that log Z sums: the difference has no infinity.
            return torch.where(scores > NEG_INF, scores - self.messages.log_z[:, None], NEG_INF)

    def composed_log_prob_gradient(
        self, paths: Tensor, exists: Tensor, scores: Scores, upstream: Tensor
    ) -> list[Tensor]:
        """The gradient of `log_prob` as differentiable operations."""

        def log_prob(inputs: Scores) -> Tensor:
            log_z = self._reference("log_partition", inputs)[:, None]
            difference = path_score(Chain(inputs, self.chain.lengths), paths) - torch.where(exists, log_z, 0.0)
            return torch.where(exists, difference, 0.0)

        return _differentiate(log_prob, scores, upstream, record=True)

    @torch.no_grad()
    def completions(self) -> Tensor:
        """Log-sum (B, T, C) over the rest of the sentence from a word's tag on, the word's emission included.

        Without gradients, up to a constant per word, so that p(y_t | y_{t-1}) ∝ exp(transition + completion).
        """
        if self.messages.ok:
            return self.messages.completions().clone()
        return completions(self.chain.clean(self.chain.detached()), self.chain.device_lengths)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact independent samples (B, n, T), -100 on padding and where no path exists.

        Drawn forwards: p(y_1) ∝ exp(start + completion), p(y_t | y_{t-1}) ∝ exp(transition + completion), see
        `completions`. Each draw is an exponential race: argmax of p / noise with noise ~ Exp(1).

        Args:
            n: samples per sentence.
            generator: of the noise.
        """
        scores = self.chain.clean(self.chain.detached())
        rest = self.completions()
        B, T, C = rest.shape
        tags = torch.empty(B, n, T, dtype=torch.long, device=rest.device)
        step_scores = scores.start
        for t in range(T):
            noise = torch.empty(B, n, C, dtype=torch.float64, device=rest.device).exponential_(generator=generator)
            tags[..., t] = (step_scores + rest[:, None, t] - noise.log()).argmax(-1)
            step_scores = scores.transitions[tags[..., t]]
        exists = (scores.start + rest[:, 0]).amax(1, keepdim=True) > NEG_INF
        return tags.masked_fill(~(self.chain.alive & exists)[:, None], IGNORED)


def _differentiate(
    function: Callable[[Scores], Tensor], scores: Scores, upstream: Tensor, record: bool
) -> list[Tensor]:
    """The derivative of a function by each score, itself differentiable if ``record`` is set."""
    with torch.enable_grad():
        # Aliases, so that one score's dependence on another (shared parameters) is not counted here.
        inputs = [part.view_as(part) if record else part.detach() for part in scores]
        inputs = [part if part.requires_grad else part.detach().requires_grad_() for part in inputs]
        value = function(Scores(*inputs))
        if not value.requires_grad:  # sentences of one word have no transitions, whatever the scores
            return [torch.zeros_like(part) for part in scores]
        return list(torch.autograd.grad(value, inputs, upstream, create_graph=record, materialize_grads=True))


# ---- scores of given paths, expected scores ----


class _Linear(torch.autograd.Function):
    """A function that is linear in the scores: its gradient depends on the upstream gradient only.

    ``gradient`` consists of differentiable operations on the upstream gradient, so that second derivatives are right.
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
    """The unnormalised scores of given paths.

    Args:
        chain: the scores.
        tags: (B, K, T) integers; padding is ignored.

    Returns:
        (B, K), float64, nats; ``-inf`` for a path that is -100 throughout.

    Raises:
        ValueError: if another path has a value outside [0, C) on a real word.
    """
    B, T, C = chain.scores.emissions.shape
    alive, lengths = chain.alive[:, None], chain.device_lengths
    paths, missing = torch.where(alive, tags.long(), 0), None
    if bool((paths.amin() < 0) | (paths.amax() >= C)):
        missing = ((tags == IGNORED) | ~alive).all(-1)
        check_tags(tags, alive & ~missing[..., None], C)
        paths = paths.masked_fill(missing[..., None], 0)
    # Indices of what each path scores in the flattened emissions (words) and the flattened transitions (pairs).
    words = paths + torch.arange(0, B * T * C, C, device=paths.device).view(B, 1, T)
    pairs = paths[..., :-1] * C + paths[..., 1:]
    pair_exists = alive[..., 1:]
    first = paths[..., 0]
    last = paths.gather(2, (lengths - 1)[:, None, None].expand(B, paths.shape[1], 1)).squeeze(2)

    def value(scores: Scores) -> Tensor:
        emissions, transitions, start, end = scores
        word_scores = emissions.flatten().index_select(0, words.flatten()).view(words.shape)
        total = torch.where(alive, word_scores, 0.0).sum(2, dtype=torch.float64)
        pair_scores = transitions.double().flatten().index_select(0, pairs.flatten()).view(pairs.shape)
        total += torch.where(pair_exists, pair_scores, 0.0).sum(2)
        return total.add_(start.double()[first]).add_(end.double()[last])

    def gradient(upstream: Tensor) -> list[Tensor]:
        path_weights = upstream[..., None]
        sizes, indices = (B * T * C, C * C, C, C), (words, pairs, first, last)
        weights = (path_weights * alive, path_weights * pair_exists, upstream, upstream)
        nodes, edges, *ends = (
            upstream.new_zeros(size).index_add(0, index.flatten(), weight.flatten())
            for size, index, weight in zip(sizes, indices, weights)
        )
        return [nodes.view(B, T, C), edges.view(C, C), *ends]

    total = _Linear.apply(value, gradient, *chain.scores)
    return total if missing is None else total.masked_fill(missing, NEG_INF)


@torch.compiler.disable
def expected_score(chain: Chain, nodes: Tensor, edges: Tensor) -> Tensor:
    """The inner product ⟨expected counts, scores⟩ of each sentence.

    Args:
        chain: the scores.
        nodes: (B, T, C) float64 expected tags; values on padding are ignored.
        edges: (B, C, C) float64 expected transitions.

    Returns:
        (B,), float64, nats; ``-inf`` where counts fall on structural zeros.
    """
    nodes = torch.where(chain.alive[..., None], nodes, 0.0)
    last = nodes[torch.arange(len(nodes), device=nodes.device), chain.device_lengths - 1]
    counts = (nodes, edges, nodes[:, 0], last)

    def value(scores: Scores) -> Tensor:
        scores = Scores(*(part.double() for part in scores))
        total = torch.linalg.vecdot(nodes.flatten(1), scores.emissions.flatten(1))
        for count, score in zip(counts[1:], scores[1:]):
            total = total + count.flatten(1) @ score.flatten()
        if bool(torch.isfinite(total).all()):
            return total
        # 0 * -inf and NaN on padding must give NaN neither here nor in gradients: infinite scores are left out.
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
        return value(chain.scores)  # bilinear: counts and scores both have gradients
    return _Linear.apply(value, gradient, *chain.scores)
