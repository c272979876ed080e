"""What a teacher says about a sentence, as dataset columns and as a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.columns import (
    EDGE_COUNTS,
    EMISSIONS,
    ENTROPY,
    MARGINALS,
    TARGET_COLUMNS,
    TOPK_LOG_PROBS,
    TOPK_TAGS,
)
from ..modeling.linear_chain import LinearChainCRF, SufficientStatistics


@dataclass
class Targets:
    """Teachers' answers for a batch; what was not asked is `None`.

    Args:
        teacher_topk_tags: (batch, k, words), most probable first, -100 beyond the words and the paths there are.
        teacher_topk_log_probs: (batch, k), nats, -inf where there is no such path.
        teacher_marginals: (batch, words, tags), probabilities.
        teacher_edge_counts: (batch, tags, tags), expected transitions `[from, to]` over the sentence.
        teacher_emissions: (batch, words, tags), nats.
        teacher_entropy: (batch,), nats, of the distribution over tag sequences.
    """

    teacher_topk_tags: Tensor | None = None
    teacher_topk_log_probs: Tensor | None = None
    teacher_marginals: Tensor | None = None
    teacher_edge_counts: Tensor | None = None
    teacher_emissions: Tensor | None = None
    teacher_entropy: Tensor | None = None

    @classmethod
    def pop_from(cls, batch: dict[str, Any]) -> "Targets":
        """Take the teacher columns out of a collated batch."""
        return cls(**{field.name: batch.pop(field.name, None) for field in fields(cls)})

    def __getitem__(self, column: str) -> Tensor:
        """What was asked under this name. Raises ValueError where it was not."""
        value = getattr(self, column)
        if value is None:
            raise ValueError(f"the batch has no column {column!r}: annotate the data with what the objective needs")
        return value

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))

    def statistics(self) -> SufficientStatistics:
        """The teacher's exact expectations (marginals and edge counts)."""
        return SufficientStatistics(nodes=self[MARGINALS], edges=self[EDGE_COUNTS], mass=self.answered())

    def path_statistics(self, num_tags: int, weighted: bool, temperature: float = 1.0) -> SufficientStatistics:
        """The expectations under the k best paths.

        Args:
            num_tags: the student's labels.
            weighted: weigh a path by its probability renormalised over the k (Top-WK), else alike (Top-K).
            temperature: divides the log-probabilities before they are renormalised.
        """
        log_probs = self[TOPK_LOG_PROBS]
        valid = log_probs > float("-inf")
        scores = log_probs / temperature if weighted else torch.zeros_like(log_probs)
        # nan_to_num: a sentence without an answer has no valid path, and a softmax over nothing is NaN.
        weights = scores.masked_fill(~valid, float("-inf")).softmax(dim=1).nan_to_num(0.0)
        return SufficientStatistics.from_tags(self[TOPK_TAGS], num_tags, weights)

    def answered(self) -> Tensor:
        """1 where a teacher answered, 0 where the sentence has no targets: (batch,)."""
        if self.teacher_marginals is not None:
            return (self.teacher_marginals[:, 0].sum(dim=-1) > 0).float()
        if self.teacher_topk_log_probs is not None:
            return (self.teacher_topk_log_probs[:, 0] > float("-inf")).float()
        return (self[EMISSIONS].abs().sum(dim=(1, 2)) > 0).float()


def ask(distribution: LinearChainCRF, lengths: Sequence[int], wanted: Sequence[str], top_k: int) -> dict[str, list]:
    """A teacher's answers for a batch of sentences, as rows of dataset columns.

    Args:
        distribution: the teacher's, in the student's label order.
        lengths: words of each sentence.
        wanted: target column names.
        top_k: paths a sentence; fewer where there are not so many.

    Returns:
        For each wanted column a list with one numpy value a sentence, cut to its words and paths.
    """
    answers: dict[str, list] = {}
    values: dict[str, np.ndarray] = {}
    if TOPK_TAGS in wanted or TOPK_LOG_PROBS in wanted:
        paths = distribution.topk(top_k)
        values[TOPK_TAGS], values[TOPK_LOG_PROBS] = paths.tags.numpy(force=True), paths.log_prob.numpy(force=True)
    if MARGINALS in wanted:
        values[MARGINALS] = distribution.marginals.numpy(force=True)
    if EDGE_COUNTS in wanted:
        values[EDGE_COUNTS] = distribution.edge_counts.numpy(force=True)
    if EMISSIONS in wanted:
        values[EMISSIONS] = distribution.scores.emissions.numpy(force=True)
    if ENTROPY in wanted:
        values[ENTROPY] = distribution.entropy().numpy(force=True)
    for name in wanted:
        column = TARGET_COLUMNS[name]
        stored = column.stored
        rows = []
        for i, length in enumerate(lengths):
            value = values[name][i]
            if "k" in column.axes:
                value = value[: int(np.isfinite(values[TOPK_LOG_PROBS][i]).sum())]
            if "words" in column.axes:
                value = value[:, :length] if column.axes[0] == "k" else value[:length]
            rows.append(value.astype(stored))
        answers[name] = rows
    return answers
