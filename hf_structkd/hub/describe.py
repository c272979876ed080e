"""The files that describe a student in its folder: results.json, pictures, card."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..evaluation.markdown import one_line
from ..evaluation.report import ComparisonReport
from ..evaluation.results import RESULTS_NAME, RunResults, read_results, read_runs, write_results, write_runs
from .card_data import StudentCardData, card_data, headline_split, refuse_other_runs
from .model_card import write_model_card
from .public import log_failure, publishable

logger = logging.getLogger(__name__)

PLOTS_DIR = "plots"
RUNS_FILE = "runs.jsonl"  # results of the same recipe with other seeds, one line per run
RUNS_DIR = "runs"  # earlier versions wrote them here, one file per run


def describe_student(
    folder: str | os.PathLike[str],
    results: RunResults,
    more_runs: Sequence[RunResults] = (),
    *,
    rewritten: bool = False,
) -> Path | None:
    """Write `results.json`, `plots/` and `README.md` into a student's folder; never raises for one run.

    What is written holds no path of this machine and no access token. Without matplotlib (the extra `plots`) there
    are no pictures, and the card is without them. A card that somebody has edited stays as it is, which the log says.

    Args:
        folder: the student's.
        results: of its run.
        more_runs: the same recipe with other seeds; they are kept in `runs.jsonl`, in the place of what is there,
            and the card shows means.
        rewritten: whether the card is one that `StructKDTrainer` may write anew.

    Returns:
        The card's path; `None` if it could not be written.

    Raises:
        ValueError: if `more_runs` differ from `results` in more than their seeds; nothing is written then.
    """
    target = Path(folder)
    public, others = publishable(results), [publishable(run) for run in more_runs]
    refuse_other_runs([public, *others])
    try:
        write_results(public, target / RESULTS_NAME)
        if others:
            write_runs(others, target / RUNS_FILE)
        else:
            (target / RUNS_FILE).unlink(missing_ok=True)
        for stale in (target / RUNS_DIR).glob("*.json"):  # of an earlier version
            stale.unlink()
    except (OSError, TypeError, ValueError):
        log_failure(logger, "results.json could not be written beside the model.")
    return _write_card(target, public, others, rewritten)


def redescribe(folder: str | os.PathLike[str]) -> Path | None:
    """Make card and pictures anew from the `results.json` (and `runs.jsonl`) beside them.

    The files in `runs/` that earlier versions wrote instead of `runs.jsonl` are read too.

    Args:
        folder: a student's folder, or one of `model_cards/`.

    Returns:
        The card's path; `None` if it could not be written.

    Raises:
        FileNotFoundError, ValueError: as [`read_results`] does; ValueError too if the runs differ in more than
            their seeds, as those do that an earlier description left, or a file in `runs/` is none or stands beside
            a `runs.jsonl`.
    """
    target = Path(folder)
    files = list((target / RUNS_DIR).glob("*.json"))
    if strange := [path for path in files if not path.stem.isdecimal()]:
        raise ValueError(f"{strange[0]} is not a run of this card; those are called 2.json, 3.json and so on")
    packed = (target / RUNS_FILE).exists()
    if packed and files:
        raise ValueError(
            f"{target} holds further runs in {RUNS_FILE} and in {RUNS_DIR}/: remove those that do not count"
        )
    files.sort(key=lambda path: int(path.stem))
    further = read_runs(target / RUNS_FILE) if packed else [read_results(path) for path in files]
    results, *others = [publishable(run) for run in (read_results(target), *further)]
    refuse_other_runs([results, *others])
    return _write_card(target, results, others, False)


def _write_card(target: Path, results: RunResults, others: Sequence[RunResults], rewritten: bool) -> Path | None:
    try:
        data = card_data(results, others)
    except Exception:
        log_failure(logger, "The results do not make a card; a minimal one is written.")
        data = StudentCardData(one_line(results.model.get("name") or "tagger"), rewritten=rewritten)
        return write_model_card(target, data)
    images = _draw(target, results, data.comparison)
    return write_model_card(target, replace(data, images=images, rewritten=rewritten))


def _draw(target: Path, results: RunResults, comparison: ComparisonReport | None) -> dict[str, str]:
    """Draw what can be drawn; name of the picture -> its place relative to the card."""
    try:
        from ..evaluation.plots import language_gap_chart, training_curves

        folder = target / PLOTS_DIR
        folder.mkdir(parents=True, exist_ok=True)
        drawn = {"curves": training_curves(results.history, folder / "training_curves.png")}
        # one row alone leaves no gap to see
        if comparison is not None and len(comparison.rows()) > 1 and headline_split(results) is not None:
            drawn["gap"] = language_gap_chart(comparison, folder / "language_gap.png")
        if not any(folder.iterdir()):
            folder.rmdir()
        return {name: path.relative_to(target).as_posix() for name, path in drawn.items() if path is not None}
    except ImportError:
        logger.info("matplotlib is not installed: the card is without pictures (extra `plots`)")
    except Exception:
        log_failure(logger, "The pictures of the card could not be drawn.")
    return {}
