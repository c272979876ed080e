"""The distillation losses of SLKD section 3 and the papers that followed it, by name.

Gold likelihood, Top-K, Top-WK and exact structural distillation are one formula, the student's cross-entropy with
some sufficient statistics: of one gold path, of k paths alike, of k paths weighted, of the teacher's whole
distribution. Posterior, token and emission distillation are cross-entropies between local distributions, word by
word. Fuzzy distillation is the likelihood of a set of paths, sub-structure distillation a distance between scores.

A teacher that cannot tell some tags of the student apart (`teacher_groups`) is compared with the student's
probability of its *groups* of tags: exact, by sums over the student's marginals or over the student's paths. Where the
teachers of one language leave different labels open, each has a loss of its own over its groups.

Temperature T > 1 softens, and each objective may have its own. With `temperature_mode="local"` it acts on what the
loss compares (each word's distribution, or the list of k best), which only some objectives have; with `"global"` every
score of both CRFs is divided by T, the teacher's during annotation. The loss is multiplied by a power of T that keeps
the scale of its gradient. Where two softened distributions are compared, the factor is T^2 (Hinton et al. 2015): the
scores are divided by T, and so is the difference of the distributions. Where paths are compared (`top_k`, `top_wk`,
`fuzzy`) it is T: the student softens and the paths stay the same, so their difference does not shrink. The gates
compare both, each with its power. `citations.py` lists the sources.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..data.columns import (
    EDGE_COUNTS,
    EMISSIONS,
    ENTROPY,
    MARGINALS,
    START_END,
    TEMPERED_COLUMNS,
    TOPK_LOG_PROBS,
    TOPK_TAGS,
    TRANSITIONS,
)
from ..modeling.crf import LinearChainCRF
from .citations import BIBTEX, GATE, MGKD, SKD, SLKD, SUBKD
from .comparisons import (
    group_log_probs,
    local_cross_entropy,
    pair_distance,
    path_group_log_probs,
    sentence_gates,
    tag_sets,
    word_gates,
    word_log_probs,
    word_mask,
)
from .targets import Targets

TEMPERATURE_MODES = ("local", "global")


@dataclass(frozen=True)
class Objective:
    """One distillation loss.

    Args:
        temperature: T, above 0.
        temperature_mode: `"local"` or `"global"`, see the module. A global temperature needs answers that the teachers
            gave at this temperature.

    Attributes:
        name: under which it is chosen.
        needs: the target columns it reads.
        source: the paper, a key of `citations.BIBTEX` (arXiv identifier or anthology key).
        temperature_modes: the modes of temperature that change it.
        temperature_power: the power of T that the loss is multiplied by, see the module.
        weighs_words: whether it is a sum over words, which may have weights (`Targets.word_weights`).

    Raises:
        ValueError: for a temperature that is not above 0, an unknown mode, or a mode that the objective lacks.
    """

    temperature: float = 1.0
    temperature_mode: str = "local"

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    source: ClassVar[str]
    temperature_modes: ClassVar[tuple[str, ...]] = TEMPERATURE_MODES
    temperature_power: ClassVar[int] = 2
    weighs_words: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if self.temperature_mode not in TEMPERATURE_MODES:
            raise ValueError(f"temperature_mode must be one of {TEMPERATURE_MODES}, not {self.temperature_mode!r}")
        if self.temperature != 1.0 and self.temperature_mode not in self.temperature_modes:
            if not self.temperature_modes:
                raise ValueError(f"the {self.name} objective has no temperature: it is the same at every one")
            raise ValueError(
                f"the {self.name} objective has no {self.temperature_mode} temperature; "
                f"use temperature_mode={self.temperature_modes[0]!r}"
            )

    def __call__(self, student: LinearChainCRF, targets: Targets) -> Tensor:
        """The loss of each sentence in nats, (batch,); 0 where a sentence has no targets."""
        return self.loss_of_softened(self.softened(student), targets)

    def loss_of_softened(self, student: LinearChainCRF, targets: Targets) -> Tensor:
        """The loss of each sentence for a student that has the objective's global temperature already.

        Teachers that leave different labels open are several voices: each has its own loss, and the losses are added
        up by their weights.
        """
        temperature = self.temperature if self.is_local else 1.0
        losses = [
            loss if voice.teacher_weight is None else voice.teacher_weight * loss
            for voice, loss in ((voice, self.loss(student, voice, temperature)) for voice in targets.voices())
        ]
        return self.scale * (losses[0] if len(losses) == 1 else torch.stack(losses).sum(dim=0))

    @property
    def is_local(self) -> bool:
        return self.temperature_mode == "local"

    @property
    def scale(self) -> float:
        """The factor of the loss that keeps the scale of its gradient at every temperature."""
        return self.temperature**self.temperature_power

    def softened(self, student: LinearChainCRF) -> LinearChainCRF:
        """The student with all scores divided by a global temperature."""
        return student if self.is_local or self.temperature == 1.0 else student.with_temperature(self.temperature)

    @property
    def teacher_temperatures(self) -> dict[str, float]:
        """For each column that it reads the teacher's global temperature; 1 where the temperature is local."""
        temperature = 1.0 if self.is_local else self.temperature
        return {column: temperature for column in self.needs if column in TEMPERED_COLUMNS}

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        """The equation; `temperature` is the local one, 1 where there is none."""
        raise NotImplementedError

    @property
    def citation(self) -> str:
        """The BibTeX entry of the source."""
        return BIBTEX[self.source]

    def config(self) -> dict[str, Any]:
        """Its name, temperature, mode and source, for cards and records."""
        return {
            "name": self.name,
            "temperature": self.temperature,
            "temperature_mode": self.temperature_mode,
            "source": self.source,
        }


