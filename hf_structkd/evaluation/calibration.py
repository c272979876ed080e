"""Do entities with a score of 0.8 turn out right 80 times in 100? Reliability and expected calibration error.

Three scores of the same predicted entities are compared: ``exact``, the probability that exactly this entity stands
there; ``mean_marginal``, the mean over its words of the CRF's marginals, which is what the stock pipeline makes of our
logits; ``mean_softmax``, the mean over its words of the softmax of the emissions, which is what taggers without exact
inference report.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

DEFAULT_BINS = 10


class Reliability(NamedTuple):
    """Scores against what came true, in bins of equal width.

    Args:
        edges: (bins + 1,), from 0 to 1.
        counts: (bins,), predictions.
        confidence: (bins,), mean score; NaN where a bin is empty.
        accuracy: (bins,), share of right predictions; NaN where a bin is empty.
        ece: expected calibration error (Guo et al. 2017), the mean of |accuracy - confidence| over predictions.
        brier: mean squared difference of score and outcome.
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
    """Bin predictions by their score.

    Args:
        scores: probabilities, 0 to 1.
        right: whether each prediction was right.
        bins: how many, of equal width.

    Raises:
        ValueError: if there are no predictions, not as many outcomes as scores, or a score is no probability.
    """
    s, r = np.asarray(scores, dtype=float), np.asarray(right, dtype=float)
    if s.shape != r.shape or s.ndim != 1 or not len(s):
        raise ValueError(f"as many outcomes as scores are needed, at least one; got {r.shape} and {s.shape}")
    if not ((s >= 0) & (s <= 1 + 1e-9)).all():
        raise ValueError(f"scores are probabilities, 0 to 1; got {s.min()} to {s.max()}")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(s, edges) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    divisor = np.where(counts > 0, counts, np.nan)
    confidence = np.bincount(place, weights=s, minlength=bins) / divisor
    accuracy = np.bincount(place, weights=r, minlength=bins) / divisor
    ece = float(np.nansum(np.abs(accuracy - confidence) * counts) / counts.sum())
    return Reliability(edges, counts, confidence, accuracy, ece, float(((s - r) ** 2).mean()))


def plot_reliability(diagrams: Mapping[str, Reliability], path: Any, title: str = "") -> None:
    """Draw reliability diagrams side by side into a PNG, the share of predictions of each bin below.

    Args:
        diagrams: name -> reliability.
        path: of the PNG.
        title: above all of them.

    Raises:
        ImportError: without matplotlib, the `plots` extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'hf_structkd[plots]'") from error
    figure = Figure(figsize=(3.6 * len(diagrams), 4.6), layout="constrained")
    axes = figure.subplots(2, len(diagrams), sharex=True, squeeze=False, height_ratios=[3, 1])
    for column, (name, found) in enumerate(diagrams.items()):
        upper, lower = axes[:, column]
        width, middles = np.diff(found.edges), (found.edges[:-1] + found.edges[1:]) / 2
        upper.bar(middles, np.nan_to_num(found.accuracy), width * 0.92, color="#4c78a8", label="right")
        upper.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1)
        upper.plot(found.confidence, found.accuracy, "o", color="#e45756", markersize=4, label="mean score")
        upper.set(title=f"{name}\nECE {100 * found.ece:.1f} %", xlim=(0, 1), ylim=(0, 1))
        lower.bar(middles, found.counts / found.counts.sum(), width * 0.92, color="#bbbbbb")
        lower.set(xlabel="score", ylim=(0, 1))
        if column == 0:
            upper.set_ylabel("share that is right")
            lower.set_ylabel("share of entities")
            upper.legend(loc="upper left", frameon=False, fontsize=8)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=150, format="png")
