"""The oracle: a linear-chain CRF by listing every path.

`EnumeratedCRF` has the API of `LinearChainCRF` and no algorithm that could be wrong: it writes down every tag sequence
of every sentence, scores it term by term, and sums, sorts or picks. Only for a few words and a few tags.
"""

from __future__ import annotations

import itertools
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
        B, T, C = emissions.shape
        self.shape = (B, T, C)
        self.lengths = [T] * B if lengths is None else lengths.tolist()
        self.emissions = emissions.double()
        self.transitions = transitions.double()
        self.start = torch.zeros(C).double() if start_transitions is None else start_transitions.double()
        self.end = torch.zeros(C).double() if end_transitions is None else end_transitions.double()
        self.paths, self.path_scores = [], []
        for b, length in enumerate(self.lengths):
            paths, scores = [], []
            for path in itertools.product(range(C), repeat=length):
                pairs = list(itertools.pairwise(path))
                legal = (
                    (allowed_start is None or bool(allowed_start[path[0]]))
                    and (allowed_end is None or bool(allowed_end[path[-1]]))
                    and (allowed is None or all(bool(allowed[pair]) for pair in pairs))
                )
                if not legal:
                    continue
                score = self.start[path[0]] + self.end[path[-1]]
                for t, tag in enumerate(path):
                    score = score + self.emissions[b, t, tag]
                for pair in pairs:
                    score = score + self.transitions[pair]
                if score > NEG_INF:
                    paths.append(path)
                    scores.append(score)
            self.paths.append(paths)
            self.path_scores.append(torch.stack(scores) if scores else torch.empty(0).double())

    @property
    def log_partition(self):
        return torch.stack(
            [scores.logsumexp(0) if len(scores) else torch.tensor(NEG_INF).double() for scores in self.path_scores]
        )

    def probabilities(self, b):
        return self.path_scores[b].softmax(0)

    def _lookup(self, b, path):
        path = tuple(int(tag) for tag in path[: self.lengths[b]])
        return self.paths[b].index(path) if path in self.paths[b] else None

    def log_prob(self, tags):
        many = tags if tags.dim() == 3 else tags[:, None]
        value = torch.full(many.shape[:2], NEG_INF).double()
        for b, k in itertools.product(*map(range, many.shape[:2])):
            index = self._lookup(b, many[b, k])
            if index is not None:
                value[b, k] = self.path_scores[b].log_softmax(0)[index]
        return value if tags.dim() == 3 else value[:, 0]

    @property
    def marginals(self):
        value = torch.zeros(self.shape).double()
        for b, paths in enumerate(self.paths):
            for path, p in zip(paths, self.probabilities(b)):
                for t, tag in enumerate(path):
                    value[b, t, tag] += p
        return value

    @property
    def log_marginals(self):
        """Summed in log space, so that it is right where probabilities underflow; 0 on padding."""
        B, T, C = self.shape
        value = torch.zeros(B, T, C).double()
        for b, t, c in itertools.product(range(B), range(T), range(C)):
            if t < self.lengths[b]:
                through = [s for path, s in zip(self.paths[b], self.path_scores[b]) if path[t] == c]
                value[b, t, c] = torch.stack(through).logsumexp(0) - self.log_partition[b] if through else NEG_INF
        return value

    def edge_marginals(self):
        B, T, C = self.shape
        value = torch.zeros(B, T - 1, C, C).double()
        for b, paths in enumerate(self.paths):
            for path, p in zip(paths, self.probabilities(b)):
                for t, pair in enumerate(itertools.pairwise(path)):
                    value[b, t][pair] += p
        return value

    @property
    def edge_counts(self):
        return self.edge_marginals().sum(1)

    @property
    def statistics(self):
        mass = torch.tensor([float(len(paths) > 0) for paths in self.paths]).double()
        return Statistics(self.marginals, self.edge_counts, mass)

    def _pad(self, path):
        return torch.tensor(list(path) + [-100] * (self.shape[1] - len(path)))

    def argmax(self):
        best = self.topk(1)
        score = [scores.max() if len(scores) else torch.tensor(NEG_INF).double() for scores in self.path_scores]
        return best.tags[:, 0], torch.stack(score)

    def topk(self, k):
        B, T, _ = self.shape
        tags = torch.full((B, k, T), -100)
        log_prob = torch.full((B, k), NEG_INF).double()
        for b in range(B):
            if len(self.paths[b]):
                value, order = self.path_scores[b].log_softmax(0).sort(descending=True, stable=True)
                for i, index in enumerate(order[:k].tolist()):
                    tags[b, i], log_prob[b, i] = self._pad(self.paths[b][index]), value[i]
        return TopK(tags, log_prob, log_prob > NEG_INF)

    def entropy(self):
        p = [self.probabilities(b) for b in range(self.shape[0])]
        return torch.stack([-(q * q.clamp(min=1e-320).log()).sum() for q in p])

    def cross_entropy(self, target):
        """-Σ_y p_target(y) log p_self(y), path by path."""
        total = []
        for b in range(self.shape[0]):
            value = torch.tensor(0.0).double()
            for path, p in zip(target.paths[b], target.probabilities(b)):
                if p > 0:
                    index = self._lookup(b, path)
                    own = self.path_scores[b].log_softmax(0)[index] if index is not None else NEG_INF
                    value = value - p * own
            total.append(value)
        return torch.stack(total)

    def kl(self, other):
        """Σ_y p(y) (log p(y) - log p_other(y)), path by path."""
        return other.cross_entropy(self) - self.cross_entropy(self)

    def log_prob_of_set(self, mask):
        total = []
        for b, paths in enumerate(self.paths):
            inside = [
                s for path, s in zip(paths, self.path_scores[b]) if all(mask[b, t, c] for t, c in enumerate(path))
            ]
            total.append(
                torch.stack(inside).logsumexp(0) - self.log_partition[b] if inside else torch.tensor(NEG_INF).double()
            )
        return torch.stack(total)

    def span_log_prob(self, sentences, starts, ends, tags, continuing=None):
        total = []
        for s, (b, start, end) in enumerate(zip(sentences.tolist(), starts.tolist(), ends.tolist())):
            agreeing = []
            for path, score in zip(self.paths[b], self.path_scores[b]):
                if path[start:end] != tuple(tags[s, : end - start].tolist()):
                    continue
                if continuing is not None and end < len(path) and bool(continuing[s, path[end]]):
                    continue
                agreeing.append(score)
            total.append(
                torch.stack(agreeing).logsumexp(0) - self.log_partition[b]
                if agreeing
                else torch.tensor(NEG_INF).double()
            )
        return torch.stack(total)

    def with_temperature(self, temperature):
        copy = object.__new__(EnumeratedCRF)
        copy.__dict__ = dict(self.__dict__)
        copy.path_scores = [scores / temperature for scores in self.path_scores]
        return copy
