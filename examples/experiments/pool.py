"""What the cells of a grid share in one process: corpora, tokenised sentences, teachers and their answers."""

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, concatenate_datasets
from grid import Cell, Grid, GridError, TeacherSet, arguments
from recipe_arguments import DataArguments, ModelArguments
from recipe_steps import SETTINGS_FILE, labels_of, load_data, make_tagger, settings_of, train_into
from shared_work import Job, do_shared
from transformers import TrainingArguments
from trimming import train_trimmed
from wrong_paths import WrongPathsTeacher

from hf_structkd import StructKDTrainingArguments, Teacher, annotate
from hf_structkd.data.augmentation import augment
from hf_structkd.data.columns import (
    AUTOMATIC_COLUMNS,
    EDGE_COUNTS,
    EMISSIONS,
    MARGINALS,
    START_END,
    TARGET_COLUMNS,
    TOPK_LOG_PROBS,
    TOPK_TAGS,
    TRANSITIONS,
)
from hf_structkd.data.unlabelled import hide_gold, mix_unlabelled
from hf_structkd.data.words import encode_corpus
from hf_structkd.distillation.annotate import corpus_fingerprint
from hf_structkd.distillation.embeddings import View, teacher_views
from hf_structkd.distillation.mixtures import Panel
from hf_structkd.distillation.objectives import annotation_temperature

# Asked for all at once, where a teacher can give them: a cell added later finds its answers there.
ALL_TARGETS = (TOPK_TAGS, TOPK_LOG_PROBS, MARGINALS, EDGE_COUNTS, EMISSIONS, TRANSITIONS, START_END)
# Say nothing about what a training gives.
UNIMPORTANT = ("save_only_model", "save_total_limit", "use_cpu")
STUDENT_COLUMNS = ("input_ids", "attention_mask", "word_mask", "labels", "language")


