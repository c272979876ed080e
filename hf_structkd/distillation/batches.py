"""Sentences in batches, and a tagger's answers back in their order."""

from collections.abc import Callable, Iterator, Sequence

import torch

from ..modeling.linear_chain import LinearChainCRF
from ..modeling.subwords import as_sentences
from .tag_distribution import TagDistribution


def batches_of_like_length(sentences: Sequence[Sequence[str]], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches, longest sentences first: less padding, and the peak of memory comes first.

    Raises ValueError for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    rows = sorted(range(len(sentences)), key=lambda row: len(sentences[row]), reverse=True)
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


def tag_sentences(
    distribution_of: Callable[[list[Sequence[str]]], TagDistribution],
    sentences: Sequence[Sequence[str]],
    labels: Sequence[str],
    batch_size: int,
) -> list[list[str]]:
    """The most probable tag sequence of each sentence, as names.

    Args:
        distribution_of: asks about a batch of sentences.
        sentences: lists of words.
        labels: of the distribution's tags.
        batch_size: sentences asked at once.

    Raises:
        TypeError: for a text where a list of words is meant.
    """
    sentences = as_sentences(sentences)
    tagged: list[list[str]] = [[] for _ in sentences]
    for rows in batches_of_like_length(sentences, batch_size):
        with torch.inference_mode():
            found = distribution_of([sentences[row] for row in rows])
            tags = found.argmax()[0] if isinstance(found, LinearChainCRF) else found.topk(1).tags[:, 0]
        for row, path in zip(rows, tags.tolist()):
            tagged[row] = [labels[tag] for tag in path[: len(sentences[row])]]
    return tagged
