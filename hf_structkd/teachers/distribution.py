"""What annotation asks of a teacher's distribution over the student's tag sequences, whatever it is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..modeling.crf import LinearChainCRF, TopK
from ..modeling.crf_reference import Scores
from ..modeling.tag_scheme import IGNORED


class BestPaths(NamedTuple):
    """The most probable sequences that were found, where finding the k best cannot be promised.

    Args:
        tags, log_prob, valid: as in [`TopK`].
        proven: (batch,), boolean: no sequence that is not listed is more probable than one that is.
    """

    tags: Tensor
    log_prob: Tensor
    valid: Tensor
    proven: Tensor


class StateDistribution(Protocol):
    """A batch of distributions over tag sequences that is no [`LinearChainCRF`] over the tags themselves.

    It is a chain whose states are read as the student's tags (`ReadChain`), a mixture of several distributions
    (`Mixture`) or a list of known sequences (`KnownPaths`).
    """

    @property
    def lengths(self) -> Tensor:
        """Words of each sentence: (batch,), integers."""
        ...

    @property
    def marginals(self) -> Tensor:
        """(batch, words, tags), probabilities; 0 on padding."""
        ...

    @property
    def edge_counts(self) -> Tensor:
        """(batch, tags, tags), expected number of transitions `[from, to]`."""
        ...

    @property
    def scores(self) -> Scores:
        """Emissions (batch, words, tags), transitions, start and end scores, nats.

        Raises ValueError where there are none over the student's tags.
        """
        ...

    def topk(self, k: int) -> TopK | BestPaths:
        """The k most probable sequences, best first; [`BestPaths`] where some sentence's may not be the best."""
        ...

    def log_prob(self, tags: Tensor) -> Tensor:
        """Log-probabilities, (batch, k) in nats, of sequences (batch, k, words) padded with -100."""
        ...

    def entropy(self) -> Tensor:
        """(batch,), nats; where tags were merged or teachers mixed, an approximation that its class documents."""
        ...

    def with_temperature(self, temperature: float) -> "StateDistribution":
        """The distribution with all scores divided by a temperature."""
        ...

    def hidden(self) -> list["Hidden"]:
        """The chains that it is the weighted sum of."""
        ...

    def select(self, rows: Tensor) -> "StateDistribution":
        """The distributions of some sentences of the batch; `rows` (sentences,), integers."""
        ...


TagDistribution = LinearChainCRF | StateDistribution  # what a teacher says: one of each sentence of a batch


def select(distribution: TagDistribution, rows: Tensor) -> TagDistribution:
    """The distributions of some sentences of the batch; `rows` (sentences,), integers on the CPU."""
    return select_chains(distribution, rows) if isinstance(distribution, LinearChainCRF) else distribution.select(rows)


def select_chains(chain: LinearChainCRF, rows: Tensor) -> LinearChainCRF:
    """As [`select`], of a CRF."""
    emissions, *shared = chain.scores
    return LinearChainCRF(emissions[rows.to(emissions.device)], *shared, lengths=chain.lengths.cpu()[rows])


def log_prob_of(distribution: TagDistribution, tags: Tensor) -> Tensor:
    """Its `log_prob`; -inf, not an error, for a sequence that a constrained chain excludes."""
    if isinstance(distribution, LinearChainCRF):
        return distribution.log_prob(tags, allow_illegal=True)
    return distribution.log_prob(tags)


def top_of_pool(tags: Tensor, log_probs: Tensor, k: int) -> TopK:
    """The k most probable of some candidate sequences, each once.

    Args:
        tags: (batch, candidates, words), -100 beyond the words and on candidates that do not exist.
        log_probs: (batch, candidates), nats; equal sequences have equal ones.
        k: how many are wanted.
    """
    candidates, words = tags.shape[1:]
    exists = (tags[..., 0] >= 0) & (log_probs > -torch.inf)
    # Sequences are compared by a number made of all their tags (64 bits, random weights): comparing tag by tag takes
    # `words` times the memory.
    weights = torch.randint(-(2**62), 2**62, (words,), generator=torch.Generator().manual_seed(0)).to(tags.device)
    key = ((tags + 101) * weights).sum(dim=-1)
    same = key[:, :, None] == key[:, None]
    earlier = torch.ones(candidates, candidates, dtype=torch.bool, device=tags.device).tril(-1)
    repeated = (same & earlier).any(dim=-1)
    ranked = torch.where(exists & ~repeated, log_probs, -torch.inf)
    values, order = ranked.sort(dim=1, descending=True, stable=True)
    values, order = values[:, :k], order[:, :k]
    valid = values > -torch.inf
    best = tags.gather(1, order[..., None].expand(-1, -1, words))
    return TopK(best.masked_fill(~valid[..., None], IGNORED), values, valid)


