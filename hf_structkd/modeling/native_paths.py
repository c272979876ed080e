"""The best path and the k best paths of `viterbi.py` as compiled loops, one sentence at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .chain import Chain
from .log_space import IMPOSSIBLE, LIMIT
from .native import array, compiled


@compiled
def _completions(emissions, back, end, impossible, rest, completion):
    """Best scores (n, C) to the end of a sentence, without and with the word's own emission; back is [to, from]."""
    n, C = rest.shape
    for t in range(n - 1, -1, -1):
        if t == n - 1:
            rest[t] = end
        else:
            rest[t] = -np.inf
            for j in range(C):
                score = completion[t + 1, j]
                for i in range(C):
                    rest[t, i] = max(rest[t, i], score + back[j, i])
        for j in range(C):
            completion[t, j] = rest[t, j] + max(emissions[t, j], impossible)


@compiled
def _best_path(emissions, lengths, transitions, back, start, end, impossible, limit, tags):
    B, T, C = emissions.shape
    rest, completion = np.empty((T, C)), np.empty((T, C))
    for b in range(B):
        n = lengths[b]
        _completions(emissions[b], back, end, impossible, rest[:n], completion[:n])
        first = start + completion[0]
        tag = np.argmax(first)
        if first[tag] <= -limit:
            continue
        tags[b, 0] = tag
        for t in range(1, n):
            tag = np.argmax(transitions[tag] + completion[t])
            tags[b, t] = tag


@compiled
def _offer(key, value, keys, values, count, k):
    """Insert into a list of the k smallest keys, in order; returns its new length."""
    if count == k:
        if key >= keys[k - 1]:
            return count
        place = k - 1
    else:
        place = count
        count += 1
    while place > 0 and keys[place - 1] > key:
        keys[place] = keys[place - 1]
        values[place] = values[place - 1]
        place -= 1
    keys[place] = key
    values[place] = value
    return count


@compiled
def _k_best(emissions, lengths, transitions, back, start, end, impossible, limit, k, tags, valid):
    """The regret beam; a candidate's low mantissa bits are replaced by its number, as `viterbi._smallest` does."""
    B, T, C = emissions.shape
    rest, completion = np.empty((T, C)), np.empty((T, C))
    choices = np.empty((T, k), np.int64)
    values, width = np.empty(k), 0
    keys, fresh = np.empty(k, np.int64), np.empty(k)
    cell = np.empty(1)
    bits = cell.view(np.int64)
    for b in range(B):
        length = lengths[b]
        _completions(emissions[b], back, end, impossible, rest[:length], completion[:length])
        if (start + completion[0]).max() <= -limit:
            continue
        for t in range(length):
            options = C if t == 0 else width * C
            mask = np.int64(1)
            while mask < options:
                mask *= 2
            mask -= 1
            keep = ~mask & np.int64(2**63 - 1)
            count = 0
            for rank in range(1 if t == 0 else width):
                if t == 0:
                    top = (start + completion[0]).max()
                    edges, so_far = start, 0.0
                else:
                    state = choices[t - 1, rank] % C
                    top = rest[t - 1, state]
                    edges, so_far = transitions[state], values[rank]
                    cell[0] = so_far
                    if count == k and (bits[0] & keep) > keys[k - 1]:
                        break  # this prefix and all after it are worse than what is in the list
                for j in range(C):
                    cell[0] = (top - (edges[j] + completion[t, j])) + so_far
                    count = _offer((bits[0] & keep) | (rank * C + j), cell[0], keys, fresh, count, k)
            width = count
            for n in range(width):
                choices[t, n] = keys[n] & mask
                values[n] = fresh[n]
        for n in range(width):
            if values[n] >= limit:
                break
            valid[b, n] = True
            rank = n
            for t in range(length - 1, -1, -1):
                tags[b, n, t] = choices[t, rank] % C
                rank = choices[t, rank] // C


def _arrays(chain: Chain):
    scores = chain.detached()
    transitions, start, end = (part.double().clamp(min=IMPOSSIBLE) for part in scores[1:])
    parts = (scores.emissions, chain.lengths, transitions, transitions.T, start, end)
    return [*map(array, parts), IMPOSSIBLE, LIMIT]


def native_best_path(chain: Chain) -> Tensor:
    """What `viterbi.best_path` returns."""
    tags = torch.full(chain.scores.emissions.shape[:2], -100)
    _best_path(*_arrays(chain), tags.numpy())
    return tags


def native_k_best(chain: Chain, k: int) -> tuple[Tensor, Tensor]:
    """What `viterbi.k_best` returns."""
    B, T, _ = chain.scores.emissions.shape
    tags, valid = torch.full((B, k, T), -100), torch.zeros(B, k, dtype=torch.bool)
    _k_best(*_arrays(chain), k, tags.numpy(), valid.numpy())
    return tags, valid
