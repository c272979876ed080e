"""What commands print while they work: one heading and one progress bar per training, and short lines of scores."""

import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import transformers
from accelerate import PartialState
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_callback import PrinterCallback

SHOWN = ("loss", "kd_lambda")  # the printed numbers of a training log; report_to and trainer_state get all of them
SECONDS_BETWEEN_LINES = 30.0  # where there is no bar


def quiet_libraries() -> None:
    """Switch off what libraries print beside the training bars: bars per loaded file, lists of new weights."""
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


@contextmanager
def shown_log() -> Iterator[None]:
    """Print what the package logs, while a command runs; afterwards the process logs as it did before."""
    log = logging.getLogger(__package__.partition(".")[0])
    level, handler = log.level, logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    printed = bool(logging.getLogger().handlers)  # by whoever called the command from Python
    if not printed:
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def show(text: str) -> None:
    """Print a text, on the main process only."""
    if PartialState().is_main_process:
        print(text, flush=True)


def announce(text: str) -> None:
    """Print a heading, on the main process only."""
    show(f"\n== {text}")


class Heading(TrainerCallback):
    """Prints a heading with the size of the training when it begins and, on request, lines of progress.

    Args:
        title: The name of the model in the heading.
        lines: Whether to print a line of progress every 30 seconds, for terminals without a bar.
    """

    def __init__(self, title: str, lines: bool) -> None:
        self.title, self.lines = title, lines
        self._started = self._last_line = 0.0  # seconds of time.monotonic
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        text = self.title
        if state.is_world_process_zero and train_dataloader is not None:
            try:
                sentences = f"{len(train_dataloader.dataset):,} sentences"
                # as Trainer counts them: an incomplete accumulation at the end of an epoch is an update too
                updates = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
                text += f": {sentences}, {updates:,} updates per epoch"
            except TypeError:  # streams have no length
                text += f": {state.max_steps:,} updates"
            if state.global_step:
                text += f", {state.global_step:,} of {state.max_steps:,} done before"
        announce(text)
        self._started = self._last_line = time.monotonic()
        self._first_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        if not self.lines or not state.is_world_process_zero or now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        updates_per_second = (state.global_step - self._first_step) / (now - self._started)
        seconds_left = (state.max_steps - state.global_step) / updates_per_second
        left = f"{seconds_left / 60:.0f} min" if seconds_left > 90 else f"{seconds_left:.0f} s"
        print(f"  {state.global_step:,} of {state.max_steps:,} updates, about {left} left", flush=True)


class BriefProgress(ProgressCallback):
    """The stock progress bar, without bars for evaluations and with short lines of scores."""

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kw: Any) -> None:
        return

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if (line := brief(logs or {})) and self.training_bar is not None:
            self.training_bar.write(f"  epoch {logs.get('epoch', 0):.2f}  {line}")


class BriefPrinter(TrainerCallback):
    """Prints the same lines of scores where there are no bars."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_local_process_zero and (line := brief(logs or {})):
            print(f"  epoch {logs.get('epoch', 0):.2f}  {line}", flush=True)


def brief(logs: dict[str, Any]) -> str:
    """The numbers of a log entry to print: loss and lambda of training, averages over languages of an evaluation."""
    shown = [name for name in logs if name in SHOWN or (name.startswith("eval_macro_") and name != "eval_macro_loss")]
    return "  ".join(f"{name} {logs[name]:.4g}" for name in shown)


def make_brief(trainer: transformers.Trainer, title: str | None = None) -> None:
    """Replace the stock printing callbacks of a trainer by the brief ones; a title adds a heading."""
    bars = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, ProgressCallback)]
    if title is not None:
        trainer.callback_handler.callbacks.insert(0, Heading(title, lines=not bars))
    for stock, short in ((ProgressCallback, BriefProgress), (PrinterCallback, BriefPrinter)):
        if trainer.pop_callback(stock) is not None:
            trainer.add_callback(short)
