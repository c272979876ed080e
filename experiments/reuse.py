"""Cells that other grids, or earlier runs whose results were kept, have finished: the same experiment is done once."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_structkd.recipes.folder import differences

from .cell_identity import differing, sources_of, teachers_of
from .cell_run import SCHEMA_VERSION, write_counts, write_record
from .grid import Cell, Grid
from .pool import Pool
from .stored_runs import grid_folders, read_runs


def take_over(cell: Cell, grid: Grid, pool: Pool, folder: Path, sources: Iterable[Path]) -> bool:
    """Leave a cell's results in `folder` if a run with its settings, sentences, encoder and teachers is to be found.

    Args:
        cell, grid, pool: what is asked for.
        folder: of the cell.
        sources: folders that hold one for each grid, with packed runs or a folder per run.

    Returns:
        Whether there was one. Its results say whose they are (`taken_from`).

    Raises:
        GridError: where stored runs are torn; the message names the file.
    """
    for source in sources:
        for run in (run for other in grid_folders(source) for run in read_runs(other, cell.seed)):
            record = run.record
            if not _is_same(record, cell, grid, pool):
                continue
            folder.mkdir(parents=True, exist_ok=True)
            write_counts(run.counts, folder)
            if not pool.corpora.zero_shot:
                record["scores"].pop("zero_shot", None)
                record.pop("zero_shot_corpora", None)
            names = {"grid": grid.name, "cell": cell.name}
            first = record.get("taken_from", {"grid": record["grid"], "cell": record["cell"]})
            write_record(record | names | ({"taken_from": first} if first != names else {}), folder)
            return True
    return False


def _is_same(record: dict[str, Any], cell: Cell, grid: Grid, pool: Pool) -> bool:
    if record.get("schema_version") != SCHEMA_VERSION or differences(record["settings"], cell.settings):
        return False
    expected = sources_of(cell, pool.corpora) | teachers_of(cell, grid, pool.teacher_sets)
    if not pool.corpora.zero_shot:
        del expected["zero_shot_corpora"]  # scores that this grid does not ask for are left out
    if differing(record, expected):
        return False
    return not pool.corpora.zero_shot or {*pool.corpora.zero_shot, "avg"} == set(record["scores"].get("zero_shot", {}))
