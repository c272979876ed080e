"""Annotation by engines that hand out batches of rows: `datasets.map`, Ray Data, Spark, or a loop of your own."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, List, Value

from ..data.columns import GLUED, LANGUAGE, TOKENS, target_of
from ..files import json_sha256
from ..modeling.glued_words import GluedWords, flags_of, sentences_of
from .annotate import ask, prepare_question
from .panel import Panel, Teachers, load_teachers
from .question import Question

_LOADED: dict[str, Teachers] = {}  # of this process: an engine may make the same annotator for every batch
_NO_HALVES = {"float16": "float32"}  # Spark has no half precision


class TeacherAnnotator:
    """Adds the teachers' answers to batches of rows. It has no state, and can be pickled and sent to workers.

    The answers to a batch are those of [`annotate`] about its rows, to the bit. All batches have the same columns,
    whatever languages are in them.

        dataset.map(annotator, batched=True, batch_size=512, features=annotator.features(dataset.features))
        rays.map_batches(TeacherAnnotator, fn_constructor_kwargs=settings, batch_format="pyarrow", concurrency=2)
        frame.mapInPandas(annotator.map_frames, from_arrow_schema(annotator.spark_schema(features)))

    It asks about each row alone: teachers that read a sentence's neighbours need the order of the rows, which engines
    do not keep, see [`annotate_part`].

    Args:
        teachers: As for [`annotate`]. Names and folders are loaded by the worker, once per process, and again when
            the files of a folder have changed; teachers that are loaded already are pickled and sent.
        label_names, targets, top_k, temperature, batch_size: As for [`annotate`].

    Raises:
        ValueError: When it is called, as [`annotate`] does; for a batch without a column `tokens`.
        TypeError: When it is called, for a batch of another kind, and for rows that are no lists of words.
        ImportError: When it is called, if the worker lacks the teacher's package; the message names the extra.
    """

    def __init__(
        self,
        teachers: Teachers,
        *,
        label_names: Sequence[str],
        targets: Sequence[str],
        top_k: int = 10,
        temperature: float | Mapping[str, float] = 1.0,
        batch_size: int = 64,
    ) -> None:
        self.teachers = _names_as_text(teachers)
        self.label_names, self.targets = list(label_names), list(targets)
        self.top_k, self.temperature, self.batch_size = top_k, temperature, batch_size

    def __call__(self, batch: Any) -> Any:
        """Answer about the rows of a batch.

        Args:
            batch: A mapping from columns to lists or arrays (`datasets.map`, Ray's `"numpy"`), a `pyarrow.Table`
                (Ray's `"pyarrow"`) or a pandas data frame (Ray's `"pandas"`, Spark). It has a column `tokens` and,
                where teachers differ by language, `language`.

        Returns:
            The batch with the target columns, of the same kind.
        """
        if isinstance(batch, pa.Table):
            _check_columns(batch.column_names)
            words = _with_blanks(batch[TOKENS].to_pylist(), batch.column_names, batch)
            answers = self._answers(words, _languages(batch.column_names, batch))
            kept = batch.drop_columns([name for name in batch.column_names if target_of(name)])
            for name in answers.column_names:
                kept = kept.append_column(name, answers[name])
            return kept
        if type(batch).__module__.split(".")[0] == "pandas":
            _check_columns(batch.columns)
            words = _with_blanks(_lists(batch[TOKENS]), batch.columns, batch)
            answers = self._answers(words, _languages(batch.columns, batch))
            columns = {name: answers[name].to_pylist() for name in answers.column_names}
            kept = batch.drop(columns=[name for name in batch.columns if target_of(name)])
            return kept.assign(**columns)
        if isinstance(batch, Mapping):
            _check_columns(batch)
            words = _with_blanks(_lists(batch[TOKENS]), batch, batch)
            answers = self._answers(words, _languages(batch, batch))
            kept = {name: values for name, values in batch.items() if not target_of(name)}
            return kept | {name: answers[name].to_pylist() for name in answers.column_names}
        raise TypeError(f"a batch is a mapping of columns, a pyarrow.Table or a pandas data frame, not {type(batch)}")

    def map_frames(self, frames: Iterable[Any]) -> Iterator[Any]:
        """Answer about pandas data frames, one after another: the function of Spark's `mapInPandas`."""
        return map(self, frames)

    def features(self, features: Features | None = None) -> Features:
        """The columns of the answers with their types, after those of a corpus, for `datasets.map`."""
        language = next(iter(self.teachers)) if isinstance(self.teachers, Mapping) else None
        kept = {name: feature for name, feature in (features or {}).items() if not target_of(name)}
        return Features({**kept, **self._question([["word"]], [language]).features})

    def spark_schema(self, features: Features | None = None) -> pa.Schema:
        """The columns after [`map_frames`], for `pyspark.sql.pandas.types.from_arrow_schema`.

        Spark has no half precision: such columns have single precision, which holds the same numbers.

        Args:
            features: The columns of a corpus.
        """
        return Features({name: _without_halves(each) for name, each in self.features(features).items()}).arrow_schema

    def __getstate__(self) -> dict[str, Any]:
        # Of the same names with other files, `datasets.map` must not take answers from its cache.
        return {**self.__dict__, "files": json_sha256(_files_of(self.teachers))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name != "files"})

    def _loaded(self) -> Teachers:
        """The teachers, loaded once per process where they are given by name."""
        try:
            key = json_sha256([self.teachers, _files_of(self.teachers)])
        except TypeError:  # teachers that are loaded
            self.teachers = load_teachers(self.teachers)
            return self.teachers
        if key not in _LOADED:
            _LOADED[key] = _panels(self.teachers)
        return _LOADED[key]

    def _answers(self, sentences: list[list[str]], languages: list[str | None]) -> pa.Table:
        if not sentences:
            return self.features().arrow_schema.empty_table()
        return ask(self._question(sentences, languages)).data.table.combine_chunks()

    def _question(self, sentences: list[list[str]], languages: list[str | None]) -> Question:
        columns: dict[str, list[Any]] = {TOKENS: sentences}
        if any(language is not None for language in languages):
            columns[LANGUAGE] = languages
        if any(isinstance(words, GluedWords) for words in sentences):
            columns[GLUED] = [flags_of(words) for words in sentences]
        question, _ = prepare_question(
            Dataset.from_dict(columns),
            self._loaded(),
            self.label_names,
            self.targets,
            self.top_k,
            self.temperature,
            self.batch_size,
            every_language=True,
        )
        return question


