"""Tensors on subwords and tensors on words: `(batch, subwords, ...)` outside, words compacted to the front inside."""

import torch
from torch import Tensor

from .crf import SufficientStatistics
from .tag_scheme import IGNORED
from .windows import content_mask

LOG_ZERO = -1e4  # replaces log 0 in `logits`, to which the stock pipeline applies a softmax


def compact(values: Tensor, word_mask: Tensor, padding: float = 0) -> Tensor:
    """Gather the values at the words to the front of each row.

    Args:
        values: (batch, subwords, ...).
        word_mask: (batch, subwords), boolean, True on the first subword of each word.
        padding: the value beyond a row's words.

    Returns:
        (batch, words, ...), as many words as the longest row has (at least 1).
    """
    lengths = word_mask.sum(dim=1)
    width = max(int(lengths.max()), 1) if len(lengths) else 1
    compacted = values.new_full((values.shape[0], width, *values.shape[2:]), padding)
    inside = torch.arange(width, device=values.device) < lengths[:, None]
    compacted[inside] = values[word_mask]
    return compacted


def gold_statistics(labels: Tensor, word_mask: Tensor, num_tags: int) -> tuple[SufficientStatistics, Tensor]:
    """The gold paths as sufficient statistics.

    Args:
        labels: (batch, subwords), -100 off the words and on all words of an unlabelled row.
        word_mask: (batch, subwords), True on the first subword of each word.
        num_tags: number of the model's labels.

    Returns:
        The statistics, mass 0 where a row is unlabelled; the number of labelled words, ().

    Raises:
        ValueError: if a row has tags on some of its words only.
    """
    gold = compact(labels, word_mask, IGNORED)
    labelled, lengths = (gold != IGNORED).sum(dim=1), word_mask.sum(dim=1)
    partial = (labelled != 0) & (labelled != lengths)
    if bool(partial.any()):
        row = int(partial.nonzero()[0])
        raise ValueError(
            f"row {row} of the batch has labels on {int(labelled[row])} of its {int(lengths[row])} words: "
            "label all words of a sentence or none (-100)"
        )
    return SufficientStatistics.from_tags(gold, num_tags), labelled.sum()


def refuse_partial_labels(labelled: Tensor, starts: Tensor) -> None:
    """Raise ValueError if a row has labels, but some piece that starts a word has none.

    Args:
        labelled: (batch, subwords), boolean, where a label is.
        starts: (batch, subwords), boolean, where a piece starts a word.
    """
    unlabelled = (starts & ~labelled).sum(dim=1) * labelled.any(dim=1)
    if bool(unlabelled.any()):
        row = int(unlabelled.nonzero()[0])
        count = int(labelled[row].sum())
        raise ValueError(
            f"row {row} of the batch has labels on {count} of its {count + int(unlabelled[row])} words, as its pieces "
            "tell them: label all words of a sentence or none (-100); pass word_mask if your words contain spaces"
        )


def cap_below_chosen(log_probs: Tensor, chosen: Tensor) -> Tensor:
    """Cap all other tags just below the chosen one, whose score stays, so that argmax returns it.

    The best path may pass through a tag that is not the most probable one of its word.

    Args:
        log_probs: (..., tags), nats.
        chosen: (...), tag indices.

    Returns:
        (..., tags), nats.
    """
    chosen = chosen.unsqueeze(-1)
    ceiling = log_probs.gather(-1, chosen)
    return torch.minimum(log_probs, ceiling - 1e-3).scatter(-1, chosen, ceiling)


def mean_over_subwords(vectors: Tensor, attention_mask: Tensor, word_mask: Tensor) -> Tensor:
    """The mean of each word's subword vectors, compacted: (batch, words, hidden).

    Args:
        vectors: (batch, subwords, hidden).
        attention_mask: (batch, subwords); the first and last attended subword of a row are special tokens.
        word_mask: (batch, subwords), boolean, True on the first subword of each word.
    """
    word_index = word_mask.cumsum(dim=1) - 1
    inside = (content_mask(attention_mask) | word_mask) & (word_index >= 0)
    weights = inside.unsqueeze(-1).to(vectors.dtype)
    width = max(int(word_mask.sum(dim=1).max()), 1) if len(vectors) else 1
    word_index = word_index.clamp(min=0).unsqueeze(-1)
    sums = vectors.new_zeros(vectors.shape[0], width, vectors.shape[2])
    sums = sums.scatter_add(1, word_index.expand_as(vectors), vectors * weights)
    counts = vectors.new_zeros(vectors.shape[0], width, 1).scatter_add(1, word_index, weights)
    return sums / counts.clamp(min=1)


def merge_tags(log_probs: Tensor, reading: Tensor) -> Tensor:
    """Add up the probabilities of tags that are read as the same tag.

    Args:
        log_probs: (..., tags), nats.
        reading: (tags,), the tag that each tag is read as.

    Returns:
        (..., tags), nats, at least `LOG_ZERO`.
    """
    # Not a matrix product: autocast would round it to half precision, and its cost is quadratic in the tags.
    index = reading.expand_as(log_probs)
    peak = torch.full_like(log_probs, LOG_ZERO).scatter_reduce(-1, index, log_probs, "amax")
    shares = (log_probs - peak.gather(-1, index)).exp()
    return (torch.zeros_like(log_probs).scatter_add(-1, index, shares).log() + peak).clamp(min=LOG_ZERO)


def spread(values: Tensor, attention_mask: Tensor, word_mask: Tensor, later: Tensor | None = None) -> Tensor:
    """Copy the values of words to their subwords.

    Args:
        values: (batch, words, tags).
        attention_mask: (batch, subwords); the first and last attended subword of a row are special tokens.
        word_mask: (batch, subwords), boolean, True on the first subword of each word.
        later: (batch, words, tags), values for all subwords of a word but its first; `values` by default.

    Returns:
        (batch, subwords, tags), zero off the words.
    """
    word_index = word_mask.cumsum(dim=1) - 1
    index = word_index.clamp(min=0).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    on_subwords = values.gather(1, index)
    if later is not None:
        on_subwords = torch.where(word_mask.unsqueeze(-1), on_subwords, later.gather(1, index))
    on_words = ((content_mask(attention_mask) | word_mask) & (word_index >= 0)).unsqueeze(-1)
    return torch.where(on_words, on_subwords, torch.zeros((), dtype=values.dtype, device=values.device))
