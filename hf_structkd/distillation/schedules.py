"""Schedules of lambda, the weight of distillation against the gold tags, over training (SLKD Algorithm 1)."""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far training has come.

    Args:
        step: finished optimiser updates.
        max_steps: updates in the whole run.
        epoch: finished epochs, a fraction within an epoch.
        num_epochs: epochs in the whole run.
    """

    step: int
    max_steps: int
    epoch: float
    num_epochs: float


LambdaSchedule = Callable[[Progress], float]


def _fraction(progress: Progress) -> float:
    """The finished fraction of the run: 0 at the first update, 1 at the last."""
    return min(progress.step / max(progress.max_steps - 1, 1), 1.0)


def make_schedule(name: str, start: float = 1.0, end: float = 0.0, rate: float | None = None) -> LambdaSchedule:
    """A schedule by name.

    Args:
        name: `"constant"` (always `start`), `"linear"` (from `start` at the first update to `end` at the last, as the
            official fine-tuning configuration), `"linear_per_epoch"` (constant within an epoch, as the paper) or
            `"cosine"`.
        start, end: lambda at the beginning and at the end, in [0, 1].
        rate: for `linear_per_epoch`, by how much lambda moves from `start` towards `end` per epoch; the paper's tau
            of 1 % per epoch is 0.01. `None`: the rate at which the last epoch has `end`.

    Returns:
        A function of [`Progress`] that gives lambda.

    Raises:
        ValueError: for an unknown name or a value outside its range.
    """
    for field, value in (("start", start), ("end", end)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"lambda_{field} must lie in [0, 1], not {value}")
    if rate is not None and (name != "linear_per_epoch" or rate <= 0):
        raise ValueError(f"lambda_rate is an amount above 0 per epoch, for linear_per_epoch only (schedule {name!r})")

    def constant(progress: Progress) -> float:
        return start

    def linear(progress: Progress) -> float:
        return start + (end - start) * _fraction(progress)

    def linear_per_epoch(progress: Progress) -> float:
        epoch = math.floor(progress.epoch + 1e-9)  # epochs come as steps / steps-per-epoch, just below whole numbers
        if rate is None:
            share = min(epoch / max(math.ceil(progress.num_epochs) - 1, 1), 1.0)
            return start + (end - start) * share
        moved = min(rate * epoch, abs(end - start))
        return start + math.copysign(moved, end - start)

    def cosine(progress: Progress) -> float:
        return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * _fraction(progress)))

    schedules = {"constant": constant, "linear": linear, "linear_per_epoch": linear_per_epoch, "cosine": cosine}
    if name not in schedules:
        near = difflib.get_close_matches(name, schedules, n=1)
        advice = f". Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown lambda schedule {name!r}; there are {', '.join(schedules)}{advice}")
    return schedules[name]
