"""Plots of a run: its training curves, and the gap between students and teachers. Needs the extra `plots`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .report import AVERAGE, BASELINE, TEACHERS, ComparisonReport

DPI = 110
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREYS = {TEACHERS: "0.25", BASELINE: "0.65"}


def training_curves(history: Iterable[Mapping[str, float]], path: str | os.PathLike[str]) -> Path | None:
    """Draw the training curves: the loss, its parts and lambda on the left, the scores of evaluations on the right.

    Args:
        history: Points as in `RunResults.history`.
        path: The PNG file; its folder must exist.

    Returns:
        The file; `None`, and no file, if nothing was logged.

    Raises:
        ImportError: Without matplotlib.
    """
    points = list(history)
    losses = {name for point in points for name in point if name == "loss" or name.startswith("loss_")}
    scores = _score_names(points)
    if not points or not (losses or scores):
        return None
    figure = _figure(10.0, 3.8)
    columns = (1 if losses else 0) + (1 if scores else 0)
    if losses:
        _draw_losses(figure.add_subplot(1, columns, 1), points, sorted(losses))
    if scores:
        axes = figure.add_subplot(1, columns, columns)
        for index, (name, corpus) in enumerate(scores.items()):
            steps, values = _series(points, name)
            style: dict[str, Any] = {"color": "black", "linewidth": 2} if corpus == "macro" else {"linewidth": 1.2}
            axes.plot(steps, [100 * v for v in values], marker=_MARKERS[index % len(_MARKERS)], label=corpus, **style)
        metric = next(iter(scores)).rsplit("_", 1)[-1]
        axes.set(xlabel="update", ylabel=f"{metric} x 100", title="Evaluation")
        axes.locator_params(axis="x", nbins=5)
        _legend(axes)
    return _save(figure, path)


def language_gap_chart(report: ComparisonReport, path: str | os.PathLike[str]) -> Path | None:
    """Draw a comparison: the scores of teachers, baseline and students in every language.

    Args:
        report: The comparison; deviations become error bars.
        path: The PNG file; its folder must exist.

    Returns:
        The file; `None`, and no file, if there is no language.

    Raises:
        ImportError: Without matplotlib.
    """
    languages = list(report.languages or [])
    if not languages:
        return None
    columns = [*languages, *([AVERAGE] if len(languages) > 1 and report.averaged_languages else [])]
    rows = report.rows()
    figure = _figure(max(5.0, 1.6 + 1.1 * len(columns)), 3.8)
    axes = figure.add_subplot()
    if report.teachers is not None and report.baseline is not None:
        _draw_gaps(axes, report, columns)
    for index, (row, scores) in enumerate(rows.items()):
        values = {**scores, AVERAGE: report.average(row)}
        places = [i for i, column in enumerate(columns) if values.get(column) is not None]
        shift = 0.12 * (index - (len(rows) - 1) / 2)
        spread = [100 * report.deviations.get(row, {}).get(columns[i], 0.0) for i in places]
        axes.errorbar(
            [i + shift for i in places],
            [100 * float(values[columns[i]] or 0.0) for i in places],
            yerr=spread if any(spread) else None,
            fmt=_MARKERS[index % len(_MARKERS)],
            color=_GREYS.get(row, f"C{index}"),
            capsize=3,
            label=row,
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.use_sticky_edges = False  # otherwise the lowest bar and its point would lie on the frame
    axes.margins(y=0.08)
    axes.set(ylabel=f"{report.metric} x 100", title=f"Scores on {report.split}" if report.split else "Scores")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    _legend(axes)
    return _save(figure, path)


def _draw_losses(axes: Any, points: Sequence[Mapping[str, float]], names: Sequence[str]) -> None:
    for name in names:
        steps, values = _series(points, name)
        whole = name == "loss"
        axes.plot(
            steps,
            values,
            label=name.removeprefix("loss_"),
            color="black" if whole else None,
            linewidth=2 if whole else 1.2,
        )
    axes.set(xlabel="update", ylabel="loss, nats", title="Training")
    steps, lambdas = _series(points, "kd_lambda")
    if steps:
        right = axes.twinx()
        right.plot(steps, lambdas, color="0.6", linestyle="--")
        right.set_ylim(-0.02, 1.02)
        right.set_ylabel("lambda, weight of distillation")
        axes.plot([], [], color="0.6", linestyle="--", label="lambda (right)")
    _legend(axes, beside=False)


def _draw_gaps(axes: Any, report: ComparisonReport, columns: Sequence[str]) -> None:
    """Draw a bar from baseline to teachers behind the points of each language: the gap that distillation closes."""
    for i, column in enumerate(columns):
        ends = [
            report.average(row) if column == AVERAGE else scores.get(column)
            for row, scores in ((TEACHERS, report.teachers or {}), (BASELINE, report.baseline or {}))
        ]
        if None not in ends:
            low, high = sorted(100 * float(end or 0.0) for end in ends)
            axes.bar(i, high - low, bottom=low, width=0.5, color="0.93", zorder=0)


def _score_names(points: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """eval_<corpus>_<metric> -> corpus, the macro average last."""
    names = {name: name[5:].rpartition("_")[0] for point in points for name in point if name.startswith("eval_")}
    ordered = sorted(names.items(), key=lambda pair: pair[1] == "macro")
    return {name: corpus or "all" for name, corpus in ordered}


def _series(points: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    pairs = [(point.get("step", i), point[name]) for i, point in enumerate(points) if name in point]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _figure(width: float, height: float) -> Any:
    # without pyplot, which opens windows on some machines and keeps every figure in memory
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _legend(axes: Any, beside: bool = True) -> None:
    """Draw the legend, beside the axes if points may lie anywhere in them."""
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if beside else {"loc": "best"}
    axes.legend(fontsize="small", frameon=False, **place)


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    # without the version of matplotlib, so that the same figures give the same file
    figure.savefig(target, dpi=DPI, format="png", metadata={"Software": None})
    return target
