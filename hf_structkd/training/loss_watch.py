"""A loss that is NaN or infinite ends the training, and says which sentences it came from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor, nn

from ..data.columns import LANGUAGE, TOKENS

_SHOWN = 8  # sentences that a message names
_IDS = ("id", "sentence_id", "sent_id")  # columns that corpora name their sentences in


class NonFiniteLossError(FloatingPointError):
    """The loss of a batch is NaN or infinite."""


class LossGuard:
    """Holds the parts of the loss under way, so that a bad one can be explained.

    Nothing is computed, and nothing copied off the device, while losses are finite. Sentences carry no numbers through
    the collator: those of a bad batch are found again in the corpus by their subwords, whatever drew and padded them.
    """

    def __init__(self) -> None:
        self._parts: dict[str, Tensor] = {}
        self._emissions = torch.zeros(0)

    def remember(self, parts: Mapping[str, Tensor], emissions: Tensor) -> None:
        """Keep a micro-batch's losses by part, (batch,) each, and its (batch, words, tags) scores until the next's."""
        self._parts = {name: part.detach() for name, part in parts.items()}
        self._emissions = emissions.detach()

    def all_finite(self, model: nn.Module) -> bool:
        """Whether the micro-batch's scores and the model's weights are; this waits for the device."""
        return bool(self._emissions.isfinite().all()) and not _broken(model)

    def explain(
        self,
        loss: float | None,
        inputs: Mapping[str, Any],
        step: int,
        model: nn.Module,
        corpus: Any,
        tokenizer: Any = None,
    ) -> NonFiniteLossError:
        """The error to raise for a loss that is not finite.

        Args:
            loss: the micro-batch's; `None` where its scores are so bad that there is none.
            inputs: the collated micro-batch.
            step: updates done before it.
            model: which part of it is not finite, if any, is said too.
            corpus: the training data, tokenised; where it is no `Dataset` sentences are shown as subwords.
            tokenizer: decodes those.
        """
        parts = {name: part.cpu() for name, part in self._parts.items()}
        if loss is None:
            parts = {"scores": self._emissions.flatten(1).sum(dim=1).cpu()}
        bad = {name: part for name, part in parts.items() if not part.isfinite().all()}
        ids = _unpadded(inputs)
        affected = sorted({i for part in bad.values() for i in (~part.isfinite()).nonzero()[:, 0].tolist()})
        affected = affected or list(range(len(ids)))  # finite one by one: it is their sum that is not
        rows = find_rows(corpus, [ids[i] for i in affected[:_SHOWN]]) if isinstance(corpus, Dataset) else None
        lines = []
        for place, i in enumerate(affected[:_SHOWN]):
            named = [f"{name} {part[i].item():g}" for name, part in bad.items() if not part[i].isfinite()]
            where = _described(corpus, rows[place]) if rows and rows[place] else _decoded(ids[i], tokenizer)
            lines.append(f"  {where}" + (f": {', '.join(named)}" if named else ""))
        if len(affected) > _SHOWN:
            lines.append(f"  and {len(affected) - _SHOWN} more of the {len(ids)} sentences of this batch")
        what = f"the loss of update {step + 1} is" if loss is not None else f"the scores of update {step + 1} are"
        value = f"{loss:g}" if loss is not None else "not finite"
        return NonFiniteLossError(
            f"{what} {value}; training has stopped before it changed any weight. "
            "Sentences of the training data that it came from:\n" + "\n".join(lines) + "\n" + _state_of(model)
        )


def find_rows(corpus: Dataset, sentences: Sequence[Sequence[int]]) -> list[list[int]]:
    """Where sentences are in a tokenised corpus.

    Args:
        corpus: with `input_ids`.
        sentences: subword ids, unpadded.

    Returns:
        For each sentence the rows that have just these subwords, in order.
    """
    found: list[list[int]] = [[] for _ in sentences]
    wanted = [np.asarray(ids) for ids in sentences]
    size, start = 10_000, 0
    for table in corpus.with_format("arrow").select_columns(["input_ids"]).iter(batch_size=size):
        column = table["input_ids"].combine_chunks()
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        values = column.flatten().to_numpy(zero_copy_only=False)
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        for own, ids in zip(found, wanted):
            rows = np.flatnonzero(lengths == len(ids))
            same = (values[starts[rows][:, None] + np.arange(len(ids))] == ids).all(axis=1)
            own += (start + rows[same]).tolist()
        start += len(lengths)
    return found


def _unpadded(inputs: Mapping[str, Any]) -> list[list[int]]:
    ids, mask = inputs["input_ids"].cpu(), inputs["attention_mask"].cpu().bool()
    return [row[kept].tolist() for row, kept in zip(ids, mask)]


def _described(corpus: Dataset, rows: Sequence[int]) -> str:
    columns = [name for name in (*_IDS, LANGUAGE, TOKENS) if name in corpus.column_names]
    row = corpus.with_format(None).select_columns(columns)[rows[0]]
    said = f"row {rows[0]}"
    said += "".join(f", {name} {row[name]}" for name in columns if name != TOKENS and row[name] is not None)
    said += f", {' '.join(row[TOKENS])[:80]!r}" if TOKENS in columns else ""
    return said + (f" (or row {', '.join(map(str, rows[1:4]))}, the same words)" if len(rows) > 1 else "")


def _decoded(ids: Sequence[int], tokenizer: Any) -> str:
    text = repr(tokenizer.decode(ids, skip_special_tokens=True)[:80]) if tokenizer is not None else str(list(ids)[:20])
    return f"a sentence that the corpus cannot be searched for, {text}"


def _broken(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if not torch.isfinite(parameter).all()]


def _state_of(model: nn.Module) -> str:
    if broken := _broken(model):
        return (
            f"The model's weights were not finite already ({len(broken)} parameters, first {broken[0]}): an earlier "
            "update broke them, not these sentences. Go on from a checkpoint before it with a smaller learning rate, "
            "max_grad_norm=1, or bf16 in place of fp16"
        )
    return (
        "The model's weights are finite: look at these sentences' tags and teachers' answers. A tag sequence that "
        "constraints exclude, or one a teacher gave to a student that excludes it, has an infinite loss"
    )


# The loss in numbers: its parts between two log lines, and the mean over an evaluation.


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
