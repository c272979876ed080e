"""A distillation run: corpora and teachers in, one multilingual tagger out.

    DistillationRun.from_recipe("recipe.yaml", output_dir="runs/first").run()

[`DistillationRun.run`] tells the whole story. Each step can also be called by itself, for instance in a notebook: it
first carries out the steps that it builds on, and a second call returns the result of the first. A later run finds in
`output_dir` what the steps left there, and continues where the last run stopped.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, wraps
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset, DatasetDict

from ..data.augmentation import augment
from ..data.unlabelled import mix_unlabelled
from ..distillation.weighted_objectives import annotation_temperatures
from ..evaluation.compare import compare
from ..evaluation.report import AGREEMENT, AGREEMENT_SPLIT, BASELINE, TEACHERS, ComparisonReport
from ..evaluation.results import RunResults, write_results
from ..files import write_atomically
from ..hub.describe import describe_student
from ..modeling.glued_words import sentences_of
from ..modeling.tag_scheme import TagScheme
from ..settings import dump_settings
from ..teachers.annotate import annotate
from ..teachers.checkpoint import Teacher
from ..teachers.panel import Panel
from ..teachers.parts import annotate_part, answers_in_parts
from ..training.arguments import StructKDTrainingArguments
from ..training.card import examples_of, gold_by_language, objective_name, sentences_by_language
from ..training.hidden_states import check_hidden_layer
from ..training.teacher_embeddings import embed_from_teachers
from ..training.teacher_weights import checkpoint_teachers, start_from_teachers
from .borrowed import borrow
from .data import RunData, first_sentences, read_run_data, sample_texts
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
    warn_of_unlearnt_types,
)
from .models import (
    check_head,
    check_model,
    encoder_of,
    make_tagger,
    make_tokenizer,
    model_arguments_of_teacher,
    trim_tagger,
)
from .parser import RecipeError
from .previous import PREVIOUS, CachedTagger, Flips, check_previous, flips_by_split, flips_text
from .progress import announce, show
from .publishing import complete_results, push_student, student_repository
from .recipe import Recipe
from .teachers import (
    calibrate_teachers,
    check_teachers,
    given_teachers,
    previous_tagger,
    trained_teacher,
    unknown_types_remark,
)

Result = TypeVar("Result")


def step(method: Callable[[Any], Result]) -> Callable[[Any], Result]:
    """Make a method a step of a run: it is carried out once, and later calls return its result."""

    @wraps(method)
    def cached_step(run: DistillationRun) -> Result:
        if method.__name__ not in run.step_results:
            run.step_results[method.__name__] = method(run)
        return run.step_results[method.__name__]

    return cached_step


class DistillationRun:
    """A recipe, carried out step by step.

    Args:
        recipe: The fields of the run.

    Attributes:
        output: The folder of the run, `output_dir`.
        name: The student's row in tables, made of its objectives (`"posterior+top_wk"`).
        folders: Table row -> folder of the finished model.
        seconds: Phase (`"teachers"`, `"annotation"`, or a table row) -> wall-clock seconds.
        step_results: Step -> what it returned.

    Raises:
        RecipeError: If `output_dir` holds another run, or something else; the message names the differences.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.output = recipe, Path(recipe.training.output_dir or ".")
        self.name = objective_name(recipe.training.objective)
        self.step_results: dict[str, Any] = {}
        self.folders: dict[str, Path] = {}
        self.seconds: dict[str, float] = {TEACHERS: 0.0}
        self._given: dict[str, Panel] | None = None
        file = self.output / SETTINGS_FILE
        stored = file.exists() and holds_work(self.output)  # what failed before it began is forgotten
        self._stored: dict[str, Any] | None = json.loads(file.read_text()) if stored else None
        if self._stored is not None:
            # What the run was made of is compared once the corpora are read.
            fields = {name: value for name, value in self._stored.items() if name not in RECORDED}
            refuse_other_settings(self.output, fields, recipe.settings())
        elif not file.exists() and self.output.exists() and any(self.output.iterdir()):
            raise RecipeError(f"{self.output} is not empty and holds no run of a recipe; choose another output_dir")

    @classmethod
    def from_recipe(cls, *files: str | PathLike[str], **fields: Any) -> DistillationRun:
        """A run of a recipe.

        Args:
            files: Recipe files, or names of recipes that come with the package; later ones win.
            fields: Fields of the recipe; they win over the files.

        Raises:
            RecipeError: As [`Recipe.from_files`] and [`DistillationRun`].
        """
        return cls(Recipe.from_files(*files, **fields))

    def run(self) -> RunResults | None:
        """Carry out all steps in order.

        Returns:
            The results of [`report`]; `None` on all processes but the main one.
        """
        self.corpora()
        self.teachers()
        self.baseline()
        self.annotate()
        self.student()
        return self.report()

    @property
    def annotation_folder(self) -> Path:
        """Where the teachers' answers are stored."""
        return Path(self.recipe.training.annotation_dir or self.output / "annotations")

    # ---- the steps ----

    @step
    def corpora(self) -> dict[str, DatasetDict]:
        """Read the corpora and check the models that the recipe names.

        Returns:
            Language -> the splits that the student learns from and is scored on.
        """
        return self.data.corpora

    @step
    def teachers(self) -> dict[str, Panel]:
        """Load the teachers that the recipe gives, train the others, and calibrate those that the recipe says.

        Returns:
            Language -> its teachers.
        """
        recipe, data = self.recipe, self.data
        panels = self._given_teachers(sample_texts(data.whole, data.unlabelled))
        check_teachers(panels, data.labels, recipe)
        self._check_checkpoints(panels)
        _ = self.previous  # an error, if it cannot be compared
        self._record_settings()
        for language, splits in data.whole.items():
            if language not in panels:
                if not len(splits["train"]):
                    raise RecipeError(f"no teacher can be trained for {language}, which has no train corpus")
                train = first_sentences(splits["train"], recipe.teachers.teacher_max_train_sentences)
                panels[language], seconds = trained_teacher(language, train, splits["dev"], data.labels, recipe)
                self.seconds[TEACHERS] += seconds
        if recipe.objectives:
            calibrate_teachers(panels, data.corpora, data.labels, recipe.teachers, data.agreement)
        return panels

    @step
    def baseline(self) -> Path | None:
        """Train the baseline: the same student, which learns from gold tags alone.

        Returns:
            The folder of the model; `None` if the recipe has no baseline, or no gold tags to learn from.
        """
        if not self.recipe.teachers.baseline:
            return None
        if not len(self.data.train):
            show("There are no gold tags for a baseline to learn from.")
            return None
        self.teachers()
        folder = Path(self.recipe.teachers.baseline_dir or self.output / BASELINE)
        args = replace_output(self.recipe.training, folder, objective="none", unlabelled_rate=None)
        settings = self._student_settings(self.recipe.gold_only, args, unlabelled=False)
        self._train(BASELINE, folder, settings, args, self.data.train, "Baseline, the student on gold tags alone")
        return folder

    @step
    def annotate(self) -> Dataset:
        """Ask the teachers about every sentence that the student learns from, and store their answers.

        Returns:
            The student's training sentences, those without gold tags included, with the teachers' answers.
        """
        recipe, args, teachers = self.recipe, self.recipe.training, self.teachers()
        sentences = self._training_sentences()
        if not recipe.objectives:
            return sentences
        started = time.perf_counter()
        if recipe.teachers.annotation_parts is not None:
            announce(f"Teachers' answers are read from {recipe.teachers.annotation_parts}")
            annotated = answers_in_parts(recipe.teachers.annotation_parts, sentences, teachers, **self._question())
        else:
            announce(f"Teachers are asked about {len(sentences):,} sentences")
            progress = not args.disable_tqdm
            annotated = annotate(
                sentences, teachers, output_dir=self.annotation_folder, progress=progress, **self._question()
            )
        self.seconds["annotation"] = time.perf_counter() - started
        return annotated

    def annotate_part(self, part: int, num_parts: int) -> str:
        """Ask the teachers about one part of the sentences and store it at `annotation_parts`.

        Args:
            part: The number of the part, from 0.
            num_parts: How many parts there are.

        Returns:
            The address of the part.

        Raises:
            RecipeError: If the recipe has no `annotation_parts`.
        """
        recipe = self.recipe
        address = recipe.teachers.annotation_parts
        if address is None:
            raise RecipeError(
                "a part needs annotation_parts, the place from which `structkd distill` reads all of them"
            )
        teachers, sentences = self.teachers(), self._training_sentences()
        progress = not recipe.training.disable_tqdm
        return annotate_part(
            sentences, teachers, address, part=part, num_parts=num_parts, progress=progress, **self._question()
        )

    @step
    def student(self) -> Path:
        """Train the student on gold tags and the teachers' answers.

        Returns:
            The folder of the model.
        """
        annotated, teachers = self.annotate(), self.teachers()
        folder, teacher_share = self.output / "student", self.recipe.teachers.teacher_embeddings
        args = replace_output(self.recipe.training, folder, push_to_hub=self.recipe.training.push_to_hub)
        settings = self._student_settings(self.recipe.data, args, unlabelled=True) | {
            "teacher_embeddings": teacher_share,
            "teacher_layers": self.recipe.teachers.teacher_layers,
            "teachers": {language: panel.record() for language, panel in teachers.items()},
            "readings": {language: panel.settings() for language, panel in teachers.items() if any(panel.settings())}
            or None,
        }
        self._train(self.name, folder, settings, args, annotated, f"Student, {self.name}", for_student=True)
        return folder

    @step
    def report(self) -> RunResults | None:
        """Score teachers, baseline and student on dev and test; write results.json, the table and the card.

        Returns:
            The results; `None` on all processes but the main one.
        """
        baseline, student_folder = self.baseline(), self.student()
        args = self.recipe.training
        if not args.should_save:
            return None
        announce("Scores")
        student = Teacher.from_pretrained(str(student_folder), device=args.device)
        rows: dict[str, Any] = {TEACHERS: self.teachers()}
        if baseline is not None:
            rows[BASELINE] = CachedTagger(Teacher.from_pretrained(str(baseline), device=args.device))
        rows[self.name] = CachedTagger(student)
        if self.previous is not None:
            rows = {PREVIOUS: self.previous, **rows}
        scores, tables = self._compare(rows)
        flips = self._flips(rows) if self.previous is not None else {}
        results = replace(self._results(student, scores, tables), flips=flips)
        results_file = write_results(results, self.output)
        self._show_scores(tables, flips)
        for row, folder in self.folders.items():
            warn_of_unlearnt_types(row, [split[row] for split in scores.values() if row in split], folder, args)
        self._show_examples(student)
        describe_student(student_folder, results)
        self._show_locations(results_file)
        if args.push_to_hub:
            show(f"pushed    {push_student(student_folder, args)}")
        return results

    # ---- parts of the steps ----

    def _given_teachers(self, texts: Mapping[str, Sequence[list[str]]]) -> dict[str, Panel]:
        """The teachers that the recipe gives, loaded once; `texts` has sentences of every language."""
        if self._given is None:
            self._given = given_teachers(list(texts), self.recipe)
            if self.recipe.teachers.borrow_teachers:
                self._given = borrow(self._given, list(texts), texts, self.recipe)
        return dict(self._given)

    def _flips(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """What changes against the previous tagger, on test, or on dev without a test split."""
        labels, gold = self.data.labels, self._gold()
        split = "test" if any("test" in parts for parts in gold.values()) else "dev"
        taggers = {row: tagger for row, tagger in rows.items() if row != TEACHERS}
        scheme = TagScheme(labels, self.recipe.data.tag_scheme).name
        return flips_by_split(taggers, rows[PREVIOUS], gold, labels, [split], scheme)

    def _gold(self) -> dict[str, Any]:
        """Language -> the splits that have gold tags to score against."""
        data = self.data
        return {
            language: {split: part for split, part in splits.items() if (split, language) not in data.without_gold}
            for language, splits in data.corpora.items()
        }

    def _check_checkpoints(self, panels: Mapping[str, Panel]) -> None:
        """Raise RecipeError, before any training, if fields need weights or vectors that a teacher lacks."""
        args = self.recipe.training
        try:
            if args.learns_hidden_states:
                check_hidden_layer(panels, args.hidden_layer)
            if self.recipe.teachers.teacher_layers is not None:
                checkpoint_teachers(panels, "weights to start from (teacher_layers)")
        except (TypeError, ValueError) as error:
            raise RecipeError(str(error)) from error

    def _compare(self, rows: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, ComparisonReport]]:
        """Scores against gold tags, on dev and test; and agreement with the teachers, where dev has no gold tags."""
        data, scheme = self.data, self.recipe.data.tag_scheme
        scores, tables = compare(rows, self._gold(), data.labels, ("dev", "test"), scheme=scheme)
        for split, table in tables.items():
            remark = unknown_types_remark(self.teachers(), data.labels, scores[split].get(TEACHERS, {}))
            table.remarks += [remark] if remark is not None else []
        students = {row: tagger for row, tagger in rows.items() if row != TEACHERS}
        held_out = {language: {AGREEMENT_SPLIT: data.corpora[language]["dev"]} for language in data.agreement}
        agreement, agreement_tables = compare(students, held_out, data.labels, [AGREEMENT_SPLIT], scheme=scheme)
        for table in agreement_tables.values():
            table.split = AGREEMENT
        return scores | agreement, tables | agreement_tables

    @cached_property
    def previous(self) -> CachedTagger | None:
        """The tagger that the student replaces, if the recipe names one."""
        tagger, labels = previous_tagger(self.recipe), self.data.labels
        if tagger is None:
            return None
        if not any({"dev", "test"} & parts.keys() for parts in self._gold().values()):
            raise RecipeError("previous is compared with the student on gold tags: give a dev or a test corpus")
        name = str(self.recipe.teachers.previous)
        return CachedTagger(tagger, check_previous(tagger, name, labels, self.recipe.data.tag_scheme))

    @cached_property
    def data(self) -> RunData:
        """Everything that the run reads: the corpora, the text without tags, and the label set."""
        recipe, args = self.recipe, self.recipe.training
        if args.push_to_hub and args.should_save:
            # A wrong token is an error now, not after hours of training.
            args.hub_model_id = student_repository(args)
        announce("Corpora")
        data = read_run_data(recipe, self._given_teachers)
        show(data.sizes())
        check_model(recipe.model)
        check_head(recipe.model.head, args)
        if recipe.teachers.teacher_model:
            check_model(model_arguments_of_teacher(recipe.teachers, recipe.model))
        return data

    def _record_settings(self) -> None:
        """Write into the output folder what the run is made of. Raises RecipeError if it holds another run."""
        recipe, data = self.recipe, self.data
        sentences = data.parts("train", "dev", "test", unlabelled=True)
        settings = recipe.settings() | provenance(
            sentences, data.labels, encoder_of(recipe.model), recipe.model.revision
        )
        if self._stored is not None:
            refuse_other_settings(self.output, self._stored, settings)
        if recipe.training.should_save:
            self.output.mkdir(parents=True, exist_ok=True)
            write_atomically(self.output / SETTINGS_FILE, json.dumps(settings, indent=2))

    def _student_settings(
        self, data_args: DataArguments, args: StructKDTrainingArguments, unlabelled: bool
    ) -> dict[str, Any]:
        data, model = self.data, self.recipe.model
        sentences = data.parts("train", "dev", unlabelled=unlabelled)
        return settings_of(data_args, model, args) | provenance(
            sentences, data.labels, encoder_of(model), model.revision
        )

    def _question(self) -> dict[str, Any]:
        """What the teachers are asked for: arguments of [`annotate`]."""
        args, objectives = self.recipe.training, self.recipe.objectives
        return {
            "label_names": self.data.labels,
            "targets": args.needed_columns,
            "top_k": args.top_k,
            "temperature": annotation_temperatures(objectives),
            "batch_size": args.annotation_batch_size,
            "context": args.annotation_context,
        }

    def _training_sentences(self) -> Dataset:
        """What the student learns from: sentences with gold tags, sentences without, and rewritten ones."""
        recipe, data = self.recipe, self.data
        gold = data.train
        sentences = mix_unlabelled(gold, list(data.unlabelled.values())) if data.unlabelled else gold
        if recipe.data.augmentation is None:
            return sentences
        tokenizer = make_tokenizer(recipe.model, data.words)
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
        for_student: bool = False,
    ) -> None:
        """Train a student into a folder, unless the finished model is there already.

        The baseline learns nothing from teachers: its weights are its own.
        """
        data, recipe = self.data, self.recipe
        start_from = recipe.teachers.teacher_layers if for_student else None
        teacher_share = recipe.teachers.teacher_embeddings if for_student else None

        def fit(training_args: StructKDTrainingArguments) -> Any:
            model, tokenizer = make_tagger(
                recipe.model,
                data.labels,
                recipe.data.tag_scheme,
                data.words,
                recipe.data.words,
                [sentences],
                recipe.data.glued_words,
            )
            model, tokenizer = trim_tagger(model, tokenizer, recipe.model, sentences, data.dev)
            if start_from is not None:
                try:
                    start_from_teachers(model, tokenizer, self.teachers(), start_from)
                except (TypeError, ValueError) as error:
                    raise RecipeError(f"teacher_layers: {error}") from error
            if teacher_share is not None:
                embed_from_teachers(model, tokenizer, self.teachers(), teacher_share)
            teachers = self.teachers() if training_args.learns_hidden_states else None
            return train_tagger(model, tokenizer, sentences, data.dev, training_args, teachers, title=title)

        self.folders[row] = folder
        self.seconds[row] = train_into(folder, settings, args, fit, title)

    def _results(self, student: Teacher, scores: dict[str, Any], tables: Mapping[str, ComparisonReport]) -> RunResults:
        recipe, args, data, annotated = self.recipe, self.recipe.training, self.data, self.annotate()
        results = RunResults(
            settings=dump_settings(recipe.data, recipe.model, recipe.teachers, args),
            scores=scores,
            comparison={split: table.to_dict() for split, table in tables.items()},
            seed=args.seed,
            train_sentences=sentences_by_language(annotated),
            gold_sentences=gold_by_language(annotated),
            word_agreement={language: agreement.summary() for language, agreement in data.word_agreement.items()},
            seconds=self.seconds,
            **training_record(self.folders[self.name]),
        )
        examples = examples_of(data.train, data.labels) if args.label_examples else {}
        return complete_results(
            results,
            student,
            recipe.data,
            recipe.model,
            recipe.teachers,
            self.teachers(),
            args,
            examples,
            self._gold(),
        )

    def _show_scores(self, tables: Mapping[str, ComparisonReport], flips: Mapping[str, Flips]) -> None:
        """Print the tables of test (else of dev) and what changes against the previous tagger; write table.md."""
        shown = [tables[split] for split in ("test", AGREEMENT_SPLIT) if split in tables] or [tables["dev"]]
        changes = [flips_text(by_row, split) for split, by_row in flips.items()]
        markdown = "\n\n".join([table.to_markdown() for table in shown] + changes)
        write_atomically(self.output / "table.md", markdown + "\n")
        show("\n\n".join([table.to_text() for table in shown] + changes))

    def _show_examples(self, student: Teacher, count: int = 1) -> None:
        """Print the first test sentences with entities of each language, the student's tags behind the words."""
        announce("The student at work")
        for language, splits in self.data.corpora.items():
            shown = splits.get("test") or splits["dev"]
            tagged = first_sentences(shown, 200)["tags"]  # a sentence without entities shows nothing
            rows = [row for row, tags in enumerate(tagged) if any(tag != "O" for tag in tags or ())]
            sentences = sentences_of(shown.select((rows or range(len(tagged)))[:count]))
            for words, tags in zip(sentences, student.tag(sentences)):
                show(f"[{language}] " + " ".join(w if tag == "O" else f"{w}/{tag}" for w, tag in zip(words, tags)))

    def _show_locations(self, results_file: Path) -> None:
        announce("Where everything is")
        show(f"student   {self.folders[self.name]}  (README.md is its card)")
        for language, panel in self.teachers().items():
            show(f"teacher   {language}: {panel.name}")
        show(f"scores    {results_file}\ntable     {self.output / 'table.md'}")


