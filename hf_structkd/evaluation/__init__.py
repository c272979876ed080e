"""Scores of taggers: strict entity scores, word accuracy, averages over languages, tables, and `results.json`."""

from .accuracy import WordAccuracy, word_accuracy
from .aggregate import macro_average, mean_and_deviation, mean_report, micro_average
from .report import ComparisonReport
from .results import RunResults, collect_versions, read_results, read_runs, write_results, write_runs
from .seqeval_metric import StrictSeqeval, strict_seqeval
from .tagging_metrics import TaggingMetrics

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
