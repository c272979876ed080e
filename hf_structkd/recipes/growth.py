"""Recipes that start from a tagger: its labels, the types that they add, and the tagger itself as a teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset
from transformers import AutoConfig

from ..data.columns import ANNOTATED_TYPES
from ..files import model_named
from ..modeling.configuration import label_names
from ..modeling.tag_scheme import infer_scheme, split_tag
from ..teachers.base import TagTeacher
from ..teachers.label_map import LabelMap
from ..training.extended_labels import OUTSIDE, extended_label_names
from .fields import DataArguments, ModelArguments, TeacherArguments, TeacherSource
from .parser import RecipeError

SCRATCH = "scratch"


def is_tagger(config: Any) -> bool:
    """Whether a configuration is that of a trained token classifier."""
    return any("ForTokenClassification" in name for name in config.architectures or [])


def student_labels(args: ModelArguments, corpus_labels: list[str], data: DataArguments) -> list[str]:
    """The label set of the tagger to train.

    Args:
        args: The model fields of a recipe.
        corpus_labels: Those of the corpora, or of the teachers where there are no gold tags.
        data: The data fields of the recipe.

    Returns:
        Of a model that is a tagger: its labels, and behind them those of `add_types`. Of an encoder: those of the
        corpora.

    Raises:
        RecipeError: If types cannot be added, or the corpora or the recipe have labels that the tagger lacks.
    """
    config = _config(args)
    if config is None or not is_tagger(config):
        if args.add_types is not None:
            raise RecipeError(
                f"add_types adds types to a tagger, and model {args.model!r} is none: name a tagger as `model`, or "
                "leave add_types out; the types are then those of the corpora and teachers"
            )
        return corpus_labels
    names = label_names(config)
    labels = names
    if args.add_types is not None:
        _refuse_other_head(args, config)
        try:
            labels = extended_label_names(names, args.add_types, getattr(config, "tag_scheme", None))
        except ValueError as error:
            raise RecipeError(f"add_types of model {args.model!r}: {error}") from error
        if data.labels is not None and data.labels != labels:
            raise RecipeError(
                f"labels: the tagger {args.model!r} will have {labels}, not {data.labels}; leave the field out"
            )
    elif data.labels is not None:
        return corpus_labels  # which `refuse_other_labels` compares
    if data.tag_scheme is not None and infer_scheme(labels) != data.tag_scheme and infer_scheme(names) != "plain":
        raise RecipeError(
            f"tag_scheme is {data.tag_scheme}, and the tagger {args.model!r} has {infer_scheme(labels)} tags: give "
            "the tagger's as tag_scheme and, if they differ, that of the files as corpus_scheme"
        )
    if unknown := [label for label in corpus_labels if label not in labels]:
        raise RecipeError(_advice(args, labels, corpus_labels, unknown))
    return labels


def refuse_silent_gold(args: ModelArguments, train: Mapping[str, Dataset], labels: Sequence[str]) -> None:
    """Refuse gold tags that would teach a tagger to forget: no word has a type that it knows, and nobody says why.

    Args:
        args: The model fields of a recipe.
        train: Language -> training sentences; those that say which types were looked for are not in question.
        labels: The tagger's labels, those that are added included.

    Raises:
        RecipeError: It names the language, the types, and what to say.
    """
    config = _config(args)
    if config is None or not is_tagger(config) or infer_scheme(labels) == "plain":
        return
    types = list(dict.fromkeys(split_tag(label)[1] for label in labels if label != OUTSIDE))
    for language, sentences in train.items():
        declared = list(sentences[ANNOTATED_TYPES]) if ANNOTATED_TYPES in sentences.column_names else []
        if not len(sentences) or any(annotated is not None for annotated in declared):
            continue
        seen = {split_tag(tag)[1] for tags in sentences["tags"] for tag in tags or [] if tag != OUTSIDE}
        if missing := [name for name in types if name not in seen]:
            present = [name for name in types if name in seen]
            raise RecipeError(
                f"the training corpus of {language} has no {', '.join(missing)}, which the tagger {args.model!r} "
                f"would learn to forget. If nobody looked for them, say annotated_types: {{{language}: "
                f"[{', '.join(present)}]}}; if there are really none, name all types there"
            )


def _config(args: ModelArguments) -> Any:
    if args.model == SCRATCH:
        return None
    try:
        with model_named(args.model, args.revision):
            return AutoConfig.from_pretrained(
                args.model, revision=args.revision or "main", trust_remote_code=args.trust_remote_code
            )
    except (OSError, ValueError) as error:
        raise RecipeError(f"model {args.model!r}: {error}") from error


def _refuse_other_head(args: ModelArguments, config: Any) -> None:
    has_crf = hasattr(config, "crf_constraints")
    if has_crf != (args.head == "crf"):
        raise RecipeError(
            f"add_types keeps the head of a tagger, and that of {args.model!r} is {'crf' if has_crf else 'softmax'}: "
            f"give head: {'crf' if has_crf else 'softmax'}, or train another model with the tagger as a teacher"
        )


def _advice(args: ModelArguments, labels: Sequence[str], corpus_labels: Sequence[str], unknown: Sequence[str]) -> str:
    """What to do about labels of the corpora that the tagger lacks."""
    model_scheme, other = infer_scheme(labels), infer_scheme(corpus_labels)
    begin = f"the corpora have {', '.join(unknown)}, and the tagger {args.model!r} knows {', '.join(labels)}"
    if model_scheme != other and "plain" not in (model_scheme, other):
        return f"{begin}: give corpus_scheme: {other} and tag_scheme: {model_scheme}, and the corpora are rewritten"
    if model_scheme != other:
        return f"{begin}: its tags are {model_scheme} and those of the corpora {other}; it cannot learn them"
    types = dict.fromkeys(split_tag(label)[1] if model_scheme != "plain" else label for label in unknown)
    added = [*(args.add_types or []), *types]
    return f"{begin}: to add what is new, give add_types: [{', '.join(added)}]"


def name_the_model(teachers: TeacherArguments, model: ModelArguments) -> TeacherArguments:
    """The teachers of a recipe, with names in place of `{model}` and `{previous}`.

    Raises:
        RecipeError: If there is no such tagger, or the name has more than the placeholder.
    """
    names = {"{model}": (model.model, model.revision), "{previous}": (teachers.previous, None)}
    used = [placeholder for placeholder in names if placeholder in repr(teachers.teachers)]
    if "{model}" in used and model.model == SCRATCH:
        raise RecipeError("teachers: {model} is the tagger that training starts from, and model is 'scratch'")
    if "{previous}" in used and teachers.previous is None:
        raise RecipeError("teachers: {previous} is the tagger that is replaced: name it in `previous`")

    def named(item: Any) -> Any:
        if isinstance(item, list):
            return [named(one) for one in item]
        source = TeacherSource(item) if isinstance(item, str) else item
        if source is None or source.checkpoint not in names:
            return item
        name, revision = names[source.checkpoint]
        return replace(source, checkpoint=name, revision=source.revision or revision)

    given = teachers.teachers
    named_teachers = {key: named(item) for key, item in given.items()} if isinstance(given, dict) else named(given)
    if left := [placeholder for placeholder in used if placeholder in repr(named_teachers)]:
        raise RecipeError(f"teachers: {left[0]} stands for the whole name of a teacher, not for a part of it")
    return replace(teachers, teachers=named_teachers) if used else teachers


def blind_spots(teacher: TagTeacher, types: Sequence[str] | None) -> LabelMap | None:
    """The label map with which a teacher leaves open the added types that it does not know: they hide in its O.

    Args:
        teacher: It may know some of the types, or its label map may say already where they hide.
        types: The types that a recipe adds.

    Returns:
        Its label map with the group; `None` if nothing is missing.

    Raises:
        ValueError: If it has no O.
    """
    known = {split_tag(name)[1] if split_tag(name)[0] else name for name in teacher.names_of_labels()}
    missing = [name for name in types or [] if name not in known]
    if not missing:
        return None
    if OUTSIDE not in teacher.unmapped_labels:
        raise ValueError(
            f"it does not know {', '.join(missing)} and has no O in which they could hide: say in its label_map which "
            f"of its labels they had, {{NOUN: [NOUN, {missing[0]}]}} for instance"
        )
    hidden = teacher.label_map.get(OUTSIDE, OUTSIDE)
    group = [hidden] if isinstance(hidden, str) else list(hidden)
    return {**teacher.label_map, OUTSIDE: [*group, *missing]}
