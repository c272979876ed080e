"""Sums over all paths: log Z, marginals, expected transitions, and their exact gradients.

Probability space, float64, both directions in one loop
-------------------------------------------------------
Let X_t = exp(emissions_t - max) and E = exp(transitions - max). On packed rows (see `Packing` in `crf_batch.py`)

    P_t = A_{t-1} E,    A_t = P_t * X_t

computes the forward messages; the same two operations on the sentences read from their ends, with E transposed, give
the backward messages. The two directions lie side by side in rows of 2 C numbers, so one product with the block
diagonal matrix [E, E^T] serves both: two operations per word and no mask. With b the backward message including its
own word's emission, P_t * b_t is proportional to the marginals of word t. Each word is normalised by its own sum Z_t,
so that marginals sum to one and need no scale.

Every few steps A_t is divided by its maximum, and *so is X_t*: the recursion A_t = (A_{t-1} E) * X_t then holds
unchanged for every later use, and only log Z needs the scales.

Why this is exact, and when it is not used
------------------------------------------
X, E and the exponentials of both ends are at most 1, so after k steps without rescaling a message is at most C^k;
words are rescaled often enough that it stays below `GROWTH` (1e25). Sums of non-negative float64 numbers lose nothing
as long as no term that matters underflows. That is *checked afterwards*, not assumed: by induction over time, if every
entry that is reachable (some predecessor is non-zero, its transition exists, its emission is not -inf) is at least
`TINY` (1e-200) *as it was computed*, before the division by the maximum, then all non-zero entries are right to
rounding and all zeros are structural: the terms that a sum lost, each below 1e-308, are nothing beside 1e-200. (A
check after the division would come too late: a denormal number divided by a denormal maximum is an ordinary one with
few right digits.) The sums Z_t and the last one, whose logarithm is log Z, must keep the same bound. The check of all
steps is one product of boolean matrices, computed only if some entry is tiny. If it fails, the pass is repeated with
rescaling at every step, and if that fails too (scores hundreds of nats apart that all matter) the batch goes to
`crf_reference.py`. Nothing is clamped.

Gradients
---------
The gradient of log Z is the marginals and the expected transitions A_{t-1}(i) E(i, j) b_t(j) / Z_t; before the factor
E a product is at most GROWTH^2 / TINY, so none overflows.

For L = Σ u_t(j) log marginal_t(j) the gradient is a covariance, ∂L/∂θ_f = E[s f] - E[s] E[f], where s(y) is the sum
over words of s_t = u_t(y_t) / marginal_t(y_t). The words before t give F_t(j) = E[Σ_{r<t} s_r 1(y_t = j)], which
p(y_{t+1} | y_t) carries on:

    F_{t+1}(k) = Σ_j (F_t(j) + u_t(j)) p(k | j),    p(k | j) = E(j, k) b_{t+1}(k) / Q_t(j),    Q_t = E b_{t+1}

Q_t is the backward message before its word's emission, so b_t = Q_t * Y_t, where Y_t are the emissions as the backward
direction rescaled them. With H_t = (F_t + u_t) / Q_t and F_t = M_t * b_t this is the paired recursion with a source,

    M_t = H_{t-1} E,    H_t = M_t * Y_t + u_t / Q_t

and the words after t take the same recursion, read from the other end. No step divides by a marginal, which may
underflow. F is an expectation, at most Σ|u|. Q and b are at least TINY where a path passes, and at most C * GROWTH, so
H and M are at most Σ|u| / TINY: nothing overflows, and the terms that underflow are a share of 1e-308 * GROWTH. Tags
that no path passes are left out of Y and u: the messages of this direction do not bound them.

Second derivatives, and first derivatives of expected transitions, are rarely needed; `crf_autograd.py` takes them from
`crf_reference.py` by automatic differentiation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .crf_batch import Chain
from .crf_reference import NEG_INF, Scores

TINY = 1e-200  # the least value of a number that matters; far above 1e-308, where float64 begins to lose digits
GROWTH = 1e25  # the greatest value of a message, so that GROWTH^2 / TINY is far from 1e308
MAX_RESCALING_DISTANCE = 32  # words
MAX_BLOCK_TAGS = 32  # up to here one product with a half-empty matrix is cheaper than two products


# ---- exponentials, and what a pass yields ----


class Potentials:
    """Exponentials of a chain's scores, each kind of score shifted by its maximum first.

    Args:
        emissions: (..., C) in any layout of the words.
        scores: of the chain; its emissions are not read.

    Attributes:
        x: (..., C) exp(emissions - maximum of the word), float64.
        word_peaks: (...) those maxima.
        E, first, last: (C, C), (C,), (C,) exponentials of transitions, start and end.
        shift: the maxima, nats: of the transitions, and of start and end together. A sentence's log Z lacks
            ``steps * shift[0] + shift[1]``.
        underflowed: whether a finite transition, start or end score became (nearly) zero. True for NaN.
    """

    def __init__(self, emissions: Tensor, scores: Scores):
        word_peaks = _peak(emissions, -1).double()  # before the conversion: half the memory to read
        self.word_peaks = word_peaks.squeeze(-1)
        self.x = (emissions.double() - word_peaks).exp_()
        # One row per kind, start and end repeated to the length of the first: one set of operations for all three.
        C = emissions.shape[-1]
        rows = (scores.transitions.flatten(), scores.start.repeat(C), scores.end.repeat(C))
        stacked = torch.stack([row.double() for row in rows])
        peaks = _peak(stacked, 1)
        exponentials = (stacked - peaks).exp_()
        self.E, self.first, self.last = exponentials[0].view(C, C), exponentials[1, :C], exponentials[2, :C]
        self.shift = (peaks[0, 0], peaks[1, 0] + peaks[2, 0])
        self.underflowed = underflow(exponentials, stacked)


class Messages:
    """The messages of one forward-backward pass over a chain, and the sums that follow from them; without autograd.

    A subclass computes the messages in its layout of the words and converts that layout to the padded one. Values and
    gradients are padded, float64.

    Attributes:
        ok: whether nothing was lost; if False, the other attributes and all methods are undefined.
        log_z: (B,), nats.
        left, right: (..., C) forward message without the word's emission, backward message with it, each up to a
            factor per word.
        Z: (...) sum of left * right at each word; 1 where there is no path.
        E: (C, C) exponentials of the transitions.
    """

    ok: bool
    log_z: Tensor
    left: Tensor
    right: Tensor
    Z: Tensor
    E: Tensor

    def _padded(self, rows: Tensor) -> Tensor:
        """Values per word to (B, T, ...), zero on padding."""
        raise NotImplementedError

    def _edge_sides(self) -> tuple[Tensor, Tensor]:
        """Factors left, right (B, T - 1, C): the marginals of a word's transition are left ⊗ right * E."""
        raise NotImplementedError

    def log_partition_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient by emissions (B, T, C) and by transitions (C, C), for upstream (B,)."""
        raise NotImplementedError

    def log_marginals_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient by emissions (B, T, C) and by transitions (C, C), for upstream (B, T, C)."""
        raise NotImplementedError

    def marginals_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_marginals_gradient(upstream * self.marginals())

    def log_partition(self) -> Tensor:
        return self.log_z

    def _marginals(self) -> Tensor:
        return self.left * self.right / self.Z[..., None]

    def marginals(self) -> Tensor:
        return self._padded(self._marginals())

    def log_marginals(self) -> Tensor:
        weight = self.left * self.right
        value = (weight / self.Z[..., None]).log_()
        if bool(weight.amin() < TINY):  # a product that underflowed still has a logarithm
            difference = self.left.log() + self.right.log() - self.Z[..., None].log()
            value = torch.where(weight < TINY, difference, value)
        return self._padded(value)

    def edge_counts(self) -> Tensor:
        left, right = self._edge_sides()
        return left.transpose(1, 2) @ right * self.E

    def edge_marginals(self) -> Tensor:
        left, right = self._edge_sides()
        return left[..., :, None] * self.E * right[..., None, :]

    def completions(self) -> Tensor:
        """Logarithm of the backward message with the word's emission, up to a constant per word."""
        return self._padded(self.right.log())


