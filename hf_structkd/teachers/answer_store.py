"""Answers on disk: written shard by shard, each whole or not at all, and merged when all are written.

While teachers are asked, answers lie in the work folder `<folder>.partial`: the question, and for each finished shard
an Arrow file and then a note with its checksum. A process that is killed leaves at most one unfinished shard, which is
never read. When all shards are finished they become one file in the dataset's order, and the work folder is renamed in
one step. Neither the shards nor the merged file depend on the number of processes. One job at a time may hold the work
folder.

Every file has a checksum, and the files that hold checksums have one of themselves: a damaged shard is asked again,
and a damaged file of finished answers is named. A shard's note records shard, question and rows. The number of words
in the answers is compared with the sentences', before the merge and when answers are read.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset
from datasets.table import InMemoryTable

from ..data.streams import first_rows, with_features
from ..data.words import check_corpus
from ..files import LOCK_FILE, exclusive_lock, file_sha256, json_sha256, read_sealed, sealed, write_atomically
from ..processes import check_processes, prepare_processes
from .answer_summary import Sums, valid_sums
from .question import check_word_counts

logger = logging.getLogger(__name__)
RECORD_FILE, ANSWERS_FILE, SUMMARY_FILE = "annotation.json", "answers.arrow", "summary.json"
QUESTION_FILE = "question.json"
OPTIONAL_PARTS = ("context",)  # of questions: a question that lacks one differs from one that has it
_ROWS_AT_ONCE = 1000


class AnnotationError(ValueError):
    """A stored annotation does not fit the question, is damaged, or could not be written."""


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The differences between two questions, in words; empty where there are none."""
    asked = json.loads(json.dumps(asked))  # as read from a file: tuples are lists
    return "; ".join(
        f"{name}: stored {old}, asked {new}"
        for key in (*asked, *(name for name in OPTIONAL_PARTS if name in stored and name not in asked))
        for name, old, new in _json_differences(stored.get(key), asked.get(key), key)
    )


def _json_differences(stored: Any, asked: Any, name: str) -> Iterator[tuple[str, str, str]]:
    """The differences between two JSON values: (name, stored, asked)."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in dict.fromkeys((*stored, *asked)):
            yield from _json_differences(stored.get(key), asked.get(key), f"{name}.{key}")
    elif isinstance(stored, list) and isinstance(asked, list) and len(stored) == len(asked):
        for index, (old, new) in enumerate(zip(stored, asked)):
            yield from _json_differences(old, new, f"{name}[{index}]")
    elif stored != asked:
        yield name, repr(stored), repr(asked)


def finished(folder: Path) -> bool:
    """Whether a folder holds finished answers.

    Raises:
        AnnotationError: if it holds something else.
    """
    if (folder / RECORD_FILE).exists():
        return True
    if folder.exists() and any(folder.iterdir()):
        raise AnnotationError(f"{folder} is not empty and holds no {RECORD_FILE}; use another folder for the answers")
    return False


def load_finished(folder: Path, record: Mapping[str, Any], words: np.ndarray) -> Dataset:
    """The answers of a finished folder, mapped into memory.

    The dataset has no cache file: beside one `datasets` would store the results of `map`, and read them the next time
    without checking them.

    Args:
        folder: see `finished`.
        record: the question.
        words: (sentences,), the number of words of each sentence.

    Raises:
        AnnotationError: if they answer another question, or are damaged.
    """
    stored = _read_record(folder / RECORD_FILE, f"remove {folder} and ask again")
    if differ := differences(stored, record):
        raise AnnotationError(f"{folder} holds answers to another question ({differ}); use another folder")
    for name, kept in _files(stored, folder).items():
        file = folder / name
        if not file.exists() or file_sha256(file) != kept["sha256"]:
            present = f"{file.stat().st_size:,} bytes with another one" if file.exists() else "no file"
            raise AnnotationError(
                f"{file} is damaged: {kept['bytes']:,} bytes were written and their checksum kept; now there "
                f"is {present}. Remove {folder} and ask again"
            )
    try:
        table = _read(folder / ANSWERS_FILE)
        check_word_counts(table, words)
    except (ValueError, pa.ArrowException) as error:
        raise AnnotationError(
            f"{folder / ANSWERS_FILE} is damaged ({error}): remove {folder} and ask again"
        ) from error
    return Dataset(InMemoryTable(table), fingerprint=_files(stored, folder)[ANSWERS_FILE]["sha256"][:16])


def _files(stored: Mapping[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """The record's entries about the files beside it; it may come from a stranger, so other file names are refused."""
    files = stored.get("files", {ANSWERS_FILE: stored.get("answers")})
    well_formed = (
        isinstance(files, dict)
        and {ANSWERS_FILE} <= files.keys() <= {ANSWERS_FILE, SUMMARY_FILE}
        and all(isinstance(kept, dict) and isinstance(kept.get("bytes"), int) for kept in files.values())
        and all(isinstance(kept.get("sha256"), str) for kept in files.values())
    )
    if not well_formed:
        raise AnnotationError(
            f"{folder / RECORD_FILE} is damaged (what it says of files is not what was written): remove {folder} and "
            "ask again"
        )
    return files


