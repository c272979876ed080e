"""Distributions over the student's tag sequences that are not a chain over the student's tags."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..distillation.comparisons import path_group_log_probs
from ..modeling.crf import LinearChainCRF, SufficientStatistics, TopK
from ..modeling.crf_reference import Scores, logsumexp
from .distribution import (
    BestPaths,
    Hidden,
    TagDistribution,
    hidden_chain,
    hidden_chains,
    log_prob_of,
    select,
    select_chains,
    top_of_pool,
)
from .k_best_search import best_of
from .label_map import Reading


class ReadChain:
    """A teacher's chain over states, read as the student's tags: a [`TagDistribution`].

    Marginals, expected transitions and probabilities of sequences are exact sums over states. The k best are exact
    where states and tags are one to one, and as `best_of` says where tags were merged. The entropy is that of the
    teacher's own sequences, which bounds the merged ones' from above.

    Args:
        chain: over the states of `reading`.
        reading: how states are read.
    """

    def __init__(self, chain: LinearChainCRF, reading: Reading) -> None:
        self.chain, self.reading = chain, reading
        device = chain.scores.emissions.device
        self._read_as = torch.tensor(reading.read_as, device=device)
        self._merge = torch.nn.functional.one_hot(self._read_as, reading.num_tags)

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
        """Sums over states that are read alike; no matrix product, which autocast would round to half precision."""
        shape = list(values.shape)
        shape[dim] = self.reading.num_tags
        return values.new_zeros(shape).index_add(dim, self._read_as, values)

    @property
    def scores(self) -> Scores:
        """Emissions alone: log-sums over merged tags, -inf at tags that stand for none; the rest is NaN."""
        own = self.chain.scores.emissions
        inside = self._merge.bool()
        emissions = logsumexp(own.unsqueeze(-1).masked_fill(~inside, -torch.inf), -2)
        emissions = torch.where(self._words()[..., None], emissions, 0.0)
        tags = self.reading.num_tags
        none = own.new_full((tags,), torch.nan)
        return Scores(emissions, none.expand(tags, tags), none, none)

    def _words(self) -> Tensor:
        emissions = self.chain.scores.emissions
        position = torch.arange(emissions.shape[1], device=emissions.device)
        return position < self.lengths.to(emissions.device)[:, None]

    def _read(self, states: Tensor) -> Tensor:
        return torch.where(states < 0, states, self._read_as[states.clamp(min=0)])

    def topk(self, k: int) -> TopK | BestPaths:
        if self.reading.one_to_one:
            paths = self.chain.topk(k)
            return TopK(self._read(paths.tags), paths.log_prob, paths.valid)
        return best_of(self, k)

    def hidden(self) -> list[Hidden]:
        return [hidden_chain(self.chain, self._read_as)]

    def select(self, rows: Tensor) -> "ReadChain":
        return ReadChain(select_chains(self.chain, rows), self.reading)

    def log_prob(self, tags: Tensor) -> Tensor:
        groups = self._read_as.expand(len(tags), -1)
        found = path_group_log_probs(self.chain, tags, groups)
        return torch.where(tags[..., 0] < 0, -torch.inf, found)

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
        scores: over the teacher's own tags, nats.
        lengths: (batch,), words.
        reading: how its tags are read.
        allowed, allowed_start, allowed_end: the teacher's own constraints, over its own tags.
        temperature: divides all scores.

    Returns:
        A [`LinearChainCRF`] where tags are only renamed, else a [`ReadChain`].
    """
    device = scores.emissions.device
    tag_of_state = list(reading.tag_of_state)
    if reading.renames_only:
        tag_of_state = [reading.read_as.index(tag) for tag in range(reading.num_tags)]
        tag_of_state = [reading.tag_of_state[state] for state in tag_of_state]
    order = torch.tensor(tag_of_state, device=device)
    masks = {}
    for name, own, mine in (
        ("allowed", allowed, reading.allowed),
        ("allowed_start", allowed_start, reading.allowed_start),
        ("allowed_end", allowed_end, reading.allowed_end),
    ):
        own = None if own is None else (own[order][:, order] if own.dim() == 2 else own[order])
        mine = None if mine is None else mine.to(device)
        if own is not None or mine is not None:
            masks[name] = mine if own is None else own if mine is None else own & mine
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
    return chain if reading.renames_only else ReadChain(chain, reading)


# A teacher that says no more than a list of tag sequences with their probabilities.


class KnownPaths:
    """The distribution over some known tag sequences, renormalised over them: a [`TagDistribution`].

    Sequences that are read alike (because a label map merges their tags) are one, their probabilities added. A
    temperature divides what the teacher said of each of them, before they are added.

    Args:
        tags: (batch, candidates, words), -100 beyond the words and the sequences there are.
        log_weights: (batch, candidates), nats, of any common scale; of the teacher's own sequences.
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
        self.paths = top_of_pool(tags, weights.log(), tags.shape[1])

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

    def topk(self, k: int) -> TopK:
        return TopK(*(part[:, :k] for part in self.paths))

    def hidden(self) -> list[Hidden]:
        """Each sequence is a state, and stays the one it is."""
        stay = torch.eye(self.paths.tags.shape[1], dtype=torch.float64, device=self.paths.tags.device)
        return [Hidden(1.0, self.paths.log_prob.exp(), lambda word: stay, self.paths.tags.transpose(1, 2))]

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

    Marginals, expected transitions and probabilities of sequences are mixed exactly. The k best are
    those under the mixture's exact probabilities, as `best_of` says. The entropy is the weighted mean of the
    members', which bounds the mixture's from below. A temperature divides the members' scores.

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
        none = torch.full_like(parts[0][0, 0], torch.nan)
        emissions = self._log_mixed([part.log_softmax(dim=-1) for part in parts])
        return Scores(emissions, none.expand(len(none), -1), none, none)

    def topk(self, k: int) -> BestPaths:
        return best_of(self, k)

    def hidden(self) -> list[Hidden]:
        return [
            replace(chain, weight=weight * chain.weight)
            for member, weight in zip(self.members, self.weights)
            for chain in hidden_chains(member)
        ]

    def select(self, rows: Tensor) -> "Mixture":
        return Mixture([select(member, rows) for member in self.members], self.weights)

    def log_prob(self, tags: Tensor) -> Tensor:
        return self._log_mixed([log_prob_of(member, tags.to(member.marginals.device)) for member in self.members])

    def entropy(self) -> Tensor:
        return self._mixed([member.entropy() for member in self.members])

    def with_temperature(self, temperature: float) -> "Mixture":
        return Mixture([member.with_temperature(temperature) for member in self.members], self.weights)
