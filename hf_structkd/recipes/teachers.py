"""The teachers of a recipe: given, trained, calibrated."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from datasets import Dataset

from ..distillation.objectives import needed_columns
from ..teachers.checkpoint import Teacher
from ..teachers.panel import Panel
from ..training.arguments import StructKDTrainingArguments
from .fields import TeacherArguments, TeacherSource
from .folder import provenance, replace_output, settings_of, train_into, train_tagger
from .models import encoder_of, make_tagger, model_arguments_of_teacher
from .parser import RecipeError
from .progress import show
from .recipe import Recipe


def given_teachers(
    languages: Sequence[str],
    labels: Sequence[str],
    recipe: Recipe,
) -> dict[str, Panel]:
    """language -> the teachers that the recipe names, checked before any work is done."""
    teacher_args = recipe.teachers
    sources = {language: teacher_args.sources(language) for language in languages}
    missing = [language for language, own in sources.items() if not own]
    if missing and not teacher_args.teacher_model:
        raise RecipeError(
            f"no teacher for language {', '.join(missing)}: name a checkpoint under `teachers`, or a `teacher_model` "
            "to train one from"
        )
    named = teacher_args.teachers if isinstance(teacher_args.teachers, dict) else {}
    if unused := [language for language in named if language not in languages]:
        raise RecipeError(f"there are teachers for {', '.join(unused)}, but no such language in the corpora")
    targets = needed_columns(recipe.objectives)
    loaded: dict[str, Teacher] = {}
    panels = {}
    for language, own in sources.items():
        members = []
        for source in own:
            try:
                members.append((_load(source, recipe, loaded), source.weight))
            except (OSError, ValueError) as error:
                raise RecipeError(f"teacher for {language}, {source.checkpoint!r}: {error}") from error
        if members:
            panels[language] = Panel(members)
            try:
                panels[language].check(labels, targets)
            except ValueError as error:
                names = " + ".join(repr(source.checkpoint) for source in own)
                raise RecipeError(f"teacher for {language}, {names}: {error}") from error
    return panels


def _load(source: TeacherSource, recipe: Recipe, loaded: dict[str, Teacher]) -> Teacher:
    """A teacher with what a recipe says of it; one that teaches several languages is read from disk once."""
    teacher_args = recipe.teachers
    remote = recipe.model.trust_remote_code if source.trust_remote_code is None else source.trust_remote_code
    label_map = teacher_args.teacher_label_map if source.label_map is None else source.label_map
    key = repr((source.checkpoint, source.revision, remote, label_map, source.scheme))
    if key not in loaded:
        loaded[key] = Teacher.from_pretrained(
            source.checkpoint,
            revision=source.revision,
            trust_remote_code=remote,
            device=recipe.training.device,
            label_map=label_map,
            scheme=source.scheme,
        )
    teacher = copy.copy(loaded[key])  # the model is shared, the temperature is each language's own
    temperature = source.temperature if source.temperature is not None else teacher_args.teacher_temperature
    teacher.temperature = 1.0 if temperature in (None, "auto") else float(temperature)
    return teacher


def trained_teacher(
    language: str,
    train: Dataset,
    dev: Dataset,
    labels: list[str],
    recipe: Recipe,
) -> tuple[Panel, float]:
    """Train a language's teacher, or take it up where it is; the seconds that training took, now or then."""
    data_args, teacher_args, args = recipe.gold_only, recipe.teachers, recipe.training
    changes = {
        name: getattr(teacher_args, f"teacher_{name}")
        for name in ("num_train_epochs", "learning_rate", "crf_learning_rate", "per_device_train_batch_size")
        if getattr(teacher_args, f"teacher_{name}") is not None
    }
    if teacher_args.teacher_head == "softmax":
        changes["crf_learning_rate"] = None  # the student's
    folder = Path(teacher_args.teachers_dir or Path(args.output_dir or ".") / "teachers") / language
    own = model_arguments_of_teacher(teacher_args, recipe.model)
    own_args = replace_output(args, folder, objective="none", unlabelled_rate=None, **changes)
    settings = settings_of(data_args, own, own_args) | {
        "languages": [language],
        "max_train_sentences": len(train),
        **provenance({"train": {language: train}, "dev": {language: dev}}, labels, encoder_of(own), own.revision),
    }

    def fit(ready: StructKDTrainingArguments) -> Any:
        tagger = make_tagger(own, labels, data_args.tag_scheme, lambda: list(train["tokens"]))
        return train_tagger(*tagger, train, {language: dev}, ready, title=title)

    title = f"Teacher for {language}"
    seconds = train_into(folder, settings, own_args, fit, title)
    temperature = teacher_args.teacher_temperature
    calibrated = 1.0 if temperature in (None, "auto") else float(temperature)
    return Panel(Teacher.from_pretrained(str(folder), temperature=calibrated, device=args.device)), seconds


def calibrate_teachers(
    panels: Mapping[str, Panel],
    corpora: Mapping[str, Mapping[str, Dataset]],
    labels: Sequence[str],
    teacher_args: TeacherArguments,
) -> None:
    """Fit the temperature of the teachers that ask for it (`auto`) on their language's dev sentences."""
    for language, panel in panels.items():
        wanted = [source.temperature for source in teacher_args.sources(language)] or [None]
        for (teacher, _), own in zip(panel.members, wanted):
            if (own if own is not None else teacher_args.teacher_temperature) != "auto":
                continue
            try:
                found = teacher.calibrate(corpora[language]["dev"], labels)
            except ValueError as error:
                raise RecipeError(f"teacher for {language}: {error}") from error
            # Processes on unlike devices may round differently; they must ask one question.
            (teacher.temperature,) = broadcast_object_list([found.temperature])
            show(
                f"{language}: {teacher.name} has temperature {teacher.temperature:g}, from {found.sentences:,} dev "
                f"sentences (NLL {found.nll_before:.3f} -> {found.nll:.3f} nats per sentence)"
            )
