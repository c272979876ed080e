"""Run the cells of a grid of experiments, several at a time.

    python -m experiments.run_grid GRID.yaml --define DATA=... ENCODERS=... [--processes 2] [--cells PATTERN]

Teachers are trained and asked once, whatever the number of cells and of grids that use them. Every cell leaves
results.json under OUTPUT_DIR/GRID/cells/CELL/seed-N; started again, or started twice on one folder, the runner does
what is not done. What another grid under OUTPUT_DIR or --reuse has done is taken from there, packed or not. A cell
that fails leaves failure.txt and the rest goes on. report.py makes tables and packs results.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hf_structkd.data.readers import CorpusError
from hf_structkd.files import write_atomically
from hf_structkd.processes import STOPPED, run_main
from hf_structkd.recipes.folder import differences

from .cell_run import (
    SCHEMA_VERSION,
    differing,
    refuse_other_sources,
    scores_are_those_of,
    sources_of,
    teachers_of,
    write_counts,
    write_record,
)
from .grid import FAILURE_FILE, RESULTS_FILE, Cell, Grid, GridError
from .grid_corpora import GridCorpora
from .pool import Pool
from .shared_work import Job, do_shared
from .stored_runs import grid_folders, is_packed, read_runs

THREADS = "OMP_NUM_THREADS"


def main() -> int:
    options = read_options()
    definitions = dict(item.split("=", 1) for item in options.define)
    grid = Grid.read(options.grid, definitions)
    cells = grid.all_cells(options.cells, options.seeds)
    output = options.output_dir / grid.name
    refuse_packed(output, [options.output_dir, *options.reuse])
    todo = unfinished(cells, output)
    if done := [cell for cell in cells if cell not in todo]:
        corpora = GridCorpora(grid)
        refuse_other_sources(done, output, lambda cell: sources_of(cell, corpora))
    print(f"{grid.name}: {len(cells)} cells, {len(cells) - len(todo)} finished before", flush=True)
    if options.dry_run or not todo:
        for cell in todo:
            print(f"  {cell}")
        return 0
    output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault(THREADS, "1")  # one thread a process: tiny models gain nothing from more
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    started = time.time()
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work, args=(options, definitions, number, started))
        for number in range(min(options.processes, len(todo)))
    ]
    for worker in workers:
        worker.start()
    try:
        watch(workers, todo, output, started)
    except KeyboardInterrupt:
        for worker in workers:
            worker.terminate()
        print("\nstopped; started again, it goes on here", file=sys.stderr)
        return STOPPED
    return report_end(workers, cells, output, started)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="the grid's YAML file")
    parser.add_argument("--define", nargs="+", default=[], metavar="NAME=VALUE", help="what ${NAME} stands for")
    parser.add_argument("--processes", type=int, default=1, help="cells that are trained at a time")
    parser.add_argument("--cells", nargs="+", default=[], metavar="PATTERN", help="only these, * for any characters")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="only these")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/experiments"), help="where results go")
    parser.add_argument("--cache_dir", type=Path, help="teachers and their answers; a folder of output_dir by default")
    parser.add_argument(
        "--reuse",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="folders that hold results of grids: those with a cell's settings, sentences and teachers are taken",
    )
    parser.add_argument("--dry_run", action="store_true", help="check the grid and list what is to be done")
    options = parser.parse_args()
    if wrong := [item for item in options.define if "=" not in item]:
        parser.error(f"--define takes NAME=VALUE, not {wrong[0]!r}")
    if options.processes < 1:
        parser.error("--processes must be at least 1")
    if missing := [str(folder) for folder in options.reuse if not folder.is_dir()]:
        parser.error(f"--reuse: there is no folder {', '.join(missing)}")
    options.cache_dir = options.cache_dir or options.output_dir / "cache"
    return options


def refuse_packed(output: Path, sources: Sequence[Path]) -> None:
    """Raise GridError where cells would be run beside packed results, or what could be taken over is torn."""
    if is_packed(output):
        raise GridError(
            f"{output} holds packed results, and a grid that is running leaves one folder per cell: choose another "
            f"--output_dir; with --reuse {output.parent} the finished cells are taken from there"
        )
    for folder in (one for source in sources for one in grid_folders(source) if is_packed(one)):
        read_runs(folder)


def unfinished(cells: list[Cell], output: Path) -> list[Cell]:
    """The cells without results. Raises GridError where a cell has results of other settings."""
    todo = []
    for cell in cells:
        file = output / cell.path / RESULTS_FILE
        if not file.exists():
            todo.append(cell)
            continue
        stored = json.loads(file.read_text(encoding="utf-8"))["settings"]
        if differ := differences(stored, cell.settings):
            raise GridError(
                f"{file} holds results of other settings ({differ}); give the cell another name, or remove its folder"
            )
    return todo


def work(options: argparse.Namespace, definitions: dict[str, str], number: int, started: float) -> None:
    """What one process does: teachers, their answers and scores, then cells, until nothing is left."""
    log = (options.output_dir / options.grid.stem / f"worker-{os.getpid()}.log").open("w", buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    import torch

    from hf_structkd.distillation.weighted_objectives import annotation_temperatures
    from hf_structkd.recipes.progress import quiet_libraries

    from .cell_run import run_cell, score_teachers
    from .pool import Pool
    from .run_grid import take_over

    quiet_libraries()
    torch.set_num_threads(int(os.environ[THREADS]))
    grid = Grid.read(options.grid, definitions)
    cells = grid.all_cells(options.cells, options.seeds)
    output, pool = options.output_dir / grid.name, Pool(grid, options.cache_dir)
    teacher_sets = pool.teacher_sets
    questions = {
        (grid.teacher_set_of(cell), tuple(sorted(annotation_temperatures(cell.objectives).items()))): None
        for cell in cells
        if cell.objectives
    }
    sets = list(dict.fromkeys(name for cell in cells if (name := grid.teacher_set_of(cell))))

    def announced(job: Job) -> Job:
        inner = job.work

        def announce_and_work() -> None:
            print(f"== {time.strftime('%H:%M:%S')} {job.name}", flush=True)
            inner()

        job.work = announce_and_work
        return job

    do_shared([announced(job) for name in sets for job in teacher_sets.teacher_jobs(name)])
    done = [cell for cell in cells if (output / cell.path / RESULTS_FILE).exists()]
    refuse_other_sources(done, output, lambda cell: teachers_of(cell, grid, teacher_sets))
    do_shared(
        [announced(job) for name, softened in questions if name for job in teacher_sets.answer_jobs(name, softened)]
    )
    scoring = []
    for name in sets:
        folder = output / "teachers" / name
        scored = lambda n=name, f=folder: scores_are_those_of(f, n, teacher_sets)  # noqa: E731
        scoring.append(
            Job(
                f"scores of teachers {name}",
                folder / ".lock",
                scored,
                lambda n=name, f=folder: score_teachers(teacher_sets, n, f),
            )
        )
    do_shared([announced(job) for job in scoring])

    def failed(job: Job, error: Exception) -> None:
        traceback.print_exc()
        write_atomically(job.lock.parent / FAILURE_FILE, "".join(traceback.format_exception(error)))

    jobs, sources = [], [options.output_dir, *options.reuse]
    for cell in cells:
        folder = output / cell.path
        jobs.append(
            Job(
                str(cell),
                folder / ".lock",
                lambda f=folder: (f / RESULTS_FILE).exists() or failed_since(f, started),
                lambda c=cell, f=folder: take_over(c, grid, pool, f, sources) or run_cell(c, grid, pool, f),
            )
        )
    do_shared([announced(job) for job in jobs], failed, wait=False)


def failed_since(folder: Path, started: float) -> bool:
    """Whether another process of this run has tried the cell in vain."""
    file = folder / FAILURE_FILE
    return file.exists() and file.stat().st_mtime >= started


def watch(workers: list, todo: list[Cell], output: Path, started: float) -> None:
    """Print a line for each cell as it ends, with the time that is left at the pace so far."""
    waiting = {output / cell.path: cell for cell in todo}
    first_end: float | None = None
    ended = 0
    while any(worker.is_alive() for worker in workers) or waiting:
        alive = any(worker.is_alive() for worker in workers)
        for folder, cell in list(waiting.items()):
            done, broken = (folder / RESULTS_FILE).exists(), failed_since(folder, started)
            if not done and not broken:
                continue
            del waiting[folder]
            ended += 1
            line = f"[{len(todo) - len(waiting)}/{len(todo)}] {cell}: "
            if done:
                results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
                seconds = 0.0 if "taken_from" in results else sum(results["seconds"].values())
                name, scores = results["metric"], results["scores"]
                shown = "  ".join(f"{split} {100 * scores[split]['avg'][name]:.2f}" for split in ("dev", "test"))
                line += f"{shown}  {seconds:.0f} s"
                first_end = first_end or time.time() - seconds
            else:
                line += f"failed, see {folder / FAILURE_FILE}"
            if first_end and waiting:
                left = (time.time() - first_end) / ended * len(waiting)
                line += f"  {left / 3600:.1f} h left" if left > 5400 else f"  {left / 60:.0f} min left"
            print(line, flush=True)
        if not alive:
            return
        time.sleep(1)


def report_end(workers: list, cells: list[Cell], output: Path, started: float) -> int:
    missing = [cell for cell in cells if not (output / cell.path / RESULTS_FILE).exists()]
    crashed = [worker for worker in workers if worker.exitcode]
    for worker in crashed:
        log = output / f"worker-{worker.pid}.log"
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        print(f"a process ended with status {worker.exitcode}: {' '.join(tail)} (see {log})", file=sys.stderr)
    print(
        f"{len(cells) - len(missing)} of {len(cells)} cells finished, in {(time.time() - started) / 60:.1f} min: "
        f"{output}"
    )
    for cell in missing:
        print(f"  without results: {cell}", file=sys.stderr)
    return 1 if crashed or missing else 0


if __name__ == "__main__":
    run_main(lambda: sys.exit(main()), (GridError, CorpusError))


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
