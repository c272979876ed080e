"""Words of a ragged batch without the padding, ordered so that a recursion over time needs no mask.

Sentences are sorted by descending length and their words laid out time-major, as in `PackedSequence`: row ``offset_t +
b`` is word t of the b-th longest sentence. The sentences that are still alive at time t are then always the first
``batch_sizes[t]`` rows of the previous step, so a step is a matrix operation on two contiguous slices. The same layout
holds the sentences read from their ends (`mirror`), so a forward and a backward recursion share one loop.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Packing:
    """The row plan of one batch; about a dozen small operations on the CPU.

    Args:
        lengths: (B,) CPU integers, each at least 1.
        T: words in the padded batch.
        device: where the index tensors are needed.

    Attributes:
        batch_sizes: for each time step, how many sentences are alive; their sum is N, the number of words.
        word: (N,) index of each row's word in the padded batch flattened to (B * T).
        mirror: (N,) row of the word with the same place counted from the sentence's other end. Its own inverse.
        sentence: (N,) which sentence (in the batch's order) a row belongs to.
        previous: (N - B,) row of the preceding word, for the rows that have one: all but the first B.
        order: (B,) the sentences by descending length.
        last: (B,) row of each sentence's last word, in `order`.
    """

    def __init__(self, lengths: Tensor, T: int, device: torch.device):
        # numpy: on arrays this small, torch would spend most of its time on starting its operations.
        unsorted = lengths.numpy()
        order = np.argsort(-unsorted, kind="stable")
        ordered = unsorted[order]
        alive = np.arange(ordered[0])[:, None] < ordered
        sizes = alive.sum(1)
        offsets = np.cumsum(sizes) - sizes
        time, rank = alive.nonzero()
        sentence = order[rank]
        B = len(ordered)
        plan = [
            sentence * T + time,
            offsets[ordered[rank] - 1 - time] + rank,
            sentence,
            (offsets[time - 1] + rank)[B:],
            order,
            offsets[ordered - 1] + np.arange(B),
        ]
        self.batch_sizes: list[int] = sizes.tolist()
        rows = [torch.from_numpy(part).to(device, non_blocking=True) for part in plan]
        self.word, self.mirror, self.sentence, self.previous, self.order, self.last = rows

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
