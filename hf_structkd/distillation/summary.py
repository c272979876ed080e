"""What an annotation says about the teachers: their accuracy on gold tags, their certainty, what the k best cover."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Sums = dict[str, float]


def batch_sums(
    lengths: np.ndarray,
    entropy: np.ndarray,
    log_probs: np.ndarray | None,
    best: np.ndarray,
    gold: Sequence[np.ndarray | None],
) -> Sums:
    """Sums over a batch that summaries are made of.

    Args:
        lengths: (batch,), words.
        entropy: (batch,), nats.
        log_probs: (batch, k), nats, -inf where there is no such path; `None` where none were asked.
        best: (batch, words), the teacher's tags (representatives of groups).
        gold: for each sentence its gold tags (representatives too), -1 where a tag is none of the student's; or
            `None`.
    """
    words = correct = 0
    for row, tags in enumerate(gold):
        if tags is not None:
            words += int((tags >= 0).sum())
            correct += int((best[row, : len(tags)] == tags).sum())
    sums = {
        "sentences": float(len(lengths)),
        "words": float(lengths.sum()),
        "entropy": float(entropy.astype(np.float64).sum()),
        "gold_words": float(words),
        "correct": float(correct),
    }
    if log_probs is not None:
        sums["mass"] = float(np.exp(log_probs.astype(np.float64)).sum())
    return sums


def add_sums(parts: Iterable[Mapping[str, float]]) -> Sums:
    """The parts added up, in their order."""
    total: Sums = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def summarise(sums: Mapping[str, float]) -> dict[str, Any]:
    """`sentences`, `words`, `accuracy` (share of gold words that the teacher tags alike; `None` without gold),
    `entropy` (nats a sentence) and `mass` (probability that the k best cover, mean over sentences; `None` without).
    """
    return {
        "sentences": int(sums["sentences"]),
        "words": int(sums["words"]),
        "accuracy": sums["correct"] / sums["gold_words"] if sums["gold_words"] else None,
        "entropy": sums["entropy"] / sums["sentences"],
        "mass": sums["mass"] / sums["sentences"] if "mass" in sums else None,
    }
