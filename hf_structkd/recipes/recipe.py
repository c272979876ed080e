"""A recipe: the fields of a distillation run in one object, from YAML files, a command line, Python or a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from ..distillation.weighted_objectives import WeightedObjectives
from ..training.arguments import StructKDTrainingArguments
from .effects import refuse_idle_fields
from .fields import DistillationData, ModelArguments, TeacherArguments
from .folder import settings_of
from .growth import name_the_model
from .parser import RecipeError, parse_recipe, read_mapping

KINDS = (DistillationData, ModelArguments, TeacherArguments, StructKDTrainingArguments)


@dataclass
class Recipe:
    """The fields of a distillation run.

    Args:
        data: The corpora, and the sentences without gold tags.
        model: The student.
        teachers: The teachers, and the baseline.
        training: The training of the student, [`StructKDTrainingArguments`].

    Raises:
        RecipeError: If fields contradict each other.
    """

    data: DistillationData
    model: ModelArguments
    teachers: TeacherArguments
    training: StructKDTrainingArguments

    def __post_init__(self) -> None:
        self.teachers = name_the_model(self.teachers, self.model)
        given = {
            "languages": self.data.languages,
            "teachers": self.teachers.teachers,
            "unlabelled_corpus": self.data.unlabelled_corpus,
        }
        if self.data.corpus is None and not all(given.values()):
            lacking = ", ".join(name for name, value in given.items() if not value)
            raise RecipeError(
                "No value for ['corpus']: set it in the recipe, or with --corpus: files with gold tags, a Hub id, or "
                f"'demo' for the built-in corpus. To learn from teachers alone, it needs no corpus, but {lacking}"
            )
        if self.data.max_train_sentences == 0 and (self.data.unlabelled_corpus is None or not self.objectives):
            raise RecipeError(
                "max_train_sentences 0 leaves no gold tags to learn from: give at least 1, or leave it out; or an "
                "objective and an unlabelled_corpus about which the teachers answer"
            )
        if self.data.glued_words and self.data.augmentation is not None:
            raise RecipeError("augmentation rewrites words, and glued_words needs sentences that know their blanks")
        for name in ("teacher_embeddings", "teacher_layers"):
            if getattr(self.teachers, name) is not None and (self.model.model_config or {}).get("freeze_encoder"):
                raise RecipeError(f"a frozen encoder (freeze_encoder) cannot get used to {name}: leave one out")

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any]) -> Recipe:
        """Make a recipe from a mapping of field names to values.

        Raises:
            RecipeError: If a field or a value is wrong; the message names both.
        """
        return cls(*read_mapping(KINDS, fields, check=refuse_idle_fields("distill")))

    @classmethod
    def from_files(cls, *files: str | PathLike[str], **fields: Any) -> Recipe:
        """Read a recipe from YAML files.

        Args:
            files: Paths, or names of recipes that come with the package; later ones win over earlier ones.
            fields: Fields of the recipe; they win over the files.

        Raises:
            RecipeError: If a file cannot be read, or a field or a value is wrong; the message names the file, the
                field, the value and the expected type.
        """
        paths = [str(file) for file in files]
        return cls(*parse_recipe(KINDS, paths, check=refuse_idle_fields("distill"), fields=fields))

    @classmethod
    def from_command_line(cls, arguments: Sequence[str], program: str) -> Recipe:
        """Read a recipe from the arguments `[RECIPE ...] [--field value ...]`.

        Args:
            arguments: The arguments of the command.
            program: The name of the command, for usage and errors.

        Raises:
            SystemExit: With status 2 for a wrong recipe or option, which is printed; with status 0 after `--help`.
        """
        check = refuse_idle_fields("distill")
        return cls(*parse_recipe(KINDS, arguments, exit_on_error=True, check=check, program=program))

    @property
    def objectives(self) -> WeightedObjectives:
        """The objectives with their weights; empty if the student learns from gold tags alone."""
        return self.training.objectives

    @property
    def gold_only(self) -> DistillationData:
        """The data fields without sentences that lack gold tags: what teachers and baseline learn from."""
        return replace(self.data, unlabelled_sentences=None, unlabelled_corpus=None, augmentation=None, sentences=None)

    def settings(self) -> dict[str, Any]:
        """The fields that decide what a run computes, without those that say where it lies and what it logs."""
        return settings_of(self.data, self.model, self.teachers, self.training)
