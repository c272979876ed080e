"""Chains built to hurt, and an oracle for long ones.

What hurts a forward-backward pass in probability space: the paths that exist lie hundreds of nats below tags that lead
nowhere, and they fall exactly where the pass rescales, or just before or after; soft masks and structural zeros mixed;
sentences of one word.
"""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings, strategies
from torch import Tensor

import hf_structkd
from hf_structkd.modeling import crf_reference as log_space
from hf_structkd.modeling.crf import LinearChainCRF
from hf_structkd.modeling.crf_reference import NEG_INF, Scores
from hf_structkd.modeling.crf_sums import rescaling_distance

# Falls in nats: beside the least number (e^-460 = 1e-200), beside the least normal and denormal ones (-708, -745).
FALLS = (0.0, 30.0, 230.0, 324.0, 370.0, 459.0, 461.0, 550.0, 576.0, 700.0, 709.0, 744.0, 746.0, 1e4)
# Each is harmless alone, so that no look at the scores finds it; what several of them add up to is not.
GRADUAL_FALLS = (115.0, 187.0, 230.0, 324.0, 345.0, 370.0, 374.3, 442.0, 459.0)
DENORMAL = (715.0, 725.0, 735.0, 740.0, 742.0, 744.0, 746.0)  # with few right digits, or none
PARTS = (1.0, 1.0, 0.5, 1.01)
KINDS = ("one path", "sparse", "islands", "traps", "soft masks", "steep", "flat")


@dataclass
class Case:
    """Scores in the type that the chain is given, and lengths."""

    scores: Scores
    lengths: Tensor

    def leaves(self, dtype: torch.dtype | None = None) -> Scores:
        return Scores(*(part.detach().to(dtype or part.dtype).clone().requires_grad_() for part in self.scores))

    def crf(self, leaves: Scores | None = None) -> LinearChainCRF:
        return LinearChainCRF(*(leaves or self.scores), lengths=self.lengths)

    @property
    def real(self) -> Tensor:
        """(B, T) whether a word is one."""
        return torch.arange(self.scores.emissions.shape[1]) < self.lengths[:, None]

    @property
    def largest(self) -> float:
        """A bound on a path's score."""
        parts = [part.masked_fill(part == NEG_INF, 0.0) for part in self.clean()]
        return max(float(part.abs().amax()) for part in parts) * 2 * self.scores.emissions.shape[1]

    @property
    def rounding(self) -> float:
        """A bound on the error of a sum of scores along a path, in float64."""
        return 1e-9 + 5e-14 * self.largest

    @property
    def rounding_of_means(self) -> float:
        """A bound on the error of an expected score: the probabilities carry that of the scores."""
        return self.rounding * (1 + self.largest)

    def clean(self, leaves: Scores | None = None) -> Scores:
        """In float64, zero on padding, for `crf_reference.py`."""
        emissions, *others = leaves or self.scores
        return Scores(torch.where(self.real[..., None], emissions.double(), 0.0), *(part.double() for part in others))


