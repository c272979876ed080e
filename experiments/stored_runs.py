"""The runs of a grid as files: a folder for each run while the grid is running, packed into two files once it is kept.

    GRID/cells/CELL/seed-N/{results.json,sentences.npz}   written by run_grid.py, one run at a time
    GRID/teachers/SET/{results.json,sentences.npz}
    GRID/{runs.jsonl,sentences.npz}                       written by report.py --keep, all runs at once

`runs.jsonl` has one line per run: the content of its results.json. `sentences.npz` has two arrays per language:
`LANGUAGE/counts` (runs, counts, sentences) and `LANGUAGE/runs`, the numbers of those runs' lines, from 0;
`runs_sha256` says to which `runs.jsonl` they belong. The same runs make the same bytes.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_structkd.files import write_atomically

from .grid import RESULTS_FILE, RUNS_FILE, SENTENCES_FILE, GridError

_CHECKSUM, _COUNTS, _RUNS = "runs_sha256", "/counts", "/runs"
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_OLDEST = (1980, 1, 1, 0, 0, 0)  # the least that a zip file can say: the same bytes whenever it is written


def short_floats(value: Any) -> Any:
    """Floats to 7 significant digits: far below any deviation, half the size, and the same on every processor."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: short_floats(member) for key, member in value.items()}
    return [short_floats(member) for member in value] if isinstance(value, list) else value


@dataclass
class Run:
    """One finished cell under one seed, or one set of teachers.

    Args:
        place: where it is stored, for messages.
        record: the content of its results.json.
        read_counts: reads language -> (sentences, counts) of the test set.
    """

    place: str
    record: dict[str, Any]
    read_counts: Callable[[], dict[str, np.ndarray]]

    @cached_property
    def counts(self) -> dict[str, np.ndarray]:
        """language -> (sentences, counts) of the test set."""
        return self.read_counts()

    @property
    def metric(self) -> str:
        return self.record["metric"]

    def score(self, language: str = "avg", split: str = "test") -> float:
        return self.record["scores"][split][language][self.metric]

    def right(self, language: str) -> np.ndarray:
        """Whether each test sentence is right as a whole."""
        counts = self.counts[language]
        return (counts == counts[:, :1]).all(axis=1)


def is_packed(folder: Path) -> bool:
    """Whether a grid's folder holds packed runs, or what is left of them."""
    return (folder / RUNS_FILE).exists() or (folder / SENTENCES_FILE).exists()


def run_folders(folder: Path, seed: int | None = None) -> list[Path]:
    """The folders of single runs in a grid's folder; with a seed, of the cells under it."""
    files = sorted(folder.glob(f"cells/*/seed-{'*' if seed is None else seed}/{RESULTS_FILE}"))
    if seed is None:
        files += sorted(folder.glob(f"teachers/**/{RESULTS_FILE}"))
    return [file.parent for file in files]


def grid_folders(source: Path) -> list[Path]:
    """The folders of grids in a folder that may hold other things too."""
    return sorted(folder for folder in source.glob("*") if is_packed(folder) or (folder / "cells").is_dir())


def read_runs(folder: Path, seed: int | None = None) -> list[Run]:
    """The runs in a grid's folder, in either form; counts are read when they are asked for.

    Args:
        folder: of the grid.
        seed: only the cells under this seed; by default all cells and sets of teachers.

    Returns:
        The runs, sorted by place; none where there is no such folder.

    Raises:
        GridError: where both forms are there, a file is missing or is not as it was written, or a run is there twice;
            the message names the file.
    """
    if not is_packed(folder):
        runs = [_single_run(run_folder) for run_folder in run_folders(folder, seed)]
    elif single := run_folders(folder):
        raise GridError(
            f"{folder} holds packed runs ({RUNS_FILE}) and folders of single runs ({single[0]}): it is not clear "
            "which count; remove those that do not"
        )
    else:
        runs = _packed_runs(folder)
    places: dict[Any, str] = {}
    for run in runs:
        key = _key(run)
        if key in places:
            raise GridError(f"{places[key]} and {run.place} hold results of the same run; remove one of them")
        places[key] = run.place
    return runs if seed is None else [run for run in runs if run.record.get("seed") == seed]


