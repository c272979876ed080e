"""What every teacher has: labels, their reading as the student's, a calibration temperature, an identity."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor

from ..modeling.log_space import Scores
from ..modeling.subwords import as_sentences
from ..modeling.tag_scheme import infer_scheme
from .batches import tag_sentences
from .calibration import Calibration, fit_temperature
from .label_maps import LabelMap, Reading, mapped_labels, read_labels
from .read_chain import read_chain
from .tag_distribution import TagDistribution, check_temperature


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
