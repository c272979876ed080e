"""The contents of a student's card as data, made from `results.json`; `model_card` renders them.

- [`StudentCardData`] and [`TeacherCard`] are the contents of a card.
- [`card_data`] makes them from the results of one run, or of several runs that differ in their seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.aggregate import mean_and_deviation, mean_report
from ..evaluation.report import ComparisonReport
from ..evaluation.results import RunResults, collect_versions
from ..evaluation.sentences import type_reports

# row ("teachers", "baseline", a student's name) -> entity type or tag -> language -> (mean F1, deviation over runs)
TypeScores = Mapping[str, Mapping[str, Mapping[str, tuple[float, float | None]]]]
HEADLINE_SPLIT = "test"
# Settings that may differ between the runs of one card: seeds, places, logging and the Hub.
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


@dataclass
class TeacherCard:
    """A teacher on a card.

    Args:
        name: Hub id, or path; of a path only the last part is shown.
        language: The language it taught; `None` for all.
        revision: Commit or fingerprint of its weights.
        score: Its own headline score in [0, 1], where known.
        weight: Its weight among the teachers of its language, which add up to 1.
    """

    name: str
    language: str | None = None
    revision: str | None = None
    score: float | None = None
    weight: float = 1.0


@dataclass
class StudentCardData:
    """What the card of a student says. Everything but the name may be left out; the card is then shorter.

    Args:
        model_name: Name of the student.
        label_names: The labels in the model's order.
        label_examples: Label -> words that show what it means.
        scheme: `"BIO"`, `"BIOES"` or `"plain"`.
        glued_words: Whether it reads words without a blank before them as running text.
        languages: Language codes it was trained on.
        model_id: Hub id for the snippets; by default `model_name`.
        class_name: Class to load it with.
        parameters: Their number.
        base_model: The encoder it started from, a Hub id or a path.
        base_model_revision: That encoder's commit.
        base_model_id: The encoder's id on the Hub; of a local encoder that of the model it was made from, if known.
        teachers: Its teachers; none for a baseline.
        objective: The distillation objective by name, `"none"` for a baseline.
        objective_parts: What each of its parts says of itself: `name`, `weight`, `temperature`,
            `temperature_mode`, `source`.
        objective_combination: `"sum"` or `"average"`, where there are several parts.
        lambda_schedule: How the weight of distillation went over training, in words (`"linear 1 -> 0"`).
        top_k: Number of the teachers' best sequences.
        comparison: Scores of student, teachers and baseline to show, means where there were several runs.
        own_scores: Language -> score of these very weights, for the metadata; by default those of `comparison`.
        type_scores: Scores of each entity type, or tag.
        precision_recall: `"precision"`, `"recall"` -> language -> the student's, mean and deviation over runs.
        flips: Row -> language -> what changed against the tagger that this one replaces, of these very weights.
        student_row: The student's row in `comparison`; by default its first student.
        seeds: Of the runs that were scored, that of these weights first.
        dataset_name: Name of the corpora.
        dataset_ids: Those of them that are on the Hub, by their ids.
        scored_datasets: Language -> ids on the Hub of the corpora that the scores of `comparison` are from.
        train_sentences: Language -> number of training sentences.
        gold_sentences: Language -> number of those with gold tags; by default all.
        hyperparameters: Name -> value, in the order to show.
        images: Title -> place of a picture relative to the card.
        versions: Package -> version; by default those of this process.
        seconds: Training time in seconds.
        memory: `peak_rss_mib` and `peak_gpu_mib` of training.
        energy: `kwh` and `co2_kg` of training.
        license: Licence of the weights, as the Hub names it; none is claimed by default.
        tags: Tags for the Hub's search, on top of the card's own.
        citations: BibTeX of what was used.
        limitations: Sentences that the limitations begin with.
        rewritten: Whether the card is one that later pushes of the same training write anew.
    """

    model_name: str
    label_names: Sequence[str] = ()
    label_examples: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scheme: str = "BIO"
    glued_words: bool = False
    languages: Sequence[str] = ()
    model_id: str | None = None
    class_name: str = "XLMRobertaForTokenClassificationCRF"
    parameters: int | None = None
    base_model: str | None = None
    base_model_revision: str | None = None
    base_model_id: str | None = None
    teachers: Sequence[TeacherCard] = ()
    objective: str = "none"
    objective_parts: Sequence[Mapping[str, Any]] = ()
    objective_combination: str | None = None
    lambda_schedule: str | None = None
    top_k: int | None = None
    comparison: ComparisonReport | None = None
    own_scores: Mapping[str, float] | None = None
    type_scores: TypeScores = field(default_factory=dict)
    precision_recall: Mapping[str, Mapping[str, tuple[float, float | None]]] = field(default_factory=dict)
    flips: Mapping[str, Any] = field(default_factory=dict)
    student_row: str | None = None
    seeds: Sequence[int] = ()
    dataset_name: str | None = None
    dataset_ids: Sequence[str] = ()
    scored_datasets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    train_sentences: Mapping[str, int] = field(default_factory=dict)
    gold_sentences: Mapping[str, int] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=collect_versions)
    seconds: float | None = None
    memory: Mapping[str, float] = field(default_factory=dict)
    energy: Mapping[str, float] = field(default_factory=dict)
    license: str | None = None
    tags: Sequence[str] = ()
    citations: Sequence[str] = ()
    limitations: Sequence[str] = ()
    rewritten: bool = False

    @property
    def has_crf(self) -> bool:
        """Whether the model has a CRF head; a stock class, whose softmax was trained, has none."""
        return self.class_name.endswith("CRF")


def card_data(
    results: RunResults, more_runs: Sequence[RunResults] = (), images: Mapping[str, str] | None = None
) -> StudentCardData:
    """What the card of a run's student says.

    Args:
        results: the run whose student this is.
        more_runs: the same recipe with other seeds; scores are then means with deviations.
        images: `"curves"`, `"gap"` -> place of the picture relative to the card.

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
        glued_words=bool(model.get("glued_words")),
        languages=model.get("languages") or list(results.train_sentences),
        model_id=model.get("model_id"),
        class_name=model.get("class_name") or StudentCardData.class_name,
        parameters=model.get("parameters"),
        base_model=model.get("base_model"),
        base_model_revision=model.get("base_model_revision"),
        base_model_id=model.get("base_model_id"),
        teachers=[TeacherCard(**teacher) for teacher in results.teachers],
        objective=name,
        objective_parts=objective.get("parts") or (),
        objective_combination=objective.get("combination"),
        lambda_schedule=objective.get("lambda_schedule"),
        top_k=objective.get("top_k"),
        comparison=comparison,
        own_scores=None if split is None or row is None else results.comparison[split]["students"][row],
        type_scores=type_scores(runs, split) if split is not None else {},
        precision_recall=precision_recall(runs, split, row) if split is not None and row is not None else {},
        flips={} if split is None else results.flips.get(split, {}),
        student_row=row,
        seeds=[run.seed for run in runs if run.seed is not None],
        dataset_name=model.get("dataset"),
        dataset_ids=model.get("datasets") or (),
        scored_datasets=(model.get("scored_datasets") or {}).get(split) or {},
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
    first = _identity(runs[0])
    for run in runs[1:]:
        other = _identity(run)
        for name in {**first, **other}:
            if first.get(name) != other.get(name):
                raise ValueError(
                    f"A card averages runs that differ in nothing but their seeds; the run with seed {run.seed} has "
                    f"{name} {_short(other.get(name))}, the one with seed {runs[0].seed} {_short(first.get(name))}."
                )


