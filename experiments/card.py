"""The card of a cell's student, from the results of all its seeds.

    python -m experiments.card GRID.yaml CELL FOLDER [--results_dir RESULTS]

FOLDER gets the card, its pictures and the results they are made from, as a student's own folder does; the first seed
is the one described. `limitations` of the grid say what the student may not be used for, and
`hub_datasets` under which ids the Hub has the corpora.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from hf_structkd.evaluation.report import ComparisonReport
from hf_structkd.evaluation.results import RunResults
from hf_structkd.hub.describe import describe_student
from hf_structkd.recipes.publishing import recipe_settings
from hf_structkd.training.card import objective_name, training_results

from .grid import Cell, Grid, GridError
from .grid_results import GridResults
from .stored_runs import Run

HERE = Path(__file__).resolve().parent
REWRITTEN_TOO = (
    "It was trained on rewritten copies of its sentences as well (augmentation), which are not counted above."
)


class AnyPlace(dict[str, str]):
    """Definitions for a grid of which no corpus and no encoder is read: every place is called by its own name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> str:
        return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="the grid's YAML file")
    parser.add_argument("cell", help="the cell's name")
    parser.add_argument("folder", type=Path, help="where card, pictures and results go; its name is the student's")
    parser.add_argument("--results_dir", type=Path, default=HERE / "results", help="what holds a folder for each grid")
    options = parser.parse_args()
    grid = Grid.read(options.grid, AnyPlace())
    results = GridResults.read(grid, options.results_dir / grid.name)
    if options.cell not in results.cells:
        raise GridError(f"there are no results of a cell {options.cell!r}; there are {list(results.cells)}")
    baseline = results.cells.get(results.baseline or "", {})
    seeds = [seed for seed in results.cells[options.cell] if seed in baseline]
    if not seeds:
        raise GridError(f"cell {options.cell!r} and baseline {results.baseline!r} have no seed in common")
    first, *others = [run_results(results, options.cell, seed, options.folder.name) for seed in seeds]
    if (card := describe_student(options.folder, first, others)) is None:
        sys.exit("error: the card could not be written; the log says why")
    print(card)


def run_results(results: GridResults, name: str, seed: int, student: str) -> RunResults:
    """One seed of a cell as the results of a run, with baseline and teachers to compare with.

    Args:
        results: of the grid.
        name: the cell's.
        seed: one that the cell and the baseline have.
        student: how the card calls it.
    """
    grid, run = results.grid, results.cells[name][seed]
    cell, record = grid.cell(name, seed), run.record
    taught_by = results.teachers.get(grid.teacher_set_of(cell) or "", results.reference_teachers)
    rows = {"teachers": taught_by, "baseline": results.cells[results.baseline or ""][seed]}
    rows |= {objective_name(cell.args.objective): run}
    if "student" not in record:
        raise GridError(f"{run.place} was left by an earlier version, which did not record the student's labels")
    model_record = record["student"]
    labels: list[str] = model_record["labels"]
    config = PreTrainedConfig(id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)})
    described = training_results(
        config,
        cell.args,
        student,
        history=[*record["losses"], *_dev_curve(run)],
        model={
            "class_name": model_record["class_name"],
            "scheme": model_record["scheme"],
            "languages": results.languages,
            "parameters": model_record["parameters"],
            "base_model": Path(cell.model.model).name,
            "base_model_revision": record["model_revision"],
            "dataset": grid.description.split(",")[0].split(" (")[0],
            "datasets": grid.hub_datasets,
            "scored_datasets": {
                split: dict.fromkeys(results.languages, grid.hub_datasets) for split in ("dev", "test")
            },
        },
        settings=record["settings"],
        scores={
            split: {row: of.record["scores"][split] for row, of in rows.items() if of} for split in ("dev", "test")
        },
        comparison={split: _compared(results, rows, split).to_dict() for split in ("dev", "test")},
        train_sentences=record["text_sentences"],
        gold_sentences={} if record["gold_sentences"] == record["text_sentences"] else record["gold_sentences"],
        seconds={objective_name(cell.args.objective): record["seconds"]["train"]},
        versions=record["versions"],
        memory={_memory_kind(record["device"]): record["peak_memory_bytes"] / 2**20},
        limitations=[*([REWRITTEN_TOO] if cell.data.augmentation else []), *grid.limitations],
    )
    described.teachers = _teachers(results, cell, record)
    described.hyperparameters |= recipe_settings(cell.data, cell.model, cell.own)
    return described


def _compared(results: GridResults, rows: dict[str, Run | None], split: str) -> ComparisonReport:
    scores = {
        row: {language: run.score(language, split) for language in results.languages}
        for row, run in rows.items()
        if run is not None
    }
    teachers, baseline = scores.pop("teachers", None), scores.pop("baseline", None)
    return ComparisonReport(
        results.metric, students=scores, teachers=teachers, baseline=baseline, split=split, languages=results.languages
    )


def _teachers(results: GridResults, cell: Cell, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Each language's teachers; one that teaches alone has its set's score."""
    name = results.grid.teacher_set_of(cell)
    scored = results.teachers.get(name or "")
    listed = []
    for language, revisions in (record["teacher_revisions"] or {}).items():
        alone = isinstance(revisions, str)
        for number, (revision, weight) in enumerate([(revisions, 1.0)] if alone else revisions, start=1):
            called = f"{name}, {language}" + ("" if alone else f", {number}")
            score = scored.score(language) if alone and scored else None
            listed.append(
                {"name": called, "language": language, "revision": revision, "weight": weight, "score": score}
            )
    return listed


def _memory_kind(device: str) -> str:
    """What a cell's peak memory is of: a run on a GPU records the GPU's."""
    return "peak_rss_mib" if device == "cpu" else "peak_gpu_mib"


def _dev_curve(run: Run) -> list[dict[str, float]]:
    """The scores on dev after each epoch, as a trainer logs them."""
    return [
        {"step": point["step"], "epoch": point["epoch"]}
        | {f"eval_{language}_{run.metric}": score for language, score in point[run.metric].items()}
        for point in run.record["curve"]
    ]


if __name__ == "__main__":
    try:
        main()
    except (GridError, ValueError) as error:
        sys.exit(f"error: {error}")
