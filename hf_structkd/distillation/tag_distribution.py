"""What annotation asks of a teacher's distribution over the student's tag sequences, whatever it is made of."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..modeling.linear_chain import LinearChainCRF, TopK
from ..modeling.log_space import Scores


def check_temperature(temperature: float, what: str = "the temperature") -> None:
    """Raise ValueError if scores cannot be divided by this; `what` it is, for the message."""
    if not temperature > 0:
        raise ValueError(f"{what} must be above 0, not {temperature}")
    if temperature == float("inf"):
        raise ValueError(f"{what} must be finite")


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


class TagDistribution(Protocol):
    """A batch of distributions over tag sequences; [`LinearChainCRF`] is the plainest one.

    The others are a chain whose states are read as the student's tags (`ReadChain`), a mixture of several
    (`Mixture`) and a list of known sequences (`KnownPaths`).
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

    def with_temperature(self, temperature: float) -> "TagDistribution":
        """The distribution with all scores divided by a temperature."""
        ...


def select(distribution: TagDistribution, rows: Tensor) -> TagDistribution:
    """The distributions of some sentences of the batch; `rows` (sentences,), integers on the CPU."""
    if isinstance(distribution, LinearChainCRF):
        emissions, *shared = distribution.scores
        return LinearChainCRF(emissions[rows.to(emissions.device)], *shared, lengths=distribution.lengths.cpu()[rows])
    return distribution.select(rows)  # type: ignore[attr-defined]


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
    return TopK(best.masked_fill(~valid[..., None], -100), values, valid)
