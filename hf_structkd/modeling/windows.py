"""Encoding of texts that are longer than the encoder's window: overlapping windows in, one sequence of vectors out.

Nothing is truncated. Each subword's vector comes from the window in which it is farthest from an edge, and the CRF
then runs over all words as one chain, so that no tag sequence is broken at the border of a window.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

MAX_WINDOWS_AT_ONCE = 32  # bounds the memory for one very long document at inference


def content_mask(attention_mask: Tensor) -> Tensor:
    """The subwords of the text itself, without its special tokens.

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
    """The subwords that a `PreTrainedModel` reads at once, special tokens included; `None` if there is no bound."""
    positions = getattr(model.config, "max_position_embeddings", None)
    padding_index = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    # RoBERTa and its relatives count positions from the padding index on, the others from 0.
    return positions if positions is None or padding_index is None else positions - padding_index - 1


def window_starts(content: int, size: int, overlap: int) -> list[int]:
    """The first position of each window over `content` subwords, `size` per window, `overlap` shared by neighbours."""
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
    extra_inputs: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Encode rows longer than `window` subwords.

    Args:
        encode: maps input ids and attention mask, both (windows, subwords), and the `extra_inputs` by name, to vectors
            (windows, subwords, hidden).
        input_ids: (batch, subwords), each row with its two special tokens, padded on the right.
        attention_mask: (batch, subwords).
        window: the most subwords that the encoder reads at once, special tokens included.
        overlap: subwords that neighbouring windows share; `None` for a quarter of the window.
        pad_token_id: pads windows that are shorter than others.
        training: encode all windows in one call, so that the graph is built once.
        extra_inputs: other (batch, subwords) tensors by name, such as token types, cut like the input ids and padded
            with 0.

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

    # For each window its subwords' columns in their row, and their distance (margin) from the window's edges. The
    # first and last subword of a row, its special tokens, frame each of its windows.
    position = torch.arange(window, device=input_ids.device)
    columns, sizes, rows = [], [], []
    for row, count in enumerate(counts.tolist()):
        for start in window_starts(count - 2, size, overlap):
            stop = min(start + size, count - 2)
            column = position + start
            column[0], column[stop - start + 1] = 0, count - 1
            columns.append(column)
            sizes.append(stop - start + 2)
            rows.append(row)
    all_columns, row_index = torch.stack(columns), torch.tensor(rows, device=input_ids.device)[:, None]
    ends = torch.tensor(sizes, device=input_ids.device)[:, None]
    window_mask = position < ends
    all_margins = torch.minimum(position, ends - 1 - position)
    inside = all_columns.where(window_mask, 0)

    def cut(values: Tensor, padding: int) -> Tensor:
        return values[row_index, inside].masked_fill(~window_mask, padding)

    window_ids = cut(input_ids, pad_token_id)
    extra_windows = {name: cut(values, 0) for name, values in (extra_inputs or {}).items()}

    # Each subword's vector comes from the window position with the widest margin, so keys start with the margin.
    positions = torch.arange(window_ids.numel(), device=input_ids.device)
    keys = (all_margins.flatten() * len(positions) + positions)[window_mask.flatten()]
    target = (row_index * input_ids.shape[1] + all_columns)[window_mask]
    source = torch.full((input_ids.numel(),), -1, device=input_ids.device)
    source = source.scatter_reduce(0, target, keys, "amax")
    source = torch.where(source < 0, -1, source % len(positions))

    # All windows write into one result, so that a long document is not kept several times.
    step = len(window_ids) if training else MAX_WINDOWS_AT_ONCE
    result: Tensor | None = None
    for i in range(0, len(window_ids), step):
        vectors = encode(
            window_ids[i : i + step],
            window_mask[i : i + step].to(attention_mask.dtype),
            **{name: values[i : i + step] for name, values in extra_windows.items()},
        ).flatten(0, 1)
        if result is None:
            result = vectors.new_zeros(input_ids.numel(), vectors.shape[1])
        covered = ((source >= i * window) & (source < (i + step) * window)).nonzero()[:, 0]
        result[covered] = vectors[source[covered] - i * window]
    assert result is not None  # there is at least one window
    return result.view(*input_ids.shape, -1)
