"""From a finished student to its card, and to the Hub."""

import getpass
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..evaluation.results import RunResults
from ..evaluation.tagging_metrics import TaggingMetrics
from ..hub.public import is_home
from ..hub.push import prepare_repository, push_folder
from ..teachers.checkpoint import Teacher
from ..teachers.panel import Panel
from ..training.arguments import StructKDTrainingArguments
from ..training.card import training_results
from ..training.provenance import hub_commit
from .fields import DataArguments, ModelArguments, StartArguments
from .models import SCRATCH


def describe(
    results: RunResults,
    student: Teacher,
    data_args: DataArguments,
    model_args: ModelArguments,
    start_args: StartArguments,
    teachers: Mapping[str, Panel],
    args: StructKDTrainingArguments,
    examples: dict[str, list[str]],
) -> RunResults:
    """The results of a run with everything that its student's card says."""
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
            "parameters": student.model.num_parameters(),
            **base_model(model_args),
        },
    )
    own: Mapping[str, float] = results.comparison["test"]["teachers"] or {}
    taught = [teacher["language"] for teacher in described.teachers]  # several of one language share a score
    return replace(
        results,
        model=described.model,
        teachers=[
            {**teacher, "score": own.get(language) if taught.count(language) == 1 else None}
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
    """What a recipe says of the student beside training arguments, for the card's list; what it leaves out is not."""
    said = {
        "keep_layers": model_args.keep_layers,
        "model_config": model_args.model_config,
        "teacher_embeddings": start_args.teacher_embeddings,
        "augmentation": data_args.augmentation,
    }
    return {name: str(value) for name, value in said.items() if value is not None}


def base_model(args: ModelArguments) -> dict[str, Any]:
    """The encoder that training started from, with the commit of one from the Hub."""
    if args.model == SCRATCH:
        return {}
    return {"base_model": args.model, "base_model_revision": hub_commit(args.model, args.revision)}


def corpus_name(corpus: Any) -> str | None:
    """What a card calls the corpora: a Hub id, or the innermost folder that a path names before its placeholders.

    A folder that is somebody's home, or is called like whoever runs this, names a person and no corpus.
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
    """The full id of the repository to push to, which is made if there is none."""
    name = args.hub_model_id or Path(args.output_dir or ".").absolute().name
    return prepare_repository(name, args.hub_token, args.hub_private_repo)


def push_student(folder: Path, args: StructKDTrainingArguments) -> str:
    """Push a finished student; the address of its repository."""
    repository = student_repository(args)
    return push_folder(folder, repository, token=args.hub_token, revision=args.hub_revision)