class TopK(Objective):
    """-(1/K) sum over the k best tag sequences y of log p_s(y) (SLKD equation 6).

    Global temperature only, and only the student's: the k best of a chain are the same at every temperature.
    """

    name, needs, source = "top_k", (TOPK_TAGS, TOPK_LOG_PROBS), SLKD
    temperature_modes, temperature_power = ("global",), 1

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        return _path_cross_entropy(student, targets, targets.path_weights(weighted=False))

    @property
    def teacher_temperatures(self) -> dict[str, float]:
        return {}


class TopWK(Objective):
    """-sum over the k best y of w_y log p_s(y), w the teacher's probabilities renormalised over the k (SLKD eq. 8).

    For one teacher with the student's tags both modes of temperature are the same: the teacher's log-probabilities of
    the paths and all scores of the student are divided by T. For merged tags and mixed teachers the local temperature
    divides the logs of the merged or mixed probabilities, and the global one the scores before they are merged.
    """

    name, needs, source = "top_wk", (TOPK_TAGS, TOPK_LOG_PROBS), SLKD
    temperature_power = 1

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        softened, weights = _softened_paths(student, targets, temperature)
        return _path_cross_entropy(softened, targets, weights)


class Posterior(Objective):
    """-sum over words i and tags j of q_t(i, j) log q_s(i, j), q the exact marginals (SLKD equation 10).

    The local temperature acts on each word's marginals, as in the official recipe; the global one on the chains.
    Where a teacher cannot tell tags apart, q_s is summed over each of its groups.
    """

    name, needs, source = "posterior", (MARGINALS,), SLKD
    weighs_words = True

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        return _marginal_cross_entropy(student, targets, temperature, targets.word_weights)


class Token(Objective):
    """-sum over words i and tags j of q_t(i, j) log softmax(e_s(i))_j (SLKD equation 4; SKD's CRF to MaxEnt case).

    For softmax (MaxEnt) students: their emissions are local distributions and transitions are ignored, so a CRF
    student's transitions learn nothing from it. The teacher's local distributions are its marginals, whatever its
    head. The local temperature acts on both; for the global one the teacher's marginals are those at T.
    """

    name, needs, source = "token", (MARGINALS,), SLKD
    weighs_words = True

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        log_p = group_log_probs(_local_log_probs(student), targets.teacher_groups)
        return local_cross_entropy(targets[MARGINALS], log_p, temperature, targets.word_weights)


