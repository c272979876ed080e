"""Scores of taggers: strict entity scores, word accuracy, averages over languages, tables, and `results.json`."""

from typing import TYPE_CHECKING, Any

from .aggregate import macro_average, mean_and_deviation, mean_report, micro_average
from .report import ComparisonReport
from .results import RunResults, collect_versions, read_results, read_runs, write_results, write_runs
from .scores import strict_seqeval, word_accuracy
from .tagging_metrics import TaggingMetrics

if TYPE_CHECKING:
    from .accuracy import WordAccuracy
    from .seqeval_metric import StrictSeqeval

__all__ = [
    "ComparisonReport",
    "RunResults",
    "StrictSeqeval",
    "TaggingMetrics",
    "WordAccuracy",
    "collect_versions",
    "macro_average",
    "mean_and_deviation",
    "mean_report",
    "micro_average",
    "read_results",
    "read_runs",
    "strict_seqeval",
    "word_accuracy",
    "write_results",
    "write_runs",
]


def __getattr__(name: str) -> Any:
    # On first use: these two need the package `evaluate`, which takes most of a second to import.
    if name == "StrictSeqeval":
        from .seqeval_metric import StrictSeqeval

        return StrictSeqeval
    if name == "WordAccuracy":
        from .accuracy import WordAccuracy

        return WordAccuracy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