def hurtful(seed: int, kind: str, T: int, C: int, B: int, dtype: torch.dtype) -> Case:
    """A batch of one of the `KINDS`; its first sentence has T words."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def pick(values, *shape: int) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[torch.randint(len(values), shape, generator=generator)]

    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    lengths[0] = T
    emissions, transitions = uniform(B, T, C), uniform(C, C)
    start, end = uniform(C), uniform(C)
    own = C - 1
    if kind == "one path":  # own tag throughout; the others lead nowhere
        transitions[:] = NEG_INF
        transitions[own, own] = 0.0
        if C > 2:
            transitions[0, 1] = 0.0
        start *= pick((0.0, 1.0))
    elif kind == "sparse":
        transitions[uniform(C, C) > 0.5] = NEG_INF
        start[uniform(C) > 0.7] = NEG_INF
        end[uniform(C) > 0.7] = NEG_INF
        emissions[uniform(B, T, C) > 0.9] = NEG_INF
        own = int(torch.randint(C, (), generator=generator))
    elif kind == "islands":  # no way from the last tag to the others or back
        transitions[own, :own] = transitions[:own, own] = NEG_INF
    elif kind == "traps":  # the other tags can be entered, and left no more, and no sentence ends in them
        transitions[:own, own] = NEG_INF
        end[:own] = NEG_INF
        emissions[..., :own] += pick((0.0, 5.0, 40.0))
    elif kind == "soft masks":
        transitions = pick((0.0, 0.0, -1e4, NEG_INF, -600.0), C, C)
        start, end = pick((0.0, -1e4, NEG_INF), C), pick((0.0, -1e4, NEG_INF), C)
        emissions += pick((0.0, 0.0, 0.0, -1e4, NEG_INF), B, T, C)
    elif kind == "steep":
        emissions = (emissions - 0.5) * pick((100.0, 1000.0, 2000.0))
        transitions = (transitions - 0.5) * pick((1.0, 100.0, 1000.0))
    if kind != "flat":
        every = rescaling_distance(C)
        gradual = float(uniform(())) < 0.75
        falls, fewest = (GRADUAL_FALLS, 2) if gradual else (FALLS, 1)
        for b, n in enumerate(lengths.tolist()):
            # Where either direction rescales, the words beside them, both ends, and one more.
            steps = {s * every + o for s in (1, 2) for o in (-1, 0, 1)}
            places = sorted({t for s in steps for t in (s, n - 1 - s) if 0 <= t < n} | {0, n - 1})
            order = [places[i] for i in torch.randperm(len(places), generator=generator).tolist()]
            chosen = order[: int(torch.randint(fewest, 4, (), generator=generator))]
            turns = [pair for s in (every, 2 * every) if s < n for pair in ((s - 1, s), (n - s, n - 1 - s))]
            turns += [(0, 1), (n - 1, n - 2)] * 2 if n > 1 else []  # where it rescales at every step but the first
            if gradual and turns:  # half the fall where a direction rescales, half on the word before
                chosen, pair = chosen[2:], turns[int(torch.randint(len(turns), (), generator=generator))]
                emissions[b, list(pair), own] -= float(pick(DENORMAL)) / 2
            for place in chosen:
                emissions[b, place, own] -= float(pick(falls)) * (1.0 if gradual else float(pick(PARTS)))
        for part in (transitions[own], start, end):
            part[own] -= float(pick(falls)) if float(uniform(())) < (0.15 if gradual else 0.3) else 0.0
        if gradual and float(uniform(())) < 0.15:  # neither direction's messages fall so far: their products do
            for part in (start, end):
                part[own] -= float(pick(DENORMAL)) / 2
    emissions[torch.arange(T) >= lengths[:, None]] = float(pick((math.nan, math.inf, -math.inf, 0.0)))
    return Case(Scores(*(part.to(dtype) for part in (emissions, transitions, start, end))), lengths)


class ByReference:
    """The members of `LinearChainCRF` by `crf_reference.py` and plain loops, float64, differentiable."""

    def __init__(self, case: Case, leaves: Scores | None = None):
        self.case, self.lengths = case, case.lengths
        self.scores = case.clean(leaves)

    def __getattr__(self, name: str) -> Tensor:
        if name not in log_space.REFERENCE:
            raise AttributeError(name)
        return log_space.REFERENCE[name](self.scores, self.lengths)

    def on(self, tags_allowed: Tensor) -> Tensor:
        """log Z (B,) of the paths through allowed tags."""
        emissions = self.scores.emissions.masked_fill(~tags_allowed, NEG_INF)
        return log_space.log_partition(Scores(emissions, *self.scores[1:]), self.lengths)

    def score(self, tags: Tensor) -> Tensor:
        """(B,) of one path a sentence."""
        emissions, transitions, start, end = self.scores
        total = []
        for b, n in enumerate(self.lengths.tolist()):
            path = tags[b, :n]
            words = emissions[b, torch.arange(n), path].sum() + transitions[path[:-1], path[1:]].sum()
            total.append(words + start[path[0]] + end[path[-1]])
        return torch.stack(total)

    def log_prob(self, tags: Tensor) -> Tensor:
        return self.score(tags) - self.log_partition

    def cross_entropy(self, other: ByReference) -> Tensor:
        """-E_other[log p_self] (B,) from marginals; `inf` where the other takes what does not exist here."""
        nodes, edges = other.marginals, other.edge_counts
        last = nodes[torch.arange(len(nodes)), self.lengths - 1]
        expected = torch.zeros(len(nodes), dtype=torch.float64)
        for count, score in zip((nodes, edges, nodes[:, 0], last), self.scores):
            impossible = ((count > 0) & (score == NEG_INF)).flatten(1).any(1)
            expected = expected + (count * torch.where(score == NEG_INF, 0.0, score)).flatten(1).sum(1)
            expected = torch.where(impossible, NEG_INF, expected)
        exists = other.log_partition > NEG_INF
        possible = expected > NEG_INF
        value = torch.where(exists, self.log_partition, 0.0) - torch.where(possible, expected, 0.0)
        return torch.where(exists, torch.where(possible, value, math.inf), 0.0)

    def best_scores(self, k: int) -> list[list[float]]:
        """Scores of the k best paths of each sentence, by lists of the k best of every tag."""
        emissions, transitions, start, end = (part.detach().tolist() for part in self.scores)
        C, found = len(start), []
        for b, n in enumerate(self.lengths.tolist()):
            lists = [[start[c] + emissions[b][0][c]] for c in range(C)]
            for t in range(1, n):
                arriving = [[s + transitions[i][j] for i in range(C) for s in lists[i]] for j in range(C)]
                lists = [sorted((s + emissions[b][t][j] for s in arriving[j]), reverse=True)[:k] for j in range(C)]
            total = sorted((s + end[c] for c in range(C) for s in lists[c]), reverse=True)
            found.append([score for score in total if score > NEG_INF][:k])
        return found


# What fuzzed inputs are held to, and how many there are.
#
# `make test` tries a few inputs of every kind, the same ones every time; `make fuzz` tries new ones, FUZZ_CASES for
# each surface (8,500 by default there), and ends with their number.


CASES = int(os.environ.get("FUZZ_CASES", "0"))
FEW = 25
PACKAGE = str(Path(hf_structkd.__file__).parent)


def fuzz(share: float = 1.0):
    """Settings of a property.

    Args:
        share: of the cases that the others have; less where one case takes long.
    """
    return settings(
        max_examples=max(1, round(CASES * share)) if CASES else FEW,
        derandomize=not CASES,  # a suite that passes today passes tomorrow; new inputs are what `make fuzz` is for
        database=None,
        deadline=timedelta(seconds=20),  # a hang, not a slow machine
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@contextmanager
def only_our_errors(*named: object, kinds: tuple[type[Exception], ...] = (ValueError, OSError)) -> Iterator[None]:
    """Let pass what the package says of a bad input, and nothing else.

    Args:
        named: what the message has to name, a file say.
        kinds: errors that the package raises here.

    Raises:
        AssertionError: for an error raised by other people's code, or one whose message lacks a name.
    """
    try:
        yield
    except kinds as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        if not where.startswith(PACKAGE):
            raise AssertionError(f"{type(error).__name__} out of {where}: {error}") from error
        if missing := [str(name) for name in named if str(name) not in str(error)]:
            raise AssertionError(f"does not name {missing}: {error}") from error


# What breaks readers: blanks and line ends of all kinds, marks, joiners, surrogates, other directions, other planes.
AWKWARD = (
    *("", " ", "\t", "\n", "\r", "\r\n", "\0", "\x0b", "\x1c", "\x85", "\xa0", "\xad", "\u200b", "\u200c", "\u200d"),
    *("\u2028", "\u3000", "\ufeff", "\ufffe", "\ufffd", "\u0301", "\u0301\u0301", "\u202e", "\u2066", "\ud800"),
    *(
        "\udc00",
        "\U000e0041",
        "👩‍👩‍👧",
        "🇩🇪",
        "☺\ufe0f",
        "ﷺ",
        "שלום",
        "مرحبا",
        "हिन्दी",
        "日本",
        "İ",
        "ß",
        "ﬁ",
        "Å",
        "\u1100\u1161",
    ),
    *("#", "-DOCSTART-", "O", "B-PER", "I-PER", "B-", "_", "1-2", "1.1", "{", "[", '"', "\\", "''", "n't", "..."),
)
TEXT = strategies.one_of(
    strategies.text(max_size=40),
    strategies.text(strategies.characters(categories=("Cs", "Cc", "Cf", "Mn", "Zs", "So", "Lo")), max_size=20),
    strategies.lists(strategies.sampled_from(AWKWARD), max_size=12).map("".join),
)
