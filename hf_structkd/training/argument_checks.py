"""Checks of argument values: numbers in their range, and folders that are no addresses."""

import math
import re
from collections.abc import Sequence
from typing import Any

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

# Fields of `TrainingArguments`. transformers accepts any number and fails late, or trains in the wrong direction.
COUNTS = (
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "save_total_limit"),
    *("eval_accumulation_steps", "torch_empty_cache_steps", "dataloader_prefetch_factor"),
)
NOT_NEGATIVE = (
    *("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *(
        "label_smoothing_factor",
        "hidden_first",
        "hidden_weight",
        "hidden_thaw",
        "hidden_layer",
        "eval_delay",
        "dataloader_num_workers",
        "seed",
        "data_seed",
    ),
)
ABOVE_ZERO = ("num_train_epochs", "logging_steps", "eval_steps", "save_steps", "neftune_noise_alpha")
FOLDERS = ("output_dir", "annotation_dir")


def check_numbers(
    arguments: Any,
    *,
    counts: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    above_zero: Sequence[str] = (),
) -> None:
    """Raise ValueError, naming the field, for a number that is not finite or outside its range.

    Args:
        arguments: A dataclass instance. Fields that it lacks are skipped, and so are values that are no numbers.
        counts: Fields that must be at least 1.
        not_negative: Fields that must be at least 0.
        above_zero: Fields that must be above 0.
    """
    for names, condition, is_valid in (
        (counts, "at least 1", lambda number: number >= 1),
        (not_negative, "at least 0", lambda number: number >= 0),
        (above_zero, "above 0", lambda number: number > 0),
    ):
        for name in names:
            value = getattr(arguments, name, None)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if not math.isfinite(value) or not is_valid(value):
                raise ValueError(f"{name} must be a number {condition}, not {value}")


def check_training_numbers(arguments: Any) -> None:
    """Raise ValueError, naming the field, for a field of `TrainingArguments` outside its range."""
    check_numbers(arguments, counts=COUNTS, not_negative=NOT_NEGATIVE, above_zero=ABOVE_ZERO)
    for name in ("adam_beta1", "adam_beta2"):
        if not getattr(arguments, name) < 1:
            raise ValueError(f"{name} must be below 1, not {getattr(arguments, name)}")
    if arguments.max_steps != -1 and not arguments.max_steps >= 1:
        raise ValueError(
            f"max_steps must be at least 1, or -1 for as many as num_train_epochs, not {arguments.max_steps}"
        )


def refuse_addresses(arguments: Any, fields: Sequence[str] = FOLDERS) -> None:
    """Raise ValueError if a field for a folder or a file holds an address, such as `s3://...`.

    Everything is written to folders of this machine: an address would become a folder named `s3:`.
    """
    for name in fields:
        value = getattr(arguments, name, None)
        if value is not None and _ADDRESS.match(str(value)):
            raise ValueError(
                f"{name} must be a folder of this machine, not the address {value!r}: write to a folder and copy it "
                "there afterwards"
            )
