"""Word accuracy for plain tags (parts of speech), as an `evaluate.Metric` that needs no network."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from .sentences import BY_TYPE, paired_sentences

_DESCRIPTION = "Share of words with the right tag, and precision, recall and F1 of every tag; works offline."
_INPUTS = """
Args:
    predictions: one list of tags per sentence.
    references: the gold tags, as many per sentence.
    zero_division: the score where there is nothing to divide by.
Returns:
    accuracy, number (of words), correct; by_type: per tag precision, recall, f1, number, predicted, correct.
"""


def word_accuracy(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], zero_division: float = 0.0
) -> dict[str, Any]:
    """Accuracy over all words; it is not the mean of the accuracies of sentences.

    Args:
        predictions: One list of tags per sentence.
        references: The gold tags, as many per sentence.
        zero_division: The score if there is nothing to divide by, for instance no words.

    Returns:
        `accuracy`, `number` (words) and `correct`; under `by_type` one mapping per tag found with
        `precision`, `recall`, `f1`, `number`, `predicted`, `correct`. Python floats, the counts whole.

    Raises:
        ValueError: If the sentences differ in number or length, or are no lists of tags.

    Source: the accuracy of the CoNLL 2018 shared task's evaluation for given words.
    """
    predicted: Counter[str] = Counter()
    number: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    for _, predicted_tags, gold_tags in paired_sentences(predictions, references):
        predicted.update(predicted_tags)
        number.update(gold_tags)
        correct.update(a for a, b in zip(predicted_tags, gold_tags) if a == b)
    words = number.total()
    return {
        "accuracy": correct.total() / words if words else float(zero_division),
        "number": float(words),
        "correct": float(correct.total()),
        BY_TYPE: {
            tag: {
                "precision": correct[tag] / predicted[tag] if predicted[tag] else float(zero_division),
                "recall": correct[tag] / number[tag] if number[tag] else float(zero_division),
                "f1": 2 * correct[tag] / (predicted[tag] + number[tag]),
                "number": float(number[tag]),
                "predicted": float(predicted[tag]),
                "correct": float(correct[tag]),
            }
            for tag in sorted(predicted.keys() | number.keys())
        },
    }


class WordAccuracy(evaluate.Metric):
    """[`word_accuracy`] as an `evaluate.Metric`; also `evaluate.load` with the path of this file.

    Args:
        **kwargs: Whatever `evaluate.Metric` takes.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": tags, "references": tags}),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[str]],
        references: Sequence[Sequence[str]],
        zero_division: float = 0.0,
    ) -> dict[str, Any]:
        return word_accuracy(predictions, references, zero_division)
