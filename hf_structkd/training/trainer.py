"""A `transformers.Trainer` whose loss combines gold tags with the teachers' answers."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel

from ..data.collator import DataCollatorForStructKD
from ..data.columns import ANNOTATED_TYPES, IGNORED, TARGET_COLUMNS, TRANSITIONS, target_of
from ..data.hub_datasets import hub_datasets_of
from ..distillation.losses import PartlyAnnotated, focal_weights, loss_items, mixed_losses, sentence_confidence
from ..distillation.schedules import LambdaSchedule, Progress, make_schedule
from ..distillation.targets import Targets
from ..distillation.weighted_objectives import describe_objectives, needed_columns
from ..evaluation.tagging_metrics import TaggingMetrics
from ..modeling.configuration import label_names
from ..teachers.annotate import Teachers
from ..teachers.panel import load_teachers
from .arguments import StructKDTrainingArguments
from .checks import (
    check_answers,
    check_training_data,
    choose_best_metric,
    refuse_ignored,
    refuse_lossy_collator,
    refuse_without_effect,
)
from .hidden_state_trainer import HiddenStateTrainer
from .hidden_states import TEACHER_BATCHES
from .loss_watch import EvaluationLoss, LossGuard, LossLog, NonFiniteLossError
from .preparation import annotated, encoded, scorable, train_sampler
from .students import (
    crf_parameters,
    name_languages,
    student_config,
    student_scores,
    train_in_float32,
    training_distribution,
    words_of_batch,
)

logger = logging.getLogger(__name__)


class StructKDTrainer(HiddenStateTrainer):
    """Train a multilingual tagger on gold tags and teachers' answers.

    Everything that a [`transformers.Trainer`] does still works. In addition:

    - corpora with `tokens` (and `tags`) are tokenised with `processing_class`;
    - if the objective needs teachers' answers and the training data have none, `teachers` are asked once;
    - with `hidden_first` or `hidden_weight` the student learns the word vectors of `teachers`, see
      [`HiddenStateTrainer`];
    - every part of the loss and lambda are logged, and the parts add up to the loss;
    - with `eval_dataset={language: corpus}` every language is evaluated, and the macro average is logged
      (`eval_macro_f1`, or `eval_macro_accuracy` for plain tags; `metric_for_best_model="macro"` names either);
    - the model's configuration remembers the languages of the training data (`languages`).

    Args:
        model: A model with a [`~hf_structkd.modeling.crf_head.CRFHeadMixin`], or any model of transformers for token
            classification: a softmax student, see `students.py`.
        args: [`StructKDTrainingArguments`].
        train_dataset: A corpus or a stream (`IterableDataset`), annotated or not, tokenised or not.
        eval_dataset: A corpus or a stream, or language -> corpus.
        processing_class: The student's fast tokenizer.
        teachers: Language -> [`Teacher`], or one teacher for all languages.
        lambda_schedule: A callable [`Progress`] -> lambda, which replaces the schedule in `args`.
        data_collator, compute_metrics, preprocess_logits_for_metrics, model_init, kwargs: As for `Trainer`, without
            `compute_loss_func`, which would have no effect.

    Raises:
        ValueError: If answers are needed and there are neither answers nor teachers; if one process drives more than
            one GPU; if an argument would have no effect (docs/ecosystem.md lists them), or `metric_for_best_model`
            names no score of the evaluations.
        TypeError: If the model is no token classifier.
    """

    args: StructKDTrainingArguments

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: StructKDTrainingArguments | None = None,
        data_collator: Callable | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | Mapping[str, Dataset | IterableDataset] | None = None,
        processing_class: Any = None,
        *,
        teachers: Teachers | None = None,
        lambda_schedule: LambdaSchedule | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        preprocess_logits_for_metrics: Callable | None = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else StructKDTrainingArguments()
        if not isinstance(args, StructKDTrainingArguments):
            raise TypeError(f"args must be StructKDTrainingArguments, not {type(args).__name__}: the same, and more")
        if args.n_gpu > 1:
            raise ValueError(
                f"{args.n_gpu} GPUs in one process (DataParallel) would split the CRF's scores: start one "
                "process per GPU with `accelerate launch` or `torchrun`, or set CUDA_VISIBLE_DEVICES"
            )
        config, self._has_crf = student_config(model, model_init)
        self.hub_datasets = args.hub_datasets or hub_datasets_of(train_dataset)
        refuse_without_effect(args)
        refuse_ignored(config, args, compute_metrics, lambda_schedule, **kwargs)
        self.label_names_in_order = label_names(config)
        self.glued_words = getattr(config, "glued_words", False)
        self._own_schedule = lambda_schedule
        self._read_objective(args)
        self._annotated_top_k = args.top_k
        self._arguments_before_search: dict[str, Any] = {}
        teachers = None if teachers is None else load_teachers(teachers)
        self.teachers = teachers
        compute_metrics = compute_metrics or TaggingMetrics(
            self.label_names_in_order, getattr(config, "tag_scheme", None)
        )
        choose_best_metric(args, compute_metrics, eval_dataset)
        names = self.label_names_in_order
        if isinstance(eval_dataset, Mapping):
            eval_dataset = {
                name: scorable(data, processing_class, names, name, self.glued_words)
                for name, data in eval_dataset.items()
            }
        elif eval_dataset is not None:
            eval_dataset = scorable(eval_dataset, processing_class, names, None, self.glued_words)
        if train_dataset is not None:
            check_training_data(train_dataset, args)
            train_dataset = annotated(train_dataset, teachers, self.objectives, args, config)
            train_dataset = encoded(train_dataset, processing_class, names, self.glued_words)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator
            or DataCollatorForStructKD(processing_class, config.num_labels, label_names=self.label_names_in_order),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            model_init=model_init,
            **kwargs,
        )
        # The loss is a sum, divided by the number of items in the accumulated batch of all processes.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.loss_log, self.loss_guard = LossLog(), LossGuard()
        self._evaluation_loss: EvaluationLoss | None = None  # during an evaluation
        self.learn_hidden_states(teachers, config, kwargs.get("optimizers", (None, None)))
        if args.crf_learning_rate is not None and self.model is not None and not crf_parameters(self.model):
            raise ValueError("crf_learning_rate has no effect: the model has no transition scores that are trained")
        if data_collator is not None and train_dataset is not None:
            data = self._remove_unused_columns(train_dataset) if isinstance(train_dataset, Dataset) else None
            refuse_lossy_collator(data_collator, data, self.objectives)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`; weights stored in half precision are trained in float32."""
        if self.model is not None:  # before a trial of a search there is no model
            train_in_float32(self.model, self.args.bf16 or self.args.fp16)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        model = super().call_model_init(trial)
        train_in_float32(model, self.args.bf16 or self.args.fp16)
        return model

    def _read_objective(self, args: StructKDTrainingArguments) -> None:
        self.objectives = args.objectives
        logger.info("objective: %s", describe_objectives(self.objectives, args.objective_combination))
        self.lambda_schedule = self._own_schedule or make_schedule(
            args.lambda_schedule, args.lambda_start, args.lambda_end, args.lambda_rate
        )
        if not self._has_crf and TRANSITIONS in needed_columns(self.objectives):
            raise ValueError(
                f"objective {args.objective!r} compares transition scores, and a softmax student has none: choose "
                "another one, or a student with a CRF head"
            )

    def _hp_search_setup(self, trial: Any) -> None:
        """As in `Trainer`; a trial may choose objective, temperature and lambda too.

        Raises:
            ValueError: If a trial needs answers that the teachers, which are asked before the search, did not give.
        """
        searching = self.hp_search_backend is not None and trial is not None
        if searching:
            # A value that one trial chose must not carry over to the next, which may not choose it.
            self._arguments_before_search = self._arguments_before_search or dict(self.args.__dict__)
            self.args.__dict__.update(self._arguments_before_search)
        super()._hp_search_setup(trial)
        if not searching:
            return
        self.args.check()
        self._read_objective(self.args)
        data: Any = self.train_dataset
        lacking = [name for name in self.args.needed_columns if name not in data.column_names]
        if lacking or (self.objectives and self.args.top_k != self._annotated_top_k):
            wanted = f"the columns {lacking}" if lacking else f"top_k {self.args.top_k}, not {self._annotated_top_k}"
            raise ValueError(
                f"a trial with objective {self.args.objective!r} needs {wanted}, but teachers are asked once, before "
                "the search: give StructKDTrainer an objective that names all those the search chooses from, and "
                "search over a fixed top_k"
            )
        check_answers(data, self.objectives, self.label_names_in_order, self.args.top_k)

    # ---- data ----

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        # The loss reads the teachers' answers; they are no arguments of the model's forward.
        answers = [name for name in getattr(self.train_dataset, "column_names", None) or () if target_of(name)]
        columns = [*(self._signature_columns or []), "word_mask", ANNOTATED_TYPES, *TARGET_COLUMNS, *answers]
        self._signature_columns = list(dict.fromkeys(columns))  # type: ignore[assignment]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> torch.utils.data.Sampler | None:
        # `train_dataset` has lost the columns that the model does not take; the order needs them.
        sampler = train_sampler(self.train_dataset, self.args)
        return super()._get_train_sampler(train_dataset) if sampler is None else sampler

    # ---- loss ----

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | int | None:
        # Trainer counts labels, which sentences without gold tags lack: it gets one label per item.
        items = [
            {"labels": torch.where(loss_items(batch, self.args.normalization), 0, IGNORED)} for batch in batch_samples
        ]
        return super()._get_num_items_in_batch(items, device)

    def current_lambda(self) -> float:
        """The current weight of distillation; 0 without distillation."""
        if not self.objectives:
            return 0.0
        state = self.state
        alone, epochs = self.updates_alone, float(state.num_train_epochs or 0)
        epochs_alone = epochs * alone / max(state.max_steps, 1)  # of the stage before, which has no lambda
        progress = Progress(
            max(state.global_step - alone, 0),
            state.max_steps - alone,
            max((state.epoch or 0.0) - epochs_alone, 0.0),
            epochs - epochs_alone,
        )
        return self.lambda_schedule(progress)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """`loss = lam * kd + (1 - lam) * nll` (SLKD Algorithm 1), summed over sentences, divided by the items."""
        inputs = dict(inputs)
        targets = Targets.pop_from(inputs, self.args.top_k)
        labels = inputs.pop("labels", None)
        batches = inputs.pop(TEACHER_BATCHES, None)
        partly = self._partly_annotated(inputs.pop("open_tags", None))
        plain: Any = self.unwrapped(model)
        word_mask = words_of_batch(plain, inputs, labels)
        learns_hidden = self.hidden is not None and model.training
        outputs = student_scores(model, plain, inputs, word_mask, hidden_states=learns_hidden)
        if model.training:
            self.loss_guard.remember({}, outputs.emissions)
        student = training_distribution(plain, outputs)
        if self.args.focal_weights is not None and targets:
            for voice in targets.voices():
                voice.word_weights = focal_weights(voice, labels, word_mask, *self.args.focal_weights)
        if self.args.confidence_weight is not None and targets:
            for voice in targets.voices():
                sure = sentence_confidence(voice, word_mask, self.args.confidence_weight)
                voice.teacher_weight = sure if voice.teacher_weight is None else sure * voice.teacher_weight
        lam = self.current_lambda()
        weighted, unweighted = mixed_losses(student, labels, word_mask, targets, self.objectives, lam, partly)
        if learns_hidden:
            batch = {"attention_mask": inputs["attention_mask"], "word_mask": word_mask}
            weighted, unweighted = self.add_hidden_losses(weighted, unweighted, plain, outputs, batch, batches)

        if num_items_in_batch is None:
            num_items_in_batch = loss_items({"word_mask": word_mask}, self.args.normalization).sum()
        scale = 1.0 / num_items_in_batch
        if model.training and self.args.average_tokens_across_devices:
            scale = scale * self.accelerator.num_processes  # gradients will be averaged over processes
        loss = scale * torch.stack([part.sum() for part in weighted.values()]).sum()
        if model.training:
            self.loss_guard.remember(weighted, outputs.emissions)
            self.loss_log.add(weighted, unweighted, scale, lam if self.objectives else None, self.state.global_step)
        elif self._evaluation_loss is not None and labels is not None:
            known = {"labels": torch.where(word_mask.bool(), labels, IGNORED)}
            items = loss_items(known, self.args.normalization).reshape(len(labels), -1).sum(dim=1)
            # The last batch is filled up with earlier sentences; gathering removes them.
            rows = self.gather_function(torch.stack([unweighted["nll"].detach().double(), items.double()], dim=1))
            # With eval_use_gather_object several processes return a list of rows.
            self._evaluation_loss.add(rows if isinstance(rows, Tensor) else torch.stack(list(rows)))
        loss = loss.to(outputs.emissions.dtype)
        if not return_outputs:
            return loss
        return loss, {"loss": loss, "logits": outputs.logits, "tags": outputs.tags}

    def _partly_annotated(self, open_tags: Tensor | None) -> PartlyAnnotated | None:
        if open_tags is None:
            return None
        if "O" not in self.label_names_in_order:
            raise ValueError(f"annotated_types are for entities; the labels {self.label_names_in_order} have no O")
        return PartlyAnnotated(open_tags, self.label_names_in_order.index("O"))

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """As in `Trainer`. Raises NonFiniteLossError, naming the sentences, if the loss is NaN or infinite."""
        plain = self.unwrapped(model)
        try:
            loss = super().training_step(model, inputs, *args, **kwargs)
        except ValueError as error:  # the CRF refuses scores that are not finite
            if self.loss_guard.all_finite(plain):
                raise
            raise self._non_finite_loss(None, inputs, plain) from error
        # Checked after the backward pass, when Trainer waits for the device anyway (`logging_nan_inf_filter`).
        if not torch.isfinite(loss):
            raise self._non_finite_loss(float(loss), inputs, plain)
        return loss

    def _non_finite_loss(self, loss: float | None, inputs: dict[str, Any], model: nn.Module) -> NonFiniteLossError:
        step, data, tokenizer = self.state.global_step, self.train_dataset, self.processing_class
        return self.loss_guard.explain(loss, inputs, step, model, data, tokenizer)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in `Trainer`; if the CRF's scores have a learning rate of their own, they are a parameter group."""
        created = self.optimizer is None
        optimizer = super().create_optimizer() if model is None else super().create_optimizer(model)
        opt_model: Any = self.model if model is None else model
        rate = self.args.crf_learning_rate
        if rate is None:
            rate = getattr(self.accelerator.unwrap_model(opt_model).config, "crf_learning_rate", None)
        if not created or rate is None:
            return optimizer
        crf = {id(p) for p in crf_parameters(opt_model)}
        moved = []
        for group in optimizer.param_groups:
            moved += [p for p in group["params"] if id(p) in crf]
            group["params"] = [p for p in group["params"] if id(p) not in crf]
        if moved:
            # No weight decay: it would pull all transitions towards equal scores.
            optimizer.add_param_group({"params": moved, "lr": rate, "weight_decay": 0.0})
        return optimizer

    # ---- logging and evaluation ----

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        self.loss_log = LossLog()  # without what an interrupted training had not logged yet
        name_languages(self.model, self.train_dataset)
        return super()._inner_training_loop(*args, **kwargs)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """As in `Trainer`; the loss is the mean over all items of the gold tags' loss, see [`EvaluationLoss`]."""
        self._evaluation_loss = EvaluationLoss()
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            loss, name = self._evaluation_loss.mean(), f"{metric_key_prefix}_loss"
        finally:
            self._evaluation_loss = None
        metrics = {key: value for key, value in (output.metrics or {}).items() if key != name}
        return output._replace(metrics=metrics if loss is None else {name: loss, **metrics})

    def _mean_over_processes(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, reduction="mean")

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.loss_log:
            logs = {**logs, **self.loss_log.pop(self._mean_over_processes)}
        super().log(logs, *args, **kwargs)
