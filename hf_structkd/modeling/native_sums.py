"""The forward-backward pass of `forward_backward.py` as compiled loops, rescaled at every word.

The formulas are those of that docstring: alpha_t = (alpha_{t-1} E) * x_t / f_t and right_t = (E right_{t+1})
* x_t / b_t, where f_t and b_t make each message sum to one. Because every word is rescaled, so are the sources of the
covariance product.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .chain import Chain
from .messages import TINY, Messages, Potentials
from .native import array, compiled


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
