"""The same CRF operations asked of several libraries, on identical inputs.

Operations return what their library returns (losses after their backward pass); `answer` brings that into one common
form, outside the time that is measured, so that answers can be compared before times are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_structkd.modeling.crf import LinearChainCRF, SufficientStatistics
from hf_structkd.modeling.crf_compiled import use_native


@dataclass
class Problem:
    """A ragged random batch: lengths uniform in [T/4, T], float32 scores like a trained tagger's."""

    B: int
    T: int
    C: int
    seed: int = 0

    def __post_init__(self):
        generator = torch.Generator().manual_seed(self.seed)
        B, T, C = self.B, self.T, self.C

        def scores(*shape, scale=1.0):
            return torch.randn(*shape, generator=generator) * scale

        self.lengths = torch.randint(max(2, T // 4), T + 1, (B,), generator=generator)
        self.lengths[0] = T
        self.mask = torch.arange(T) < self.lengths[:, None]
        self.student = [scores(B, T, C, scale=2.0), scores(C, C, scale=0.5), scores(C), scores(C)]
        self.student = [part.requires_grad_() for part in self.student]
        self.teacher = [scores(B, T, C, scale=3.0), scores(C, C), scores(C), scores(C)]
        self.gold = torch.randint(0, C, (B, T), generator=generator)
        teacher = LinearChainCRF(*self.teacher, lengths=self.lengths)
        self.posterior = teacher.marginals
        best = teacher.topk(5)
        self.paths, self.weights = best.tags, best.log_prob.softmax(1)

    def backward(self, loss: Tensor) -> Tensor:
        for part in self.student:
            part.grad = None
        loss.backward()
        return loss.detach()


Operation = Callable[[Problem], Tensor]


class Ours:
    """hf_structkd as it is installed: compiled loops where there is numba."""

    native: bool | None = None

    def chain(self, p: Problem, teacher: bool = False) -> LinearChainCRF:
        return LinearChainCRF(*(p.teacher if teacher else p.student), lengths=p.lengths)

    def nll(self, p):
        return p.backward(-self.chain(p).log_prob(p.gold).mean())

    def marginals(self, p):
        with torch.no_grad():
            return self.chain(p).marginals

    def posterior(self, p):
        return p.backward(-(p.posterior * self.chain(p).log_marginals).sum() / p.B)

    def viterbi(self, p):
        with torch.no_grad():
            return self.chain(p).decode()

    def k_best_5(self, p, k=5):
        with torch.no_grad():
            return self.chain(p).topk(k).tags

    def k_best_10(self, p):
        return self.k_best_5(p, 10)

    def k_best_50(self, p):
        return self.k_best_5(p, 50)

    def structural(self, p):
        with torch.no_grad():
            expectations = self.chain(p, teacher=True).statistics
        return p.backward(self.chain(p).cross_entropy(expectations).mean())

    def top_wk_5(self, p):
        statistics = SufficientStatistics.from_tags(p.paths, p.C, p.weights)
        return p.backward(self.chain(p).cross_entropy(statistics).mean())


class OursTorch(Ours):
    """hf_structkd without compiled loops."""

    native = False


class CRFLayer:
    """A library whose CRF is a layer with parameters of its own; they get the problem's scores."""

    transitions, start, end = "transitions", "start_transitions", "end_transitions"

    def new(self, p: Problem) -> torch.nn.Module:
        raise NotImplementedError

    def layer(self, p: Problem) -> torch.nn.Module:
        layers = p.__dict__.setdefault("layers", {})
        if type(self) not in layers:
            layer = layers[type(self)] = self.new(p)
            for name, part in zip((self.transitions, self.start, self.end), p.student[1:]):
                setattr(layer, name, torch.nn.Parameter(part.detach()))
        return layers[type(self)]

    def finish(self, p: Problem, layer: torch.nn.Module, loss: Tensor) -> Tensor:
        layer.zero_grad()
        p.backward(loss)
        p.student[1].grad = getattr(layer, self.transitions).grad
        return loss.detach()


class PytorchCRF(CRFLayer):
    """pytorch-crf 0.7.2."""

    def new(self, p):
        from torchcrf import CRF

        return CRF(p.C, batch_first=True)

    def nll(self, p):
        layer = self.layer(p)
        return self.finish(p, layer, -layer(p.student[0], p.gold, p.mask, reduction="mean"))

    def viterbi(self, p):
        return self.layer(p).decode(p.student[0].detach(), p.mask)

    def top_wk_5(self, p):
        layer, k = self.layer(p), p.paths.shape[1]
        repeated = p.student[0].repeat_interleave(k, 0)
        tags = p.paths.flatten(0, 1).clamp(min=0)
        value = layer(repeated, tags, p.mask.repeat_interleave(k, 0), reduction="none")
        return self.finish(p, layer, -(p.weights.flatten() * value).sum() / p.B)


class LinearCRFTorch(CRFLayer):
    """linear-crf-torch 0.0.1; its loss is per word."""

    start, end = "starts", "ends"

    def new(self, p):
        from linear_crf import LinearCRF

        return LinearCRF(p.C, batch_first=True)

    def nll(self, p):
        layer = self.layer(p)
        return self.finish(p, layer, layer(p.student[0], p.gold, p.mask) * (p.mask.sum() / p.B))

    def viterbi(self, p):
        return self.layer(p).decode(p.student[0].detach(), p.mask)


class TorchCRF(CRFLayer):
    """TorchCRF 1.1.0."""

    transitions, start, end = "trans_matrix", "start_trans", "end_trans"

    def new(self, p):
        from TorchCRF import CRF

        return CRF(p.C, use_gpu=False)

    def nll(self, p):
        layer = self.layer(p)
        return self.finish(p, layer, -layer(p.student[0], p.gold, p.mask).mean())

    def viterbi(self, p):
        return self.layer(p).viterbi_decode(p.student[0].detach(), p.mask)


class PytorchPartialCRF(CRFLayer):
    """pytorch-partial-crf 0.2.1."""

    def new(self, p):
        from pytorch_partial_crf import CRF

        return CRF(p.C)

    def nll(self, p):
        layer = self.layer(p)
        return self.finish(p, layer, layer(p.student[0], p.gold, p.mask.byte()) / p.B)

    def marginals(self, p):
        with torch.no_grad():
            return self.layer(p).marginal_probabilities(p.student[0], p.mask.byte()).transpose(0, 1)

    def viterbi(self, p):
        with torch.no_grad():
            return self.layer(p).viterbi_decode(p.student[0], p.mask.byte())


class FlashSemiCRF:
    """flash-semicrf 0.2.0 with segments of length 1; start and end are part of the first and last emissions."""

    def nll(self, p):
        from flash_semicrf import SemiMarkovCRFHead

        if not hasattr(p, "semicrf"):
            p.semicrf = SemiMarkovCRFHead(p.C, max_duration=1)
            p.semicrf.transition = torch.nn.Parameter(p.student[1].detach())
            p.semicrf.duration_dist.duration_bias = torch.nn.Parameter(torch.zeros(1, p.C))
        emissions, _, start, end = p.student
        ends = torch.zeros_like(emissions).index_put(
            (torch.arange(p.B), p.lengths - 1), end.expand(p.B, -1), accumulate=True
        )
        begins = torch.cat([start.expand(p.B, 1, -1), torch.zeros_like(emissions[:, 1:])], 1)
        scores = emissions + begins + ends
        log_z = p.semicrf(scores, p.lengths)["partition"]
        words = (scores.gather(2, p.gold[..., None]).squeeze(2) * p.mask).sum(1)
        steps = (p.semicrf.transition[p.gold[:, :-1], p.gold[:, 1:]] * p.mask[:, 1:]).sum(1)
        p.semicrf.zero_grad()
        loss = p.backward((log_z - words - steps).mean())
        p.student[1].grad = p.semicrf.transition.grad
        return loss


class Supar:
    """supar 1.1.4; transitions are (C + 1, C + 1), start and end in the last row and column."""

    def chain(self, p, teacher=False):
        from supar.structs import LinearChainCRF as Chain

        emissions, transitions, start, end = p.teacher if teacher else p.student
        corner = torch.cat([start, start.new_zeros(1)])[None]
        edges = torch.cat([torch.cat([transitions, end[:, None]], 1), corner])
        return Chain(emissions if not teacher else emissions.clone(), edges, p.lengths)

    def nll(self, p):
        chain = self.chain(p)
        return p.backward(-chain.log_prob(p.gold).mean())

    def marginals(self, p):
        return self.chain(p).marginals.detach()

    def posterior(self, p):
        log_q = self.chain(p).marginals[p.mask].clamp(min=1e-38).log()
        return p.backward(-(p.posterior[p.mask] * log_q).sum() / p.B)

    def viterbi(self, p):
        return self.chain(p).argmax

    def k_best_5(self, p, k=5):
        return self.chain(p).topk(k).transpose(1, 2)

    def k_best_10(self, p):
        return self.k_best_5(p, 10)

    def structural(self, p):
        return p.backward(self.chain(p, teacher=True).cross_entropy(self.chain(p)).mean())


class TorchStruct:
    """torch-struct 0.5; potentials are (B, T - 1, C, C) [to, from], without one-word sentences."""

    def chain(self, p):
        import torch_struct

        emissions, transitions, start, end = p.student
        edges = transitions.T + emissions[:, 1:, :, None]
        first = torch.zeros_like(edges[0, :, :1, :1])
        first[0] = 1
        edges = edges + first * (emissions[:, :1] + start)[:, :, None, :]
        last = (torch.arange(p.T - 1) == p.lengths[:, None] - 2).float()[..., None, None]
        edges = edges + last * end[:, None]
        return torch_struct.LinearChainCRF(edges, lengths=p.lengths), edges

    def score(self, p):
        emissions, transitions, start, end = p.student
        last = p.gold.gather(1, p.lengths[:, None] - 1).squeeze(1)
        words = (emissions.gather(2, p.gold[..., None]).squeeze(2) * p.mask).sum(1)
        return (
            words
            + (transitions[p.gold[:, :-1], p.gold[:, 1:]] * p.mask[:, 1:]).sum(1)
            + start[p.gold[:, 0]]
            + end[last]
        )

    def nll(self, p):
        return p.backward((self.chain(p)[0].partition - self.score(p)).mean())

    def marginals(self, p):
        edges = self.chain(p)[0].marginals.detach()
        return torch.cat([edges[:, :1].sum(2), edges.sum(3)], 1)

    def viterbi(self, p):
        edges = self.chain(p)[0].argmax.detach()
        return torch.cat([edges[:, :1].sum(2), edges.sum(3)], 1).argmax(2)


OURS = "ours"
WITHOUT_NUMBA = "ours, torch"
COMPETITORS = {
    OURS: Ours(),
    WITHOUT_NUMBA: OursTorch(),
    "pytorch-crf": PytorchCRF(),
    "linear-crf-torch": LinearCRFTorch(),
    "TorchCRF": TorchCRF(),
    "pytorch-partial-crf": PytorchPartialCRF(),
    "flash-semicrf": FlashSemiCRF(),
    "supar": Supar(),
    "torch-struct": TorchStruct(),
}
OPERATIONS = ("nll", "marginals", "posterior", "viterbi", "k_best_5", "k_best_10", "structural", "top_wk_5")
MORE_OPERATIONS = ("k_best_50",)  # on request


def run(competitor: str, operation: str, problem: Problem) -> Tensor:
    """One operation of one library. AttributeError if the library does not offer it."""
    who = COMPETITORS[competitor]
    function = getattr(who, operation)
    before = use_native(getattr(who, "native", None))
    try:
        return function(problem)
    finally:
        use_native(before)


def answer(operation: str, problem: Problem, result) -> Tensor:
    """What an operation computed, comparable across libraries: loss and gradients, marginals, or scores of paths."""
    p = problem
    if operation == "marginals":
        return result[p.mask].double()
    if operation == "viterbi" or operation.startswith("k_best"):
        # Paths are judged by their scores: equally good ones may differ.
        if isinstance(result, list):
            result = torch.nn.utils.rnn.pad_sequence([torch.tensor(path) for path in result], batch_first=True)
        chain = LinearChainCRF(*(part.detach().double() for part in p.student), lengths=p.lengths)
        return chain.log_prob(result)
    gradient = p.student[0].grad[p.mask].flatten()
    return torch.cat([result.reshape(1), p.student[1].grad.flatten(), gradient]).double()
