"""The teachers of a grid: trained once, asked once, whatever the number of cells and grids that use them."""

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets
from transformers import TrainingArguments

from hf_structkd import StructKDTrainingArguments, Teacher, annotate
from hf_structkd.data.columns import (
    EDGE_COUNTS,
    EMISSIONS,
    MARGINALS,
    START_END,
    TARGET_COLUMNS,
    TOPK_LOG_PROBS,
    TOPK_TAGS,
    TRANSITIONS,
)
from hf_structkd.data.words import encode_corpus
from hf_structkd.distillation.weighted_objectives import annotation_temperatures
from hf_structkd.modeling.crf_reference import Scores
from hf_structkd.modeling.tag_scheme import infer_scheme
from hf_structkd.recipes.data import load_data
from hf_structkd.recipes.fields import DataArguments, ModelArguments
from hf_structkd.recipes.folder import SETTINGS_FILE, settings_of, train_into
from hf_structkd.recipes.models import make_tagger
from hf_structkd.recipes.parser import read_mapping
from hf_structkd.teachers.annotate import corpus_fingerprint
from hf_structkd.teachers.base import TeacherScores
from hf_structkd.teachers.panel import Panel
from hf_structkd.training.provenance import content_key, data_fingerprint, digest
from hf_structkd.training.teacher_embeddings import View, teacher_views

from .grid import Cell, Grid, GridError, TeacherSet
from .grid_corpora import GridCorpora
from .shared_work import Job, do_shared
from .trimming import train_trimmed

# Asked for all at once, where a teacher can give them: a cell added later finds its answers there.
ALL_TARGETS = (TOPK_TAGS, TOPK_LOG_PROBS, MARGINALS, EDGE_COUNTS, EMISSIONS, TRANSITIONS, START_END)
# Fields beside those of transformers that bear on a training on gold tags alone.
GOLD_FIELDS = ("crf_learning_rate", "normalization", "language_sampling_temperature")
# Say nothing about what a training gives.
UNIMPORTANT = ("save_only_model", "save_total_limit", "use_cpu")
Temperatures = tuple[tuple[str, float], ...]  # of the columns of answers that are not asked for at 1


