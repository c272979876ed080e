"""Annotation: the teachers are asked once, and their answers stored as dataset columns."""

import hashlib
import logging
import os
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from datasets import Dataset, Features, IterableDataset, concatenate_datasets
from tqdm.auto import tqdm

from ..data.columns import (
    GLUED,
    GROUPS,
    LABELS,
    LANGUAGE,
    TARGET_COLUMNS,
    TEMPERATURE,
    TEMPERED_COLUMNS,
    TOKENS,
    TOPK_LOG_PROBS,
    TOPK_TAGS,
    WEIGHT,
    column_lengths,
    column_values,
    target_of,
)
from ..data.words import check_corpus
from ..distillation.objectives import check_temperature
from ..processes import check_processes, prepare_processes
from .answer_store import (
    AnnotationError,
    PartialAnswers,
    finished,
    load_finished,
    load_summary,
    merge_shards,
    stored_stream,
    update_summary,
)
from .answer_summary import accuracy, add_sums, summarise, without_gold
from .panel import Panel, Teachers
from .question import ALL_LANGUAGES, Question, Shard

__all__ = ["AnnotationError", "Teachers", "annotate", "corpus_fingerprint"]

logger = logging.getLogger(__name__)
SENTENCES_ENDING = ".sentences.arrow"  # after the name of the folder of answers: the sentences of a stream
SHARD_SIZE = 2048  # sentences that are stored together
# The version of question and storage. Raise it with a change that gives the same question other answers, or stores the
# same answers in another way: stored answers of another version are refused.
ANSWER_FORMAT = 2
_ESCAPED = str.maketrans({"\0": "\2n", "\1": "\2o", "\2": "\2\2"})  # different texts stay different


def annotate(
    dataset: Dataset | IterableDataset,
    teachers: Teachers,
    *,
    label_names: Sequence[str],
    targets: Sequence[str],
    top_k: int = 10,
    temperature: float | Mapping[str, float] = 1.0,
    batch_size: int = 64,
    output_dir: str | os.PathLike | None = None,
    progress: bool = True,
    shard_size: int = SHARD_SIZE,
    context: int = 0,
) -> Dataset:
    """Add the teachers' answers to a corpus.

    With an `output_dir` answers are stored shard by shard. After a kill and a new start, annotation continues with the
    first unfinished shard and ends with the same bytes. Under several processes (`accelerate launch`) each process
    asks about its share of the shards, and all read the whole; they must see the same folder. The folder also holds
    `annotation.json`, the question and the teachers, and `summary.json`: for each language the teachers' names,
    weights and temperatures, their accuracy on the gold tags, if there are any, their entropy, the number of paths and
    the probability that they cover, and the number of sentences whose k best are not proven to be the best.

    A stream needs an `output_dir` and an end (`stream.take(n)`). It is read once, into the file
    `OUTPUT_DIR.sentences.arrow`, and annotated from there; neither its sentences nor the answers are all in memory.

    Args:
        dataset: columns `tokens` and, where teachers differ by language, `language`.
        teachers: language -> teacher, or one teacher for all sentences. Where a list of teachers, or of
            (teacher, weight), is given in place of a teacher, their distributions are mixed.
        label_names: the student's labels, in the order of their ids.
        targets: names of [`TARGET_COLUMNS`].
        top_k: tag sequences per sentence; fewer where fewer exist.
        temperature: divides all of a teacher's scores before it answers (a global temperature), before tags are merged
            and teachers mixed; for all targets, or target -> temperature, 1 for missing targets. Where one is not 1,
            the column `teacher_temperature` records it.
        batch_size: sentences per forward pass; sentences of similar length share one.
        output_dir: where the answers are stored, and read from if they exist.
        progress: show a progress bar, with sentences per second.
        shard_size: sentences that are stored together; at most so many are lost when a process is killed.
        context: how many sentences before and after it in the same document a teacher reads with each sentence; the
            student reads it alone. The dataset then has a column `document`, and the sentences of a document stand
            together in their order. Entities do not cross the bounds of sentences.

    Returns:
        The dataset with the target columns, and `teacher_labels`, which identifies the labels that number the tags.
        Where a teacher cannot tell some tags apart, there is also `teacher_groups`. Where the teachers of one language
        leave different labels open, each group of teachers that leave the same ones open is a voice: the first has the
        plain columns, the second `teacher_marginals_2` and so on, and `teacher_weight` says how much each counts.

    Raises:
        ValueError: for k < 1, a negative context, or one without documents, an unknown target, a sentence without
            words, a language without a teacher, label sets that differ, targets that a teacher cannot give, or a
            teacher that answers NaN.
        AnnotationError: if `output_dir` holds answers to another question, or damaged answers; it says what differs.
            Also if another job is annotating into the same folder.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, not {shard_size}")
    if output_dir is not None and "://" in str(output_dir):
        raise ValueError(
            f"output_dir must be a folder of this machine, not {str(output_dir)!r}: annotate_part writes to addresses"
        )
    if isinstance(dataset, IterableDataset):
        if output_dir is None:
            raise ValueError(
                "a stream is annotated into a folder, where its sentences and the answers are written: give "
                "output_dir (annotation_dir in the training arguments), and an end to a stream that has none "
                "(stream.take(n))"
            )
        dataset = stored_stream(dataset, Path(f"{Path(output_dir)}{SENTENCES_ENDING}"))
    question, record = prepare_question(
        dataset, teachers, label_names, targets, top_k, temperature, batch_size, context=context
    )
    corpus = without_answers(dataset)
    if not len(dataset):
        features = Features({**corpus.features, **question.features})
        return Dataset.from_dict({name: [] for name in features}, features)
    if output_dir is None:
        answers = _annotate_in_memory(question, shard_size, progress)
    else:
        record["data"] = corpus_fingerprint(dataset)
        answers = _annotate_on_disk(question, record, Path(output_dir), shard_size, progress)
    return concatenate_datasets([corpus, answers], axis=1)


def without_answers(dataset: Dataset) -> Dataset:
    """The corpus without the columns of teachers' answers."""
    return dataset.remove_columns([name for name in dataset.column_names if target_of(name)])


