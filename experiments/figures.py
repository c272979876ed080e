"""Plots of a grid's results: by language, gap closed, cost, and the curves that the grid's file asks for.

curves:
  - {title: paths a teacher is asked for, x: top_k, lines: objective, cells: ['K=*']}
  - {title: schedules of lambda, kind: schedules, cells: ['schedule *']}
  - {title: dev score by epoch, kind: epochs, cells: [none, posterior]}
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from hf_structkd import StructKDTrainingArguments
from hf_structkd.distillation.schedules import Progress, make_schedule
from hf_structkd.evaluation.significance import Difference
from hf_structkd.files import write_atomically

from .comparison import Row
from .grid import GridError
from .grid_results import GridResults

KINDS = ("field", "schedules", "epochs")
_COLORS = 20  # of "tab20"
_MARKERS = "os^DvP"  # the next one for each round of colours
_LEGEND_LINES = 24  # beside axes 4.5 inches high


def draw_all(results: GridResults, rows: Mapping[str, Row], file: Path) -> list[str]:
    """Draw what there is to draw into one picture, one plot below the other; the plots' titles."""
    plots: dict[str, bytes] = {}

    def add(title: str, draw: Callable[[Any], object], size: tuple[float, float]) -> None:
        figure = _figure(*size)
        draw(figure)
        figure.suptitle(title, fontsize="medium")
        content = io.BytesIO()
        # without the drawing program's version, so that the same figures give the same file
        figure.savefig(content, dpi=110, metadata={"Software": None})
        plots[title] = content.getvalue()

    tall = 1.0 + 0.2 * len(rows)
    panels = len(results.languages) + 1
    add("Test score by language", lambda figure: by_language(figure, results, rows), (3.0 + 1.3 * panels, tall))
    if any(is_defined(row.gap) for row in rows.values()):
        add("Gap closed", lambda figure: gap_closed(figure.add_subplot(), rows), (6.5, tall))
    add(
        "Score against training time",
        lambda figure: cost(figure.add_subplot(), results, rows),
        (5.0 + 2.0 * _legend_columns(len(rows)), 4.5),
    )
    for curve in results.grid.curves:
        kind = curve.get("kind", "field")
        if kind not in KINDS or "title" not in curve or (kind == "field" and "x" not in curve):
            raise GridError(f"a curve needs a title and x, or kind {' or '.join(KINDS[1:])}: {curve}")
        chosen = [row for row in rows.values() if any(fnmatch(row.name, p) for p in curve.get("cells", ["*"]))]
        if chosen:
            draw = {"field": by_field, "schedules": schedules, "epochs": epochs}[kind]
            add(curve["title"], lambda f, d=draw, c=curve, r=chosen: d(f.add_subplot(), results, r, c), (7.0, 4.5))
    write_atomically(file, _below_each_other(list(plots.values())))
    return list(plots)


def _below_each_other(pictures: Sequence[bytes]) -> bytes:
    from PIL import Image

    opened = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    whole = Image.new("RGB", (max(one.width for one in opened), sum(one.height for one in opened)), "white")
    top = 0
    for one in opened:
        whole.paste(one, (0, top))
        top += one.height
    content = io.BytesIO()
    whole.quantize(128).save(content, "PNG", optimize=True)  # a plot has few colours
    return content.getvalue()


def by_language(figure: Any, results: GridResults, rows: Mapping[str, Row]) -> None:
    """A panel for each language, in it a bar for each cell, deviations as error bars, the teachers as a line."""
    languages = [*results.languages, "avg"]
    panels = figure.subplots(1, len(languages), sharey=True)
    at = range(len(rows))
    for axes, language in zip(panels, languages):
        means, deviations = np.array([row.test[language] for row in rows.values()], dtype=float).T * 100
        axes.barh(at, means, xerr=np.nan_to_num(deviations), color="C0", error_kw={"lw": 0.8})
        ends = [*means]
        if results.reference_teachers is not None:
            ends.append(100 * results.reference_teachers.score(language))
            axes.axvline(ends[-1], color="black", ls="dashed", lw=1.0)
        room = max(1.0, 0.1 * (max(ends) - min(ends)))
        axes.set_xlim(max(0.0, min(ends) - 3 * room), max(ends) + room)  # bars from 0 would all look alike
        axes.set_title(language, fontsize="small")
        axes.tick_params(labelsize="x-small")
    panels[0].set_yticks(list(at), list(rows))
    panels[0].set_ylim(len(rows) - 0.4, -0.6)  # the first cell on top
    taught = ", teachers dashed" if results.reference_teachers is not None else ""
    figure.supxlabel(f"{results.metric} x 100{taught}", fontsize="small")


def is_defined(gap: Difference | None) -> bool:
    """Whether there are teachers, and better ones than the baseline beyond doubt."""
    return gap is not None and not np.isnan(gap.estimate)


def gap_closed(axes: Any, rows: Mapping[str, Row]) -> None:
    """The share of the teachers' gap, with its interval."""
    defined = [(row.name, row.gap) for row in rows.values() if row.gap is not None and is_defined(row.gap)]
    defined.sort(key=lambda item: item[1].estimate)
    at = range(len(defined))
    values = np.array([[100 * gap.estimate, 100 * gap.low, 100 * gap.high] for _, gap in defined])
    errors = np.nan_to_num([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]])  # one seed has no interval
    axes.barh(at, values[:, 0], xerr=errors, color="C0", error_kw={"lw": 0.9})
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(list(at), [name for name, _ in defined], fontsize="x-small")
    axes.set_ylim(-0.6, len(defined) - 0.4)
    axes.set_xlabel("% of the way from baseline to teachers\n(95 % interval over seeds and sentences)")


