"""The linear-chain conditional random field as a probability distribution over tag sequences.

    score(y) = start[y_1] + Σ_t emissions[t, y_t] + Σ_t transitions[y_{t-1}, y_t] + end[y_n]
    p(y)     = exp(score(y) - log Z),        log Z = log Σ_y exp(score(y))

(Lafferty et al. 2001; section 2 of Wang et al. 2020, "Structure-Level Knowledge Distillation For Multilingual Sequence
Labeling"). This module defines each quantity. The others of its kind compute them:

- `crf_batch.py`: the scores of a batch, the layout of its words in memory, and the checks of a caller's input;
- `crf_sums.py`, `crf_paths.py`: sums and maxima over all paths, exactly and fast; `crf_compiled.py`: the same as
  compiled loops for the CPU;
- `crf_reference.py`: the same sums in log space, slow and right at every score;
- `crf_autograd.py`: the gradients, and the choice between the two.

Shapes: B sentences of at most T words, C tags. Scores and log probabilities are in nats.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .crf_autograd import PathSums, expected_score, path_score
from .crf_batch import Chain, check_emissions, check_legal, check_scores, check_shape, check_spans, checked_lengths
from .crf_paths import best_path, k_best
from .crf_reference import NEG_INF, Scores
from .tag_scheme import IGNORED


class SufficientStatistics(NamedTuple):
    """Expected tag and transition counts under any distribution over tag sequences.

    The score of a CRF is linear in these counts, so a CRF's cross-entropy with a gold path, with k best paths or with
    another CRF is one function of them (`LinearChainCRF.cross_entropy`). One C x C matrix per sentence is enough
    because all edges share their transition scores; a T x C x C tensor is never needed.

    Attributes:
        nodes: (B, T, C) expected number of times word t carries tag c: probabilities if ``mass`` is 1; 0 on padding.
        edges: (B, C, C) expected number of transitions [from, to] in the sentence.
        mass: (B,) total weight: 1 for a distribution, 0 for a sentence without a target.
    """

    nodes: Tensor
    edges: Tensor
    mass: Tensor

    @classmethod
    def from_tags(cls, tags: Tensor, num_tags: int, weights: Tensor | None = None) -> SufficientStatistics:
        """Count the tags and transitions of given paths: gold (one path), Top-K (uniform weights) or Top-WK (the
        teacher's weights).

        Args:
            tags: (B, T) or (B, K, T) integers in [0, num_tags), -100 on padding. A path that is -100 throughout does
                not exist and has weight 0.
            num_tags: C.
            weights: (B,) or (B, K) non-negative weight of each path; by default the existing paths of a sentence
                share a mass of 1 equally.

        Returns:
            The statistics, in the type of the weights (float64 by default).

        Raises:
            ValueError: on wrong shapes or tags out of range.
        """
        if tags.dim() == 2:
            tags = tags[:, None]
            weights = None if weights is None else weights.reshape(-1, 1)
        if tags.dim() != 3 or tags.is_floating_point():
            raise ValueError(
                f"tags must be integers of shape (batch, words) or (batch, k, words), got {tags.dtype} "
                f"of shape {tuple(tags.shape)}"
            )
        B, K, T = tags.shape
        tags = tags.long()
        present = tags != IGNORED
        if bool((present & ((tags < 0) | (tags >= num_tags))).any()):
            raise ValueError(
                f"tags must be in [0, {num_tags}) or {IGNORED} on padding, got values from "
                f"{int(tags.min())} to {int(tags.max())}"
            )
        exists = present.any(-1)
        if weights is None:
            weights = exists.double() / exists.sum(-1, keepdim=True).clamp(min=1)
        elif weights.shape != (B, K):
            raise ValueError(
                f"weights must have shape {(B, K)} for tags of shape {(B, K, T)}, got {tuple(weights.shape)}"
            )
        weights = torch.where(exists, weights, 0.0)
        index = tags.clamp(min=0)
        word_weights = torch.where(present, weights[..., None], 0.0).transpose(1, 2)
        nodes = word_weights.new_zeros(B, T, num_tags).scatter_add(2, index.transpose(1, 2), word_weights)
        pairs = (index[..., :-1] * num_tags + index[..., 1:]).flatten(1)
        pair_weights = torch.where(present[..., 1:] & present[..., :-1], weights[..., None], 0.0).flatten(1)
        edges = pair_weights.new_zeros(B, num_tags * num_tags).scatter_add(1, pairs, pair_weights)
        return cls(nodes, edges.view(B, num_tags, num_tags), weights.sum(-1))


class TopK(NamedTuple):
    """The k best paths of each sentence, best first.

    Where a sentence has fewer than K allowed paths, the missing ones have ``valid`` False, log_prob ``-inf`` and tags
    -100 throughout.

    Attributes:
        tags: (B, K, T) integers, padded with -100.
        log_prob: (B, K) nats.
        valid: (B, K) bool, whether the path exists.
    """

    tags: Tensor
    log_prob: Tensor
    valid: Tensor


def _mask_disallowed(name: str, scores: Tensor, allowed: Tensor | None) -> Tensor:
    """The scores, ``-inf`` where they are not allowed."""
    if allowed is None:
        return scores
    check_shape(name, allowed, tuple(scores.shape), boolean=True)
    return scores.masked_fill(~allowed.to(scores.device), NEG_INF)


def _log_ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part - whole``, and ``-inf`` with zero gradient where part is ``-inf``."""
    possible = part > NEG_INF
    return torch.where(possible, part - torch.where(possible, whole, 0.0), NEG_INF)


class LinearChainCRF:
    """A batch of distributions over tag sequences.

    All members are exact, batched and differentiable with respect to every score (log-marginals and KL twice). All
    computation is in float64 whatever the input's type, so that results are right for scores of any size. Results have
    the type of the emissions, at least float32. Log Z and marginals of one object share one forward-backward pass.

    A score of ``-inf`` is a structural zero, and so are transitions, starts and ends that are not ``allowed``: paths
    through it do not exist. A sentence without any path has log Z = ``-inf`` and zero gradients.

    Args:
        emissions: (B, T, C) score of tag c at word t, nats. Values on padding, NaN included, are ignored.
        transitions: (C, C) score of going [from, to], nats.
        start_transitions: (C,) score of the first tag; default 0.
        end_transitions: (C,) score of the last tag; default 0.
        lengths: (B,) integers, number of words of each sentence, each 1..T; default all T. Best on the CPU: a tensor
            on an accelerator costs a synchronisation.
        allowed: (C, C) bool, which transitions exist; default all.
        allowed_start, allowed_end: (C,) bool, which tags can be first, last; default all.

    Raises:
        ValueError: if shapes do not fit, lengths are outside 1..T, or scores of real words are NaN or +inf.
    """

    def __init__(
        self,
        emissions: Tensor,
        transitions: Tensor,
        start_transitions: Tensor | None = None,
        end_transitions: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        allowed: Tensor | None = None,
        allowed_start: Tensor | None = None,
        allowed_end: Tensor | None = None,
    ):
        check_emissions(emissions)
        B, T, C = emissions.shape
        check_shape("transitions", transitions, (C, C))
        start = transitions.new_zeros(C) if start_transitions is None else start_transitions
        end = transitions.new_zeros(C) if end_transitions is None else end_transitions
        check_shape("start_transitions", start, (C,))
        check_shape("end_transitions", end, (C,))
        self.lengths = checked_lengths(lengths, B, T)
        # Another device would have to be waited for; NaN among its scores are found with the sums.
        if emissions.device.type == "cpu":
            check_scores(
                emissions, self.lengths, transitions=transitions, start_transitions=start, end_transitions=end
            )
        self.scores = Scores(
            emissions,
            _mask_disallowed("allowed", transitions, allowed),
            _mask_disallowed("allowed_start", start, allowed_start),
            _mask_disallowed("allowed_end", end, allowed_end),
        )
        # Scores on a device without float64 are copied to the CPU: exact sums are worth it.
        exact = Scores(*(part.cpu() for part in self.scores)) if emissions.device.type == "mps" else self.scores
        self._chain = Chain(exact, self.lengths)
        self._sums = PathSums(self._chain)
        self._device = emissions.device
        self._dtype = emissions.dtype if emissions.dtype in (torch.float32, torch.float64) else torch.float32
        self._cache: dict[str, Tensor] = {}

    def _to_caller(self, value: Tensor) -> Tensor:
        """A result in the caller's type and on the caller's device."""
        return value.to(self._device, self._dtype)

    # -- sums over all paths ------------------------------------------------------------------------------------

    def _quantity(self, name: str) -> Tensor:
        """A sum over all paths, computed once, and again if the gradient mode now asks for more."""
        value = self._cache.get(name)
        needs_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in self.scores)
        if (
            value is None
            or (needs_gradient and not value.requires_grad)
            or (value.is_inference() and not torch.is_inference_mode_enabled())
        ):
            value = self._cache[name] = self._sums.evaluate(name)
        return value

    @property
    def log_partition(self) -> Tensor:
        """log Z (B,), nats; ``-inf`` for a sentence without any allowed path."""
        return self._to_caller(self._quantity("log_partition"))

    @property
    def log_marginals(self) -> Tensor:
        """log p(y_t = c) (B, T, C): 0 on padding; ``-inf`` where no allowed path passes."""
        return self._to_caller(self._quantity("log_marginals"))

    @property
    def marginals(self) -> Tensor:
        """p(y_t = c) (B, T, C): 0 on padding."""
        return self._to_caller(self._quantity("marginals"))

    @property
    def edge_counts(self) -> Tensor:
        """Expected number of transitions [from, to] (B, C, C)."""
        return self._to_caller(self._quantity("edge_counts"))

    def edge_marginals(self) -> Tensor:
        """p(y_t = i, y_{t+1} = j) (B, T - 1, C, C): 0 on padding. Large; `edge_counts` is what most uses need."""
        return self._to_caller(self._sums.evaluate("edge_marginals"))

    @property
    def statistics(self) -> SufficientStatistics:
        """The exact expected counts under this distribution."""
        return SufficientStatistics(*(self._to_caller(part) for part in self._statistics()))

    def _statistics(self) -> SufficientStatistics:
        nodes = self._quantity("marginals")
        mass = (self._quantity("log_partition") > NEG_INF).to(nodes.dtype)
        return SufficientStatistics(nodes, self._quantity("edge_counts"), mass)

    def completions(self) -> Tensor:
        """Log-sum over all that follows from a word's tag on, the word's emission included.

        Returns:
            (B, T, C) nats, float64, without gradient, up to a constant per word: p(y_t | y_{t-1}) is the softmax of
            ``transitions[y_{t-1}] + completions()[:, t]``.
        """
        return self._sums.completions()

    # -- probabilities of paths, sets of paths, spans -----------------------------------------------------------

    def log_prob(self, tags: Tensor, *, allow_illegal: bool = False) -> Tensor:
        """log p(y) of given paths.

        Args:
            tags: (B, T) one path, or (B, K, T) several paths per sentence; padding is ignored. A path that is -100
                throughout does not exist: ``-inf``.
            allow_illegal: give a path through a structural zero ``-inf`` and zero gradient instead of raising.

        Returns:
            (B,) or (B, K), nats.

        Raises:
            ValueError: on wrong shapes, a tag out of range on a real word, or an illegal path.
        """
        B, T, _ = self.scores.emissions.shape
        fits = tags.dim() in (2, 3) and tags.shape[0] == B and tags.shape[-1] == T
        if tags.is_floating_point() or not fits:
            raise ValueError(
                f"tags must be integers of shape {(B, T)} or ({B}, k, {T}), got {tags.dtype} of {tuple(tags.shape)}"
            )
        single = tags.dim() == 2
        paths = (tags[:, None] if single else tags).to(self._chain.device)
        value = self._sums.log_prob(paths)
        if value is None:
            value = _log_ratio(path_score(self._chain, paths), self._quantity("log_partition")[:, None])
        if not allow_illegal and bool((value == NEG_INF).any()):
            check_legal(self._chain.detached(), self._chain.alive, paths)
        return self._to_caller(value.squeeze(1) if single else value)

    def restrict(self, tags_allowed: Tensor) -> LinearChainCRF:
        """The same scores on fewer paths: those with an allowed tag at every word.

        ``crf.restrict(mask).log_partition - crf.log_partition`` is the log probability of that set of paths.

        Args:
            tags_allowed: (B, T, C) bool.

        Returns:
            Another distribution; this one stays as it is.

        Raises:
            ValueError: if the mask has another shape or type.
        """
        check_shape("tags_allowed", tags_allowed, tuple(self.scores.emissions.shape), boolean=True)
        emissions = self.scores.emissions.masked_fill(~tags_allowed.to(self.scores.emissions.device), NEG_INF)
        return LinearChainCRF(emissions, *self.scores[1:], lengths=self.lengths)

    def log_prob_of_set(self, tags_allowed: Tensor) -> Tensor:
        """log Σ p(y) (B,) over the paths whose tag at every word is allowed by the bool (B, T, C) mask."""
        inside = self.restrict(tags_allowed)._quantity("log_partition")
        return self._to_caller(_log_ratio(inside, self._quantity("log_partition")))

    def span_log_prob(
        self, sentences: Tensor, starts: Tensor, ends: Tensor, tags: Tensor, continuing: Tensor | None = None
    ) -> Tensor:
        """Exact log probability that a span carries exactly these tags and ends there.

        Args:
            sentences: (S,) which sentence of the batch each span is in.
            starts, ends: (S,) first word and one past the last word.
            tags: (S, L) the tag of each word of the span, L at least the longest span; -100 behind shorter ones.
            continuing: (S, C) bool, tags that would continue the entity at word ``ends`` and therefore must not stand
                there (I-X for BIO); ignored where the sentence ends with the span. Default none.

        Returns:
            (S,) nats: log of the summed probability of all paths that agree.

        Raises:
            ValueError: if shapes do not fit or a span lies outside its sentence; the message names the span.
        """
        emissions, *shared = self._chain.scores
        device, (_, T, C) = emissions.device, emissions.shape
        if len(sentences) == 0:
            return self._to_caller(emissions.new_zeros(0))
        sentences, starts, ends, tags = (part.to(device).long() for part in (sentences, starts, ends, tags))
        check_spans(sentences, starts, ends, tags, self.lengths.to(device), C)
        position = torch.arange(T, device=device) - starts[:, None]
        covered = (position >= 0) & (position < (ends - starts)[:, None])
        span_tags = tags.gather(1, position.clamp(0, tags.shape[1] - 1))
        mask = ~covered[..., None] | (span_tags[..., None] == torch.arange(C, device=device))
        if continuing is not None:
            check_shape("continuing", continuing, (len(sentences), C), boolean=True)
            mask &= ~((torch.arange(T, device=device) == ends[:, None])[..., None] & continuing.to(device)[:, None])
        emissions = emissions[sentences].masked_fill(~mask, NEG_INF)
        agreeing = LinearChainCRF(emissions, *shared, lengths=self.lengths[sentences.cpu()])
        inside = agreeing._quantity("log_partition")
        log_z = self._quantity("log_partition")[sentences]
        return self._to_caller(_log_ratio(inside, log_z))

    # -- best paths, samples ------------------------------------------------------------------------------------

    def decode(self) -> Tensor:
        """Best path (Viterbi): tags (B, T) padded with -100; -100 throughout where there is no allowed path."""
        return best_path(self._chain).to(self._device)

    def argmax(self) -> tuple[Tensor, Tensor]:
        """The tags (B, T) of `decode`, and their unnormalised score (B,), nats; ``-inf`` without any allowed path."""
        tags = best_path(self._chain)
        score = path_score(self._chain, tags[:, None])[:, 0]
        return tags.to(self._device), self._to_caller(score)

    def topk(self, k: int) -> TopK:
        """The k best paths, exactly, best first; fewer where fewer exist (see `TopK`).

        Raises:
            ValueError: if k is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        tags, valid = k_best(self._chain, k)
        return TopK(tags.to(self._device), self.log_prob(tags).cummin(-1).values, valid.to(self._device))

    def sample(self, n: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """n independent exact samples per sentence (B, n, T), -100 on padding.

        Raises:
            ValueError: if n is below 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        return self._sums.sample(n, generator).to(self._device)

    # -- comparing distributions --------------------------------------------------------------------------------

    def cross_entropy(self, target: LinearChainCRF | SufficientStatistics) -> Tensor:
        """-E_target[log p_self(y)] (B,), nats: mass · log Z - ⟨expected counts of the target, scores of self⟩.

        With the counts of one gold path this is the negative log-likelihood; of k best paths, Top-K or Top-WK
        distillation (Wang et al. 2020, section 3.2); of a teacher CRF, exact structural distillation (Wang et al.
        2021, "Structural Knowledge Distillation"). Counts on padding are ignored. A sentence of mass 0 has loss 0 and
        zero gradient; a target that puts weight on a structural zero has loss ``inf`` and zero gradient.

        Args:
            target: another distribution over the same sentences, or expected counts.

        Raises:
            ValueError: if lengths or shapes differ.
        """
        statistics = self._expectations_of(target) if isinstance(target, LinearChainCRF) else target
        return self._to_caller(self._cross_entropy(statistics))

    def _expectations_of(self, target: LinearChainCRF) -> SufficientStatistics:
        if not torch.equal(self.lengths, target.lengths):
            raise ValueError(
                f"the lengths of the two distributions differ: {self.lengths.tolist()} here and "
                f"{target.lengths.tolist()} in the other"
            )
        return target._statistics()

    def _cross_entropy(self, statistics: SufficientStatistics) -> Tensor:
        B, _, C = self.scores.emissions.shape
        check_shape("nodes", statistics.nodes, tuple(self.scores.emissions.shape))
        check_shape("edges", statistics.edges, (B, C, C))
        check_shape("mass", statistics.mass, (B,))
        mass = statistics.mass.to(self._chain.device).double()
        nodes, edges = (part.to(mass.device).double() for part in (statistics.nodes, statistics.edges))
        expected = expected_score(self._chain, nodes, edges)
        log_z = self._quantity("log_partition")
        value = mass * torch.where(mass != 0, log_z, 0.0) - expected
        value = torch.where(expected > NEG_INF, value, -NEG_INF)
        return torch.where(mass != 0, value, 0.0)

    def entropy(self) -> Tensor:
        """-Σ_y p(y) log p(y) (B,), nats."""
        return self.cross_entropy(self)

    def kl(self, other: LinearChainCRF) -> Tensor:
        """KL(self || other) (B,), nats: ``inf`` where this distribution takes paths that the other excludes."""
        statistics = other._expectations_of(self)
        return self._to_caller(other._cross_entropy(statistics) - self._cross_entropy(statistics))

    def with_temperature(self, temperature: float) -> LinearChainCRF:
        """The distribution with all scores divided by a temperature ("global" temperature): above 1 is flatter.

        Raises:
            ValueError: if the temperature is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        # Divided in float32 at least: scores in half precision are exact, their quotients would be rounded.
        precise = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in self.scores)
        return LinearChainCRF(*(part / temperature for part in precise), lengths=self.lengths)
