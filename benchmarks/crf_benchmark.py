"""The time of the CRF's operations in comparison with other libraries, in one interleaved run.

    python -m benchmarks.crf_benchmark                       # the gates: B=32, T=32 and 128, C=9 and 20
    python -m benchmarks.crf_benchmark --grid full --output results/crf   # every T, C, B; JSON and plot
    python -m benchmarks.crf_benchmark --grid wide --operations nll k_best_50   # many tags, many paths
    python -m benchmarks.crf_benchmark --memory              # peak memory of each operation (Linux)
    python -m benchmarks.crf_benchmark --step                # share of an XLM-R-base training step
    python -m benchmarks.crf_benchmark --output results/crf --write docs/crf.md

One thread and CPU time. Before timing, every library's answer is compared with ours; those that differ by more than
1e-3 of the largest number are reported. Rounds visit all libraries in turn, so that a slower or busier machine slows
all alike; the ratio reported is the median of the rounds' ratios. A library that asks for more than `--memory_limit`
GiB of address space fails alone, and is reported; one slower than `--patience` is not asked for larger problems. A run
that was stopped continues where it was. `--write` writes the measurements in `--output` into a Markdown file and
measures nothing.

Needs ``pip install 'hf_structkd[benchmarks,fast,plots]'``; supar is installed by hand: ``pip install --no-deps
supar==1.1.4 stanza`` and ``pip install nltk dill``, and so is pytorch-partial-crf (``--no-deps``). A library that is
missing is left out.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch

from hf_structkd.files import write_atomically

from .crf_competitors import COMPETITORS, MORE_OPERATIONS, OPERATIONS, OURS, WITHOUT_NUMBA, Problem, answer, run
from .crf_report import OTHER_NUMBERS, plot, verdict, write_report

GRIDS = {
    "gates": [(32, 32, 9), (32, 32, 20), (32, 128, 9), (32, 128, 20)],  # T = 32: 20 words on average, as in NER
    "wide": [(B, 32, 150) for B in (1, 32)],
    "full": [(B, T, C) for B in (16, 32, 64) for T in (32, 128, 512) for C in (9, 20, 33, 128)],
}  # fmt: skip


def seconds(competitor: str, operation: str, problem: Problem) -> float:
    start = time.process_time()
    run(competitor, operation, problem)
    return time.process_time() - start


def too_slow(operation: str, problem: Problem, earlier: list[dict], patience: float) -> dict[str, str]:
    """Libraries that were too slow on a problem no larger than this one, and that problem."""
    shape, results = (problem.B, problem.T, problem.C), {}
    for result in earlier:
        if result["operation"] == operation and all(result[axis] <= n for axis, n in zip("BTC", shape)):
            for name, figures in result["libraries"].items():
                if figures["milliseconds"] > 1e3 * patience:
                    smaller = f"B={result['B']} T={result['T']} C={result['C']}"
                    results[name] = f"not run: {figures['milliseconds'] / 1e3:.1f} s at {smaller}"
    return results


def contenders(
    operation: str, problem: Problem, patience: float, hopeless: dict[str, str]
) -> tuple[dict[str, float], dict[str, str]]:
    """The libraries that offer the operation, with a first time; and those that fail, differ from ours or are slow."""
    ours = answer(operation, problem, run(OURS, operation, problem))
    able, notes = {OURS: seconds(OURS, operation, problem)}, dict(hopeless)
    for name in COMPETITORS:
        if name == OURS or name in hopeless or not hasattr(COMPETITORS[name], operation):
            continue
        try:
            run(name, operation, Problem(2, 8, problem.C))  # imports and compilation
            start = time.process_time()
            result = run(name, operation, problem)
            able[name] = time.process_time() - start
            far = float((answer(operation, problem, result) - ours).abs().max() / ours.abs().max())
            if not far <= 1e-3:
                notes[name] = f"{OTHER_NUMBERS}: furthest {far:.1e} of the largest"
            if able[name] > patience:
                notes[name] = f"{able[name]:.1f} s, more than {patience} s: timed once. {notes.get(name, '')}"
        except (ImportError, RuntimeError, ValueError, IndexError, MemoryError) as error:
            notes[name] = f"{type(error).__name__}: {error}"[:160]
    return able, notes


def measure(operation: str, problem: Problem, budget: float, patience: float, earlier: list[dict]) -> dict:
    hopeless = too_slow(operation, problem, earlier, patience)
    able, notes = contenders(operation, problem, patience, hopeless)
    slow = {name: first for name, first in able.items() if first > patience}
    names = [name for name in able if name not in slow]
    once = sum(seconds(name, operation, problem) * (2 if able[name] < 1.0 else 1) for name in names)
    rounds = max(3, min(60, int(budget / once)))
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            if able[name] < 1.0:
                run(name, operation, problem)  # the library before may have emptied the caches and the allocator
            times[name].append(seconds(name, operation, problem))
    result = {
        "operation": operation,
        "B": problem.B,
        "T": problem.T,
        "C": problem.C,
        "rounds": rounds,
        "libraries": {},
        "notes": notes,
    }
    for name, values in {**times, **{name: [first] for name, first in slow.items()}}.items():
        quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        ratios = [ours / value for ours, value in zip(times[OURS], values)]
        result["libraries"][name] = {
            "milliseconds": round(1e3 * statistics.median(values), 3),
            "quartiles": [round(1e3 * quartiles[0], 3), round(1e3 * quartiles[2], 3)],
            "ours_over_it": round(statistics.median(ratios), 4),
        }
    return result


def show(result: dict) -> None:
    operation, cell = result["operation"], f"B={result['B']} T={result['T']} C={result['C']}"
    for name, figures in result["libraries"].items():
        low, high = figures["quartiles"]
        print(
            f"{operation:<11}{cell:<19}{name:<13}{figures['milliseconds']:>10.2f} ms [{low:.2f}, {high:.2f}]"
            f"  ours/it {figures['ours_over_it']:<8}{verdict(result, name)}"
        )
    for name, why in result["notes"].items():
        print(f"{operation:<11}{cell:<19}{name:<13}{why}")
    sys.stdout.flush()


def training_step(B: int, T: int, C: int) -> list[dict]:
    """CPU time of one XLM-R-base training step (random weights) beside each CRF operation's."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config = XLMRobertaConfig(
        vocab_size=250_002, max_position_embeddings=514, type_vocab_size=1, hidden_size=768, num_hidden_layers=12
    )
    encoder = XLMRobertaModel(config, add_pooling_layer=False).train()
    problem = Problem(B, T, C)
    ids = torch.randint(5, 1000, (B, T))
    for _ in range(2):
        start = time.process_time()
        encoder(ids, problem.mask.long()).last_hidden_state.square().mean().backward()
        step = time.process_time() - start
    print(f"XLM-R-base forward and backward, B={B}, T={T} subwords, one thread: {step:.2f} s")
    rows = []
    for name in (OURS, WITHOUT_NUMBA, "pytorch-crf", "supar"):
        for operation in OPERATIONS:
            if hasattr(COMPETITORS[name], operation):
                run(name, operation, problem)
                cost = statistics.median(seconds(name, operation, problem) for _ in range(9))
                row = {"operation": operation, "library": name, "milliseconds": 1e3 * cost, "share": cost / step}
                rows.append({**row, "B": B, "T": T, "C": C, "step_seconds": step})
                print(f"{operation:<11}{name:<13}{1e3 * cost:>9.1f} ms  {100 * cost / step:.3f} % of the step")
    return rows


