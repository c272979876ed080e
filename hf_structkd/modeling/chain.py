"""A batch of chains as every computation receives it: scores, lengths, and the layout of the words when asked for."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from .log_space import Scores
from .packing import Packing


class Chain:
    """Scores (they may carry gradients) and lengths.

    Args:
        scores: emissions (B, T, C), transitions (C, C), start (C,), end (C,), nats; ``-inf`` is a structural zero.
        lengths: (B,) CPU integers, each 1..T.
    """

    def __init__(self, scores: Scores, lengths: Tensor):
        self.scores, self.lengths = scores, lengths

    @property
    def device(self) -> torch.device:
        return self.scores.emissions.device

    @cached_property
    def packing(self) -> Packing:
        with torch.inference_mode(False):  # its indices may be kept for a backward pass later
            return Packing(self.lengths, self.scores.emissions.shape[1], self.device)

    @cached_property
    def lengths_there(self) -> Tensor:
        """The lengths on the device of the scores."""
        with torch.inference_mode(False):
            return self.lengths.to(self.device)

    @cached_property
    def alive(self) -> Tensor:
        """(B, T) whether a word is real."""
        with torch.inference_mode(False):
            position = torch.arange(self.scores.emissions.shape[1], device=self.device)
            return position < self.lengths_there[:, None]

    def detached(self) -> Scores:
        return Scores(*(part.detach() for part in self.scores))

    def clean(self, scores: Scores) -> Scores:
        """Scores of this chain in float64, zero on padding, as `log_space.py` wants them."""
        emissions = torch.where(self.alive[..., None], scores.emissions.double(), 0.0)
        return Scores(emissions, *(part.double() for part in scores[1:]))
