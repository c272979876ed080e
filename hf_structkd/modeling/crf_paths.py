"""Maxima over all paths: the best one and the k best ones, exactly.

Best path. Let f_t(j) be the score of the best beginning up to word t carrying tag j, and h_t(j) that of the best
completion from there. f and h take the same recursion, one on the sentence read forwards, one on it read backwards, so
both run in one loop on packed rows (see `crf_batch.py`). f_t(j) + h_t(j) is the score of the best path through (t, j).
Where at every word a single tag comes within rounding of the maximum, those tags *are* the best path, because the best
path's own tags all reach it. No back-pointers are kept and nothing is traced back. With ties (or many tags, when the
second direction costs more than it saves) the path is walked forwards along h instead, the lowest tag winning.

k best paths. A forward beam of k distinct prefixes, ranked by regret: how much the best completion of a prefix falls
short of the best path. Extending a prefix in state s by tag j adds max_i (trans(s, i) + h(i)) - (trans(s, j) + h(j))
>= 0, and exactly 0.0 for the best extension, since the same floating-point numbers are subtracted. So the k best
extensions come from the k best prefixes (each of these keeps its own regret through one extension, and those already
outrank everything a worse prefix can become), the beam never loses one of the k best paths, and its first k' entries
are the beam of size k'. Ties are broken by (rank of the prefix, tag): the low mantissa bits of the regret that orders
the candidates, too few to matter beyond rounding, are replaced by the candidate's number, which also makes every key
unique. Prefixes are distinct by construction, and with them the paths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .crf_batch import Chain
from .crf_compiled import native_best_path, native_k_best, native_on
from .crf_reference import IMPOSSIBLE, LIMIT
from .tag_scheme import IGNORED

WIDEST_PAIR = 24  # up to here a second direction in the same operations is cheaper than walking back


def max_plus(X: Tensor, transitions: Tensor, first: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Best scores without and with the word's own emission, both (N, D, C).

    Args:
        X: (N, D, C) packed emissions in D reading directions.
        transitions: (C, D, C) [from, direction, to].
        first: (D, C) scores of each direction's first tag.
        sizes: batch sizes of the packing.
    """
    D, C = X.shape[1:]
    before, after = torch.empty_like(X), torch.empty_like(X)
    before[: sizes[0]] = first
    torch.add(before[: sizes[0]], X[: sizes[0]], out=after[: sizes[0]])
    # The maximum runs over the first axis of (from, batch, direction, to), where it vectorises.
    work = X.new_empty(C, sizes[0], D, C)
    transitions = transitions.unsqueeze(1)
    sources = after.permute(2, 0, 1).unsqueeze(3).split(sizes, 1)
    befores, afters, Xs = before.split(sizes), after.split(sizes), X.split(sizes)
    add, amax, size = torch.add, torch.amax, sizes[0]
    for t in range(1, len(sizes)):
        source = sources[t - 1]
        if sizes[t] != size:
            size = sizes[t]
            work = work[:, :size]
            source = source[:, :size]
        add(source, transitions, out=work)
        amax(work, 0, out=befores[t])
        add(befores[t], Xs[t], out=afters[t])
    return before, after


def walk(completion: Tensor, transitions: Tensor, start: Tensor, sizes: list[int]) -> Tensor:
    """Tags (N,) of the best path, following the best completions (N, C) from the first word on."""
    tags = torch.empty(len(completion), dtype=torch.long, device=completion.device)
    heres, outs, size = completion.split(sizes), tags.split(sizes), sizes[0]
    torch.argmax(start + heres[0], 1, out=outs[0])
    for t in range(1, len(sizes)):
        source = outs[t - 1] if sizes[t] == size else outs[t - 1][: sizes[t]]
        size = sizes[t]
        torch.argmax(transitions.index_select(0, source).add_(heres[t]), 1, out=outs[t])
    return tags