def pack(runs: Iterable[Run], folder: Path) -> None:
    """Write runs as the two files of the packed form, whatever their form was.

    Args:
        runs: of one grid.
        folder: where the files go; made if it is not there.

    Raises:
        GridError: where the counts of a run cannot be read, or are not of the sentences that another run has; nothing
            is written then.
    """
    ordered = sorted(runs, key=_key)
    text = "".join(json.dumps(run.record, ensure_ascii=False, allow_nan=False) + "\n" for run in ordered)
    arrays = {_CHECKSUM: np.array(_checksum(text))}
    for language in dict.fromkeys(language for run in ordered for language in run.counts):
        having = [(number, run) for number, run in enumerate(ordered) if language in run.counts]
        first = having[0][1]
        for _, run in having:
            if run.counts[language].shape != first.counts[language].shape:
                raise GridError(f"{run.place} has counts of other {language} sentences than {first.place}")
        counts = np.stack([run.counts[language].T for _, run in having])
        arrays[language + _COUNTS] = counts.astype(np.min_scalar_type(counts.max(initial=0)))
        arrays[language + _RUNS] = np.array([number for number, _ in having], dtype=np.int32)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / SENTENCES_FILE, _npz(arrays))
    write_atomically(folder / RUNS_FILE, text)


def _key(run: Run) -> tuple[int, str, int]:
    """Cells before teachers, by name and seed: the order of lines, whatever the order of the grid's file."""
    record = run.record
    return (0, record["cell"], record["seed"]) if "cell" in record else (1, record["teacher_set"], 0)


def _single_run(folder: Path) -> Run:
    def read_counts() -> dict[str, np.ndarray]:
        file = folder / SENTENCES_FILE
        try:
            with np.load(file) as stored:
                return {language: stored[language].T.astype(np.int64) for language in stored.files}
        except _UNREADABLE as error:
            raise GridError(_torn(file, error, "remove the run's folder, and run_grid.py does it again")) from None

    file = folder / RESULTS_FILE
    return Run(str(folder), _record(file.read_text(encoding="utf-8"), str(file)), read_counts)


def _packed_runs(folder: Path) -> list[Run]:
    file = folder / RUNS_FILE
    if not file.exists():
        raise GridError(f"{folder} holds {SENTENCES_FILE} without {RUNS_FILE}; {_AGAIN}")
    text = file.read_text(encoding="utf-8")
    lines = text.split("\n")  # a sentence may hold other ends of lines than this one
    if lines.pop():
        raise GridError(f"{file}, line {len(lines) + 1}, has no end; {_AGAIN}")
    counts = _PackedCounts(folder / SENTENCES_FILE)
    runs = []
    for number, line in enumerate(lines):
        place = f"{file}, line {number + 1}"
        record = _record(line, place)
        name = f"cell {record['cell']!r}, seed {record['seed']}" if "cell" in record else record["teacher_set"]
        runs.append(Run(f"{place} ({name})", record, lambda number=number: counts.of(number)))
    if counts.checksum != _checksum(text):
        raise GridError(f"{file} is not what {counts.file} was packed with; {_AGAIN}")
    return runs


_AGAIN = "get both files anew, or pack the runs again (report.py --keep)"


def _record(text: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise GridError(f"{place} is not JSON ({error}); it may have been cut short") from None
    if not isinstance(record, dict) or not ({"cell", "seed"} <= record.keys() or "teacher_set" in record):
        raise GridError(f"{place} holds no results of a cell or of a set of teachers")
    return record


class _PackedCounts:
    """The counts of packed runs; a language's are read once, for all runs."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.checksum = str(self._read([_CHECKSUM])[0])

    def of(self, number: int) -> dict[str, np.ndarray]:
        """language -> (sentences, counts) of the run on line `number`, counted from 0."""
        counts_by_language = {
            name: counts[rows[number]] for name, (rows, counts) in self._languages.items() if number in rows
        }
        return {language: counts.T.astype(np.int64) for language, counts in counts_by_language.items()}

    @cached_property
    def _languages(self) -> dict[str, tuple[dict[int, int], np.ndarray]]:
        """language -> row of each run's line, and (rows, counts, sentences)."""
        names = [name.removesuffix(_COUNTS) for name in self._names if name.endswith(_COUNTS)]
        arrays = self._read([name + end for name in names for end in (_RUNS, _COUNTS)])
        return {
            name: ({line: row for row, line in enumerate(lines.tolist())}, counts)
            for name, lines, counts in zip(names, arrays[::2], arrays[1::2])
        }

    def _read(self, names: Sequence[str]) -> list[np.ndarray]:
        try:
            with np.load(self.file) as stored:
                self._names = list(stored.files)
                return [stored[name] for name in names]
        except _UNREADABLE as error:
            raise GridError(_torn(self.file, error, _AGAIN)) from None


def _torn(file: Path, error: Exception, advice: str) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{file} is missing; {advice}"
    return f"{file} is not what was written ({type(error).__name__}: {error}); {advice}"


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    """What `numpy.savez_compressed` writes, without the time and the machine."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", _OLDEST)
            member.create_system, member.external_attr = 3, 0o644 << 16
            target.writestr(member, content.getvalue(), zipfile.ZIP_DEFLATED, 6)
    return buffer.getvalue()
