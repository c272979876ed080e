"""What is asked of the teachers about a corpus, and their answers as Arrow rows.

A [`Question`] cuts the corpus into shards and answers them batch by batch: a [`Panel`] gives a distribution,
`target_values` reads the wanted quantities off it, and `arrow_batch` turns these into rows of the target columns.
"""

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
    WEIGHT,
    labels_key,
    target_of,
    voice_column,
)
from ..data.words import tag_column, tag_names
from ..modeling.glued_words import GLUED, join_words, sentences_of
from .answer_summary import Sums, add_sums, batch_sums, count_correct, mean_over_voices
from .context import Context, document_bounds
from .distribution import TagDistribution
from .panel import Panel, Voice

_ROWS_AT_ONCE = 1000  # whose gold tags are read together
ALL_LANGUAGES = "*"  # the key of a panel that serves every language
UNPROVEN = "unproven"  # beside the columns: whether a sentence's k best could not be proven to be the best


@dataclass(frozen=True, eq=False)
class Shard:
    """Sentences that are asked about and stored together, longest first.

    Args:
        language: whose panel answers, or `ALL_LANGUAGES`.
        rows: (sentences,), rows of the dataset.
    """

    language: str
    rows: np.ndarray


class Question:
    """What is asked about a corpus, and of which teachers.

    Sentences are read from the dataset when they are asked about, so memory holds a few bytes per sentence.

    Args:
        dataset: the corpus.
        panels: language -> its teachers, or `ALL_LANGUAGES` -> the teachers of every language.
        label_names: the student's labels.
        targets: the columns wanted, including the automatic ones.
        top_k, batch_size: as for `annotate`.
        temperatures: of each of `TEMPERED_COLUMNS`.
        context: as for `annotate`.
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
        context: int = 0,
    ) -> None:
        self.panels, self.label_names, self.targets = dict(panels), list(label_names), list(targets)
        self.top_k, self.temperatures, self.batch_size = top_k, dict(temperatures), batch_size
        self.count, self.context = len(dataset), context
        self._bounds = document_bounds(dataset) if context else None
        self.lengths, self._panel_of = _lengths_and_panels(dataset, sorted(self.panels))
        self._voices = {language: panel.voices(self.label_names) for language, panel in self.panels.items()}
        most = max(map(len, self._voices.values()), default=1)
        features = target_features(self.targets, len(self.label_names))
        self.features = Features(
            {
                voice_column(name, voice): feature
                for voice in range(most)
                for name, feature in features.items()
                if voice == 0 or name not in (TEMPERATURE, LABELS)
            }
        )
        column = tag_column(dataset)
        self._gold_column = column
        blanks = [GLUED] if GLUED in dataset.column_names else []
        self._dataset = dataset.with_format(None).select_columns([TOKENS, *blanks, *([column] if column else [])])
        names = tag_names(dataset) or []  # numbers without names are no labels
        ids = {label: i for i, label in enumerate(self.label_names)}
        self._gold_ids: dict[str | int, int] = {i: ids.get(name, -1) for i, name in enumerate(names)}
        self._gold_ids.update(ids)

    def shards(self, size: int, part: range | None = None) -> list[Shard]:
        """All sentences, by language, longest first, so that batches waste little on padding.

        Args:
            size: sentences per shard.
            part: the rows to ask about; all where `None`. Neighbours of a sentence may lie outside of it.
        """
        part = range(self.count) if part is None else part
        shards = []
        for number, language in enumerate(sorted(self.panels)):
            rows = part.start + np.flatnonzero(self._panel_of[part.start : part.stop] == number)
            rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
            shards += [Shard(language, rows[start : start + size]) for start in range(0, len(rows), size)]
        return shards

    def answer(self, shard: Shard, done: Callable[[int], object] = lambda count: None) -> tuple[pa.Table, Sums]:
        """Ask about a shard's sentences.

        Args:
            shard: one of `shards`.
            done: called after each batch with its number of sentences.

        Returns:
            A table with a row for each of the shard's rows, in their order, and the sums for the summary. The columns
            of a voice that the shard's language lacks are null.

        Raises:
            ValueError: if a teacher answers NaN, or cannot answer; it names teacher and rows.
        """
        batches, sums = [], []
        for start in range(0, len(shard.rows), self.batch_size):
            rows = shard.rows[start : start + self.batch_size].tolist()
            batch, batch_sum = self._answer_batch(shard.language, rows)
            batches.append(batch)
            sums.append(batch_sum)
            done(len(rows))
        return pa.Table.from_batches(batches).combine_chunks(), add_sums(sums)

    @torch.inference_mode()
    def _answer_batch(self, language: str, rows: Sequence[int]) -> tuple[pa.RecordBatch, Sums]:
        voices = self._voices[language]
        batch = self._dataset[list(rows)]
        sentences = sentences_of(batch)
        gold_tags = batch[self._gold_column] if self._gold_column else [None] * len(rows)
        gold = [self._gold_ids_of(tags, words) for tags, words in zip(gold_tags, sentences)]
        lengths = np.array([len(words) for words in sentences])
        neighbours = self._context_of(rows)
        answers = [self._ask(voice, rows, sentences, neighbours) for voice in voices]
        unproven = [values[UNPROVEN] for values in answers if UNPROVEN in values]
        sums = []
        for voice, values in zip(voices, answers):
            best = values[TOPK_TAGS][:, 0] if TOPK_TAGS in values else values[MARGINALS].argmax(axis=-1)
            read_gold = [_representatives(tags, voice.groups) for tags in gold]
            any_unproven = np.logical_or.reduce(unproven) if unproven else None
            sums.append(
                batch_sums(lengths, values[ENTROPY], values.get(TOPK_LOG_PROBS), any_unproven, best, read_gold)
            )
        table = arrow_batch(answers, lengths, self.features)
        return table, mean_over_voices(sums, [voice.weight for voice in voices])

    def context_record(self) -> dict[str, Any] | None:
        """What decides the neighbours of each sentence, as JSON values; `None` without context."""
        if self._bounds is None:
            return None
        bounds = np.stack(self._bounds).astype("<i8").tobytes()
        return {"sentences": self.context, "documents": hashlib.sha256(bounds).hexdigest()[:16]}

    def _context_of(self, rows: Sequence[int]) -> Context | None:
        """The words before and after each sentence that its teachers read, too."""
        if self._bounds is None:
            return None
        firsts, ends = self._bounds
        before = [range(max(row - self.context, int(firsts[row])), row) for row in rows]
        after = [range(row + 1, min(row + 1 + self.context, int(ends[row]))) for row in rows]
        needed = sorted({row for part in (*before, *after) for row in part})
        words = dict(zip(needed, sentences_of(self._dataset[needed]))) if needed else {}
        join = lambda part: join_words([words[row] for row in part])  # noqa: E731
        return [(join(one), join(other)) for one, other in zip(before, after)]

    def _ask(
        self, voice: Voice, rows: Sequence[int], sentences: list[list[str]], context: Context | None
    ) -> dict[str, np.ndarray]:
        """A voice's values of the target columns, of those for the summary, and of the automatic ones."""
        panel = voice.panel
        try:
            distribution = panel.distribution(sentences, self.label_names, context)
            best_from = TOPK_TAGS if TOPK_TAGS in self.targets else MARGINALS
            wanted = dict.fromkeys((*self.targets, ENTROPY, best_from, UNPROVEN))
            values: dict[str, np.ndarray] = {}
            for temperature in sorted({self._temperature_of(name) for name in wanted}):
                softened = distribution if temperature == 1.0 else distribution.with_temperature(temperature)
                columns = [name for name in wanted if self._temperature_of(name) == temperature]
                values |= target_values(softened, columns, self.top_k)
        except ValueError as error:
            raise ValueError(f"asking {panel.name} about rows {list(rows[:5])}...: {error}") from error
        for name in (MARGINALS, EMISSIONS, TOPK_LOG_PROBS, ENTROPY):
            if name in values and np.isnan(values[name]).any():
                first = int(np.isnan(values[name]).reshape(len(rows), -1).any(axis=1).argmax())
                raise ValueError(
                    f"{panel.name} answered NaN ({name}) to row {rows[first]}, {' '.join(sentences[first])[:80]!r}: "
                    "check its weights and its dtype"
                )
        impossible = np.zeros(len(rows), bool)
        if MARGINALS in values:  # the sum is the share of a mixture's teachers that think any sequence possible
            impossible |= values[MARGINALS][:, 0].astype(np.float64).sum(axis=-1) < 1 - 1e-2
        if TOPK_LOG_PROBS in values:
            impossible |= ~(values[TOPK_LOG_PROBS][:, 0] > -np.inf)
        if impossible.any():  # it would pass for a sentence without an answer
            first = int(impossible.argmax())
            raise ValueError(
                f"{panel.name} excludes all tag sequences of row {rows[first]}, {' '.join(sentences[first])[:80]!r}: "
                "its scores are -inf where a word's tags, or the transitions between them, need a number"
            )
        values[GROUPS] = np.tile(np.array(voice.groups or range(len(self.label_names))), (len(rows), 1))
        values[WEIGHT] = np.full(len(rows), voice.weight)
        values[TEMPERATURE] = np.tile([self._temperature_of(name) for name in TEMPERED_COLUMNS], (len(rows), 1))
        values[LABELS] = np.full(len(rows), labels_key(self.label_names))
        return values

    def gold_key(self, shards: Sequence[Shard]) -> str:
        """A hash of the gold tags of the shards' sentences, as the student's labels; the shards' size is ignored."""
        digest = hashlib.sha256()
        for shard in shards:
            voices = self._voices[shard.language]
            groups = voices[0].groups if len(voices) == 1 else None  # tags that nobody tells apart are the same
            for _, gold in self._gold_of(shard):
                for tags in (_representatives(tags, groups) for tags in gold):
                    digest.update(b"-" if tags is None else b"+" + tags.astype(np.int64).tobytes())
        return digest.hexdigest()

    def grade(self, shard: Shard, answers: pa.Table) -> Sums | None:
        """Compare stored answers with the gold tags that the shard's sentences have now.

        Args:
            shard: one of `shards`.
            answers: a row for each of the shard's rows, in their order.

        Returns:
            The sums of `count_correct`; `None` where the answers do not hold the teacher's best tags.
        """
        column = next((name for name in (TOPK_TAGS, MARGINALS) if name in answers.column_names), None)
        if column is None:
            return None
        voices, parts = self._voices[shard.language], []
        for start, gold in self._gold_of(shard):
            counts = []
            for number, voice in enumerate(voices):
                values = answers[voice_column(column, number)].slice(start, len(gold)).to_pylist()
                best = [np.array(row[0] if column == TOPK_TAGS else np.argmax(row, axis=-1)) for row in values]
                counts.append(count_correct(best, [_representatives(tags, voice.groups) for tags in gold]))
            parts.append(mean_over_voices(counts, [voice.weight for voice in voices]))
        return add_sums(parts)

    def _gold_of(self, shard: Shard) -> Iterator[tuple[int, list[np.ndarray | None]]]:
        """Some sentences at a time: the position of the first in the shard, and the gold tags of each."""
        column = self._gold_column
        for start in range(0, len(shard.rows), _ROWS_AT_ONCE):
            rows = shard.rows[start : start + _ROWS_AT_ONCE].tolist()
            if column is None:
                yield start, [None] * len(rows)
                continue
            batch = self._dataset[rows]
            yield start, [self._gold_ids_of(tags, words) for tags, words in zip(batch[column], batch[TOKENS])]

    def _temperature_of(self, name: str) -> float:
        return self.temperatures.get(TOPK_LOG_PROBS if name in (TOPK_TAGS, UNPROVEN) else name, 1.0)

    def _gold_ids_of(self, tags: Sequence[str | int] | None, words: Sequence[str]) -> np.ndarray | None:
        if not tags or len(tags) != len(words):
            return None
        ids = [self._gold_ids.get(tag, -1) for tag in tags]
        # A missing tag, or a number without a name, is no error of the teacher's.
        if -1 in ids and any(tag is None or (isinstance(tag, int) and tag not in self._gold_ids) for tag in tags):
            return None
        return np.array(ids)


