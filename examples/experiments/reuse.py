"""Cells that other grids, or earlier runs whose results were kept, have finished: the same experiment is done once."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cell_run import SCHEMA_VERSION, write_record
from fingerprints import content_key
from grid import RESULTS_FILE, SENTENCES_FILE, Cell, Grid, differences
from pool import Pool
from recipe_models import SCRATCH

from hf_structkd.evaluation.results import to_json_types


def take_over(cell: Cell, grid: Grid, pool: Pool, folder: Path, sources: Iterable[Path]) -> bool:
    """Leave a cell's results in `folder` if a run with its settings, sentences, encoder and teachers is to be found.

    Args:
        cell, grid, pool: what is asked for.
        folder: of the cell.
        sources: folders that hold one for each grid.

    Returns:
        Whether there was one. Its results say whose they are (`taken_from`).
    """
    for source in sources:
        for file in sorted(source.glob(f"*/cells/*/seed-{cell.seed}/{RESULTS_FILE}")):
            record = json.loads(file.read_text(encoding="utf-8"))
            if not _is_same(record, cell, grid, pool) or not (file.parent / SENTENCES_FILE).exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.parent / SENTENCES_FILE, folder / SENTENCES_FILE)
            if not pool.corpora.zero_shot:
                record["scores"].pop("zero_shot", None)
            own = {"grid": grid.name, "cell": cell.name}
            first = record.get("taken_from", {"grid": record["grid"], "cell": record["cell"]})
            write_record(record | own | ({"taken_from": first} if first != own else {}), folder)
            return True
    return False


def _is_same(record: dict[str, Any], cell: Cell, grid: Grid, pool: Pool) -> bool:
    if record.get("schema_version") != SCHEMA_VERSION or differences(record["settings"], cell.settings):
        return False
    names = grid.teacher_set_of(cell)
    wanted = {
        "corpora": pool.corpora.fingerprints,
        "model_revision": None if cell.model.model == SCRATCH else content_key(cell.model.model),
        "teacher_revisions": pool.teacher_sets.revisions(names) if names else None,
    }
    if any(record.get(name) != json.loads(json.dumps(to_json_types(value))) for name, value in wanted.items()):
        return False
    return not pool.corpora.zero_shot or {*pool.corpora.zero_shot, "avg"} == set(record["scores"].get("zero_shot", {}))
