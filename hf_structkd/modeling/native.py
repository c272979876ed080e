"""Optional compiled loops for the CPU: the functions of `forward_backward.py` and `viterbi.py`, by numba.

The torch loops spend most of their time on starting some hundred small operations; compiled, the same loops on the
same arrays are several times faster. They are an option and not the default: numba need not be installed (the ``fast``
extra), its first call compiles for some seconds, and results should not depend on what happens to be installed. Switch
them on with ``use_native(True)`` or the environment variable ``HF_STRUCTKD_NATIVE=1``; tensors on other devices keep
using torch. Both ways agree to rounding, k-best order and ties included, which the tests check.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import numba as _numba
    import numpy as np

    numba: Any = _numba
except ImportError:
    numba = None

_enabled = os.environ.get("HF_STRUCTKD_NATIVE", "0") not in ("", "0")


def use_native(on: bool) -> bool:
    """Use compiled loops for CPU tensors from now on, or stop using them. Returns what was set before.

    Raises:
        ImportError: if they are wanted and numba is not installed.
    """
    global _enabled
    if on and numba is None:
        raise ImportError("compiled CRF loops need numba: pip install 'hf_structkd[fast]'")
    before, _enabled = _enabled, on
    return before


def native(name: str, tensor: Tensor) -> Callable[..., Any] | None:
    """The compiled version of a loop if it is to be used for this tensor, else None. The one place that decides."""
    return _LOOPS[name] if _enabled and numba is not None and tensor.device.type == "cpu" else None


def _compile(function):
    if numba is None:
        return function
    try:
        return numba.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # nowhere to keep the compiled code
        return numba.njit(error_model="numpy")(function)


def _plan(sizes: list[int]):
    counts = np.array(sizes, dtype=np.int64)
    return counts, np.cumsum(counts) - counts


@_compile
def _sum_product(X, E, first, sizes, offsets, every, P, A, scale):
    C = E.shape[1]
    for b in range(sizes[0]):
        for d in range(2):
            base = d * C
            for j in range(C):
                P[b, base + j] = first[base + j]
                A[b, base + j] = P[b, base + j] * X[b, base + j]
            row = b
            for t in range(1, len(sizes)):
                if b >= sizes[t]:
                    break
                before, row = row, offsets[t] + b
                into = P[row, base : base + C]
                into[:] = 0.0
                for i in range(C):
                    a = A[before, base + i]
                    edges = E[d, i]
                    for j in range(C):
                        into[j] += a * edges[j]
                for j in range(C):
                    A[row, base + j] = into[j] * X[row, base + j]
                if t % every == 0:
                    peak = A[row, base : base + C].max()
                    if peak == 0.0:
                        peak = 1.0
                    for j in range(C):
                        A[row, base + j] /= peak
                        X[row, base + j] /= peak
                    if d == 0:
                        scale[b] += np.log(peak)


@_compile
def _sum_product_with_source(X, E, source, sizes, offsets, M, G):
    C = E.shape[1]
    for b in range(sizes[0]):
        for d in range(2):
            base = d * C
            for j in range(C):
                M[b, base + j] = 0.0
                G[b, base + j] = source[b, base + j]
            row = b
            for t in range(1, len(sizes)):
                if b >= sizes[t]:
                    break
                before, row = row, offsets[t] + b
                into = M[row, base : base + C]
                into[:] = 0.0
                for i in range(C):
                    a = G[before, base + i]
                    edges = E[d, i]
                    for j in range(C):
                        into[j] += a * edges[j]
                for j in range(C):
                    G[row, base + j] = source[row, base + j] + into[j] * X[row, base + j]


@_compile
def _max_plus(X, transitions, first, sizes, offsets, before, after):
    _, D, C = X.shape
    for b in range(sizes[0]):
        for d in range(D):
            for j in range(C):
                before[b, d, j] = first[d, j]
                after[b, d, j] = first[d, j] + X[b, d, j]
            row = b
            for t in range(1, len(sizes)):
                if b >= sizes[t]:
                    break
                previous, row = row, offsets[t] + b
                into = before[row, d]
                into[:] = -np.inf
                for i in range(C):
                    score = after[previous, d, i]
                    edges = transitions[d, i]
                    for j in range(C):
                        into[j] = max(into[j], score + edges[j])
                for j in range(C):
                    after[row, d, j] = into[j] + X[row, d, j]


@_compile
def _walk(completion, transitions, start, sizes, offsets, tags):
    for b in range(sizes[0]):
        tag = np.argmax(start + completion[b])
        tags[b] = tag
        for t in range(1, len(sizes)):
            if b >= sizes[t]:
                break
            row = offsets[t] + b
            tag = np.argmax(transitions[tag] + completion[row])
            tags[row] = tag


@_compile
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


@_compile
def _beam(completion, rest, transitions, start, sizes, offsets, k, tags, regrets):
    C = len(start)
    T = len(sizes)
    choices = np.empty((T, k), np.int64)
    values, width = np.empty(k), 0
    keys, fresh = np.empty(k, np.int64), np.empty(k)
    cell = np.empty(1)
    bits = cell.view(np.int64)
    for b in range(sizes[0]):
        length = T
        while sizes[length - 1] <= b:
            length -= 1
        for t in range(length):
            row = offsets[t] + b
            options = C if t == 0 else width * C
            mask = np.int64(1)
            while mask < options:
                mask *= 2
            mask -= 1
            keep = ~mask & np.int64(2**63 - 1)
            count = 0
            for rank in range(1 if t == 0 else width):
                if t == 0:
                    top = (start + completion[row]).max()
                    edges, so_far = start, 0.0
                else:
                    state = choices[t - 1, rank] % C
                    top = rest[offsets[t - 1] + b, state]
                    edges, so_far = transitions[state], values[rank]
                    cell[0] = so_far
                    if count == k and (bits[0] & keep) > keys[k - 1]:
                        break  # this prefix and all after it are worse than what is in the list
                for j in range(C):
                    cell[0] = (top - (edges[j] + completion[row, j])) + so_far
                    count = _offer((bits[0] & keep) | (rank * C + j), cell[0], keys, fresh, count, k)
            width = count
            for n in range(width):
                choices[t, n] = keys[n] & mask
                values[n] = fresh[n]
        for n in range(k):
            regrets[b, n] = values[n] if n < width else np.inf
            rank = min(n, width - 1)
            for t in range(length - 1, -1, -1):
                # Ranks that do not exist stay within the (narrower) beam of earlier words; their regret masks them.
                tags[offsets[t] + b, n] = choices[t, rank] % C
                rank = choices[t, rank] // C


def _paired(E: Tensor):
    C = len(E) // 2
    return torch.stack([E[:C, :C], E[C:, C:]]).numpy()


def sum_product(X: Tensor, paired: Tensor, first: Tensor, sizes: list[int], every: int):
    P, A, scale = torch.empty_like(X), torch.empty_like(X), X.new_zeros(sizes[0])
    results = (P.numpy(), A.numpy(), scale.numpy())
    _sum_product(X.numpy(), _paired(paired), first.numpy(), *_plan(sizes), every, *results)
    return P, A, scale


def sum_product_with_source(X: Tensor, paired: Tensor, source: Tensor, sizes: list[int]):
    M, G = torch.empty_like(X), torch.empty_like(X)
    _sum_product_with_source(X.numpy(), _paired(paired), source.numpy(), *_plan(sizes), M.numpy(), G.numpy())
    return M, G


def max_plus(X: Tensor, transitions: Tensor, first: Tensor, sizes: list[int]):
    before, after = torch.empty_like(X), torch.empty_like(X)
    edges = transitions.transpose(0, 1).contiguous().numpy()
    _max_plus(X.contiguous().numpy(), edges, first.numpy(), *_plan(sizes), before.numpy(), after.numpy())
    return before, after


def walk(completion: Tensor, transitions: Tensor, start: Tensor, sizes: list[int]):
    tags = torch.empty(len(completion), dtype=torch.long)
    _walk(completion.numpy(), transitions.contiguous().numpy(), start.numpy(), *_plan(sizes), tags.numpy())
    return tags


def beam(completion: Tensor, rest: Tensor, transitions: Tensor, start: Tensor, sizes: list[int], k: int):
    tags = torch.empty(len(completion), k, dtype=torch.long)
    regrets = completion.new_empty(sizes[0], k)
    scores = (completion.numpy(), rest.numpy(), transitions.contiguous().numpy(), start.numpy())
    _beam(*scores, *_plan(sizes), k, tags.numpy(), regrets.numpy())
    return tags, regrets


_LOOPS: dict[str, Callable[..., Any]] = {
    "sum_product": sum_product,
    "sum_product_with_source": sum_product_with_source,
    "max_plus": max_plus,
    "walk": walk,
    "beam": beam,
}
