"""Maxima over all paths: the best one and the k best ones, exactly.

Best path
---------
Let f_t(j) be the score of the best prefix that ends at word t in tag j, without that word's emission, and h_t(j) the
score of the best completion from there, emission included. Both follow the same recursion, f on the sentence read
forwards and h on the sentence read backwards, so one loop on packed rows (see `Packing` in `crf_batch.py`) computes
them. f_t(j) + h_t(j) is the score of the best path through (t, j). If at every word a single tag comes within rounding
of the maximum, those tags *are* the best path, because every tag of the best path reaches the maximum; no
back-pointers are needed. With ties (or many tags, when the second direction costs more than it saves) the path is
followed forwards along h instead, and the lowest tag wins.

k best paths
------------
A forward beam keeps k distinct prefixes, ranked by regret: how much the best completion of a prefix falls short of the
best path. Extending a prefix in state s by tag j adds max_i (trans(s, i) + h(i)) - (trans(s, j) + h(j)) >= 0, and
exactly 0.0 for the best extension, since the same floating-point numbers are subtracted. So the k best extensions come
from the k best prefixes (one extension of each keeps the regret of its prefix, and these k already outrank every
extension of a worse prefix), the beam never loses one of the k best paths, and its first k' entries are the beam of
size k'. Ties are broken by (rank of the prefix, tag): the low mantissa bits of the regret that orders the candidates,
too few to matter beyond rounding, are replaced by the candidate's number, which also makes every key unique. Prefixes
are distinct by construction, and so are the paths.

Shapes: B sentences of at most T words, N words in all (packed rows), C tags; scores are float64 and in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .crf_batch import Chain
from .crf_compiled import native_best_path, native_k_best, native_maxima
from .crf_reference import IMPOSSIBLE, LIMIT
from .tag_scheme import IGNORED

MAX_TWO_WAY_TAGS = 24  # up to here a second direction in the same operations is cheaper than following the path


# ---- recursions on packed rows ----


def max_plus(X: Tensor, transitions: Tensor, first: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Best scores over prefixes that end in a tag, in D reading directions.

    Args:
        X: (N, D, C) packed emissions.
        transitions: (C, D, C) [from, direction, to].
        first: (D, C) scores of each direction's first tag.
        sizes: batch sizes of the packing.

    Returns:
        The scores without and with the emission of the prefix' last word, both (N, D, C).
    """
    D, C = X.shape[1:]
    before, after = torch.empty_like(X), torch.empty_like(X)
    before[: sizes[0]] = first
    torch.add(before[: sizes[0]], X[: sizes[0]], out=after[: sizes[0]])
    # The maximum runs over the first axis of (from, batch, direction, to), where it vectorises.
    sums = X.new_empty(C, sizes[0], D, C)
    transitions = transitions.unsqueeze(1)
    source_steps = after.permute(2, 0, 1).unsqueeze(3).split(sizes, 1)
    before_steps, after_steps, X_steps = before.split(sizes), after.split(sizes), X.split(sizes)
    add, amax, size = torch.add, torch.amax, sizes[0]
    for t in range(1, len(sizes)):
        source = source_steps[t - 1]
        if sizes[t] != size:
            size = sizes[t]
            sums = sums[:, :size]
            source = source[:, :size]
        add(source, transitions, out=sums)
        amax(sums, 0, out=before_steps[t])
        add(before_steps[t], X_steps[t], out=after_steps[t])
    return before, after


def follow(completion: Tensor, transitions: Tensor, start: Tensor, sizes: list[int]) -> Tensor:
    """Tags (N,) of the best path, from the scores (N, C) of the best completions; the lowest tag wins ties."""
    tags = torch.empty(len(completion), dtype=torch.long, device=completion.device)
    completion_steps, tag_steps, size = completion.split(sizes), tags.split(sizes), sizes[0]
    torch.argmax(start + completion_steps[0], 1, out=tag_steps[0])
    for t in range(1, len(sizes)):
        source = tag_steps[t - 1] if sizes[t] == size else tag_steps[t - 1][: sizes[t]]
        size = sizes[t]
        torch.argmax(transitions.index_select(0, source).add_(completion_steps[t]), 1, out=tag_steps[t])
    return tags