def cost(axes: Any, results: GridResults, rows: Mapping[str, Row]) -> None:
    """What a student costs to train and what it scores."""
    for number, row in enumerate(rows.values()):
        mean, deviation = row.test["avg"]
        axes.errorbar(
            row.seconds,
            100 * mean,
            yerr=100 * (deviation or 0.0),
            fmt=_MARKERS[number // _COLORS % len(_MARKERS)],
            ms=4,
            color=_color(number),
            label=row.name,
        )
    axes.set_xlabel("seconds of training a student")
    _scores(axes, results)


def by_field(axes: Any, results: GridResults, rows: Sequence[Row], curve: Mapping[str, Any]) -> None:
    """Scores against a setting, a line for each value of another one."""
    points: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        record = next(iter(results.cells[row.name].values())).record
        x = _setting(record, curve["x"])
        if x is None:
            continue
        line = str(_setting(record, curve["lines"])) if "lines" in curve else results.metric
        mean, deviation = row.test["avg"]
        points.setdefault(line, []).append((float(x), 100 * mean, 100 * (deviation or 0.0)))
    for number, (line, of_line) in enumerate(points.items()):
        xs, means, deviations = np.array(sorted(of_line)).T
        axes.errorbar(xs, means, yerr=deviations, marker="o", ms=4, capsize=2, label=line, color=_color(number))
    axes.set_xlabel(curve.get("label", curve["x"].replace("_", " ")))
    if curve.get("log"):
        axes.set_xscale("log")
    _references(axes, results)
    _scores(axes, results)


def schedules(axes: Any, results: GridResults, rows: Sequence[Row], curve: Mapping[str, Any]) -> None:
    """lambda over training, and what came of it."""
    for number, row in enumerate(rows):
        settings = next(iter(results.cells[row.name].values())).record["settings"]
        schedule = make_schedule(
            settings.get("lambda_schedule", "linear"),
            settings.get("lambda_start", 1.0),
            settings.get("lambda_end", 0.0),
            settings.get("lambda_rate"),
        )
        epochs = float(settings.get("num_train_epochs", 3))
        done = np.arange(400)
        values = [schedule(Progress(int(step), 400, epochs * step / 400, epochs)) for step in done]
        axes.plot(done / 400, values, label=f"{row.name}: {100 * row.test['avg'][0]:.2f}", color=_color(number))
    axes.set_xlabel("share of training done")
    axes.set_ylabel("lambda")
    _legend(axes)


def epochs(axes: Any, results: GridResults, rows: Sequence[Row], curve: Mapping[str, Any]) -> None:
    """The macro score on dev after every epoch, means over seeds."""
    for number, row in enumerate(rows):
        records = [run.record for run in results.cells[row.name].values()]
        lines = [[point[results.metric]["macro"] for point in record["curve"]] for record in records]
        shortest = min(map(len, lines))
        xs = [point["epoch"] for point in records[0]["curve"][:shortest]]
        means = 100 * np.mean([line[:shortest] for line in lines], axis=0)
        axes.plot(xs, means, marker="o", ms=3, label=row.name, color=_color(number))
    axes.set_xlabel("epochs")
    axes.set_ylabel(f"{results.metric} x 100 on dev")
    _legend(axes)


def _setting(record: Mapping[str, Any], name: str) -> Any:
    """A setting of a cell; numbers of sentences are those there were, in the mean over languages."""
    if name in ("gold_sentences", "text_sentences"):
        return float(np.mean(list(record[name].values())))
    default = next(
        (f.default for f in fields(StructKDTrainingArguments) if f.name == name and f.default is not MISSING), None
    )
    value = record["settings"].get(name, default)
    return "+".join(value) if isinstance(value, Mapping) else value


def _references(axes: Any, results: GridResults) -> None:
    """Baseline and teachers as horizontal lines."""
    if results.baseline is not None:
        scores = [run.score() for run in results.cells[results.baseline].values()]
        axes.axhline(100 * float(np.mean(scores)), color="grey", ls="dotted", label=f"baseline ({results.baseline})")
    if results.reference_teachers is not None:
        axes.axhline(100 * results.reference_teachers.score(), color="black", ls="dashed", label="teachers")


def _scores(axes: Any, results: GridResults) -> None:
    axes.set_ylabel(f"macro {results.metric} x 100 on test")
    _legend(axes)


def _color(number: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab20"](number % _COLORS)


def _figure(width: float, height: float) -> Any:
    # pyplot would open windows on some machines, and keeps every figure until it is told not to
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _legend(axes: Any) -> None:
    """Beside the axes: points may lie anywhere in them."""
    columns = _legend_columns(len(axes.get_legend_handles_labels()[0]))
    axes.legend(fontsize="x-small", frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), ncols=columns)


def _legend_columns(entries: int) -> int:
    return max(1, -(-entries // _LEGEND_LINES))
