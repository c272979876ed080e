"""The teachers of one language: one, or several with weights, whose mixture is one distribution.

Teachers that cannot tell the same tags of the student apart are mixed. Teachers with different blind spots give
probabilities of different groups of tags, which have no mixture: they are several [`Voice`]s, whose losses are added.

**Voices.** One knows persons, another places; to each of them what the other knows is O. No distribution over tags is
asked of either. The distribution that agrees best with all of them, each heard by its weight, is the one that a
student reaches that learns from their losses without an encoder's limits: the minimum of

    sum over voices v of  -w_v sum over groups g of  q_v(g) log p(g),    p(g) = sum over the tags j of g of p(j)

It is found by expectation maximisation: p(j) <- p(j) sum over v of w_v q_v(g_v(j)) / p(g_v(j)).

**Confidence.** A [`ConfidentMixture`] is one in which each sentence listens most to the teachers that are sure of it.
The weight of teacher m for sentence x of n words: w_m(x) proportional to v_m exp(-H_m(x) / (n tau)), v_m its weight
for the language and H_m(x) the entropy of its distribution over tag sequences. Teachers of other languages know some
sentences of a language well and others not at all.

Source: weighted teachers of several source languages in Wu et al. 2020, "Single-/Multi-Source Cross-Lingual NER via
Teacher-Student Learning on Unlabeled Data in Target Language", with confidence in place of their learnt similarity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from os import PathLike
from typing import Any, Union

import torch
from torch import Tensor
from transformers import Pipeline, PreTrainedModel

from ..data.columns import TRANSITIONS
from ..modeling.tag_scheme import TagScheme
from .base import TagTeacher, tag_sentences
from .checkpoint import Teacher
from .context import Context
from .distribution import StateChain, TagChain, TagDistribution
from .kinds import load_teacher, split_kind
from .readings import Mixture
from .spacy_pipeline import SpacyTeacher
from .stanza_pipeline import StanzaTeacher

# A name or folder, or a pipeline of transformers or spaCy, may be given in place of a teacher.
TeacherLike = Union[TagTeacher, str, "PathLike[str]", Pipeline, Any]
PanelLike = Union[TeacherLike, "Panel", Sequence["TeacherLike | tuple[TeacherLike, float]"]]
Teachers = Mapping[str, PanelLike] | PanelLike


class Panel:
    """The teachers of one language, asked as one.

    Args:
        teachers: one teacher, or a list of teachers (of equal weight) or of (teacher, weight); or a panel. A teacher
            may be given as a name or folder, which [`load_teacher`] loads (`"spacy:fr_core_news_sm"`), as a
            transformers token-classification pipeline, or as a spaCy pipeline.
        confidence: tau, nats per word, above 0: of several teachers each sentence listens most to those that are sure
            of it, see [`~.confident_mixture.ConfidentMixture`]. `None`: the weights are those of the list.

    Attributes:
        members: (teacher, weight), the weights adding up to 1.

    Raises:
        TypeError: for something that is no teacher; it says how to make a teacher of it.
        OSError, ValueError: for an empty list, a weight that is not above 0, or a checkpoint that cannot be loaded.
    """

    def __init__(self, teachers: PanelLike, confidence: float | None = None) -> None:
        if confidence is not None and not 0.0 < confidence < float("inf"):
            raise ValueError(f"confidence is a number of nats per word above 0, not {confidence}")
        self.confidence = confidence
        if isinstance(teachers, Panel):
            self.members: list[tuple[TagTeacher, float]] = list(teachers.members)
            self.confidence = teachers.confidence if confidence is None else confidence
            return
        items = list(teachers) if isinstance(teachers, list | tuple) else [teachers]
        pairs = [_weighted_teacher(item) for item in items]
        if not pairs:
            raise ValueError("a list of teachers is empty")
        for teacher, weight in pairs:
            if not 0 < weight < float("inf"):
                raise ValueError(f"the weight of teacher {teacher.name} must be above 0, not {weight}")
        total = sum(weight for _, weight in pairs)
        self.members = [(teacher, weight / total) for teacher, weight in pairs]

    @property
    def name(self) -> str:
        return " + ".join(teacher.name for teacher, _ in self.members)

    def record(self) -> Any:
        """Everything that decides its answers, as JSON values: each member's identity and weight."""
        sure = {} if self.confidence is None or len(self.members) == 1 else {"confidence": self.confidence}
        return [{**teacher.identity(), "weight": weight, **sure} for teacher, weight in self.members]

    def revisions(self) -> Any:
        """Its members' revisions for a results file: the only member's, or each with its weight."""
        if len(self.members) == 1:
            return self.members[0][0].revision
        return [[teacher.revision, weight] for teacher, weight in self.members]

    def settings(self) -> list[dict[str, Any]]:
        """Each member's, as in [`TagTeacher.settings`]."""
        return [teacher.settings() for teacher, _ in self.members]

    def summary(self) -> list[dict[str, Any]]:
        """Each member's name, weight and temperature, for the summary of an annotation."""
        return [
            {"name": teacher.name, "weight": weight, "temperature": teacher.temperature}
            for teacher, weight in self.members
        ]

    def voices(self, label_names: Sequence[str]) -> list["Voice"]:
        """The teachers by the labels that they leave open: those of one voice are mixed, each voice answers alone.

        Args:
            label_names: the student's labels.
        """
        members: dict[tuple[int, ...] | None, list[tuple[TagTeacher, float]]] = {}
        for teacher, weight in self.members:
            members.setdefault(teacher.reading(label_names).groups, []).append((teacher, weight))
        if len(members) == 1:
            return [Voice(self, 1.0, next(iter(members)))]
        return [
            Voice(Panel([*weighted], self.confidence), sum(weight for _, weight in weighted), groups)
            for groups, weighted in members.items()
        ]

    def check(self, label_names: Sequence[str], targets: Sequence[str] = ()) -> None:
        """Refuse labels that do not match, and target columns that the teachers cannot give.

        Raises:
            ValueError: it names what differs, or the objective that needs the column.
        """
        for teacher, _ in self.members:
            teacher.check(label_names, targets)
        if len(self.members) > 1 and TRANSITIONS in targets:
            raise ValueError(
                f"several teachers ({self.name}) have no transition scores in common: the substructure objective "
                "needs one teacher a language"
            )

    def check_context(self) -> None:
        """Refuse teachers whose `distribution` takes no context.

        Raises:
            ValueError: it names the teacher.
        """
        for teacher, _ in self.members:
            if "context" not in signature(teacher.distribution).parameters:
                raise ValueError(
                    f"teacher {teacher.name} ({type(teacher).__name__}) reads sentences alone: its distribution takes "
                    "no argument `context`"
                )

    def tag(
        self, sentences: Sequence[Sequence[str]], label_names: Sequence[str], *, batch_size: int = 64
    ) -> list[list[str]]:
        """The best tag sequence of each sentence under the mixture, as names; see [`TagTeacher.tag`].

        Of several voices it is the best sequence under their [`~.voices.pooled_marginals`].
        """
        voices = self.voices(label_names)
        if len(voices) == 1:
            distribution_of: Any = lambda batch: self.distribution(batch, label_names)  # noqa: E731
        else:
            distribution_of = lambda batch: pooled_chain(  # noqa: E731
                [voice.panel.distribution(batch, label_names) for voice in voices],
                [voice.groups for voice in voices],
                [voice.weight for voice in voices],
                label_names,
            )
        return tag_sentences(distribution_of, sentences, list(label_names), batch_size)

    def distribution(
        self, sentences: Sequence[Sequence[str]], label_names: Sequence[str], context: Context | None = None
    ) -> TagDistribution:
        """The teachers' mixture, or the only teacher's distribution; see [`TagTeacher.distribution`].

        Raises:
            ValueError: if the teachers leave different labels open; each of `voices` has a distribution. Or if there
                is a context, and a teacher of a class from elsewhere takes none.
        """
        if len(self.voices(label_names)) > 1:
            raise ValueError(
                f"teachers {self.name} leave different labels open, so there is no mixture of their answers: ask each "
                "of panel.voices(label_names)"
            )
        more: dict[str, Any] = {} if context is None else {"context": context}
        distributions = [teacher.distribution(sentences, label_names, **more) for teacher, _ in self.members]
        if len(distributions) == 1:
            return distributions[0]
        weights = [weight for _, weight in self.members]
        if self.confidence is not None:
            return ConfidentMixture(distributions, weights, self.confidence)
        return Mixture(distributions, weights)


