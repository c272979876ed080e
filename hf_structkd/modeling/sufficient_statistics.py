"""What a linear-chain CRF needs to know about another distribution over tag sequences: expected counts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PADDING_TAG = -100


class SufficientStatistics(NamedTuple):
    """Expected tag and transition counts of any distribution over tag sequences.

    The score of a CRF is linear in these counts, so a CRF's cross-entropy with a gold path, with k best paths or with
    another CRF is one function of them (`LinearChainCRF.cross_entropy`). One C x C matrix per sentence is enough
    because all edges share their transition scores; a T x C x C tensor is never needed.

    Attributes:
        nodes: (B, T, C) expected number of times word t carries tag c: probabilities if ``mass`` is 1; 0 on padding.
        edges: (B, C, C) expected number of transitions [from, to] in the sentence.
        mass: (B,) total weight: 1 for a distribution, 0 for a sentence about which nothing is known.
    """

    nodes: Tensor
    edges: Tensor
    mass: Tensor

    @classmethod
    def from_tags(cls, tags: Tensor, num_tags: int, weights: Tensor | None = None) -> SufficientStatistics:
        """Counts of given paths: gold (one path), Top-K (uniform weights) or Top-WK (the teacher's weights).

        Args:
            tags: (B, T) or (B, K, T) integers in [0, num_tags), -100 on padding. A path that is -100 throughout does
                not exist and weighs nothing.
            num_tags: C.
            weights: (B,) or (B, K) non-negative weight of each path; by default the existing paths of a sentence
                share a mass of 1 equally.

        Raises:
            ValueError: on wrong shapes or tags out of range.
        """
        if tags.dim() == 2:
            tags = tags[:, None]
            weights = None if weights is None else weights.reshape(-1, 1)
        if tags.dim() != 3 or tags.is_floating_point():
            raise ValueError(
                f"tags must be integers of shape (batch, words) or (batch, k, words), got {tags.dtype} "
                f"of shape {tuple(tags.shape)}"
            )
        B, K, T = tags.shape
        tags = tags.long()
        present = tags != PADDING_TAG
        if bool((present & ((tags < 0) | (tags >= num_tags))).any()):
            raise ValueError(
                f"tags must be in [0, {num_tags}) or {PADDING_TAG} on padding, got values from "
                f"{int(tags.min())} to {int(tags.max())}"
            )
        exists = present.any(-1)
        if weights is None:
            weights = exists.double() / exists.sum(-1, keepdim=True).clamp(min=1)
        elif weights.shape != (B, K):
            raise ValueError(
                f"weights must have shape {(B, K)} for tags of shape {(B, K, T)}, got {tuple(weights.shape)}"
            )
        weights = torch.where(exists, weights, 0.0)
        index = tags.clamp(min=0)
        each = torch.where(present, weights[..., None], 0.0)
        nodes = each.new_zeros(B, T, num_tags).scatter_add(2, index.transpose(1, 2), each.transpose(1, 2))
        pair = (index[..., :-1] * num_tags + index[..., 1:]).flatten(1)
        each = torch.where(present[..., 1:] & present[..., :-1], weights[..., None], 0.0).flatten(1)
        edges = each.new_zeros(B, num_tags * num_tags).scatter_add(1, pair, each)
        return cls(nodes, edges.view(B, num_tags, num_tags), weights.sum(-1))
