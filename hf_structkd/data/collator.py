"""The collator: subwords, labels, word masks and teacher targets, padded into one batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..modeling.tag_scheme import tag_type
from .columns import ANNOTATED_TYPES, GROUPS, IGNORED, LABELS, TARGET_COLUMNS, TargetColumn, labels_key, target_of

_NUMPY = {torch.float32: np.float32, torch.long: np.int64}


@dataclass
class DataCollatorForStructKD:
    """Pads rows of `encode_corpus` and `annotate`, lists or arrays, into one batch.

    Args:
        tokenizer: gives the padding token and side.
        num_tags: the number of the student's labels; answers with another number of tags are refused. Needed only
            where some rows have teacher targets and others have none.
        pad_to_multiple_of: rounds the subword axis up.
        label_names: the student's labels, in their order; answers that number other labels are refused.
    """

    tokenizer: Any
    num_tags: int | None = None
    pad_to_multiple_of: int | None = None
    label_names: Sequence[str] | None = None

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Make a batch.

        Returns:
            `input_ids, attention_mask, labels, word_mask` (batch, subwords), and for each teacher column that a row
            has a tensor padded as in `TARGET_COLUMNS`; a sentence without an answer has zero mass in it. If a row has
            `annotated_types`: `open_tags` (batch, tags), boolean, the tags of all other types.

        Raises:
            ValueError: if answers have another number of words than their sentence, or number other labels; if rows
                have `annotated_types` and there are no `label_names`.
        """
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
        if any(feature.get(ANNOTATED_TYPES) is not None for feature in features):
            batch["open_tags"] = self._open_tags(features)
        columns = dict.fromkeys(name for feature in features for name in feature)
        answers = [name for name in columns if target_of(name)]
        words = [_word_count(feature) for feature in features] if answers else []
        for name in answers:
            if any(feature.get(name) is not None for feature in features):
                batch[name] = self._targets(features, name, TARGET_COLUMNS[target_of(name) or name], words)
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

    def _open_tags(self, features: Sequence[Mapping[str, Any]]) -> Tensor:
        if self.label_names is None:
            raise ValueError("corpora with annotated_types need a collator with label_names")
        types = [tag_type(label) for label in self.label_names]
        declared = [feature.get(ANNOTATED_TYPES) for feature in features]
        return torch.tensor(
            [[known is not None and kind is not None and kind not in known for kind in types] for known in declared]
        )

    def _targets(
        self, features: Sequence[Mapping[str, Any]], name: str, column: TargetColumn, words: Sequence[int]
    ) -> Tensor:
        if name == LABELS and self.label_names is not None:
            self._check_labels(features)
        dtype = _NUMPY[column.dtype]
        answers = [None if f.get(name) is None else np.asarray(f[name], dtype=dtype) for f in features]
        shapes = [answer.shape for answer in answers if answer is not None]
        shape = [max(sizes) for sizes in zip(*shapes)]
        for axis, meaning in enumerate(column.axes):
            if meaning == "words":  # as wide as the batch's words, to match the student's emissions
                for row, (answer, count) in enumerate(zip(answers, words)):
                    if answer is not None and answer.size and answer.shape[axis] != count:
                        raise ValueError(
                            f"{name} of row {row} of the batch is for {answer.shape[axis]} words where the sentence "
                            f"has {count}: its subwords were cut off, or the answers are another sentence's"
                        )
                shape[axis] = max(words)
            elif meaning == "tags" and self.num_tags is not None and shape[axis] != self.num_tags:
                raise ValueError(f"{name} has {shape[axis]} tags where the student has {self.num_tags}")
        values = np.full((len(features), *shape), column.padding, dtype=dtype)
        if target_of(name) == GROUPS:  # without an answer every tag is alone
            values[:] = np.arange(shape[0])
        for row, answer in enumerate(answers):
            if answer is not None:
                inside = (slice(row, row + 1), *(slice(size) for size in answer.shape))
                values[inside] = answer  # also for a column with one number per sentence
        return torch.from_numpy(values)

    def _check_labels(self, features: Sequence[Mapping[str, Any]]) -> None:
        known = (None, 0, labels_key(self.label_names or ()))
        for row, feature in enumerate(features):
            if feature.get(LABELS) not in known:
                raise ValueError(
                    f"the teachers' answers at row {row} of the batch number other labels than the student's "
                    f"{list(self.label_names or ())}, or the same in another order: ask the teachers again"
                )


def _word_count(feature: Mapping[str, Any]) -> int:
    """The number of a sentence's words: of its first subwords."""
    if "word_mask" in feature:
        return int(np.count_nonzero(feature["word_mask"]))
    return int(np.count_nonzero(np.asarray(feature["labels"]) != IGNORED))
