"""From `results.json` to the card."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.aggregate import mean_and_deviation, mean_report
from ..evaluation.report import ComparisonReport
from ..evaluation.results import RunResults
from ..evaluation.sentences import type_reports
from .card_data import StudentCardData, TeacherCard, TypeScores

HEADLINE_SPLIT = "test"
# Settings that say where a run lies and what it tells of itself, and the seeds.
_OF_ONE_RUN = {
    *(
        "seed",
        "data_seed",
        "output_dir",
        "baseline_dir",
        "teachers_dir",
        "annotation_dir",
        "logging_dir",
        "run_name",
        "project",
    ),
    *("hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy", "push_to_hub", "report_to", "disable_tqdm"),
    *("log_level", "log_on_each_node", "logging_first_step", "logging_steps", "logging_strategy", "trackio_space_id"),
}


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
        ValueError: if the runs differ in more than their seeds, or were not scored alike.
    """
    runs = [results, *more_runs]
    refuse_other_runs(runs)
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
        gold_sentences=results.gold_sentences,
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


def refuse_other_runs(runs: Sequence[RunResults]) -> None:
    """Refuse runs that differ in anything but the seed and the places where they lie: a mean over them means nothing.

    Args:
        runs: of one recipe, the one described first.

    Raises:
        ValueError: naming the seed that is there twice, or the member that differs and its two values.
    """
    seeds = [run.seed for run in runs]
    if len(runs) > 1 and (None in seeds or len(set(seeds)) < len(seeds)):
        raise ValueError(
            f"Runs are told apart by their seeds, and these have the seeds {seeds}: each must have its own."
        )
    first = _made_by(runs[0])
    for run in runs[1:]:
        own = _made_by(run)
        for name in {**first, **own}:
            if first.get(name) != own.get(name):
                raise ValueError(
                    f"A card averages runs that differ in nothing but their seeds; the run with seed {run.seed} has "
                    f"{name} {_short(own.get(name))}, the one with seed {runs[0].seed} {_short(first.get(name))}."
                )


def _made_by(run: RunResults) -> dict[str, Any]:
    """All that made a run, but for its seed, its place and its name."""
    made: dict[str, Any] = {}
    for member in ("settings", "hyperparameters", "objective", "train_sentences", "gold_sentences", "versions"):
        own = getattr(run, member)
        made |= {f"{member}.{name}": v for name, v in own.items() if member != "settings" or name not in _OF_ONE_RUN}
    made |= {f"model.{name}": value for name, value in run.model.items() if name not in ("name", "model_id")}
    # Teachers that a run trains itself follow its seed; those that are given are the same in all.
    told = ("language", "weight") if run.settings.get("teacher_model") else ("language", "weight", "name", "revision")
    return made | {"teachers": [{name: teacher.get(name) for name in told} for teacher in run.teachers]}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


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
    return {name: scores["f1"] for name, scores in type_reports(report).items() if scores.get("f1") is not None}


def _has(comparison: ComparisonReport | None, row: str) -> bool:
    return comparison is not None and row in comparison.students
