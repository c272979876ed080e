"""A mixture in which each sentence listens most to the teachers that are sure of it.

The weight of teacher m for sentence x of n words: w_m(x) proportional to v_m exp(-H_m(x) / (n tau)), v_m its weight
for the language and H_m(x) the entropy of its distribution over tag sequences. Teachers of other languages know some
sentences of a language well and others not at all.

Source: weighted teachers of several source languages in Wu et al. 2020, "Single-/Multi-Source Cross-Lingual NER via
Teacher-Student Learning on Unlabeled Data in Target Language", with confidence in place of their learnt similarity.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .distribution import StateChain, TagDistribution
from .readings import Mixture


class ConfidentMixture(Mixture):
    """A [`Mixture`] whose weights differ from sentence to sentence.

    Args:
        members: distributions over the same sentences.
        weights: of each, positive: v_m.
        confidence: tau, above 0, nats per word: the smaller, the more the surest teacher counts.
        sentence_weights: (members, batch), adding up to 1 over members; by default from the members' entropies. A
            temperature softens answers and leaves the weights as they are.
    """

    def __init__(
        self,
        members: Sequence[TagDistribution],
        weights: Sequence[float],
        confidence: float,
        sentence_weights: Tensor | None = None,
    ) -> None:
        super().__init__(members, weights)
        self.confidence = confidence
        if sentence_weights is None:
            words = self.lengths.cpu().double()
            logs = [
                torch.tensor(weight, dtype=torch.float64).log()
                - member.entropy().double().cpu() / (words * confidence)
                for member, weight in zip(self.members, self.weights)
            ]
            sentence_weights = torch.stack(logs).softmax(dim=0)
        self.sentence_weights = sentence_weights

    def _weights_like(self, part: Tensor) -> Tensor:
        """(members, batch, 1, ...), to multiply the members' answers by."""
        shape = (*self.sentence_weights.shape, *(1,) * (part.dim() - 1))
        return self.sentence_weights.to(part.device, part.dtype).reshape(shape)

    def _mixed(self, parts: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack([part.to(parts[0].device) for part in parts])
        return (self._weights_like(parts[0]) * stacked).sum(dim=0)

    def _log_mixed(self, parts: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack([part.to(parts[0].device) for part in parts])
        return (stacked + self._weights_like(parts[0]).log()).logsumexp(dim=0)

    def state_chains(self) -> list[StateChain]:
        return [
            replace(chain, weight=weight.to(chain.initial)[:, None] * chain.weight)
            for member, weight in zip(self.members, self.sentence_weights)
            for chain in member.state_chains()
        ]

    def select(self, rows: Tensor) -> "ConfidentMixture":
        members = [member.select(rows) for member in self.members]
        return ConfidentMixture(members, self.weights, self.confidence, self.sentence_weights[:, rows.cpu()])

    def with_temperature(self, temperature: float) -> "ConfidentMixture":
        members = [member.with_temperature(temperature) for member in self.members]
        return ConfidentMixture(members, self.weights, self.confidence, self.sentence_weights)