class Pool:
    """Corpora of a grid, and everything that cells take from them.

    Args:
        grid: the grid.
        cache: folder for teachers and their answers, shared by grids.
    """

    def __init__(self, grid: Grid, cache: Path) -> None:
        self.grid, self.cache = grid, cache
        self._encoded: dict[tuple[str, str, str], Dataset] = {}
        self._views: dict[tuple[str, str], list[View]] = {}
        self._answers: dict[tuple[str, float, str, int], Dataset] = {}

    @cached_property
    def data_arguments(self) -> DataArguments:
        (data,) = arguments((DataArguments,), self.grid.expand(_fields_of(DataArguments, self.grid.recipe)))
        return data

    @cached_property
    def corpora(self) -> dict[str, DatasetDict]:
        """language -> train (the pool), dev and test."""
        return load_data(replace(self.data_arguments, max_train_sentences=self.grid.pool_sentences))

    @cached_property
    def zero_shot(self) -> dict[str, DatasetDict]:
        """Languages that nobody was trained on -> test."""
        if not self.grid.zero_shot:
            return {}
        own = self.grid.expand({"corpus": self.grid.recipe.get("corpus"), **self.grid.zero_shot})
        (data,) = arguments((DataArguments,), own)
        return load_data(data, splits=("test",))

    @cached_property
    def labels(self) -> list[str]:
        return labels_of(self.data_arguments, self.corpora)

    @property
    def languages(self) -> list[str]:
        return list(self.corpora)

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """language -> split -> a hash of its sentences: what tells these corpora from others."""
        return {
            language: {split: corpus_fingerprint(data) for split, data in splits.items()}
            for language, splits in self.corpora.items()
        }

    # ---- what a student is trained on ----

    def rows(self, language: str, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
        """The pool's rows that a cell sees with gold tags, and those that it sees without."""
        there = len(self.corpora[language]["train"])
        gold = there if cell.gold_sentences is None else cell.gold_sentences
        text = gold if cell.text_sentences is None else cell.text_sentences
        # A subset that a corpus is too small for is the whole corpus: treebanks differ in size.
        seed = cell.own.subset_seed if cell.own.subset_seed is not None else cell.seed
        order = np.random.default_rng([seed, zlib.crc32(language.encode())]).permutation(there)
        return order[:gold], order[gold:text]

    def training_data(self, cell: Cell, tokenizer: Any, tokenizer_key: str | None) -> Dataset:
        """The sentences that a cell's student is trained on, tokenised, with the answers its objective reads."""
        needed = {name for objective, _ in cell.objectives.values() for name in objective.needs}
        parts = []
        for language in self.languages:
            gold, text = self.rows(language, cell)
            answers = self.answers(language, cell) if needed else None
            for split, rows in (("train", gold), ("text", text)):
                if not len(rows):
                    continue
                part = self.encoded(language, split, tokenizer, tokenizer_key).select_columns(list(STUDENT_COLUMNS))
                if answers is not None:
                    kept = [n for n in answers.column_names if n in needed or n in AUTOMATIC_COLUMNS]
                    part = concatenate_datasets([part, answers.select_columns(kept)], axis=1)
                parts.append(part.select(rows))
            if cell.data.augmentation is not None:
                columns = [name for name in parts[-1].column_names if name not in STUDENT_COLUMNS]
                parts.append(self.rewritten(language, cell, tokenizer, columns))
        return concatenate_datasets([part.cast(parts[0].features) for part in parts])

    def rewritten(self, language: str, cell: Cell, tokenizer: Any, columns: Sequence[str]) -> Dataset:
        """A cell's sentences, gold and text, rewritten; tokenised, with `columns` of the teachers' answers."""
        name, temperature = self.grid.teacher_set_of(cell), annotation_temperature(cell.objectives)
        assert name is not None
        seen = self.corpora[language]["train"].select(np.concatenate(self.rows(language, cell)))
        data = mix_unlabelled(seen, augment(seen, cell.data.augmentation, tokenizer, cell.seed))
        data = data.select(range(len(seen), len(data)))
        folder = self._answers_folder(name, language, temperature, data)
        work = lambda: self._ask(name, language, temperature, data)  # noqa: E731
        do_shared([Job(f"answers of {name} {language}, rewritten", _lock(folder), _is_asked(folder), work)])
        answers = first_paths(self._ask(name, language, temperature, data), cell.args.top_k)
        encoded = encode_corpus(data, tokenizer, self.labels).select_columns(list(STUDENT_COLUMNS))
        return concatenate_datasets([encoded, answers.select_columns(list(columns))], axis=1)

    def encoded(self, language: str, split: str, tokenizer: Any, tokenizer_key: str | None) -> Dataset:
        """A split in a student's subwords; `text` is the training split without its gold tags."""
        key = (tokenizer_key or "", language, split)
        if tokenizer_key is None or key not in self._encoded:
            if split == "text":
                data = hide_gold(self.corpora[language]["train"])
            else:
                data = self.corpora[language][split]
            self._encoded[key] = encode_corpus(data, tokenizer, self.labels)
        return self._encoded[key]

    # ---- teachers ----

    def teacher_jobs(self, name: str) -> list[Job]:
        """The teachers of a set that have to be trained, one job for each."""
        spec = self.grid.teacher_sets[name]
        if spec.ensemble:
            return [job for member in spec.ensemble for job in self.teacher_jobs(member)]
        jobs = []
        for language in ["all"] if spec.together else self.languages:
            for seed in spec.seeds if spec.recipe else ():
                folder, _, work = self._training(name, spec, language, seed)
                done = folder / SETTINGS_FILE
                jobs.append(Job(f"teacher {name} {language} {seed}", _lock(folder), done.exists, work))
        return jobs

    def _training(self, name: str, spec: TeacherSet, language: str, seed: int) -> tuple[Path, dict[str, Any], Any]:
        """Folder, settings and work of one teacher's training."""
        recipe = {**self.grid.recipe, "objective": "none", **spec.recipe, "seed": seed}
        for field in ("model_config", "keep_layers"):  # the student's say nothing about the teacher
            recipe[field] = spec.recipe.get(field)
        limit = spec.recipe.get("max_train_sentences")
        try:
            data, model, args = arguments(
                (DataArguments, ModelArguments, StructKDTrainingArguments),
                {**self.grid.expand(recipe), "output_dir": "unused"},
            )
        except ValueError as error:
            raise GridError(f"teacher set {name!r}: {error}") from error
        languages = self.languages if language == "all" else [language]
        corpora = self.corpora
        if "corpus" in spec.recipe:
            corpora = load_data(data)
        splits = [corpora[own]["train"] for own in languages]
        train = concatenate_datasets([d if limit is None else d.select(range(min(limit, len(d)))) for d in splits])
        dev = {own: self.corpora[own]["dev"] for own in languages}
        settings = _own_settings(model, args) | {
            "labels": self.labels,
            "train": _fingerprint_with_tags(train),
            "dev": {own: _fingerprint_with_tags(d) for own, d in dev.items()},
        }
        if model.model != "scratch":
            settings["model"] = content_key(model.model)
        folder = self.cache / "teachers" / f"{language}-{_digest(settings)}"

        def fit(ready: StructKDTrainingArguments) -> Any:
            tagger, tokenizer = make_tagger(model, self.labels, data.tag_scheme, lambda: list(train["tokens"]))
            encoded = encode_corpus(train, tokenizer, self.labels)
            on_dev = {own: encode_corpus(d, tokenizer, self.labels) for own, d in dev.items()}
            return train_trimmed(tagger, tokenizer, encoded, on_dev, ready)

        return folder, settings, lambda: train_into(folder, settings, args, fit)

    @cache  # noqa: B019 (a pool lives as long as its process)
    def teachers(self, name: str) -> dict[str, list[Teacher]]:
        """language -> its teachers, trained already."""
        spec = self.grid.teacher_sets[name]
        kind = WrongPathsTeacher if spec.wrong_paths else Teacher
        if spec.ensemble:
            members = [self.teachers(member) for member in spec.ensemble]
            return {language: [t for own in members for t in own[language]] for language in self.languages}
        if spec.checkpoints is not None:
            given = self.grid.expand(spec.checkpoints)
            if missing := [language for language in self.languages if language not in given]:
                raise GridError(f"teacher set {name!r} has no checkpoint for {', '.join(missing)}")
        else:
            given = {
                language: [
                    str(self._training(name, spec, "all" if spec.together else language, seed)[0])
                    for seed in spec.seeds
                ]
                for language in self.languages
            }
        loaded: dict[str, list[Teacher]] = {}
        load = cache(lambda path: kind.from_pretrained(path, label_map=spec.label_map))  # some teach every language
        for language in self.languages:
            paths = [given[language]] if isinstance(given[language], str) else given[language]
            try:
                own = [load(path) for path in paths]
                Panel(own).check(self.labels)
            except (OSError, ValueError) as error:
                raise GridError(f"teacher set {name!r}, {language}: {error}") from error
            loaded[language] = own
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
        return {language: self.panel(name, language).record() for language in self.languages}

    # ---- their answers ----

    def answer_jobs(self, name: str, temperature: float) -> list[Job]:
        """Asking the teachers of a set about the whole pool, one job for each language."""
        jobs = []
        for language in self.languages:
            pool = self.corpora[language]["train"]
            folder = self._answers_folder(name, language, temperature, pool)
            work = lambda language=language, pool=pool: self._ask(name, language, temperature, pool)  # noqa: E731
            jobs.append(Job(f"answers of {name} {language}", _lock(folder), _is_asked(folder), work))
        return jobs

    def answers(self, language: str, cell: Cell) -> Dataset:
        """The answers of a cell's teachers about the pool of a language, its `top_k` best paths among them."""
        name, temperature = self.grid.teacher_set_of(cell), annotation_temperature(cell.objectives)
        assert name is not None
        key = (name, temperature, language, cell.args.top_k)
        if key not in self._answers:
            asked = self._ask(name, language, temperature, self.corpora[language]["train"])
            asked = asked.select_columns([n for n in asked.column_names if n in TARGET_COLUMNS])
            self._answers[key] = first_paths(asked, cell.args.top_k)
        return self._answers[key]

    def _ask(self, name: str, language: str, temperature: float, data: Dataset) -> Dataset:
        return annotate(
            data,
            {language: self.teachers(name)[language]},
            label_names=self.labels,
            targets=self._targets(name, language),
            top_k=self.grid.annotation_top_k,
            temperature=temperature,
            output_dir=self._answers_folder(name, language, temperature, data),
            progress=False,
        )

    def _targets(self, name: str, language: str) -> list[str]:
        possible = []
        for target in ALL_TARGETS:
            try:
                self.panel(name, language).check(self.labels, [target])
            except ValueError:
                continue
            possible.append(target)
        return possible

    def _answers_folder(self, name: str, language: str, temperature: float, data: Dataset) -> Path:
        panel = self.panel(name, language)
        asked = [panel.record(), panel.settings(), self.labels, self._targets(name, language), temperature]
        asked += [self.grid.annotation_top_k, corpus_fingerprint(data)]
        return self.cache / "answers" / f"{language}-{_digest(asked)}"


def first_paths(answers: Dataset, k: int) -> Dataset:
    """The answers with the first k of the paths that were asked for."""
    table = answers.with_format("arrow")[:]
    for name in (TOPK_TAGS, TOPK_LOG_PROBS):
        if name in table.column_names:
            at = table.column_names.index(name)
            field = table.schema.field(name)
            table = table.set_column(at, field, pc.list_slice(table[name], 0, k).cast(field.type))
    return Dataset(table)


@cache
def content_key(model: str) -> str:
    """What tells an encoder from others wherever it lies: a hash of a folder's files, or a Hub id as it stands."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".bin", ".model", ".txt"):
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _own_settings(model: ModelArguments, args: StructKDTrainingArguments) -> dict[str, Any]:
    """What was chosen about training on gold tags: a default that a later version adds makes no other teacher."""
    stock = {field.name for field in fields(TrainingArguments)} | {"crf_learning_rate", "normalization"}
    unchosen = settings_of(ModelArguments(), StructKDTrainingArguments(output_dir="unused", use_cpu=args.use_cpu))
    chosen = {name: value for name, value in settings_of(model, args).items() if value != unchosen[name]}
    of_model = {field.name for field in fields(ModelArguments)}
    return {name: value for name, value in chosen.items() if name in stock | of_model and name not in UNIMPORTANT}


def _fields_of(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in kind.__dataclass_fields__}


def _fingerprint_with_tags(data: Dataset) -> str:
    return f"{corpus_fingerprint(data)}-{_digest(list(data['tags']))}"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _is_asked(folder: Path) -> Callable[[], bool]:
    return (folder / "annotation.json").exists


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
