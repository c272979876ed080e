"""A recipe: all that a distillation run is told, one object from YAML files, a command line, Python or a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..distillation.objectives import Chosen
from ..training.arguments import StructKDTrainingArguments
from .effects import refuse_idle_fields
from .fields import DataArguments, ModelArguments, TeacherArguments
from .folder import settings_of
from .parser import RecipeError, parse_recipe, read_mapping

KINDS = (DataArguments, ModelArguments, TeacherArguments, StructKDTrainingArguments)


@dataclass
class Recipe:
    """What a distillation run is told.

    Args:
        data: the corpora and the text.
        model: the student.
        teachers: who teaches it, and the baseline beside it.
        training: how it is trained, [`StructKDTrainingArguments`].

    Raises:
        RecipeError: if fields contradict each other.
    """

    data: DataArguments
    model: ModelArguments
    teachers: TeacherArguments
    training: StructKDTrainingArguments

    def __post_init__(self) -> None:
        if self.data.max_train_sentences == 0:
            raise RecipeError(
                "max_train_sentences 0 leaves no gold tags to learn from: give at least 1, or leave it out"
            )
        if self.teachers.teacher_embeddings is not None and (self.model.model_config or {}).get("freeze_encoder"):
            raise RecipeError("a frozen encoder (freeze_encoder) cannot get used to teacher_embeddings: leave one out")

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any]) -> Recipe:
        """A recipe out of a mapping from field to value. Raises RecipeError, naming the field and the value."""
        return cls(*read_mapping(KINDS, fields, check=refuse_idle_fields("distill")))

    @classmethod
    def from_files(cls, *files: str, **fields: Any) -> Recipe:
        """A recipe out of YAML files, or names of those that come with the package.

        Args:
            files: of several a later one wins.
            fields: these win over the files'.

        Raises:
            RecipeError: naming the file, the field, the value and the type.
        """
        return cls(*parse_recipe(KINDS, files, check=refuse_idle_fields("distill"), fields=fields))

    @classmethod
    def from_command_line(cls, arguments: Sequence[str], program: str) -> Recipe:
        """A recipe out of `[RECIPE ...] [--field value ...]`; a wrong one ends the program with status 2."""
        told = parse_recipe(KINDS, arguments, exit_on_error=True, check=refuse_idle_fields("distill"), program=program)
        return cls(*told)

    @property
    def objectives(self) -> Chosen:
        """The objectives with their weights; empty where the student learns from gold tags alone."""
        return self.training.objectives

    @property
    def gold_only(self) -> DataArguments:
        """The data without unlabelled sentences: what teachers and baseline see, with such sentences and without."""
        return replace(self.data, unlabelled_sentences=None, unlabelled_corpus=None, augmentation=None)

    def settings(self) -> dict[str, Any]:
        """The fields that make a run what it is."""
        return settings_of(self.data, self.model, self.teachers, self.training)
