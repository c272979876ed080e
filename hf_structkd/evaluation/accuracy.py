"""Word accuracy for plain tags (parts of speech), as an ``evaluate.Metric`` that needs no network."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

_DESCRIPTION = "Share of words whose tag is right, and precision, recall and F1 of every tag; works offline."
_INPUTS = """
Args:
    predictions: one list of tags per sentence.
    references: the gold tags, as many per sentence.
    zero_division: the score where there is nothing to divide by.
Returns:
    accuracy, number (of words), correct; and per tag precision, recall, f1, number, predicted, correct.
"""


def word_accuracy(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], zero_division: float = 0.0
) -> dict[str, Any]:
    """Accuracy over words, whatever the sentences' lengths (not a mean of sentence accuracies).

    Args:
        predictions: One list of tags per sentence.
        references: The gold tags, as many per sentence.
        zero_division: The accuracy of no words, the precision of a tag never predicted, and so on.

    Returns:
        ``accuracy``, ``number`` (words) and ``correct``; then one mapping per tag found with ``precision``,
        ``recall``, ``f1``, ``number``, ``predicted``, ``correct``. Python floats, the counts whole.

    Raises:
        ValueError: If the sentences differ in number or length.

    Source: the accuracy of the CoNLL 2018 shared task's evaluation for given words.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predicted sentences, but {len(references)} gold sentences.")
    predicted: Counter[str] = Counter()
    number: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    for index, (guess, gold) in enumerate(zip(predictions, references)):
        if len(guess) != len(gold):
            raise ValueError(f"Sentence {index} has {len(guess)} predicted tags, but {len(gold)} gold tags.")
        predicted.update(guess)
        number.update(gold)
        correct.update(a for a, b in zip(guess, gold) if a == b)
    words = number.total()
    scores: dict[str, Any] = {
        "accuracy": correct.total() / words if words else float(zero_division),
        "number": float(words),
        "correct": float(correct.total()),
    }
    if taken := (predicted.keys() | number.keys()) & scores.keys():
        raise ValueError(f"Tags {sorted(taken)} have the names of scores; rename them to be scored.")
    for tag in sorted(predicted.keys() | number.keys()):
        scores[tag] = {
            "precision": correct[tag] / predicted[tag] if predicted[tag] else float(zero_division),
            "recall": correct[tag] / number[tag] if number[tag] else float(zero_division),
            "f1": 2 * correct[tag] / (predicted[tag] + number[tag]),
            "number": float(number[tag]),
            "predicted": float(predicted[tag]),
            "correct": float(correct[tag]),
        }
    return scores


class WordAccuracy(evaluate.Metric):
    """:func:`word_accuracy` as an ``evaluate.Metric``; also ``evaluate.load`` with the path of this file.

    Args:
        **kwargs: Whatever ``evaluate.Metric`` takes.
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
