"""What every teacher has: labels, their reading as the student's, an identity, and a calibrated temperature.

At the end stands what several kinds share: the checksum of weights as a revision, and the import of an extra.
"""

import hashlib
import importlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor

from ..data.columns import ANNOTATED_TYPES, IGNORED
from ..data.words import tag_column, tag_names
from ..distillation.objectives import check_temperature
from ..modeling.crf_reference import Scores
from ..modeling.glued_words import sentences_of
from ..modeling.tag_scheme import infer_scheme, tag_type
from ..modeling.words import as_sentences
from .context import Context, own_words, with_context
from .distribution import TagDistribution
from .label_map import LabelMap, Reading, mapped_labels, read_labels, resolve_label_map
from .readings import read_chain

logger = logging.getLogger(__name__)

LOWEST, HIGHEST = 0.1, 10.0  # temperatures that calibration tries
_DECIMALS = 2  # the NLL is flat at its minimum; more would differ between machines, and so would the stored answers
_GRID_STEPS = 24  # in log T
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class TeacherScores(NamedTuple):
    """A teacher's chain over its tags, before any label map, for a batch of sentences.

    Args:
        scores: emissions (batch, words, tags), transitions `[from, to]`, start and end scores, nats.
        lengths: (batch,), words.
        constraints: `allowed`, `allowed_start`, `allowed_end` of [`LinearChainCRF`]; those that the teacher does not
            have are left out.
    """

    scores: Scores
    lengths: Tensor
    constraints: dict[str, Tensor]


class Calibration(NamedTuple):
    """The result of calibrating a teacher.

    Args:
        temperature: what the teacher's scores are divided by.
        nll: negative log-likelihood of the gold tags at this temperature, nats per sentence.
        nll_before: the same at temperature 1.
        sentences: how many the temperature was fitted on.
        left_out: how many have no gold tags for all words, or gold tags that the teacher excludes (probability 0 at
            every temperature).
    """

    temperature: float
    nll: float
    nll_before: float
    sentences: int
    left_out: int


