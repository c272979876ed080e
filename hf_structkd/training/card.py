"""The part of `results.json`, and so of the card, that a training run can fill in about its student."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedConfig, Trainer

from ..data.columns import LANGUAGE, TOKENS, column_values
from ..data.hub_datasets import hub_datasets_of
from ..data.unlabelled import has_gold
from ..data.words import gold_tags, tag_column
from ..distillation.citations import BIBTEX, SLKD
from ..evaluation.report import BASELINE, TEACHERS, ComparisonReport
from ..evaluation.results import RunResults, measured_energy, peak_memory
from ..evaluation.sentences import BY_TYPE
from ..modeling.configuration import label_names
from ..modeling.tag_scheme import infer_scheme
from ..settings import dump_settings
from ..teachers.panel import Teachers, teachers_by_language
from .arguments import StructKDTrainingArguments
from .provenance import encoder_origin
from .students import without_adapter

EVALUATION_SPLIT = "evaluation"  # name of the trainer's eval_dataset on the card, whatever split it is
# Words that show what a label means often carry it, and seldom another.
_MIN_COUNT = 2  # a word that occurs once may be a private person's name
_MIN_SHARE = 0.5
_MAX_LENGTH = 20
HISTORY_POINTS = 500  # more would not show in a curve; this keeps the file small
_LOGGED = ("step", "epoch", "loss", "kd_lambda")
_HYPERPARAMETERS = (
    *("learning_rate", "crf_learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim", "normalization"),
    *("language_sampling_temperature", "unlabelled_rate", "train_sampling_strategy", "bf16", "fp16"),
)


def objective_name(objective: str | Mapping[str, Any]) -> str:
    """The name of a choice of objectives in tables and on cards: `posterior+top_wk`, `posterior+0.5*top_wk`."""
    if isinstance(objective, str):
        return objective
    weights = {
        name: part.get("weight", 1.0) if isinstance(part, Mapping) else part for name, part in objective.items()
    }
    return "+".join(name if weight == 1 else f"{weight:g}*{name}" for name, weight in weights.items())


def training_results(
    config: PreTrainedConfig,
    args: StructKDTrainingArguments,
    name: str,
    teachers: Teachers | None = None,
    *,
    history: Iterable[Mapping[str, Any]] = (),
    model: Mapping[str, Any] | None = None,
    **more: Any,
) -> RunResults:
    """Results with everything that the settings of a training say about its student.

    Args:
        config: The student's configuration.
        args: The training arguments.
        name: The student's name on the card.
        teachers: As for `annotate`; ignored if the objective asks no teacher.
        history: The trainer's log.
        model: Members of `RunResults.model` (`base_model`, `dataset`, `parameters`), which win over the settings.
        more: Further members of [`RunResults`], such as `scores`, `comparison`, `seconds`.
    """
    chosen = args.objectives
    sources = dict.fromkeys([SLKD, *(objective.source for objective, _ in chosen.values())]) if chosen else {}
    described = {
        "name": name,
        "model_id": args.hub_model_id,
        "class_name": (getattr(config, "architectures", None) or ["XLMRobertaForTokenClassificationCRF"])[0],
        "labels": label_names(config),
        "scheme": getattr(config, "tag_scheme", None) or infer_scheme(label_names(config)),
        "languages": list(getattr(config, "languages", None) or []),
        "license": args.license,
        **({"glued_words": True} if getattr(config, "glued_words", False) else {}),
    }
    return RunResults(
        model={**described, **(model or {})},
        teachers=[] if not chosen or teachers is None else _teachers(teachers),
        objective=_objective(args, chosen) if chosen else {},
        hyperparameters={
            name: getattr(value, "value", value)  # of transformers' enumerations
            for name in _HYPERPARAMETERS
            if (value := getattr(args, name, None)) not in (None, -1)
        },
        history=curves(history),
        citations=[BIBTEX[source] for source in sources],
        **{"settings": dump_settings(args), "seed": args.seed, **more},
    )


def trainer_results(trainer: Trainer, teachers: Teachers | None = None) -> RunResults:
    """Results with everything that a trainer knows about its student at this moment.

    Scores are those of the last evaluation, or of the best one if `load_best_model_at_end` has loaded the best model.
    Before the first evaluation there are none.

    Args:
        trainer: A [`StructKDTrainer`].
        teachers: Its teachers.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    args: Any = trainer.args
    name = str(args.hub_model_id or args.output_dir).rstrip("/").split("/")[-1]
    data: Any = trainer.train_dataset
    state = trainer.state
    metric = getattr(trainer.compute_metrics, "metric_name", None)
    best = state.best_global_step if args.load_best_model_at_end and _is_over(trainer) else None
    eval_dataset: Any = trainer.eval_dataset
    corpora = list(eval_dataset) if isinstance(eval_dataset, Mapping) else []
    reports = evaluation_reports(state.log_history, corpora, metric, best) if metric else {}
    row = objective_name(args.objective)
    row = "student" if row in ("none", TEACHERS, BASELINE) else row
    return training_results(
        model.config,
        args,
        name,
        teachers,
        history=state.log_history,
        model={
            "class_name": type(without_adapter(model)).__name__,
            **base_model(getattr(model, "name_or_path", None) or None),
            "datasets": list(getattr(trainer, "hub_datasets", ())),
            "scored_datasets": {
                EVALUATION_SPLIT: {language: hub_datasets_of(eval_dataset[language]) for language in corpora}
            },
            "parameters": model.num_parameters(),
        },
        scores={EVALUATION_SPLIT: {row: reports}} if reports else {},
        comparison={EVALUATION_SPLIT: _comparison(metric, row, reports).to_dict()} if metric and reports else {},
        train_sentences=sentences_by_language(data),
        gold_sentences=gold_by_language(data),
        seconds={row: runtime} if (runtime := _runtime(state.log_history)) else {},
        label_examples=examples_of(data, label_names(model.config)) if args.label_examples else {},
        memory=peak_memory(),
        energy=measured_energy(args.output_dir),
    )


