"""`compute_metrics` for taggers: strict scores of tag ids or logits."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from transformers import EvalPrediction

from ..modeling.tag_scheme import IGNORED, SchemeName, TagScheme
from .scores import strict_seqeval, word_accuracy
from .sentences import type_reports


class TaggingMetrics:
    """The `compute_metrics` of a tagger, for `transformers.Trainer` and for tag sequences alike.

    Words are where `label_ids` is not -100; everything else is ignored, so unlabelled sentences do not count. Gold
    sequences are scored as they stand (see [`strict_seqeval`]).

    Args:
        label_names: The labels in the model's order.
        scheme: `"BIO"`, `"BIOES"` or `"plain"`; by default inferred from the label names.
        zero_division: The score where nothing was predicted or nothing is gold.

    Attributes:
        scheme: `"BIO"`, `"BIOES"` or `"plain"`.
        metric_name: The headline score: `"f1"`, or `"accuracy"` for plain tags.

    Raises:
        ValueError: If the labels do not follow the scheme, or are one string.
    """

    def __init__(self, label_names: Sequence[str], scheme: str | None = None, zero_division: float = 0.0):
        if isinstance(label_names, str):
            raise ValueError(f"label_names is the string {label_names!r}, but must be a list of labels.")
        self.label_names = list(label_names)
        self.scheme: SchemeName = TagScheme(self.label_names, scheme).name
        self.metric_name = "accuracy" if self.scheme == "plain" else "f1"
        self.zero_division = zero_division

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Score a Trainer's predictions.

        Args:
            prediction: `predictions`: tag ids `(sentences, subwords)` or logits `(sentences, subwords, tags)`;
                of a tuple the tag ids are taken, else the first logits; a list (`eval_do_concat_batches=False`)
                is read batch by batch. `label_ids`: `(sentences, subwords)`. The two may be padded (-100) to
                different widths.

        Returns:
            BIO and BIOES: `precision`, `recall`, `f1`, `accuracy` and `f1_<type>` for every type found;
            plain tags: `accuracy`. Python floats in [0, 1].

        Raises:
            ValueError: If predictions and labels disagree about where words are, or an id is outside the label set.
        """
        return self.flatten(self.report(*self.decode(prediction)))

    def report(self, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, Any]:
        """All scores of tag sequences; under `by_type` one mapping per entity type (plain tags: per tag).

        Args:
            predictions: One list of tags per sentence.
            references: The gold tags, as many per sentence.

        Returns:
            What [`strict_seqeval`] or, for plain tags, [`word_accuracy`] returns.

        Raises:
            ValueError: If the sentences differ in number or length, or a tag does not follow the scheme.
        """
        if self.scheme == "plain":
            return word_accuracy(predictions, references, self.zero_division)
        return strict_seqeval(predictions, references, self.scheme, self.zero_division)

    def possible_scores(self) -> list[str]:
        """The names of all scores that [`flatten`] can return."""
        if self.scheme == "plain":
            return ["accuracy"]
        types = TagScheme(self.label_names, self.scheme).entity_types
        return ["precision", "recall", "f1", "accuracy", *(f"f1_{name}" for name in types)]

    def flatten(self, report: dict[str, Any]) -> dict[str, float]:
        """The numbers of a [`report`] that a training log shows, as one flat mapping.

        Args:
            report: What [`report`] returned.

        Returns:
            The mapping described in [`__call__`].
        """
        if self.scheme == "plain":
            return {"accuracy": report["accuracy"]}
        flat = {name: report[name] for name in ("precision", "recall", "f1", "accuracy")}
        return flat | {f"f1_{name}": scores["f1"] for name, scores in type_reports(report).items()}

    def decode(self, prediction: EvalPrediction) -> tuple[list[list[str]], list[list[str]]]:
        """Tag names of the words of a Trainer's predictions.

        Args:
            prediction: See [`__call__`].

        Returns:
            Predicted and gold tags, one list per sentence; a sentence without labels is empty.

        Raises:
            ValueError: See [`__call__`].
        """
        predicted: list[list[str]] = []
        gold: list[list[str]] = []
        for tags, labels in _batches(prediction):
            for tag_row, label_row in zip(tags, labels):
                words = label_row != IGNORED
                sentence = len(gold)
                predicted.append(self._names(tag_row[words], "predicted", sentence))
                gold.append(self._names(label_row[words], "gold", sentence))
        return predicted, gold

    def _names(self, ids: np.ndarray, what: str, sentence: int) -> list[str]:
        if np.any(ids == IGNORED):
            raise ValueError(
                f"Sentence {sentence}: {int(np.sum(ids == IGNORED))} labelled words have no {what} tag (-100). The "
                "model and the collator disagree about which subwords begin words."
            )
        if np.any((ids < 0) | (ids >= len(self.label_names))):
            raise ValueError(
                f"Sentence {sentence}: {what} tag ids {sorted(set(ids.tolist()))} leave the label set of "
                f"{len(self.label_names)} labels."
            )
        return [self.label_names[i] for i in ids.tolist()]


def _batches(prediction: EvalPrediction) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tag ids and labels `(sentences, subwords)` of equal width, batch by batch."""
    predictions, labels = prediction.predictions, prediction.label_ids
    if isinstance(labels, list):
        if not isinstance(predictions, list) or len(predictions) != len(labels):
            raise ValueError("Labels come as a list of batches, so predictions must come as a list of as many.")
        pairs = list(zip(predictions, labels))
    else:
        pairs = [(predictions, labels)]
    for batch, batch_labels in pairs:
        tags, gold = _tag_ids(batch), np.asarray(batch_labels)
        if gold.ndim != 2 or len(gold) != len(tags):
            raise ValueError(f"Labels {gold.shape} do not fit predictions {tags.shape} (sentences, subwords).")
        width = max(tags.shape[1], gold.shape[1])
        yield _widen(tags, width), _widen(gold, width)


def _tag_ids(predictions: Any) -> np.ndarray:
    members = predictions if isinstance(predictions, tuple) else (predictions,)
    arrays = [np.asarray(member) for member in members]
    for array in arrays:
        if array.ndim == 2 and np.issubdtype(array.dtype, np.integer):
            return array
    for array in arrays:
        if array.ndim == 3 and np.issubdtype(array.dtype, np.floating):
            return array.argmax(axis=-1)
    shapes = [(array.shape, str(array.dtype)) for array in arrays]
    raise ValueError(
        f"No tag ids (sentences, subwords) of integer type and no logits (sentences, subwords, tags) in {shapes}."
    )


def _widen(array: np.ndarray, width: int) -> np.ndarray:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=IGNORED)