@dataclass(frozen=True)
class Voice:
    """Teachers of one panel that leave the same labels open.

    Args:
        panel: the teachers, whose distributions are mixed.
        weight: of their loss among the panel's voices; the weights of all add up to 1.
        groups: for each of the student's tags the representative of its group; `None` where every tag is alone.
    """

    panel: Panel
    weight: float
    groups: tuple[int, ...] | None


def teachers_by_language(teachers: Teachers) -> dict[str | None, list[tuple[TagTeacher, float]]]:
    """language -> its teachers and their weights (adding up to 1); the language is `None` where they serve all."""
    if isinstance(teachers, Mapping):
        return {language: Panel(panel).members for language, panel in teachers.items()}
    return {None: Panel(teachers).members}


def load_teachers(teachers: Teachers) -> Teachers:
    """The same teachers, after loading those that are given by name or folder.

    Raises:
        TypeError, OSError, ValueError: as [`Panel`] does.
    """
    if isinstance(teachers, Mapping):
        return {language: _load_panel(panel) for language, panel in teachers.items()}
    return _load_panel(teachers)


def _load_panel(panel: PanelLike) -> PanelLike:
    return panel if isinstance(panel, TagTeacher) else Panel(panel)


def _weighted_teacher(item: Any) -> tuple[TagTeacher, float]:
    """A member of a list of teachers and its weight."""
    if not isinstance(item, tuple | list):
        return _teacher(item), 1.0
    if len(item) == 2 and isinstance(item[1], int | float):
        return _teacher(item[0]), float(item[1])
    if item and isinstance(item[0], PreTrainedModel):
        return _teacher(item[0]), 1.0
    raise TypeError(f"in a list of teachers stand teachers or (teacher, weight), not {item!r}")