def base_model(name: str | None, revision: str | None = None) -> dict[str, Any]:
    """What the card says of the model that training started from: members of `RunResults.model`.

    Args:
        name: An id on the Hub, or a folder; `None` for a model made from scratch.
        revision: Branch, tag or commit of an id.
    """
    if name is None:
        return {}
    origin = encoder_origin(name, revision)
    return {
        "base_model": name,
        "base_model_revision": origin.commit or revision,
        "base_model_id": origin.name,
    }


def curves(history: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The points of a trainer's log that curves are drawn from, thinned out to 500."""
    kept = []
    for entry in history:
        point = {
            key: value
            for key, value in entry.items()
            if isinstance(value, (int, float))
            and (key in _LOGGED or key.startswith("loss_") or _is_headline(key, entry))
        }
        if len(point.keys() - {"step", "epoch"}):
            kept.append(point)
    stride = -(-len(kept) // HISTORY_POINTS)
    return [point for i, point in enumerate(kept) if i % stride == 0 or "loss" not in point] if stride > 1 else kept


def evaluation_reports(
    history: Sequence[Mapping[str, Any]], corpora: Sequence[str], metric: str, step: int | None = None
) -> dict[str, Any]:
    """The scores of one evaluation in a trainer's log, in the layout of `RunResults.scores`.

    Args:
        history: The log.
        corpora: Names of the evaluated corpora, which are languages.
        metric: The headline metric.
        step: The update of the evaluation; by default the last evaluation.

    Returns:
        Language -> scores, with the `f1` of each type under `by_type`; without languages that were not evaluated.
    """
    reports: dict[str, Any] = {}
    for entry in history:
        if step is not None and entry.get("step") != step:
            continue
        for language in corpora:
            prefix = f"eval_{language}_"
            if f"{prefix}{metric}" in entry:
                flat = {key.removeprefix(prefix): value for key, value in entry.items() if key.startswith(prefix)}
                types = {key.removeprefix("f1_"): {"f1": value} for key, value in flat.items() if key[:3] == "f1_"}
                reports[language] = {metric: flat[metric], **({BY_TYPE: types} if types else {})}
    return reports


def examples_of(dataset: Any, labels: Sequence[str]) -> dict[str, list[str]]:
    """Label -> frequent words of a training corpus; empty if the corpus has lost its words or tags."""
    column = tag_column(dataset) if isinstance(dataset, Dataset) else None
    if column is None or TOKENS not in dataset.column_names:
        return {}
    return label_examples(zip(column_values(dataset, TOKENS), gold_tags(dataset)), labels)


def label_examples(
    sentences: Iterable[tuple[Sequence[str], Sequence[str] | None]],
    label_names: Sequence[str],
    count: int = 3,
) -> dict[str, list[str]]:
    """The most frequent words of each label.

    Args:
        sentences: words and their labels (names); labels that are `None` are of unlabelled sentences.
        label_names: the labels to give examples of.
        count: words per label at most.

    Returns:
        Label -> words, the most frequent first: made of letters, at most 20 of them, and with the label at least twice
        and in at least half of their occurrences. `O`, and labels without such words, are left out.
    """
    by_label: dict[str, Counter[str]] = {label: Counter() for label in label_names if label != "O"}
    total: Counter[str] = Counter()
    for words, labels in sentences:
        for word, label in zip(words, labels or ()):
            if not word.isalpha() or len(word) > _MAX_LENGTH:
                continue
            total[word] += 1
            if label in by_label:
                by_label[label][word] += 1
    return {label: best for label, counts in by_label.items() if (best := _best(counts, total, count))}


def _best(counts: Mapping[str, int], total: Mapping[str, int], count: int) -> list[str]:
    examples = [word for word, n in counts.items() if n >= _MIN_COUNT and n >= _MIN_SHARE * total[word]]
    return sorted(examples, key=lambda word: (-counts[word], word))[:count]


def sentences_by_language(dataset: Any) -> dict[str, int]:
    """Language -> number of sentences; empty for a corpus without a column `language`."""
    if LANGUAGE not in (getattr(dataset, "column_names", None) or []):
        return {}
    return dict(Counter(column_values(dataset, LANGUAGE) if isinstance(dataset, Dataset) else dataset[LANGUAGE]))


def gold_by_language(dataset: Any) -> dict[str, int]:
    """Language -> number of sentences with gold tags; empty if all have them, or without a column `language`."""
    if LANGUAGE not in (getattr(dataset, "column_names", None) or []) or not isinstance(dataset, Dataset):
        return {}
    total = sentences_by_language(dataset)
    gold = dict.fromkeys(total, 0)
    for language, has_tags in zip(column_values(dataset, LANGUAGE), has_gold(dataset)):
        gold[language] += has_tags
    return {} if gold == total else gold


def _teachers(teachers: Teachers) -> list[dict[str, Any]]:
    return [
        {"name": teacher.name, "language": language, "revision": teacher.revision, "weight": weight, "score": None}
        for language, members in teachers_by_language(teachers).items()
        for teacher, weight in members
    ]


def _objective(args: StructKDTrainingArguments, chosen: Mapping[str, Any]) -> dict[str, Any]:
    schedule = f"{args.lambda_schedule}, {args.lambda_start:g} to {args.lambda_end:g}"
    rate = "" if args.lambda_rate is None else f", by {args.lambda_rate:g} per epoch"
    return {
        "name": objective_name(args.objective),
        "combination": args.objective_combination if len(chosen) > 1 else None,
        "parts": [{**objective.config(), "weight": weight} for objective, weight in chosen.values()],
        "lambda_schedule": schedule + rate,
        "top_k": args.top_k,
    }


def _comparison(metric: str, row: str, reports: Mapping[str, Any]) -> ComparisonReport:
    headline = {language: report[metric] for language, report in reports.items()}
    return ComparisonReport(metric, students={row: headline}, split=EVALUATION_SPLIT)


def _is_over(trainer: Trainer) -> bool:
    return any("train_runtime" in entry for entry in trainer.state.log_history)


def _runtime(history: Iterable[Mapping[str, Any]]) -> float | None:
    return next((entry["train_runtime"] for entry in reversed(list(history)) if "train_runtime" in entry), None)


def _is_headline(key: str, entry: Mapping[str, Any]) -> bool:
    """Whether a key of the log is a headline metric. Accuracy is one for plain tags alone, which have no F1."""
    corpus, _, metric = key.rpartition("_")
    return key.startswith("eval_") and (metric == "f1" or (metric == "accuracy" and f"{corpus}_f1" not in entry))
