"""Distributions over sets of spans that do not overlap, as chains of states.

A model that scores spans says: candidates (start, end, type) with a score l each, nats. Sets A of candidates that do
not overlap have the probability p(A) proportional to exp(sum of l over A). Such sets and BIO sequences stand for each
other one to one, so this is a distribution over tag sequences, and a chain computes it: the state of a word is
outside, or a type, how many words of the span are over, and whether the span ends here. A span's score stands at its
last word, on the state that ends it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ..modeling.crf import LinearChainCRF
from ..modeling.crf_reference import Scores
from .distribution import BestPaths, ExactPaths, select_sentences
from .label_map import Reading
from .readings import ReadChain


class Span(NamedTuple):
    """A candidate.

    Args:
        start, end: words, the end exclusive.
        type: the entity type.
        score: nats: the log-odds of the span against nothing, with all other spans as they are.
    """

    start: int
    end: int
    type: str
    score: float


@dataclass(frozen=True)
class _State:
    """What is known of a span at one of its words: its type, the words before this one, and whether it ends here."""

    type: str
    before: int
    ends: bool


class SpanSets(ReadChain):
    """A batch of distributions over sets of spans, read as the student's tags: a [`~.distribution.TagDistribution`].

    Marginals, expected transitions, probabilities of sequences and, unless the reading merges tags, the k best
    sequences and the entropy are exact.

    Args:
        spans: for each sentence its candidates, each (start, end, type) once, inside the sentence.
        lengths: (batch,), words.
        labels: the BIO labels that `reading` reads: O, and B-X and I-X of every type.
        reading: how these labels are read as the student's.
    """

    def __init__(
        self, spans: Sequence[Sequence[Span]], lengths: torch.Tensor, labels: Sequence[str], reading: Reading
    ) -> None:
        states = _states_of(spans)
        emissions = _emissions(spans, states, int(lengths.max()))
        chosen: list[tuple[int, int]] = []  # (state of the span, state of the reading)
        for number, state in enumerate(states):
            label = "O" if state is None else f"{'I' if state.before else 'B'}-{state.type}"
            tag = labels.index(label)
            chosen += [(number, read) for read, of in enumerate(reading.teacher_tags) if of == tag]
        numbers, read = (torch.tensor(column) for column in zip(*chosen))
        follows, begins, ends = _constraints(states)
        allowed, start, end = follows[numbers][:, numbers], begins[numbers], ends[numbers]
        if reading.allowed is not None and reading.allowed_start is not None and reading.allowed_end is not None:
            allowed = allowed & reading.allowed[read][:, read]
            start, end = start & reading.allowed_start[read], end & reading.allowed_end[read]
        zeros = emissions.new_zeros(len(chosen))
        chain = LinearChainCRF(
            emissions[..., numbers],
            zeros.expand(len(chosen), -1),
            zeros,
            zeros,
            lengths=lengths,
            allowed=allowed,
            allowed_start=start,
            allowed_end=end,
        )
        tags = tuple(reading.student_tags[x] for _, x in chosen)
        super().__init__(chain, replace(reading, student_tags=tags, teacher_tags=tuple(x for _, x in chosen)))
        self._bijective = reading.one_to_one

    @classmethod
    def _of_chain(cls, chain: LinearChainCRF, like: "SpanSets") -> "SpanSets":
        made = cls.__new__(cls)
        ReadChain.__init__(made, chain, like.reading)
        made._bijective = like._bijective
        return made

    @property
    def scores(self) -> Scores:
        raise ValueError("scores of spans are no emission scores: use top_k, top_wk, posterior or structural")

    def topk(self, k: int) -> "ExactPaths | BestPaths":
        if not self._bijective:
            return super().topk(k)
        paths = self.chain.topk(k)  # each sequence of tags is one sequence of states
        return ExactPaths(self._tags_of(paths.tags), paths.log_prob, paths.valid)

    def select(self, rows: torch.Tensor) -> "SpanSets":
        return self._of_chain(select_sentences(self.chain, rows), self)

    def with_temperature(self, temperature: float) -> "SpanSets":
        return self._of_chain(self.chain.with_temperature(temperature), self)


def log_odds(probability: float) -> float:
    """The score of a candidate that a model gives a probability; 0 and 1 count as 1e-7 from them."""
    probability = min(max(probability, 1e-7), 1 - 1e-7)
    return math.log(probability) - math.log1p(-probability)


def _states_of(spans: Sequence[Sequence[Span]]) -> list[_State | None]:
    """Outside, and the states that the candidates of a batch need."""
    needed: set[tuple[str, int, bool]] = set()
    for candidates in spans:
        for start, end, kind, _ in candidates:
            needed.add((kind, end - start - 1, True))
            needed.update((kind, before, False) for before in range(end - start - 1))
    return [None, *(_State(*state) for state in sorted(needed))]


def _emissions(spans: Sequence[Sequence[Span]], states: Sequence[_State | None], words: int) -> torch.Tensor:
    """(batch, words, states): 0 outside and inside of candidates, a candidate's score where it ends; else -inf."""
    index = {(state.type, state.before, state.ends): i for i, state in enumerate(states) if state is not None}
    emissions = torch.full((len(spans), words, len(states)), -torch.inf, dtype=torch.float64)
    emissions[..., 0] = 0.0
    for row, candidates in enumerate(spans):
        for start, end, kind, score in candidates:
            emissions[row, end - 1, index[kind, end - start - 1, True]] = score
            for before in range(end - start - 1):
                emissions[row, start + before, index[kind, before, False]] = 0.0
    return emissions


def _constraints(states: Sequence[_State | None]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which states may follow each other (states, states), begin (states,) and end a sentence (states,)."""
    kinds = {kind: number for number, kind in enumerate({state.type: None for state in states if state is not None})}
    kind = torch.tensor([-1 if state is None else kinds[state.type] for state in states])
    before = torch.tensor([0 if state is None else state.before for state in states])
    closed = torch.tensor([state is None or state.ends for state in states])
    continues = (kind[:, None] == kind) & (before[:, None] + 1 == before) & (kind >= 0)
    return torch.where(closed[:, None], before == 0, continues), before == 0, closed
