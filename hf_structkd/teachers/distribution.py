"""Distributions over tag sequences: what annotation needs of one, and how the chains inside one are walked along.

- [`TagDistribution`] is the protocol: all that annotation and calibration ask of a teacher's answers.
- [`TagChain`] is its plainest implementation, a linear-chain CRF over the student's tags. The others, in
  `readings.py`, are a chain whose states are read as tags, a mixture, and a list of sequences.
- [`StateChain`] is what they all consist of. [`ChainWalk`] follows several at once; `k_best_search.py` uses it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..modeling.crf import LinearChainCRF, TopK
from ..modeling.crf_reference import Scores
from ..modeling.tag_scheme import IGNORED


class BestPaths(NamedTuple):
    """The most probable sequences that a search found, where it cannot promise the k best.

    Args:
        tags, log_prob, valid: as in [`TopK`].
        proven: (batch,), boolean: no sequence outside the list is more probable than one in it.
    """

    tags: Tensor
    log_prob: Tensor
    valid: Tensor
    proven: Tensor


class ExactPaths(TopK):
    """The k best sequences of a distribution whose k best are exact."""

    @property
    def proven(self) -> Tensor:
        """(batch,), boolean on the CPU; always true."""
        return torch.ones(len(self.tags), dtype=torch.bool)


@dataclass(frozen=True)
class StateChain:
    """A chain of states for each sentence; each state is read as a tag, and several states may share one.

    Args:
        weight: of these chains against other chains of the same sentences.
        initial: (batch, states), probabilities of the first word's state, float64.
        step: i -> (batch, states, states), probabilities `[from, to]` of word i's state given the state before.
        tags: (batch or 1, words or 1, states), integers, the tag that each state is read as at each word.
    """

    weight: float | Tensor
    initial: Tensor
    step: Callable[[int], Tensor]
    tags: Tensor


class TagDistribution(Protocol):
    """A batch of distributions over tag sequences."""

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

        Raises:
            ValueError: if there are none over the student's tags.
        """
        ...

    def topk(self, k: int) -> ExactPaths | BestPaths:
        """The k most probable sequences, best first; [`BestPaths`] if the k best are searched for, not computed."""
        ...

    def best_tags(self) -> Tensor:
        """The most probable sequence of each sentence: (batch, words), -100 on padding."""
        ...

    def log_prob(self, tags: Tensor) -> Tensor:
        """Log-probabilities, (batch, k) in nats, of sequences (batch, k, words); -inf for an impossible sequence."""
        ...

    def entropy(self) -> Tensor:
        """(batch,), nats; where tags are merged or teachers mixed, an approximation that the class documents."""
        ...

    def with_temperature(self, temperature: float) -> "TagDistribution":
        """The distribution with all scores divided by a temperature."""
        ...

    def select(self, rows: Tensor) -> "TagDistribution":
        """The distributions of some sentences of the batch; `rows` (sentences,), integers on the CPU."""
        ...

    def state_chains(self) -> list[StateChain]:
        """The chains whose weighted sum the distribution is."""
        ...


class TagChain(LinearChainCRF):
    """A CRF whose states are the student's tags: a [`TagDistribution`].

    It differs from its base class in `log_prob`, where a sequence that the constraints exclude has -inf and raises no
    error: a teacher may think gold tags impossible.
    """

    @classmethod
    def from_crf(cls, crf: LinearChainCRF) -> "TagChain":
        """The same distribution."""
        return cls(*crf.scores, lengths=crf.lengths)

    def topk(self, k: int) -> ExactPaths:
        return ExactPaths(*super().topk(k))

    def best_tags(self) -> Tensor:
        return self.decode()

    def log_prob(self, tags: Tensor, *, allow_illegal: bool = True) -> Tensor:
        return super().log_prob(tags, allow_illegal=allow_illegal)

    def with_temperature(self, temperature: float) -> "TagChain":
        return self.from_crf(super().with_temperature(temperature))

    def select(self, rows: Tensor) -> "TagChain":
        return self.from_crf(select_sentences(self, rows))

    def state_chains(self) -> list[StateChain]:
        return [state_chain(self)]


def select_sentences(crf: LinearChainCRF, rows: Tensor) -> LinearChainCRF:
    """The distributions of some sentences of the batch; `rows` (sentences,), integers on the CPU."""
    emissions, *shared = crf.scores
    return LinearChainCRF(emissions[rows.to(emissions.device)], *shared, lengths=crf.lengths.cpu()[rows])


