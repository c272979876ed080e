"""Batches: subwords, labels, word masks and teacher targets, each padded its own way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .columns import IGNORED, TARGET_COLUMNS, TargetColumn


@dataclass
class DataCollatorForStructKD:
    """Pad what `encode_corpus` and `annotate` made into one batch.

    Args:
        tokenizer: gives the padding token and side.
        num_tags: the student's labels; needed only where some rows have teacher targets and others none.
        pad_to_multiple_of: rounds the subword axis up.

    Returns (of a call):
        `input_ids, attention_mask, labels, word_mask` (batch, subwords), and for each teacher column that a row has,
        a tensor padded as `TARGET_COLUMNS` says; a sentence without an answer has zero mass in it.
    """

    tokenizer: Any
    num_tags: int | None = None
    pad_to_multiple_of: int | None = None

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        width = max(len(feature["input_ids"]) for feature in features)
        if self.pad_to_multiple_of:
            width = -(-width // self.pad_to_multiple_of) * self.pad_to_multiple_of
        batch = {
            "input_ids": self._subwords(features, "input_ids", self.tokenizer.pad_token_id or 0, width),
            "attention_mask": self._subwords(features, "attention_mask", 0, width),
        }
        if "word_mask" in features[0]:
            batch["word_mask"] = self._subwords(features, "word_mask", 0, width).bool()
        if "labels" in features[0]:
            batch["labels"] = self._subwords(features, "labels", IGNORED, width)
        for name, column in TARGET_COLUMNS.items():
            if any(feature.get(name) is not None for feature in features):
                batch[name] = self._targets(features, name, column)
        return batch

    def _subwords(self, features: Sequence[Mapping[str, Any]], name: str, padding: int, width: int) -> Tensor:
        values = np.full((len(features), width), padding, dtype=np.int64)
        for row, feature in enumerate(features):
            length = len(feature[name])
            if self.tokenizer.padding_side == "left":
                values[row, width - length :] = feature[name]
            else:
                values[row, :length] = feature[name]
        return torch.from_numpy(values)

    def _targets(self, features: Sequence[Mapping[str, Any]], name: str, column: TargetColumn) -> Tensor:
        answers = [None if f.get(name) is None else np.asarray(f[name], dtype=np.float64) for f in features]
        shapes = [answer.shape for answer in answers if answer is not None]
        shape = [max(sizes) for sizes in zip(*shapes)]
        for axis, meaning in enumerate(column.axes):
            if meaning == "words":  # as wide as the batch's words, so that targets meet the student's emissions
                shape[axis] = max(shape[axis], max(sum(f["word_mask"]) for f in features))
            elif meaning == "tags" and self.num_tags is not None and shape[axis] != self.num_tags:
                raise ValueError(f"{name} has {shape[axis]} tags where the student has {self.num_tags}")
        values = np.full((len(features), *shape), column.padding)
        for row, answer in enumerate(answers):
            if answer is not None:
                inside = (slice(row, row + 1), *(slice(size) for size in answer.shape))
                values[inside] = answer  # also where a column is one number a sentence
        return torch.from_numpy(values).to(column.dtype)
