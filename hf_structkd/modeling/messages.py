"""What one forward-backward pass knows about a batch: potentials in, messages, and every value that follows from them.

`forward_backward.py` computes the messages with torch on packed rows, `native_sums.py` with compiled loops.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .log_space import NEG_INF, Scores

TINY = 1e-200  # the least that a number which matters may be; far above 1e-308, where float64 begins to lose digits
GROWTH = 1e25  # the most that a message may grow to, so that GROWTH^2 / TINY is far from 1e308


class Potentials:
    """Exponentials of a chain's scores, each kind of score shifted by its maximum first.

    Args:
        emissions: (..., C) on any layout of the words.
        scores: the chain's; its emissions are not looked at.

    Attributes:
        x: like the emissions, exp(emissions - their maximum at the word), float64.
        word_peaks: (...) those maxima.
        E, first, last: (C, C), (C,), (C,) exponentials of transitions, start and end.
        shift: what all steps and both ends of a sentence together took away: ``steps * shift[0] + shift[1]``.
        lost: whether a finite transition, start or end score became (nearly) zero. True for NaN.
    """

    def __init__(self, emissions: Tensor, scores: Scores):
        word_peaks = _peak(emissions, -1).double()  # before the conversion: half the memory to go through
        self.word_peaks = word_peaks.squeeze(-1)
        self.x = (emissions.double() - word_peaks).exp_()
        # A row each, start and end repeated to its length: the three go through the same few operations.
        C = emissions.shape[-1]
        rows = (scores.transitions.flatten(), scores.start.repeat(C), scores.end.repeat(C))
        shared = torch.stack([row.double() for row in rows])
        peaks = _peak(shared, 1)
        exponentials = (shared - peaks).exp_()
        self.E, self.first, self.last = exponentials[0].view(C, C), exponentials[1, :C], exponentials[2, :C]
        self.shift = (peaks[0, 0], peaks[1, 0] + peaks[2, 0])
        self.lost = underflow(exponentials, shared)


class Messages:
    """What follows from the messages of one forward-backward pass over a chain. No autograd in here.

    A subclass computes the messages on its own layout of the words and says how they are padded; the values below are
    the same for all. Values and gradients are padded, float64.

    Attributes:
        ok: whether nothing was lost; if not, nothing else may be asked.
        log_z: (B,).
        left, right: (..., C) messages before and from a word, its own emission being part of the right one, up to a
            factor per word.
        Z: (...) sum of left * right at each word; 1 where there is no path.
    """

    ok: bool
    log_z: Tensor
    left: Tensor
    right: Tensor
    Z: Tensor
    E: Tensor

    def _padded(self, rows: Tensor) -> Tensor:
        """Numbers of each word to (B, T, ...), zero on padding."""
        raise NotImplementedError

    def _edge_sides(self) -> tuple[Tensor, Tensor]:
        """l, r (B, T - 1, C) such that a word's transition marginals are l ⊗ r * E."""
        raise NotImplementedError

    def log_partition_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """For upstream (B,): of emissions (B, T, C) and of transitions (C, C)."""
        raise NotImplementedError

    def log_marginals_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """For upstream (B, T, C): of emissions (B, T, C) and of transitions (C, C)."""
        raise NotImplementedError

    def marginals_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_marginals_gradient(upstream * self.marginals())

    def log_partition(self) -> Tensor:
        return self.log_z

    def _marginals(self) -> Tensor:
        return self.left * self.right / self.Z[..., None]

    def marginals(self) -> Tensor:
        return self._padded(self._marginals())

    def log_marginals(self) -> Tensor:
        weight = self.left * self.right
        value = (weight / self.Z[..., None]).log_()
        if bool(weight.amin() < TINY):  # a product that underflowed still has a logarithm
            apart = self.left.log() + self.right.log() - self.Z[..., None].log()
            value = torch.where(weight < TINY, apart, value)
        return self._padded(value)

    def edge_counts(self) -> Tensor:
        left, right = self._edge_sides()
        return left.transpose(1, 2) @ right * self.E

    def edge_marginals(self) -> Tensor:
        left, right = self._edge_sides()
        return left[..., :, None] * self.E * right[..., None, :]

    def completions(self) -> Tensor:
        """log of the backward message with the word's own emission, up to a constant per word."""
        return self._padded(self.right.log())


def _peak(values: Tensor, dim: int) -> Tensor:
    """The maximum, and 0 where everything is -inf."""
    peak = values.amax(dim, keepdim=True)
    return torch.where(peak > NEG_INF, peak, 0.0)


def underflow(probability: Tensor, score: Tensor) -> bool:
    """Whether a finite score became (nearly) zero. True for NaN."""
    if bool(probability.amin() >= TINY):
        return False
    return bool((~(probability >= TINY) & (score != NEG_INF)).any())