def best_candidates(tags: Tensor, log_probs: Tensor, k: int) -> ExactPaths:
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
    return ExactPaths(best.masked_fill(~valid[..., None], IGNORED), values, valid)


def state_chain(crf: LinearChainCRF, tags: Tensor | None = None) -> StateChain:
    """A CRF as a chain of states.

    Args:
        crf: over the states.
        tags: (states,), integers, the tag that each state is read as; states are tags where `None`.
    """
    completions = crf.completions()  # float64, on a device that has it
    transitions, start = (score.to(completions) for score in (crf.scores.transitions, crf.scores.start))

    def step(word: int) -> Tensor:
        return _softmax(transitions + completions[:, word, None, :])

    tags = torch.arange(len(start)) if tags is None else tags
    return StateChain(1.0, _softmax(start + completions[:, 0]), step, tags[None, None].to(completions.device))


class ChainWalk:
    """Walks along several state chains at once. Beyond a sentence's words a state stays and is read as tag 0.

    Args:
        chains: of the same sentences.
        inside: (batch, words), boolean, where a sentence has words; on the device of the walk.
        num_tags: the student's labels.
    """

    def __init__(self, chains: Sequence[StateChain], inside: Tensor, num_tags: int) -> None:
        self.chains, self.inside, self.tags = chains, inside, torch.arange(num_tags, device=inside.device)
        self.device = inside.device

    def start(self) -> list[Tensor]:
        """For each chain the probabilities of the first word's states: (batch, 1, states)."""
        return [(chain.weight * chain.initial.to(self.device))[:, None] for chain in self.chains]

    def advance(self, probabilities: Sequence[Tensor], word: int) -> list[Tensor]:
        """For each chain (batch, beginnings, states) of the word before -> the same of this word."""
        return [reached @ self._step(chain, word) for chain, reached in enumerate(probabilities)]

    def sum_by_tag(self, probabilities: Tensor, chain: int, word: int) -> Tensor:
        """Sums over the states that are read as the same tag: (batch, any, states) -> (batch, any, tags)."""
        same_tag = self._tags_of_states(chain, word)[..., None] == self.tags
        return probabilities @ same_tag.to(probabilities.dtype)

    def extend(self, probabilities: Tensor, chain: int, word: int, parent: Tensor, tag: Tensor) -> Tensor:
        """The probabilities of longer beginnings.

        Args:
            probabilities: (batch, beginnings, states), at this word, before its tag is chosen.
            chain, word: of which chain, at which word.
            parent: (batch, kept), the beginning that each longer one extends.
            tag: (batch, kept), the tag that it adds.

        Returns:
            (batch, kept, states); 0 at states that are read as another tag.
        """
        extended = probabilities.gather(1, parent[..., None].expand(-1, -1, probabilities.shape[2]))
        return extended * (self._tags_of_states(chain, word)[:, None] == tag[..., None])

    def completion_bounds(self) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Bounds on the probability of every completion.

        Returns:
            For each word and chain (batch, states): no completion from this state on is more probable. For each word
            (batch,), nats: the log of what the bounds were divided by.
        """
        bounds = [[torch.ones_like(chain.initial, device=self.device) for chain in self.chains]]
        scales = [torch.zeros(len(self.inside), dtype=torch.float64, device=self.device)]
        for word in reversed(range(1, self.inside.shape[1])):
            best = [
                self.sum_by_tag(self._step(chain, word) * later[:, None], chain, word).amax(dim=-1)
                for chain, later in enumerate(bounds[0])
            ]
            peak = nonzero_divisor(torch.stack([bound.amax(dim=1) for bound in best]).amax(dim=0))
            bounds.insert(0, [bound / peak[:, None] for bound in best])
            scales.insert(0, scales[0] + peak.log())
        return bounds, scales

    def _step(self, chain: int, word: int) -> Tensor:
        step = self.chains[chain].step(word).to(self.device)
        stay = torch.eye(step.shape[-1], dtype=step.dtype, device=self.device)
        return torch.where(self.inside[:, word, None, None], step, stay)

    def _tags_of_states(self, chain: int, word: int) -> Tensor:
        tags = self.chains[chain].tags.to(self.device)
        tags = tags[:, word if tags.shape[1] > 1 else 0]
        return torch.where(self.inside[:, word, None], tags, 0)


def nonzero_divisor(values: Tensor) -> Tensor:
    """The values, with 1 in place of 0."""
    return torch.where(values > 0, values, 1.0)


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension; 0 where everything is -inf."""
    return scores.softmax(dim=-1).nan_to_num(0.0)
