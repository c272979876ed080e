"""Which fields of recipes have no effect in a grid, at the place where they stand: they are refused by name."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hf_structkd import StructKDTrainingArguments
from hf_structkd.recipes.effects import IDLE_EVERYWHERE
from hf_structkd.recipes.fields import DataArguments
from hf_structkd.recipes.parser import RecipeError

OWN_DATA = ("max_train_sentences", "augmentation")  # of a cell; all else about corpora is the grid's
READ_WITH_CORPUS = (
    "languages",
    "tags_column",
    "tokens_column",
    "sentence_column",
    "column",
    "corpus_scheme",
    "corpus_format",
    "orphans",
)
_DATA = tuple(field.name for field in fields(DataArguments))
_TRAINING = {field.name: field.default for field in fields(StructKDTrainingArguments)}
EVERYWHERE = {
    **IDLE_EVERYWHERE,
    "unlabelled_sentences": "a grid says text_sentences where a recipe has unlabelled_sentences",
    **dict.fromkeys(("unlabelled_corpus", "sentences"), "a grid's text comes from its pool: text_sentences"),
    "glued_words": "a grid's pool keeps words alone, not their blanks",
    "seed": "a grid says seeds",
    "output_dir": "run_grid.py has an option for it",
    **dict.fromkeys(("annotation_dir", "annotation_batch_size"), "run_grid.py keeps the answers under --cache_dir"),
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_strategy", "hub_always_push"), "grids push nothing"),
    "label_examples": "cards of cells quote no data",
    "add_types": "a grid's label set is that of its corpora; plans (experiments/run_plan.py) add types",
    "trim_vocabulary": "a grid trains without the unused pieces by itself, and keeps no student",
    "annotation_context": "a grid's pool asks about each sentence alone",
    "confidence_weight": "a grid's pool keeps no entropies",
    **dict.fromkeys(
        ("hidden_first", "hidden_weight", "hidden_layer", "hidden_thaw"),
        "a grid's students learn from stored answers, and word vectors are asked for while they train",
    ),
}
OF_TEACHERS = {
    **dict.fromkeys(
        (
            *("temperature", "temperature_mode", "top_k", "lambda_schedule", "lambda_start", "lambda_end"),
            *("objective_combination", "lambda_rate", "unlabelled_rate", "augmentation", "objective"),
        ),
        "teachers are trained on gold tags alone",
    ),
    **dict.fromkeys(("labels", "max_dev_sentences", "max_test_sentences"), "these are the grid's"),
}


def refuse_idle_members(
    recipe: Mapping[str, Any], cells: Mapping[str, Mapping[str, Any]], teacher_sets: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise RecipeError, naming the place and the field, for what a grid says without effect."""
    for name, settings in (
        ("the recipe", recipe),
        *((f"cell {name!r}", settings) for name, settings in cells.items()),
    ):
        reasons = dict(EVERYWHERE)
        if name != "the recipe":
            reasons |= {
                field: "a grid's cells share their corpora; it belongs into the recipe"
                for field in _DATA
                if field not in (*OWN_DATA, *EVERYWHERE)
            }
        _refuse(name, settings, reasons)
    for name, spec in teacher_sets.items():
        reasons = EVERYWHERE | OF_TEACHERS
        if "corpus" not in spec:
            reasons |= dict.fromkeys(READ_WITH_CORPUS, "it is the grid's where the set has no corpus of its own")
        if spec.get("checkpoints") or spec.get("ensemble"):
            reasons |= dict.fromkeys(("seeds", "together", "folds"), "its teachers are not trained here")
        if spec.get("ensemble"):
            reasons |= dict.fromkeys(("label_map", "wrong_paths"), "the sets that it names say it")
        _refuse(f"teacher set {name!r}", spec, reasons)


def _refuse(place: str, settings: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    idle = [
        field
        for field in settings
        if field in reasons and settings[field] not in (None, False, "none", _TRAINING.get(field))
    ]
    if idle:
        listed = "; ".join(f"{field}: {reasons[field]}" for field in idle)
        raise RecipeError(f"{place} has fields without effect, leave them out: {listed}")