def prepare_question(
    dataset: Dataset,
    teachers: Teachers,
    label_names: Sequence[str],
    targets: Sequence[str],
    top_k: int,
    temperature: float | Mapping[str, float],
    batch_size: int,
    every_language: bool = False,
    context: int = 0,
) -> tuple[Question, dict[str, Any]]:
    """What is asked, and everything that decides the answers beside the sentences, as JSON values.

    Args:
        dataset, teachers, label_names, targets, top_k, temperature, batch_size, context: As for [`annotate`].
        every_language: Whether teachers of languages that the dataset lacks count too: all parts of a corpus then
            have the same columns.

    Raises:
        ValueError: As [`annotate`] does.
    """
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if context < 0 or isinstance(context, bool):
        raise ValueError(f"context is a number of sentences, 0 or more, not {context}")
    if unknown := [name for name in targets if name not in TARGET_COLUMNS]:
        raise ValueError(f"unknown targets {unknown}; there are {list(TARGET_COLUMNS)}")
    check_corpus(dataset)
    if len(empty := np.flatnonzero(column_lengths(dataset, TOKENS) == 0)):
        raise ValueError(f"row {empty[0]} of the corpus has no words, so no teacher can answer: leave such rows out")
    panels = _panels(dataset, teachers, every_language)
    for panel in panels.values():
        panel.check(label_names, targets)
        if context:
            panel.check_context()

    wanted = {*targets, LABELS}
    if TOPK_TAGS in wanted:
        wanted.add(TOPK_LOG_PROBS)
    temperatures = _temperatures(temperature, wanted)
    if any(value != 1.0 for value in temperatures.values()):
        wanted.add(TEMPERATURE)
    voices = [voice for panel in panels.values() for voice in panel.voices(label_names)]
    if any(voice.groups is not None for voice in voices):
        wanted.add(GROUPS)
    if len(voices) > len(panels):
        wanted.add(WEIGHT)
    ordered = [name for name in TARGET_COLUMNS if name in wanted]
    question = Question(dataset, panels, label_names, ordered, top_k, temperatures, batch_size, context)
    record = {
        "targets": ordered,
        "labels": list(label_names),
        "top_k": top_k if TOPK_LOG_PROBS in wanted else None,
        "temperature": {name: value for name, value in temperatures.items() if value != 1.0},
        "teachers": {language: panel.record() for language, panel in sorted(panels.items())},
        "format": ANSWER_FORMAT,
        **({"context": question.context_record()} if context else {}),
    }
    return question, record