class TeacherSets:
    """The teachers of a grid and what they answer.

    Args:
        grid: the grid.
        corpora: its corpora.
        cache: folder for teachers and their answers, shared by grids.
    """

    def __init__(self, grid: Grid, corpora: GridCorpora, cache: Path) -> None:
        self.grid, self.corpora, self.cache = grid, corpora, cache
        self._views: dict[tuple[str, str], list[View]] = {}
        self._answers: dict[tuple[str, float, str, int], Dataset] = {}

    def teacher_jobs(self, name: str) -> list[Job]:
        """The teachers of a set that have to be trained, one job for each."""
        spec = self.grid.teacher_sets[name]
        if spec.ensemble:
            return [job for member in spec.ensemble for job in self.teacher_jobs(member)]
        jobs = []
        for language in ["all"] if spec.together else self.corpora.languages:
            for seed, fold in itertools.product(spec.seeds, _folds(spec)) if spec.recipe else ():
                folder, _, work = self._training(name, spec, language, seed, fold)
                done = folder / SETTINGS_FILE
                without = "" if fold is None else f" without part {fold}"
                jobs.append(Job(f"teacher {name} {language} {seed}{without}", _lock(folder), done.exists, work))
        return jobs

    def _training(
        self, name: str, spec: TeacherSet, language: str, seed: int, fold: int | None
    ) -> tuple[Path, dict[str, Any], Any]:
        """Folder, settings and work of one teacher's training, without the sentences of part `fold`."""
        recipe = {**self.grid.recipe, "objective": "none", "temperature": 1.0, **spec.recipe, "seed": seed}
        for field in ("model_config", "keep_layers"):  # the student's say nothing about the teacher
            recipe[field] = spec.recipe.get(field)
        limit = spec.recipe.get("max_train_sentences")
        try:
            data, model, args = read_mapping(
                (DataArguments, ModelArguments, StructKDTrainingArguments),
                {**self.grid.expand(recipe), "output_dir": "unused"},
            )
        except ValueError as error:
            raise GridError(f"teacher set {name!r}: {error}") from error
        languages = self.corpora.languages if language == "all" else [language]
        corpora = self.corpora.splits
        if "corpus" in spec.recipe:
            corpora = load_data(data)
        splits = [corpora[language_name]["train"] for language_name in languages]
        splits = [d if limit is None else d.select(range(min(limit, len(d)))) for d in splits]
        if fold is not None:
            splits = [d.select(np.flatnonzero(np.arange(len(d)) % spec.folds != fold)) for d in splits]
        train = concatenate_datasets(splits)
        dev = {language_name: self.corpora.splits[language_name]["dev"] for language_name in languages}
        settings = _own_settings(model, args) | {
            "labels": self.corpora.labels,
            "train": data_fingerprint(train),
            "dev": {language_name: data_fingerprint(d) for language_name, d in dev.items()},
        }
        if model.model != "scratch":
            settings["model"] = content_key(model.model, model.revision)
        if data.tag_scheme not in (None, infer_scheme(self.corpora.labels)):
            settings["tag_scheme"] = data.tag_scheme
        if data.words is not None:
            settings["words"] = data.words
        folder = self.cache / "teachers" / f"{language}-{digest(settings)}"

        def fit(ready: StructKDTrainingArguments) -> Any:
            sentences = lambda: list(train["tokens"])  # noqa: E731
            tagger, tokenizer = make_tagger(
                model, self.corpora.labels, data.tag_scheme, sentences, data.words, [train]
            )
            encoded = encode_corpus(train, tokenizer, self.corpora.labels)
            on_dev = {
                language_name: encode_corpus(d, tokenizer, self.corpora.labels) for language_name, d in dev.items()
            }
            return train_trimmed(tagger, tokenizer, encoded, on_dev, ready)

        return folder, settings, lambda: train_into(folder, settings, args, fit)

    @cache  # noqa: B019 (a pool lives as long as its process)
    def teachers(self, name: str) -> dict[str, list[Teacher]]:
        """language -> its teachers, trained already."""
        spec = self.grid.teacher_sets[name]
        kind = WrongPathsTeacher if spec.wrong_paths else Teacher
        if spec.ensemble:
            members = [self.teachers(member) for member in spec.ensemble]
            return {
                language: [teacher for member in members for teacher in member[language]]
                for language in self.corpora.languages
            }
        if spec.checkpoints is not None:
            checkpoints = self.grid.expand(spec.checkpoints)
            if missing := [language for language in self.corpora.languages if language not in checkpoints]:
                raise GridError(f"teacher set {name!r} has no checkpoint for {', '.join(missing)}")
        else:
            checkpoints = {
                language: [
                    str(self._training(name, spec, "all" if spec.together else language, seed, fold)[0])
                    for seed, fold in itertools.product(spec.seeds, _folds(spec))
                ]
                for language in self.corpora.languages
            }
        loaded: dict[str, list[Teacher]] = {}
        load = cache(lambda path: kind.from_pretrained(path, label_map=spec.label_map))  # some teach every language
        for language in self.corpora.languages:
            paths = [checkpoints[language]] if isinstance(checkpoints[language], str) else checkpoints[language]
            try:
                teachers = [load(path) for path in paths]
                Panel(teachers).check(self.corpora.labels)
            except (OSError, ValueError) as error:
                raise GridError(f"teacher set {name!r}, {language}: {error}") from error
            loaded[language] = teachers
        return loaded

    def panel(self, name: str, language: str) -> Panel:
        return Panel(self.teachers(name)[language])

    def views(self, name: str, tokenizer: Any, tokenizer_key: str | None) -> list[View]:
        """What the teachers of a set make of each piece of a student's vocabulary."""
        key = (name, tokenizer_key or "")
        if tokenizer_key is None or key not in self._views:
            self._views[key] = teacher_views(tokenizer, self.teachers(name))
        return self._views[key]

    def revisions(self, name: str) -> dict[str, Any]:
        return {language: self.panel(name, language).revisions() for language in self.corpora.languages}

    def answer_jobs(self, name: str, temperatures: Temperatures) -> list[Job]:
        """Asking the teachers of a set about the whole pool, one job for each language."""
        jobs = []
        for language in self.corpora.languages:
            for part, data, fold in self._parts(name, language):
                folder = self._answers_folder(name, language, temperatures, data, fold)
                work = partial(self._ask, name, language, temperatures, data, fold)
                jobs.append(Job(f"answers of {name} {language}{part}", _lock(folder), _is_asked(folder), work))
        return jobs

    def _parts(self, name: str, language: str) -> list[tuple[str, Dataset, int | None]]:
        """The pool of a language, cut by who answers: name, sentences, and the part that the teachers did not see.

        The sentences of part `fold` of n are those at `fold`, `fold + n`, ...; last come those that no teacher saw.
        """
        pool, spec = self.corpora.splits[language]["train"], self.grid.teacher_sets[name]
        if spec.folds is None:
            return [("", pool, None)]
        trained_on = self._learnt_sentences(name, language)
        parts = [
            (f", part {fold}", pool.select(range(fold, trained_on, spec.folds)), fold) for fold in range(spec.folds)
        ]
        rest = [(", the rest", pool.select(range(trained_on, len(pool))), None)] if trained_on < len(pool) else []
        return [*parts, *rest]

    def _learnt_sentences(self, name: str, language: str) -> int:
        limit = self.grid.teacher_sets[name].recipe.get("max_train_sentences")
        return min(len(self.corpora.splits[language]["train"]), limit or sys.maxsize)

    def answers(self, language: str, cell: Cell) -> Dataset:
        """The answers of a cell's teachers about the pool of a language, its `top_k` best paths among them."""
        name, temperatures = self._asked_by(cell)
        key = (name, temperatures, language, cell.args.top_k)
        if key not in self._answers:
            parts = [
                self._ask(name, language, temperatures, data, fold) for _, data, fold in self._parts(name, language)
            ]
            answers = concatenate_datasets(
                [part.select_columns([n for n in part.column_names if n in TARGET_COLUMNS]) for part in parts]
            )
            if (folds := self.grid.teacher_sets[name].folds) is not None:
                learnt = np.arange(self._learnt_sentences(name, language))
                order = np.concatenate(
                    [learnt[np.argsort(learnt % folds, kind="stable")], np.arange(len(learnt), len(answers))]
                )
                answers = answers.select(np.argsort(order))
            self._answers[key] = first_paths(answers, cell.args.top_k)
        return self._answers[key]

    def answers_about(self, data: Dataset, language: str, cell: Cell) -> Dataset:
        """The answers of a cell's teachers about sentences of its own; one process asks, whoever else wants them."""
        name, temperatures = self._asked_by(cell)
        folder = self._answers_folder(name, language, temperatures, data)
        work = lambda: self._ask(name, language, temperatures, data)  # noqa: E731
        do_shared([Job(f"answers of {name} {language}, rewritten", _lock(folder), _is_asked(folder), work)])
        return first_paths(self._ask(name, language, temperatures, data), cell.args.top_k)

    def _asked_by(self, cell: Cell) -> tuple[str, Temperatures]:
        """The set that teaches a cell, and the temperatures of its answers."""
        name = self.grid.teacher_set_of(cell)
        assert name is not None
        return name, tuple(sorted(annotation_temperatures(cell.objectives).items()))

    def _ask(
        self, name: str, language: str, temperatures: Temperatures, data: Dataset, fold: int | None = None
    ) -> Dataset:
        """The answers about `data` of a set's teachers, or of those alone that were trained without part `fold`."""
        return annotate(
            data,
            {language: self._teachers_without(name, language, fold)},
            label_names=self.corpora.labels,
            targets=self._targets(name, language),
            top_k=self.grid.annotation_top_k,
            temperature=dict(temperatures),
            output_dir=self._answers_folder(name, language, temperatures, data, fold),
            progress=False,
        )

    def _teachers_without(self, name: str, language: str, fold: int | None) -> list[Teacher]:
        teachers = self.teachers(name)[language]
        return teachers if fold is None else teachers[fold :: self.grid.teacher_sets[name].folds]

    def _targets(self, name: str, language: str) -> list[str]:
        possible = []
        for target in ALL_TARGETS:
            try:
                self.panel(name, language).check(self.corpora.labels, [target])
            except ValueError:
                continue
            possible.append(target)
        return possible

    def _answers_folder(
        self, name: str, language: str, temperatures: Temperatures, data: Dataset, fold: int | None = None
    ) -> Path:
        panel = Panel(self._teachers_without(name, language, fold))
        question = [panel.record(), self.corpora.labels, self._targets(name, language), temperatures]
        question += [self.grid.annotation_top_k, corpus_fingerprint(data)]
        return self.cache / "answers" / f"{language}-{digest(question)}"


