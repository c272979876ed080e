"""From subwords to words and back: `(batch, subwords, ...)` outside, words compacted to the front inside."""

import torch
from torch import Tensor

from .crf import SufficientStatistics
from .tag_scheme import IGNORED
from .windows import content_mask

LOG_ZERO = -1e4  # a finite stand-in for log 0 in `logits`, which the stock pipeline softmaxes


def compact(values: Tensor, word_mask: Tensor, padding: float = 0) -> Tensor:
    """Gather the values at the words to the front of each row.

    Args:
        values: (batch, subwords, ...).
        word_mask: (batch, subwords), boolean, True on the first subword of each word.
        padding: fills the rest.

    Returns:
        (batch, words, ...), words being the most that any row has (at least 1).
    """
    lengths = word_mask.sum(dim=1)
    width = max(int(lengths.max()), 1) if len(lengths) else 1
    compacted = values.new_full((values.shape[0], width, *values.shape[2:]), padding)
    inside = torch.arange(width, device=values.device) < lengths[:, None]
    compacted[inside] = values[word_mask]
    return compacted


def gold_statistics(labels: Tensor, word_mask: Tensor, num_tags: int) -> tuple[SufficientStatistics, Tensor]:
    """The gold paths as sufficient statistics, mass 0 where a row is unlabelled, and the number of labelled words, ().

    Args:
        labels: (batch, subwords), -100 off the words and on all words of an unlabelled row.
        word_mask: (batch, subwords), True on the first subword of each word.
        num_tags: the model's labels.

    Raises:
        ValueError: if a row has tags on some of its words only.
    """
    gold = compact(labels, word_mask, IGNORED)
    known, lengths = (gold != IGNORED).sum(dim=1), word_mask.sum(dim=1)
    partial = (known != 0) & (known != lengths)
    if bool(partial.any()):
        row = int(partial.nonzero()[0])
        raise ValueError(
            f"row {row} of the batch has labels on {int(known[row])} of its {int(lengths[row])} words: "
            "label all words of a sentence or none (-100)"
        )
    return SufficientStatistics.from_tags(gold, num_tags), known.sum()


def refuse_partial_labels(labelled: Tensor, starts: Tensor) -> None:
    """Raise ValueError if a row has labels, and none on a piece that starts a word.

    Args:
        labelled, starts: (batch, subwords), boolean.
    """
    left_out = (starts & ~labelled).sum(dim=1) * labelled.any(dim=1)
    if bool(left_out.any()):
        row = int(left_out.nonzero()[0])
        count = int(labelled[row].sum())
        raise ValueError(
            f"row {row} of the batch has labels on {count} of its {count + int(left_out[row])} words, as its pieces "
            "tell them: label all words of a sentence or none (-100); pass word_mask if your words hold blanks"
        )


def led_by(log_probs: Tensor, chosen: Tensor) -> Tensor:
    """Cap all others just below the chosen tag, so that an argmax finds it, and it keeps the score it has.

    The best path may pass through a tag that is not its word's most probable.

    Args:
        log_probs: (..., tags), nats.
        chosen: (...), tags.
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
    word_of = word_mask.cumsum(dim=1) - 1
    inside = (content_mask(attention_mask) | word_mask) & (word_of >= 0)
    weights = inside.unsqueeze(-1).to(vectors.dtype)
    width = max(int(word_mask.sum(dim=1).max()), 1) if len(vectors) else 1
    index = word_of.clamp(min=0).unsqueeze(-1)
    sums = vectors.new_zeros(vectors.shape[0], width, vectors.shape[2])
    sums = sums.scatter_add(1, index.expand_as(vectors), vectors * weights)
    counts = vectors.new_zeros(vectors.shape[0], width, 1).scatter_add(1, index, weights)
    return sums / counts.clamp(min=1)


def merge_tags(log_probs: Tensor, reading: Tensor) -> Tensor:
    """Add up the probabilities of tags that are read as the same one: (..., tags), at least `LOG_ZERO`.

    Args:
        log_probs: (..., tags), nats.
        reading: (tags,), the tag that each tag is read as.
    """
    # No matrix product: autocast would round it to half precision, and it is quadratic in the tags.
    index = reading.expand_as(log_probs)
    peak = torch.full_like(log_probs, LOG_ZERO).scatter_reduce(-1, index, log_probs, "amax")
    shares = (log_probs - peak.gather(-1, index)).exp()
    return (torch.zeros_like(log_probs).scatter_add(-1, index, shares).log() + peak).clamp(min=LOG_ZERO)


def spread(values: Tensor, attention_mask: Tensor, word_mask: Tensor, later: Tensor | None = None) -> Tensor:
    """Word values (batch, words, tags) onto the words' subwords (batch, subwords, tags); zero off the words.

    The special tokens before and after a text, its first and last attended subword, are off the words.

    Args:
        values: (batch, words, tags).
        attention_mask, word_mask: (batch, subwords), the second boolean.
        later: (batch, words, tags), for all subwords of a word but its first; `values` by default.
    """
    word_of = word_mask.cumsum(dim=1) - 1
    index = word_of.clamp(min=0).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    onto = values.gather(1, index)
    if later is not None:
        onto = torch.where(word_mask.unsqueeze(-1), onto, later.gather(1, index))
    on_words = ((content_mask(attention_mask) | word_mask) & (word_of >= 0)).unsqueeze(-1)
    return torch.where(on_words, onto, torch.zeros((), dtype=values.dtype, device=values.device))
