"""Training with the subwords that occur, for a third of the time: most of a tiny model is its embeddings.

An optimiser passes over every embedding at every update, whether its subword occurs or not. Subwords that occur
neither in training nor in development data have no gradient, and Adam without weight decay leaves them as they are,
so that leaving them out changes nothing but the time. They are back when the student is scored.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_structkd import StructKDTrainingArguments
from hf_structkd.recipes.folder import train_tagger

_SPECIAL = 8  # first ids, which models know by number (padding)


class TrimmedEmbeddings:
    """A model whose input embeddings are those of the subwords that occur, until they are put back.

    Args:
        model: its input embeddings are replaced.
        datasets: everything it will see while it is trimmed, with `input_ids`.
    """

    def __init__(self, model: Any, datasets: list[Dataset]) -> None:
        self.model, self.whole = model, model.get_input_embeddings()
        size = self.whole.num_embeddings
        occurs = np.zeros(size, dtype=bool)
        occurs[:_SPECIAL] = True
        for data in datasets:
            occurs[_flat_ids(data).values.to_numpy()] = True
        self.kept = torch.from_numpy(np.flatnonzero(occurs))
        self._new_id = np.cumsum(occurs) - 1
        weight = self.whole.weight.detach()[self.kept].clone()
        trimmed = nn.Embedding(len(self.kept), weight.shape[1], padding_idx=self.whole.padding_idx, _weight=weight)
        trimmed.weight.requires_grad_(self.whole.weight.requires_grad)
        model.set_input_embeddings(trimmed)

    def renumber(self, data: Dataset) -> Dataset:
        """The same sentences in the trimmed model's subword numbers."""
        table = data.with_format("arrow")[:]
        ids = _flat_ids(data)
        field = table.schema.field("input_ids")
        new = pa.ListArray.from_arrays(ids.offsets, pa.array(self._new_id[ids.values.to_numpy()]))
        return Dataset(table.set_column(table.column_names.index("input_ids"), field, new.cast(field.type)))

    def restore(self) -> None:
        """Put all embeddings back, the trained ones among them."""
        with torch.no_grad():
            self.whole.weight[self.kept.to(self.whole.weight.device)] = self.model.get_input_embeddings().weight.to(
                self.whole.weight
            )
        self.model.set_input_embeddings(self.whole.to(self.model.device))


def train_trimmed(
    model: Any, tokenizer: Any, train: Dataset, dev: dict[str, Dataset], args: StructKDTrainingArguments, **kwargs: Any
) -> Trainer:
    """`train_tagger` on tokenised sentences, with the embeddings of their subwords alone if that changes nothing."""
    if not can_trim(model, args):
        return train_tagger(model, tokenizer, train, dev, args, **kwargs)
    trimmed = TrimmedEmbeddings(model, [train, *dev.values()])
    dev = {language: trimmed.renumber(data) for language, data in dev.items()}
    trainer = train_tagger(model, tokenizer, trimmed.renumber(train), dev, args, **kwargs)
    trimmed.restore()
    return trainer


def can_trim(model: Any, args: TrainingArguments) -> bool:
    """Whether leaving embeddings out changes nothing.

    An optimiser that looks at each weight by itself and does not decay it, no output layer that shares the
    embeddings, and padding among the ids that keep their numbers (ModernBERT's is among the last).
    """
    padding = (model.config.pad_token_id, model.get_input_embeddings().padding_idx)
    return (
        args.weight_decay == 0.0
        and args.optim.startswith("adamw_torch")
        and model.get_output_embeddings() is None
        and all((index or 0) < _SPECIAL for index in padding)
    )


def _flat_ids(data: Dataset) -> pa.ListArray:
    column = data.select_columns(["input_ids"]).with_format("arrow")[:]["input_ids"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    return pa.ListArray.from_arrays(pa.array(np.asarray(column.offsets) - column.offsets[0].as_py()), column.flatten())
