"""Sums and maxima over all paths as loops that numba compiles for the CPU.

The torch loops of `crf_sums.py` and `crf_paths.py` spend most of their time on starting some hundred small operations.
This module has the same recursions as plain loops over the words of one sentence after the other, several times
faster. They are optional and off by default: numba need not be installed (the ``fast`` extra), its first call compiles
for some seconds, and results should not depend on the installed packages. ``use_native(True)`` or the environment
variable ``HF_STRUCTKD_NATIVE=1`` switches them on; tensors on other devices keep using torch. Both implementations
agree to rounding, k-best order and ties included, which the tests check.

The forward-backward pass (`NativePass`) follows the formulas of `crf_sums.py`, rescaled at every word:

    alpha_t = (alpha_{t-1} E) * x_t / f_t,    right_t = (E right_{t+1}) * x_t / b_t

where f_t and b_t make each message sum to one; the sources of the covariance are rescaled with them.
`native_best_path` and `native_k_best` follow `crf_paths.py`.

Shapes: B sentences of at most T words, C tags; scores are float64 and in nats.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .crf_batch import Chain
from .crf_reference import IMPOSSIBLE, LIMIT
from .crf_sums import TINY, Messages, Potentials
from .tag_scheme import IGNORED

try:
    import numba as _numba

    numba: Any = _numba
except ImportError:
    numba = None

# ---- the switch and the compiler ----

_enabled = os.environ.get("HF_STRUCTKD_NATIVE", "0") not in ("", "0")


def use_native(on: bool) -> bool:
    """Switch compiled loops for CPU tensors on or off.

    Args:
        on: whether to use them from now on.

    Returns:
        The setting before the call.

    Raises:
        ImportError: if they are switched on and numba is not installed.
    """
    global _enabled
    if on and numba is None:
        raise ImportError("compiled CRF loops need numba: pip install 'hf_structkd[fast]'")
    before, _enabled = _enabled, on
    return before


def native_enabled(device: torch.device) -> bool:
    """Whether tensors on this device use compiled loops."""
    return _enabled and numba is not None and device.type == "cpu"


def compiled(function):
    """Decorator: numba compiles the function at its first call.

    Constants of other modules must be arguments: numba keeps compiled code until the function's own file changes.
    """
    if numba is None:
        return function
    try:
        return numba.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to keep the compiled code in
        return numba.njit(error_model="numpy")(function)


def array(tensor: Tensor):
    """A tensor as a numpy array for compiled loops: contiguous, without gradients, float32 for half precision."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.detach().contiguous().numpy()


# ---- sums over all paths ----


@compiled
def _add_product(source, E, target):
    """target += source E."""
    C = len(target)
    for i in range(C):
        weight = source[i]
        for j in range(C):
            target[j] += weight * E[i, j]


@compiled
def _step(previous, E, x, tiny, prior, message):
    """prior = previous E, then `_normalise`; all but the matrix E (C, C) are (C,)."""
    prior[:] = 0.0
    _add_product(previous, E, prior)
    return _normalise(previous, E, x, tiny, prior, message)


@compiled
def _normalise(previous, E, x, tiny, prior, message):
    """message = prior * x / its sum. Returns the sum: 0 if no path arrives, -1 if a value that matters was lost."""
    C = len(x)
    total, least = 0.0, 1.0
    for j in range(C):
        message[j] = prior[j] * x[j]
        total += message[j]
        least = min(least, message[j])
    if least < tiny:
        for j in range(C):
            if message[j] < tiny and x[j] > 0.0:
                if prior[j] > 0.0:
                    return -1.0
                for i in range(len(previous)):
                    if previous[i] > 0.0 and E[i, j] > 0.0:
                        return -1.0
    if total > 0.0:
        for j in range(C):
            message[j] /= total
    return total


