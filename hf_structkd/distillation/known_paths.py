"""A teacher that says no more than a list of tag sequences with their probabilities."""

import torch
from torch import Tensor

from ..modeling.linear_chain import TopK
from ..modeling.log_space import Scores
from ..modeling.sufficient_statistics import SufficientStatistics
from .hidden_chains import Hidden
from .tag_distribution import top_of_pool


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
