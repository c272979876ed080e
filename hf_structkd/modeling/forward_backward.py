"""Sums over all paths: log Z, marginals, expected transitions, and their exact gradients.

Probability space, float64, both directions in one loop
-------------------------------------------------------
Let X_t = exp(emissions_t - max) and E = exp(transitions - max). On packed rows (see `packing.py`)

    P_t = A_{t-1} E,    A_t = P_t * X_t

computes the forward messages; the same two operations on the sentences read from their ends, with E transposed, give
the backward messages. The two directions lie side by side in rows of 2 C numbers, so one product with the block
diagonal matrix [E, E^T] serves both: two operations per word and no mask. With b the backward message including its
own word's emission, P_t * b_t is proportional to the marginals of word t. Each word is normalised by its own sum Z_t,
so no scale has to be remembered and marginals sum to one.

Every few steps A_t is divided by its maximum, and *so is X_t*: the recursion A_t = (A_{t-1} E) * X_t then holds as it
stands for every later use, and only log Z has to know the scales.

Why this is exact, and when it is not used
------------------------------------------
Sums of non-negative float64 numbers lose nothing as long as no term that matters underflows. That is *checked after
the fact*, not assumed: by induction over time, if every entry that is reachable (some predecessor is non-zero, its
transition exists, its emission is not -inf) is above 1e-250, then all non-zero entries are right to rounding and all
zeros are structural. The test of all steps is one product of boolean matrices, made only if some entry is tiny at all.
If it fails, the pass is repeated with scaling at every step, and if that fails too (scores hundreds of nats apart that
all matter) the batch goes to `log_space.py`. Nothing is clamped.

Gradients
---------
d log Z is the marginals and expected transitions. For L = Σ u_t(j) log marginal_t(j) the gradient is a covariance,
∂L/∂θ_f = E[s f] - E[s] E[f] with s(y) = Σ_t u_t(y_t) / marginal_t(y_t). E[s f] takes the same paired recursion with a
source, G_t = (G_{t-1} E) * X_t + S_t, where S_t is u / marginal times the message, written without division by the
marginal, which may underflow: u Z_t X_t / b_t forward, u Z_t / P_t backward. Second derivatives, and first derivatives
of expected transitions, are rarely asked for; `path_sums.py` gets them from `log_space.py` by automatic
differentiation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .chain import Chain
from .messages import TINY, Messages, Potentials, underflow

RESCALE_EVERY = 32
WIDEST_BLOCK = 32  # up to here one product with a half-empty matrix is cheaper than two products


def paired_transitions(matrix: Tensor) -> Tensor:
    """[[E, 0], [0, E^T]]: one step of both directions."""
    C = len(matrix)
    paired = matrix.new_zeros(2 * C, 2 * C)
    paired[:C, :C] = matrix
    paired[C:, C:] = matrix.T
    return paired


def _products(
    paired: Tensor, sizes: list[int], source: Tensor, sources: list[Tensor], target: Tensor, targets: list[Tensor]
):
    """Yield t = 1, 2, ... after writing source_{t-1} @ paired into target_t, for rows of 2 C numbers.

    The lists are the steps of the arrays: views are made once, they cost as much as the arithmetic.
    """
    C = len(paired) // 2
    if C <= WIDEST_BLOCK:
        work = [(paired, sources, targets)]
    else:
        halves = [slice(0, C), slice(C, 2 * C)]
        work = [(paired[s, s], source[:, s].split(sizes), target[:, s].split(sizes)) for s in halves]
    mm, size = torch.mm, sizes[0]
    for t in range(1, len(sizes)):
        same, size = sizes[t] == size, sizes[t]
        for matrix, before, after in work:
            mm(before[t - 1] if same else before[t - 1][:size], matrix, out=after[t])
        yield t


def sum_product(
    X: Tensor, paired: Tensor, first: Tensor, sizes: list[int], every: int
) -> tuple[Tensor, Tensor, Tensor]:
    """P, A (N, 2 C) of both directions, and the logarithm (B,) of the forward scale; rescales X in place."""
    P, A = torch.empty_like(X), torch.empty_like(X)
    B, C = sizes[0], X.shape[1] // 2
    scale = X.new_zeros(B)
    P[:B] = first
    torch.mul(P[:B], X[:B], out=A[:B])
    Ps, As, Xs, mul = P.split(sizes), A.split(sizes), X.split(sizes), torch.mul
    for t in _products(paired, sizes, A, As, P, Ps):
        mul(Ps[t], Xs[t], out=As[t])
        if t % every == 0:
            halves = As[t].view(-1, 2, C)
            peak = halves.amax(2, keepdim=True)
            peak.masked_fill_(peak == 0, 1.0)
            halves.div_(peak)
            Xs[t].view(-1, 2, C).div_(peak)
            scale[: sizes[t]] += peak[:, 0, 0].log()
    return P, A, scale


def sum_product_with_source(X: Tensor, paired: Tensor, source: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """M, G (N, 2 C) with M_t = G_{t-1} E and G_t = M_t * X_t + S_t, G_0 = S_0."""
    M, G = torch.empty_like(X), torch.empty_like(X)
    B = sizes[0]
    M[:B] = 0.0
    G[:B] = source[:B]
    Ms, Gs, Xs, Ss, addcmul = M.split(sizes), G.split(sizes), X.split(sizes), source.split(sizes), torch.addcmul
    for t in _products(paired, sizes, G, Gs, M, Ms):
        addcmul(Ss[t], Ms[t], Xs[t], out=Gs[t])
    return M, G


class PackedPass(Messages):
    """The pass on packed rows, by the loops above."""

    def __init__(self, chain: Chain):
        scores = chain.detached()
        self.packing, self.T = chain.packing, scores.emissions.shape[1]
        self.sizes = self.packing.batch_sizes
        emissions = self.packing.pack(scores.emissions)
        potentials = Potentials(emissions, scores)
        self.E, self.ends = potentials.E, torch.cat([potentials.first, potentials.last])
        steps = (chain.lengths_there - 1).double()
        self.offset = self.packing.per_sentence(potentials.word_peaks).add_(steps * potentials.shift[0])
        self.offset += potentials.shift[1]
        x = potentials.x
        lost = potentials.lost or underflow(x, emissions)
        self.ok = not lost and (self._run(x, RESCALE_EVERY) or self._run(x, 1))

    def _run(self, x: Tensor, every: int) -> bool:
        packing, C = self.packing, x.shape[1]
        self.X = torch.cat([x, x.index_select(0, packing.mirror)], 1)
        self.paired = paired_transitions(self.E)
        self.P, self.A, scale = sum_product(self.X, self.paired, self.ends, self.sizes, every)
        self.left = self.P[:, :C]
        self.right = self.A[:, C:].index_select(0, packing.mirror)
        self.Z = (self.left * self.right).sum(1)
        if not self._nothing_lost():
            return False
        final = self.A[:, :C].index_select(0, packing.last) @ self.ends[C:]
        self.log_z = self.offset.index_add(0, packing.order, scale + final.log())
        # A sentence without a path has Z = 0 everywhere; dividing by one instead makes its marginals zero.
        self.Z.masked_fill_(self.Z == 0, 1.0)
        return True

    def _nothing_lost(self) -> bool:
        """Whether all entries that are not structural zeros are well above the underflow threshold."""
        if bool((self.A.amin() >= TINY) & (self.Z.amin() >= TINY)):
            return True
        B, C = self.sizes[0], self.E.shape[0]
        before = torch.cat([self.ends.expand(B, -1), self._before((self.A > 0).double() @ (self.paired > 0).double())])
        reachable = (before > 0) & (self.X > 0)
        passable = (self.left > 0) & (self.right > 0)
        final = self.A[:, :C].index_select(0, self.packing.last)
        final_lost = ((final > 0) & (self.ends[C:] > 0)).any(1) & (final @ self.ends[C:] < TINY)
        lost = (reachable & (self.A < TINY)).any() | (passable.any(1) & (self.Z < TINY)).any() | final_lost.any()
        return not bool(lost)

    def _before(self, rows: Tensor) -> Tensor:
        return rows.index_select(0, self.packing.previous)

    def _padded(self, rows: Tensor) -> Tensor:
        return self.packing.unpack(rows, self.T)

    def _edge_sides(self) -> tuple[Tensor, Tensor]:
        left, right = (self.packing.unpack(side, self.T)[:, 1:] for side in self._packed_edge_sides())
        return left, right

    def _packed_edge_sides(self) -> tuple[Tensor, Tensor]:
        """The same on rows (N - B, C), each of the later word."""
        B, C = self.sizes[0], self.E.shape[0]
        return self._before(self.A[:, :C]) / self.Z[B:, None], self.right[B:]

    def log_partition_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        each = upstream.index_select(0, self.packing.sentence)[:, None]
        left, right = self._packed_edge_sides()
        edges = (left * each[self.sizes[0] :]).T @ right * self.E
        return self._padded(self._marginals() * each), edges

    def log_marginals_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """The covariance product of the module's docstring."""
        B, C = self.sizes[0], self.E.shape[0]
        packing, Z = self.packing, self.Z[:, None]
        passable = (self.left > 0) & (self.right > 0)
        u = torch.where(passable, packing.pack(upstream).double(), 0.0) * Z
        forward = u * self.X[:, :C] / self.right.masked_fill(~passable, 1.0)
        backward = u / self.left.masked_fill(~passable, 1.0)
        source = torch.cat([forward, backward.index_select(0, packing.mirror)], 1)
        M, G = sum_product_with_source(self.X, self.paired, source, self.sizes)
        G_right = G[:, C:].index_select(0, packing.mirror)
        mean = packing.per_sentence((u / Z).sum(1)).index_select(0, packing.sentence)[:, None]
        nodes = (M[:, :C] * self.right + self.left * G_right) / Z - mean * self._marginals()
        alpha = self._before(self.A[:, :C])
        left = (self._before(G[:, :C]) - mean[B:] * alpha) / Z[B:]
        edges = left.T @ self.right[B:] + (alpha / Z[B:]).T @ G_right[B:]
        return self._padded(nodes), edges * self.E
