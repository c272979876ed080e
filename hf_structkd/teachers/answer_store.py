"""Answers on disk: written shard by shard, each whole or not at all, and put together when all are there.

While teachers are asked, answers lie in `<folder>.partial`: the question, and for each finished shard an Arrow file
and, written after it, a note with its checksum. A process that is killed leaves at most an unfinished shard, which
nobody reads. When all shards are there they become one file in the dataset's order, and the folder takes its name in
one step. Shards do not depend on how many processes ask, nor does the file made of them. One job at a time holds the
work folder.

Every file has a checksum, in a file that has one of itself: a shard that is not what was written is asked again, and
of finished answers the file that is damaged is named. A shard's note says which shard it is of, of which question and
which rows, and answers are counted against the sentences' words before they are put together and when they are read.
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
from datasets import Dataset
from datasets.table import InMemoryTable

from ..files import LOCK_FILE, exclusive_lock, file_sha256, json_sha256, read_sealed, sealed, write_atomically
from .answer_summary import Sums, are_sums
from .question import check_word_counts

logger = logging.getLogger(__name__)
RECORD_FILE, ANSWERS_FILE, SUMMARY_FILE = "annotation.json", "answers.arrow", "summary.json"
QUESTION_FILE = "question.json"
_ROWS_AT_ONCE = 1000


class AnnotationError(ValueError):
    """A stored annotation does not fit what is asked, is damaged, or could not be written."""


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """What differs between two questions, in words; empty where nothing does."""
    asked = json.loads(json.dumps(asked))  # as it would come back from a file: tuples are lists
    return "; ".join(
        f"{name}: stored {old}, asked {new}"
        for key in asked
        for name, old, new in _differing(stored.get(key), asked[key], key)
    )


def _differing(stored: Any, asked: Any, name: str) -> Iterator[tuple[str, str, str]]:
    """What differs between two JSON values, each with its name: (name, stored, asked)."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in dict.fromkeys((*stored, *asked)):
            yield from _differing(stored.get(key), asked.get(key), f"{name}.{key}")
    elif isinstance(stored, list) and isinstance(asked, list) and len(stored) == len(asked):
        for place, (old, new) in enumerate(zip(stored, asked)):
            yield from _differing(old, new, f"{name}[{place}]")
    elif stored != asked:
        yield name, repr(stored), repr(asked)


def finished(folder: Path) -> bool:
    """Whether a folder holds finished answers. Raises AnnotationError if it holds something else."""
    if (folder / RECORD_FILE).exists():
        return True
    if folder.exists() and any(folder.iterdir()):
        raise AnnotationError(f"{folder} is not empty and holds no {RECORD_FILE}; use another folder for the answers")
    return False


def load_finished(folder: Path, record: Mapping[str, Any], words: np.ndarray) -> Dataset:
    """The answers of a finished folder, mapped into memory.

    They are a dataset without a file of its own: `datasets` writes what `map` makes of one beside its file, and takes
    it from there the next time without a look at it.

    Args:
        folder: see `finished`.
        record: the question.
        words: (sentences,), how many each sentence has.

    Raises:
        AnnotationError: if they answer another question, or are damaged.
    """
    stored = _read_record(folder / RECORD_FILE, f"remove {folder} and ask again")
    if differ := differences(stored, record):
        raise AnnotationError(f"{folder} holds answers to another question ({differ}); use another folder")
    for name, kept in _files(stored, folder).items():
        file = folder / name
        if not file.exists() or file_sha256(file) != kept["sha256"]:
            found = f"{file.stat().st_size:,} bytes with another one" if file.exists() else "no file"
            raise AnnotationError(
                f"{file} is damaged: {kept['bytes']:,} bytes were written and their checksum kept; now there "
                f"is {found}. Remove {folder} and ask again"
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
    """What a record says of the files beside it. A record may be a stranger's: it names no files but ours."""
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
    """The summary beside finished answers: language -> what [`summarise`](answer_summary.py) says."""
    return json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))


def update_summary(folder: Path, gold: str, grade: Callable[[str], float | None]) -> None:
    """Make the summary beside finished answers speak of the gold tags there are now, if it speaks of others.

    A process that is killed meanwhile leaves whole answers, and a summary that the next one looks at again.

    Args:
        folder: of finished answers, which nobody else reads now.
        gold: a hash of the gold tags.
        grade: language -> the accuracy on them.
    """
    record = read_sealed(folder / RECORD_FILE)
    if record.get("gold") == gold or not (folder / SUMMARY_FILE).exists():
        return
    try:
        summary = load_summary(folder)
        for language, said in summary.items():
            said["accuracy"] = grade(language)
        answers = {ANSWERS_FILE: _files(record, folder)[ANSWERS_FILE]}
        _write(folder / RECORD_FILE, _json(sealed({**record, "gold": None, "files": answers})))
        _write(folder / SUMMARY_FILE, _json(summary))
        files = {**answers, SUMMARY_FILE: _checksum(folder / SUMMARY_FILE)}
        _write(folder / RECORD_FILE, _json(sealed({**record, "gold": gold, "files": files})))
    except (OSError, ValueError, KeyError, TypeError) as error:  # a folder for reading alone; a stranger's summary
        logger.warning("%s: its accuracy is on other gold tags than these (%s)", folder / SUMMARY_FILE, error)
        return
    logger.info("%s: the gold tags have changed, and the accuracy on them", folder / SUMMARY_FILE)


def _checksum(file: Path) -> dict[str, Any]:
    return {"sha256": file_sha256(file), "bytes": file.stat().st_size}


