"""What an annotation says about the teachers: their accuracy on gold tags, their certainty, what the k best cover."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Sums = dict[str, float]


def batch_sums(
    lengths: np.ndarray,
    entropy: np.ndarray,
    log_probs: np.ndarray | None,
    unproven: np.ndarray | None,
    best: np.ndarray,
    gold: Sequence[np.ndarray | None],
) -> Sums:
    """Sums over a batch that summaries are made of.

    Args:
        lengths: (batch,), words.
        entropy: (batch,), nats.
        log_probs: (batch, k), nats, -inf where there is no such path; `None` where none were asked.
        unproven: (batch,), boolean, whether the k best are not proven to be those; `None` where none were asked.
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
        sums["paths"] = float((log_probs > -np.inf).sum())
    if unproven is not None:
        sums["unproven"] = float(unproven.sum())
    return sums


def are_sums(found: object) -> bool:
    """Whether something read from a file can be added up and summarised."""
    if not isinstance(found, dict) or not {"sentences", "words", "entropy", "gold_words", "correct"} <= found.keys():
        return False
    return all(isinstance(value, float) and abs(value) < 2**53 for value in found.values()) and found["sentences"] > 0


def add_sums(parts: Iterable[Mapping[str, float]]) -> Sums:
    """The parts added up, in their order."""
    total: Sums = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def summarise(sums: Mapping[str, float]) -> dict[str, Any]:
    """`sentences`, `words`, `accuracy` (share of gold words that the teacher tags alike; `None` without gold),
    `entropy` (nats a sentence), and of the k best, `None` without: `mass` (probability that they cover) and `paths`
    (how many there are; below k where sentences have fewer), means over sentences, and `unproven` (sentences where a
    sequence outside them might be more probable than one of them, see `best_of`).
    """
    return {
        "sentences": int(sums["sentences"]),
        "words": int(sums["words"]),
        "accuracy": sums["correct"] / sums["gold_words"] if sums["gold_words"] else None,
        "entropy": sums["entropy"] / sums["sentences"],
        "mass": sums["mass"] / sums["sentences"] if "mass" in sums else None,
        "paths": sums["paths"] / sums["sentences"] if "paths" in sums else None,
        "unproven": int(sums["unproven"]) if "unproven" in sums else None,
    }
