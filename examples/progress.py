"""What the scripts show while they work: one bar for each training, one line now and then."""

import warnings
from typing import Any

import datasets
import transformers
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_callback import PrinterCallback

SHOWN = ("loss", "kd_lambda")  # of the many numbers of a training log; all of them go to report_to and trainer_state


def quiet_libraries() -> None:
    """Leave the screen to the training bars: no bar for every file loaded, no list of every weight made anew."""
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


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


def make_brief(trainer: transformers.Trainer) -> None:
    """Put the brief callbacks in place of the stock ones."""
    for stock, short in ((ProgressCallback, BriefProgress), (PrinterCallback, BriefPrinter)):
        if trainer.pop_callback(stock) is not None:
            trainer.add_callback(short)