def _smallest(regret: Tensor, k: int, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The k smallest of each row of non-negative float64 numbers, in order, the first of equals first; and where."""
    n = regret.shape[1]
    mask = (1 << (n - 1).bit_length()) - 1
    # Non-negative floats are ordered like their bits; the sign bit goes too, for -0.0.
    key = regret.view(torch.int64).bitwise_and(~mask & (2**63 - 1)).bitwise_or_(numbers[:n])
    index = key.topk(min(k, n), 1, largest=False, sorted=True).values.bitwise_and_(mask)
    return regret.gather(1, index), index


def beam(
    completion: Tensor, rest: Tensor, transitions: Tensor, start: Tensor, sizes: list[int], k: int
) -> tuple[Tensor, Tensor]:
    """The k best paths and their regrets.

    Args:
        completion: (N, C) best score from a word's tag to the end, its emission included.
        rest: (N, C) the same without the word's emission: the maximum over next tags of transition + completion.

    Returns:
        tags (N, k) and regrets (B, k) >= 0, LIMIT or more where there is no such path.
    """
    B, C = sizes[0], completion.shape[1]
    heres, rests = completion.split(sizes), rest.split(sizes)
    total = start + heres[0]
    numbers = torch.arange(k * C, device=total.device)
    regret, choice = _smallest(total.amax(1, keepdim=True) - total, k, numbers)
    final = total.new_full((B, k), float("inf"))
    choices, states = [choice], [choice]
    for t in range(1, len(sizes)):
        size, state = sizes[t], states[-1]
        if size != sizes[t - 1]:
            final[size : sizes[t - 1], : regret.shape[1]] = regret[size:]
            regret, state = regret[:size], state[:size]
        step = transitions.index_select(0, state.flatten()).view(size, -1, C).add_(heres[t].unsqueeze(1))
        reachable = rests[t - 1][:size].gather(1, state).unsqueeze(2)
        step = torch.sub(reachable, step, out=step).add_(regret.unsqueeze(2))
        regret, choice = _smallest(step.flatten(1), k, numbers)
        choices.append(choice)
        states.append(choice.remainder(C))
    final[: len(regret), : regret.shape[1]] = regret
    tags = torch.empty(len(completion), k, dtype=torch.long, device=completion.device)
    outs = tags.split(sizes)
    rank = torch.arange(k, device=tags.device).repeat(B, 1)
    for t in range(len(sizes) - 1, -1, -1):
        here = rank[: sizes[t]]
        if choices[t].shape[1] < k:
            here.clamp_(
                max=choices[t].shape[1] - 1
            )  # ranks beyond the beam do not exist and are masked by their regret
        torch.gather(states[t], 1, here, out=outs[t])
        if t > 0:
            here.copy_(choices[t].gather(1, here).div_(C, rounding_mode="floor"))
    return tags, final


class _Problem:
    """The float64 scores of a batch on packed rows."""

    def __init__(self, chain: Chain):
        scores = chain.detached()
        self.T = scores.emissions.shape[1]
        self.packing, self.sizes = chain.packing, chain.packing.batch_sizes
        self.emissions = self.packing.pack(scores.emissions).double().clamp_(min=IMPOSSIBLE)
        self.transitions, self.start, self.end = (part.double().clamp(min=IMPOSSIBLE) for part in scores[1:])

    def completions(self) -> tuple[Tensor, Tensor]:
        """(N, C) best score to the end, without and with the word's own emission."""
        mirror = self.packing.mirror
        X = self.emissions.index_select(0, mirror).unsqueeze(1)
        rest, completion = max_plus(X, self.transitions.T.unsqueeze(1), self.end[None], self.sizes)
        return rest[:, 0].index_select(0, mirror), completion[:, 0].index_select(0, mirror)

    def walk(self, completion: Tensor) -> tuple[Tensor, Tensor]:
        best = (self.start + completion[: self.sizes[0]]).amax(1)
        return walk(completion, self.transitions, self.start, self.sizes), best

    def through(self) -> tuple[Tensor, Tensor]:
        """Both directions at once."""
        emissions, mirror = self.emissions, self.packing.mirror
        X = torch.stack([emissions, emissions.index_select(0, mirror)], 1)
        transitions = torch.stack([self.transitions, self.transitions.T], 1)
        before, after = max_plus(X, transitions, torch.stack([self.start, self.end]), self.sizes)
        completion = after[:, 1].index_select(0, mirror)
        through = before[:, 0] + completion
        best = through.amax(1)
        if int((through >= (best - self._rounding()).unsqueeze(1)).sum()) > len(best):
            return self.walk(completion)
        return through.argmax(1), best[: self.sizes[0]]

    def _rounding(self) -> float:
        """A bound, generous, on the error of a sum along a path."""
        largest = max(float(torch.where(s > -LIMIT, s, 0.0).abs().amax()) for s in (self.emissions, self.transitions))
        largest = max(largest, *(float(torch.where(s > -LIMIT, s, 0.0).abs().amax()) for s in (self.start, self.end)))
        return 8 * torch.finfo(torch.float64).eps * (len(self.sizes) + 1) ** 2 * largest


@torch.compiler.disable
def best_path(chain: Chain) -> Tensor:
    """Tags (B, T) of the best path; -100 on padding and where no path exists."""
    if native_on(chain.device):
        return native_best_path(chain)
    with torch.inference_mode():
        problem = _Problem(chain)
        if len(problem.start) <= WIDEST_PAIR:
            tags, best = problem.through()
        else:
            tags, best = problem.walk(problem.completions()[1])
        tags = torch.where((best > -LIMIT)[_rank(problem)], tags, IGNORED)
    return _padded(problem, tags)


@torch.compiler.disable
def k_best(chain: Chain, k: int) -> tuple[Tensor, Tensor]:
    """The k best paths (B, K, T), -100 on padding and for paths that do not exist; whether they exist (B, K)."""
    if native_on(chain.device):
        return native_k_best(chain, k)
    with torch.inference_mode():
        problem = _Problem(chain)
        rest, completion = problem.completions()
        tags, regret = beam(completion, rest, problem.transitions, problem.start, problem.sizes, k)
        best = (problem.start + completion[: problem.sizes[0]]).amax(1, keepdim=True)
        valid = (regret < LIMIT) & (best > -LIMIT)
        tags = torch.where(valid[_rank(problem)], tags, IGNORED)
        order = problem.packing.order
    exists = torch.empty_like(valid, dtype=torch.bool).index_copy_(0, order.clone(), valid.clone())
    return _padded(problem, tags).transpose(1, 2).contiguous(), exists


def _rank(problem: _Problem) -> Tensor:
    """(N,) place of each row's sentence among the sorted ones."""
    order = problem.packing.order
    rank = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    return rank[problem.packing.sentence]


def _padded(problem: _Problem, tags: Tensor) -> Tensor:
    """(N, ...) to (B, T, ...), -100 on padding; outside inference mode, so that the result may be used anywhere."""
    B, T = problem.sizes[0], problem.T
    padded = torch.full((B * T, *tags.shape[1:]), IGNORED, dtype=torch.long, device=tags.device)
    return padded.index_copy_(0, problem.packing.word, tags).view(B, T, *tags.shape[1:])