def _peak(values: Tensor, dim: int) -> Tensor:
    """The maximum, and 0 where everything is -inf."""
    peak = values.amax(dim, keepdim=True)
    return torch.where(peak > NEG_INF, peak, 0.0)


def underflow(probability: Tensor, score: Tensor) -> bool:
    """Whether a finite score became (nearly) zero. True for NaN."""
    if bool(probability.amin() >= TINY):
        return False
    return bool((~(probability >= TINY) & (score != NEG_INF)).any())


# ---- the loops on packed rows ----


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

    ``sources`` and ``targets`` are the arrays' time steps as views, made once: making one costs as much as the
    product.
    """
    C = len(paired) // 2
    if C <= MAX_BLOCK_TAGS:
        products = [(paired, sources, targets)]
    else:
        halves = [slice(0, C), slice(C, 2 * C)]
        products = [(paired[s, s], source[:, s].split(sizes), target[:, s].split(sizes)) for s in halves]
    mm, size = torch.mm, sizes[0]
    for t in range(1, len(sizes)):
        same_size, size = sizes[t] == size, sizes[t]
        for matrix, inputs, outputs in products:
            mm(inputs[t - 1] if same_size else inputs[t - 1][:size], matrix, out=outputs[t])
        yield t


def rescaling_distance(C: int) -> int:
    """Words from one rescaling to the next, so that no message grows beyond `GROWTH`."""
    return (
        MAX_RESCALING_DISTANCE if C == 1 else max(1, min(MAX_RESCALING_DISTANCE, int(math.log(GROWTH) / math.log(C))))
    )


def sum_product(
    X: Tensor, paired: Tensor, first: Tensor, sizes: list[int], distance: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The messages of both directions: P_t = A_{t-1} E, A_t = P_t * X_t.

    Args:
        X: (N, 2 C) exponentials of the emissions, both directions side by side; rescaled in place.
        paired: (2 C, 2 C), see `paired_transitions`.
        first: (2 C,) the first P of each direction.
        sizes: batch sizes of the packing.
        distance: words from one rescaling to the next.

    Returns:
        P and A (N, 2 C); the divisors of A (N, 2, 1), `None` where no sentence is long enough to be rescaled.
    """
    P, A = torch.empty_like(X), torch.empty_like(X)
    B, C = sizes[0], X.shape[1] // 2
    P[:B] = first
    torch.mul(P[:B], X[:B], out=A[:B])
    Ps, As, Xs, mul = P.split(sizes), A.split(sizes), X.split(sizes), torch.mul
    divisors = X.new_ones(len(X), 2, 1) if len(sizes) > distance else None
    peaks = () if divisors is None else divisors.split(sizes)
    for t in _products(paired, sizes, A, As, P, Ps):
        mul(Ps[t], Xs[t], out=As[t])
        if t % distance == 0:
            halves, peak = As[t].view(-1, 2, C), peaks[t]
            torch.amax(halves, 2, keepdim=True, out=peak)
            peak.masked_fill_(peak == 0, 1.0)
            halves.div_(peak)
            Xs[t].view(-1, 2, C).div_(peak)
    return P, A, divisors


