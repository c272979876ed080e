"""Asking a panel of teachers about sentences, batch by batch."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, Features, List, Value
from torch import Tensor

from ..data.columns import (
    EDGE_COUNTS,
    EMISSIONS,
    ENTROPY,
    GROUPS,
    LABELS,
    LANGUAGE,
    MARGINALS,
    START_END,
    TARGET_COLUMNS,
    TEMPERATURE,
    TEMPERED_COLUMNS,
    TOKENS,
    TOPK_LOG_PROBS,
    TOPK_TAGS,
    TRANSITIONS,
    labels_key,
)
from ..data.words import tag_column, tag_names
from .answer_summary import Sums, add_sums, batch_sums, count_correct
from .distribution import BestPaths, TagDistribution
from .panel import Panel


def target_features(targets: Sequence[str], num_tags: int) -> Features:
    """The types of target columns; tags are a byte each where `num_tags`, the student's labels, fit into one."""
    features = {}
    for name in targets:
        column = TARGET_COLUMNS[name]
        feature: Any = Value("int8" if name == TOPK_TAGS and num_tags <= 127 else column.stored)
        for _ in column.axes:
            feature = List(feature)
        features[name] = feature
    return Features(features)


def arrow_batch(values: Mapping[str, np.ndarray], lengths: np.ndarray, features: Features) -> pa.RecordBatch:
    """A batch of sentences' answers as rows of the target columns, cut to their words and paths.

    Args:
        values: for each column an array over the batch, shaped and padded as in [`Targets`].
        lengths: (batch,), words.
        features: of `target_features`.
    """
    columns = [_column(name, values, lengths, pa_type) for name, pa_type in _types(features)]
    return pa.RecordBatch.from_arrays(columns, schema=features.arrow_schema)


def check_word_counts(table: pa.Table, words: np.ndarray) -> None:
    """Raise ValueError if answers are not of as many words as their sentences; `words` (rows,)."""
    if len(table) != len(words):
        raise ValueError(f"there are answers to {len(table):,} sentences where {len(words):,} were asked about")
    start = 0
    for batch in table.to_batches():
        here = words[start : start + len(batch)]
        for name in batch.schema.names:
            axes = TARGET_COLUMNS[name].axes
            if "words" not in axes:
                continue
            column, row_of = batch[name], np.arange(len(batch))
            for _ in axes[: axes.index("words")]:
                row_of = row_of[pc.list_parent_indices(column).to_numpy()]
                column = pc.list_flatten(column)
            counts = pc.list_value_length(column).to_numpy(zero_copy_only=False)
            if len(wrong := np.flatnonzero(counts != here[row_of])):
                row = int(row_of[wrong[0]])
                raise ValueError(
                    f"{name} of row {start + row} has {counts[wrong[0]]} words where the sentence has {here[row]}"
                )
        start += len(batch)


def _types(features: Features) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in features.arrow_schema]


def _column(name: str, values: Mapping[str, np.ndarray], lengths: np.ndarray, pa_type: pa.DataType) -> pa.Array:
    axes, padded = TARGET_COLUMNS[name].axes, values[name]
    batch = len(padded)
    kept = np.ones((batch,) + (1,) * (padded.ndim - 1), dtype=bool)
    counts: list[np.ndarray] = []  # at each level, outermost first, how long each list is
    sentences = np.arange(batch)  # of which sentence each list of the level before is
    for axis, meaning in enumerate(axes, start=1):
        if meaning == "k":
            exists = values[TOPK_LOG_PROBS] > -np.inf
            kept = kept & exists.reshape(batch, -1, *(1,) * (padded.ndim - 2))
            counts.append(exists.sum(axis=1)[sentences])
        elif meaning == "words":
            inside = np.arange(padded.shape[axis]) < lengths[:, None]
            kept = kept & inside.reshape(batch, *(1,) * (axis - 1), -1, *(1,) * (padded.ndim - axis - 1))
            counts.append(lengths[sentences])
        else:
            counts.append(np.full(len(sentences), padded.shape[axis]))
        sentences = np.repeat(sentences, counts[-1])
    flat = padded[np.broadcast_to(kept, padded.shape)]
    levels = [pa_type]
    for _ in axes:
        levels.append(levels[-1].value_type)
    array = pa.array(flat.astype(levels[-1].to_pandas_dtype(), copy=False), type=levels[-1])
    for level, count in zip(reversed(levels[:-1]), reversed(counts)):
        offsets = np.concatenate(([0], np.cumsum(count))).astype(np.int32)
        array = pa.ListArray.from_arrays(pa.array(offsets), array, type=level)
    return array


_ROWS_AT_ONCE = 1000
ALL = "*"  # stands for every language where one panel serves all


@dataclass(frozen=True, eq=False)
class Shard:
    """Sentences that are asked and kept together: rows of the dataset, all of one panel, longest first."""

    language: str
    rows: np.ndarray  # (sentences,)