def _teacher(item: Any) -> TagTeacher:
    """Anything that may be given in place of a teacher, as a teacher."""
    if isinstance(item, TagTeacher):
        return item
    if isinstance(item, str | PathLike):
        try:
            return load_teacher(str(item))
        except OSError as error:
            if split_kind(str(item))[0] is not None:
                raise
            raise OSError(
                f"no teacher can be loaded from {str(item)!r}: it is neither the folder of a checkpoint nor the name "
                f"of one that can be had from the Hub ({error})"
            ) from error
    if isinstance(item, Pipeline):
        return Teacher(item.model, item.tokenizer)
    kind = f"{type(item).__module__}.{type(item).__name__}"
    if isinstance(item, PreTrainedModel):
        advice = "it needs its own tokenizer: give Teacher(model, tokenizer), or the checkpoint's name"
    elif kind.startswith("spacy.lang"):
        return SpacyTeacher(item)
    elif kind == "stanza.pipeline.core.Pipeline":
        return StanzaTeacher(item)
    elif kind.startswith("flair.") or callable(item):
        advice = (
            "give CallableTeacher(function, labels, name=..., revision=...) with a function that asks it about lists "
            "of words (docs/teachers.md, 'Anything else: a function')"
        )
    else:
        advice = "give a Teacher, a CallableTeacher, or a checkpoint's name or folder"
    raise TypeError(f"{kind} is no teacher: {advice}")


_STEPS = 200  # of expectation maximisation; the tags with the highest probability are found much earlier


