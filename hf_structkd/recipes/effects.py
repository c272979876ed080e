"""Refuses, by name, the fields of a recipe that have no effect in a command or beside the other fields.

- `IDLE_FIELDS` are fields that a command never reads. They are refused wherever they are given, except with the values
  `false`, `null` and `none`, which ask for nothing.
- `CONDITIONAL_FIELDS` are fields that a command reads under a condition. Where the condition does not hold they are
  refused unless they have their default value, so that an option can undo what a recipe sets:
  `--objective posterior --top_k 5`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from ..data.columns import TOPK_LOG_PROBS, TOPK_TAGS
from ..data.demo_corpus import DEMO_LANGUAGES
from ..distillation.weighted_objectives import needed_columns
from ..training.arguments import StructKDTrainingArguments
from .fields import TeacherSource
from .models import SCRATCH
from .parser import RecipeError

# Fields that no command reads.
IDLE_EVERYWHERE = {
    "label_names": "the columns that hold gold tags are fixed",
    "resume_from_checkpoint": "a run that was stopped goes on from its newest checkpoint by itself",
    "do_train": "the command says what is done",
    "do_eval": "the command says what is done",
    "do_predict": "the command says what is done",
    "local_rank": "the launcher says it",
}
_TEACHERS_ONLY = "this command trains on gold tags alone; `structkd distill` asks teachers"
_PUSHED_BY_DISTILL = "the student is what is pushed, by `structkd distill`"
_HUB = ("hub_token", "hub_private_repo", "hub_strategy", "hub_always_push", "hub_revision")
_LAMBDA = ("lambda_schedule", "lambda_start", "lambda_end", "lambda_rate")
_UNLABELLED = ("unlabelled_sentences", "unlabelled_corpus", "augmentation", "sentences")
_SCORES_ONLY = "this command scores, and trains nothing"
_CHECKPOINTS = "the checkpoint says it"
IDLE_FIELDS: dict[str, dict[str, str]] = {
    "distill": IDLE_EVERYWHERE,
    "teacher": {
        **IDLE_EVERYWHERE,
        **dict.fromkeys(
            (
                "confidence_weight",
                "focal_weights",
                *("objective", "objective_combination", "temperature", "temperature_mode", "top_k", *_LAMBDA),
                *("unlabelled_rate", "annotation_dir", "annotation_batch_size", "annotation_context"),
                *("hidden_first", "hidden_weight", "hidden_layer", "hidden_thaw"),
                *(*_UNLABELLED, "documents"),
            ),
            _TEACHERS_ONLY,
        ),
        **dict.fromkeys(("push_to_hub", "hub_model_id", *_HUB), _PUSHED_BY_DISTILL),
        **dict.fromkeys(("license", "hub_datasets", "label_examples"), "this command writes no card"),
    },
    "evaluate": {**dict.fromkeys((*_UNLABELLED, "documents"), _SCORES_ONLY), "glued_words": _CHECKPOINTS},
    "calibrate": {**dict.fromkeys((*_UNLABELLED, "documents"), _SCORES_ONLY), "glued_words": _CHECKPOINTS},
}


class Rule(NamedTuple):
    """Fields that have an effect under a condition.

    Args:
        fields: Their names.
        works: The condition, a function of all fields of the recipe.
        reason: Why the fields have no effect if the condition does not hold.
    """

    fields: tuple[str, ...]
    works: Callable[[Any], bool]
    reason: str


def _asks_teachers(recipe: Any) -> bool:
    return bool(recipe.objectives)


def _reads_paths(recipe: Any) -> bool:
    needed = needed_columns(recipe.objectives)
    return TOPK_TAGS in needed or TOPK_LOG_PROBS in needed


def _trains_teachers(recipe: Any) -> bool:
    """Whether the recipe may lack a teacher for some language."""
    teachers = recipe.teachers
    if not teachers:
        return True
    languages = recipe.languages or (recipe.corpus if isinstance(recipe.corpus, dict) else DEMO_LANGUAGES)
    return isinstance(teachers, dict) and any(language not in teachers for language in languages)


def _given_lists(recipe: Any) -> list[list[TeacherSource]]:
    """The given teachers: those of each language, or those of all languages together."""
    given = recipe.teachers.values() if isinstance(recipe.teachers, dict) else [recipe.teachers or []]
    listed = [teachers if isinstance(teachers, list) else [teachers] for teachers in given]
    return [[TeacherSource(one) if isinstance(one, str) else one for one in teachers] for teachers in listed]


def _leaves_open(recipe: Any, member: str) -> bool:
    """Whether a given teacher has no value of its own for something that the recipe says of all of them."""
    return any(getattr(source, member) is None for sources in _given_lists(recipe) for source in sources)


def _has_files(recipe: Any) -> bool:
    return recipe.corpus != "demo" or getattr(recipe, "unlabelled_corpus", None) is not None


def _limits(scored: Callable[[Any], Sequence[str]]) -> list[Rule]:
    """Rules for the limits of sentences: a limit has an effect on a split that is scored."""

    def rule(split: str) -> Rule:
        return Rule((f"max_{split}_sentences",), lambda r: split in scored(r), f"{split} is not scored")

    return [rule(split) for split in ("train", "dev", "test")]


DOCUMENTS = Rule(
    ("documents",),
    lambda r: r.annotation_context and r.objectives,
    "it says which sentences teachers read together, and annotation_context is 0 or no teacher is asked",
)
DATA = (
    Rule(("annotated_types",), lambda r: r.corpus is not None, "there is no corpus"),
    Rule(
        ("tags_column", "column", "sentence_column", "corpus_scheme", "corpus_format", "spans", "offset_unit"),
        lambda r: r.corpus != "demo",
        "corpus 'demo' is read as it is",
    ),
    Rule(("tokens_column",), _has_files, "corpus 'demo' is read as it is"),
)
SENTENCES = Rule(
    ("sentences",),
    lambda r: r.unlabelled_corpus is not None,
    "it splits the texts of unlabelled_corpus: there is none",
)
WORDS_OF_TEXTS = Rule(("words",), lambda r: r.corpus != "demo", "corpus 'demo' holds words")
TRAINED = (
    Rule(("revision", "add_types"), lambda r: r.model != SCRATCH, "model 'scratch' is made anew"),
    Rule(
        ("trim_vocabulary",),
        lambda r: r.model != SCRATCH,
        "model 'scratch' has no pieces but those of its own sentences; vocab_size limits them",
    ),
    Rule(("glued_words",), lambda r: r.head == "crf", "head 'softmax' reads every word as if between blanks"),
    Rule(("crf_learning_rate",), lambda r: r.head == "crf", "head 'softmax' has no transition scores"),
)
DISTILLED = (
    Rule(
        ("top_k",), _reads_paths, "the objective reads no k best tag sequences (top_k, top_wk, fuzzy and the gates do)"
    ),
    Rule(
        (
            *("temperature", "temperature_mode", "objective_combination", *_LAMBDA),
            *("annotation_dir", "annotation_batch_size", "annotation_context"),
        ),
        _asks_teachers,
        "objective 'none' asks no teacher",
    ),
    Rule(("annotation_parts",), _asks_teachers, "objective 'none' asks no teacher"),
    Rule(
        ("annotation_dir",),
        lambda r: r.annotation_parts is None,
        "the answers lie in annotation_parts",
    ),
    Rule(
        ("teacher_temperature",),
        _asks_teachers,
        "objective 'none' asks no teacher, and the tags that teachers choose do not depend on it",
    ),
    Rule(
        ("lambda_end",), lambda r: r.lambda_schedule != "constant", "lambda_schedule 'constant' stays at lambda_start"
    ),
    Rule(
        _LAMBDA,
        lambda r: r.corpus is not None and r.max_train_sentences != 0,
        "without gold tags there is nothing to weigh distillation against",
    ),
    Rule(
        ("teacher_temperature",),
        lambda r: _trains_teachers(r) or _leaves_open(r, "temperature"),
        "every teacher has a temperature of its own",
    ),
    Rule(("teacher_label_map",), lambda r: bool(r.teachers), "it is for given teachers, and the recipe gives none"),
    Rule(
        ("teacher_label_map",),
        lambda r: _leaves_open(r, "label_map"),
        "every given teacher has a label_map of its own",
    ),
    Rule(
        (
            *("teacher_model", "teacher_model_config", "teacher_head", "teacher_max_train_sentences", "teachers_dir"),
            *("teacher_num_train_epochs", "teacher_learning_rate", "teacher_crf_learning_rate"),
            "teacher_per_device_train_batch_size",
        ),
        _trains_teachers,
        "the recipe gives a teacher for every language, and none is trained",
    ),
    Rule(
        ("teacher_crf_learning_rate",),
        lambda r: r.teacher_head == "crf",
        "teacher_head 'softmax' has no transition scores",
    ),
    Rule(
        ("teacher_num_train_epochs",),
        lambda r: r.max_steps == -1,
        "max_steps says how long everything is trained",
    ),
    Rule(
        ("borrow_teachers", "teacher_confidence"),
        lambda r: bool(r.teachers),
        "it is about given teachers, and the recipe gives none",
    ),
    Rule(
        ("teacher_confidence",),
        lambda r: r.borrow_teachers or any(len(sources) > 1 for sources in _given_lists(r)),
        "no language has several teachers",
    ),
    Rule(("previous_label_map",), lambda r: r.previous is not None, "there is no previous tagger"),
    Rule(("baseline_dir",), lambda r: r.baseline, "baseline is false"),
    Rule(_HUB, lambda r: r.push_to_hub, "push_to_hub is false"),
    Rule(("vocab_size",), lambda r: SCRATCH in (r.model, r.teacher_model), "no model is 'scratch'"),
)
CONDITIONAL_FIELDS: dict[str, tuple[Rule, ...]] = {
    "distill": (*DATA, DOCUMENTS, SENTENCES, *TRAINED, *DISTILLED),
    "teacher": (
        *DATA,
        *TRAINED,
        Rule(("vocab_size",), lambda r: r.model == SCRATCH, "the model is not 'scratch'"),
    ),
    "evaluate": (
        *DATA,
        WORDS_OF_TEXTS,
        Rule(
            ("previous_revision", "previous_label_map", "congruence"),
            lambda r: r.previous is not None,
            "there is no previous tagger",
        ),
        *_limits(lambda recipe: recipe.splits),
    ),
    "calibrate": (
        *DATA,
        WORDS_OF_TEXTS,
        *_limits(lambda recipe: [recipe.split]),
    ),
}


def refuse_idle_fields(command: str) -> Callable[[Mapping[str, Any], tuple[Any, ...]], None]:
    """The check of a command for `parse_recipe`, which raises RecipeError for fields without effect.

    Args:
        command: `"distill"`, `"teacher"`, `"evaluate"` or `"calibrate"`.

    Returns:
        A function of the given fields and the dataclass instances; its error names every such field and the reason.
    """

    def check(given: Mapping[str, Any], instances: tuple[Any, ...]) -> None:
        if idle := idle_fields(command, given, instances):
            listed = "; ".join(f"{name}: {reason}" for name, reason in idle.items())
            raise RecipeError(
                f"these fields have no effect here, leave them out: {listed}. What a recipe says is set back on the "
                f"command line by {' '.join(f'--{name} null' for name in idle)}"
            )

    return check


def idle_fields(command: str, given: Mapping[str, Any], instances: Sequence[Any]) -> dict[str, str]:
    """The fields without effect among those that a recipe sets.

    Args:
        command: As for [`refuse_idle_fields`].
        given: Field name -> value, the fields that the recipe sets.
        instances: The dataclass instances with all fields.

    Returns:
        Field name -> why it has no effect.
    """
    recipe = SimpleNamespace(**{f.name: getattr(i, f.name) for i in instances for f in dataclasses.fields(i)})
    for instance in instances:
        if isinstance(instance, StructKDTrainingArguments):
            recipe.objectives = instance.objectives
    reasons = {
        name: reason for name, reason in IDLE_FIELDS[command].items() if given.get(name) not in (None, False, "none")
    }
    defaults = {f.name: f.default for i in instances for f in dataclasses.fields(i)}
    for rule in CONDITIONAL_FIELDS[command]:
        idle = [name for name in rule.fields if name in given and given[name] not in (None, defaults.get(name))]
        if idle and not rule.works(recipe):
            reasons |= {name: rule.reason for name in idle if name not in reasons}
    return reasons
