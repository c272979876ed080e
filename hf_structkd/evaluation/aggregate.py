"""Averages of scores over languages and over runs."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .report import AVERAGE, ComparisonReport
from .sentences import BY_TYPE, type_reports

_COUNTS = ("number", "predicted", "correct")


def macro_average(per_language: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Unweighted mean over languages, score by score: every language counts the same, however large its corpus.

    Args:
        per_language: Language -> flat scores, as [`TaggingMetrics`] returns them. Members that are not numbers
            (the mappings per entity type of a full report) and counts are left out.

    Returns:
        Score -> its mean. `f1_<type>` is averaged over the languages in which the type occurs.

    Raises:
        ValueError: If there is no language, its scores are no mapping, or a score other than `f1_<type>` is missing
            for one: a mean over fewer languages would look like one over all.
    """
    if not per_language:
        raise ValueError("No languages to average over.")
    values: dict[str, dict[str, float]] = {}
    for language, scores in per_language.items():
        if not isinstance(scores, Mapping):
            raise ValueError(f"The scores of {language!r} are {scores!r}, but must be a mapping from score to number.")
        for name, value in scores.items():
            if isinstance(value, (Mapping, str)) or name in _COUNTS:
                continue
            values.setdefault(name, {})[language] = float(value)
    for name, by_language in values.items():
        missing = sorted(set(per_language) - set(by_language))
        if missing and not name.startswith("f1_"):
            raise ValueError(f"Score {name!r} is missing for {missing}; it cannot be averaged over all languages.")
    return {name: sum(by_language.values()) / len(by_language) for name, by_language in values.items()}


def micro_average(reports: Mapping[str, Mapping[str, Any]], zero_division: float = 0.0) -> dict[str, Any]:
    """Scores of the entities (plain tags: words) of all languages together: larger corpora have more weight.

    Args:
        reports: Language -> full report, as [`TaggingMetrics.report`] returns them.
        zero_division: The score where there is nothing to divide by.

    Returns:
        `precision`, `recall`, `f1` and the summed counts, and the same per entity type under `by_type`. For
        plain tags `accuracy`, and precision, recall, F1 per tag. Entity reports have no micro `accuracy`: they do
        not count words.

    Raises:
        ValueError: If there is no language, or a report lacks its counts (a flat mapping was given).
    """
    if not reports:
        raise ValueError("No languages to average over.")
    totals: dict[str, dict[str, float]] = {}
    overall: dict[str, float] = {}
    for language, report in reports.items():
        if not isinstance(report, Mapping) or isinstance(report.get("number", {}), Mapping):
            raise ValueError(f"The report of {language!r} has no counts; micro averages need TaggingMetrics.report().")
        for count in _COUNTS:
            if count in report:
                overall[count] = overall.get(count, 0.0) + report[count]
        for name, scores in type_reports(report).items():
            total = totals.setdefault(name, dict.fromkeys(_COUNTS, 0.0))
            for count in _COUNTS:
                total[count] += scores[count]
    result: dict[str, Any] = dict(overall)
    if "predicted" in overall:
        result |= _ratios(overall, zero_division)
    else:
        result["accuracy"] = overall["correct"] / overall["number"] if overall["number"] else float(zero_division)
    result[BY_TYPE] = {name: totals[name] | _ratios(totals[name], zero_division) for name in sorted(totals)}
    return result


def mean_and_deviation(scores: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation of the same score in several runs.

    Args:
        scores: One score per run.

    Returns:
        The mean, and the deviation (n - 1 in the denominator). The deviation is `None` for one run, and if all runs
        have the same score, as runs with the same teachers do.

    Raises:
        ValueError: If there is no score.
    """
    if not scores:
        raise ValueError("No runs to average over.")
    mean = statistics.fmean(scores)
    return mean, statistics.stdev(scores) if len(set(scores)) > 1 else None


def mean_report(reports: Sequence[ComparisonReport]) -> ComparisonReport:
    """The mean of the comparisons of several runs that differ in their seeds.

    Args:
        reports: One report per run, with the same rows and languages.

    Returns:
        The means, with the standard deviations over runs of every score and of every row's average over languages.

    Raises:
        ValueError: If there is no report, or they differ in metric, split, rows or languages.
    """
    if not reports:
        raise ValueError("No runs to average over.")
    first = reports[0]
    for other in reports[1:]:
        if (other.metric, other.split) != (first.metric, first.split):
            raise ValueError(f"Runs with {first.metric} on {first.split} and {other.metric} on {other.split} differ.")
        first_cells, other_cells = _cells(first), _cells(other)
        if first_cells != other_cells:
            raise ValueError(f"The runs differ in rows or languages: {sorted(first_cells ^ other_cells)}.")
    means: dict[str, dict[str, float]] = {}
    deviations: dict[str, dict[str, float]] = {}
    for row, scores in first.rows().items():
        means[row] = {}
        for language in scores:
            means[row][language], spread = mean_and_deviation([report.rows()[row][language] for report in reports])
            if spread is not None:
                deviations.setdefault(row, {})[language] = spread
        averages = [average for report in reports if (average := report.average(row)) is not None]
        if averages and (spread := mean_and_deviation(averages)[1]) is not None:
            deviations.setdefault(row, {})[AVERAGE] = spread
    return ComparisonReport(
        first.metric,
        teachers=None if first.teachers is None else means.pop("teachers"),
        baseline=None if first.baseline is None else means.pop("baseline"),
        students=means,
        split=first.split,
        languages=first.languages,
        deviations=deviations,
        remarks=list(dict.fromkeys(remark for report in reports for remark in report.remarks)),
    )


def _cells(report: ComparisonReport) -> set[tuple[str, str]]:
    return {(row, language) for row, scores in report.rows().items() for language in scores}


def _ratios(counts: Mapping[str, float], zero_division: float) -> dict[str, float]:
    correct, predicted, number = counts["correct"], counts["predicted"], counts["number"]
    return {
        "precision": correct / predicted if predicted else float(zero_division),
        "recall": correct / number if number else float(zero_division),
        "f1": 2 * correct / (predicted + number) if predicted + number else float(zero_division),
    }