def pooled_marginals(marginals: Sequence[Tensor], groups: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The distribution of each word's tag that agrees best with several voices.

    Args:
        marginals: for each voice (batch, words, tags), probabilities at the representatives of groups; 0 on padding.
        groups: for each voice (tags,), each tag's representative.
        weights: of each voice, adding up to 1.

    Returns:
        (batch, words, tags), float64. Tags that no voice tells apart are one: their probability stands at the first
        of them that is a representative, or at the lowest.
    """
    first = marginals[0]
    representatives = _representatives(groups)
    pooled = torch.zeros_like(first, dtype=torch.float64)
    pooled[..., representatives] = 1.0 / len(representatives)
    answers = [values.to(first.device, torch.float64) for values in marginals]
    indices = [group.to(first.device).expand_as(pooled) for group in groups]
    for _ in range(_STEPS):
        parts = []
        for answer, index, weight in zip(answers, indices, weights):
            of_groups = torch.zeros_like(pooled).scatter_add(-1, index, pooled)
            ratio = torch.where(of_groups > 0, answer / torch.where(of_groups > 0, of_groups, 1.0), 0.0)
            parts.append(weight * ratio.gather(-1, index))
        pooled = pooled * torch.stack(parts).sum(dim=0)
    return pooled


def _representatives(groups: Sequence[Tensor]) -> list[int]:
    """One tag of each set of tags that no voice tells apart."""
    members: dict[tuple[int, ...], list[int]] = {}
    for tag in range(len(groups[0])):
        members.setdefault(tuple(int(group[tag]) for group in groups), []).append(tag)
    return [next((tag for tag in tags if tag in leaders), tags[0]) for leaders, tags in members.items()]


def pooled_chain(
    distributions: Sequence[TagDistribution],
    groups: Sequence[tuple[int, ...] | None],
    weights: Sequence[float],
    label_names: Sequence[str],
) -> TagChain:
    """The pooled marginals of several voices as a chain, whose best sequence is legal in the tag scheme.

    Args:
        distributions: one per voice, of the same sentences.
        groups: for each voice each tag's representative; `None` where every tag is alone.
        weights: of each voice, adding up to 1.
        label_names: the student's labels.
    """
    num_tags = len(label_names)
    of_voices = [torch.tensor(group or range(num_tags)) for group in groups]
    pooled = pooled_marginals([voice.marginals for voice in distributions], of_voices, weights)
    lengths = distributions[0].lengths
    inside = torch.arange(pooled.shape[1]) < lengths.cpu()[:, None]
    emissions = torch.where(inside.to(pooled.device)[..., None], pooled.log().clamp(min=-1e4), 0.0)
    zeros = emissions.new_zeros(num_tags)
    masks = TagScheme(label_names).masks(emissions.device)
    return TagChain(emissions, zeros.expand(num_tags, -1), zeros, zeros, lengths=lengths, **masks)


class ConfidentMixture(Mixture):
    """A [`Mixture`] whose weights differ from sentence to sentence.

    Args:
        members: distributions over the same sentences.
        weights: of each, positive: v_m.
        confidence: tau, above 0, nats per word: the smaller, the more the surest teacher counts.
        sentence_weights: (members, batch), adding up to 1 over members; by default from the members' entropies. A
            temperature softens answers and leaves the weights as they are.
    """

    def __init__(
        self,
        members: Sequence[TagDistribution],
        weights: Sequence[float],
        confidence: float,
        sentence_weights: Tensor | None = None,
    ) -> None:
        super().__init__(members, weights)
        self.confidence = confidence
        if sentence_weights is None:
            words = self.lengths.cpu().double()
            logs = [
                torch.tensor(weight, dtype=torch.float64).log()
                - member.entropy().double().cpu() / (words * confidence)
                for member, weight in zip(self.members, self.weights)
            ]
            sentence_weights = torch.stack(logs).softmax(dim=0)
        self.sentence_weights = sentence_weights

    def _weights_like(self, part: Tensor) -> Tensor:
        """(members, batch, 1, ...), to multiply the members' answers by."""
        shape = (*self.sentence_weights.shape, *(1,) * (part.dim() - 1))
        return self.sentence_weights.to(part.device, part.dtype).reshape(shape)

    def _mixed(self, parts: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack([part.to(parts[0].device) for part in parts])
        return (self._weights_like(parts[0]) * stacked).sum(dim=0)

    def _log_mixed(self, parts: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack([part.to(parts[0].device) for part in parts])
        return (stacked + self._weights_like(parts[0]).log()).logsumexp(dim=0)

    def state_chains(self) -> list[StateChain]:
        return [
            replace(chain, weight=weight.to(chain.initial)[:, None] * chain.weight)
            for member, weight in zip(self.members, self.sentence_weights)
            for chain in member.state_chains()
        ]

    def select(self, rows: Tensor) -> "ConfidentMixture":
        members = [member.select(rows) for member in self.members]
        return ConfidentMixture(members, self.weights, self.confidence, self.sentence_weights[:, rows.cpu()])

    def with_temperature(self, temperature: float) -> "ConfidentMixture":
        members = [member.with_temperature(temperature) for member in self.members]
        return ConfidentMixture(members, self.weights, self.confidence, self.sentence_weights)
