"""The summary of an annotation: the teachers' accuracy on gold tags, their entropy, the probability of the k best."""

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
    """The sums over a batch from which summaries are made.

    Args:
        lengths: (batch,), words.
        entropy: (batch,), nats.
        log_probs: (batch, k), nats, -inf on missing paths; `None` without paths.
        unproven: (batch,), boolean, whether the k best are not proven to be the best; `None` without paths.
        best: (batch, words), the teacher's tags (representatives of groups).
        gold: for each sentence its gold tags (representatives too), -1 where the student lacks a tag; or `None`.

    Returns:
        Name -> sum.
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


def mean_over_voices(parts: Sequence[Sums], weights: Sequence[float]) -> Sums:
    """The sums of several voices about the same sentences: what depends on the voice is averaged by their weights."""
    if len(parts) == 1:
        return parts[0]
    names = [name for name in parts[0] if all(name in part for part in parts)]
    same = {name for name in names if all(part[name] == parts[0][name] for part in parts)}
    return {
        name: parts[0][name] if name in same else float(sum(w * part[name] for w, part in zip(weights, parts)))
        for name in names
    }


def valid_sums(content: object) -> bool:
    """Whether content that was read from a file can be added up and summarised."""
    required = {"sentences", "words", "entropy", "gold_words", "correct"}
    if not isinstance(content, dict) or not required <= content.keys():
        return False
    return all(isinstance(v, float) and abs(v) < 2**53 for v in content.values()) and content["sentences"] > 0


def add_sums(parts: Iterable[Mapping[str, float]]) -> Sums:
    """The parts added up, in their order; a sum that one of them lacks is left out."""
    parts = list(parts)
    names = [name for name in (parts[0] if parts else {}) if all(name in part for part in parts)]
    total: Sums = dict.fromkeys(names, 0.0)
    for part in parts:
        for name in names:
            total[name] += part[name]
    return total


def without_gold(sums: Mapping[str, float]) -> Sums:
    """The sums that do not depend on gold tags."""
    return {name: value for name, value in sums.items() if name not in ("gold_words", "correct")}


def count_correct(best: Sequence[np.ndarray] | np.ndarray, gold: Sequence[np.ndarray | None]) -> Sums:
    """The number of words with gold tags, and the number of these that a teacher tags correctly.

    Args:
        best: for each sentence the teacher's tags (representatives of groups), with or without padding.
        gold: as for `batch_sums`.

    Returns:
        `gold_words` and `correct`.
    """
    words = correct = 0
    for teacher_tags, tags in zip(best, gold, strict=True):
        if tags is not None:
            words += int((tags >= 0).sum())
            correct += int((teacher_tags[: len(tags)] == tags).sum())
    return {"gold_words": float(words), "correct": float(correct)}


def accuracy(sums: Mapping[str, float]) -> float | None:
    """The share of gold words that the teacher tags correctly; `None` where there are none, or none were compared."""
    return sums["correct"] / sums["gold_words"] if sums.get("gold_words") else None


def summarise(sums: Mapping[str, float]) -> dict[str, Any]:
    """The summary of an annotation.

    Returns:
        - `sentences`, `words`: how many;
        - `accuracy`: see `accuracy`;
        - `entropy`: nats per sentence;
        - `mass`: probability that the k best cover, mean over sentences; `None` without paths;
        - `paths`: number of paths, mean over sentences, below k where sentences have fewer; `None` without paths;
        - `unproven`: sentences where a sequence outside the k best might be more probable than one of them (see
          `search_best_paths`); `None` without paths.
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
