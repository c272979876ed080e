"""The distillation losses of SLKD section 3 and its followers, each a few lines over a distribution and targets.

Gold likelihood, Top-K, Top-WK and exact structural distillation are one formula, the student's cross-entropy with
some sufficient statistics: of one gold path, of k paths alike, of k paths weighted, of the teacher's whole
distribution. Posterior, token and emission distillation are cross-entropies between local distributions, word by
word. Fuzzy distillation is the likelihood of a set of paths, sub-structure distillation a distance between scores.

A teacher that cannot tell some tags of the student apart (`teacher_groups`) is compared with the student's
probability of its *groups* of tags: exact, by sums over the student's marginals or over the student's paths.

Temperature T > 1 softens. With `temperature_mode="local"` it acts on what the loss compares (each word's
distribution, or the list of k best), which only some objectives have; with `"global"` every score of both CRFs is
divided by T, the teacher's when it is annotated. Either way the loss is multiplied by T^2, which keeps the gradients'
scale (Hinton et al. 2015). What `citations.py` lists are the sources.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..data.columns import EDGE_COUNTS, EMISSIONS, MARGINALS, START_END, TOPK_LOG_PROBS, TOPK_TAGS, TRANSITIONS
from ..modeling.linear_chain import LinearChainCRF
from .citations import BIBTEX, MGKD, SKD, SLKD, SUBKD
from .groups import group_log_probs, group_sets, path_group_log_probs
from .local import local_cross_entropy, pair_distance, words_of
from .targets import Targets

TemperatureMode = Literal["local", "global"]
TEMPERATURE_MODES = ("local", "global")


@dataclass(frozen=True)
class Objective:
    """One distillation loss.

    Args:
        temperature: T, above 0; the loss is multiplied by its square.
        temperature_mode: `"local"` or `"global"`, see the module. A global temperature needs teachers that were
            annotated at it.

    Attributes:
        needs: the target columns it reads.
        source: where it comes from, a key of `citations.BIBTEX` (arXiv identifier or anthology key).
        local_temperature: whether it has a local temperature; where not, only the global one changes it.

    Raises:
        ValueError: for a temperature that is not above 0, an unknown mode, or a local temperature where there is none.
    """

    temperature: float = 1.0
    temperature_mode: TemperatureMode = "local"

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    source: ClassVar[str]
    local_temperature: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"the temperature must be above 0, not {self.temperature}")
        if self.temperature_mode not in TEMPERATURE_MODES:
            raise ValueError(f"temperature_mode must be one of {TEMPERATURE_MODES}, not {self.temperature_mode!r}")
        if self.temperature != 1.0 and self.temperature_mode == "local" and not self.local_temperature:
            raise ValueError(f"the {self.name} objective has no local temperature; use temperature_mode='global'")

    def __call__(self, student: LinearChainCRF, targets: Targets) -> Tensor:
        """The loss of each sentence in nats, (batch,); 0 where a sentence has no targets."""
        if self.temperature_mode == "global" and self.temperature != 1.0:
            return self.temperature**2 * self.loss(student.with_temperature(self.temperature), targets, 1.0)
        return self.loss(student, targets, self.temperature)

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        """The equation; `temperature` is the local one, 1 where there is none."""
        raise NotImplementedError

    @property
    def citation(self) -> str:
        """The BibTeX entry of the source."""
        return BIBTEX[self.source]

    def config(self) -> dict[str, Any]:
        """What a card or a record says about it: name, temperature and its mode, source."""
        return {
            "name": self.name,
            "temperature": self.temperature,
            "temperature_mode": self.temperature_mode,
            "source": self.source,
        }


class TopK(Objective):
    """-(1/K) sum over the k best tag sequences y of log p_s(y) (SLKD equation 6). Global temperature only."""

    name, needs, source, local_temperature = "top_k", (TOPK_TAGS, TOPK_LOG_PROBS), SLKD, False

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        return _path_cross_entropy(student, targets, targets.path_weights(weighted=False))


class TopWK(Objective):
    """-sum over the k best y of w_y log p_s(y), w the teacher's probabilities renormalised over the k (SLKD eq. 8).

    Both temperatures are the same here: the teacher's log-probabilities of the paths and all scores of the student
    are divided by T.
    """

    name, needs, source = "top_wk", (TOPK_TAGS, TOPK_LOG_PROBS), SLKD

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        if temperature != 1.0:
            student = student.with_temperature(temperature)
        weights = targets.path_weights(weighted=True, temperature=temperature)
        return temperature**2 * _path_cross_entropy(student, targets, weights)


class Posterior(Objective):
    """-sum over words i and tags j of q_t(i, j) log q_s(i, j), q the exact marginals (SLKD equation 10).

    The local temperature acts on each word's marginals, as in the official recipe; the global one on the chains.
    Where a teacher cannot tell tags apart, q_s is summed over each of its groups.
    """

    name, needs, source = "posterior", (MARGINALS,), SLKD

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        log_q = group_log_probs(student.log_marginals, targets.teacher_groups)
        return local_cross_entropy(targets[MARGINALS], log_q, temperature)


class Token(Objective):
    """-sum over words i and tags j of q_t(i, j) log softmax(e_s(i))_j (SLKD equation 4; SKD's CRF to MaxEnt case).

    For softmax (MaxEnt) students: their emissions are local distributions and transitions are ignored, so a CRF
    student's transitions learn nothing from it. The teacher's local distributions are its marginals, whatever its
    head. The local temperature acts on both; for the global one the teacher's marginals are those at T.
    """

    name, needs, source = "token", (MARGINALS,), SLKD

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        log_p = group_log_probs(_local_log_probs(student), targets.teacher_groups)
        return local_cross_entropy(targets[MARGINALS], log_p, temperature)


class Emission(Objective):
    """-sum over words and tags of softmax(e_t) log softmax(e_s): emissions alone, transitions ignored (SLKD 3.1).

    Both temperatures are the same here.
    """

    name, needs, source = "emission", (EMISSIONS,), SLKD

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        teacher = targets[EMISSIONS].softmax(dim=-1) * words_of(student) * targets.answered()[:, None, None]
        log_p = group_log_probs(_local_log_probs(student), targets.teacher_groups)
        return local_cross_entropy(teacher, log_p, temperature)


class Structural(Objective):
    """-sum over all tag sequences y of p_t(y) log p_s(y), exact (SKD): log Z_s less <teacher expectations, scores>.

    With one transition matrix the teacher's marginals and one matrix of expected transitions a sentence are enough.
    Global temperature only: expectations at another temperature cannot be had from those at 1. A teacher that cannot
    tell tags apart has no such expectations over the student's tags; annotation refuses it.
    """

    name, needs, source, local_temperature = "structural", (MARGINALS, EDGE_COUNTS), SKD, False

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        return student.cross_entropy(targets.statistics())


class SubStructure(Objective):
    """sum over words i of the mean over tag pairs (a, b) of (psi_t(i, a, b) - psi_s(i, a, b))^2 (SubKD).

    psi(i, a, b) = e(i, b) + transitions(a, b), the score of a sub-structure of the chain; the first word has e + start
    instead (a mean over tags), and the last one's scores include the end scores. In nats squared. Three decisions:

    - words beyond a sentence's length count nothing;
    - a constant added to all scores of one word changes no probability, so each word's mean difference is subtracted
      first. (Scores moved from a word's emissions to the next one's transitions change none either; those stay.)
    - pairs that the teacher or the student excludes (score -inf) are left out of the mean.

    It needs no forward-backward. The squared distance is unchanged by a global temperature (T^2 * (psi / T)^2), so
    it has none that matters and no local one.
    """

    name, source, local_temperature = "substructure", SUBKD, False
    needs = (EMISSIONS, TRANSITIONS, START_END)

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        start, end = targets[START_END].unbind(dim=1)
        distance = pair_distance(student, targets[EMISSIONS], targets[TRANSITIONS], start, end)
        return torch.where(targets.answered() > 0, distance, torch.zeros_like(distance))


class Fuzzy(Objective):
    """-log of the sum of p_s(y) over all y whose tag at each word i is in S_i, the tags that the k best have there.

    Fuzzy learning of MGKD (after its abstract; the paper's code is not public), exact by a forward pass through the
    allowed tags only. It is 0 wherever the student keeps to the sets, so its minimum does not single out the teacher:
    combine it with another objective. Global temperature only, and only the student's (the sets have none).
    """

    name, needs, source, local_temperature = "fuzzy", (TOPK_TAGS, TOPK_LOG_PROBS), MGKD, False

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        allowed = group_sets(targets[TOPK_TAGS], student.scores.emissions.shape[-1], targets.teacher_groups)
        answered = targets.answered(TOPK_LOG_PROBS) > 0
        loss = -student.log_prob_of_set(allowed | ~answered[:, None, None])
        return torch.where(answered, loss, torch.zeros_like(loss))


def _local_log_probs(student: LinearChainCRF) -> Tensor:
    emissions = student.scores.emissions
    emissions = torch.where(words_of(student) > 0, emissions, torch.zeros_like(emissions))
    return emissions.to(torch.promote_types(emissions.dtype, torch.float32)).log_softmax(dim=-1)


def _path_cross_entropy(student: LinearChainCRF, targets: Targets, weights: Tensor) -> Tensor:
    """-sum over k of weights (batch, k) times the student's log probability of the teacher's k-th path."""
    if targets.teacher_groups is None:
        return student.cross_entropy(targets.path_statistics(student.scores.emissions.shape[-1], weights))
    log_probs = path_group_log_probs(student, targets[TOPK_TAGS], targets.teacher_groups)
    return -torch.where(weights > 0, weights * log_probs, torch.zeros_like(log_probs)).sum(dim=1)


_CLASSES = (Token, Emission, TopK, TopWK, Posterior, Structural, SubStructure, Fuzzy)
OBJECTIVES: dict[str, type[Objective]] = {cls.name: cls for cls in _CLASSES}
NO_DISTILLATION = "none"
Chosen = Mapping[str, tuple[Objective, float]]


def parse_objective(
    spec: str | Mapping[str, float], temperature: float = 1.0, temperature_mode: TemperatureMode = "local"
) -> dict[str, tuple[Objective, float]]:
    """Read a choice of objectives.

    Args:
        spec: a name, names joined by `+` (weight 1 each, the official code's sum), a mapping name -> weight, or
            `"none"` for training on gold alone.
        temperature: T; with mode local, of every objective that has a local one.
        temperature_mode: `"local"` or `"global"`.

    Returns:
        name -> (objective, weight), empty for `"none"`.

    Raises:
        ValueError: for an unknown name, a name given twice, or a weight that is not above 0.
    """
    Posterior(temperature, temperature_mode)  # a wrong temperature is an error whatever is chosen
    if isinstance(spec, str):
        names = [name.strip() for name in spec.split("+")]
        if names == [NO_DISTILLATION]:
            return {}
        weights = dict.fromkeys(names, 1.0)
        if len(weights) < len(names):
            raise ValueError(f"objective {spec!r} names a part twice; give weights as a mapping instead")
    else:
        weights = {name: float(weight) for name, weight in spec.items()}
        if not weights:
            raise ValueError(f"a mapping of objectives is empty; there are {NO_DISTILLATION}, {', '.join(OBJECTIVES)}")
    chosen = {}
    for name, weight in weights.items():
        if name not in OBJECTIVES:
            raise ValueError(f"unknown objective {name!r}; there are {NO_DISTILLATION}, {', '.join(OBJECTIVES)}")
        if not (weight > 0 and weight < float("inf")):
            raise ValueError(f"the weight of objective {name!r} must be above 0 and finite, not {weight}")
        objective = OBJECTIVES[name]
        own = temperature if temperature_mode == "global" or objective.local_temperature else 1.0
        chosen[name] = (objective(own, temperature_mode), weight)
    return chosen


def needed_columns(objectives: Chosen) -> tuple[str, ...]:
    """The target columns that these objectives read, each once, in a stable order."""
    return tuple(dict.fromkeys(name for objective, _ in objectives.values() for name in objective.needs))


def annotation_temperature(objectives: Chosen) -> float:
    """The temperature that the teachers must be annotated at: T where its mode is global, else 1."""
    return next((o.temperature for o, _ in objectives.values() if o.temperature_mode == "global"), 1.0)


def weighted_losses(objectives: Chosen, student: LinearChainCRF, targets: Targets) -> dict[str, Tensor]:
    """Each objective's loss times its weight, (batch,) in nats.

    Under a global temperature the objectives share one softened student, as without one they share the student: one
    forward-backward serves them all.
    """
    temperature = annotation_temperature(objectives)
    if temperature == 1.0:
        return {name: weight * objective(student, targets) for name, (objective, weight) in objectives.items()}
    softened = student.with_temperature(temperature)
    return {
        name: weight * temperature**2 * objective.loss(softened, targets, 1.0)
        for name, (objective, weight) in objectives.items()
    }