def _folds(spec: TeacherSet) -> Sequence[int | None]:
    return [None] if spec.folds is None else range(spec.folds)


def first_paths(answers: Dataset, k: int) -> Dataset:
    """The answers with the first k of the paths that were asked for."""
    table = answers.with_format("arrow")[:]
    for name in (TOPK_TAGS, TOPK_LOG_PROBS):
        if name in table.column_names:
            at = table.column_names.index(name)
            field = table.schema.field(name)
            table = table.set_column(at, field, pc.list_slice(table[name], 0, k).cast(field.type))
    return Dataset(table)


def _own_settings(model: ModelArguments, args: StructKDTrainingArguments) -> dict[str, Any]:
    """What was chosen about training on gold tags: a default that a later version adds makes no other teacher."""
    stock = {field.name for field in fields(TrainingArguments)} | {*GOLD_FIELDS}
    unchosen = settings_of(ModelArguments(), StructKDTrainingArguments(output_dir="unused", use_cpu=args.use_cpu))
    chosen = {name: value for name, value in settings_of(model, args).items() if value != unchosen[name]}
    of_model = {field.name for field in fields(ModelArguments)}
    return {name: value for name, value in chosen.items() if name in stock | of_model and name not in UNIMPORTANT}


def _is_asked(folder: Path) -> Callable[[], bool]:
    return (folder / "annotation.json").exists


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


class WrongPathsTeacher(Teacher):
    """A CRF teacher whose transitions are read the wrong way round.

    The official k-best decoder reads `[from, to]` where the tagger stores `[to, from]`. Start and end are tags there,
    whose scores turn into constants: they are lost, and nothing excludes illegal sequences.
    """

    @property
    def revision(self) -> str:
        return super().revision[:32] + "-transp."

    def chain_scores(self, sentences: Any) -> TeacherScores:
        scores, lengths, _ = super().chain_scores(sentences)
        none = scores.start.new_zeros(scores.start.shape)
        return TeacherScores(Scores(scores.emissions, scores.transitions.transpose(-1, -2), none, none), lengths, {})
