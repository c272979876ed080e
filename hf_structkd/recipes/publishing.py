"""What a recipe adds to the results of a run for the student's card, and the push to the Hub."""

import getpass
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.hub_datasets import hub_datasets_of, hub_datasets_of_field
from ..evaluation.report import TEACHERS
from ..evaluation.results import RunResults
from ..evaluation.tagging_metrics import TaggingMetrics
from ..hub.public import is_home
from ..hub.push import prepare_repository, push_folder
from ..teachers.checkpoint import Teacher
from ..teachers.panel import Panel
from ..training.arguments import StructKDTrainingArguments
from ..training.card import base_model, training_results
from .fields import DataArguments, ModelArguments, StartArguments
from .models import SCRATCH


def complete_results(
    results: RunResults,
    student: Teacher,
    data_args: DataArguments,
    model_args: ModelArguments,
    start_args: StartArguments,
    teachers: Mapping[str, Panel],
    args: StructKDTrainingArguments,
    examples: dict[str, list[str]],
    scored: Mapping[str, Mapping[str, Any]],
) -> RunResults:
    """Add to the results of a run what the student's card says beside scores.

    Args:
        results: Scores, settings, seconds and history of the run.
        student: The finished student.
        data_args, model_args, start_args, args: The fields of the recipe.
        teachers: Language -> its teachers.
        examples: Label -> frequent words.
        scored: Language -> split -> sentences with gold tags.

    Returns:
        A copy of the results with model, teachers, objective, hyperparameters, examples and citations.
    """
    name = args.hub_model_id or Path(args.output_dir or ".").name
    described = training_results(
        student.model.config,
        args,
        name.split("/")[-1],
        teachers,
        history=results.history,
        model={
            "scheme": TaggingMetrics(student.labels, data_args.tag_scheme).scheme,
            "languages": list(results.train_sentences),
            "dataset": corpus_name(data_args.corpus),
            "datasets": args.hub_datasets or dataset_ids(data_args, list(results.train_sentences)),
            "scored_datasets": {
                split: {
                    language: hub_datasets_of(parts[split]) for language, parts in scored.items() if split in parts
                }
                for split in results.comparison
            },
            "parameters": student.model.num_parameters(),
            **({} if model_args.model == SCRATCH else base_model(model_args.model, model_args.revision)),
        },
    )
    table = results.comparison.get("test") or results.comparison.get("dev") or {}
    scores: Mapping[str, float] = table.get(TEACHERS) or {}
    taught = [teacher["language"] for teacher in described.teachers]  # several of one language have one score
    return replace(
        results,
        model=described.model,
        teachers=[
            {**teacher, "score": scores.get(language) if taught.count(language) == 1 else None}
            for teacher, language in zip(described.teachers, taught)
        ],
        objective=described.objective,
        hyperparameters=described.hyperparameters | recipe_settings(data_args, model_args, start_args),
        history=described.history,
        label_examples=examples,
        citations=described.citations,
    )


def recipe_settings(
    data_args: DataArguments, model_args: ModelArguments, start_args: StartArguments
) -> dict[str, Any]:
    """Fields beside the training arguments that the card lists among the hyperparameters, if the recipe sets them."""
    fields = {
        "keep_layers": model_args.keep_layers,
        "trim_vocabulary": model_args.trim_vocabulary,
        "model_config": model_args.model_config,
        "teacher_embeddings": start_args.teacher_embeddings,
        "teacher_layers": getattr(start_args, "teacher_layers", None),  # grids have no such field
        "augmentation": data_args.augmentation,
    }
    return {name: str(value) for name, value in fields.items() if value is not None}


def dataset_ids(args: DataArguments, languages: Sequence[str]) -> list[str]:
    """The ids on the Hub of the corpora and of the text without tags, where they are read from there."""
    fields = (args.corpus, getattr(args, "unlabelled_corpus", None))
    return list(dict.fromkeys(name for field in fields for name in hub_datasets_of_field(field, languages)))


def corpus_name(corpus: Any) -> str | None:
    """The name of the corpora on a card.

    Args:
        corpus: The field `corpus` of a recipe.

    Returns:
        A Hub id, or the last folder of a path before its placeholders. `None` for a mapping, and for a folder that
        names a person: a home, or one with the name of the user.
    """
    if not isinstance(corpus, str):
        return None
    fixed = corpus.split("{")[0]
    if ":" in fixed:
        return fixed.rstrip(":")
    folder = Path(fixed).name
    return None if is_home(fixed) or folder in ("", "~", _login()) else folder


def _login() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # nobody is logged in
        return None


def student_repository(args: StructKDTrainingArguments) -> str:
    """The full id of the repository to push to; a missing repository is created."""
    name = args.hub_model_id or Path(args.output_dir or ".").absolute().name
    return prepare_repository(name, args.hub_token, args.hub_private_repo)


def push_student(folder: Path, args: StructKDTrainingArguments) -> str:
    """Push a finished student; returns the address of its repository."""
    repository = student_repository(args)
    return push_folder(folder, repository, token=args.hub_token, revision=args.hub_revision)
