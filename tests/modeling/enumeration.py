"""The oracle: a linear-chain CRF by listing every path.

`EnumeratedCRF` has the API of `LinearChainCRF` and no algorithm that could be wrong: it writes down every tag sequence
of every sentence, scores each term by term, and sums, sorts or picks. Only for a few words and a few tags.
"""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

NEG_INF = float("-inf")


class Statistics(NamedTuple):
    nodes: Tensor
    edges: Tensor
    mass: Tensor


class TopK(NamedTuple):
    tags: Tensor
    log_prob: Tensor
    valid: Tensor


def log_sum(scores):
    """log of the sum of exponentials, -inf of nothing."""
    return scores.logsumexp(0) if len(scores) else torch.tensor(NEG_INF, dtype=torch.float64)


class EnumeratedCRF:
    """`LinearChainCRF` by enumeration; float64, one sentence after the other."""

    def __init__(
        self,
        emissions,
        transitions,
        start_transitions=None,
        end_transitions=None,
        *,
        lengths=None,
        allowed=None,
        allowed_start=None,
        allowed_end=None,
    ):
        self.shape = B, T, C = tuple(emissions.shape)
        self.lengths = [T] * B if lengths is None else lengths.tolist()
        zeros, every = torch.zeros(C, dtype=torch.float64), torch.ones(C, C, dtype=torch.bool)
        start = zeros if start_transitions is None else start_transitions.double()
        end = zeros if end_transitions is None else end_transitions.double()
        allowed = every if allowed is None else allowed
        allowed_start = every[0] if allowed_start is None else allowed_start
        allowed_end = every[0] if allowed_end is None else allowed_end
        inf = torch.tensor(NEG_INF, dtype=torch.float64)
        self.emissions = emissions.double()
        self.transitions = torch.where(allowed, transitions.double(), inf)
        self.end = torch.where(allowed_end, end, inf)
        self.paths, self.path_scores = [], []
        for b, length in enumerate(self.lengths):
            paths = torch.cartesian_prod(*[torch.arange(C)] * length).view(-1, length)
            before, after = paths[:, :-1], paths[:, 1:]
            words = emissions[b, :length].double()
            scores = start[paths[:, 0]] + end[paths[:, -1]] + words[torch.arange(length), paths].sum(1)
            scores = scores + transitions.double()[before, after].sum(1)
            legal = allowed_start[paths[:, 0]] & allowed_end[paths[:, -1]] & allowed[before, after].all(1)
            legal = legal & (scores > NEG_INF)
            self.paths.append(paths[legal])
            self.path_scores.append(scores[legal])

    def _per_sentence(self, function):
        return torch.stack([function(b) for b in range(self.shape[0])])

    @property
    def log_partition(self):
        return self._per_sentence(lambda b: log_sum(self.path_scores[b]))

    def probabilities(self, b):
        return self.path_scores[b].softmax(0)

    def _agreeing(self, b, keep):
        """log probability of the paths for which ``keep`` is true."""
        return log_sum(self.path_scores[b][keep]) - (self.log_partition[b] if bool(keep.any()) else 0.0)

    def _log_prob_of(self, b, path):
        length = self.lengths[b]
        return self._agreeing(b, (self.paths[b] == path[:length]).all(1))

    def log_prob(self, tags, *, allow_illegal=True):
        if tags.dim() == 3:
            return torch.stack([self.log_prob(tags[:, k]) for k in range(tags.shape[1])], 1)
        return self._per_sentence(lambda b: self._log_prob_of(b, tags[b]))

    @property
    def marginals(self):
        value = torch.zeros(self.shape, dtype=torch.float64)
        for b, t, c in self._words():
            value[b, t, c] = self.probabilities(b)[self.paths[b][:, t] == c].sum()
        return value

    def _words(self):
        return [
            (b, t, c) for b, length in enumerate(self.lengths) for t in range(length) for c in range(self.shape[2])
        ]

    @property
    def log_marginals(self):
        """Summed in log space, so that it is right where probabilities underflow; 0 on padding."""
        value = torch.zeros(self.shape, dtype=torch.float64)
        for b, t, c in self._words():
            value[b, t, c] = self._agreeing(b, self.paths[b][:, t] == c)
        return value

    def completions(self):
        """log-sum over all suffixes that begin with a tag at a word, the word's own emission included."""
        value = torch.zeros(self.shape, dtype=torch.float64)
        for b, t, c in self._words():
            length = self.lengths[b] - t
            paths = torch.cartesian_prod(*[torch.arange(self.shape[2])] * length).view(-1, length)
            paths = paths[paths[:, 0] == c]
            words = self.emissions[b, t : self.lengths[b]]
            scores = words[torch.arange(length), paths].sum(1) + self.end[paths[:, -1]]
            value[b, t, c] = log_sum(scores + self.transitions[paths[:, :-1], paths[:, 1:]].sum(1))
        return value

    def restrict(self, tags_allowed):
        """The same scores on the paths whose every tag is allowed."""
        fewer = copy(self)
        fewer.emissions = torch.where(tags_allowed, self.emissions, torch.tensor(NEG_INF, dtype=torch.float64))
        inside = [
            torch.stack([tags_allowed[b, t, paths[:, t]] for t in range(length)]).all(0)
            for b, (paths, length) in enumerate(zip(self.paths, self.lengths))
        ]
        fewer.paths = [paths[keep] for paths, keep in zip(self.paths, inside)]
        fewer.path_scores = [scores[keep] for scores, keep in zip(self.path_scores, inside)]
        return fewer

    def sample(self, n=1, generator=None):
        """Draws from the list of all paths."""
        B, T, _ = self.shape
        tags = torch.full((B, n, T), -100)
        for b, (paths, length) in enumerate(zip(self.paths, self.lengths)):
            if len(paths):
                tags[b, :, :length] = paths[self.probabilities(b).multinomial(n, True, generator=generator)]
        return tags

    def edge_marginals(self):
        B, T, C = self.shape
        value = torch.zeros(B, T - 1, C, C, dtype=torch.float64)
        for b, paths in enumerate(self.paths):
            for t in range(1, self.lengths[b]):
                value[b, t - 1].index_put_((paths[:, t - 1], paths[:, t]), self.probabilities(b), accumulate=True)
        return value

    @property
    def edge_counts(self):
        return self.edge_marginals().sum(1)

    @property
    def statistics(self):
        return Statistics(self.marginals, self.edge_counts, (self.log_partition > NEG_INF).double())

    def decode(self):
        return self.topk(1).tags[:, 0]

    def argmax(self):
        score = self._per_sentence(lambda b: torch.cat([self.path_scores[b], torch.tensor([NEG_INF]).double()]).max())
        return self.decode(), score

    def topk(self, k):
        B, T, _ = self.shape
        tags = torch.full((B, k, T), -100)
        log_prob = torch.full((B, k), NEG_INF, dtype=torch.float64)
        for b in range(B):
            value, order = self.path_scores[b].log_softmax(0).sort(descending=True, stable=True)
            n = min(k, len(order))
            tags[b, :n, : self.lengths[b]] = self.paths[b][order[:n]]
            log_prob[b, :n] = value[:n]
        return TopK(tags, log_prob, log_prob > NEG_INF)

    def entropy(self):
        return self._per_sentence(lambda b: torch.special.entr(self.probabilities(b)).sum())

    def cross_entropy(self, target):
        """-Σ_y p_target(y) log p_self(y), path by path."""

        def one(b):
            p = target.probabilities(b)
            own = torch.stack([self._log_prob_of(b, path) for path in target.paths[b]]) if len(p) else p
            return -(p * own)[p > 0].sum()

        return self._per_sentence(one)

    def kl(self, other):
        """Σ_y p(y) (log p(y) - log p_other(y)), path by path."""
        return other.cross_entropy(self) - self.cross_entropy(self)

    def log_prob_of_set(self, mask):
        return self._per_sentence(
            lambda b: self._agreeing(b, mask[b][torch.arange(self.lengths[b]), self.paths[b]].all(1))
        )

    def span_log_prob(self, sentences, starts, ends, tags, continuing=None):
        total = []
        for s, (b, start, end) in enumerate(zip(sentences.tolist(), starts.tolist(), ends.tolist())):
            keep = (self.paths[b][:, start:end] == tags[s, : end - start]).all(1)
            if continuing is not None and end < self.lengths[b]:
                keep = keep & ~continuing[s][self.paths[b][:, end]]
            total.append(self._agreeing(b, keep))
        return torch.stack(total)

    def with_temperature(self, temperature):
        flatter = copy(self)
        for name in ("emissions", "transitions", "end"):
            setattr(flatter, name, getattr(self, name) / temperature)
        flatter.path_scores = [scores / temperature for scores in self.path_scores]
        return flatter
