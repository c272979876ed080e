"""A teacher's distribution over the student's tag sequences.

A teacher's chain becomes a [`TagChain`] where tags are only renamed, else a [`ReadChain`]; `read_chain` decides. A
teacher that lists sequences gives a [`KnownPaths`], and several teachers a [`Mixture`]. All are [`TagDistribution`]s.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from ..distillation.comparisons import path_group_log_probs
from ..modeling.crf import LinearChainCRF, SufficientStatistics
from ..modeling.crf_reference import Scores, logsumexp
from .distribution import (
    BestPaths,
    ExactPaths,
    StateChain,
    TagChain,
    TagDistribution,
    best_candidates,
    select_sentences,
    state_chain,
)
from .k_best_search import search_best_paths
from .label_map import Reading


class ReadChain:
    """A teacher's chain over states, read as the student's tags: a [`TagDistribution`].

    Marginals, expected transitions and probabilities of sequences are exact sums over states. The k best are exact
    where states and tags are one to one; where tags are merged, `search_best_paths` finds them. The entropy is that of
    the teacher's sequences before they are merged, which bounds that of the merged sequences from above.

    Args:
        chain: over the states of `reading`.
        reading: how states are read.
    """

    def __init__(self, chain: LinearChainCRF, reading: Reading) -> None:
        self.chain, self.reading = chain, reading
        device = chain.scores.emissions.device
        self._student_tags = torch.tensor(reading.student_tags, device=device)
        self._merge = torch.nn.functional.one_hot(self._student_tags, reading.num_tags)

    @property
    def lengths(self) -> Tensor:
        return self.chain.lengths

    @property
    def marginals(self) -> Tensor:
        return self._summed(self.chain.marginals, -1)

    @property
    def edge_counts(self) -> Tensor:
        return self._summed(self._summed(self.chain.edge_counts, -1), -2)

    def _summed(self, values: Tensor, dim: int) -> Tensor:
        """Sums over states that are read as the same tag.

        No matrix product, which autocast would round to half precision.
        """
        shape = list(values.shape)
        shape[dim] = self.reading.num_tags
        return values.new_zeros(shape).index_add(dim, self._student_tags, values)

    @property
    def scores(self) -> Scores:
        """Emissions alone: log-sums over merged tags, -inf at tags that stand for none; the rest is NaN."""
        of_states = self.chain.scores.emissions
        merged = self._merge.bool()
        emissions = logsumexp(of_states.unsqueeze(-1).masked_fill(~merged, -torch.inf), -2)
        emissions = torch.where(self._word_mask()[..., None], emissions, 0.0)
        tags = self.reading.num_tags
        undefined = of_states.new_full((tags,), torch.nan)
        return Scores(emissions, undefined.expand(tags, tags), undefined, undefined)

    def _word_mask(self) -> Tensor:
        emissions = self.chain.scores.emissions
        position = torch.arange(emissions.shape[1], device=emissions.device)
        return position < self.lengths.to(emissions.device)[:, None]

    def _tags_of(self, states: Tensor) -> Tensor:
        return torch.where(states < 0, states, self._student_tags[states.clamp(min=0)])

    def topk(self, k: int) -> ExactPaths | BestPaths:
        if self.reading.one_to_one:
            paths = self.chain.topk(k)
            return ExactPaths(self._tags_of(paths.tags), paths.log_prob, paths.valid)
        return search_best_paths(self, k)

    def best_tags(self) -> Tensor:
        return self.topk(1).tags[:, 0]

    def state_chains(self) -> list[StateChain]:
        return [state_chain(self.chain, self._student_tags)]

    def select(self, rows: Tensor) -> "ReadChain":
        return ReadChain(select_sentences(self.chain, rows), self.reading)

    def log_prob(self, tags: Tensor) -> Tensor:
        groups = self._student_tags.expand(len(tags), -1)
        log_probs = path_group_log_probs(self.chain, tags, groups)
        return torch.where(tags[..., 0] < 0, -torch.inf, log_probs)

    def entropy(self) -> Tensor:
        return self.chain.entropy()

    def with_temperature(self, temperature: float) -> "ReadChain":
        return ReadChain(self.chain.with_temperature(temperature), self.reading)


def read_chain(
    scores: Scores,
    lengths: Tensor,
    reading: Reading,
    *,
    allowed: Tensor | None = None,
    allowed_start: Tensor | None = None,
    allowed_end: Tensor | None = None,
    temperature: float = 1.0,
) -> TagDistribution:
    """A teacher's distribution in the student's tags.

    Args:
        scores: over the teacher's tags, nats.
        lengths: (batch,), words.
        reading: how its tags are read.
        allowed, allowed_start, allowed_end: the teacher's constraints, over its tags.
        temperature: divides all scores.

    Returns:
        A [`TagChain`] where tags are only renamed, else a [`ReadChain`].
    """
    device = scores.emissions.device
    teacher_tags = list(reading.teacher_tags)
    if reading.renames_only:
        states = [reading.student_tags.index(tag) for tag in range(reading.num_tags)]
        teacher_tags = [reading.teacher_tags[state] for state in states]
    order = torch.tensor(teacher_tags, device=device)
    masks = {}
    for name, by_teacher, by_reading in (
        ("allowed", allowed, reading.allowed),
        ("allowed_start", allowed_start, reading.allowed_start),
        ("allowed_end", allowed_end, reading.allowed_end),
    ):
        constraints = []
        if by_teacher is not None:
            constraints.append(by_teacher[order][:, order] if by_teacher.dim() == 2 else by_teacher[order])
        if by_reading is not None:
            constraints.append(by_reading.to(device))
        if constraints:
            masks[name] = reduce(torch.logical_and, constraints)
    chain = LinearChainCRF(
        scores.emissions[..., order],
        scores.transitions[order][:, order],
        scores.start[order],
        scores.end[order],
        lengths=lengths,
        **masks,
    )
    if temperature != 1.0:
        chain = chain.with_temperature(temperature)
    return TagChain.from_crf(chain) if reading.renames_only else ReadChain(chain, reading)


class KnownPaths:
    """A distribution over a list of tag sequences, renormalised over the list: a [`TagDistribution`].

    Sequences that become equal (because a label map merges their tags) are one, their probabilities added. A
    temperature divides the log-probability of each, before they are added.

    Args:
        tags: (batch, candidates, words), -100 beyond the words and on candidates that do not exist.
        log_weights: (batch, candidates), nats, of any common scale; before equal sequences are added up.
        lengths: (batch,), words.
        num_tags: the student's labels.
    """

    def __init__(self, tags: Tensor, log_weights: Tensor, lengths: Tensor, num_tags: int) -> None:
        self.lengths, self.num_tags = lengths, num_tags
        self._tags, self._log_weights = tags, log_weights
        exists = (tags[..., 0] >= 0) & (log_weights > -torch.inf)
        weights = log_weights.double().masked_fill(~exists, -torch.inf).softmax(dim=1)
        same = (tags[:, :, None] == tags[:, None]).all(dim=-1)
        weights = (same * weights[:, None]).sum(dim=-1)
        self.paths = best_candidates(tags, weights.log(), tags.shape[1])

    @property
    def _statistics(self) -> SufficientStatistics:
        return SufficientStatistics.from_tags(self.paths.tags, self.num_tags, self.paths.log_prob.exp())

    @property
    def marginals(self) -> Tensor:
        return self._statistics.nodes

    @property
    def edge_counts(self) -> Tensor:
        return self._statistics.edges

    @property
    def scores(self) -> Scores:
        raise ValueError("a list of tag sequences has no emission scores: use top_k, top_wk, posterior or structural")

    def topk(self, k: int) -> ExactPaths:
        return ExactPaths(*(values[:, :k] for values in self.paths))

    def best_tags(self) -> Tensor:
        return self.topk(1).tags[:, 0]

    def state_chains(self) -> list[StateChain]:
        """Each sequence is a state, which never changes."""
        stay = torch.eye(self.paths.tags.shape[1], dtype=torch.float64, device=self.paths.tags.device)
        return [StateChain(1.0, self.paths.log_prob.exp(), lambda word: stay, self.paths.tags.transpose(1, 2))]

    def log_prob(self, tags: Tensor) -> Tensor:
        same = (tags[:, :, None] == self.paths.tags[:, None]).all(dim=-1) & (tags[..., :1] >= 0)
        return (same * self.paths.log_prob[:, None].exp()).sum(dim=-1).log()

    def entropy(self) -> Tensor:
        probabilities = self.paths.log_prob.exp()
        return -torch.where(probabilities > 0, probabilities * self.paths.log_prob, 0.0).sum(dim=1)

    def select(self, rows: Tensor) -> "KnownPaths":
        rows = rows.to(self._tags.device)
        return KnownPaths(self._tags[rows], self._log_weights[rows], self.lengths[rows], self.num_tags)

    def with_temperature(self, temperature: float) -> "KnownPaths":
        return KnownPaths(self._tags, self._log_weights / temperature, self.lengths, self.num_tags)


class Mixture:
    """Several distributions over the same tag sequences, mixed: p(y) = sum over m of w_m p_m(y).

    Marginals, expected transitions and probabilities of sequences are mixed exactly. `search_best_paths` finds the k
    best under the mixture's exact probabilities. The entropy is the weighted mean of the members', which bounds the
    mixture's from below. A temperature divides the members' scores.

    Args:
        members: distributions over the same sentences.
        weights: of each, positive; divided by their sum.
    """

    def __init__(self, members: Sequence[TagDistribution], weights: Sequence[float]) -> None:
        self.members = list(members)
        self.weights = [weight / sum(weights) for weight in weights]

    def _mixed(self, parts: Sequence[Tensor]) -> Tensor:
        first, *others = [weight * part for weight, part in zip(self.weights, parts)]
        for other in others:
            first = first + other.to(first.device)
        return first

    def _log_mixed(self, parts: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack([part.to(parts[0].device) for part in parts])
        logs = torch.tensor(self.weights, dtype=stacked.dtype, device=stacked.device).log()
        return logsumexp(stacked + logs.view(-1, *(1,) * (stacked.dim() - 1)), 0)

    @property
    def lengths(self) -> Tensor:
        return self.members[0].lengths

    @property
    def marginals(self) -> Tensor:
        return self._mixed([member.marginals for member in self.members])

    @property
    def edge_counts(self) -> Tensor:
        return self._mixed([member.edge_counts for member in self.members])

    @property
    def scores(self) -> Scores:
        """Emissions alone: logs of the mixed local distributions; the rest is NaN."""
        parts = [member.scores.emissions for member in self.members]
        undefined = torch.full_like(parts[0][0, 0], torch.nan)
        emissions = self._log_mixed([part.log_softmax(dim=-1) for part in parts])
        return Scores(emissions, undefined.expand(len(undefined), -1), undefined, undefined)

    def topk(self, k: int) -> BestPaths:
        return search_best_paths(self, k)

    def best_tags(self) -> Tensor:
        return self.topk(1).tags[:, 0]

    def state_chains(self) -> list[StateChain]:
        return [
            replace(chain, weight=weight * chain.weight)
            for member, weight in zip(self.members, self.weights)
            for chain in member.state_chains()
        ]

    def select(self, rows: Tensor) -> "Mixture":
        return Mixture([member.select(rows) for member in self.members], self.weights)

    def log_prob(self, tags: Tensor) -> Tensor:
        return self._log_mixed([member.log_prob(tags.to(member.marginals.device)) for member in self.members])

    def entropy(self) -> Tensor:
        return self._mixed([member.entropy() for member in self.members])

    def with_temperature(self, temperature: float) -> "Mixture":
        return Mixture([member.with_temperature(temperature) for member in self.members], self.weights)
