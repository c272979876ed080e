"""Tables and plots of grids of experiments, written into RESULTS.md and wherever else there are marks for them.

    python -m experiments.report GRID.yaml [GRID.yaml ...] [--results_dir FOLDER] [--update RESULTS.md]

Reads what run_grid.py left under RESULTS_DIR/GRID, prints the table, draws the plots into one picture there, and fills
the marked places of documents (see result_blocks.py); a missing document is made, with a place for each grid.
`--keep FOLDER` first packs the results, which are small, into a folder that is kept with the code: two files per grid
(see stored_runs.py). Students, teachers and their answers stay where they are.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from hf_structkd.evaluation.markdown import fill
from hf_structkd.evaluation.results import to_json_types
from hf_structkd.files import write_atomically

from .comparison import RESAMPLES, compare, summary
from .figures import draw_all
from .grid import Grid, GridError
from .grid_results import GridResults, keep
from .result_blocks import blocks_of, score_table
from .stored_runs import short_floats

HERE = Path(__file__).resolve().parent
FIGURES_FILE = "figures.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", nargs="+", type=Path, help="the grids' YAML files")
    parser.add_argument("--results_dir", type=Path, default=HERE / "results", help="what holds a folder for each grid")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="pack the results there first, and report those")
    parser.add_argument("--update", nargs="+", type=Path, default=[], help="documents whose marked places are filled")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the test sentences")
    parser.add_argument("--no_figures", action="store_true", help="draw nothing")
    options = parser.parse_args()
    blocks: dict[Path, dict[str, str]] = {document: {} for document in options.update}
    names = set()
    for file in options.grids:
        grid = Grid.read(file)
        folder = options.results_dir / grid.name
        if options.keep is not None:
            folder = keep(grid, folder, options.keep / grid.name)
        results = GridResults.read(grid, folder)
        rows = compare(results, options.resamples)
        keep_summary(folder.parent / "summary.json", grid.name, short_floats(to_json_types(summary(rows))))
        picture = folder / FIGURES_FILE
        plots = [] if options.no_figures else draw_all(results, rows, picture)
        print(f"{grid.name}: {len(results.runs())} runs of {len(rows)} cells\n\n{score_table(results, rows)}\n")
        names.add(grid.name)
        for document, of_document in blocks.items():
            of_document |= blocks_of(results, rows, plots, os.path.relpath(picture, document.resolve().parent))
    filled = {
        document: fill(text_of(document, sorted(names)), of_document, names)
        for document, of_document in blocks.items()
    }
    for document, text in filled.items():
        write_atomically(document, text)
        print(f"filled {document}")


def keep_summary(file: Path, grid: str, summed_up: Any) -> None:
    """Put a grid's summary into the file of all grids, in alphabetical order."""
    summaries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    write_atomically(file, json.dumps(dict(sorted({**summaries, grid: summed_up}.items())), indent=1) + "\n")


def text_of(document: Path, grids: list[str]) -> str:
    """A document or, where there is none yet, a new one with a marked place for each grid."""
    if document.exists():
        return document.read_text(encoding="utf-8")
    places = [f"## {name}\n\n<!-- results: {name} --><!-- end -->" for name in grids]
    return "\n\n".join(["# Results", "Written by `experiments/report.py`.", *places]) + "\n"


if __name__ == "__main__":
    try:
        main()
    except (GridError, ValueError) as error:
        sys.exit(f"error: {error}")
