"""Sums and maxima over all paths as plain loops over the words of one sentence after the other; numba compiles them.

`crf_compiled.py` decides when they are used, makes their arrays, and imports this file at the first use: numba takes
half a second to import. The recursions are those of `crf_sums.py`, rescaled at every word, and of `crf_paths.py`:

    alpha_t = (alpha_{t-1} E) * x_t / f_t,    right_t = (E right_{t+1}) * x_t / b_t

where f_t and b_t make each message sum to one; the sources of the covariance are rescaled with them.

Shapes: B sentences of at most T words, C tags, K paths per sentence; all scores are float64 and in nats. Constants of
other modules are arguments: numba keeps compiled code until this file changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    import numba as _numba

    numba: Any = _numba
except ImportError:
    numba = None


def compiled(function):
    """Decorator: numba compiles the function at its first call and keeps the machine code for later processes."""
    if numba is None:
        return function
    try:
        return numba.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to keep the machine code in
        return numba.njit(error_model="numpy")(function)


# ---- sums over all paths ----


@compiled
def _exponentials(scores, tiny, out):
    """out = exp(scores - their maximum). The maximum, and whether no finite score became (nearly) zero."""
    peak = -np.inf
    for i in range(len(scores)):
        if scores[i] > peak:
            peak = scores[i]
    if peak == -np.inf:
        peak = 0.0
    kept = True
    for i in range(len(scores)):
        out[i] = np.exp(scores[i] - peak)
        # NaN fails the first comparison and passes the second
        if not out[i] >= tiny and scores[i] != -np.inf:
            kept = False
    return peak, kept


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
def forward_backward(
    emissions, lengths, transitions, start, end, tiny, x, E, E_back, left, alpha, right, Z, forward, backward, log_z
):
    """One pass in both directions. Returns whether nothing was lost; if not, what it wrote is undefined.

    Reads emissions (B, T, C), lengths (B,), transitions (C, C), start and end (C,). Writes the exponentials x
    (B, T, C), E and its transpose E_back (C, C); the messages left, alpha, right (B, T, C); their factors and Z
    (B, T); log_z (B,).
    """
    B, _, C = emissions.shape
    step_peak, kept = _exponentials(transitions.reshape(C * C), tiny, E.reshape(C * C))
    first, last, scratch, no_message = np.empty(C), np.empty(C), np.empty(C), np.empty(0)
    start_peak, start_kept = _exponentials(start, tiny, first)
    end_peak, end_kept = _exponentials(end, tiny, last)
    if not (kept and start_kept and end_kept):
        return False
    for i in range(C):
        for j in range(C):
            E_back[j, i] = E[i, j]
    for b in range(B):
        n = lengths[b]
        log_z[b] = start_peak + end_peak + (n - 1) * step_peak
        for t in range(n):
            peak, kept = _exponentials(emissions[b, t], tiny, x[b, t])
            if not kept:
                return False
            log_z[b] += peak
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
def marginals(lengths, left, right, Z, logarithms, tiny, out):
    """Fill out (B, T, C), zero before, with the marginals of real words, or with their logarithms."""
    B, _, C = left.shape
    for b in range(B):
        for t in range(lengths[b]):
            for j in range(C):
                weight = left[b, t, j] * right[b, t, j]
                if not logarithms:
                    out[b, t, j] = weight / Z[b, t]
                elif weight < tiny:  # a product that underflowed still has a logarithm
                    out[b, t, j] = np.log(left[b, t, j]) + np.log(right[b, t, j]) - np.log(Z[b, t])
                else:
                    out[b, t, j] = np.log(weight / Z[b, t])


@compiled
def log_partition_gradient(upstream, lengths, left, alpha, right, Z, nodes, edges):
    """Add the gradient for upstream (B,) to nodes (B, T, C) and edges (C, C), these still without the factor E."""
    B, _, C = left.shape
    for b in range(B):
        if upstream[b] == 0.0:
            continue
        for t in range(lengths[b]):
            scale = upstream[b] / Z[b, t]
            for j in range(C):
                nodes[b, t, j] += scale * left[b, t, j] * right[b, t, j]
            if t > 0:
                for i in range(C):
                    weight = scale * alpha[b, t - 1, i]
                    for j in range(C):
                        edges[i, j] += weight * right[b, t, j]


@compiled
def log_marginals_gradient(upstream, lengths, x, E, E_back, left, alpha, right, Z, forward, backward, nodes, edges):
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


# ---- given paths ----


@compiled
def path_scores(emissions, lengths, transitions, start, end, paths, ignored, scores):
    """Fill scores (B, K) with those of paths (B, K, T), -inf for one that is ``ignored`` throughout.

    Returns False at a path that has another value outside [0, C) on a real word.
    """
    B, K, _ = paths.shape
    C = len(start)
    for b in range(B):
        n = lengths[b]
        for k in range(K):
            absent = True
            for t in range(n):
                absent &= paths[b, k, t] == ignored
            if absent:
                scores[b, k] = -np.inf
                continue
            total, previous = 0.0, 0
            for t in range(n):
                tag = paths[b, k, t]
                if tag < 0 or tag >= C:
                    return False
                total += emissions[b, t, tag]
                total += start[tag] if t == 0 else transitions[previous, tag]
                previous = tag
            scores[b, k] = total + end[previous]
    return True


@compiled
def log_prob_gradient(upstream, exists, lengths, paths, left, alpha, right, Z, E, nodes, edges, first, last):
    """The gradient of path scores minus log Z for upstream (B, K), summed over the paths that exist (B, K).

    Fills nodes (B, T, C), edges (C, C), first and last (C,), all zero before.
    """
    B, K, _ = paths.shape
    C = len(first)
    expected = np.zeros((C, C))
    totals = np.zeros(B)
    for b in range(B):
        for k in range(K):
            if exists[b, k]:
                totals[b] -= upstream[b, k]
    log_partition_gradient(totals, lengths, left, alpha, right, Z, nodes, expected)
    for i in range(C):
        for j in range(C):
            edges[i, j] = expected[i, j] * E[i, j]
    for b in range(B):
        n = lengths[b]
        for k in range(K):
            if not exists[b, k]:
                continue
            previous = 0
            for t in range(n):
                tag = paths[b, k, t]
                nodes[b, t, tag] += upstream[b, k]
                if t > 0:
                    edges[previous, tag] += upstream[b, k]
                previous = tag
        for j in range(C):
            first[j] += nodes[b, 0, j]
            last[j] += nodes[b, n - 1, j]


# ---- maxima over all paths ----


@compiled
def _completions(emissions, back, end, impossible, rest, completion):
    """Best scores (n, C) to the end of a sentence, without and with the word's emission; back is [to, from]."""
    n, C = rest.shape
    for t in range(n - 1, -1, -1):
        for i in range(C):
            rest[t, i] = end[i] if t == n - 1 else -np.inf
        if t < n - 1:
            for j in range(C):
                score = completion[t + 1, j]
                for i in range(C):
                    rest[t, i] = max(rest[t, i], score + back[j, i])
        for j in range(C):
            completion[t, j] = rest[t, j] + max(emissions[t, j], impossible)


