"""A batch of chains as every computation receives it: scores, lengths, layout of the words; and checks of the input.

`Chain` holds the scores. `Packing` is the layout of packed rows, in which the fast passes work: the first words of all
sentences, longest sentence first, then all second words, and so on. A time step is then a slice of consecutive rows,
and slices never grow, so that no step needs a mask and padding is never computed. The `check_*` functions raise one
clear error for wrong input to a `LinearChainCRF`: it names the argument, what was expected and what was given.

Shapes: B sentences of at most T words, N words in all, C tags, K paths per sentence, S spans.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .crf_reference import NEG_INF, Scores
from .tag_scheme import IGNORED

# ---- scores and layout ----


class Packing:
    """Packed rows of one batch, see the module; made by about a dozen small operations on the CPU.

    Args:
        lengths: (B,) CPU integers, each at least 1.
        T: words in the padded batch.
        device: of the index tensors.

    Attributes:
        batch_sizes: for each time step, how many sentences have a word there; their sum is N.
        word: (N,) index of each row's word in the padded batch flattened to (B * T).
        mirror: (N,) row of the word with the same place counted from the sentence's other end. Its own inverse.
        sentence: (N,) which sentence (in the batch's order) a row belongs to.
        previous: (N - B,) row of the preceding word, for the rows that have one: all but the first B.
        order: (B,) the sentences by descending length.
        last: (B,) row of each sentence's last word, in `order`.
    """

    def __init__(self, lengths: Tensor, T: int, device: torch.device):
        # numpy: on arrays this small, torch would spend most of its time on starting its operations.
        batch_lengths = lengths.numpy()
        order = np.argsort(-batch_lengths, kind="stable")
        sorted_lengths = batch_lengths[order]
        alive = np.arange(sorted_lengths[0])[:, None] < sorted_lengths
        sizes = alive.sum(1)
        offsets = np.cumsum(sizes) - sizes
        time, rank = alive.nonzero()
        sentence = order[rank]
        B = len(sorted_lengths)
        indices = [
            sentence * T + time,
            offsets[sorted_lengths[rank] - 1 - time] + rank,
            sentence,
            (offsets[time - 1] + rank)[B:],
            order,
            offsets[sorted_lengths - 1] + np.arange(B),
        ]
        self.batch_sizes: list[int] = sizes.tolist()
        tensors = [torch.from_numpy(index).to(device, non_blocking=True) for index in indices]
        self.word, self.mirror, self.sentence, self.previous, self.order, self.last = tensors

    def __len__(self) -> int:
        return len(self.word)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) to (N, ...). Padding is never read."""
        return padded.flatten(0, 1).index_select(0, self.word)

    def unpack(self, rows: Tensor, T: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """(N, ...) to (B, T, ...), zero on padding; or (N - B, ...), all words but the first, which are zero too."""
        padded = torch.zeros(len(self.order) * T, *rows.shape[1:], dtype=dtype, device=rows.device)
        padded.index_copy_(0, self.word[len(self.word) - len(rows) :], rows.to(dtype))
        return padded.view(len(self.order), T, *rows.shape[1:])

    def per_sentence(self, rows: Tensor) -> Tensor:
        """Sum of (N,) over the words of each sentence, (B,)."""
        return torch.zeros(len(self.order), dtype=rows.dtype, device=rows.device).index_add_(0, self.sentence, rows)


class Chain:
    """Scores, which may carry gradients, and lengths; everything derived from them is made when first used.

    Args:
        scores: emissions (B, T, C), transitions (C, C), start (C,), end (C,), nats; ``-inf`` is a structural zero.
        lengths: (B,) CPU integers, each 1..T.

    Attributes:
        device: of the scores.
        packing: the `Packing`, its index tensors on the device.
        device_lengths: (B,) the lengths on the device.
        alive: (B, T) bool, whether a word is real.
    """

    def __init__(self, scores: Scores, lengths: Tensor):
        self.scores, self.lengths = scores, lengths

    @property
    def device(self) -> torch.device:
        return self.scores.emissions.device

    @cached_property
    def packing(self) -> Packing:
        with torch.inference_mode(False):  # a later backward pass may need its indices
            return Packing(self.lengths, self.scores.emissions.shape[1], self.device)

    @cached_property
    def device_lengths(self) -> Tensor:
        with torch.inference_mode(False):
            return self.lengths.to(self.device)

    @cached_property
    def alive(self) -> Tensor:
        with torch.inference_mode(False):
            position = torch.arange(self.scores.emissions.shape[1], device=self.device)
            return position < self.device_lengths[:, None]

    def detached(self) -> Scores:
        """The scores without gradients."""
        return Scores(*(part.detach() for part in self.scores))

    def clean(self, scores: Scores) -> Scores:
        """Scores of this chain in float64, zero on padding, as `crf_reference.py` needs them."""
        emissions = torch.where(self.alive[..., None], scores.emissions.double(), 0.0)
        return Scores(emissions, *(part.double() for part in scores[1:]))


# ---- checks of a caller's input; each raises ValueError ----


def check_shape(name: str, value: Tensor, shape: tuple[int, ...], boolean: bool = False) -> None:
    """An argument must have this shape and, where asked for, be boolean."""
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)} to fit the emissions, got {tuple(value.shape)}")
    if boolean and value.dtype != torch.bool:
        raise ValueError(f"{name} must be bool (True where allowed), got {value.dtype}")