def main(arguments: Sequence[str], program: str) -> None:
    """`structkd distill`: carry out a recipe."""
    DistillationRun(Recipe.from_command_line(arguments, program)).run()


def annotate_only(arguments: Sequence[str], program: str) -> None:
    """`structkd annotate`: carry out a recipe up to the teachers' answers, which stay in a folder, or in parts."""
    arguments, part = take_part(arguments)
    run = DistillationRun(Recipe.from_command_line(arguments, program))
    if not run.recipe.objectives:
        raise RecipeError("objective 'none' asks no teacher: there is nothing to annotate")
    if part is not None:
        try:
            show(run.annotate_part(*part))
        except ValueError as error:
            raise RecipeError(str(error)) from error
        return
    if run.recipe.teachers.annotation_parts is not None:
        raise RecipeError("annotation_parts is written part by part: say which one, with --part I/N")
    annotated = run.annotate()
    columns = ", ".join(run.recipe.training.needed_columns)
    show(f"{len(annotated):,} sentences with {columns}: {run.annotation_folder}")


def take_part(arguments: Sequence[str]) -> tuple[list[str], tuple[int, int] | None]:
    """Take the option `--part I/N` out of the arguments of a command.

    Raises:
        RecipeError: If its value is no part.
    """
    rest, part = [], None
    given = iter(arguments)
    for argument in given:
        name, equals, value = argument.partition("=")
        if name != "--part":
            rest.append(argument)
            continue
        if part is not None:
            raise RecipeError("--part is given twice: a command asks about one part")
        value = value if equals else next(given, "")
        match = re.fullmatch(r"(\d+)/(\d+)", value)
        if match is None or int(match[1]) >= int(match[2]):
            raise RecipeError(f"--part wants I/N, part I of N parts, I from 0 to N - 1, not {value!r}")
        part = int(match[1]), int(match[2])
    return rest, part
