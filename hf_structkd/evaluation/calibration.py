"""Reliability and expected calibration error: are entities with a score of 0.8 right 80 times in 100?

Three scores of the same predicted entities are compared:

- `exact`: the probability of exactly this entity;
- `mean_marginal`: the mean of the CRF's marginals over its words, as the stock pipeline computes it from the logits;
- `mean_softmax`: the mean of the softmax of the emissions over its words, as taggers without exact inference report.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

DEFAULT_BINS = 10


class Reliability(NamedTuple):
    """Scores compared with outcomes, in bins of equal width.

    Args:
        edges: (bins + 1,), from 0 to 1.
        counts: (bins,), the number of predictions.
        confidence: (bins,), the mean score; NaN for an empty bin.
        accuracy: (bins,), the share of right predictions; NaN for an empty bin.
        ece: Expected calibration error (Guo et al. 2017), the mean of |accuracy - confidence| over predictions.
        brier: Mean squared difference of score and outcome.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float
    brier: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; `None` for empty bins."""
        bins = [
            {
                "from": float(self.edges[i]),
                "to": float(self.edges[i + 1]),
                "predictions": int(self.counts[i]),
                "confidence": None if self.counts[i] == 0 else float(self.confidence[i]),
                "accuracy": None if self.counts[i] == 0 else float(self.accuracy[i]),
            }
            for i in range(len(self.counts))
        ]
        return {"ece": self.ece, "brier": self.brier, "predictions": int(self.counts.sum()), "bins": bins}


def reliability(scores: Sequence[float], right: Sequence[bool], bins: int = DEFAULT_BINS) -> Reliability:
    """Sort predictions into bins by their score.

    Args:
        scores: The probability of each prediction, 0 to 1.
        right: Whether each prediction is right.
        bins: The number of bins, which have equal width.

    Raises:
        ValueError: If there are no predictions, not as many outcomes as scores, or a score is no probability.
    """
    probabilities, outcomes = np.asarray(scores, dtype=float), np.asarray(right, dtype=float)
    if probabilities.shape != outcomes.shape or probabilities.ndim != 1 or not len(probabilities):
        shapes = f"{outcomes.shape} and {probabilities.shape}"
        raise ValueError(f"as many outcomes as scores are needed, at least one; got {shapes}")
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-9)).all():
        raise ValueError(f"scores are probabilities, 0 to 1; got {probabilities.min()} to {probabilities.max()}")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.clip(np.digitize(probabilities, edges) - 1, 0, bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    divisor = np.where(counts > 0, counts, np.nan)
    confidence = np.bincount(bin_of, weights=probabilities, minlength=bins) / divisor
    accuracy = np.bincount(bin_of, weights=outcomes, minlength=bins) / divisor
    ece = float(np.nansum(np.abs(accuracy - confidence) * counts) / counts.sum())
    brier = float(((probabilities - outcomes) ** 2).mean())
    return Reliability(edges, counts, confidence, accuracy, ece, brier)


def plot_reliability(diagrams: Mapping[str, Reliability], path: Any, title: str = "") -> None:
    """Draw reliability diagrams side by side into a PNG, with the share of predictions in each bin below.

    Args:
        diagrams: Name -> reliability.
        path: The PNG file.
        title: The title above all diagrams.

    Raises:
        ImportError: Without matplotlib, the extra `plots`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'hf_structkd[plots]'") from error
    figure = Figure(figsize=(3.6 * len(diagrams), 4.6), layout="constrained")
    axes = figure.subplots(2, len(diagrams), sharex=True, squeeze=False, height_ratios=[3, 1])
    for column, (name, diagram) in enumerate(diagrams.items()):
        upper, lower = axes[:, column]
        width, middles = np.diff(diagram.edges), (diagram.edges[:-1] + diagram.edges[1:]) / 2
        upper.bar(middles, np.nan_to_num(diagram.accuracy), width * 0.92, color="#4c78a8", label="right")
        upper.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1)
        upper.plot(diagram.confidence, diagram.accuracy, "o", color="#e45756", markersize=4, label="mean score")
        upper.set(title=f"{name}\nECE {100 * diagram.ece:.1f} %", xlim=(0, 1), ylim=(0, 1))
        lower.bar(middles, diagram.counts / diagram.counts.sum(), width * 0.92, color="#bbbbbb")
        lower.set(xlabel="score", ylim=(0, 1))
        if column == 0:
            upper.set_ylabel("share that is right")
            lower.set_ylabel("share of entities")
            upper.legend(loc="upper left", frameon=False, fontsize=8)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=150, format="png")