class Question:
    """What is asked about which sentences, and of whom.

    Sentences are read from the dataset when they are asked about, so what lies in memory is a few bytes a sentence.

    Args:
        dataset: the corpus.
        panels: language -> its teachers, or `ALL` -> those of every language.
        label_names: the student's labels.
        targets: the columns wanted, the automatic ones included.
        top_k, batch_size: as for `annotate`.
        temperatures: of each of `TEMPERED_COLUMNS`.
    """

    def __init__(
        self,
        dataset: Dataset,
        panels: Mapping[str, Panel],
        label_names: Sequence[str],
        targets: Sequence[str],
        top_k: int,
        temperatures: Mapping[str, float],
        batch_size: int,
    ) -> None:
        self.panels, self.label_names, self.targets = dict(panels), list(label_names), list(targets)
        self.top_k, self.temperatures, self.batch_size = top_k, dict(temperatures), batch_size
        self.count = len(dataset)
        self.lengths, self._panel_of = _lengths_and_panels(dataset, sorted(self.panels))
        self.features = target_features(self.targets, len(self.label_names))
        column = tag_column(dataset)
        self._gold_column = column
        self._dataset = dataset.with_format(None).select_columns([TOKENS, *([column] if column else [])])
        names = tag_names(dataset) or []  # numbers without names are nobody's labels
        ids = {label: i for i, label in enumerate(self.label_names)}
        self._gold_ids: dict[str | int, int] = {i: ids.get(name, -1) for i, name in enumerate(names)}
        self._gold_ids.update(ids)
        self._groups = {language: panel.groups(self.label_names) for language, panel in self.panels.items()}

    def shards(self, size: int) -> list[Shard]:
        """Every sentence once; by language, longest first, so that batches waste little on padding."""
        shards = []
        for number, language in enumerate(sorted(self.panels)):
            rows = np.flatnonzero(self._panel_of == number)
            rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
            shards += [Shard(language, rows[start : start + size]) for start in range(0, len(rows), size)]
        return shards

    def answer(self, shard: Shard, done: Callable[[int], object] = lambda count: None) -> tuple[pa.Table, Sums]:
        """Ask about a shard's sentences.

        Args:
            shard: which.
            done: told, after each batch, how many sentences it had.

        Returns:
            A table with a row for each of the shard's rows, in their order, and the sums for the summary.
        """
        batches, sums = [], []
        for start in range(0, len(shard.rows), self.batch_size):
            rows = shard.rows[start : start + self.batch_size].tolist()
            batch, part = self._answer(shard.language, rows)
            batches.append(batch)
            sums.append(part)
            done(len(rows))
        return pa.Table.from_batches(batches).combine_chunks(), add_sums(sums)

    @torch.inference_mode()
    def _answer(self, language: str, rows: Sequence[int]) -> tuple[pa.RecordBatch, Sums]:
        panel, groups = self.panels[language], self._groups[language]
        asked = self._dataset[list(rows)]
        sentences: list[list[str]] = asked[TOKENS]
        gold_tags = asked[self._gold_column] if self._gold_column else [None] * len(rows)
        lengths = np.array([len(words) for words in sentences])
        try:
            distribution = panel.distribution(sentences, self.label_names)
            best_from = TOPK_TAGS if TOPK_TAGS in self.targets else MARGINALS
            wanted = dict.fromkeys((*self.targets, ENTROPY, best_from, UNPROVEN))
            values: dict[str, np.ndarray] = {}
            for temperature in sorted({self._temperature_of(name) for name in wanted}):
                softened = distribution if temperature == 1.0 else distribution.with_temperature(temperature)
                values |= ask(softened, [n for n in wanted if self._temperature_of(n) == temperature], self.top_k)
        except ValueError as error:
            raise ValueError(f"asking {panel.name} about rows {list(rows[:5])}...: {error}") from error
        for name in (MARGINALS, EMISSIONS, TOPK_LOG_PROBS, ENTROPY):
            if name in values and np.isnan(values[name]).any():
                at = int(np.isnan(values[name]).reshape(len(rows), -1).any(axis=1).argmax())
                raise ValueError(
                    f"{panel.name} answered NaN ({name}) to row {rows[at]}, {' '.join(sentences[at])[:80]!r}: check "
                    "its weights and its dtype"
                )
        values[GROUPS] = np.tile(np.array(groups or range(len(self.label_names))), (len(rows), 1))
        values[TEMPERATURE] = np.tile([self._temperature_of(name) for name in TEMPERED_COLUMNS], (len(rows), 1))
        values[LABELS] = np.full(len(rows), labels_key(self.label_names))
        best = values[TOPK_TAGS][:, 0] if TOPK_TAGS in values else values[MARGINALS].argmax(axis=-1)
        gold = [self._gold_ids_of(tags, words, groups) for tags, words in zip(gold_tags, sentences)]
        sums = batch_sums(lengths, values[ENTROPY], values.get(TOPK_LOG_PROBS), values.get(UNPROVEN), best, gold)
        return arrow_batch(values, lengths, self.features), sums

    def gold_key(self, shards: Sequence[Shard]) -> str:
        """A hash of the gold tags of shards' sentences, as the student's labels; how they are cut does not matter."""
        digest = hashlib.sha256()
        for shard in shards:
            for _, gold in self._gold_of(shard):
                for tags in gold:
                    digest.update(b"-" if tags is None else b"+" + tags.astype(np.int64).tobytes())
        return digest.hexdigest()

    def graded(self, shard: Shard, answers: pa.Table) -> Sums | None:
        """What the gold tags of a shard's sentences, as they are now, say of answers that are kept.

        Args:
            shard: which.
            answers: a row for each of the shard's, in their order.

        Returns:
            The sums of `count_correct`; `None` where the answers do not hold the teacher's best tags.
        """
        column = next((name for name in (TOPK_TAGS, MARGINALS) if name in answers.column_names), None)
        if column is None:
            return None
        parts = []
        for start, gold in self._gold_of(shard):
            kept = answers[column].slice(start, len(gold)).to_pylist()
            best = [np.array(row[0] if column == TOPK_TAGS else np.argmax(row, axis=-1)) for row in kept]
            parts.append(count_correct(best, gold))
        return add_sums(parts)

    def _gold_of(self, shard: Shard) -> Iterator[tuple[int, list[np.ndarray | None]]]:
        """Some sentences at a time: the place of the first in the shard, and the gold tags of each."""
        groups, column = self._groups[shard.language], self._gold_column
        for start in range(0, len(shard.rows), _ROWS_AT_ONCE):
            rows = shard.rows[start : start + _ROWS_AT_ONCE].tolist()
            if column is None:
                yield start, [None] * len(rows)
                continue
            read = self._dataset[rows]
            yield start, [self._gold_ids_of(tags, words, groups) for tags, words in zip(read[column], read[TOKENS])]

    def _temperature_of(self, name: str) -> float:
        return self.temperatures.get(TOPK_LOG_PROBS if name in (TOPK_TAGS, UNPROVEN) else name, 1.0)

    def _gold_ids_of(
        self, tags: Sequence[str | int] | None, words: Sequence[str], groups: tuple[int, ...] | None
    ) -> np.ndarray | None:
        if not tags or len(tags) != len(words):
            return None
        # No tag at all, and a number that nothing names, is not one that the teacher missed.
        if any(tag is None or (isinstance(tag, int) and tag not in self._gold_ids) for tag in tags):
            return None
        ids = [self._gold_ids.get(tag, -1) for tag in tags]
        return np.array([groups[tag] if groups and tag >= 0 else tag for tag in ids])


