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

ZERO_SHOT = "zero_shot"


@dataclass
class Run:
    """One finished cell under one seed, or one set of teachers."""

    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        return json.loads((self.folder / RESULTS_FILE).read_text(encoding="utf-8"))

    @cached_property
    def counts(self) -> dict[str, np.ndarray]:
        """language -> (sentences, counts) of the test set."""
        with np.load(self.folder / SENTENCES_FILE) as stored:
            return {language: stored[language].T.astype(np.int64) for language in stored.files}

    @property
    def metric(self) -> str:
        return self.record["metric"]

    def score(self, language: str = "avg", split: str = "test") -> float:
        return self.record["scores"][split][language][self.metric]

    def right(self, language: str) -> np.ndarray:
        """Whether each test sentence is right as a whole."""
        counts = self.counts[language]
        return (counts == counts[:, :1]).all(axis=1)


def _encoder(run: Run) -> list[str | None]:
    return [run.record["settings"].get(name) for name in ("model", "revision")]


def _agree(how: str, runs: Sequence[Run], name: str, of: Callable[[Run], Any]) -> None:
    """Raise GridError if runs differ from the first in what `of` says of them; `name` is what that is."""
    for run in runs[1:]:
        one, other = of(runs[0]), of(run)
        if name == "corpora" and same_data(one, other):
            continue
        if what := differences({name: one}, {name: other}) if name else differences(one, other):
            raise GridError(f"{run.folder} {how} {runs[0].folder} ({what}): they cannot be compared")


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
        """Read the results in a folder. Raises GridError where there are none, or of different corpora."""
        results = cls(grid)
        for file in sorted(folder.glob(f"cells/*/seed-*/{RESULTS_FILE}")):
            run = Run(file.parent)
            results.cells.setdefault(run.record["cell"], {})[run.record["seed"]] = run
        if not results.cells:
            raise GridError(f"{folder} holds no results of grid {grid.name}; run_grid.py makes some")
        if unknown := [name for name in results.cells if name not in grid.cells]:
            raise GridError(f"{folder} holds results of cells that grid {grid.name} does not have: {unknown}")
        results.cells = {
            name: dict(sorted(results.cells[name].items())) for name in grid.cells if name in results.cells
        }
        results.teachers = {
            name: Run(folder / "teachers" / name)
            for name in grid.teacher_sets
            if (folder / "teachers" / name / RESULTS_FILE).exists()
        }
        results._refuse_mixtures()
        return results

    def _refuse_mixtures(self) -> None:
        """Raise GridError, naming two of them, where runs that are compared were made of unlike things."""
        cells, teachers = self.runs(), [*self.teachers.values()]
        # Those that record more first: what the first versions left out agrees with anything.
        every = sorted([*cells, *teachers], key=lambda run: -len(json.dumps(run.record["corpora"])))
        _agree("was run on other corpora than", every, "corpora", lambda run: run.record["corpora"])
        for name, own in self.cells.items():
            runs = [*own.values()]
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
        return [run for own in self.cells.values() for run in own.values()]

    @property
    def metric(self) -> str:
        return next(iter(self.runs())).metric

    @cached_property
    def baseline(self) -> str | None:
        """Of the grid's baselines the one with the best mean on dev, over the seeds that all of them have."""
        there = [name for name in self.grid.baselines if name in self.cells]
        seeds = set.intersection(*(set(self.cells[name]) for name in there)) if there else set()
        if not seeds:
            return there[0] if there else None
        return max(there, key=lambda name: np.mean([self.cells[name][s].score(split="dev") for s in sorted(seeds)]))

    @property
    def reference_teachers(self) -> Run | None:
        """The teachers that the gap is measured to: the grid's first set."""
        return next(iter(self.teachers.values()), None)

    def stacked(self, name: str, seeds: Sequence[int]) -> dict[str, np.ndarray]:
        """language -> (seeds, sentences, counts) of a cell."""
        runs = [self.cells[name][seed] for seed in seeds]
        return {language: np.stack([run.counts[language] for run in runs]) for language in self.languages}