def sum_product_with_source(X: Tensor, paired: Tensor, source: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """M, H (N, 2 C) of the recursion with a source S: M_t = H_{t-1} E, H_t = M_t * X_t + S_t, H_0 = S_0."""
    M, H = torch.empty_like(X), torch.empty_like(X)
    B = sizes[0]
    M[:B] = 0.0
    H[:B] = source[:B]
    Ms, Hs, Xs, Ss, addcmul = M.split(sizes), H.split(sizes), X.split(sizes), source.split(sizes), torch.addcmul
    for t in _products(paired, sizes, H, Hs, M, Ms):
        addcmul(Ss[t], Ms[t], Xs[t], out=Hs[t])
    return M, H


class PackedPass(Messages):
    """The forward-backward pass on packed rows."""

    def __init__(self, chain: Chain):
        scores = chain.detached()
        self.packing, self.T = chain.packing, scores.emissions.shape[1]
        self.sizes = self.packing.batch_sizes
        emissions = self.packing.pack(scores.emissions)
        potentials = Potentials(emissions, scores)
        self.E, self.ends = potentials.E, torch.cat([potentials.first, potentials.last])
        steps = (chain.device_lengths - 1).double()
        self.offset = self.packing.per_sentence(potentials.word_peaks).add_(steps * potentials.shift[0])
        self.offset += potentials.shift[1]
        x = potentials.x
        underflowed = potentials.underflowed or underflow(x, emissions)
        self.ok = not underflowed and (self._run(x, rescaling_distance(x.shape[1])) or self._run(x, 1))

    def _run(self, x: Tensor, distance: int) -> bool:
        """Compute the messages, rescaled every ``distance`` words; whether nothing was lost."""
        packing, C = self.packing, x.shape[1]
        self.X = torch.cat([x, x.index_select(0, packing.mirror)], 1)
        self.paired = paired_transitions(self.E)
        self.P, self.A, divisors = sum_product(self.X, self.paired, self.ends, self.sizes, distance)
        self.left = self.P[:, :C]
        self.right = self.A[:, C:].index_select(0, packing.mirror)
        self.Z = (self.left * self.right).sum(1)
        if not self._nothing_lost(divisors):
            return False
        final = self.A[:, :C].index_select(0, packing.last) @ self.ends[C:]
        self.log_z = self.offset.index_add(0, packing.order, final.log())
        if divisors is not None:
            self.log_z += packing.per_sentence(divisors[:, 0, 0].log())
        # A sentence without a path has Z = 0 everywhere; dividing by one instead makes its marginals zero.
        self.Z.masked_fill_(self.Z == 0, 1.0)
        return True

    def _nothing_lost(self, divisors: Tensor | None) -> bool:
        """Whether every entry that is no structural zero was at least `TINY` when it was computed."""
        least = self.A.amin() if divisors is None else self.A.amin() * divisors.amin()
        if bool((least >= TINY) & (self.Z.amin() >= TINY)):
            return True
        B, C = self.sizes[0], self.E.shape[0]
        computed = self.A if divisors is None else (self.A.view(-1, 2, C) * divisors).view_as(self.A)
        reached = self._previous((self.A > 0).double() @ (self.paired > 0).double())
        reachable = (torch.cat([self.ends.expand(B, -1), reached]) > 0) & (self.X > 0)
        passable = (self.left > 0) & (self.right > 0)
        final = self.A[:, :C].index_select(0, self.packing.last)
        final_lost = ((final > 0) & (self.ends[C:] > 0)).any(1) & ~(final @ self.ends[C:] >= TINY)
        lost = (reachable & ~(computed >= TINY)).any() | (passable.any(1) & ~(self.Z >= TINY)).any() | final_lost.any()
        return not bool(lost)

    def _previous(self, rows: Tensor) -> Tensor:
        """The rows (N - B, ...) of the preceding words, for all words but the first."""
        return rows.index_select(0, self.packing.previous)

    def _padded(self, rows: Tensor) -> Tensor:
        return self.packing.unpack(rows, self.T)

    def _edge_sides(self) -> tuple[Tensor, Tensor]:
        left, right = (self.packing.unpack(side, self.T)[:, 1:] for side in self._packed_edge_sides())
        return left, right

    def _packed_edge_sides(self) -> tuple[Tensor, Tensor]:
        """The same as packed rows (N - B, C), one for each word but the first."""
        B, C = self.sizes[0], self.E.shape[0]
        return self._previous(self.A[:, :C]) / self.Z[B:, None], self.right[B:]

    def log_partition_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        word_weights = upstream.index_select(0, self.packing.sentence)[:, None]
        left, right = self._packed_edge_sides()
        edges = (left * word_weights[self.sizes[0] :]).T @ right * self.E
        return self._padded(self._marginals() * word_weights), edges

    def log_marginals_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """The covariance of the module's docstring."""
        B, C = self.sizes[0], self.E.shape[0]
        packing, mirror = self.packing, self.packing.mirror
        passable = (self.left > 0) & (self.right > 0)
        u = torch.where(passable, packing.pack(upstream).double(), 0.0)
        # Each direction takes P and X of the other one: forwards they are the Q and Y of the module's docstring.
        excluded = torch.cat([~passable, ~passable.index_select(0, mirror)], 1)
        P, Y = (torch.cat([part[:, C:], part[:, :C]], 1).index_select(0, mirror) for part in (self.P, self.X))
        source = torch.cat([u, u.index_select(0, mirror)], 1).div_(P.masked_fill_(excluded, 1.0))
        M, H = sum_product_with_source(Y.masked_fill_(excluded, 0.0), self.paired, source, self.sizes)
        H_right = H[:, C:].index_select(0, mirror)
        mean = packing.per_sentence(u.sum(1)).index_select(0, packing.sentence)[:, None]
        nodes = M[:, :C] * self.right + self.left * H_right - mean * self._marginals()
        alpha = self._previous(self.A[:, :C])
        left = self._previous(H[:, :C]) - mean[B:] * alpha / self.Z[B:, None]
        edges = left.T @ self.right[B:] + alpha.T @ H_right[B:]
        return self._padded(nodes), edges * self.E