def _representatives(tags: np.ndarray | None, groups: tuple[int, ...] | None) -> np.ndarray | None:
    """Gold tags, each as the representative of its group; -1 stays."""
    return tags if tags is None or groups is None else np.where(tags < 0, tags, np.array(groups)[tags])


def _lengths_and_panels(dataset: Dataset, panels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Each sentence's number of words, and the number of its panel: (sentences,) each."""
    by_language = ALL_LANGUAGES not in panels
    columns = [TOKENS, *([LANGUAGE] if by_language else [])]
    lengths, panel_of = np.zeros(len(dataset), np.int32), np.zeros(len(dataset), np.int32)
    start = 0
    for table in dataset.with_format("arrow").select_columns(columns).iter(batch_size=10_000):
        rows = slice(start, start := start + len(table))
        lengths[rows] = pc.list_value_length(table[TOKENS]).to_numpy()
        if by_language:
            panel_of[rows] = pc.index_in(table[LANGUAGE], pa.array(panels)).to_numpy()
    return lengths, panel_of


def target_values(distribution: TagDistribution, wanted: Sequence[str], top_k: int) -> dict[str, np.ndarray]:
    """The values of target columns for a batch of sentences.

    Args:
        distribution: a teacher's, in the student's labels.
        wanted: target column names, and `UNPROVEN`.
        top_k: paths per sentence; fewer where fewer exist.

    Returns:
        For each wanted column an array over the batch, shaped and padded as in [`Targets`]; for `UNPROVEN`, where
        the k best are wanted, (batch,), boolean.

    Raises:
        ValueError: if the distribution has no such quantity (see [`TagDistribution`]).
    """
    values: dict[str, Tensor] = {}
    if TOPK_TAGS in wanted or TOPK_LOG_PROBS in wanted:
        paths = distribution.topk(top_k)
        values[TOPK_TAGS], values[TOPK_LOG_PROBS] = paths.tags, paths.log_prob
        values[UNPROVEN] = ~paths.proven
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


def target_features(targets: Sequence[str], num_tags: int) -> Features:
    """The Arrow types of target columns.

    Args:
        targets: names of columns.
        num_tags: the number of the student's labels; a tag takes one byte where they fit into it.
    """
    features = {}
    for name in targets:
        column = TARGET_COLUMNS[name]
        feature: Any = Value("int8" if name == TOPK_TAGS and num_tags <= 127 else column.stored)
        for _ in column.axes:
            feature = List(feature)
        features[name] = feature
    return Features(features)


def arrow_batch(
    answers: Sequence[Mapping[str, np.ndarray]], lengths: np.ndarray, features: Features
) -> pa.RecordBatch:
    """The answers to a batch of sentences as rows of the target columns, without padding.

    Args:
        answers: for each voice, for each column an array over the batch, shaped and padded as in [`Targets`].
        lengths: (batch,), words.
        features: of the columns of all voices; columns of a voice that has no answers are null.
    """
    schema = features.arrow_schema
    of_voice = {
        voice_column(name, voice): (name, values) for voice, values in enumerate(answers) for name in TARGET_COLUMNS
    }
    columns = [
        _ragged_column(*of_voice[field.name], lengths, field.type)
        if field.name in of_voice
        else pa.nulls(len(lengths), field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def check_word_counts(table: pa.Table, words: np.ndarray) -> None:
    """Refuse answers about another number of words than their sentences have.

    Args:
        table: answers.
        words: (rows,), how many words each sentence has.

    Raises:
        ValueError: it names column and row.
    """
    if len(table) != len(words):
        raise ValueError(f"there are answers to {len(table):,} sentences where {len(words):,} were asked about")
    start = 0
    for batch in table.to_batches():
        batch_words = words[start : start + len(batch)]
        for name in batch.schema.names:
            axes = TARGET_COLUMNS[target_of(name) or name].axes
            if "words" not in axes:
                continue
            given = batch[name].is_valid()
            column, row_of = batch[name].filter(given), np.flatnonzero(given.to_numpy(zero_copy_only=False))
            for _ in axes[: axes.index("words")]:
                row_of = row_of[pc.list_parent_indices(column).to_numpy()]
                column = pc.list_flatten(column)
            counts = pc.list_value_length(column).to_numpy(zero_copy_only=False)
            if len(wrong := np.flatnonzero(counts != batch_words[row_of])):
                row = int(row_of[wrong[0]])
                raise ValueError(
                    f"{name} of row {start + row} has {counts[wrong[0]]} words where the sentence has "
                    f"{batch_words[row]}"
                )
        start += len(batch)


def _ragged_column(name: str, values: Mapping[str, np.ndarray], lengths: np.ndarray, pa_type: pa.DataType) -> pa.Array:
    axes, padded = TARGET_COLUMNS[name].axes, values[name]
    batch = len(padded)
    kept = np.ones((batch,) + (1,) * (padded.ndim - 1), dtype=bool)
    counts: list[np.ndarray] = []  # the length of each list, level by level, outermost first
    sentences = np.arange(batch)  # the sentence of each list of the level before
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
