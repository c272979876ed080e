"""Chains of hidden states, read as tags that several states may share, and how to walk along them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..modeling.linear_chain import LinearChainCRF
from .tag_distribution import TagDistribution


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
    return distribution.hidden()  # type: ignore[attr-defined]


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