def _lengths_and_panels(dataset: Dataset, panels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Each sentence's number of words, and the number of the panel it goes to: (sentences,) each."""
    by_language = ALL not in panels
    columns = [TOKENS, *([LANGUAGE] if by_language else [])]
    lengths, places = np.zeros(len(dataset), np.int32), np.zeros(len(dataset), np.int32)
    start = 0
    for table in dataset.with_format("arrow").select_columns(columns).iter(batch_size=10_000):
        here = slice(start, start := start + len(table))
        lengths[here] = pc.list_value_length(table[TOKENS]).to_numpy()
        if by_language:
            places[here] = pc.index_in(table[LANGUAGE], pa.array(panels)).to_numpy()
    return lengths, places


UNPROVEN = "unproven"  # beside the columns: whether a sentence's k best could not be shown to be the best


def ask(distribution: TagDistribution, wanted: Sequence[str], top_k: int) -> dict[str, np.ndarray]:
    """A distribution's answers for a batch of sentences.

    Args:
        distribution: a teacher's, in the student's labels.
        wanted: target column names, and `UNPROVEN`.
        top_k: paths a sentence; fewer where there are not so many.

    Returns:
        For each wanted column an array over the batch, shaped and padded as in [`Targets`]; for `UNPROVEN`, where
        the k best are asked, (batch,), boolean.

    Raises:
        ValueError: if the distribution has no such quantity (see [`StateDistribution`]).
    """
    values: dict[str, Tensor] = {}
    if TOPK_TAGS in wanted or TOPK_LOG_PROBS in wanted:
        paths = distribution.topk(top_k)
        values[TOPK_TAGS], values[TOPK_LOG_PROBS] = paths.tags, paths.log_prob
        proven = paths.proven if isinstance(paths, BestPaths) else torch.ones(len(paths.tags), dtype=torch.bool)
        values[UNPROVEN] = ~proven
    if MARGINALS in wanted:
        values[MARGINALS] = distribution.marginals
    if EDGE_COUNTS in wanted:
        values[EDGE_COUNTS] = distribution.edge_counts
    if EMISSIONS in wanted or TRANSITIONS in wanted or START_END in wanted:
        scores = distribution.scores
        batch = scores.emissions.shape[0]
        values[EMISSIONS] = scores.emissions
        values[TRANSITIONS] = scores.transitions.expand(batch, -1, -1)
        values[START_END] = torch.stack((scores.start, scores.end)).expand(batch, -1, -1)
    if ENTROPY in wanted:
        values[ENTROPY] = distribution.entropy()
    return {name: values[name].numpy(force=True) for name in wanted if name in values}
