"""Danger: padding that counts, as a label, a word, or a teacher's answer."""

import numpy as np
import pytest
import torch

from hf_structkd.data.collator import DataCollatorForStructKD
from hf_structkd.data.columns import EDGE_COUNTS, MARGINALS, TOPK_LOG_PROBS, TOPK_TAGS


def feature(words: int, answered: bool = True, k: int = 2, tags: int = 3) -> dict:
    row = {
        "input_ids": [0, *range(10, 10 + words), 2],
        "attention_mask": [1] * (words + 2),
        "word_mask": [0, *[1] * words, 0],
        "labels": [-100, *[1] * words, -100],
        MARGINALS: np.full((words, tags), 1 / tags, dtype=np.float16),
        EDGE_COUNTS: np.full((tags, tags), (words - 1) / tags**2),
        TOPK_TAGS: np.ones((k, words), dtype=np.int16),
        TOPK_LOG_PROBS: np.full(k, -1.0, dtype=np.float32),
    }
    return row if answered else {name: None if name.startswith("teacher") else value for name, value in row.items()}


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_kind_is_padded_its_own_way(tokenizer, side, monkeypatch):
    monkeypatch.setattr(tokenizer, "padding_side", side)
    batch = DataCollatorForStructKD(tokenizer, num_tags=3)([feature(4), feature(2, k=1), feature(3, answered=False)])
    assert batch["input_ids"].shape == batch["labels"].shape == (3, 6)
    padding = batch["attention_mask"] == 0
    assert (batch["labels"][padding] == -100).all()
    assert not batch["word_mask"][padding].any()
    assert (batch["input_ids"][padding] == tokenizer.pad_token_id).all()
    assert batch["word_mask"].sum(dim=1).tolist() == [4, 2, 3]
    assert batch[MARGINALS].shape == (3, 4, 3)
    assert batch[MARGINALS].sum(dim=(1, 2)).tolist() == pytest.approx([4, 2, 0], abs=1e-2)
    assert batch[TOPK_TAGS].shape == (3, 2, 4)
    assert (batch[TOPK_TAGS][1, 1] == -100).all()
    assert batch[TOPK_LOG_PROBS][1].tolist() == [-1.0, float("-inf")]
    assert (batch[TOPK_LOG_PROBS][2] == float("-inf")).all()
    assert batch[EDGE_COUNTS][2].sum() == 0
    assert batch[TOPK_TAGS].dtype == torch.long


def test_targets_are_as_wide_as_the_widest_sentence_even_if_it_has_none(tokenizer):
    batch = DataCollatorForStructKD(tokenizer)([feature(5, answered=False), feature(2)])
    assert batch[MARGINALS].shape[1] == 5


def test_answers_for_another_label_set_are_refused(tokenizer):
    with pytest.raises(ValueError, match="teacher_marginals has 3 tags where the student has 7"):
        DataCollatorForStructKD(tokenizer, num_tags=7)([feature(2)])


def test_subwords_are_rounded_up_on_request(tokenizer):
    assert DataCollatorForStructKD(tokenizer, pad_to_multiple_of=8)([feature(7)])["input_ids"].shape == (1, 16)
