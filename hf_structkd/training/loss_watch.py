"""Watches the loss: its parts for the log, its mean over an evaluation, and the sentences behind a NaN.

- [`LossLog`] collects the parts of the loss between two lines of the log.
- [`EvaluationLoss`] is the mean loss of an evaluation, independent of batches and processes.
- [`LossGuard`] explains a loss that is NaN or infinite: which sentences it came from, and whether weights are broken.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor, nn

from ..data.columns import LANGUAGE, TOKENS

_SHOWN = 8  # sentences that a message names
_IDS = ("id", "sentence_id", "sent_id")  # columns in which corpora name their sentences


class LossLog:
    """Collects the parts of the loss in `compute_loss`, and returns their means for `log()`.

    `loss_<part>` is the contribution of a part to the loss; the contributions add up to `loss`. `<part>` without the
    prefix is the part before it is multiplied with lambda, in nats per item. Values stay on the device until they are
    logged.
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
        """Add a micro-batch.

        Args:
            weighted: Part -> its contribution to the loss of each sentence, (batch,).
            unweighted: Part -> its value for each sentence before lambda, (batch,).
            scale: Multiplies the sums over sentences.
            lam: lambda; `None` without distillation.
            step: Number of the update that the micro-batch belongs to.
        """
        named = {f"loss_{name}": part for name, part in weighted.items()} | dict(unweighted)
        for name, part in named.items():
            value = (part.detach().sum() * scale).double()
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._steps.add(step)
        if lam is not None:
            self._lambdas.append(lam)

    def pop(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the means over the updates since the last call, and start again.

        Args:
            reduce: (parts,) -> (parts,), the mean over processes; all processes have the same parts.
        """
        # In one tensor, since each reduction waits for the other processes.
        means = reduce(torch.stack(list(self._sums.values()))) if self._sums else torch.zeros(0)
        logs = {name: value / len(self._steps) for name, value in zip(self._sums, means.tolist())}
        if self._lambdas:
            logs["kd_lambda"] = sum(self._lambdas) / len(self._lambdas)
        self._sums, self._lambdas, self._steps = {}, [], set()
        return logs


class EvaluationLoss:
    """The negative log-likelihood of the gold tags per item (word or sentence) over a whole evaluation, in nats.

    Each sentence with gold tags counts once, and other sentences do not count. The mean depends neither on the size of
    batches, nor on the number of processes, nor on lambda.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, sentences: Tensor) -> None:
        """Add sentences: (batch, 2), the loss of each in nats and its number of labelled items."""
        sums = sentences.double().sum(dim=0)
        self._sums = sums if self._sums is None else self._sums + sums

    def mean(self) -> float | None:
        """The mean over all items; `None` if no item has a gold tag."""
        if self._sums is None or not self._sums[1]:
            return None
        return float(self._sums[0] / self._sums[1])


class NonFiniteLossError(FloatingPointError):
    """The loss of a batch is NaN or infinite; the message names the sentences."""


class LossGuard:
    """Keeps the parts of the current loss, so that a loss that is not finite can be explained.

    While losses are finite, nothing is computed and nothing is copied from the device. Batches do not hold the row
    numbers of their sentences: the sentences of a bad batch are found in the corpus by their subwords.
    """

    def __init__(self) -> None:
        self._parts: dict[str, Tensor] = {}
        self._emissions = torch.zeros(0)

    def remember(self, parts: Mapping[str, Tensor], emissions: Tensor) -> None:
        """Keep the loss parts of a micro-batch, (batch,) each, and its scores (batch, words, tags) until the next."""
        self._parts = {name: part.detach() for name, part in parts.items()}
        self._emissions = emissions.detach()

    def all_finite(self, model: nn.Module) -> bool:
        """Whether the scores of the micro-batch and the weights of the model are finite; waits for the device."""
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
            loss: The loss of the micro-batch; `None` if its scores are not finite, so that there is no loss.
            inputs: The collated micro-batch.
            step: Number of updates before it.
            model: The model; the message names its weights that are not finite.
            corpus: The tokenised training data. If it is no `Dataset`, sentences are shown as subwords.
            tokenizer: Decodes these subwords.
        """
        parts = {name: part.cpu() for name, part in self._parts.items()}
        if loss is None:
            parts = {"scores": self._emissions.flatten(1).sum(dim=1).cpu()}
        bad = {name: part for name, part in parts.items() if not part.isfinite().all()}
        ids = _unpadded(inputs)
        affected = sorted({i for part in bad.values() for i in (~part.isfinite()).nonzero()[:, 0].tolist()})
        affected = affected or list(range(len(ids)))  # each is finite, and their sum is not
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
    """Find the rows of sentences in a tokenised corpus.

    Args:
        corpus: A corpus with `input_ids`.
        sentences: The subword ids of each sentence, unpadded.

    Returns:
        For each sentence the rows that have exactly these subwords, in order.
    """
    rows_of_sentences: list[list[int]] = [[] for _ in sentences]
    wanted = [np.asarray(ids) for ids in sentences]
    size, start = 10_000, 0
    for table in corpus.with_format("arrow").select_columns(["input_ids"]).iter(batch_size=size):
        column = table["input_ids"].combine_chunks()
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        values = column.flatten().to_numpy(zero_copy_only=False)
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        for matches, ids in zip(rows_of_sentences, wanted):
            rows = np.flatnonzero(lengths == len(ids))
            same = (values[starts[rows][:, None] + np.arange(len(ids))] == ids).all(axis=1)
            matches += (start + rows[same]).tolist()
        start += len(lengths)
    return rows_of_sentences


def _unpadded(inputs: Mapping[str, Any]) -> list[list[int]]:
    ids, mask = inputs["input_ids"].cpu(), inputs["attention_mask"].cpu().bool()
    return [row[kept].tolist() for row, kept in zip(ids, mask)]


def _described(corpus: Dataset, rows: Sequence[int]) -> str:
    columns = [name for name in (*_IDS, LANGUAGE, TOKENS) if name in corpus.column_names]
    row = corpus.with_format(None).select_columns(columns)[rows[0]]
    text = f"row {rows[0]}"
    text += "".join(f", {name} {row[name]}" for name in columns if name != TOKENS and row[name] is not None)
    text += f", {' '.join(row[TOKENS])[:80]!r}" if TOKENS in columns else ""
    return text + (f" (or row {', '.join(map(str, rows[1:4]))}, the same words)" if len(rows) > 1 else "")


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
