"""Dividing one annotated file into sentences to train on, to choose a model by, and to score it on."""

import hashlib
from collections.abc import Mapping, Sequence

from .source_text import CorpusError, RawSentence

_UNIT = 2**64


def divide(sentences: Sequence[RawSentence], shares: Mapping[str, float]) -> dict[str, list[RawSentence]]:
    """Divide sentences at random, but always in the same way.

    A hash of its words decides where a sentence goes. So sentences with the same words are never in two splits, and a
    sentence stays in its split when the file grows. The sizes are therefore not exactly those of the shares.

    Args:
        sentences: of one file.
        shares: split -> its share, above 0; the shares are divided by their sum.

    Returns:
        Split -> its sentences, in the order of the file.

    Raises:
        ValueError: if a share is not above 0.
        CorpusError: if a split gets no sentence, because the file is too short for such shares.
    """
    if not all(0 < share < float("inf") for share in shares.values()):
        raise ValueError(f"shares must be above 0, not {', '.join(map(str, shares.values()))}")
    bounds, total = [], 0.0
    for split, share in shares.items():
        total += share
        bounds.append((split, total))
    parts: dict[str, list[RawSentence]] = {split: [] for split in shares}
    for sentence in sentences:
        digest = hashlib.sha256("\0".join(sentence.tokens).encode()).digest()
        place = int.from_bytes(digest[:8], "big") / _UNIT * total
        parts[next((split for split, bound in bounds if place < bound), bounds[-1][0])].append(sentence)
    if empty := [split for split, part in parts.items() if not part]:
        raise CorpusError(
            f"{len(sentences)} sentences are too few for these shares: {', '.join(empty)} would be empty. Give larger "
            "shares to these splits, or annotate more sentences."
        )
    return parts
