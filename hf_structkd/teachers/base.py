"""What every teacher has: labels, their reading as the student's, a calibration temperature, an identity."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor

from ..data.columns import IGNORED, TOKENS
from ..data.words import tag_column, tag_names
from ..modeling.crf import LinearChainCRF
from ..modeling.words import as_sentences
from .distribution import TagDistribution, log_prob_of

if TYPE_CHECKING:
    pass  # MOVED
from abc import ABC, abstractmethod
from typing import Any

from ..distillation.objectives import check_temperature
from ..modeling.crf_reference import Scores
from ..modeling.tag_scheme import infer_scheme
from .label_map import LabelMap, Reading, mapped_labels, read_labels
from .readings import read_chain


def batches_of_like_length(sentences: Sequence[Sequence[str]], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches, longest sentences first: less padding, and the peak of memory comes first.

    Raises ValueError for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    rows = sorted(range(len(sentences)), key=lambda row: len(sentences[row]), reverse=True)
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


def tag_sentences(
    distribution_of: Callable[[list[Sequence[str]]], TagDistribution],
    sentences: Sequence[Sequence[str]],
    labels: Sequence[str],
    batch_size: int,
) -> list[list[str]]:
    """The most probable tag sequence of each sentence, as names.

    Args:
        distribution_of: asks about a batch of sentences.
        sentences: lists of words.
        labels: of the distribution's tags.
        batch_size: sentences asked at once.

    Raises:
        TypeError: for a text where a list of words is meant.
    """
    sentences = as_sentences(sentences)
    tagged: list[list[str]] = [[] for _ in sentences]
    for rows in batches_of_like_length(sentences, batch_size):
        with torch.inference_mode():
            found = distribution_of([sentences[row] for row in rows])
            tags = found.argmax()[0] if isinstance(found, LinearChainCRF) else found.topk(1).tags[:, 0]
        for row, path in zip(rows, tags.tolist()):
            tagged[row] = [labels[tag] for tag in path[: len(sentences[row])]]
    return tagged


# How confident a teacher ought to be: the temperature that makes gold tags most probable.


logger = logging.getLogger(__name__)

LOWEST, HIGHEST = 0.1, 10.0
_DECIMALS = 2  # the NLL is flat at its minimum; more would differ between machines, and with it what answers are kept
_STEPS = 24  # of the grid, in log T
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class Calibration(NamedTuple):
    """A teacher's calibration.

    Args:
        temperature: what its scores are divided by.
        nll: of the gold tags at it, nats a sentence.
        nll_before: at temperature 1.
        sentences: that it was fitted on.
        left_out: sentences without gold tags for all words, or whose gold tags the teacher excludes (probability 0 at
            every temperature).
    """

    temperature: float
    nll: float
    nll_before: float
    sentences: int
    left_out: int


def fit_temperature(
    teacher: "TagTeacher", dataset: Dataset, label_names: Sequence[str] | None = None, *, batch_size: int = 64
) -> Calibration:
    """Temperature scaling (Guo et al. 2017, arXiv 1706.04599) of a whole distribution over tag sequences.

    The temperature T in [0.1, 10], with two decimals, at which the mean over sentences of -log p_T(gold) is smallest,
    p_T the exact distribution with all of the teacher's scores divided by T and then read in the student's tags. The
    teacher is asked once a sentence. Where tags are only renamed the NLL is convex in 1/T; where they are merged it
    need not be, so a grid is searched first.

    Args:
        teacher: at any temperature, which does not matter here; it stays as it is.
        dataset: columns `tokens` and gold tags; sentences that neither teacher nor student was trained on.
        label_names: the student's labels; the teacher's own (mapped) ones by default.
        batch_size: sentences a forward pass.

    Raises:
        ValueError: if labels differ, or no sentence has gold tags that the teacher thinks possible.
    """
    labels = list(label_names) if label_names is not None else teacher.labels
    sentences, gold, unknown = _gold(dataset, labels)
    groups = teacher.read_as(label_names).groups
    asked: list[tuple[TagDistribution, Tensor]] = []
    with torch.inference_mode():
        for rows in batches_of_like_length(sentences, batch_size):
            distribution = teacher.distribution([sentences[row] for row in rows], label_names)
            tags = torch.full((len(rows), len(sentences[rows[0]])), IGNORED)
            for place, row in enumerate(rows):
                ids = gold[row] if groups is None else [groups[tag] for tag in gold[row]]
                tags[place, : len(ids)] = torch.tensor(ids)
            device = distribution.marginals.device
            asked.append((distribution, tags[:, None].to(device)))

        def log_probs(temperature: float) -> Tensor:
            relative = temperature / teacher.temperature
            parts = [log_prob_of(own.with_temperature(relative), tags)[:, 0].double().cpu() for own, tags in asked]
            return torch.cat(parts) if parts else torch.zeros(0)

        at_one = log_probs(1.0)
        possible = at_one > -torch.inf
        left_out = unknown + int((~possible).sum())
        if not bool(possible.any()):
            raise ValueError(
                f"teacher {teacher.name} cannot be calibrated: of {len(dataset)} sentences none has gold tags that "
                "the student's labels name and the teacher thinks possible"
            )
        before = -float(at_one[possible].mean())
        # A list of known sequences may lose its less probable ones to rounding at a low temperature: -inf there.
        temperature, nll = _minimum(lambda t: -float(log_probs(t)[possible].mean()))
    if nll > before:  # by rounding
        temperature, nll = 1.0, before
    if temperature in (LOWEST, HIGHEST):
        logger.warning(
            "teacher %s: the best temperature lies at the bound %g; %d sentences may be too few to calibrate it",
            teacher.name,
            temperature,
            int(possible.sum()),
        )
    return Calibration(temperature, nll, before, int(possible.sum()), left_out)


def _minimum(nll: Callable[[float], float]) -> tuple[float, float]:
    """The temperature of two decimals with the smallest NLL, by a grid and golden section within its best cell."""
    low, high = math.log(LOWEST), math.log(HIGHEST)
    grid = [low + (high - low) * step / _STEPS for step in range(_STEPS + 1)]
    values = [nll(math.exp(x)) for x in grid]
    best = min(range(len(grid)), key=values.__getitem__)
    a, b = grid[max(best - 1, 0)], grid[min(best + 1, _STEPS)]
    while b - a > 1e-3:
        c, d = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
        if nll(math.exp(c)) <= nll(math.exp(d)):
            b = d
        else:
            a = c
    rounded = round(min(max(math.exp((a + b) / 2), LOWEST), HIGHEST), _DECIMALS)
    return rounded, nll(rounded)


def _gold(dataset: Dataset, labels: Sequence[str]) -> tuple[list[list[str]], list[list[int]], int]:
    """Sentences with a known tag for each word, their tags' ids, and how many others there are."""
    column = tag_column(dataset)
    if column is None:
        raise ValueError(f"a teacher is calibrated on gold tags; the corpus has only {dataset.column_names}")
    names, ids = tag_names(dataset), {label: i for i, label in enumerate(labels)}
    sentences, gold = [], []
    for words, tags in zip(dataset[TOKENS], dataset[column]):
        known = [names[tag] if names and isinstance(tag, int) and tag >= 0 else tag for tag in tags or []]
        if len(known) == len(words) and all(tag in ids for tag in known):
            sentences.append(words)
            gold.append([ids[tag] for tag in known])
    return sentences, gold, len(dataset) - len(sentences)


