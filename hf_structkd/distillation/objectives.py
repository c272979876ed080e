"""The distillation losses of SLKD section 3 and SKD, each a few lines over a distribution and teacher targets.

Gold likelihood, Top-K, Top-WK and exact structural distillation are one formula, the student's cross-entropy with
some sufficient statistics: of one gold path, of k paths alike, of k paths weighted, of the teacher's whole
distribution. Posterior and emission distillation are cross-entropies between local distributions, word by word.

SLKD: Wang et al. 2020, arXiv 2004.03846. SKD: Wang et al. 2021, arXiv 2010.05010.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..data.columns import EDGE_COUNTS, EMISSIONS, MARGINALS, TOPK_LOG_PROBS, TOPK_TAGS
from ..modeling.linear_chain import LinearChainCRF
from .targets import Targets

SLKD, SKD = "2004.03846", "2010.05010"


@dataclass(frozen=True)
class Objective:
    """One distillation loss.

    Args:
        temperature: above 1 softens both distributions; the loss is multiplied by its square, which keeps the
            gradients' scale. Where it acts is each objective's.

    Attributes:
        needs: the target columns it reads.
        arxiv: where it comes from.
    """

    temperature: float = 1.0

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    arxiv: ClassVar[str]

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"the temperature must be above 0, not {self.temperature}")

    def __call__(self, student: LinearChainCRF, targets: Targets) -> Tensor:
        """The loss of each sentence in nats, (batch,); 0 where a sentence has no targets."""
        raise NotImplementedError


def local_cross_entropy(teacher: Tensor, student_log_probs: Tensor, temperature: float) -> Tensor:
    """T^2 * sum over words and tags of -q_t^(1/T)/Z_t * log(q_s^(1/T)/Z_s): (batch,).

    Args:
        teacher: (batch, words, tags), probabilities, zero off the words.
        student_log_probs: (batch, words, tags), nats.
        temperature: T.
    """
    if temperature != 1.0:
        words = (teacher.sum(dim=-1, keepdim=True) > 0).to(teacher.dtype)
        teacher = (teacher.clamp(min=torch.finfo(torch.float32).tiny).log() / temperature).softmax(dim=-1) * words
        student_log_probs = (student_log_probs / temperature).log_softmax(dim=-1)
    # where: 0 * -inf is NaN, and a tag that the student's constraints forbid has log-probability -inf.
    terms = torch.where(teacher > 0, teacher * student_log_probs, torch.zeros((), dtype=student_log_probs.dtype))
    return -(temperature**2) * terms.sum(dim=(1, 2))


class TopK(Objective):
    """-(1/K) sum over the k best tag sequences y of log p_s(y) (SLKD equation 6). The temperature has no effect."""

    name, needs, arxiv = "top_k", (TOPK_TAGS, TOPK_LOG_PROBS), SLKD

    def __call__(self, student: LinearChainCRF, targets: Targets) -> Tensor:
        return student.cross_entropy(targets.path_statistics(student.scores.emissions.shape[-1], weighted=False))


class TopWK(Objective):
    """-sum over the k best y of w_y log p_s(y), w the teacher's probabilities renormalised over the k (SLKD eq. 8).

    The temperature divides the teacher's log-probabilities of the paths and all scores of the student.
    """

    name, needs, arxiv = "top_wk", (TOPK_TAGS, TOPK_LOG_PROBS), SLKD

    def __call__(self, student: LinearChainCRF, targets: Targets) -> Tensor:
        statistics = targets.path_statistics(student.scores.emissions.shape[-1], True, self.temperature)
        return self.temperature**2 * _softened(student, self.temperature).cross_entropy(statistics)


class Posterior(Objective):
    """-sum over words i and tags j of q_t(i, j) log q_s(i, j), q the exact marginals (SLKD equation 10).

    The temperature acts on each word's marginals (local), as in the official recipe.
    """

    name, needs, arxiv = "posterior", (MARGINALS,), SLKD

    def __call__(self, student: LinearChainCRF, targets: Targets) -> Tensor:
        return local_cross_entropy(targets[MARGINALS], student.log_marginals, self.temperature)


class Structural(Objective):
    """-sum over all tag sequences y of p_t(y) log p_s(y), exact (SKD): log Z_s less <teacher expectations, scores>.

    Needs the teacher at temperature 1: expectations at another temperature cannot be had from those.
    """

    name, needs, arxiv = "structural", (MARGINALS, EDGE_COUNTS), SKD

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature != 1.0:
            raise ValueError("the structural objective has no local temperature: annotate with a temperature instead")

    def __call__(self, student: LinearChainCRF, targets: Targets) -> Tensor:
        return student.cross_entropy(targets.statistics())


class Emission(Objective):
    """-sum over words and tags of softmax(e_t) log softmax(e_s): emissions alone, transitions ignored (SLKD 3.1)."""

    name, needs, arxiv = "emission", (EMISSIONS,), SLKD

    def __call__(self, student: LinearChainCRF, targets: Targets) -> Tensor:
        inside = torch.arange(student.scores.emissions.shape[1], device=student.scores.emissions.device)
        words = (inside < student.lengths.to(inside.device)[:, None]).float() * targets.answered()[:, None]
        teacher = targets[EMISSIONS].softmax(dim=-1) * words.unsqueeze(-1)
        emissions = student.scores.emissions
        emissions = emissions.to(torch.promote_types(emissions.dtype, torch.float32))
        return local_cross_entropy(teacher, emissions.log_softmax(dim=-1), self.temperature)


def _softened(student: LinearChainCRF, temperature: float) -> LinearChainCRF:
    return student if temperature == 1.0 else student.with_temperature(temperature)


OBJECTIVES: dict[str, type[Objective]] = {cls.name: cls for cls in (TopK, TopWK, Posterior, Structural, Emission)}
NO_DISTILLATION = "none"


def parse_objective(spec: str | Mapping[str, float], temperature: float = 1.0) -> dict[str, tuple[Objective, float]]:
    """Read a choice of objectives.

    Args:
        spec: a name, names joined by `+` (weight 1 each, the official code's sum), a mapping name -> weight, or
            `"none"` for training on gold alone.
        temperature: of every objective that has one.

    Returns:
        name -> (objective, weight), empty for `"none"`.

    Raises:
        ValueError: for an unknown name, a name given twice, or a weight that is not above 0.
    """
    if isinstance(spec, str):
        names = [name.strip() for name in spec.split("+")]
        if names == [NO_DISTILLATION]:
            return {}
        weights = dict.fromkeys(names, 1.0)
        if len(weights) < len(names):
            raise ValueError(f"objective {spec!r} names a part twice; give weights as a mapping instead")
    else:
        weights = {name: float(weight) for name, weight in spec.items()}
    chosen = {}
    for name, weight in weights.items():
        if name not in OBJECTIVES:
            raise ValueError(f"unknown objective {name!r}; there are {NO_DISTILLATION}, {', '.join(OBJECTIVES)}")
        if not weight > 0:
            raise ValueError(f"the weight of objective {name!r} must be above 0, not {weight}")
        objective = OBJECTIVES[name]
        own = 1.0 if name in ("top_k", "structural") else temperature
        chosen[name] = (objective(temperature=own), weight)
    return chosen


def needed_columns(objectives: Mapping[str, tuple[Objective, float]]) -> tuple[str, ...]:
    """The target columns that these objectives read, each once, in a stable order."""
    return tuple(dict.fromkeys(name for objective, _ in objectives.values() for name in objective.needs))
