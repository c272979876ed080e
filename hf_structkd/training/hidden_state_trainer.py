"""A trainer that also learns teachers' word vectors, in stages.

First, for the share `hidden_first` of all updates, the word vectors alone. Then the other losses, the vectors beside
them with the weight `hidden_weight`; and, with `hidden_thaw`, the encoder's layers thawed one by one from the top.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ..data.collator import DataCollatorForStructKD
from ..data.columns import GLUED, LANGUAGE, SUBWORD_LABELS, SUBWORDS, TOKENS, ArrayRows, target_of
from ..modeling.word_tensors import compact
from ..teachers.panel import Teachers
from .arguments import StructKDTrainingArguments
from .checkpoints import CheckpointError
from .checks import ONE_RATE
from .hidden_states import TEACHER_BATCHES, HiddenStateTeachers
from .scoring_trainer import ScoringTrainer
from .smaller_student import LAYER_LISTS

PROJECTIONS_FILE = "hidden_projections.safetensors"
PROJECTION_RATE = 1e-3  # at least; the projection is new, while an encoder needs a small rate


class HiddenStateTrainer(ScoringTrainer):
    """[`transformers.Trainer`] with projections that are trained, checkpointed and resumed beside the student.

    Attributes:
        hidden: The teachers' word vectors; `None` if they are not learnt.
    """

    args: StructKDTrainingArguments
    hidden: HiddenStateTeachers | None = None
    _reads_words: bool = False  # while the loader of training batches is made

    def learn_hidden_states(self, teachers: Teachers | None, config: Any, optimizers: tuple[Any, Any]) -> None:
        """Prepare the teachers' word vectors, if the arguments ask for them; called once, after construction.

        Args:
            teachers: As for [`StructKDTrainer`].
            config: The student's configuration.
            optimizers: As for `Trainer`.

        Raises:
            TypeError, ValueError: If there are no such vectors, if the training data have no words, or if the
                projections could not be trained.
        """
        args = self.args
        if not args.learns_hidden_states:
            return
        if teachers is None:
            raise ValueError("hidden_first and hidden_weight learn the teachers' word vectors: give teachers")
        columns = getattr(self.train_dataset, "column_names", None) or []
        if self.train_dataset is not None and not (isinstance(self.train_dataset, Dataset) and TOKENS in columns):
            raise ValueError(
                f"hidden_first and hidden_weight read the words of each sentence: the training data need a column "
                f"{TOKENS!r}; the columns are {', '.join(columns) or 'unknown'}"
            )
        if getattr(config, "freeze_encoder", False):
            raise ValueError("a frozen encoder (freeze_encoder) cannot learn the teachers' word vectors")
        self.hidden = HiddenStateTeachers(teachers, config.hidden_size, args.hidden_layer, args.seed)
        trained = bool(list(self.hidden.parameters()))
        sharded = [name for name in ("is_deepspeed_enabled", "is_fsdp_enabled") if getattr(self, name, False)]
        if (trained or args.hidden_thaw) and sharded:
            raise ValueError(
                "projections and hidden_thaw need weights that each process holds whole, unlike those of FSDP and "
                "DeepSpeed: use DDP, or teachers of the student's width and no hidden_thaw"
            )
        if trained and (optimizers[0] is not None or args.optim in ONE_RATE):
            raise ValueError(
                "the projection to the teachers' word vectors is trained by Trainer's own optimizer, with a learning "
                "rate of its own: leave out `optimizers`, and layer-wise kinds of optim"
            )
        self.hidden.to_device(args.device)
        self.add_callback(_ProjectionGradients(self))

    @property
    def updates_alone(self) -> int:
        """The number of first updates in which the word vectors alone are learnt."""
        return 0 if self.hidden is None else math.ceil((self.args.hidden_first or 0.0) * self.state.max_steps)

    def add_hidden_losses(
        self,
        weighted: Mapping[str, Tensor],
        unweighted: Mapping[str, Tensor],
        plain: Any,
        outputs: Any,
        inputs: Mapping[str, Any],
        batches: Sequence[Mapping[str, Tensor]] | None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses of a batch with that of the word vectors, in the stage that training is in.

        Args:
            weighted, unweighted: As `mixed_losses` returns them.
            plain: The student.
            outputs: Its outputs, with hidden states.
            inputs: The batch, with `attention_mask` and `word_mask`.
            batches: What each teacher reads of it.

        Raises:
            ValueError: If the batch does not say what the teachers read, as that of another data loader.
        """
        assert self.hidden is not None
        if batches is None:
            raise ValueError(f"a training batch has no {TEACHER_BATCHES!r}: it must come from get_train_dataloader")
        states = outputs.hidden_states[-1]
        if getattr(plain.config, "word_pooling", "first") == "mean":
            vectors = plain.pool_words(states, inputs["attention_mask"], inputs["word_mask"])
        else:
            vectors = compact(states, inputs["word_mask"])
        like = next(iter(weighted.values()))
        losses = self.hidden.losses(vectors, batches).to(like.dtype)
        alone = self.state.global_step < self.updates_alone
        weight = 1.0 if alone else self.args.hidden_weight or 0.0
        # Times 0, not left out: processes that share gradients wait for one of every parameter.
        others = {name: 0.0 * part if alone else part for name, part in weighted.items()}
        return {**others, "hidden": weight * losses}, {**unweighted, "hidden": losses}

    # ---- batches ----

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self._reads_words:
            columns = [*(self._signature_columns or []), TOKENS, LANGUAGE, GLUED]
            self._signature_columns = list(dict.fromkeys(columns))  # type: ignore[assignment]

    def get_train_dataloader(self) -> DataLoader:
        """As in `Trainer`; with hidden-state distillation each batch also says what the teachers read of it."""
        if self.hidden is None:
            return super().get_train_dataloader()
        collator, columns = self.data_collator, self._signature_columns
        self._reads_words, self._signature_columns = True, None
        self.data_collator = _WithTeacherBatches(collator, self.hidden.batches, self.args.remove_unused_columns)
        try:
            return super().get_train_dataloader()
        finally:
            self._reads_words, self._signature_columns, self.data_collator = False, columns, collator

    def _remove_unused_columns(self, dataset: Dataset, description: str | None = None) -> Dataset:
        """As in `Trainer`; rows for the collator of this package hold arrays and not lists, which takes less time."""
        kept = super()._remove_unused_columns(dataset, description)
        collator = self.data_collator
        collator = collator.collator if isinstance(collator, _WithTeacherBatches) else collator
        # Not for collators of others, of a subclass for instance: they may add lists, which arrays do differently.
        if type(collator) is not DataCollatorForStructKD or kept.format["type"] is not None:
            return kept
        shown = kept.select_columns(kept.format["columns"])
        answers = [name for name in shown.column_names if target_of(name)]
        return ArrayRows(shown, [SUBWORDS, "attention_mask", "word_mask", SUBWORD_LABELS, *answers])

    # ---- stages ----

    def frozen_parameters(self, plain: Any) -> list[nn.Parameter]:
        """What an update leaves as it is.

        While the word vectors are learnt alone, all but the encoder. Afterwards what is not thawed yet of the encoder:
        the embeddings, and layers from the lowest.
        """
        share = self.args.hidden_thaw
        step, alone = self.state.global_step, self.updates_alone
        if step < alone:  # weight decay would shrink the head, which has gradients of 0 then
            encoder = {id(p) for p in plain.base_model.parameters()}
            return [p for p in plain.parameters() if id(p) not in encoder]
        updates = math.ceil((share or 0.0) * (self.state.max_steps - alone))
        if self.hidden is None or not share or not alone <= step < alone + updates:
            return []
        modules = dict(plain.base_model.named_modules())
        layers = modules[next(name for name in LAYER_LISTS if name in modules)]
        thawed = (step - alone) * (len(layers) + 1) // updates
        top = {id(p) for layer in list(layers)[len(layers) - thawed :] for p in layer.parameters()}
        return [p for p in plain.base_model.parameters() if id(p) not in top]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(model, inputs, *args, **kwargs)
        for parameter in self.frozen_parameters(self.unwrapped(model)):
            parameter.grad = None  # the optimizer passes over it; freezing it would leave other processes waiting
        return loss

    # ---- the projections ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in `Trainer`; the projections are a parameter group."""
        created = self.optimizer is None
        optimizer = super().create_optimizer() if model is None else super().create_optimizer(model)
        if created and self.hidden is not None and (parameters := list(self.hidden.parameters())):
            self.hidden.reset()
            self.hidden.zero_grad()
            rate = max(self.args.learning_rate, PROJECTION_RATE)
            optimizer.add_param_group({"params": parameters, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.hidden is not None and list(self.hidden.parameters()) and self.args.should_save:
            save_file(
                {name: tensor.cpu().contiguous() for name, tensor in self.hidden.state_dict().items()},
                Path(output_dir) / PROJECTIONS_FILE,
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.hidden is None or not list(self.hidden.parameters()):
            return
        file = Path(checkpoint) / PROJECTIONS_FILE
        if not file.exists():
            raise CheckpointError(
                f"{checkpoint} has no {PROJECTIONS_FILE}: it is of a training without hidden-state distillation, or "
                "with teachers of the student's width. Start a new training"
            )
        self.hidden.load_state_dict(load_file(file, device=str(self.args.device)))


class _WithTeacherBatches:
    """A collator whose batches also hold what the teachers read."""

    def __init__(
        self, collator: Callable, batches: Callable[[Sequence[Mapping[str, Any]]], list], drops_words: bool
    ) -> None:
        self.collator, self.batches, self.drops_words = collator, batches, drops_words

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        kept = [
            {name: row[name] for name in row if not (self.drops_words and name in (TOKENS, LANGUAGE, GLUED))}
            for row in features
        ]
        return {**self.collator(kept), TEACHER_BATCHES: self.batches(features)}


class _ProjectionGradients(TrainerCallback):
    """Averages the projections' gradients over processes, and clears them after each update.

    For the student's DistributedDataParallel does the one, and `Trainer` the other.
    """

    def __init__(self, trainer: HiddenStateTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        accelerator = self.trainer.accelerator
        if self.trainer.hidden is None or accelerator.num_processes == 1:
            return
        for parameter in self.trainer.hidden.parameters():
            parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.hidden is not None:
            self.trainer.hidden.zero_grad()