class Emission(Objective):
    """-sum over words and tags of softmax(e_t) log softmax(e_s): emissions alone, transitions ignored (SLKD 3.1).

    For one teacher with the student's tags both modes of temperature are the same. Where tags are merged, form groups
    or come from several teachers they differ: the local one acts on the sums, the global one on the summands.
    """

    name, needs, source = "emission", (EMISSIONS,), SLKD
    weighs_words = True

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        teacher = targets[EMISSIONS].softmax(dim=-1) * word_mask(student)
        teacher = teacher * targets.answered(EMISSIONS)[:, None, None]
        log_p = group_log_probs(_local_log_probs(student), targets.teacher_groups)
        return local_cross_entropy(teacher, log_p, temperature, targets.word_weights)


class Structural(Objective):
    """-sum over all tag sequences y of p_t(y) log p_s(y), exact (SKD): log Z_s less <teacher expectations, scores>.

    With one transition matrix, the teacher's marginals and one matrix of expected transitions per sentence are enough.
    Global temperature only: expectations at another temperature do not follow from those at 1, and marginals that
    are softened one by one belong to no chain (docs/objectives.md). A teacher that cannot tell tags apart has no
    such expectations over the student's tags; `annotate` refuses this.
    """

    name, needs, source = "structural", (MARGINALS, EDGE_COUNTS), SKD
    temperature_modes = ("global",)

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        return student.cross_entropy(targets.statistics())


class SubStructure(Objective):
    """sum over words i of the mean over tag pairs (a, b) of (psi_t(i, a, b) - psi_s(i, a, b))^2 (SubKD).

    psi(i, a, b) = e(i, b) + transitions(a, b), the score of a sub-structure of the chain; the first word has e + start
    instead (a mean over tags), and the last one's scores include the end scores. In nats squared. Three decisions:

    - padding does not count;
    - a constant added to all scores of one word changes no probability, so each word's mean difference is subtracted
      first. (Scores moved from a word's emissions to the next one's transitions change none either; those stay.)
    - pairs that the teacher or the student excludes (score -inf) are left out of the mean.

    It needs no forward-backward. The squared distance is unchanged by a global temperature (T^2 * (psi / T)^2), so
    it has none.
    """

    name, source, temperature_modes = "substructure", SUBKD, ()
    needs = (EMISSIONS, TRANSITIONS, START_END)

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        start, end = targets[START_END].unbind(dim=1)
        distance = pair_distance(student, targets[EMISSIONS], targets[TRANSITIONS], start, end)
        return torch.where(targets.answered(EMISSIONS) > 0, distance, torch.zeros_like(distance))


class Fuzzy(Objective):
    """-log of the sum of p_s(y) over all y whose tag at each word i is in S_i, the tags that the k best have there.

    Fuzzy learning of MGKD (after its abstract; the paper's code is not public), exact by a forward pass through the
    allowed tags only. It is 0 wherever the student keeps to the sets, so its minimum does not single out the teacher:
    combine it with another objective. Global temperature only, and only the student's (the sets have none).
    """

    name, needs, source = "fuzzy", (TOPK_TAGS, TOPK_LOG_PROBS), MGKD
    temperature_modes, temperature_power = ("global",), 1

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        allowed = tag_sets(targets[TOPK_TAGS], student.scores.emissions.shape[-1], targets.teacher_groups)
        answered = targets.answered(TOPK_LOG_PROBS) > 0
        loss = -student.log_prob_of_set(allowed | ~answered[:, None, None])
        return torch.where(answered, loss, torch.zeros_like(loss))

    @property
    def teacher_temperatures(self) -> dict[str, float]:
        return {}


