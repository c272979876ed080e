"""What the scripts show while they work: a heading and a bar for each training, one line now and then."""

import math
import time
import warnings
from typing import Any

import datasets
import transformers
from accelerate import PartialState
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_callback import PrinterCallback

SHOWN = ("loss", "kd_lambda")  # of the many numbers of a training log; all of them go to report_to and trainer_state
SECONDS_BETWEEN_LINES = 30.0  # where there is no bar


def quiet_libraries() -> None:
    """Leave the screen to the training bars: no bar for every file loaded, no list of every weight made anew."""
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


def show(text: str) -> None:
    """Print a text, once, whatever the number of processes."""
    if PartialState().is_main_process:
        print(text, flush=True)


def announce(text: str) -> None:
    """Print a heading, once, whatever the number of processes."""
    show(f"\n== {text}")


class Heading(TrainerCallback):
    """Says what is trained on how much, when training begins, and where there is no bar how far it is.

    Args:
        title: how the heading calls the model.
        lines: whether progress is told in lines, one in half a minute.
    """

    def __init__(self, title: str, lines: bool) -> None:
        self.title, self.lines = title, lines
        self._begun = self._told = 0.0
        self._first = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        text = self.title
        if state.is_world_process_zero and train_dataloader is not None:
            try:
                sentences = f"{len(train_dataloader.dataset):,} sentences"
                # as Trainer counts them: the last batches of an epoch are an update too
                updates = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
                text += f": {sentences}, {updates:,} updates an epoch"
            except TypeError:  # a stream has no length
                text += f": {state.max_steps:,} updates"
            if state.global_step:
                text += f", {state.global_step:,} of {state.max_steps:,} done before"
        announce(text)
        self._begun = self._told = time.monotonic()
        self._first = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        if not self.lines or not state.is_world_process_zero or now - self._told < SECONDS_BETWEEN_LINES:
            return
        self._told = now
        pace = (state.global_step - self._first) / (now - self._begun)
        left = (state.max_steps - state.global_step) / pace
        shown = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
        print(f"  {state.global_step:,} of {state.max_steps:,} updates, about {shown} left", flush=True)


class BriefProgress(ProgressCallback):
    """The stock progress bar without a bar for every evaluation, and with short lines."""

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kw: Any) -> None:
        return

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if (line := brief(logs or {})) and self.training_bar is not None:
            self.training_bar.write(f"  epoch {logs.get('epoch', 0):.2f}  {line}")


class BriefPrinter(TrainerCallback):
    """The same lines where there are no bars."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.is_local_process_zero and (line := brief(logs or {})):
            print(f"  epoch {logs.get('epoch', 0):.2f}  {line}", flush=True)


def brief(logs: dict[str, Any]) -> str:
    """The numbers worth a line: the loss and lambda while training, the average over languages after an evaluation."""
    shown = [name for name in logs if name in SHOWN or (name.startswith("eval_macro_") and name != "eval_macro_loss")]
    return "  ".join(f"{name} {logs[name]:.4g}" for name in shown)


def make_brief(trainer: transformers.Trainer, title: str | None = None) -> None:
    """Put the brief callbacks in place of the stock ones, and a heading before them where there is a title."""
    bars = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, ProgressCallback)]
    if title is not None:
        trainer.callback_handler.callbacks.insert(0, Heading(title, lines=not bars))
    for stock, short in ((ProgressCallback, BriefProgress), (PrinterCallback, BriefPrinter)):
        if trainer.pop_callback(stock) is not None:
            trainer.add_callback(short)
