"""The loss in numbers: its parts between two log lines, and the mean over an evaluation."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class LossLog:
    """Collects loss parts in `compute_loss` and hands out their means in `log()`.

    `loss_<part>` are what each part added to the loss, so they add up to `loss`; `<part>` without the prefix are the
    parts before lambda, in nats an item. Values stay on the device until they are logged.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._lambdas: list[float] = []
        self._steps: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(
        self,
        weighted: Mapping[str, Tensor],
        unweighted: Mapping[str, Tensor],
        scale: Tensor | float,
        lam: float | None,
        step: int,
    ) -> None:
        """Add a micro-batch of update `step`: its sentences' losses, (batch,) each; `scale` multiplies their sums."""
        named = {f"loss_{name}": part for name, part in weighted.items()} | dict(unweighted)
        for name, part in named.items():
            value = (part.detach().sum() * scale).double()
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._steps.add(step)
        if lam is not None:
            self._lambdas.append(lam)

    def pop(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means over the updates since the last call, which this ends.

        Args:
            reduce: (parts,) -> (parts,), the mean over processes; all of them have the same parts.
        """
        # One number at a time would be one wait for the other processes each.
        means = reduce(torch.stack(list(self._sums.values()))) if self._sums else torch.zeros(0)
        logs = {name: value / len(self._steps) for name, value in zip(self._sums, means.tolist())}
        if self._lambdas:
            logs["kd_lambda"] = sum(self._lambdas) / len(self._lambdas)
        self._sums, self._lambdas, self._steps = {}, [], set()
        return logs


class EvaluationLoss:
    """The gold tags' negative log-likelihood an item (word or sentence) over a whole evaluation, in nats.

    Each sentence counts once, and those without gold tags not at all: the mean does not depend on how large batches
    are, how many processes share them, or what the teachers' part in training is by now.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, sentences: Tensor) -> None:
        """Add sentences: (batch, 2), the loss of each in nats and how many labelled items it has."""
        sums = sentences.double().sum(dim=0)
        self._sums = sums if self._sums is None else self._sums + sums

    def mean(self) -> float | None:
        """The mean over all items; `None` where none has gold tags."""
        if self._sums is None or not self._sums[1]:
            return None
        return float(self._sums[0] / self._sums[1])
