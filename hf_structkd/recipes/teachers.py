"""The teachers of a recipe: checkpoints that it gives, teachers that it trains, and their calibration."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from datasets import Dataset

from ..data.columns import ANNOTATED_TYPES, EDGE_COUNTS, TRANSITIONS
from ..distillation.weighted_objectives import needed_columns
from ..evaluation.sentences import type_reports
from ..modeling.tag_scheme import tag_type
from ..teachers.base import TagTeacher
from ..teachers.checkpoint import Teacher
from ..teachers.kinds import load_teacher
from ..teachers.panel import Panel
from ..training.arguments import StructKDTrainingArguments
from .fields import TeacherArguments, TeacherSource
from .folder import provenance, replace_output, settings_of, train_into, train_tagger
from .growth import blind_spots
from .models import encoder_of, make_tagger, model_arguments_of_teacher
from .parser import RecipeError
from .progress import show
from .recipe import Recipe


def given_teachers(languages: Sequence[str], recipe: Recipe) -> dict[str, Panel]:
    """Load the teachers that a recipe gives.

    Args:
        languages: The languages of the corpora.
        recipe: The recipe.

    Returns:
        Language -> its teachers; without the languages whose teacher is to be trained.

    Raises:
        RecipeError: If a language has no teacher and none is trained, or a teacher cannot be loaded.
    """
    teacher_args = recipe.teachers
    sources = {language: teacher_args.sources(language) for language in languages}
    missing = [language for language, given in sources.items() if not given]
    if missing and not teacher_args.teacher_model and not teacher_args.borrow_teachers:
        raise RecipeError(
            f"no teacher for language {', '.join(missing)}: name a checkpoint under `teachers`, or a `teacher_model` "
            "to train one from"
        )
    named = teacher_args.teachers if isinstance(teacher_args.teachers, dict) else {}
    if unused := [language for language in named if language not in languages]:
        raise RecipeError(f"there are teachers for {', '.join(unused)}, but no such language in the corpora")
    loaded: dict[str, TagTeacher] = {}
    panels = {}
    for language, given in sources.items():
        members = []
        for source in given:
            try:
                members.append((_load(source, recipe, loaded), source.weight))
            except (ImportError, OSError, ValueError) as error:
                raise RecipeError(f"teacher for {language}, {source.checkpoint!r}: {error}") from error
        if members:
            panels[language] = Panel(members, teacher_args.teacher_confidence)
    return panels


def previous_tagger(recipe: Recipe) -> TagTeacher | None:
    """The tagger that the student replaces, if the recipe names one.

    It answers in its own labels where it knows fewer types than the student.

    Raises:
        RecipeError: If it cannot be loaded, or some of its labels are none of the student's.
    """
    args = recipe.teachers
    if args.previous is None:
        return None
    remote, device = recipe.model.trust_remote_code, recipe.training.device
    try:
        return load_teacher(args.previous, label_map=args.previous_label_map, trust_remote_code=remote, device=device)
    except (ImportError, OSError, ValueError) as error:
        raise RecipeError(f"previous {args.previous!r}: {error}") from error


def check_teachers(panels: Mapping[str, Panel], labels: Sequence[str], recipe: Recipe) -> None:
    """Refuse, before any training, teachers that cannot teach the student.

    Args:
        panels: Language -> its teachers.
        labels: The label set.
        recipe: The recipe.

    Raises:
        RecipeError: If labels or answers do not fit.
    """
    targets = needed_columns(recipe.objectives)
    for language, panel in panels.items():
        try:
            panel.check(labels, targets)
        except ValueError as error:
            names = " + ".join(repr(source.checkpoint) for source in recipe.teachers.sources(language))
            raise RecipeError(f"teacher for {language}, {names}: {error}") from error


def unknown_types_remark(panels: Mapping[str, Panel], labels: Sequence[str], reports: Mapping[str, Any]) -> str | None:
    """Why the teachers' scores are low, where the gold tags have types that some teachers cannot answer with.

    Args:
        panels: Language -> its teachers.
        labels: The label set.
        reports: Language -> the teachers' report against gold tags.

    Returns:
        A sentence for the table; `None` if the teachers know all types.
    """
    missed = {}
    for language, panel in panels.items():
        answers = {labels[tag] for teacher, _ in panel.members for tag in teacher.reading(labels).student_tags}
        known = {tag_type(label) for label in answers}
        numbers = {kind: int(scores.get("number", 0)) for kind, scores in type_reports(reports.get(language)).items()}
        if unknown := [f"{kind} ({number:,})" for kind, number in numbers.items() if number and kind not in known]:
            missed[language] = ", ".join(unknown)
    if not missed:
        return None
    listed = "; ".join(f"{language}: {kinds}" for language, kinds in missed.items())
    return (
        "The gold tags have types that the teachers do not know and never answer with, so their scores count all of "
        f"these entities as missed, and say nothing about what the teachers do know: {listed}."
    )


def _load(source: TeacherSource, recipe: Recipe, loaded: dict[str, TagTeacher]) -> TagTeacher:
    """Load a teacher with its settings; a teacher of several languages is loaded once, into `loaded`."""
    teacher_args = recipe.teachers
    remote = recipe.model.trust_remote_code if source.trust_remote_code is None else source.trust_remote_code
    label_map = teacher_args.teacher_label_map if source.label_map is None else source.label_map
    key = repr((source.checkpoint, source.revision, remote, label_map, source.scheme, source.options))
    if key not in loaded:
        settings: dict[str, Any] = {
            **{"revision": source.revision, "trust_remote_code": remote, "device": recipe.training.device},
            **{"scheme": source.scheme, "options": source.options},
        }
        loaded[key] = load_teacher(source.checkpoint, label_map=label_map, **settings)
        if (open_types := blind_spots(loaded[key], recipe.model.add_types)) is not None:
            loaded[key] = load_teacher(source.checkpoint, label_map=open_types, **settings)
    teacher = copy.copy(loaded[key])  # languages share the model and have their own temperature
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
    """Train the teacher of a language, or load it if it is finished.

    Args:
        language: The language.
        train, dev: Its sentences.
        labels: The label set.
        recipe: The recipe.

    Returns:
        The teacher as a panel of one, and the seconds that its training took, now or earlier.
    """
    data_args, teacher_args, args = recipe.gold_only, recipe.teachers, recipe.training
    # Of types that nobody looked for it learns nothing, not even that they are O.
    label_map = unknown_types_map(train, labels)
    if label_map and {EDGE_COUNTS, TRANSITIONS} & {*needed_columns(recipe.objectives)}:
        raise RecipeError(
            f"the teacher for {language} is trained on a corpus that declares some types only, and will not know the "
            "others: the structural and substructure objectives need teachers that know all types; use posterior or "
            "top_wk"
        )
    changes = {
        name: getattr(teacher_args, f"teacher_{name}")
        for name in ("num_train_epochs", "learning_rate", "crf_learning_rate", "per_device_train_batch_size")
        if getattr(teacher_args, f"teacher_{name}") is not None
    }
    if teacher_args.teacher_head == "softmax":
        changes["crf_learning_rate"] = None  # that of the student does not apply
    folder = Path(teacher_args.teachers_dir or Path(args.output_dir or ".") / "teachers") / language
    model_args = model_arguments_of_teacher(teacher_args, recipe.model)
    teacher_training_args = replace_output(args, folder, objective="none", unlabelled_rate=None, **changes)
    sentences = {"train": {language: train}, "dev": {language: dev}}
    settings = settings_of(data_args, model_args, teacher_training_args) | {
        "languages": [language],
        "max_train_sentences": len(train),
        **provenance(sentences, labels, encoder_of(model_args), model_args.revision),
    }

    def fit(training_args: StructKDTrainingArguments) -> Any:
        tagger = make_tagger(
            model_args,
            labels,
            data_args.tag_scheme,
            lambda: list(train["tokens"]),
            data_args.words,
            [train],
            data_args.glued_words,
        )
        return train_tagger(*tagger, train, {language: dev}, training_args, title=title)

    title = f"Teacher for {language}"
    seconds = train_into(folder, settings, teacher_training_args, fit, title)
    temperature = teacher_args.teacher_temperature
    calibrated = 1.0 if temperature in (None, "auto") else float(temperature)
    loaded = Teacher.from_pretrained(str(folder), label_map=label_map, temperature=calibrated, device=args.device)
    return Panel(loaded), seconds


def unknown_types_map(train: Dataset, labels: Sequence[str]) -> dict[str, list[str]] | None:
    """The label map of a tagger that was trained on a corpus that declares some types only.

    Args:
        train: What it was trained on.
        labels: The label set.

    Returns:
        O and the tags of the types that no sentence declares, each read as all of them; `None` if there are none.
    """
    declared = list(train[ANNOTATED_TYPES]) if ANNOTATED_TYPES in train.column_names else [None]
    if None in declared:
        return None
    known = {kind for types in declared for kind in types or ()}
    unknown = [label for label in labels if (kind := tag_type(label)) is not None and kind not in known]
    return {label: ["O", *unknown] for label in ["O", *unknown]} if unknown else None


def calibrate_teachers(
    panels: Mapping[str, Panel],
    corpora: Mapping[str, Mapping[str, Dataset]],
    labels: Sequence[str],
    teacher_args: TeacherArguments,
    without_gold: Sequence[str] = (),
) -> None:
    """Fit the temperatures that the recipe sets to `auto` on the dev sentences of each teacher's language.

    A language that borrows its teachers (`borrow_teachers`) gets them with the temperatures of their own languages.

    Args:
        panels: Language -> its teachers, changed in place.
        corpora: Language -> split -> sentences.
        labels: The label set.
        teacher_args: The teacher fields of the recipe.
        without_gold: The languages whose dev sentences have no gold tags.

    Raises:
        RecipeError: If a temperature cannot be fitted.
    """
    for language, panel in panels.items():
        if teacher_args.borrow_teachers and not teacher_args.sources(language):
            continue
        temperatures = [source.temperature for source in teacher_args.sources(language)] or [None]
        for (teacher, _), temperature in zip(panel.members, temperatures):
            if (temperature if temperature is not None else teacher_args.teacher_temperature) != "auto":
                continue
            if language in without_gold:
                raise RecipeError(
                    f"teacher for {language}: temperature auto is fitted to gold tags, and {language} has no dev "
                    "corpus"
                )
            try:
                fitted = teacher.calibrate(corpora[language]["dev"], labels)
            except ValueError as error:
                raise RecipeError(f"teacher for {language}: {error}") from error
            # Processes on different devices may round differently, and all must use one temperature.
            (teacher.temperature,) = broadcast_object_list([fitted.temperature])
            show(
                f"{language}: {teacher.name} has temperature {teacher.temperature:g}, from {fitted.sentences:,} dev "
                f"sentences (NLL {fitted.nll_before:.3f} -> {fitted.nll:.3f} nats per sentence)"
            )
