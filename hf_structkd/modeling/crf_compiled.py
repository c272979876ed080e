"""Compiled loops for the CPU, by numba: whether they are used, and how they are compiled.

The torch loops spend most of their time on starting some hundred small operations. `crf_compiled.py` and
`crf_compiled.py` hold the same recursions as plain loops over one sentence after the other, several times faster. They
are an option and not the default: numba need not be installed (the ``fast`` extra), its first call compiles for some
seconds, and results should not depend on what happens to be installed. Switch them on with ``use_native(True)`` or the
environment variable ``HF_STRUCTKD_NATIVE=1``; tensors on other devices keep using torch. Both ways agree to rounding,
k-best order and ties included, which the tests check.
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


def native_on(device: torch.device) -> bool:
    """Whether compiled loops are to be used for tensors there."""
    return _enabled and numba is not None and device.type == "cpu"


def compiled(function):
    """Decorator: the function as numba compiles it, at its first call.

    Constants of other files must come as arguments: numba keeps compiled code until the function's own file changes.
    """
    if numba is None:
        return function
    try:
        return numba.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # nowhere to keep the compiled code
        return numba.njit(error_model="numpy")(function)


def array(tensor: Tensor):
    """A tensor's numbers as compiled loops take them: contiguous, without gradients, no half precision."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.detach().contiguous().numpy()


# The forward-backward pass of `crf_sums.py` as compiled loops, rescaled at every word.
#
# The formulas are those of that docstring: alpha_t = (alpha_{t-1} E) * x_t / f_t and right_t = (E right_{t+1})
# * x_t / b_t, where f_t and b_t make each message sum to one. Because every word is rescaled, so are the sources of
# the covariance product.


@compiled
def _add_product(before, E, into):
    C = len(into)
    for i in range(C):
        weight = before[i]
        for j in range(C):
            into[j] += weight * E[i, j]


@compiled
def _step(before, E, x, tiny, into, after):
    """into = before E, after = into * x, normalised; the factor, 0 if all is zero, -1 if something was lost."""
    into[:] = 0.0
    _add_product(before, E, into)
    return _normalise(before, E, x, tiny, into, after)


@compiled
def _normalise(before, E, x, tiny, into, after):
    C = len(x)
    total, least = 0.0, 1.0
    for j in range(C):
        after[j] = into[j] * x[j]
        total += after[j]
        least = min(least, after[j])
    if least < tiny:
        for j in range(C):
            if after[j] < tiny and x[j] > 0.0:
                if into[j] > 0.0:
                    return -1.0
                for i in range(len(before)):
                    if before[i] > 0.0 and E[i, j] > 0.0:
                        return -1.0
    if total > 0.0:
        for j in range(C):
            after[j] /= total
    return total


@compiled
def _messages(x, emissions, lengths, E, E_back, first, last, tiny, left, alpha, right, Z, forward, backward, log_z):
    """Fill left, alpha, right (B, T, C), Z and the factors (B, T); add to log_z (B,). Whether nothing was lost."""
    B, _, C = x.shape
    scratch, nothing = np.empty(C), np.empty(0)
    for b in range(B):
        n = lengths[b]
        for t in range(n):
            for j in range(C):
                if not x[b, t, j] >= tiny and emissions[b, t, j] != -np.inf:
                    return False
        for j in range(C):
            left[b, 0, j] = first[j]
            scratch[j] = last[j]
        forward[b, 0] = _normalise(nothing, E, x[b, 0], tiny, left[b, 0], alpha[b, 0])
        backward[b, n - 1] = _normalise(nothing, E, x[b, n - 1], tiny, scratch, right[b, n - 1])
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
        final, ends = 0.0, False
        for j in range(C):
            final += alpha[b, n - 1, j] * last[j]
            ends |= alpha[b, n - 1, j] > 0.0 and last[j] > 0.0
        if ends and final < tiny:
            return False
        log_z[b] += np.log(final)
    return True


@compiled
def _log_partition_gradient(upstream, lengths, left, alpha, right, Z, nodes, edges):
    B, _, C = left.shape
    for b in range(B):
        for t in range(lengths[b]):
            each = upstream[b] / Z[b, t]
            for j in range(C):
                nodes[b, t, j] = each * left[b, t, j] * right[b, t, j]
            if t > 0:
                for i in range(C):
                    weight = each * alpha[b, t - 1, i]
                    for j in range(C):
                        edges[i, j] += weight * right[b, t, j]


@compiled
def _log_marginals_gradient(upstream, lengths, x, E, E_back, left, alpha, right, Z, forward, backward, nodes, edges):
    """The covariance product, with 1 / Q written as x / (right b): Q is right before its word's emission."""
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
                    other = alpha[b, t - 1, i]
                    for j in range(C):
                        edges[i, j] += weight * right[b, t, j] + other * H_right[t, j]


class NativePass(Messages):
    """The pass on padded arrays, by the loops above."""

    def __init__(self, chain: Chain):
        scores = chain.detached()
        self.chain, emissions = chain, scores.emissions
        potentials = Potentials(emissions, scores)
        B, T, C = emissions.shape
        self.x, self.E, self.E_back = potentials.x, potentials.E, potentials.E.T.contiguous()
        self.alpha = self.x.new_zeros(B, T, C)
        self.left, self.right = self.x.new_ones(2, B, T, C)  # on padding too: their logarithm is taken
        self.Z, self.forward, self.backward = self.x.new_ones(3, B, T)
        steps = (chain.lengths - 1).double()
        peaks = potentials.word_peaks.masked_fill(~chain.alive, 0.0).sum(1)
        self.log_z = peaks + steps * potentials.shift[0] + potentials.shift[1]
        self.ok = not potentials.lost and _messages(
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


# The best path and the k best paths of `crf_paths.py` as compiled loops, one sentence at a time.


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
    tags = torch.full(chain.scores.emissions.shape[:2], IGNORED)
    _best_path(*_arrays(chain), tags.numpy())
    return tags


def native_k_best(chain: Chain, k: int) -> tuple[Tensor, Tensor]:
    """What `viterbi.k_best` returns."""
    B, T, _ = chain.scores.emissions.shape
    tags, valid = torch.full((B, k, T), IGNORED), torch.zeros(B, k, dtype=torch.bool)
    _k_best(*_arrays(chain), k, tags.numpy(), valid.numpy())
    return tags, valid
