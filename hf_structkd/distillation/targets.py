"""The answers of teachers about a batch of sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..data.columns import (
    EDGE_COUNTS,
    EMISSIONS,
    MARGINALS,
    TARGET_COLUMNS,
    TOPK_LOG_PROBS,
    TOPK_TAGS,
    voice_column,
)
from ..modeling.crf import SufficientStatistics


@dataclass
class Targets:
    """Teachers' answers for a batch, by dataset column; columns that the batch lacks are `None`.

    Args:
        teacher_topk_tags: (batch, k, words), most probable first, -100 on padding and missing paths.
        teacher_topk_log_probs: (batch, k), nats, -inf on missing paths.
        teacher_marginals: (batch, words, tags), probabilities.
        teacher_edge_counts: (batch, tags, tags), expected transitions `[from, to]` over the sentence.
        teacher_emissions: (batch, words, tags), nats; NaN beyond the words, and where a sentence has no answer.
        teacher_transitions: (batch, tags, tags), nats, `[from, to]`; -inf where the teacher excludes one.
        teacher_start_end: (batch, 2, tags), nats, the scores of the first and of the last tag.
        teacher_entropy: (batch,), nats, of the distribution over tag sequences.
        teacher_groups: (batch, tags), for each tag the representative of its group of tags that the teacher cannot
            tell apart (a tag that is alone represents itself); the other answers name groups by representatives.
        teacher_weight: (batch,), of these answers in the loss.
        teacher_temperature: (batch, columns), the number that all scores of the teacher were divided by, for each of
            `TEMPERED_COLUMNS`.
        word_weights: (batch, words), what the losses that are sums over words multiply each word's by; `None`: 1. No
            answer of a teacher, but see `losses.py`.
        teacher_labels: (batch,), the `labels_key` of the labels that number the tags; 0 without an answer.
        others: the answers of further voices: of teachers that leave other labels open than the ones before.
    """

    teacher_topk_tags: Tensor | None = None
    teacher_topk_log_probs: Tensor | None = None
    teacher_marginals: Tensor | None = None
    teacher_edge_counts: Tensor | None = None
    teacher_emissions: Tensor | None = None
    teacher_transitions: Tensor | None = None
    teacher_start_end: Tensor | None = None
    teacher_entropy: Tensor | None = None
    teacher_groups: Tensor | None = None
    teacher_weight: Tensor | None = None
    teacher_temperature: Tensor | None = None
    teacher_labels: Tensor | None = None
    word_weights: Tensor | None = None
    others: tuple["Targets", ...] = ()

    @classmethod
    def pop_from(cls, batch: dict[str, Any], top_k: int | None = None) -> "Targets":
        """Take the teacher columns out of a collated batch.

        Args:
            batch: the columns are removed from it.
            top_k: how many of the k best paths to take; all where `None`.
        """
        targets = cls._pop_voice(batch, top_k, 0)
        others: list[Targets] = []
        while any(voice_column(name, len(others) + 1) in batch for name in TARGET_COLUMNS):
            others.append(cls._pop_voice(batch, top_k, len(others) + 1))
        targets.others = tuple(others)
        return targets

    @classmethod
    def _pop_voice(cls, batch: dict[str, Any], top_k: int | None, voice: int) -> "Targets":
        targets = cls(**{name: batch.pop(voice_column(name, voice), None) for name in cls._columns()})
        groups = targets.teacher_groups
        if groups is not None and bool((groups == torch.arange(groups.shape[1], device=groups.device)).all()):
            targets.teacher_groups = None  # every tag alone in the whole batch: the plain formulas are cheaper
        if top_k is not None and targets.teacher_topk_tags is not None:
            targets.teacher_topk_tags = targets.teacher_topk_tags[:, :top_k]
        if top_k is not None and targets.teacher_topk_log_probs is not None:
            targets.teacher_topk_log_probs = targets.teacher_topk_log_probs[:, :top_k]
        return targets

    @classmethod
    def _columns(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name in TARGET_COLUMNS]

    def voices(self) -> tuple["Targets", ...]:
        """The answers of each voice."""
        return (self, *self.others)

    def __getitem__(self, column: str) -> Tensor:
        """A column, with 0 in place of NaN.

        Raises:
            ValueError: if the batch lacks it.
        """
        value = self._required(column)
        return value.nan_to_num(0.0, torch.inf, -torch.inf) if column == EMISSIONS else value

    def _required(self, column: str) -> Tensor:
        value = getattr(self, column)
        if value is None:
            raise ValueError(
                f"the objective reads the column {column!r}, which the batch has not: "
                f"{missing_columns_advice([column])}"
            )
        return value

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not None for name in self._columns())

    def statistics(self) -> SufficientStatistics:
        """The teacher's exact expectations (marginals and edge counts)."""
        return SufficientStatistics(nodes=self[MARGINALS], edges=self[EDGE_COUNTS], mass=self.answered())

    def path_weights(self, weighted: bool, temperature: float = 1.0) -> Tensor:
        """The weights of the k best paths.

        Args:
            weighted: weigh a path by its probability renormalised over the k (Top-WK), else all alike (Top-K).
            temperature: divides the log-probabilities before they are renormalised.

        Returns:
            (batch, k), adding up to 1, or to 0 where a sentence has no answer.
        """
        log_probs = self[TOPK_LOG_PROBS]
        valid = log_probs > float("-inf")
        scores = log_probs / temperature if weighted else torch.zeros_like(log_probs)
        # nan_to_num: a sentence without an answer has no valid path, and a softmax over nothing is NaN.
        return scores.masked_fill(~valid, float("-inf")).softmax(dim=1).nan_to_num(0.0)

    def path_statistics(self, num_tags: int, weights: Tensor) -> SufficientStatistics:
        """The expectations under the k best paths.

        Args:
            num_tags: the number of the student's labels.
            weights: (batch, k), of the paths.
        """
        return SufficientStatistics.from_tags(self[TOPK_TAGS], num_tags, weights)

    def answered(self, column: str | None = None) -> Tensor:
        """Which sentences have answers.

        Args:
            column: the column to judge by; any that tells where `None`.

        Returns:
            (batch,), 1 where a teacher answered, 0 elsewhere.
        """
        if column in (None, MARGINALS) and self.teacher_marginals is not None:
            return (self.teacher_marginals[:, 0].sum(dim=-1) > 0).float()
        if column in (None, TOPK_LOG_PROBS) and self.teacher_topk_log_probs is not None:
            return (self.teacher_topk_log_probs[:, 0] > float("-inf")).float()
        return (~self._required(column or EMISSIONS)[:, 0].isnan().all(dim=-1)).float()


def missing_columns_advice(columns: Sequence[str]) -> str:
    """How to get target columns that are missing, for error messages."""
    return (
        "give StructKDTrainer teachers=..., or a training corpus that has been through "
        f"hf_structkd.annotate(corpus, teachers, label_names=..., targets={list(columns)})"
    )