@compiled
def _messages(x, emissions, lengths, E, E_back, first, last, tiny, left, alpha, right, Z, forward, backward, log_z):
    """Fill left, alpha, right (B, T, C), Z and the factors (B, T); add to log_z (B,). Whether nothing was lost."""
    B, _, C = x.shape
    scratch, no_message = np.empty(C), np.empty(0)
    for b in range(B):
        n = lengths[b]
        for t in range(n):
            for j in range(C):
                if not x[b, t, j] >= tiny and emissions[b, t, j] != -np.inf:
                    return False
        for j in range(C):
            left[b, 0, j] = first[j]
            scratch[j] = last[j]
        forward[b, 0] = _normalise(no_message, E, x[b, 0], tiny, left[b, 0], alpha[b, 0])
        backward[b, n - 1] = _normalise(no_message, E, x[b, n - 1], tiny, scratch, right[b, n - 1])
        for t in range(1, n):
            forward[b, t] = _step(alpha[b, t - 1], E, x[b, t], tiny, left[b, t], alpha[b, t])
            u = n - 1 - t
            backward[b, u] = _step(right[b, u + 1], E_back, x[b, u], tiny, scratch, right[b, u])
        for t in range(n):
            if forward[b, t] < 0.0 or backward[b, t] < 0.0:
                return False
            z, passable = 0.0, False
            for j in range(C):
                z += left[b, t, j] * right[b, t, j]
                passable |= left[b, t, j] > 0.0 and right[b, t, j] > 0.0
            if passable and z < tiny:
                return False
            Z[b, t] = z if passable else 1.0
            log_z[b] += np.log(forward[b, t])
            if forward[b, t] == 0.0:
                forward[b, t] = 1.0
            if backward[b, t] == 0.0:
                backward[b, t] = 1.0
        final, can_end = 0.0, False
        for j in range(C):
            final += alpha[b, n - 1, j] * last[j]
            can_end |= alpha[b, n - 1, j] > 0.0 and last[j] > 0.0
        if can_end and final < tiny:
            return False
        log_z[b] += np.log(final)
    return True


@compiled
def _log_partition_gradient(upstream, lengths, left, alpha, right, Z, nodes, edges):
    """Fill nodes (B, T, C) and edges (C, C), the latter still without the factor E."""
    B, _, C = left.shape
    for b in range(B):
        for t in range(lengths[b]):
            scale = upstream[b] / Z[b, t]
            for j in range(C):
                nodes[b, t, j] = scale * left[b, t, j] * right[b, t, j]
            if t > 0:
                for i in range(C):
                    weight = scale * alpha[b, t - 1, i]
                    for j in range(C):
                        edges[i, j] += weight * right[b, t, j]


@compiled
def _log_marginals_gradient(upstream, lengths, x, E, E_back, left, alpha, right, Z, forward, backward, nodes, edges):
    """The same for the covariance of `crf_sums.py`; 1 / Q is x / (right b), Q being right without the emission."""
    B, T, C = left.shape
    u, M = np.empty((T, C)), np.empty((T, C))
    H, H_right = np.empty((T, C)), np.empty((T, C))
    for b in range(B):
        n, mean = lengths[b], 0.0
        for t in range(n):
            for j in range(C):
                passable = left[b, t, j] > 0.0 and right[b, t, j] > 0.0
                u[t, j] = upstream[b, t, j] if passable else 0.0
                mean += u[t, j]
        for t in range(n):
            M[t] = 0.0
            if t > 0:
                _add_product(H[t - 1], E, M[t])
            for j in range(C):
                H[t, j] = 0.0
                if left[b, t, j] > 0.0 and right[b, t, j] > 0.0:
                    y = x[b, t, j] / backward[b, t]
                    H[t, j] = M[t, j] * y + u[t, j] * (y / right[b, t, j])
        for t in range(n - 1, -1, -1):
            H_right[t] = 0.0
            if t < n - 1:
                _add_product(H_right[t + 1], E_back, H_right[t])
            for j in range(C):
                if left[b, t, j] > 0.0 and right[b, t, j] > 0.0:
                    H_right[t, j] = H_right[t, j] * (x[b, t, j] / forward[b, t]) + u[t, j] / left[b, t, j]
                else:
                    H_right[t, j] = 0.0
        for t in range(n):
            for j in range(C):
                covariance = M[t, j] * right[b, t, j] + left[b, t, j] * H_right[t, j]
                nodes[b, t, j] = covariance - mean * (left[b, t, j] * right[b, t, j] / Z[b, t])
            if t > 0:
                for i in range(C):
                    weight = H[t - 1, i] - mean * (alpha[b, t - 1, i] / Z[b, t])
                    prefix = alpha[b, t - 1, i]
                    for j in range(C):
                        edges[i, j] += weight * right[b, t, j] + prefix * H_right[t, j]


