"""From `results.json` to the card."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.aggregate import mean_and_deviation, mean_report
from ..evaluation.report import ComparisonReport
from ..evaluation.results import RunResults
from .card_data import StudentCardData, TeacherCard, TypeScores

HEADLINE_SPLIT = "test"


def card_data(
    results: RunResults, more_runs: Sequence[RunResults] = (), images: Mapping[str, str] | None = None
) -> StudentCardData:
    """What the card of a run's student says.

    Args:
        results: the run whose student this is.
        more_runs: the same recipe with other seeds; scores are then means with deviations.
        images: ``"curves"``, ``"gap"`` -> place of the picture relative to the card.

    Returns:
        The card's data. Scores are those on test or, without, of the last split there is.

    Raises:
        ValueError: if the runs were not scored alike, or are of different objectives.
    """
    runs = [results, *more_runs]
    if len({run.objective.get("name") for run in runs}) > 1:
        raise ValueError(f"Runs of different objectives: {[run.objective.get('name') for run in runs]}.")
    model, objective = results.model, results.objective
    name = objective.get("name", "none")
    split = headline_split(results)
    comparison = None
    if split is not None:
        comparison = mean_report([ComparisonReport.from_dict(run.comparison[split]) for run in runs])
    row = next((r for r in (name, *(comparison.students if comparison else ())) if _has(comparison, r)), None)
    return StudentCardData(
        model_name=model.get("name") or "tagger",
        label_names=model.get("labels") or (),
        label_examples=results.label_examples,
        scheme=model.get("scheme") or "BIO",
        languages=model.get("languages") or list(results.train_sentences),
        model_id=model.get("model_id"),
        class_name=model.get("class_name") or StudentCardData.class_name,
        parameters=model.get("parameters"),
        base_model=model.get("base_model"),
        base_model_revision=model.get("base_model_revision"),
        teachers=[TeacherCard(**teacher) for teacher in results.teachers],
        objective=name,
        objective_parts=objective.get("parts") or (),
        objective_combination=objective.get("combination"),
        lambda_schedule=objective.get("lambda_schedule"),
        top_k=objective.get("top_k"),
        comparison=comparison,
        own_scores=None if split is None or row is None else results.comparison[split]["students"][row],
        type_scores=type_scores(runs, split) if split is not None else {},
        student_row=row,
        seeds=[run.seed for run in runs if run.seed is not None],
        dataset_name=model.get("dataset"),
        train_sentences=results.train_sentences,
        hyperparameters=results.hyperparameters,
        images=images or {},
        versions=results.versions,
        seconds=results.seconds.get(name, results.seconds.get(row or "student")),
        memory=results.memory,
        energy=results.energy,
        license=model.get("license"),
        tags=model.get("tags") or (),
        citations=results.citations,
        limitations=results.limitations,
    )


def headline_split(results: RunResults) -> str | None:
    """The split whose scores a card shows: test, else the last one scored, if any."""
    return HEADLINE_SPLIT if HEADLINE_SPLIT in results.comparison else next(reversed(results.comparison), None)


def type_scores(runs: Sequence[RunResults], split: str) -> TypeScores:
    """F1 of every entity type (plain tags: of every tag) in all rows and languages, over the runs that have it."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for run in runs:
        for row, reports in run.scores.get(split, {}).items():
            for language, report in reports.items():
                for name, f1 in _types(report).items():
                    found.setdefault(row, {}).setdefault(name, {}).setdefault(language, []).append(f1)
    return {
        row: {name: {lang: mean_and_deviation(f1s) for lang, f1s in by.items()} for name, by in sorted(types.items())}
        for row, types in found.items()
    }


def _types(report: Any) -> dict[str, float]:
    if not isinstance(report, Mapping):
        return {}
    return {
        name: scores["f1"]
        for name, scores in report.items()
        if isinstance(scores, Mapping) and scores.get("f1") is not None
    }


def _has(comparison: ComparisonReport | None, row: str) -> bool:
    return comparison is not None and row in comparison.students
