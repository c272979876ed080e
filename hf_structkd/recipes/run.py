"""A distillation run: corpora and teachers in, one multilingual tagger out.

    DistillationRun.from_recipe("recipe.yaml", output_dir="runs/first").run()

`DistillationRun.run` is the whole story. Each step can be called by itself too, in a notebook for instance: it does
first what it builds on, returns what it made, and is not done twice. What a step leaves in `output_dir` is found there
by the next run, which goes on where the last one stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from ..data.augmentation import augment
from ..data.unlabelled import mix_unlabelled
from ..distillation.objectives import annotation_temperatures, needed_columns
from ..evaluation.compare import compare
from ..evaluation.report import ComparisonReport
from ..evaluation.results import RunResults, write_results
from ..files import write_atomically
from ..hub.describe import describe_student
from ..settings import dump_settings
from ..teachers.annotate import annotate
from ..teachers.checkpoint import Teacher
from ..teachers.panel import Panel
from ..training.arguments import StructKDTrainingArguments
from ..training.card import examples_of, gold_by_language, objective_name, sentences_by_language
from ..training.teacher_embeddings import embed_from_teachers
from .data import RunData, first, read_run_data
from .fields import DataArguments
from .folder import (
    RECORDED,
    SETTINGS_FILE,
    holds_work,
    provenance,
    refuse_other_settings,
    replace_output,
    settings_of,
    train_into,
    train_tagger,
    training_record,
)
from .models import check_head, check_model, encoder_of, make_tagger, make_tokenizer, model_arguments_of_teacher
from .parser import RecipeError
from .progress import announce, show
from .publishing import describe, push_student, student_repository
from .recipe import Recipe
from .teachers import calibrate_teachers, given_teachers, trained_teacher

BASELINE = "baseline"  # the row of the student that learns from gold tags alone


class DistillationRun:
    """A recipe, carried out step by step.

    Args:
        recipe: what is to be done.

    Raises:
        RecipeError: if `output_dir` holds another run, or something else; it says what differs.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.output = recipe, Path(recipe.training.output_dir or ".")
        self.name = objective_name(recipe.training.objective)  # the student's row in tables
        self.folders: dict[str, Path] = {}
        self.seconds: dict[str, float] = {"teachers": 0.0}
        file = self.output / SETTINGS_FILE
        stored = file.exists() and holds_work(self.output)  # what failed before it began is forgotten
        self._stored: dict[str, Any] | None = json.loads(file.read_text()) if stored else None
        if self._stored is not None:
            # What the run was made of is compared once the corpora are read.
            told = {name: value for name, value in self._stored.items() if name not in RECORDED}
            refuse_other_settings(self.output, told, recipe.settings())
        elif not file.exists() and self.output.exists() and any(self.output.iterdir()):
            raise RecipeError(f"{self.output} is not empty and holds no run of a recipe; choose another output_dir")

    @classmethod
    def from_recipe(cls, *files: str, **fields: Any) -> DistillationRun:
        """A run of recipe files (or names of those that come with the package); fields win over files."""
        return cls(Recipe.from_files(*files, **fields))

    def run(self) -> RunResults | None:
        """Every step in order; the results, on the main process of several."""
        self.corpora()
        self.teachers()
        self.baseline()
        self.annotate()
        self.student()
        return self.report()

    # ---- the steps ----

    def corpora(self) -> dict[str, DatasetDict]:
        """language -> the splits that the student learns from and is scored on; the models are checked too."""
        return self._data.corpora

    def teachers(self) -> Mapping[str, Panel]:
        """language -> its teachers: those that the recipe gives, the others trained; calibrated if it asks so."""
        return self._teachers

    def baseline(self) -> Path | None:
        """The folder of the student that learns from gold tags alone; `None` where the recipe wants none."""
        return self._baseline

    def annotate(self) -> Dataset:
        """The student's training sentences, those without gold tags among them, with the teachers' answers."""
        return self._annotated

    def student(self) -> Path:
        """The folder of the student."""
        return self._student

    def report(self) -> RunResults | None:
        """Score teachers, baseline and student on dev and test, and write results.json, the table and the card."""
        self.baseline(), self.student()
        if not self.recipe.training.should_save:
            return None
        announce("Scores")
        args, data = self.recipe.training, self._data
        student = Teacher.from_pretrained(str(self.folders[self.name]), device=args.device)
        rows: dict[str, Any] = {"teachers": self.teachers()}
        if (baseline := self.baseline()) is not None:
            rows[BASELINE] = Teacher.from_pretrained(str(baseline), device=args.device)
        rows[self.name] = student
        scores, tables = compare(rows, data.corpora, data.labels, ("dev", "test"), scheme=self.recipe.data.tag_scheme)
        results = self._results(student, scores, tables)
        results_file = write_results(results, self.output)
        write_atomically(self.output / "table.md", tables["test"].to_markdown() + "\n")
        show(tables["test"].to_text())
        self._show_examples(student)
        describe_student(self.folders[self.name], results)
        self._show_places(results_file)
        return results

    # ---- what the steps make, once ----

    @cached_property
    def _data(self) -> RunData:
        recipe, args = self.recipe, self.recipe.training
        if args.push_to_hub and args.should_save:
            # A wrong token is told now, hours before anything is pushed.
            args.hub_model_id = student_repository(args)
        announce("Corpora")
        data = read_run_data(recipe)
        show(data.sizes())
        check_model(recipe.model)
        check_head(recipe.model.head, args)
        if recipe.teachers.teacher_model:
            check_model(model_arguments_of_teacher(recipe.teachers, recipe.model))
        return data

    @cached_property
    def _teachers(self) -> dict[str, Panel]:
        recipe, data = self.recipe, self._data
        panels = given_teachers(list(data.corpora), data.labels, recipe)
        self._keep_settings()
        for language, splits in data.whole.items():
            if language not in panels:
                train = first(splits["train"], recipe.teachers.teacher_max_train_sentences)
                panels[language], seconds = trained_teacher(language, train, splits["dev"], data.labels, recipe)
                self.seconds["teachers"] += seconds
        if recipe.objectives:
            calibrate_teachers(panels, data.corpora, data.labels, recipe.teachers)
        return panels

    @cached_property
    def _baseline(self) -> Path | None:
        if not self.recipe.teachers.baseline:
            return None
        self.teachers()
        folder = Path(self.recipe.teachers.baseline_dir or self.output / BASELINE)
        args = replace_output(self.recipe.training, folder, objective="none", unlabelled_rate=None)
        settings = self._settings_of_student(self.recipe.gold_only, args, unlabelled=False)
        self._train(BASELINE, folder, settings, args, self._data.train, "Baseline, the student on gold tags alone")
        return folder

    @cached_property
    def _annotated(self) -> Dataset:
        recipe, args, teachers = self.recipe, self.recipe.training, self.teachers()
        sentences = self._training_sentences()
        if not recipe.objectives:
            return sentences
        announce(f"Teachers are asked about {len(sentences):,} sentences")
        started = time.perf_counter()
        annotated = annotate(
            sentences,
            teachers,
            label_names=self._data.labels,
            targets=needed_columns(recipe.objectives),
            top_k=args.top_k,
            temperature=annotation_temperatures(recipe.objectives),
            batch_size=args.annotation_batch_size,
            output_dir=args.annotation_dir or self.output / "annotations",
            progress=not args.disable_tqdm,
        )
        self.seconds["annotation"] = time.perf_counter() - started
        return annotated

    @cached_property
    def _student(self) -> Path:
        annotated, teachers = self.annotate(), self.teachers()
        folder, share = self.output / "student", self.recipe.teachers.teacher_embeddings
        args = replace_output(self.recipe.training, folder, push_to_hub=self.recipe.training.push_to_hub)
        settings = self._settings_of_student(self.recipe.data, args, unlabelled=True) | {
            "teacher_embeddings": share,
            "teachers": {language: panel.record() for language, panel in teachers.items()},
            "readings": {language: panel.settings() for language, panel in teachers.items() if any(panel.settings())}
            or None,
        }
        self._train(self.name, folder, settings, args, annotated, f"Student, {self.name}", share)
        return folder

    # ---- parts of steps ----

    def _keep_settings(self) -> None:
        """Leave in the output folder what the run is made of. Raises RecipeError if it was made of something else."""
        recipe, data = self.recipe, self._data
        everything = data.parts("train", "dev", "test", unlabelled=True)
        made = provenance(everything, data.labels, encoder_of(recipe.model), recipe.model.revision)
        settings = recipe.settings() | made
        if self._stored is not None:
            refuse_other_settings(self.output, self._stored, settings)
        if recipe.training.should_save:
            self.output.mkdir(parents=True, exist_ok=True)
            write_atomically(self.output / SETTINGS_FILE, json.dumps(settings, indent=2))

    def _settings_of_student(
        self, data_args: DataArguments, args: StructKDTrainingArguments, unlabelled: bool
    ) -> dict[str, Any]:
        data, model = self._data, self.recipe.model
        learnt_from = data.parts("train", "dev", unlabelled=unlabelled)
        return settings_of(data_args, model, args) | provenance(
            learnt_from, data.labels, encoder_of(model), model.revision
        )

    def _training_sentences(self) -> Dataset:
        """What the student learns from: gold, sentences without gold tags, and rewritten ones."""
        recipe, data = self.recipe, self._data
        gold = data.train
        sentences = mix_unlabelled(gold, list(data.unlabelled.values())) if data.unlabelled else gold
        if recipe.data.augmentation is None:
            return sentences
        tokenizer = make_tokenizer(recipe.model, lambda: list(gold["tokens"]))
        rewritten = augment(sentences, recipe.data.augmentation, tokenizer, recipe.training.seed)
        show(f"{len(rewritten):,} sentences rewritten for the teachers to answer")
        return mix_unlabelled(sentences, rewritten)

    def _train(
        self,
        row: str,
        folder: Path,
        settings: Mapping[str, Any],
        args: StructKDTrainingArguments,
        sentences: Dataset,
        title: str,
        teacher_share: float | None = None,
    ) -> None:
        """Train a student into a folder, unless it is there."""
        data, recipe = self._data, self.recipe

        def fit(ready: StructKDTrainingArguments) -> Any:
            model, tokenizer = make_tagger(
                recipe.model, data.labels, recipe.data.tag_scheme, lambda: list(data.train["tokens"])
            )
            if teacher_share is not None:
                embed_from_teachers(model, tokenizer, self.teachers(), teacher_share)
            return train_tagger(model, tokenizer, sentences, data.dev, ready, title=title)

        self.folders[row] = folder
        self.seconds[row] = train_into(folder, settings, args, fit, title)

    def _results(self, student: Teacher, scores: dict[str, Any], tables: Mapping[str, ComparisonReport]) -> RunResults:
        recipe, args, data, annotated = self.recipe, self.recipe.training, self._data, self.annotate()
        results = RunResults(
            settings=dump_settings(recipe.data, recipe.model, recipe.teachers, args),
            scores=scores,
            comparison={split: table.to_dict() for split, table in tables.items()},
            seed=args.seed,
            train_sentences=sentences_by_language(annotated),
            gold_sentences=gold_by_language(annotated),
            seconds=self.seconds,
            **training_record(self.folders[self.name]),
        )
        examples = examples_of(data.train, data.labels) if args.label_examples else {}
        return describe(results, student, recipe.data, recipe.model, recipe.teachers, self.teachers(), args, examples)

    def _show_examples(self, student: Teacher, count: int = 1) -> None:
        """Tag a few test sentences and print them, tags behind the words."""
        announce("The student at work")
        for language, splits in self._data.corpora.items():
            sentences = list(first(splits["test"], count)["tokens"])
            for words, tags in zip(sentences, student.tag(sentences)):
                show(f"[{language}] " + " ".join(w if tag == "O" else f"{w}/{tag}" for w, tag in zip(words, tags)))

    def _show_places(self, results_file: Path) -> None:
        announce("Where everything is")
        show(f"student   {self.folders[self.name]}  (README.md is its card)")
        for language, panel in self.teachers().items():
            show(f"teacher   {language}: {panel.name}")
        show(f"scores    {results_file}\ntable     {self.output / 'table.md'}")
        if self.recipe.training.push_to_hub:
            show(f"pushed    {push_student(self.folders[self.name], self.recipe.training)}")


def main(arguments: Sequence[str], program: str) -> None:
    """`structkd distill`: the run of a recipe."""
    DistillationRun(Recipe.from_command_line(arguments, program)).run()


def annotate_only(arguments: Sequence[str], program: str) -> None:
    """`structkd annotate`: the run of a recipe up to the teachers' answers, which stay in a folder."""
    run = DistillationRun(Recipe.from_command_line(arguments, program))
    if not run.recipe.objectives:
        raise RecipeError("objective 'none' asks no teacher: there is nothing to annotate")
    annotated = run.annotate()
    folder = run.recipe.training.annotation_dir or run.output / "annotations"
    show(f"{len(annotated):,} sentences with {', '.join(needed_columns(run.recipe.objectives))}: {folder}")