def load_summary(folder: Path) -> dict[str, Any]:
    """The summary of finished answers: language -> the result of [`summarise`](answer_summary.py)."""
    return json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))


def update_summary(folder: Path, gold: str, grade: Callable[[str], float | None]) -> None:
    """Bring the summary of finished answers up to date, if the gold tags have changed since it was written.

    A process that is killed meanwhile leaves whole answers, and a summary that the next process updates.

    Args:
        folder: of finished answers, which no other process reads now.
        gold: a hash of the gold tags.
        grade: language -> the accuracy on them.
    """
    record = read_sealed(folder / RECORD_FILE)
    if record.get("gold") == gold or not (folder / SUMMARY_FILE).exists():
        return
    try:
        summary = load_summary(folder)
        for language, figures in summary.items():
            figures["accuracy"] = grade(language)
        answers = {ANSWERS_FILE: _files(record, folder)[ANSWERS_FILE]}
        _write(folder / RECORD_FILE, _json(sealed({**record, "gold": None, "files": answers})))
        _write(folder / SUMMARY_FILE, _json(summary))
        files = {**answers, SUMMARY_FILE: _checksum(folder / SUMMARY_FILE)}
        _write(folder / RECORD_FILE, _json(sealed({**record, "gold": gold, "files": files})))
    except (OSError, ValueError, KeyError, TypeError) as error:  # a read-only folder, or a stranger's summary
        logger.warning("%s: its accuracy is on other gold tags than these (%s)", folder / SUMMARY_FILE, error)
        return
    logger.info("%s: the gold tags have changed, and the accuracy on them", folder / SUMMARY_FILE)


def _checksum(file: Path) -> dict[str, Any]:
    return {"sha256": file_sha256(file), "bytes": file.stat().st_size}