def peak_memory(B: int, T: int, C: int) -> list[dict]:
    """Peak resident memory above what was resident before, each operation in a process of its own."""
    rows = []
    for operation in OPERATIONS:
        for name in COMPETITORS:
            if hasattr(COMPETITORS[name], operation):
                command = [sys.executable, __file__, "--one", name, operation, str(B), str(T), str(C)]
                out = subprocess.run(command, capture_output=True, text=True, check=False)
                mebibytes = float(out.stdout) if out.returncode == 0 else None
                outcome = f"{mebibytes} MiB" if mebibytes is not None else out.stderr.strip().splitlines()[-1][:120]
                row = {"operation": operation, "library": name, "mebibytes": mebibytes, "B": B, "T": T, "C": C}
                rows.append(row)
                print(f"{operation:<11}B={B} T={T} C={C}  {name:<13}{outcome}", flush=True)
    return rows


def one(name: str, operation: str, B: str, T: str, C: str) -> None:
    run(name, operation, Problem(2, 16, int(C)))  # load and compile
    problem = Problem(int(B), int(T), int(C))
    # Memory freed by the set-up goes back, or it would hide what is used next; the high-water mark counts from here.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run(name, operation, problem)
    print(f"{(_status('VmHWM') - before) / 1024:.1f}")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", choices=GRIDS, default="gates")
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS + MORE_OPERATIONS, default=OPERATIONS)
    parser.add_argument("--budget", type=float, default=6.0, help="CPU seconds of rounds per operation and cell")
    parser.add_argument("--patience", type=float, default=5.0, help="a library slower than this is timed once")
    parser.add_argument("--output", type=Path, help="folder for the measurements as JSON, and a plot")
    parser.add_argument("--memory_limit", type=float, default=12.0, help="GiB of address space")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--shape", type=int, nargs=3, default=(32, 128, 20), help="B T C of --memory and --step")
    parser.add_argument("--write", type=Path, help="write the measurements in --output into this Markdown file")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (int(options.memory_limit * 2**30),) * 2)
    warnings.filterwarnings("ignore", module="torch_struct")
    if options.one:
        return one(*options.one)
    if options.write:
        return write_report(options.output, options.write)
    if options.memory:
        return keep(options.output, "memory", peak_memory(*options.shape))
    if options.step:
        return keep(options.output, "step", training_step(*options.shape))
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, 1 thread, CPU time")
    results = kept(options.output, "times")
    done = {(r["operation"], r["B"], r["T"], r["C"]) for r in results}
    for B, T, C in sorted(GRIDS[options.grid], key=lambda shape: shape[0] * shape[1] * shape[2] ** 2):
        problem = Problem(B, T, C)
        for operation in options.operations:
            if (operation, B, T, C) in done:
                continue
            results.append(measure(operation, problem, options.budget, options.patience, results))
            show(results[-1])
            keep(options.output, "times", results)
    if options.output:
        plot(results, options.output / "times.png")


def kept(folder: Path | None, name: str) -> list[dict]:
    """The measurements of an earlier run into this folder, so that a run that was stopped can continue."""
    file = folder / f"{name}.json" if folder else None
    return json.loads(file.read_text())["rows"] if file and file.exists() else []


def keep(folder: Path | None, name: str, rows: list[dict]) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row) for row in rows)
        write_atomically(folder / f"{name}.json", f'{{"torch": "{torch.__version__}", "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