def _smallest(regret: Tensor, k: int, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The k smallest of each row of non-negative float64 numbers, ascending, the first of equals first; their columns.

    ``numbers`` is 0, 1, 2, ..., at least as many as there are columns.
    """
    n = regret.shape[1]
    mask = (1 << (n - 1).bit_length()) - 1
    # Non-negative floats are ordered like their bits; the sign bit is cleared for the sake of -0.0.
    key = regret.view(torch.int64).bitwise_and(~mask & (2**63 - 1)).bitwise_or_(numbers[:n])
    index = key.topk(min(k, n), 1, largest=False, sorted=True).values.bitwise_and_(mask)
    return regret.gather(1, index), index


def beam(
    completion: Tensor, rest: Tensor, transitions: Tensor, start: Tensor, sizes: list[int], k: int
) -> tuple[Tensor, Tensor]:
    """The k best paths and their regrets.

    Args:
        completion: (N, C) best score from a word's tag to the end, the word's emission included.
        rest: (N, C) the same without the word's emission: the maximum over next tags of transition + completion.
        transitions: (C, C) [from, to].
        start: (C,) scores of the first tag.
        sizes: batch sizes of the packing.
        k: number of paths per sentence.

    Returns:
        tags (N, k); regrets (B, k) >= 0, `LIMIT` or more where there is no such path, sentences in packed order.
    """
    B, C = sizes[0], completion.shape[1]
    completion_steps, rest_steps = completion.split(sizes), rest.split(sizes)
    total = start + completion_steps[0]
    numbers = torch.arange(k * C, device=total.device)
    regret, choice = _smallest(total.amax(1, keepdim=True) - total, k, numbers)
    final = total.new_full((B, k), float("inf"))
    choices, states = [choice], [choice]
    for t in range(1, len(sizes)):
        size, state = sizes[t], states[-1]
        if size != sizes[t - 1]:
            final[size : sizes[t - 1], : regret.shape[1]] = regret[size:]
            regret, state = regret[:size], state[:size]
        step = transitions.index_select(0, state.flatten()).view(size, -1, C).add_(completion_steps[t].unsqueeze(1))
        reachable = rest_steps[t - 1][:size].gather(1, state).unsqueeze(2)
        step = torch.sub(reachable, step, out=step).add_(regret.unsqueeze(2))
        regret, choice = _smallest(step.flatten(1), k, numbers)
        choices.append(choice)
        states.append(choice.remainder(C))
    final[: len(regret), : regret.shape[1]] = regret
    tags = torch.empty(len(completion), k, dtype=torch.long, device=completion.device)
    tag_steps = tags.split(sizes)
    final_ranks = torch.arange(k, device=tags.device).repeat(B, 1)
    for t in range(len(sizes) - 1, -1, -1):
        ranks = final_ranks[: sizes[t]]
        if choices[t].shape[1] < k:
            # Ranks beyond the beam do not exist; their infinite regret masks them.
            ranks.clamp_(max=choices[t].shape[1] - 1)
        torch.gather(states[t], 1, ranks, out=tag_steps[t])
        if t > 0:
            ranks.copy_(choices[t].gather(1, ranks).div_(C, rounding_mode="floor"))
    return tags, final


# ---- the batch ----


class _PackedScores:
    """The float64 scores of a batch on packed rows, `IMPOSSIBLE` at structural zeros, and searches on them."""

    def __init__(self, chain: Chain):
        scores = chain.detached()
        self.T = scores.emissions.shape[1]
        self.packing, self.sizes = chain.packing, chain.packing.batch_sizes
        self.emissions = self.packing.pack(scores.emissions).double().clamp_(min=IMPOSSIBLE)
        self.transitions, self.start, self.end = (part.double().clamp(min=IMPOSSIBLE) for part in scores[1:])

    def completions(self) -> tuple[Tensor, Tensor]:
        """Best scores (N, C) from a word's tag to the end, without and with the word's emission."""
        mirror = self.packing.mirror
        X = self.emissions.index_select(0, mirror).unsqueeze(1)
        rest, completion = max_plus(X, self.transitions.T.unsqueeze(1), self.end[None], self.sizes)
        return rest[:, 0].index_select(0, mirror), completion[:, 0].index_select(0, mirror)

    def follow(self, completion: Tensor) -> tuple[Tensor, Tensor]:
        """Tags (N,) of the best paths and their scores (B,), from the best completions (N, C)."""
        best = (self.start + completion[: self.sizes[0]]).amax(1)
        return follow(completion, self.transitions, self.start, self.sizes), best

    def search_both_ways(self) -> tuple[Tensor, Tensor]:
        """The same from both directions at once, see the module."""
        emissions, mirror = self.emissions, self.packing.mirror
        X = torch.stack([emissions, emissions.index_select(0, mirror)], 1)
        transitions = torch.stack([self.transitions, self.transitions.T], 1)
        before, after = max_plus(X, transitions, torch.stack([self.start, self.end]), self.sizes)
        completion = after[:, 1].index_select(0, mirror)
        path_scores = before[:, 0] + completion
        best = path_scores.amax(1)
        if int((path_scores >= (best - self._rounding()).unsqueeze(1)).sum()) > len(best):
            return self.follow(completion)
        return path_scores.argmax(1), best[: self.sizes[0]]

    def _rounding(self) -> float:
        """A generous bound on the rounding error of a sum along a path, nats."""
        parts = (self.emissions, self.transitions, self.start, self.end)
        largest = max(float(torch.where(part > -LIMIT, part, 0.0).abs().amax()) for part in parts)
        return 8 * torch.finfo(torch.float64).eps * (len(self.sizes) + 1) ** 2 * largest


@torch.compiler.disable
def best_path(chain: Chain) -> Tensor:
    """Tags (B, T) of the best path; -100 on padding and where no path exists."""
    if native_maxima(chain):
        return native_best_path(chain)
    with torch.inference_mode():
        packed = _PackedScores(chain)
        if len(packed.start) <= MAX_TWO_WAY_TAGS:
            tags, best = packed.search_both_ways()
        else:
            tags, best = packed.follow(packed.completions()[1])
        tags = torch.where((best > -LIMIT)[_sentence_rank(packed)], tags, IGNORED)
    return _padded(packed, tags)


@torch.compiler.disable
def k_best(chain: Chain, k: int) -> tuple[Tensor, Tensor]:
    """The k best paths.

    Returns:
        Tags (B, K, T), -100 on padding and throughout a path that does not exist; whether each path exists (B, K).
    """
    if native_maxima(chain):
        return native_k_best(chain, k)
    with torch.inference_mode():
        packed = _PackedScores(chain)
        rest, completion = packed.completions()
        tags, regret = beam(completion, rest, packed.transitions, packed.start, packed.sizes, k)
        best = (packed.start + completion[: packed.sizes[0]]).amax(1, keepdim=True)
        valid = (regret < LIMIT) & (best > -LIMIT)
        tags = torch.where(valid[_sentence_rank(packed)], tags, IGNORED)
        order = packed.packing.order
    exists = torch.empty_like(valid, dtype=torch.bool).index_copy_(0, order.clone(), valid.clone())
    return _padded(packed, tags).transpose(1, 2).contiguous(), exists


def _sentence_rank(packed: _PackedScores) -> Tensor:
    """The place (N,) of each row's sentence in the packed order."""
    order = packed.packing.order
    rank = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    return rank[packed.packing.sentence]


def _padded(packed: _PackedScores, tags: Tensor) -> Tensor:
    """Tags (N, ...) to (B, T, ...), -100 on padding; called outside inference mode, so that any mode may use them."""
    B, T = packed.sizes[0], packed.T
    padded = torch.full((B * T, *tags.shape[1:]), IGNORED, dtype=torch.long, device=tags.device)
    return padded.index_copy_(0, packed.packing.word, tags).view(B, T, *tags.shape[1:])
