"""The columns of a corpus: their names, and how teacher columns are stored and padded."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..modeling.glued_words import GLUED as GLUED
from ..modeling.tag_scheme import ANNOTATED_TYPES as ANNOTATED_TYPES
from ..modeling.tag_scheme import IGNORED

TOKENS = "tokens"
LANGUAGE = "language"
DOCUMENT = "document"  # of a sentence: sentences of one document stand together, in their order
SUBWORDS = "input_ids"  # a corpus with this column is tokenised
SUBWORD_LABELS = "labels"  # in a tokenised corpus: the label of each subword
# The usual names of columns, in files, tables, datasets in memory and recipes. Where a corpus has several of one kind,
# the choice is not guessed but an error.
TOKEN_COLUMNS = ("tokens", "words", "token", "word", "form")
TAG_COLUMNS = ("tags", "ner_tags", "pos_tags", "upos", "labels", "tag", "ner_tag", "label", "ner", "pos")
SENTENCE_COLUMNS = ("sentence_id", "sent_id", "sentence", "sentence #", "sentence_number", "sentence_idx", "sent")


@dataclass(frozen=True)
class TargetColumn:
    """How a teacher's answers of one kind are stored and batched.

    Args:
        axes: the meaning of each axis of one sentence's value: `"k"` (paths), `"words"`, `"tags"`, `"ends"` (the
            sentence's start and its end), or `"columns"` (`TEMPERED_COLUMNS`).
        padding: fills a batch where a sentence is shorter, has fewer paths, or has no answer. `teacher_groups` are
            padded with the identity: every tag alone. A `teacher_weight` that is missing is 1.
        stored: the Arrow type of the numbers.
        dtype: the torch type in a batch.
    """

    axes: tuple[Literal["k", "words", "tags", "ends", "columns"], ...]
    padding: float
    stored: str
    dtype: torch.dtype


TOPK_TAGS = "teacher_topk_tags"
TOPK_LOG_PROBS = "teacher_topk_log_probs"
MARGINALS = "teacher_marginals"
EDGE_COUNTS = "teacher_edge_counts"
EMISSIONS = "teacher_emissions"
TRANSITIONS = "teacher_transitions"
START_END = "teacher_start_end"
ENTROPY = "teacher_entropy"
GROUPS = "teacher_groups"
WEIGHT = "teacher_weight"
TEMPERATURE = "teacher_temperature"
LABELS = "teacher_labels"
# Each of these may have another temperature of the teacher; `teacher_temperature` holds them in this order.
TEMPERED_COLUMNS = (TOPK_LOG_PROBS, MARGINALS, EDGE_COUNTS, EMISSIONS, TRANSITIONS, START_END, ENTROPY)

TARGET_COLUMNS = {
    TOPK_TAGS: TargetColumn(("k", "words"), IGNORED, "int16", torch.long),
    TOPK_LOG_PROBS: TargetColumn(("k",), float("-inf"), "float32", torch.float32),
    MARGINALS: TargetColumn(("words", "tags"), 0.0, "float16", torch.float32),
    EDGE_COUNTS: TargetColumn(("tags", "tags"), 0.0, "float32", torch.float32),
    EMISSIONS: TargetColumn(("words", "tags"), float("nan"), "float32", torch.float32),
    TRANSITIONS: TargetColumn(("tags", "tags"), 0.0, "float32", torch.float32),
    START_END: TargetColumn(("ends", "tags"), 0.0, "float32", torch.float32),
    ENTROPY: TargetColumn((), 0.0, "float32", torch.float32),
    GROUPS: TargetColumn(("tags",), 0, "int16", torch.long),
    WEIGHT: TargetColumn((), 1.0, "float32", torch.float32),
    TEMPERATURE: TargetColumn(("columns",), 1.0, "float32", torch.float32),
    LABELS: TargetColumn((), 0, "int64", torch.long),
}
# Columns that `annotate` adds without being asked.
AUTOMATIC_COLUMNS = (GROUPS, WEIGHT, TEMPERATURE, LABELS)


def voice_column(name: str, voice: int) -> str:
    """The column of a voice's answers: teachers of one language that leave different labels open are several voices.

    Args:
        name: of [`TARGET_COLUMNS`].
        voice: from 0; the first one has the column's plain name, the second `teacher_marginals_2`.
    """
    return name if voice == 0 else f"{name}_{voice + 1}"


def target_of(column: str) -> str | None:
    """The key of [`TARGET_COLUMNS`] whose answers a column of a corpus holds; `None` if it holds none."""
    name = re.sub(r"_[1-9][0-9]*$", "", column)
    return name if name in TARGET_COLUMNS else None


def labels_key(label_names: Sequence[str]) -> int:
    """The value of `teacher_labels`: a hash of the names of labels in their order, never 0."""
    # Stored answers hold it. The bytes are those of `json_sha256`, which this room does not import.
    digest = hashlib.sha256(json.dumps(list(label_names)).encode()).digest()
    return int.from_bytes(digest[:6], "big") or 1  # 48 bits: exact in a float64 too