class TeacherScores(NamedTuple):
    """A teacher's chain over its own tags for a batch of sentences.

    Args:
        scores: emissions (batch, words, tags), transitions `[from, to]`, start and end scores, nats.
        lengths: (batch,), words.
        constraints: `allowed`, `allowed_start`, `allowed_end` of [`LinearChainCRF`], where it has some.
    """

    scores: Scores
    lengths: Tensor
    constraints: dict[str, Tensor]


class TagTeacher(ABC):
    """A tagger that is asked for its distribution over the tag sequences of a sentence.

    Args:
        labels: its own labels, in the order of its scores.
        name: for messages, the record and the card.
        label_map: what becomes of labels that the student calls differently or does not have. Keys are labels or
            entity types (all labels of the type, prefixes kept). `{"PERSON": "PER"}` renames; several keys with one
            value merge (probabilities are added, exactly); `{"MISC": "O"}` drops a type; `{"O": ["O", "MISC"]}` says
            that the student's MISC, which this teacher does not know, hides in its O, and
            `{"LOC": ["LOC", "GPE"]}` that it cannot tell two of the student's types apart. BIO and BIOES labels are
            read in each other without a map.
        scheme: `"BIO"`, `"BIOES"` or `"plain"`; inferred from the (mapped) labels where `None`.
        temperature: divides all its scores, before anything else: a calibration of its confidence, which
            `calibrate` finds.

    Raises:
        ValueError: if the label map names a label or type that the teacher lacks, or the temperature is not above 0.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        name: str,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        check_temperature(temperature, f"teacher {name}: the temperature")
        self.name = name
        self.own_labels = list(labels)
        self.label_map = dict(label_map or {})
        self.scheme = scheme
        self.temperature = temperature
        self._mapped = mapped_labels(self.own_labels, self.label_map, name)
        self.labels = list(dict.fromkeys(names[0] for names in self._mapped))
        self._readings: dict[tuple[str, ...] | None, Reading] = {}

    @property
    @abstractmethod
    def revision(self) -> str:
        """What tells this teacher from itself after more training; `identity` says all that makes its answers."""

    @abstractmethod
    def own_scores(self, sentences: Sequence[Sequence[str]]) -> TeacherScores:
        """Its scores over its own tags for a batch of sentences, lists of words of any length."""

    def settings(self) -> dict[str, Any]:
        """How its answers are read, for the record of an annotation: what is not as it is by default."""
        settings: dict[str, Any] = {}
        if self.label_map:
            settings["label_map"] = {
                key: value if isinstance(value, str) else list(value) for key, value in sorted(self.label_map.items())
            }
        if self.temperature != 1.0:
            settings["temperature"] = self.temperature
        if self.scheme is not None and self.scheme != infer_scheme(self.labels):
            settings["scheme"] = self.scheme
        return settings

    def identity(self) -> dict[str, Any]:
        """All that makes its answers, as JSON values; kept answers are taken only where all of it is the same."""
        return {
            "kind": type(self).__name__,
            "name": self.name,
            "revision": self.revision,
            "labels": self.own_labels,
            **self.settings(),
        }

    def read_as(self, label_names: Sequence[str] | None = None) -> Reading:
        """How its tags are read as a student's, or as `labels` by default. Raises ValueError, naming what differs."""
        key = None if label_names is None else tuple(label_names)
        if key not in self._readings:
            mapped = [names[:1] for names in self._mapped] if key is None else self._mapped
            self._readings[key] = read_labels(mapped, self.labels if key is None else key, self.name, self.scheme)
        return self._readings[key]

    def check(self, label_names: Sequence[str], targets: Sequence[str] = ()) -> None:
        """Raise ValueError if the labels do not match, or the teacher cannot give one of these target columns."""
        self.read_as(label_names).check_targets(targets, self.name)

    def label_order(self, label_names: Sequence[str]) -> list[int]:
        """For each student label the index of the teacher's (the first, of several; -1 where it is one of a group).

        Raises:
            ValueError: naming what differs.
        """
        reading = self.read_as(label_names)
        first = dict(zip(reversed(reading.read_as), reversed(reading.tag_of_state)))
        return [first.get(tag, -1) for tag in range(len(label_names))]

    @torch.inference_mode()
    def distribution(
        self, sentences: Sequence[Sequence[str]], label_names: Sequence[str] | None = None
    ) -> TagDistribution:
        """The teacher's distribution over the tag sequences of each sentence, in the student's labels.

        Args:
            sentences: lists of words, of any length.
            label_names: the student's labels; `labels` by default.

        Returns:
            A [`LinearChainCRF`] where labels are only renamed or reordered.

        Raises:
            ValueError: if the label sets differ beyond what the label map says.
            TypeError: for a text where a list of words is meant.
        """
        sentences = as_sentences(sentences)
        reading = self.read_as(label_names)
        scores, lengths, constraints = self.own_scores(sentences)
        return read_chain(scores, lengths, reading, **constraints, temperature=self.temperature)

    def tag(
        self, sentences: Sequence[Sequence[str]], label_names: Sequence[str] | None = None, *, batch_size: int = 64
    ) -> list[list[str]]:
        """The best tag sequence of each sentence, as names.

        Args:
            sentences: lists of words, of any length.
            label_names: the labels wanted; the teacher's own by default.
            batch_size: sentences a forward pass; sentences of like length go together.

        Raises:
            ValueError: if the label sets differ.
        """
        labels = list(label_names) if label_names is not None else self.labels
        return tag_sentences(lambda batch: self.distribution(batch, label_names), sentences, labels, batch_size)

    def calibrate(
        self, dataset: Dataset, label_names: Sequence[str] | None = None, *, batch_size: int = 64
    ) -> Calibration:
        """Set `temperature` to the one at which gold tags are most probable; see [`fit_temperature`].

        Args:
            dataset: columns `tokens` and gold tags, of sentences that the teacher was not trained on.
            label_names: the student's labels; the teacher's own (mapped) ones by default.
            batch_size: sentences a forward pass.

        Raises:
            ValueError: if labels differ, or no sentence has gold tags that the teacher thinks possible.
        """
        calibration = fit_temperature(self, dataset, label_names, batch_size=batch_size)
        self.temperature = calibration.temperature
        return calibration
