"""Predictions on sentences by length, which saves padding, given back in the order of the corpus."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler
from transformers import EvalPrediction


class LongestFirst(Sampler[int]):
    """Sentences from the longest to the shortest.

    Args:
        lengths: (sentences,), in the order of the corpus.
    """

    def __init__(self, lengths: np.ndarray) -> None:
        self.order = np.argsort(-lengths, kind="stable")

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())

    def __len__(self) -> int:
        return len(self.order)

    def corpus_order(self, predictions: Any) -> Any:
        """Rows that were predicted in this order, in the order of the corpus.

        Args:
            predictions: Arrays with a row per sentence, or tuples, lists and mappings of such arrays.
        """
        if isinstance(predictions, tuple | list):
            return type(predictions)(self.corpus_order(part) for part in predictions)
        if isinstance(predictions, dict):
            return {name: self.corpus_order(part) for name, part in predictions.items()}
        if predictions is None:
            return None
        restored = np.empty_like(predictions)
        restored[self.order] = predictions
        return restored

    def scored_in_corpus_order(
        self, compute_metrics: Callable[[EvalPrediction], dict] | None
    ) -> Callable[[EvalPrediction], dict] | None:
        """`compute_metrics` for predictions in this order: it gets them in the order of the corpus."""
        if compute_metrics is None:
            return None
        return lambda prediction: compute_metrics(
            EvalPrediction(self.corpus_order(prediction.predictions), self.corpus_order(prediction.label_ids))
        )