def check_emissions(emissions: Tensor) -> None:
    """Emissions must be floating point scores (B, T, C), none of the sizes 0."""
    if emissions.dim() != 3 or 0 in emissions.shape:
        raise ValueError(
            f"emissions must have shape (batch, words, tags), none of them 0, got {tuple(emissions.shape)}"
        )
    if not emissions.is_floating_point():
        raise ValueError(f"emissions must be floating point scores, got {emissions.dtype}")


def checked_lengths(lengths: Tensor | None, B: int, T: int) -> Tensor:
    """The lengths as (B,) CPU integers, T by default; each must be in 1..T."""
    if lengths is None:
        return torch.full((B,), T)
    check_shape("lengths", lengths, (B,))
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(f"lengths must be integers, got {lengths.dtype}")
    lengths = lengths.detach().cpu().long()
    if int(lengths.min()) < 1 or int(lengths.max()) > T:
        raise ValueError(f"lengths must be in 1..{T} (the words of the emissions), got {lengths.tolist()}")
    return lengths


def check_scores(emissions: Tensor, lengths: Tensor, **others: Tensor) -> None:
    """Scores of real words must not be NaN or +inf; -inf is a structural zero. One pass in the usual case."""
    total = emissions.detach().sum(dtype=torch.float64)
    for value in others.values():
        total = total + value.detach().sum()
    if bool(torch.isfinite(total)):
        return
    for name, value in others.items():
        if bool((value.isnan() | (value == float("inf"))).any()):
            raise ValueError(f"{name} must not contain NaN or +inf, got {value.tolist()}")
    alive = torch.arange(emissions.shape[1], device=emissions.device) < lengths.to(emissions.device)[:, None]
    wrong = (emissions.isnan() | (emissions == float("inf"))) & alive[..., None]
    if bool(wrong.any()):
        b, t, c = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"emissions must not contain NaN or +inf on real words, got {float(emissions[b, t, c])} at sentence {b}, "
            f"word {t}, tag {c} ({int(wrong.sum())} such scores in all)"
        )


def check_tags(tags: Tensor, real: Tensor, C: int) -> None:
    """tags (B, K, T) must be in [0, C) wherever ``real`` (B, K, T)."""
    wrong = real & ((tags < 0) | (tags >= C))
    if bool(wrong.any()):
        b, k, t = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"tags must be in [0, {C}) on real words, got {int(tags[b, k, t])} at sentence {b}, path {k}, word {t}"
        )


def check_legal(scores: Scores, alive: Tensor, tags: Tensor) -> None:
    """Paths (B, K, T), checked by `check_tags`, must not pass a structural zero; -100 throughout is no path."""
    emissions, transitions, start, end = (part == NEG_INF for part in scores)
    for b, k in ((tags != IGNORED) & alive[:, None]).any(-1).nonzero().tolist():
        path = tags[b, k][alive[b]]
        steps = transitions[path[:-1], path[1:]]
        excluded = emissions[b, alive[b]].gather(1, path[:, None]).squeeze(1)
        if bool(start[path[0]]):
            what = f"tag {int(path[0])} cannot be first"
        elif bool(end[path[-1]]):
            what = f"tag {int(path[-1])} cannot be last"
        elif bool(steps.any()):
            t = int(steps.nonzero()[0])
            what = f"tag {int(path[t + 1])} at word {t + 1} cannot follow tag {int(path[t])}"
        elif bool(excluded.any()):
            t = int(excluded.nonzero()[0])
            what = f"tag {int(path[t])} is excluded at word {t}"
        else:
            continue
        raise ValueError(
            f"tags must be an allowed path, got an illegal one for sentence {b}, path {k}: {what} "
            f"(allow_illegal=True gives such paths -inf)"
        )


def check_spans(sentences: Tensor, starts: Tensor, ends: Tensor, tags: Tensor, lengths: Tensor, C: int) -> None:
    """Spans must lie in their sentences and carry tags.

    Args:
        sentences, starts, ends: (S,) integers.
        tags: (S, L) integers, L at least the longest span.
        lengths: (B,), on the same device.
        C: number of tags.
    """
    S = len(sentences)
    if not starts.shape == ends.shape == (S,) or tags.dim() != 2 or len(tags) != S:
        raise ValueError(
            f"spans need sentences, starts, ends of shape (spans,) and tags of shape (spans, words), got "
            f"{[tuple(part.shape) for part in (sentences, starts, ends, tags)]}"
        )
    in_batch = (sentences >= 0) & (sentences < len(lengths))
    length = lengths[sentences.clamp(0, len(lengths) - 1)]
    wrong = ~in_batch | (starts < 0) | (ends <= starts) | (ends > length) | (ends - starts > tags.shape[1])
    inside = torch.arange(tags.shape[1], device=tags.device) < (ends - starts)[:, None]
    wrong |= (inside & ((tags < 0) | (tags >= C))).any(1)
    if bool(wrong.any()):
        s = int(wrong.nonzero()[0])
        raise ValueError(
            f"span {s} must lie in a sentence of the batch (of {len(lengths)}), with 0 <= start < end <= its length, "
            f"and carry a tag in [0, {C}) per word, got sentence {int(sentences[s])} of length {int(length[s])}, "
            f"start {int(starts[s])}, end {int(ends[s])}, tags {tags[s].tolist()}"
        )
