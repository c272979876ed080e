"""Reports the measurements of `crf_benchmark.py`: whether the gates hold, curves, and the tables of docs/crf.md."""

from __future__ import annotations

import json
from pathlib import Path

from hf_structkd.evaluation.markdown import fill_file, table

from .crf_competitors import COMPETITORS, OURS, WITHOUT_NUMBA

GATES = {  # (operation, T): (peer, gate, goal), ours / peer, for 32 sentences and 9 or 20 tags
    ("nll", 32): ("linear-crf-torch", 0.25, 0.20),
    ("viterbi", 32): ("pytorch-crf", 0.35, 0.20),
    ("nll", 128): ("pytorch-crf", 0.20, 0.08),
    ("marginals", 128): ("supar", 0.15, 0.10),
    ("posterior", 128): ("supar", 0.25, 0.12),
    ("viterbi", 128): ("pytorch-crf", 0.45, 0.30),
    ("k_best_5", 128): ("supar", 0.05, 0.01),
    ("k_best_10", 128): ("supar", 0.03, 0.01),
    ("structural", 128): ("supar", 0.10, 0.05),
    ("top_wk_5", 128): ("pytorch-crf", 0.10, 0.05),
}
OTHER_NUMBERS = "computes other numbers"  # in the note on a library that is not comparable


def verdict(result: dict, peer: str) -> str:
    """Whether one timing meets its gate; empty if it has none."""
    key = (result["operation"], result["T"])
    if key not in GATES or result["B"] != 32 or result["C"] not in (9, 20) or GATES[key][0] != peer:
        return ""
    _, gate, goal = GATES[key]
    ratio = result["libraries"][peer]["ours_over_it"]
    return f"gate {gate}, goal {goal}: " + (
        "goal reached" if ratio <= goal else "gate held" if ratio <= gate else "GATE MISSED"
    )


def plot(results: list[dict], path: Path) -> None:
    """Curves of CPU time against words and against tags."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = ("nll", "posterior", "viterbi", "k_best_10")
    figure, axes = plt.subplots(2, len(shown), figsize=(16, 7), squeeze=False)
    for column, operation in enumerate(shown):
        for row, (axis, fixed, label) in enumerate((("T", "C", "words"), ("C", "T", "tags"))):
            panel, at = axes[row][column], {"C": 20, "T": 128}[fixed]
            for colour, name in enumerate(COMPETITORS):
                cells = [r for r in results if (r["operation"], r["B"], r[fixed]) == (operation, 32, at)]
                points = sorted(
                    (r[axis], r["libraries"][name]["milliseconds"]) for r in cells if name in r["libraries"]
                )
                if points:
                    panel.plot(*zip(*points), marker="o", label=name, color=f"C{colour}")
            panel.set(xscale="log", yscale="log", xlabel=f"{label} ({fixed} = {at}, 32 sentences)", title=operation)
            measured = sorted({r[axis] for r in results})
            panel.set_xticks(measured, [str(number) for number in measured])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
        axes[0][0].set_ylabel("CPU time, ms")
        axes[1][0].set_ylabel("CPU time, ms")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def gates(results: list[dict]) -> str:
    rows = []
    for (operation, T), (peer, gate, goal) in GATES.items():
        row = [f"`{operation}`", str(T), peer]
        for C in (9, 20):
            cells = [r for r in results if (r["operation"], r["B"], r["T"], r["C"]) == (operation, 32, T, C)]
            libraries = cells[0]["libraries"]
            row += [f"{libraries[name]['milliseconds']:.1f}" for name in (OURS, WITHOUT_NUMBA, peer)]
            row += [f"{libraries[peer]['ours_over_it']:.3f}"]
        rows.append([*row, str(gate), str(goal)])
    header = ["operation", "words", "peer"]
    for C in (9, 20):
        header += [f"ours, ms (C={C})", "without numba", "peer", "ours / peer"]
    return table([*header, "gate", "goal"], rows)


def grid(results: list[dict]) -> str:
    """Ours over the fastest other library, smallest to largest, over all shapes measured."""
    rows = []
    for operation in dict.fromkeys(r["operation"] for r in results):
        ratios = []
        for r in results:
            comparable = [
                name
                for name in r["libraries"]
                if not name.startswith(OURS) and OTHER_NUMBERS not in r["notes"].get(name, "")
            ]
            others = [r["libraries"][name]["ours_over_it"] for name in comparable]
            if r["operation"] == operation and others:
                ratios.append((max(others), r))
        if ratios:
            ratios.sort(key=lambda pair: pair[0])
            low, high = ratios[0], ratios[-1]
            shape = [f"B={r['B']} T={r['T']} C={r['C']}" for _, r in (low, high)]
            middle = ratios[len(ratios) // 2][0]
            rows.append([f"`{operation}`", str(len(ratios)), f"{middle:.3f}", f"{low[0]:.3f} ({shape[0]})"])
            rows[-1].append(f"{high[0]:.3f} ({shape[1]})")
    return table(["operation", "shapes", "median", "smallest", "largest"], rows)


def by_library(rows: list[dict], field: str, form: str) -> str:
    libraries = list(dict.fromkeys(row["library"] for row in rows))
    lines = []
    for operation in dict.fromkeys(row["operation"] for row in rows):
        values = {row["library"]: row[field] for row in rows if row["operation"] == operation}
        cells = [form.format(values[name]) if values.get(name) is not None else "" for name in libraries]
        lines.append([f"`{operation}`", *cells])
    return table(["operation", *libraries], lines)


def write_report(folder: Path, page: Path) -> None:
    """Write the tables of times.json, step.json and memory.json, as far as they exist."""
    files = {file.stem: json.loads(file.read_text())["rows"] for file in folder.glob("*.json")}
    figures = {}
    if "times" in files:
        figures |= {"crf / gates": gates(files["times"]), "crf / grid": grid(files["times"])}
    if "step" in files:
        first = files["step"][0]
        step = (
            f"One step of the encoder, {first['B']} sentences of {first['T']} subwords: {first['step_seconds']:.1f} s."
        )
        figures["crf / step"] = step + "\n\n" + by_library(files["step"], "share", "{:.3%}")
    if "memory" in files:
        figures["crf / memory"] = by_library(files["memory"], "mebibytes", "{:.1f}")
    fill_file(page, "crf", figures)
    if "times" in files:
        plot(files["times"], folder / "times.png")
