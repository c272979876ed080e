"""Where a recipe spends its time: the processor's seconds of each phase, and the functions that take most of them.

python -m benchmarks.run_profile examples/recipes/demo.yaml --output_dir runs/profile
python -m benchmarks.run_profile --read demo.json --write docs/scaling.md --place demo

A thread looks every few milliseconds at what the main thread is doing, and books the processor time that the process
has used since it looked last. So a busy machine changes nothing, and no function is slowed down by being measured. All
arguments but those below are those of `structkd distill`; with one thread (`OMP_NUM_THREADS=1`) a second of the
processor is a second of the run.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

# The first name of each mapping that has a function in the stack decides. A function is given with the end of its
# file's name, without .py.
STAGES = {
    "imports": [("python", "start"), ("importlib._bootstrap>", "_find_and_load")],
    "teachers' training": [("recipes/teachers", "trained_teacher")],
    "baseline": [("recipes/run", "baseline")],
    "student": [("recipes/run", "student")],
    "report": [("recipes/run", "report")],
    "teachers asked": [("recipes/run", "annotate")],
    "teachers calibrated": [("recipes/teachers", "calibrate_teachers")],
    "corpora read": [("recipes/run", "data"), ("recipes/data", "read_run_data")],
}
TRAINING = {"teachers' training", "baseline", "student"}
STEPS = {
    "evaluation": [("transformers/trainer", "evaluate"), ("training/scoring_trainer", "evaluate")],
    "checkpoints": [("transformers/trainer", "_save_checkpoint"), ("transformers/trainer", "_load_best_model")],
    "model and tokenizer": [("recipes/models", "make_tagger"), ("recipes/models", "trim_tagger")],
    "encoding": [("training/preparation", "encoded"), ("training/preparation", "scorable")],
    "data": [("transformers/trainer", "get_batch_samples")],
    "backward": [("accelerate/accelerator", "backward")],
    "loss": [("distillation/losses", "mixed_losses"), ("training/students", "training_distribution")],
    "forward": [("training/trainer", "compute_loss")],
    "optimizer": [
        ("accelerate/optimizer", "step"),
        ("accelerate/optimizer", "zero_grad"),
        ("accelerate/scheduler", "step"),
        ("accelerate/accelerator", "clip_grad_norm_"),
    ],
}
REPORT = {
    "scores": [("evaluation/compare", "compare")],
    "results and card": [("recipes/run", "_results"), ("hub/describe", "describe_student")],
}
_EVERY = 0.005  # seconds between two looks


class Sampler:
    """Books the processor time of the process on what its main thread is doing.

    Attributes:
        seconds: A stack, as (file without .py, function) from the outermost inwards -> processor seconds.
    """

    def __init__(self) -> None:
        self.seconds: Counter[tuple[tuple[str, str], ...]] = Counter()
        self._main = threading.main_thread().ident
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        last = time.process_time()
        self.seconds[(("python", "start"),)] += last
        while not self._stop.wait(_EVERY):
            frame = sys._current_frames().get(self._main or 0)
            now = time.process_time()
            self.seconds[_stack_of(frame)] += now - last
            last = now


def _stack_of(frame: FrameType | None) -> tuple[tuple[str, str], ...]:
    functions = []
    while frame is not None:
        functions.append((frame.f_code.co_filename.removesuffix(".py"), frame.f_code.co_name))
        frame = frame.f_back
    return tuple(reversed(functions))


def phase_of(stack: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    """The phase that a stack belongs to, and the step within the phase (`""` where it has none)."""
    stage = _first(stack, STAGES) or "the rest"
    steps = STEPS if stage in TRAINING else REPORT if stage == "report" else {}
    return stage, (_first(stack, steps) or "the rest") if steps else ""


def _first(stack: tuple[tuple[str, str], ...], rules: Mapping[str, list[tuple[str, str]]]) -> str | None:
    for name, places in rules.items():
        if any(function == asked and file.endswith(end) for file, function in stack for end, asked in places):
            return name
    return None


def summary(seconds: Mapping[tuple[tuple[str, str], ...], float]) -> dict[str, Any]:
    """Seconds by phase and step, and the functions of this package with the most seconds in themselves and below."""
    phases: Counter[tuple[str, str]] = Counter()
    ours: Counter[str] = Counter()
    for stack, spent in seconds.items():
        phases[phase_of(stack)] += spent
        for function in {_short(file, name) for file, name in stack if "hf_structkd/" in file}:
            ours[function] += spent
    return {
        "seconds": round(sum(phases.values()), 1),
        "phases": [{"phase": p, "step": s, "seconds": round(t, 2)} for (p, s), t in phases.most_common()],
        "functions": {name: round(spent, 2) for name, spent in ours.most_common(60)},
    }


def _short(file: str, function: str) -> str:
    return f"{file.rsplit('hf_structkd/', 1)[1]}:{function}"


def as_markdown(report: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> str:
    """The table by phase and step, of what takes at least half a percent.

    Args:
        report: A result of [`summary`].
        before: One of the same recipe with an earlier version, for another column.
    """
    from hf_structkd.evaluation.markdown import table  # here: importing is a phase of the run

    total = report["seconds"]
    earlier = {(row["phase"], row["step"]): row["seconds"] for row in (before or {"phases": []})["phases"]}
    order = [*STAGES, "the rest"]
    cells = []
    for row in sorted(report["phases"], key=lambda row: (order.index(row["phase"]), -row["seconds"])):
        was = earlier.get((row["phase"], row["step"]), 0.0)
        if max(row["seconds"], was) >= 0.005 * total:
            share = f"{100 * row['seconds'] / total:.1f} %"
            cells.append(
                [row["phase"], row["step"], f"{row['seconds']:.1f}", share, *([_number(was)] if before else [])]
            )
    cells.append(["all but imports", "", _work(report), "", *([_work(before)] if before else [])])
    head = ["phase", "step", "seconds", "share", *(["seconds before"] if before else [])]
    return table(head, cells)


def _work(report: Mapping[str, Any]) -> str:
    return _number(sum(row["seconds"] for row in report["phases"] if row["phase"] != "imports"))


def _number(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds else ""


def _collapsed(seconds: Mapping[tuple[tuple[str, str], ...], float]) -> Iterator[str]:
    for stack, spent in seconds.items():
        yield ";".join(f"{file}:{function}" for file, function in stack) + f" {1000 * spent:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="a file for the figures, as JSON")
    parser.add_argument("--stacks", type=Path, help="a file for all stacks, as flame graph tools read them")
    parser.add_argument("--read", type=Path, help="figures that were measured before, in place of a run")
    parser.add_argument(
        "--before",
        type=Path,
        help="figures of an earlier version, for another column; --report keeps them",
    )
    parser.add_argument("--write", type=Path, help="a Markdown file with a marked place for the table")
    parser.add_argument("--place", help="the name of the marked place, behind `profile `")
    args, recipe = parser.parse_known_args()
    if (args.write is None) != (args.place is None):
        parser.error("--write and --place go together")
    if args.read is None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        with Sampler() as sampler:
            from hf_structkd import cli

            code = cli.main(["distill", *recipe])
        if code:
            sys.exit(code)
        report = summary(sampler.seconds)
        if args.stacks:
            args.stacks.write_text("\n".join(_collapsed(sampler.seconds)) + "\n", encoding="utf-8")
    else:
        if recipe:
            parser.error(f"{recipe[0]} has no effect with --read")
        report = json.loads(args.read.read_text(encoding="utf-8"))
    if args.before:
        report["before"] = json.loads(args.before.read_text(encoding="utf-8"))
        report["before"].pop("before", None)
    if args.report:
        args.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = as_markdown(report, report.get("before"))
    print(text)
    if args.write:
        from hf_structkd.evaluation.markdown import fill_file

        fill_file(args.write, f"profile {args.place}", {f"profile {args.place}": text})


if __name__ == "__main__":
    main()