@compiled
def _best_sum(scores, completion):
    """The greatest of the sums of two arrays (C,), and the first index that has it."""
    best, greatest = 0, scores[0] + completion[0]
    for j in range(1, len(scores)):
        if scores[j] + completion[j] > greatest:
            best, greatest = j, scores[j] + completion[j]
    return greatest, best


@compiled
def best_path(emissions, lengths, transitions, back, start, end, impossible, limit, tags):
    """Fill tags (B, T) where a path exists."""
    B, T, C = emissions.shape
    rest, completion = np.empty((T, C)), np.empty((T, C))
    for b in range(B):
        n = lengths[b]
        _completions(emissions[b], back, end, impossible, rest[:n], completion[:n])
        score, tag = _best_sum(start, completion[0])
        if score <= -limit:
            continue
        tags[b, 0] = tag
        for t in range(1, n):
            tag = _best_sum(transitions[tag], completion[t])[1]
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
def k_best(emissions, lengths, transitions, back, start, end, impossible, limit, k, tags, valid):
    """Fill tags (B, k, T) and valid (B, k) by the beam of `crf_paths.py`, with the sort keys of its `_smallest`."""
    B, T, C = emissions.shape
    rest, completion = np.empty((T, C)), np.empty((T, C))
    choices = np.empty((T, k), np.int64)
    regrets, width = np.empty(k), 0
    keys, new_regrets, extended = np.empty(k, np.int64), np.empty(k), np.empty(C)
    cell = np.empty(1)
    bits = cell.view(np.int64)
    for b in range(B):
        length = lengths[b]
        _completions(emissions[b], back, end, impossible, rest[:length], completion[:length])
        greatest = _best_sum(start, completion[0])[0]
        if greatest <= -limit:
            continue
        for t in range(length):
            options = C if t == 0 else width * C
            mask = np.int64(1)
            while mask < options:
                mask *= 2
            mask -= 1
            keep = ~mask & np.int64(2**63 - 1)
            count, worst = 0, np.inf
            for rank in range(1 if t == 0 else width):
                if t == 0:
                    top = greatest
                    edges, regret = start, 0.0
                else:
                    state = choices[t - 1, rank] % C
                    top = rest[t - 1, state]
                    edges, regret = transitions[state], regrets[rank]
                    cell[0] = regret
                    if count == k and (bits[0] & keep) > keys[k - 1]:
                        break  # this prefix and all after it are worse than the list
                for j in range(C):  # a loop of its own: it has no branches, so that the compiler vectorises it
                    extended[j] = (top - (edges[j] + completion[t, j])) + regret
                for j in range(C):
                    if count == k and extended[j] > worst:
                        continue
                    cell[0] = extended[j]
                    count = _insert((bits[0] & keep) | (rank * C + j), cell[0], keys, new_regrets, count, k)
                    if count == k:
                        cell[0] = new_regrets[k - 1]
                        bits[0] |= mask  # the greatest regret that the key of the last one admits
                        worst = cell[0]
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
