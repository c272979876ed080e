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
    sums = {
        "sentences": float(len(lengths)),
        "words": float(lengths.sum()),
        "entropy": float(entropy.astype(np.float64).sum()),
        **count_correct(best, gold),
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
    """The parts added up, in their order; what one of them lacks is left out."""
    parts = list(parts)
    names = [name for name in (parts[0] if parts else {}) if all(name in part for part in parts)]
    total: Sums = dict.fromkeys(names, 0.0)
    for part in parts:
        for name in names:
            total[name] += part[name]
    return total


def without_gold(sums: Mapping[str, float]) -> Sums:
    """Sums that say nothing of gold tags."""
    return {name: value for name, value in sums.items() if name not in ("gold_words", "correct")}


def count_correct(best: Sequence[np.ndarray] | np.ndarray, gold: Sequence[np.ndarray | None]) -> Sums:
    """How many words have gold tags, and how many of them a teacher tags alike.

    Args:
        best: for each sentence the teacher's tags (representatives of groups), of its words and perhaps padding.
        gold: as for `batch_sums`.
    """
    words = correct = 0
    for found, tags in zip(best, gold, strict=True):
        if tags is not None:
            words += int((tags >= 0).sum())
            correct += int((found[: len(tags)] == tags).sum())
    return {"gold_words": float(words), "correct": float(correct)}


def accuracy(sums: Mapping[str, float]) -> float | None:
    """The share of gold words that the teacher tags alike; `None` where there are none, or nobody can tell."""
    return sums["correct"] / sums["gold_words"] if sums.get("gold_words") else None


def summarise(sums: Mapping[str, float]) -> dict[str, Any]:
    """`sentences`, `words`, `accuracy` (see `accuracy`),
    `entropy` (nats a sentence), and of the k best, `None` without: `mass` (probability that they cover) and `paths`
    (how many there are; below k where sentences have fewer), means over sentences, and `unproven` (sentences where a
    sequence outside them might be more probable than one of them, see `best_of`).
    """
    return {
        "sentences": int(sums["sentences"]),
        "words": int(sums["words"]),
        "accuracy": accuracy(sums),
        "entropy": sums["entropy"] / sums["sentences"],
        "mass": sums["mass"] / sums["sentences"] if "mass" in sums else None,
        "paths": sums["paths"] / sums["sentences"] if "paths" in sums else None,
        "unproven": int(sums["unproven"]) if "unproven" in sums else None,
    }