class PartialAnswers:
    """The unfinished answers to a question.

    Args:
        folder: of the finished answers; the unfinished ones lie beside it.
        question: JSON values.
    """

    def __init__(self, folder: Path, question: Mapping[str, Any]) -> None:
        # A link is followed: a folder can replace a folder, but not a link, and only within one file system.
        self.folder, self.question = Path(os.path.realpath(folder)), dict(question)
        self.work = self.folder.with_name(f"{self.folder.name}.partial")
        self._question_key = json_sha256(self.question)

    def exclusive_lock(self) -> AbstractContextManager[None]:
        """Hold the work folder for this job.

        Raises:
            AnnotationError: if another job holds it, or it is no work folder.
        """
        if self.work.exists() and not self._is_work_folder():
            raise AnnotationError(
                f"{self.work} holds no {QUESTION_FILE}, so it is no annotation's work folder: use another folder"
            )
        return exclusive_lock(self.work, AnnotationError, f"asking teachers for {self.folder}")

    def _is_work_folder(self) -> bool:
        names = [path.name for path in self.work.iterdir()]
        return QUESTION_FILE in names or all(name == LOCK_FILE or name.endswith(".tmp") for name in names)

    def open(self) -> None:
        """Create the work folder, or continue with it. The job must hold its lock.

        Raises:
            AnnotationError: if it belongs to another question, or the finished folder could not take its final name.
        """
        file = self.work / QUESTION_FILE
        begun = any(self.work.glob("shard-*"))  # else there are no answers to another question
        stored = _read_record(file, f"remove {self.work} and ask again") if begun else self.question
        if differ := differences(stored, self.question):
            raise AnnotationError(
                f"{self.work} holds unfinished answers to another question ({differ}); remove it, or use another "
                "folder"
            )
        for stale in self.work.glob("*.tmp"):  # of processes that were killed
            stale.rmdir() if stale.is_dir() else stale.unlink()
        _write(file, _json(sealed(self.question)))
        self._check_renaming()

    def _check_renaming(self) -> None:
        """Replace an existing target folder with an empty one: a mount point would refuse only at the very end."""
        if not self.folder.exists():
            return
        probe = self.work / "probe.tmp"
        probe.mkdir(exist_ok=True)
        try:
            os.replace(probe, self.folder)
        except OSError as error:
            probe.rmdir()
            if not any(self.work.glob("shard-*")):
                self.discard()
            raise AnnotationError(
                f"{self.folder} cannot be replaced by the finished answers ({error.strerror or error}), as where a "
                f"volume is mounted on it: give a folder inside it, {self.folder / 'annotations'}, or another one"
            ) from error

    def _paths(self, number: int) -> tuple[Path, Path]:
        return self.work / f"shard-{number:05d}.arrow", self.work / f"shard-{number:05d}.json"

    def _binding(self, number: int, rows: np.ndarray) -> dict[str, Any]:
        """The fields of a note that identify its shard."""
        rows_key = hashlib.sha256(np.asarray(rows, dtype=np.int64).tobytes()).hexdigest()
        return {"shard": number, "question": self._question_key, "rows": rows_key}

    def note(self, number: int, rows: np.ndarray) -> dict[str, Any] | None:
        """The note of a finished shard; `None` where the shard is unfinished or damaged.

        Args:
            number: the shard's.
            rows: the shard's rows of the dataset.
        """
        file, note_file = self._paths(number)
        if not note_file.exists() or not file.exists():
            return None
        try:
            note = read_sealed(note_file)
        except ValueError as error:
            logger.warning("%s is damaged (%s): its shard is asked again", note_file, error)
            return None
        if not valid_sums(note.get("sums")):
            logger.warning("%s is damaged (its sums are none): its shard is asked again", note_file)
            return None
        if any(note.get(key) != value for key, value in self._binding(number, rows).items()):
            logger.warning("%s belongs to another shard, question or corpus: its shard is asked again", note_file)
            return None
        if file_sha256(file) != note.get("sha256"):
            logger.warning("%s does not match its checksum: it is asked again", file)
            return None
        return note

    def write(self, number: int, rows: np.ndarray, table: pa.Table, sums: Sums, gold: str) -> None:
        """Store a shard's answers. The note comes last: a shard with a note is whole.

        Args:
            number, rows: as for `note`.
            table: a row for each of the rows.
            sums: for the summary.
            gold: a hash of the gold tags from which the sums were made.

        Raises:
            AnnotationError: if they cannot be written.
        """
        file, note_file = self._paths(number)
        note_file.unlink(missing_ok=True)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue().to_pybytes()
        _write(file, data)
        note = {"sha256": hashlib.sha256(data).hexdigest(), "sums": sums, "gold": gold, **self._binding(number, rows)}
        _write(note_file, json.dumps(sealed(note)).encode())

    def finish(
        self,
        rows_of_shards: Sequence[np.ndarray],
        words: np.ndarray,
        summary: Callable[[list[dict[str, Any]], list[pa.Table]], dict[str, Any]],
        more: Mapping[str, Any],
    ) -> None:
        """Merge all shards in the dataset's order, and give the folder its final name.

        Args:
            rows_of_shards: each shard's rows of the dataset.
            words: (sentences,), the number of words of each sentence.
            summary: the shards' notes and answers -> the summary.
            more: fields of the record beside the question.

        Raises:
            AnnotationError: if a shard is missing, or its answers do not fit the sentences.
        """
        read = [self.note(number, rows) for number, rows in enumerate(rows_of_shards)]
        notes = [note for note in read if note is not None]
        if missing := [number for number, note in enumerate(read) if note is None]:
            raise AnnotationError(
                f"shards {missing[:10]} are missing from {self.work}: do all processes see the same folder?"
            )
        ready = self.work / "finished"
        shutil.rmtree(ready, ignore_errors=True)
        try:
            with _writing(ready):
                ready.mkdir()
                tables = [self._table(number, words[rows]) for number, rows in enumerate(rows_of_shards)]
                merge_shards(tables, rows_of_shards, ready / ANSWERS_FILE)
            _write(ready / SUMMARY_FILE, _json(summary(notes, tables)))
            files = {name: _checksum(ready / name) for name in (ANSWERS_FILE, SUMMARY_FILE)}
            _write(ready / RECORD_FILE, _json(sealed({**self.question, **more, "files": files})))
        except BaseException:
            shutil.rmtree(ready, ignore_errors=True)  # all shards are kept, and may need the room
            raise
        os.replace(ready, self.folder)  # onto nothing, or onto an empty folder
        self.discard()

    def _table(self, number: int, words: np.ndarray) -> pa.Table:
        file, _ = self._paths(number)
        try:
            table = _read(file)
            check_word_counts(table, words)
        except (ValueError, pa.ArrowException) as error:
            raise AnnotationError(f"{file} is damaged ({error}): remove {self.work} and ask again") from error
        return table

    def discard(self) -> None:
        """Remove the work folder, if there is one."""
        if self.work.exists() and self._is_work_folder():
            shutil.rmtree(self.work, ignore_errors=True)  # another process may be removing it too