class PartialAnswers:
    """The answers to a question while they are being asked.

    Args:
        folder: where the finished answers go; the partial ones lie beside it.
        question: what is asked, JSON values.
    """

    def __init__(self, folder: Path, question: Mapping[str, Any]) -> None:
        # A link is followed: a folder takes the place of a folder, not of a link, and only within one file system.
        self.folder, self.question = Path(os.path.realpath(folder)), dict(question)
        self.work = self.folder.with_name(f"{self.folder.name}.partial")
        self._question_key = json_sha256(self.question)

    def exclusive_lock(self) -> AbstractContextManager[None]:
        """Hold the work folder for this job. Raises AnnotationError if another one holds it, or it is none of ours."""
        if self.work.exists() and not self._is_ours():
            raise AnnotationError(f"{self.work} holds no {QUESTION_FILE}; it is none of ours: use another folder")
        return exclusive_lock(self.work, AnnotationError, f"asking teachers for {self.folder}")

    def _is_ours(self) -> bool:
        names = [path.name for path in self.work.iterdir()]
        return QUESTION_FILE in names or all(name == LOCK_FILE or name.endswith(".tmp") for name in names)

    def open(self) -> None:
        """Make or take up the work folder, which is held.

        Raises:
            AnnotationError: if it belongs to another question, or what will be made in it could not take its place.
        """
        file = self.work / QUESTION_FILE
        begun = any(self.work.glob("shard-*"))  # else there are no answers that could be another question's
        stored = _read_record(file, f"remove {self.work} and ask again") if begun else self.question
        if differ := differences(stored, self.question):
            raise AnnotationError(
                f"{self.work} holds unfinished answers to another question ({differ}); remove it, or use another "
                "folder"
            )
        for stale in self.work.glob("*.tmp"):  # of processes that were killed
            stale.rmdir() if stale.is_dir() else stale.unlink()
        _write(file, _json(sealed(self.question)))
        self._try_the_last_step()

    def _try_the_last_step(self) -> None:
        """Put an empty folder where the answers will go, if there is one: a mount point would refuse at the end."""
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
        """What a note says of the shard that it belongs to."""
        rows_key = hashlib.sha256(np.asarray(rows, dtype=np.int64).tobytes()).hexdigest()
        return {"shard": number, "question": self._question_key, "rows": rows_key}

    def note(self, number: int, rows: np.ndarray) -> dict[str, Any] | None:
        """What is kept about a finished shard; `None` where it is not finished, or is not what was written for it.

        Args:
            number: the shard's.
            rows: the dataset's rows that it has.
        """
        file, note_file = self._paths(number)
        if not note_file.exists() or not file.exists():
            return None
        try:
            note = read_sealed(note_file)
        except ValueError as error:
            logger.warning("%s is damaged (%s): its shard is asked again", note_file, error)
            return None
        if not are_sums(note.get("sums")):
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
        """Keep a shard's answers. The note comes last: a shard with a note is whole.

        Args:
            number, rows: as for `note`.
            table: a row for each of the rows.
            sums: for the summary.
            gold: a hash of the gold tags that went into the sums.
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
        """Put all shards together in the dataset's order, and give the folder its name.

        Args:
            rows_of_shards: the dataset's rows that each shard has.
            words: (sentences,), how many each sentence has.
            summary: the shards' notes and answers -> what is kept as summary.
            more: what the record says beside the question.

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
                in_order(tables, rows_of_shards, ready / ANSWERS_FILE)
            _write(ready / SUMMARY_FILE, _json(summary(notes, tables)))
            files = {name: _checksum(ready / name) for name in (ANSWERS_FILE, SUMMARY_FILE)}
            _write(ready / RECORD_FILE, _json(sealed({**self.question, **more, "files": files})))
        except BaseException:
            shutil.rmtree(ready, ignore_errors=True)  # the shards are all there, and may need the room
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
        """Remove the work folder, if there is one of ours."""
        if self.work.exists() and self._is_ours():
            shutil.rmtree(self.work, ignore_errors=True)  # another process may be at it too


def in_order(
    tables: Sequence[pa.Table], rows_of_shards: Sequence[np.ndarray], file: Path | None = None
) -> pa.Table | None:
    """The shards' rows in the dataset's order.

    Args:
        tables: of each shard.
        rows_of_shards: the dataset's row of each of their rows.
        file: an Arrow stream to write, some rows at a time; the table is returned where `None`.
    """
    shard_of = np.concatenate([np.full(len(rows), number) for number, rows in enumerate(rows_of_shards)])
    place_of = np.concatenate([np.arange(len(rows)) for rows in rows_of_shards])
    order = np.argsort(np.concatenate([np.asarray(rows) for rows in rows_of_shards]))

    def pieces():
        for start in range(0, len(order), _ROWS_AT_ONCE):
            wanted = order[start : start + _ROWS_AT_ONCE]
            shards = np.unique(shard_of[wanted])
            taken = [np.flatnonzero(shard_of[wanted] == shard) for shard in shards]
            parts = [tables[shard].take(pa.array(place_of[wanted[at]])) for shard, at in zip(shards, taken)]
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


def _read_record(file: Path, what_to_do: str) -> dict[str, Any]:
    try:
        return read_sealed(file)
    except ValueError as error:
        raise AnnotationError(f"{file} is damaged ({error}): {what_to_do}") from error


@contextmanager
def _writing(what: Path) -> Iterator[None]:
    """Turn what the operating system says into an AnnotationError that names the file and what is kept."""
    try:
        yield
    except OSError as error:
        raise AnnotationError(
            f"{what} could not be written ({error.strerror or error}): make room, or choose another folder, and start "
            "again; shards that are finished are not asked twice"
        ) from error


def _write(file: Path, data: bytes) -> None:
    with _writing(file):
        write_atomically(file, data)