def _panels(teachers: Teachers) -> Teachers:
    if isinstance(teachers, Mapping):
        return {language: Panel(panel) for language, panel in teachers.items()}
    return Panel(teachers)


def _names_as_text(teachers: Any) -> Any:
    """Teachers in which each folder is given as text, which has a place in JSON."""
    if isinstance(teachers, os.PathLike):
        return os.fspath(teachers)
    if isinstance(teachers, Mapping):
        return {language: _names_as_text(panel) for language, panel in teachers.items()}
    return [_names_as_text(each) for each in teachers] if isinstance(teachers, list | tuple) else teachers


def _files_of(teachers: Any) -> list[list[Any]]:
    """The files of teachers that are given as folders of this machine: name, size and time of each."""
    if isinstance(teachers, Mapping):
        return [file for panel in teachers.values() for file in _files_of(panel)]
    if isinstance(teachers, list | tuple):
        return [file for each in teachers for file in _files_of(each)]
    if not isinstance(teachers, str) or not Path(teachers).is_dir():
        return []
    files = sorted(file for file in Path(teachers).iterdir() if file.is_file())
    return [[str(file), (status := file.stat()).st_size, status.st_mtime_ns] for file in files]


def _without_halves(feature: Any) -> Any:
    if isinstance(feature, List):
        return List(_without_halves(feature.feature))
    return Value(_NO_HALVES.get(feature.dtype, feature.dtype)) if isinstance(feature, Value) else feature


def _check_columns(names: Iterable[str]) -> None:
    if TOKENS not in names:
        raise ValueError(f"a batch needs a column {TOKENS!r} with lists of words; this one has {list(names)}")


def _lists(values: Any) -> list[list[str]]:
    """A column of words as lists: engines hand out arrays. What is no word is left for `annotate` to name."""
    for row, words in enumerate(values):
        if isinstance(words, str) or not isinstance(words, Iterable):
            kind = "text" if isinstance(words, str) else "value"
            raise TypeError(f"row {row}: {TOKENS!r} holds the {kind} {words!r:.60} where lists of words are meant")
    return [[str(word) if isinstance(word, str) else word for word in words] for words in values]


def _with_blanks(sentences: list[list[str]], names: Iterable[str], batch: Any) -> list[list[str]]:
    """The sentences, which know where blanks are missing if the batch says so."""
    if GLUED not in names:
        return sentences
    column = batch[GLUED]
    if hasattr(column, "to_pylist"):
        return sentences_of({TOKENS: sentences, GLUED: column.to_pylist()})
    flags = [list(v) if isinstance(v, Iterable) else None for v in column]  # None, or the NaN of pandas
    return sentences_of({TOKENS: sentences, GLUED: flags})


def _languages(names: Iterable[str], batch: Any) -> list[str | None]:
    if LANGUAGE not in names:
        return [None]
    column = batch[LANGUAGE]
    if hasattr(column, "to_pylist"):
        return column.to_pylist()
    return [str(value) if isinstance(value, str) else None for value in column]  # None, or the NaN of pandas