class TagTeacher(ABC):
    """A tagger that gives its distribution over the tag sequences of a sentence.

    A subclass implements `revision` and `chain_scores`; one that is no chain overrides `distribution` instead.

    Args:
        labels: its labels, in the order of its scores.
        name: for messages, the record and the card.
        label_map: how to read labels that the student calls differently or does not have. Keys are labels or
            entity types (all labels of the type, prefixes kept). `{"PERSON": "PER"}` renames; several keys with one
            value merge (probabilities are added, exactly); `{"MISC": "O"}` drops a type; `{"O": ["O", "MISC"]}` says
            that the student's MISC, which this teacher does not know, hides in its O, and
            `{"LOC": ["LOC", "GPE"]}` that it cannot tell two of the student's types apart. BIO and BIOES labels are
            read in each other without a map. Or the name of a map that comes with the package:
            `"ontonotes-to-conll"`, `"ontonotes-to-wikiann"`, `"conll-to-wikiann"`.
        scheme: `"BIO"`, `"BIOES"` or `"plain"`; inferred from the (mapped) labels where `None`.
        temperature: divides all its scores, before anything else: a calibration of its confidence, which
            `calibrate` finds.

    Attributes:
        unmapped_labels: its labels, as given.
        labels: its labels after the label map.

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
        self.unmapped_labels = list(labels)
        self.label_map = resolve_label_map(label_map, self.unmapped_labels, name)
        self.scheme = scheme
        self.temperature = temperature
        self._mapped = mapped_labels(self.unmapped_labels, self.label_map, name)
        self.labels = list(dict.fromkeys(names[0] for names in self._mapped))
        self._readings: dict[tuple[str, ...] | None, Reading] = {}

    @property
    @abstractmethod
    def revision(self) -> str:
        """A version: it differs after more training. `identity` holds everything that decides the answers."""

    @abstractmethod
    def chain_scores(self, sentences: Sequence[Sequence[str]]) -> TeacherScores:
        """Its scores over its tags, before any label map.

        Args:
            sentences: lists of words, of any length.
        """

    def settings(self) -> dict[str, Any]:
        """How its answers are read, for the record of an annotation; settings at their defaults are left out."""
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
        """Everything that decides its answers, as JSON values; stored answers are valid only for the same identity."""
        return {
            "kind": type(self).__name__,
            "name": self.name,
            "revision": self.revision,
            "labels": self.unmapped_labels,
            **self.settings(),
        }

    def reading(self, label_names: Sequence[str] | None = None) -> Reading:
        """How its tags are read as a student's labels, or as `labels` by default.

        Raises:
            ValueError: if the labels do not match; it names what differs.
        """
        key = None if label_names is None else tuple(label_names)
        if key not in self._readings:
            mapped = [names[:1] for names in self._mapped] if key is None else self._mapped
            self._readings[key] = read_labels(mapped, self.labels if key is None else key, self.name, self.scheme)
        return self._readings[key]

    def names_of_labels(self) -> list[str]:
        """All labels and types that its labels are read as: those that it cannot tell from others included."""
        return list(dict.fromkeys(name for names in self._mapped for name in names))

    def check(self, label_names: Sequence[str], targets: Sequence[str] = ()) -> None:
        """Refuse labels that do not match, and target columns that the teacher cannot give.

        Raises:
            ValueError: it names what differs, or the objective that needs the column.
        """
        self.reading(label_names).check_targets(targets, self.name)

    def label_order(self, label_names: Sequence[str]) -> list[int]:
        """For each student label the index of the teacher's label.

        The first, where several are read as it; -1, where the teacher reads it as one of a group.

        Raises:
            ValueError: if the labels do not match; it names what differs.
        """
        reading = self.reading(label_names)
        first = dict(zip(reversed(reading.student_tags), reversed(reading.teacher_tags)))
        return [first.get(tag, -1) for tag in range(len(label_names))]

    @torch.inference_mode()
    def distribution(
        self,
        sentences: Sequence[Sequence[str]],
        label_names: Sequence[str] | None = None,
        context: Context | None = None,
    ) -> TagDistribution:
        """The teacher's distribution over the tag sequences of each sentence, in the student's labels.

        Args:
            sentences: lists of words, of any length.
            label_names: the student's labels; `labels` by default.
            context: for each sentence the words before and after it, which the teacher reads too. The distribution is
                that of the sentence's own words between start and end scores, with the words' scores in context.

        Returns:
            A [`LinearChainCRF`] where labels are only renamed or reordered.

        Raises:
            ValueError: if the label sets differ beyond what the label map says.
            TypeError: for a text in place of a list of words.
        """
        sentences = as_sentences(sentences)
        reading = self.reading(label_names)
        scores, lengths, constraints = self.chain_scores(with_context(sentences, context))
        if context is not None:
            scores = scores._replace(emissions=own_words(scores.emissions, sentences, context))
            lengths = torch.tensor([len(words) for words in sentences])
        return read_chain(scores, lengths, reading, **constraints, temperature=self.temperature)

    def tag(
        self, sentences: Sequence[Sequence[str]], label_names: Sequence[str] | None = None, *, batch_size: int = 64
    ) -> list[list[str]]:
        """The best tag sequence of each sentence, as names.

        Args:
            sentences: lists of words, of any length.
            label_names: the labels wanted; `labels` by default.
            batch_size: sentences per forward pass; sentences of similar length share one.

        Returns:
            A list of labels for each sentence.

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
            label_names: the student's labels; `labels` by default.
            batch_size: sentences per forward pass.

        Raises:
            ValueError: if labels differ, or no sentence has gold tags that the teacher thinks possible.
        """
        calibration = fit_temperature(self, dataset, label_names, batch_size=batch_size)
        self.temperature = calibration.temperature
        return calibration


def fit_temperature(
    teacher: TagTeacher, dataset: Dataset, label_names: Sequence[str] | None = None, *, batch_size: int = 64
) -> Calibration:
    """Temperature scaling (Guo et al. 2017, arXiv 1706.04599) of a whole distribution over tag sequences.

    It finds the temperature T in [0.1, 10], with two decimals, at which the mean over sentences of -log p_T(gold) is
    smallest; p_T is the exact distribution with all of the teacher's scores divided by T, then read as the student's
    tags. The teacher is asked once per sentence. Where tags are only renamed, the NLL is convex in 1/T; where they are
    merged it need not be, so a grid is searched first.

    Args:
        teacher: its present temperature makes no difference, and is not changed.
        dataset: columns `tokens` and gold tags; sentences that neither teacher nor student was trained on.
        label_names: the student's labels; the teacher's (mapped) labels by default.
        batch_size: sentences per forward pass.

    Returns:
        The temperature, and the likelihoods with and without it.

    Raises:
        ValueError: if labels differ, or no sentence has gold tags that the teacher thinks possible.
    """
    labels = list(label_names) if label_names is not None else teacher.labels
    groups = teacher.reading(label_names).groups
    sentences, gold, without_gold = _sentences_with_gold(dataset, labels, groups)
    batches: list[tuple[TagDistribution, Tensor]] = []
    with torch.inference_mode():
        for rows in batches_by_length(sentences, batch_size):
            distribution = teacher.distribution([sentences[row] for row in rows], label_names)
            tags = torch.full((len(rows), len(sentences[rows[0]])), IGNORED)
            for position, row in enumerate(rows):
                ids = gold[row] if groups is None else [groups[tag] for tag in gold[row]]
                tags[position, : len(ids)] = torch.tensor(ids)
            device = distribution.marginals.device
            batches.append((distribution, tags[:, None].to(device)))

        def log_probs(temperature: float) -> Tensor:
            relative = temperature / teacher.temperature
            parts = [
                distribution.with_temperature(relative).log_prob(tags)[:, 0].double().cpu()
                for distribution, tags in batches
            ]
            return torch.cat(parts) if parts else torch.zeros(0)

        at_one = log_probs(1.0)
        possible = at_one > -torch.inf
        left_out = without_gold + int((~possible).sum())
        if not bool(possible.any()):
            raise ValueError(
                f"teacher {teacher.name} cannot be calibrated: of {len(dataset)} sentences none has gold tags that "
                "the student's labels name and the teacher thinks possible"
            )
        before = -float(at_one[possible].mean())
        # At a low temperature the less probable of listed sequences may be rounded away: -inf.
        temperature, nll = _best_temperature(lambda t: -float(log_probs(t)[possible].mean()))
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


def _best_temperature(nll: Callable[[float], float]) -> tuple[float, float]:
    """The temperature of two decimals with the smallest NLL, by a grid and golden section within its best cell."""
    low, high = math.log(LOWEST), math.log(HIGHEST)
    grid = [low + (high - low) * step / _GRID_STEPS for step in range(_GRID_STEPS + 1)]
    values = [nll(math.exp(x)) for x in grid]
    best = min(range(len(grid)), key=values.__getitem__)
    a, b = grid[max(best - 1, 0)], grid[min(best + 1, _GRID_STEPS)]
    while b - a > 1e-3:
        c, d = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
        if nll(math.exp(c)) <= nll(math.exp(d)):
            b = d
        else:
            a = c
    rounded = round(min(max(math.exp((a + b) / 2), LOWEST), HIGHEST), _DECIMALS)
    return rounded, nll(rounded)


def _sentences_with_gold(
    dataset: Dataset, labels: Sequence[str], groups: tuple[int, ...] | None
) -> tuple[list[list[str]], list[list[int]], int]:
    """Sentences with one of the labels for each word, their tags' ids, and how many other sentences there are.

    A sentence whose annotators did not look for a type counts only where the teacher cannot tell that type from O.
    """
    column = tag_column(dataset)
    if column is None:
        raise ValueError(f"a teacher is calibrated on gold tags; the corpus has only {dataset.column_names}")
    names, ids = tag_names(dataset), {label: i for i, label in enumerate(labels)}
    sentences, gold = [], []
    partly = ANNOTATED_TYPES in dataset.column_names  # an O may hide what nobody looked for
    group_of = groups or tuple(range(len(labels)))
    outside = group_of[ids["O"]] if "O" in ids else None
    told_from_outside = {
        kind for label, group in zip(labels, group_of) if (kind := tag_type(label)) is not None and group != outside
    }
    for words, tags, types in zip(
        sentences_of(dataset), dataset[column], dataset[ANNOTATED_TYPES] if partly else [None] * len(dataset)
    ):
        if types is not None and any(kind not in types for kind in told_from_outside):
            continue
        named = [names[tag] if names and isinstance(tag, int) and tag >= 0 else tag for tag in tags or []]
        if words and len(named) == len(words) and all(tag in ids for tag in named):
            sentences.append(words)
            gold.append([ids[tag] for tag in named])
    return sentences, gold, len(dataset) - len(sentences)


def batches_by_length(sentences: Sequence[Sequence[str]], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches, longest sentences first: less padding, and the peak of memory comes first.

    Raises:
        ValueError: for a batch size below 1.
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
        distribution_of: a batch of sentences -> their distribution.
        sentences: lists of words.
        labels: the names of the distribution's tags.
        batch_size: sentences per batch.

    Returns:
        A list of labels for each sentence.

    Raises:
        TypeError: for a text in place of a list of words.
    """
    sentences = as_sentences(sentences)
    tagged: list[list[str]] = [[] for _ in sentences]
    for batch in batches_by_length(sentences, batch_size):
        if not (rows := [row for row in batch if sentences[row]]):
            continue  # no words, no tags
        with torch.inference_mode():
            tags = distribution_of([sentences[row] for row in rows]).best_tags()
        for row, path in zip(rows, tags.tolist()):
            tagged[row] = [labels[tag] for tag in path[: len(sentences[row])]]
    return tagged


def update_with_weights(digest: Any, model: torch.nn.Module) -> None:
    """Feed a model's weights and buffers, by name and in their precision, to a hash of `hashlib`.

    Stored answers hold the hash, so the bytes must stay as they are.
    """
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def weights_hash(model: torch.nn.Module) -> str:
    """40 hexadecimal digits of the SHA-256 checksum of a model's weights and buffers."""
    digest = hashlib.sha256()
    update_with_weights(digest, model)
    return digest.hexdigest()[:40]


def import_package(name: str, *, extra: str) -> ModuleType:
    """Import a package of an extra.

    Args:
        name: the package.
        extra: the extra of hf_structkd that installs it.

    Raises:
        ImportError: if it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.split(".")[0]:
            raise  # it is installed, and lacks something itself
        raise ImportError(f"this teacher needs {name}: pip install 'hf_structkd[{extra}]'", name=name) from error
