"""An annotation for tests that start several or kill them: a teacher that notes what it is asked."""

import hashlib
import time
from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_structkd.teachers.annotate import annotate
from hf_structkd.teachers.function import CallableTeacher

LABELS = ["O", "B-PER", "I-PER"]
TARGETS = ["teacher_topk_tags", "teacher_marginals", "teacher_edge_counts", "teacher_entropy"]


def corpus(sentences: int = 60) -> Dataset:
    """Sentences of 1 to 7 words, all different, of two languages."""
    tokens = [[f"w{row}-{i}" for i in range(1 + row * 5 % 7)] for row in range(sentences)]
    return Dataset.from_dict({"tokens": tokens, "language": ["en" if row % 3 else "ru" for row in range(sentences)]})


def teacher(language: str, log: Path | None = None, seconds: float = 0.0) -> CallableTeacher:
    """Probabilities made from each word's hash; a line in `log` for each sentence asked, before it is answered."""

    def answer(sentences):
        rows = []
        for words in sentences:
            if log is not None:
                with log.open("a") as file:
                    file.write(words[0] + "\n")
            time.sleep(seconds)
            digests = [hashlib.sha256(f"{language}{word}".encode()).digest() for word in words]
            scores = np.array([[digest[c] for c in range(3)] for digest in digests], dtype=np.float64) + 1
            rows.append(scores / scores.sum(axis=1, keepdims=True))
        return rows

    return CallableTeacher(answer, LABELS, name=f"hash-{language}", revision="1")


def run(folder: Path, log: Path | None = None, seconds: float = 0.0) -> Dataset:
    teachers = {language: teacher(language, log, seconds) for language in ("en", "ru")}
    return annotate(
        corpus(),
        teachers,
        label_names=LABELS,
        targets=TARGETS,
        top_k=3,
        batch_size=4,
        shard_size=8,
        output_dir=folder,
        progress=False,
    )
