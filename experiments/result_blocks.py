"""A grid's results as Markdown: tables, and every figure under the name by which documents mark its place.

Of a cell there are score, dev, difference, gap, p and seeds; of `teachers`, those that the gap is measured to, and of
`teachers NAME` the score. See `evaluation/markdown.py`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from hf_structkd.evaluation import markdown
from hf_structkd.evaluation.markdown import code, escaped, key
from hf_structkd.evaluation.report import percent
from hf_structkd.evaluation.significance import CORRECTION, Difference

from .comparison import RESAMPLES, Row, Spread
from .grid_results import GridResults


def blocks_of(results: GridResults, rows: Mapping[str, Row], plots: Sequence[str], picture: str) -> dict[str, str]:
    """Marker -> text, for a grid as a whole and for the values of its cells.

    Args:
        results, rows: of the grid.
        plots: the titles of its plots.
        picture: the file that they are in, relative to the document.
    """
    name = results.grid.name
    blocks = {key(name, cell, what): text for cell, row in rows.items() for what, text in _values(row).items()}
    blocks[key(name, "baseline")] = code(results.baseline)
    if results.reference_teachers is not None:
        blocks[key(name, "teachers", "score")] = percent(results.reference_teachers.score())
    blocks |= {
        key(name, f"teachers {which}", "score"): percent(run.score()) for which, run in results.teachers.items()
    }
    if results.baseline in rows:
        blocks |= {key(name, "baseline", w): text for w, text in _values(rows[results.baseline]).items()}
    parts = [results.grid.description, score_table(results, rows), _notes(results, rows), detail_table(rows)]
    if results.zero_shot_languages:
        parts.append(zero_shot_table(results, rows))
    if plots:
        parts.append(f"![{'; '.join(plots)}]({picture})")
    blocks[name] = "\n\n".join(part for part in parts if part)
    return blocks


def score_table(results: GridResults, rows: Mapping[str, Row]) -> str:
    """Test scores by language, and every cell against the baseline."""
    header = ["", "seeds", *results.languages, "avg", "difference", "p", "p (sentences too)", "gap closed"]
    lines = []
    for name, run in results.teachers.items():
        scores = [percent(run.score(language)) for language in [*results.languages, "avg"]]
        lines.append([f"teachers {code(name)}", "", *scores, "", "", "", ""])
    for row in rows.values():
        scores = [_spread(row.test[language]) for language in [*results.languages, "avg"]]
        title = code(row.name) + (" (baseline)" if row.name == results.baseline else "")
        tests = [_points(row.difference), _p(row.p_value), _p(row.with_sentences_p), _share(row.gap)]
        lines.append([title, str(len(row.seeds)), *scores, *tests])
    return table(header, lines)


def detail_table(rows: Mapping[str, Row]) -> str:
    """Dev scores, entity types, cost and what changed sentence by sentence."""
    types = list(dict.fromkeys(name for row in rows.values() for name in row.types))
    header = ["", "dev avg", *types, "regressions", "gains", "updates", "training s", "peak MiB"]
    lines = [
        [
            code(row.name),
            _spread(row.dev["avg"]),
            *(percent(row.types.get(name)) for name in types),
            "" if row.regressions is None else f"{100 * row.regressions:.2f} %",
            "" if row.gains is None else f"{100 * row.gains:.2f} %",
            f"{row.updates:,.0f}",
            f"{row.seconds:.0f}",
            f"{row.memory / 2**20:,.0f}",
        ]
        for row in rows.values()
    ]
    return table(header, lines)


def zero_shot_table(results: GridResults, rows: Mapping[str, Row]) -> str:
    """Languages that nobody was trained on: the best of the teachers on each, and every cell."""
    languages = results.zero_shot_languages
    lines = []
    for name, run in results.teachers.items():
        of_teachers = run.record["scores"].get("zero_shot")
        if of_teachers:
            best = [max(scores[language][run.metric] for scores in of_teachers.values()) for language in languages]
            lines.append([f"best of teachers {code(name)}", *map(percent, best), percent(sum(best) / len(best))])
    lines += [
        [code(row.name), *(_spread(row.zero_shot[language]) for language in [*languages, "avg"])]
        for row in rows.values()
    ]
    return "Zero-shot:\n\n" + table(["", *languages, "avg"], lines)


def _notes(results: GridResults, rows: Mapping[str, Row]) -> str:
    seeds = sorted({seed for row in rows.values() for seed in row.seeds})
    tested = sum(row.difference is not None and row.difference.n > 1 for row in rows.values())
    chosen = len(results.grid.baselines) > 1
    return " ".join(
        [
            f"{results.metric} x 100 on test, mean ± sample deviation over seeds ({len(seeds)} at most), epoch chosen "
            "on dev; avg is the macro average over languages.",
            f"Baseline: {code(results.baseline)}" + (", of several lengths the best one on dev." if chosen else "."),
            "Difference: to the baseline over the same seeds, with the 95 % interval of a paired t test, whose p "
            f"{correction_of(tested)}. p (sentences too): over seeds and {RESAMPLES:,} resamples of the test "
            "sentences together, likewise; gap closed: with Fieller's 95 % interval over both, and not defined where "
            "the teachers are not better than the baseline beyond doubt. With one seed there are no intervals. "
            "Regressions: test sentences that the teacher has right and the student wrong; gains: the other way "
            "round.",
        ]
    )


def correction_of(tested: int) -> str:
    """What was done to the p values of so many tests; a cell with one seed has none."""
    if tested == 0:
        return "needs several seeds"
    if tested == 1:
        return "is that of one comparison, not corrected"
    return f"is corrected for {tested} comparisons ({CORRECTION})"


def _values(row: Row) -> dict[str, str]:
    return {
        "score": _spread(row.test["avg"]),
        "dev": _spread(row.dev["avg"]),
        "difference": _points(row.difference),
        "gap": _share(row.gap),
        "p": _p(row.p_value),
        "seeds": str(len(row.seeds)),
    }


def table(header: list[str], lines: list[list[str]]) -> str:
    """A table of finished lines, numbers to the right; what its header says is escaped."""
    return markdown.table([escaped(name) for name in header], lines, numbers=True)


def _spread(spread: Spread) -> str:
    return percent(*spread)


def _points(difference: Difference | None) -> str:
    if difference is None:
        return ""
    text = f"{100 * difference.estimate:+.2f}"
    if difference.low == difference.low:  # not NaN, as with one seed
        text += f" [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
    return text


def _share(gap: Difference | None) -> str:
    if gap is None:
        return ""
    if np.isnan(gap.estimate):
        return "not defined"
    text = f"{100 * gap.estimate:.0f} %"
    if not np.isnan(gap.low):  # as with one seed
        text += f" [{100 * gap.low:.0f}, {100 * gap.high:.0f}]"
    return text


def _p(value: float | None) -> str:
    if value is None or value != value:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
