"""Every cell of a grid against the baseline: over seeds, over test sentences, and as a share of the teachers' gap."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_structkd.evaluation.aggregate import mean_and_deviation
from hf_structkd.evaluation.sentences import type_reports
from hf_structkd.evaluation.significance import Difference, MeanScores, holm, paired_t_test, sign_flip_test

from .grid_results import ZERO_SHOT, GridResults
from .stored_runs import Run

RESAMPLES = 2000
Spread = tuple[float, float | None]  # mean and sample deviation over seeds


@dataclass
class Row:
    """A cell, summed up.

    Args:
        seeds: those it was run with.
        test, dev, zero_shot: language (and `avg`) -> mean and deviation over seeds.
        types: entity type (plain tags: tag) -> mean F1 over seeds and languages.
        difference: to the baseline, over the seeds that both have: paired t.
        p_value: of `difference`, corrected for the number of cells compared.
        sign_flip_p: of the paired permutation test, corrected likewise.
        with_sentences: the same difference, over seeds and test sentences.
        with_sentences_p: of `with_sentences`, corrected likewise.
        gap: share of the way from baseline to teachers, likewise; its estimate is NaN where it is not
            defined.
        regressions, gains: share of test sentences that the reference teachers have right and the student wrong, and
            the other way round; means over seeds and languages.
        seconds, updates, memory: of training, means; memory in bytes.
    """

    name: str
    seeds: list[int]
    test: dict[str, Spread]
    dev: dict[str, Spread]
    zero_shot: dict[str, Spread]
    types: dict[str, float]
    seconds: float
    updates: float
    memory: float
    regressions: float | None = None
    gains: float | None = None
    difference: Difference | None = None
    p_value: float | None = None
    sign_flip_p: float | None = None
    with_sentences: Difference | None = None
    with_sentences_p: float | None = None
    gap: Difference | None = None


def compare(results: GridResults, resamples: int = RESAMPLES) -> dict[str, Row]:
    """All cells against the baseline.

    Args:
        results: of a grid.
        resamples: of the test sentences.

    Returns:
        name -> row, in the grid's order. P values are corrected together, over all cells but the baselines.
    """
    rows = {name: _row(name, runs, results) for name, runs in results.cells.items()}
    if results.baseline is None:
        return rows
    of_baseline = results.cells[results.baseline]
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in rows:
        if name not in results.grid.baselines:
            groups.setdefault(tuple(s for s in results.cells[name] if s in of_baseline), []).append(name)
    flips: dict[str, float] = {}
    for seeds, names in groups.items():
        if not seeds:
            continue
        for name in names:
            pairs = [results.cells[name][seed].score() - of_baseline[seed].score() for seed in seeds]
            rows[name].difference, flips[name] = paired_t_test(pairs), sign_flip_test(pairs)
        _with_sentences(results, rows, seeds, names, resamples)
    t_tests = [row.difference.p_value for name in flips if (row := rows[name]).difference is not None]
    with_sentences = [row.with_sentences.p_value for name in flips if (row := rows[name]).with_sentences is not None]
    for name, t, flip, both in zip(
        flips, holm(t_tests), holm(list(flips.values())), holm(with_sentences), strict=True
    ):
        rows[name].p_value, rows[name].sign_flip_p, rows[name].with_sentences_p = t, flip, both
    return rows


def _with_sentences(
    results: GridResults, rows: Mapping[str, Row], seeds: tuple[int, ...], names: list[str], resamples: int
) -> None:
    """Fill in what test sentences bear on, of cells that share their seeds: one set of resamples for all."""
    teachers = results.reference_teachers
    taggers = [results.stacked(name, seeds) for name in [*names, results.baseline or ""]]
    if teachers is not None:
        taggers.append({language: teachers.counts[language][None] for language in results.languages})
    scores = MeanScores.of(taggers, resamples=resamples)
    baseline = len(names)
    for number, name in enumerate(names):
        rows[name].with_sentences = scores.difference(number, baseline)
        if teachers is not None:
            rows[name].gap = scores.share_of_gap(number, baseline, baseline + 1)


def _row(name: str, runs: Mapping[int, Run], results: GridResults) -> Row:
    every = list(runs.values())
    regressions, gains = _against_teachers(every, results)
    return Row(
        name=name,
        seeds=list(runs),
        test=_spreads(every, "test", [*results.languages, "avg"]),
        dev=_spreads(every, "dev", [*results.languages, "avg"]),
        zero_shot=_spreads(
            every, ZERO_SHOT, [*results.zero_shot_languages, "avg"] if results.zero_shot_languages else []
        ),
        types=_types(every, results.languages),
        seconds=float(np.mean([run.record["seconds"]["train"] for run in every])),
        updates=float(np.mean([run.record["updates"] for run in every])),
        memory=float(np.mean([run.record["peak_memory_bytes"] for run in every])),
        regressions=regressions,
        gains=gains,
    )


def _spreads(runs: list[Run], split: str, languages: list[str]) -> dict[str, Spread]:
    return {language: mean_and_deviation([run.score(language, split) for run in runs]) for language in languages}


def _types(runs: list[Run], languages: list[str]) -> dict[str, float]:
    f1_by_type: dict[str, list[float]] = {}
    for run in runs:
        for language in languages:
            for name, scores in type_reports(run.record["scores"]["test"][language]).items():
                f1_by_type.setdefault(name, []).append(scores["f1"])
    return {name: float(np.mean(scores)) for name, scores in sorted(f1_by_type.items())}


def _against_teachers(runs: list[Run], results: GridResults) -> tuple[float | None, float | None]:
    teachers = results.reference_teachers
    if teachers is None:
        return None, None
    pairs = [(run.right(language), teachers.right(language)) for run in runs for language in results.languages]
    lost = [float((teacher_right & ~student_right).mean()) for student_right, teacher_right in pairs]
    won = [float((student_right & ~teacher_right).mean()) for student_right, teacher_right in pairs]
    return float(np.mean(lost)), float(np.mean(won))


def summary(rows: Mapping[str, Row]) -> dict[str, Any]:
    """All rows as dictionaries, unrounded."""
    return {name: asdict(row) for name, row in rows.items()}