class GateWord(Objective):
    """sum over words i of -g_i sum_j q_t(i, j) log q_s(i, j) - (1 - g_i) sum_y w_y log p_s(y_i | y_1 ... y_{i-1}).

    `posterior` and `top_wk`, mixed word by word: y are the k best tag sequences with their weights w, and
    g_i = exp(-entropy of the teacher's q_t(i)). Where the teacher is certain, the student learns the word's
    distribution, and where it wavers, which whole sequences are probable (after Wei et al. 2024, who find
    distributions better where the task is simple, sequences where it is hard, and learn a gate for translation). The
    chain rule from the left makes a sequence's likelihood a sum over words: with g = 0 everywhere the loss is that of
    `top_wk`, with g = 1 that of `posterior`.

    The local temperature softens both parts as it softens each alone, and each keeps its power of T; the gates are of
    the teacher's answers as they are stored, so a global temperature lowers them.
    """

    name, needs, source = "gate_word", (MARGINALS, TOPK_TAGS, TOPK_LOG_PROBS), GATE
    temperature_power = 1  # and once more for the part that compares marginals

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        gates = word_gates(targets[MARGINALS])
        local = _marginal_cross_entropy(student, targets, temperature, gates)
        softened, weights = _softened_paths(student, targets, temperature)
        shares = weights[..., None] * (1.0 - gates[:, None])
        log_probs = word_log_probs(softened, targets[TOPK_TAGS], targets.teacher_groups)
        # where: 0 * -inf is NaN, and the student's constraints may exclude a path that has no weight.
        paths = -torch.where(shares > 0, shares * log_probs, 0.0).sum(dim=(1, 2))
        return self.temperature * local + paths.to(local.dtype)


class GateSentence(Objective):
    """g * `posterior` + (1 - g) * `top_wk`, with g = exp(-entropy of the teacher's tag sequence / words).

    Like `gate_word`, with one gate for all words of a sentence.
    """

    name, needs, source = "gate_sentence", (MARGINALS, TOPK_TAGS, TOPK_LOG_PROBS, ENTROPY), GATE
    temperature_power = 1

    def loss(self, student: LinearChainCRF, targets: Targets, temperature: float) -> Tensor:
        gates = sentence_gates(targets[ENTROPY], student.lengths)
        local = _marginal_cross_entropy(student, targets, temperature)
        softened, weights = _softened_paths(student, targets, temperature)
        return self.temperature * gates * local + (1.0 - gates) * _path_cross_entropy(softened, targets, weights)


def _local_log_probs(student: LinearChainCRF) -> Tensor:
    emissions = student.scores.emissions
    emissions = torch.where(word_mask(student) > 0, emissions, torch.zeros_like(emissions))
    return emissions.to(torch.promote_types(emissions.dtype, torch.float32)).log_softmax(dim=-1)


def _marginal_cross_entropy(
    student: LinearChainCRF, targets: Targets, temperature: float, word_weights: Tensor | None = None
) -> Tensor:
    """-sum over words and tags of the teacher's marginals times the student's log marginals, (batch,)."""
    log_q = group_log_probs(student.log_marginals, targets.teacher_groups)
    return local_cross_entropy(targets[MARGINALS], log_q, temperature, word_weights)


def _softened_paths(student: LinearChainCRF, targets: Targets, temperature: float) -> tuple[LinearChainCRF, Tensor]:
    """The student at a local temperature, and the weights (batch, k) of the teacher's paths at the same one."""
    softened = student if temperature == 1.0 else student.with_temperature(temperature)
    return softened, targets.path_weights(weighted=True, temperature=temperature)


def _path_cross_entropy(student: LinearChainCRF, targets: Targets, weights: Tensor) -> Tensor:
    """-sum over k of weights (batch, k) times the student's log probability of the teacher's k-th path."""
    if targets.teacher_groups is None:
        return student.cross_entropy(targets.path_statistics(student.scores.emissions.shape[-1], weights))
    log_probs = path_group_log_probs(student, targets[TOPK_TAGS], targets.teacher_groups)
    return -torch.where(weights > 0, weights * log_probs, torch.zeros_like(log_probs)).sum(dim=1)


_OBJECTIVE_CLASSES = (Token, Emission, TopK, TopWK, Posterior, Structural, SubStructure, Fuzzy, GateWord, GateSentence)
OBJECTIVES: dict[str, type[Objective]] = {cls.name: cls for cls in _OBJECTIVE_CLASSES}


def check_temperature(temperature: float, name: str = "the temperature") -> None:
    """Refuse a temperature that scores cannot be divided by.

    Args:
        temperature: must be above 0 and finite.
        name: for the message.

    Raises:
        ValueError: if it is not.
    """
    if not temperature > 0:
        raise ValueError(f"{name} must be above 0, not {temperature}")
    if temperature == float("inf"):
        raise ValueError(f"{name} must be finite")