# Chains of hidden states, read as tags that several states may share, and how to walk along them.


@dataclass(frozen=True)
class Hidden:
    """Chains of states, one a sentence, that say how probable tag sequences are.

    Args:
        weight: of these chains against others of the same sentences.
        initial: (batch, states), probabilities of the first word's state, float64.
        step: i -> (batch, states, states), probabilities `[from, to]` of word i's state given the one before.
        read_as: (batch or 1, words or 1, states), integers, the tag that each state is read as at each word.
    """

    weight: float
    initial: Tensor
    step: Callable[[int], Tensor]
    read_as: Tensor


def hidden_chain(chain: LinearChainCRF, read_as: Tensor | None = None) -> Hidden:
    """A CRF as a chain of states; `read_as` (states,), each state's tag, itself where `None`."""
    completions = chain.completions()  # float64, on a device that has it
    own = chain.scores
    transitions, start = (part.to(completions) for part in (own.transitions, own.start))

    def step(word: int) -> Tensor:
        return _softmax(transitions + completions[:, word, None, :])

    states = torch.arange(len(start)) if read_as is None else read_as
    return Hidden(1.0, _softmax(start + completions[:, 0]), step, states[None, None].to(completions.device))


def hidden_chains(distribution: TagDistribution) -> list[Hidden]:
    """What a distribution is made of: it is the weighted sum of these."""
    if isinstance(distribution, LinearChainCRF):
        return [hidden_chain(distribution)]
    return distribution.hidden()


class Walk:
    """Steps of hidden chains; beyond a sentence's words every state stays where it is and is read as tag 0."""

    def __init__(self, chains: Sequence[Hidden], inside: Tensor, num_tags: int) -> None:
        self.chains, self.inside, self.tags = chains, inside, torch.arange(num_tags, device=inside.device)
        self.home = inside.device

    def first(self) -> list[Tensor]:
        return [(chain.weight * chain.initial.to(self.home))[:, None] for chain in self.chains]

    def step(self, chain: int, word: int) -> Tensor:
        step = self.chains[chain].step(word).to(self.home)
        stay = torch.eye(step.shape[-1], dtype=step.dtype, device=self.home)
        return torch.where(self.inside[:, word, None, None], step, stay)

    def onward(self, reached: Sequence[Tensor], word: int) -> list[Tensor]:
        return [masses @ self.step(chain, word) for chain, masses in enumerate(reached)]

    def _read_as(self, chain: int, word: int) -> Tensor:
        read_as = self.chains[chain].read_as.to(self.home)
        read_as = read_as[:, word if read_as.shape[1] > 1 else 0]
        return torch.where(self.inside[:, word, None], read_as, 0)

    def by_tag(self, masses: Tensor, chain: int, word: int) -> Tensor:
        """Sums over the states that are read alike: (batch, any, states) -> (batch, any, tags)."""
        alike = self._read_as(chain, word)[..., None] == self.tags
        return masses @ alike.to(masses.dtype)

    def narrowed(self, arrived: Tensor, chain: int, word: int, parent: Tensor, tag: Tensor) -> Tensor:
        """What of `arrived` (batch, beginnings, states) goes on as these beginnings followed by these tags."""
        own = arrived.gather(1, parent[..., None].expand(-1, -1, arrived.shape[2]))
        return own * (self._read_as(chain, word)[:, None] == tag[..., None])

    def look_ahead(self) -> tuple[list[list[Tensor]], list[Tensor]]:
        """For each word and chain what no continuation's probability exceeds from a state on, (batch, states).

        With them the log (batch,) of what they were divided by.
        """
        ahead = [[torch.ones_like(chain.initial, device=self.home) for chain in self.chains]]
        scales = [torch.zeros(len(self.inside), dtype=torch.float64, device=self.home)]
        for word in reversed(range(1, self.inside.shape[1])):
            best = [
                self.by_tag(self.step(chain, word) * own[:, None], chain, word).amax(dim=-1)
                for chain, own in enumerate(ahead[0])
            ]
            peak = or_one(torch.stack([part.amax(dim=1) for part in best]).amax(dim=0))
            ahead.insert(0, [part / peak[:, None] for part in best])
            scales.insert(0, scales[0] + peak.log())
        return ahead, scales


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension; 0 where everything is -inf."""
    return scores.softmax(dim=-1).nan_to_num(0.0)


def or_one(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1.0)