def _identity(run: RunResults) -> dict[str, Any]:
    """Everything that made a run, without its seed, its folder and its name."""
    made: dict[str, Any] = {}
    for member in ("settings", "hyperparameters", "objective", "train_sentences", "gold_sentences", "versions"):
        values = getattr(run, member)
        made |= {
            f"{member}.{name}": v for name, v in values.items() if member != "settings" or name not in _OF_ONE_RUN
        }
    made |= {f"model.{name}": value for name, value in run.model.items() if name not in ("name", "model_id")}
    # Teachers that a run trains itself follow its seed; those that are given are the same in all.
    members = (
        ("language", "weight") if run.settings.get("teacher_model") else ("language", "weight", "name", "revision")
    )
    return made | {"teachers": [{name: teacher.get(name) for name in members} for teacher in run.teachers]}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def headline_split(results: RunResults) -> str | None:
    """The split whose scores a card shows: test, else the last one scored, if any."""
    return HEADLINE_SPLIT if HEADLINE_SPLIT in results.comparison else next(reversed(results.comparison), None)


def type_scores(runs: Sequence[RunResults], split: str) -> TypeScores:
    """F1 of every entity type (plain tags: of every tag) in all rows and languages, over the runs that have it."""
    f1_by_row: dict[str, dict[str, dict[str, list[float]]]] = {}
    for run in runs:
        for row, reports in run.scores.get(split, {}).items():
            for language, report in reports.items():
                for name, f1 in _types(report).items():
                    f1_by_row.setdefault(row, {}).setdefault(name, {}).setdefault(language, []).append(f1)
    return {
        row: {name: {lang: mean_and_deviation(f1s) for lang, f1s in by.items()} for name, by in sorted(types.items())}
        for row, types in f1_by_row.items()
    }


def precision_recall(
    runs: Sequence[RunResults], split: str, row: str
) -> dict[str, dict[str, tuple[float, float | None]]]:
    """`"precision"` and `"recall"` -> language -> mean and deviation of a row over the runs; empty for plain tags."""
    measured: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for language, report in run.scores.get(split, {}).get(row, {}).items():
            for name in ("precision", "recall"):
                if report.get(name) is not None:
                    measured.setdefault(name, {}).setdefault(language, []).append(report[name])
    return {name: {lang: mean_and_deviation(values) for lang, values in by.items()} for name, by in measured.items()}


def _types(report: Any) -> dict[str, float]:
    return {name: scores["f1"] for name, scores in type_reports(report).items() if scores.get("f1") is not None}


def _has(comparison: ComparisonReport | None, row: str) -> bool:
    return comparison is not None and row in comparison.students
