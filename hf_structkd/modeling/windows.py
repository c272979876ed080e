"""Encoding a text that is longer than the encoder's window: overlapping windows in, one sequence of vectors out.

Nothing is cut. Each subword's vector is taken from the window in which it stands farthest from an edge, and the CRF
then runs over all words as one chain, so no tag sequence is broken at a window's border.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

MAX_WINDOWS_AT_ONCE = 32  # bounds the memory that one very long document takes at inference


def content_mask(attention_mask: Tensor) -> Tensor:
    """Which subwords belong to the text itself.

    Args:
        attention_mask: (batch, subwords), rows padded on the right; the first and the last attended subword of a row
            are its special tokens, as for XLM-R, BERT, DeBERTa and ModernBERT.

    Returns:
        (batch, subwords), boolean.
    """
    attended = attention_mask.bool()
    count = attended.sum(dim=1, keepdim=True)
    order = attended.cumsum(dim=1)
    return attended & (order > 1) & (order < count)


def encoder_window(model: Any) -> int | None:
    """Subwords a `PreTrainedModel` takes at once, special tokens included; `None` if there is no bound."""
    positions = getattr(model.config, "max_position_embeddings", None)
    padding_index = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    # RoBERTa's kind counts positions from the padding index on, the others from 0.
    return positions if positions is None or padding_index is None else positions - padding_index - 1


def window_starts(content: int, size: int, overlap: int) -> list[int]:
    """The first content position of each window over `content` subwords, `size` a window, sharing `overlap`."""
    if content <= size:
        return [0]
    stride = size - overlap
    starts = list(range(0, content - size, stride))
    return [*starts, content - size]


def encode_in_windows(
    encode: Callable[..., Tensor],
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    window: int,
    overlap: int | None = None,
    pad_token_id: int = 0,
    training: bool = False,
    along: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Encode rows longer than `window` subwords.

    Args:
        encode: maps input ids and attention mask, both (windows, subwords), and what is `along` under its names, to
            vectors (windows, subwords, hidden).
        input_ids: (batch, subwords), each row with its two special tokens, padded on the right.
        attention_mask: (batch, subwords).
        window: subwords the encoder takes at most, special tokens included.
        overlap: subwords that neighbouring windows share; `None` is a quarter of the window.
        pad_token_id: fills windows that are shorter than others.
        training: encode all windows in one call, so that the graph is built once.
        along: other (batch, subwords) tensors, token types say, cut as the input ids are and padded with 0.

    Returns:
        (batch, subwords, hidden); zeros on the padding.

    Raises:
        ValueError: if a row is not padded on the right, or the overlap leaves no progress between windows.
    """
    attended = attention_mask.bool()
    counts = attended.sum(dim=1)
    if not bool((attended == (torch.arange(attended.shape[1], device=attended.device) < counts[:, None])).all()):
        raise ValueError("texts longer than the encoder's window must be padded on the right, without holes")
    size = window - 2
    overlap = size // 4 if overlap is None else overlap
    if not 0 <= overlap < size:
        raise ValueError(
            f"window_overlap must be at least 0 and below {size} (window {window} less two), not {overlap}"
        )

    # Where each window's subwords stand in their row, and how far from the window's edges. A row's own first and last
    # subword, its special tokens, frame every window.
    place = torch.arange(window, device=input_ids.device)
    columns, sizes, rows = [], [], []
    for row, count in enumerate(counts.tolist()):
        for start in window_starts(count - 2, size, overlap):
            stop = min(start + size, count - 2)
            column = place + start
            column[0], column[stop - start + 1] = 0, count - 1
            columns.append(column)
            sizes.append(stop - start + 2)
            rows.append(row)
    all_columns, row_of = torch.stack(columns), torch.tensor(rows, device=input_ids.device)[:, None]
    ends = torch.tensor(sizes, device=input_ids.device)[:, None]
    window_mask = place < ends
    all_margins = torch.minimum(place, ends - 1 - place)
    inside = all_columns.where(window_mask, 0)

    def cut(values: Tensor, padding: int) -> Tensor:
        return values[row_of, inside].masked_fill(~window_mask, padding)

    window_ids = cut(input_ids, pad_token_id)
    others = {name: cut(values, 0) for name, values in (along or {}).items()}

    # Every subword is taken from the window position with the widest margin, so keys start with the margin.
    positions = torch.arange(window_ids.numel(), device=input_ids.device)
    keys = (all_margins.flatten() * len(positions) + positions)[window_mask.flatten()]
    target = (row_of * input_ids.shape[1] + all_columns)[window_mask]
    source = torch.full((input_ids.numel(),), -1, device=input_ids.device)
    source = source.scatter_reduce(0, target, keys, "amax")
    source = torch.where(source < 0, -1, source % len(positions))

    # One result that the windows write into: a long document should not be held several times over.
    step = len(window_ids) if training else MAX_WINDOWS_AT_ONCE
    result: Tensor | None = None
    for i in range(0, len(window_ids), step):
        vectors = encode(
            window_ids[i : i + step],
            window_mask[i : i + step].to(attention_mask.dtype),
            **{name: values[i : i + step] for name, values in others.items()},
        ).flatten(0, 1)
        if result is None:
            result = vectors.new_zeros(input_ids.numel(), vectors.shape[1])
        taken = ((source >= i * window) & (source < (i + step) * window)).nonzero()[:, 0]
        result[taken] = vectors[source[taken] - i * window]
    assert result is not None  # there is at least one window
    return result.view(*input_ids.shape, -1)