def corpus_fingerprint(dataset: Dataset) -> str:
    """A hash of the sentences and their languages, in order; independent of how the dataset was made.

    Stored results and answers hold this hash, so it must not change: NUL ends a word, U+0001 a sentence, and both are
    escaped inside words.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    languages = column_values(dataset, LANGUAGE) if LANGUAGE in dataset.column_names else repeat("")
    for words, language in zip(column_values(dataset, TOKENS), languages):
        parts = (language or "", *words)
        text = "\0".join(parts)
        if text.count("\0") >= len(parts) or "\1" in text or "\2" in text:  # hardly ever
            text = "\0".join(part.translate(_ESCAPED) for part in parts)
        digest.update(text.encode("utf-8", "surrogatepass") + b"\1")
    if GLUED in dataset.column_names:
        for flags in column_values(dataset, GLUED):
            digest.update(b"-" if flags is None else b"+" + bytes(flags))
    return digest.hexdigest()[:16]


def _temperatures(temperature: float | Mapping[str, float], wanted: Container[str]) -> dict[str, float]:
    """The temperature of each of `TEMPERED_COLUMNS`.

    Raises:
        ValueError: for a temperature that is not above 0, or has no effect.
    """
    given = dict.fromkeys(TEMPERED_COLUMNS, temperature) if not isinstance(temperature, Mapping) else dict(temperature)
    for name, value in given.items():
        check_temperature(value)
        if isinstance(temperature, Mapping) and (name not in TEMPERED_COLUMNS or name not in wanted):
            raise ValueError(
                f"a temperature of {name!r} has no effect; these of the targets have one: "
                f"{[target for target in TEMPERED_COLUMNS if target in wanted]}"
            )
    return {name: float(given.get(name, 1.0)) for name in TEMPERED_COLUMNS}


def ask(question: Question, progress: bool = False, part: range | None = None) -> Dataset:
    """The answers to a question, in memory: a row for each sentence, without the corpus's own columns.

    Args:
        question: the question.
        progress: as for [`annotate`].
        part: the rows to ask about; all where `None`.
    """
    if not question.count:
        return Dataset.from_dict({name: [] for name in question.features}, question.features)
    return _annotate_in_memory(question, SHARD_SIZE, progress, part)


def _panels(dataset: Dataset, teachers: Teachers, every_language: bool = False) -> dict[str, Panel]:
    if not isinstance(teachers, Mapping):
        return {ALL_LANGUAGES: Panel(teachers)}
    if LANGUAGE not in dataset.column_names:
        raise ValueError(f"teachers are given by language, but the corpus has no column {LANGUAGE!r}")
    languages = set(column_values(dataset, LANGUAGE))
    if None in languages:
        row = next(row for row, language in enumerate(column_values(dataset, LANGUAGE)) if language is None)
        raise ValueError(
            f"row {row} of the corpus has no {LANGUAGE}, and teachers are given by language: name it, or give one "
            "teacher for all sentences"
        )
    if missing := sorted(language for language in languages if language not in teachers):
        raise ValueError(f"no teacher for language {', '.join(missing)}; there are teachers for {sorted(teachers)}")
    return {language: Panel(teachers[language]) for language in sorted(teachers if every_language else languages)}


def _progress_bar(sentences: int, done: int, progress: bool) -> tqdm:
    title = "Asking the teachers"
    return tqdm(total=sentences, initial=done, desc=title, unit=" sentences", smoothing=0.1, disable=not progress)


def _annotate_in_memory(question: Question, shard_size: int, progress: bool, part: range | None = None) -> Dataset:
    shards = question.shards(shard_size, part)
    count = _num_sentences(shards)
    with _progress_bar(count, 0, progress) as bar:
        tables, sums = zip(*(question.answer(shard, bar.update) for shard in shards))
    notes = [{"sums": each} for each in sums]
    _log_summary(_summary(question, shards, notes), sum(table.nbytes for table in tables) / count)
    return Dataset(merge_shards(tables, [shard.rows for shard in shards]))


def processes() -> PartialState:
    """The processes of this run.

    Raises:
        ProcessesError: if a launcher started several that do not know of each other.
    """
    prepare_processes()
    check_processes()
    return PartialState()


def _annotate_on_disk(
    question: Question, record: dict[str, Any], folder: Path, shard_size: int, progress: bool
) -> Dataset:
    state = processes()
    partial = PartialAnswers(folder, {**record, "shard_size": shard_size})
    if finished(partial.folder):
        answers = load_finished(partial.folder, record, question.lengths)
        state.wait_for_everyone()
        if state.is_main_process:
            partial.discard()  # left by a process that was killed between its last two steps
            _update_summary(question, partial.folder, answers)
        return answers
    shards = question.shards(shard_size)
    with partial.exclusive_lock() if state.is_main_process else nullcontext():
        if state.is_main_process:
            partial.discard() if finished(partial.folder) else partial.open()
        state.wait_for_everyone()
        if not finished(partial.folder):  # another job may have finished just now
            share = list(enumerate(shards))[state.process_index :: state.num_processes]
            todo = [(number, shard) for number, shard in share if partial.note(number, shard.rows) is None]
            _ask_shards(question, todo, share, partial, progress and state.is_main_process)
            state.wait_for_everyone()
            if state.is_main_process:
                partial.finish(
                    [shard.rows for shard in shards],
                    question.lengths,
                    lambda notes, tables: _summary(question, shards, _grade_notes(question, shards, notes, tables)),
                    {"version": version("hf_structkd"), "gold": question.gold_key(shards)},
                )
    state.wait_for_everyone()
    answers = load_finished(partial.folder, record, question.lengths)
    if state.is_main_process:
        _log_summary(load_summary(partial.folder), answers.data.nbytes / len(answers))
    return answers


def _ask_shards(
    question: Question,
    todo: Sequence[tuple[int, Shard]],
    share: Sequence[tuple[int, Shard]],
    partial: PartialAnswers,
    progress: bool,
) -> None:
    """Ask about the shards of a process's share that are not finished, and store the answers."""
    started = time.perf_counter()
    missing, total = (_num_sentences(shard for _, shard in numbered) for numbered in (todo, share))
    with _progress_bar(total, total - missing, progress) as bar:
        for number, shard in todo:
            table, sums = question.answer(shard, bar.update)
            partial.write(number, shard.rows, table, sums, question.gold_key([shard]))
    seconds = time.perf_counter() - started
    if todo:
        rate = missing / max(seconds, 1e-9)
        logger.info("asked about %d sentences in %.1f s (%.1f sentences/s)", missing, seconds, rate)


