"""Annotation by engines that hand out batches of rows: `datasets.map`, Ray Data, Spark, or a loop of your own."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features

from ..data.columns import LANGUAGE, TOKENS, target_of
from ..files import json_sha256
from .annotate import ask, prepare_question
from .panel import Panel, Teachers, load_teachers
from .question import Question

_LOADED: dict[str, Teachers] = {}  # of this process: an engine may make the same annotator for every batch


class TeacherAnnotator:
    """Adds the teachers' answers to batches of rows. It has no state, and can be pickled and sent to workers.

    The answers to a batch are those of [`annotate`] about its rows, to the bit. All batches have the same columns,
    whatever languages are in them.

        dataset.map(annotator, batched=True, batch_size=512, features=annotator.features(dataset.features))
        rays.map_batches(TeacherAnnotator, fn_constructor_kwargs=settings, batch_format="pyarrow", concurrency=2)
        frame.mapInPandas(annotator.map_frames, schema)  # Spark

    Args:
        teachers: As for [`annotate`]. Names and folders are loaded by the worker, once per process; teachers that are
            loaded already are pickled and sent.
        label_names, targets, top_k, temperature, batch_size: As for [`annotate`].

    Raises:
        ValueError: When it is called, as [`annotate`] does; for a batch without a column `tokens`.
        TypeError: When it is called, for a batch of another kind.
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
        self.teachers = teachers
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
            answers = self._answers(batch[TOKENS].to_pylist(), _languages(batch.column_names, batch))
            kept = batch.drop_columns([name for name in batch.column_names if target_of(name)])
            for name in answers.column_names:
                kept = kept.append_column(name, answers[name])
            return kept
        if type(batch).__module__.split(".")[0] == "pandas":
            answers = self._answers(_lists(batch[TOKENS]), _languages(batch.columns, batch))
            columns = {name: answers[name].to_pylist() for name in answers.column_names}
            kept = batch.drop(columns=[name for name in batch.columns if target_of(name)])
            return kept.assign(**columns)
        if isinstance(batch, Mapping):
            if TOKENS not in batch:
                raise ValueError(f"a batch needs a column {TOKENS!r} with lists of words; this one has {list(batch)}")
            answers = self._answers(_lists(batch[TOKENS]), _languages(batch, batch))
            kept = {name: values for name, values in batch.items() if not target_of(name)}
            return kept | {name: answers[name].to_pylist() for name in answers.column_names}
        raise TypeError(f"a batch is a mapping of columns, a pyarrow.Table or a pandas data frame, not {type(batch)}")

    def map_frames(self, frames: Iterable[Any]) -> Iterator[Any]:
        """Answer about pandas data frames, one after another: the function of Spark's `mapInPandas`."""
        return map(self, frames)

    def features(self, features: Features | None = None) -> Features:
        """The columns of the answers with their types, after those of a corpus, for `datasets.map`.

        Their `arrow_schema` is the schema for Spark (`pyspark.sql.pandas.types.from_arrow_schema`).
        """
        language = next(iter(self.teachers)) if isinstance(self.teachers, Mapping) else None
        kept = {name: feature for name, feature in (features or {}).items() if not target_of(name)}
        return Features({**kept, **self._question([["word"]], [language]).features})

    def _loaded(self) -> Teachers:
        """The teachers, loaded once per process where they are given by name."""
        try:
            key = json_sha256(self.teachers)
        except TypeError:  # teachers that are loaded, or folders
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


def _lists(values: Any) -> list[list[str]]:
    """A column of words as lists of strings: engines hand out arrays."""
    if text := next((words for words in values if isinstance(words, str)), None):
        raise TypeError(f"the column {TOKENS!r} holds the text {text!r:.60} where lists of words are meant")
    return [[str(word) for word in words] for words in values]


def _languages(names: Iterable[str], batch: Any) -> list[str | None]:
    if LANGUAGE in names:
        column = batch[LANGUAGE]
        return column.to_pylist() if hasattr(column, "to_pylist") else [None if v is None else str(v) for v in column]
    return [None]