def merge_shards(
    tables: Sequence[pa.Table], rows_of_shards: Sequence[np.ndarray], file: Path | None = None
) -> pa.Table | None:
    """The shards' rows in the dataset's order.

    Args:
        tables: one per shard.
        rows_of_shards: each shard's rows of the dataset.
        file: an Arrow stream to write, some rows at a time; the table is returned where `None`.
    """
    shard_of = np.concatenate([np.full(len(rows), number) for number, rows in enumerate(rows_of_shards)])
    position_of = np.concatenate([np.arange(len(rows)) for rows in rows_of_shards])
    order = np.argsort(np.concatenate([np.asarray(rows) for rows in rows_of_shards]))

    def pieces():
        for start in range(0, len(order), _ROWS_AT_ONCE):
            wanted = order[start : start + _ROWS_AT_ONCE]
            shards = np.unique(shard_of[wanted])
            taken = [np.flatnonzero(shard_of[wanted] == shard) for shard in shards]
            parts = [
                tables[shard].take(pa.array(position_of[wanted[positions]])) for shard, positions in zip(shards, taken)
            ]
            back = np.argsort(np.concatenate(taken))
            yield pa.concat_tables(parts).combine_chunks().take(pa.array(back)).combine_chunks()

    if file is None:
        return pa.concat_tables(pieces())
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, tables[0].schema) as writer:
        for piece in pieces():
            writer.write_table(piece)
    return None


def _read(file: Path) -> pa.Table:
    with pa.ipc.open_stream(pa.memory_map(str(file))) as stream:
        return stream.read_all()


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode()


def _read_record(file: Path, advice: str) -> dict[str, Any]:
    try:
        return read_sealed(file)
    except ValueError as error:
        raise AnnotationError(f"{file} is damaged ({error}): {advice}") from error


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn an error of the operating system into an AnnotationError that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        raise AnnotationError(
            f"{target} could not be written ({error.strerror or error}): make room, or choose another folder, and "
            "start again; shards that are finished are not asked twice"
        ) from error


def _write(file: Path, data: bytes) -> None:
    with _writing(file):
        write_atomically(file, data)


def stored_stream(stream: IterableDataset, file: Path) -> Dataset:
    """Write a stream to an Arrow file, some sentences at a time, and map the file into memory.

    Teachers are asked in the order of length, which a stream does not have. Under several processes the first one
    writes.

    Args:
        stream: a stream of sentences that ends.
        file: is replaced when the stream has been read to its end.

    Raises:
        ValueError: if the stream has no sentences, or no column `tokens`.
    """
    from accelerate import PartialState

    first = first_rows(stream)
    check_corpus(first)
    prepare_processes()
    check_processes()
    with PartialState().main_process_first():
        if PartialState().is_main_process:
            _write_stream(with_features(stream, first), file)
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all()
    return Dataset(InMemoryTable(table), fingerprint=file_sha256(file)[:16])


def _write_stream(stream: IterableDataset, file: Path) -> None:
    schema = Features(stream.features or {}).arrow_schema
    unfinished = file.with_name(f"{file.name}.unfinished")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with unfinished.open("wb") as target, pa.ipc.new_stream(target, schema) as writer:
            for table in stream.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
                writer.write_table(table.select(schema.names).cast(schema))
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