def _num_sentences(shards: Iterable[Shard]) -> int:
    return sum(len(shard.rows) for shard in shards)


def _grade_notes(
    question: Question, shards: Sequence[Shard], notes: Sequence[Mapping[str, Any]], tables: Sequence[pa.Table]
) -> list[Mapping[str, Any]]:
    """The notes, with sums for the present gold tags, which may have changed since the teachers were asked."""
    graded = []
    for shard, note, table in zip(shards, notes, tables, strict=True):
        if note.get("gold") != question.gold_key([shard]):
            note = {**note, "sums": without_gold(note["sums"]) | (question.grade(shard, table) or {})}
        graded.append(note)
    return graded


def _update_summary(question: Question, folder: Path, answers: Dataset) -> None:
    """Bring the accuracy in the summary of finished answers up to date with the present gold tags."""
    shards = {shard.language: shard for shard in question.shards(question.count)}

    def grade(language: str) -> float | None:
        shard = shards[language]
        sums = question.grade(shard, answers.data.table.take(pa.array(shard.rows)))
        return None if sums is None else accuracy(sums)

    update_summary(folder, question.gold_key(list(shards.values())), grade)


def _summary(question: Question, shards: Sequence[Shard], notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    languages = sorted({shard.language for shard in shards})
    return {
        language: {
            "teachers": question.panels[language].summary(),
            **summarise(
                add_sums(note["sums"] for shard, note in zip(shards, notes, strict=True) if shard.language == language)
            ),
        }
        for language in languages
    }


def _log_summary(summary: Mapping[str, Mapping[str, Any]], bytes_per_sentence: float) -> None:
    for language, figures in summary.items():
        parts = [f"{figures['sentences']:,} sentences", f"entropy {figures['entropy']:.3f} nats per sentence"]
        parts += [f"accuracy {figures['accuracy']:.4f}"] if figures["accuracy"] is not None else []
        parts += [f"mass of the k best {figures['mass']:.4f}"] if figures["mass"] is not None else []
        logger.info("teachers of %s: %s", language, ", ".join(parts))
        if figures["unproven"]:
            logger.warning(
                "teachers of %s: for %d of %d sentences a sequence outside the k best may be more probable than one "
                "of them (merged labels or several teachers, see docs/teachers.md)",
                language,
                figures["unproven"],
                figures["sentences"],
            )
    logger.info("the answers take %.0f bytes per sentence", bytes_per_sentence)
