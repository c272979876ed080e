"""Word accuracy for plain tags (parts of speech), as an `evaluate.Metric` that needs no network."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from .scores import word_accuracy

# scores.py needs it, and evaluate.load copies what this file imports. (It takes a comment behind an import for a URL.)
from .sentences import BY_TYPE as BY_TYPE

_DESCRIPTION = "Share of words with the right tag, and precision, recall and F1 of every tag; works offline."
_INPUTS = """
Args:
    predictions: one list of tags per sentence.
    references: the gold tags, as many per sentence.
    zero_division: the score where there is nothing to divide by.
Returns:
    accuracy, number (of words), correct; by_type: per tag precision, recall, f1, number, predicted, correct.
"""


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
