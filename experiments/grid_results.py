"""What a grid's cells left behind, read back."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_structkd.recipes.folder import differences
from hf_structkd.training.provenance import same_data

from .grid import RESULTS_FILE, SENTENCES_FILE, Grid, GridError
from .stored_runs import Run, pack, read_runs, run_folders

ZERO_SHOT = "zero_shot"


def _encoder(run: Run) -> list[str | None]:
    return [run.record["settings"].get(name) for name in ("model", "revision")]


def _agree(how: str, runs: Sequence[Run], name: str, of: Callable[[Run], Any]) -> None:
    """Raise GridError if runs differ from the first in what `of` says of them; `name` is what that is."""
    for run in runs[1:]:
        one, other = of(runs[0]), of(run)
        if name == "corpora" and same_data(one, other):
            continue
        if what := differences({name: one}, {name: other}) if name else differences(one, other):
            raise GridError(f"{run.place} {how} {runs[0].place} ({what}): they cannot be compared")


@dataclass
class GridResults:
    """All runs of a grid.

    Args:
        grid: the grid, whose file says how cells are named, ordered and compared.
        cells: name -> seed -> run, in the grid's order; only cells with results.
        teachers: name of the set -> its scores.
    """

    grid: Grid
    cells: dict[str, dict[int, Run]] = field(default_factory=dict)
    teachers: dict[str, Run] = field(default_factory=dict)

    @classmethod
    def read(cls, grid: Grid, folder: Path) -> "GridResults":
        """Read the results in a folder, packed or one folder per run. Raises GridError where there are none, where
        files are torn, or where runs are of different corpora."""
        results = cls(grid)
        teachers = {}
        for run in read_runs(folder):
            if "cell" in run.record:
                results.cells.setdefault(run.record["cell"], {})[run.record["seed"]] = run
            else:
                teachers[run.record["teacher_set"]] = run
        if not results.cells:
            raise GridError(f"{folder} holds no results of grid {grid.name}; run_grid.py makes some")
        if unknown := [name for name in results.cells if name not in grid.cells]:
            raise GridError(f"{folder} holds results of cells that grid {grid.name} does not have: {unknown}")
        results.cells = {
            name: dict(sorted(results.cells[name].items())) for name in grid.cells if name in results.cells
        }
        results.teachers = {name: teachers[name] for name in grid.teacher_sets if name in teachers}
        results._refuse_mixtures()
        return results

    def _refuse_mixtures(self) -> None:
        """Raise GridError, naming two of them, where runs that are compared were made of unlike things."""
        cells, teachers = self.runs(), [*self.teachers.values()]
        # Those that record more first: what the first versions left out agrees with anything.
        every = sorted([*cells, *teachers], key=lambda run: -len(json.dumps(run.record["corpora"])))
        _agree("was run on other corpora than", every, "corpora", lambda run: run.record["corpora"])
        for name, runs_by_seed in self.cells.items():
            runs = [*runs_by_seed.values()]
            _agree(
                f"of cell {name!r} has other settings than",
                runs,
                "",
                lambda run: {**run.record["settings"], "seed": 0},
            )
        for model in {json.dumps(_encoder(run)) for run in cells}:
            runs = [run for run in cells if json.dumps(_encoder(run)) == model]
            _agree("began with another encoder than", runs, "model_revision", lambda run: run.record["model_revision"])
        for name in self.grid.teacher_sets:
            taught = [run for run in cells if name in (run.record["settings"].get("teacher_set") or {})]
            runs = taught + [run for run in teachers if run.record["teacher_set"] == name]
            _agree(
                f"has other teachers {name!r} than",
                runs,
                "teacher_revisions",
                lambda run: run.record["teacher_revisions"],
            )

    @cached_property
    def languages(self) -> list[str]:
        return [name for name in next(iter(self.runs())).record["scores"]["test"] if name != "avg"]

    @cached_property
    def zero_shot_languages(self) -> list[str]:
        return [name for name in next(iter(self.runs())).record["scores"].get(ZERO_SHOT, {}) if name != "avg"]

    def runs(self) -> list[Run]:
        return [run for runs_by_seed in self.cells.values() for run in runs_by_seed.values()]

    @property
    def metric(self) -> str:
        return next(iter(self.runs())).metric

    @cached_property
    def baseline(self) -> str | None:
        """Of the grid's baselines the one with the best mean on dev, over the seeds that all of them have."""
        finished = [name for name in self.grid.baselines if name in self.cells]
        seeds = set.intersection(*(set(self.cells[name]) for name in finished)) if finished else set()
        if not seeds:
            return finished[0] if finished else None
        return max(finished, key=lambda name: np.mean([self.cells[name][s].score(split="dev") for s in sorted(seeds)]))

    @property
    def reference_teachers(self) -> Run | None:
        """The teachers that the gap is measured to: the grid's first set."""
        return next(iter(self.teachers.values()), None)

    def stacked(self, name: str, seeds: Sequence[int]) -> dict[str, np.ndarray]:
        """language -> (seeds, sentences, counts) of a cell."""
        runs = [self.cells[name][seed] for seed in seeds]
        return {language: np.stack([run.counts[language] for run in runs]) for language in self.languages}


def keep(grid: Grid, source: Path, target: Path) -> Path:
    """Pack results, and nothing large, into a folder that is kept.

    Args:
        grid: whose results they are.
        source: its results, in either form; they stay.
        target: where the packed ones go; folders of single runs that it holds are removed.

    Returns:
        The target.

    Raises:
        GridError: as `GridResults.read` and `pack` do, or where both folders are the same; nothing is written then.
    """
    if target.resolve() == source.resolve():
        raise GridError(f"{source} holds the results already; name another folder to keep them in")
    results = GridResults.read(grid, source)
    pack([*results.runs(), *results.teachers.values()], target)
    for folder in run_folders(target):
        for name in (RESULTS_FILE, SENTENCES_FILE):
            (folder / name).unlink(missing_ok=True)
        for left in (folder, folder.parent, folder.parent.parent):
            if left != target and not any(left.iterdir()):
                left.rmdir()
    return target
