"""What a grid's cells left behind, read back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from grid import RESULTS_FILE, SENTENCES_FILE, Grid, GridError

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
        every = [run for own in results.cells.values() for run in own.values()] + [*results.teachers.values()]
        first = every[0].record["corpora"]
        if other := [run.folder for run in every if run.record["corpora"] != first]:
            raise GridError(f"{other[0]} and {len(other) - 1} more were run on other corpora than {every[0].folder}")
        return results

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
