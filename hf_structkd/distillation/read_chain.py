"""Distributions over the student's tag sequences that are not a chain over the student's tags."""

import torch
from torch import Tensor

from ..modeling.linear_chain import LinearChainCRF, TopK
from ..modeling.log_space import Scores, logsumexp
from .best_of import best_of
from .groups import path_group_log_probs
from .hidden_chains import Hidden, hidden_chain
from .label_maps import Reading
from .tag_distribution import BestPaths, TagDistribution, select


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
        return ReadChain(select(self.chain, rows), self.reading)  # type: ignore[arg-type]

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