class NativePass(Messages):
    """The forward-backward pass on padded arrays."""

    def __init__(self, chain: Chain):
        scores = chain.detached()
        self.chain, emissions = chain, scores.emissions
        potentials = Potentials(emissions, scores)
        B, T, C = emissions.shape
        self.x, self.E, self.E_back = potentials.x, potentials.E, potentials.E.T.contiguous()
        self.alpha = self.x.new_zeros(B, T, C)
        self.left, self.right = self.x.new_ones(2, B, T, C)  # 1 on padding too: their logarithm is taken
        self.Z, self.forward, self.backward = self.x.new_ones(3, B, T)
        steps = (chain.lengths - 1).double()
        peaks = potentials.word_peaks.masked_fill(~chain.alive, 0.0).sum(1)
        self.log_z = peaks + steps * potentials.shift[0] + potentials.shift[1]
        self.ok = not potentials.underflowed and _messages(
            *map(array, (self.x, emissions, chain.lengths, self.E, self.E_back, potentials.first, potentials.last)),
            TINY,
            *map(array, (self.left, self.alpha, self.right, self.Z, self.forward, self.backward, self.log_z)),
        )

    def _padded(self, rows: Tensor) -> Tensor:
        return rows.masked_fill(~(self.chain.alive[..., None] if rows.dim() == 3 else self.chain.alive), 0.0)

    def _edge_sides(self) -> tuple[Tensor, Tensor]:
        left = (self.alpha[:, :-1] / self.Z[:, 1:, None]).masked_fill_(~self.chain.alive[:, 1:, None], 0.0)
        return left, self.right[:, 1:]

    def _gradient_arrays(self) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(self.left), torch.zeros_like(self.E)

    def log_partition_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        nodes, edges = self._gradient_arrays()
        parts = (upstream.double(), self.chain.lengths, self.left, self.alpha, self.right, self.Z, nodes, edges)
        _log_partition_gradient(*map(array, parts))
        return nodes, edges * self.E

    def log_marginals_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        nodes, edges = self._gradient_arrays()
        parts = (upstream.double(), self.chain.lengths, self.x, self.E, self.E_back, self.left, self.alpha, self.right)
        factors = (self.Z, self.forward, self.backward, nodes, edges)
        _log_marginals_gradient(*map(array, parts + factors))
        return nodes, edges * self.E


# ---- maxima over all paths ----


@compiled
def _completions(emissions, back, end, impossible, rest, completion):
    """Best scores (n, C) to the end of a sentence, without and with the word's emission; back is [to, from]."""
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
    """Fill tags (B, T) where a path exists."""
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
def _insert(key, value, keys, values, count, k):
    """Insert into a sorted list of the k smallest keys, of length count; returns its new length."""
    if count == k:
        if key >= keys[k - 1]:
            return count
        position = k - 1
    else:
        position = count
        count += 1
    while position > 0 and keys[position - 1] > key:
        keys[position] = keys[position - 1]
        values[position] = values[position - 1]
        position -= 1
    keys[position] = key
    values[position] = value
    return count


@compiled
def _k_best(emissions, lengths, transitions, back, start, end, impossible, limit, k, tags, valid):
    """Fill tags (B, k, T) and valid (B, k) by the beam of `crf_paths.py`, with the sort keys of its `_smallest`."""
    B, T, C = emissions.shape
    rest, completion = np.empty((T, C)), np.empty((T, C))
    choices = np.empty((T, k), np.int64)
    regrets, width = np.empty(k), 0
    keys, new_regrets = np.empty(k, np.int64), np.empty(k)
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
                    edges, regret = start, 0.0
                else:
                    state = choices[t - 1, rank] % C
                    top = rest[t - 1, state]
                    edges, regret = transitions[state], regrets[rank]
                    cell[0] = regret
                    if count == k and (bits[0] & keep) > keys[k - 1]:
                        break  # this prefix and all after it are worse than the list
                for j in range(C):
                    cell[0] = (top - (edges[j] + completion[t, j])) + regret
                    count = _insert((bits[0] & keep) | (rank * C + j), cell[0], keys, new_regrets, count, k)
            width = count
            for n in range(width):
                choices[t, n] = keys[n] & mask
                regrets[n] = new_regrets[n]
        for n in range(width):
            if regrets[n] >= limit:
                break
            valid[b, n] = True
            rank = n
            for t in range(length - 1, -1, -1):
                tags[b, n, t] = choices[t, rank] % C
                rank = choices[t, rank] // C


def _arrays(chain: Chain):
    """The arguments that the loops for maxima share."""
    scores = chain.detached()
    transitions, start, end = (part.double().clamp(min=IMPOSSIBLE) for part in scores[1:])
    parts = (scores.emissions, chain.lengths, transitions, transitions.T, start, end)
    return [*map(array, parts), IMPOSSIBLE, LIMIT]


def native_best_path(chain: Chain) -> Tensor:
    """As `best_path` of `crf_paths.py`."""
    tags = torch.full(chain.scores.emissions.shape[:2], IGNORED)
    _best_path(*_arrays(chain), tags.numpy())
    return tags


def native_k_best(chain: Chain, k: int) -> tuple[Tensor, Tensor]:
    """As `k_best` of `crf_paths.py`."""
    B, T, _ = chain.scores.emissions.shape
    tags, valid = torch.full((B, k, T), IGNORED), torch.zeros(B, k, dtype=torch.bool)
    _k_best(*_arrays(chain), k, tags.numpy(), valid.numpy())
    return tags, valid
