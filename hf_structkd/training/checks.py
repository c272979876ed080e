"""Checks before a training starts: arguments without effect, the metric of the best model, data, collator and answers.

`Trainer` accepts many arguments that [`StructKDTrainer`], which has its own loss, would ignore. They are refused. The
teachers' answers in a corpus must fit the objectives and the student.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from transformers.training_args import OptimizerNames

from ..data.columns import (
    LABELS,
    LANGUAGE,
    TEMPERATURE,
    TEMPERED_COLUMNS,
    TOPK_LOG_PROBS,
    WEIGHT,
    labels_key,
    target_of,
)
from ..distillation.weighted_objectives import WeightedObjectives, needed_columns
from ..evaluation.tagging_metrics import TaggingMetrics
from ..modeling.configuration import label_names

MACRO = "macro"  # as metric_for_best_model: the headline metric's average over languages

# Training arguments that have no effect here -> the values that ask for no effect, and the reason.
WITHOUT_EFFECT: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "label_smoothing_factor": ((0.0, 0), "a CRF's likelihood is of whole tag sequences, which cannot be smoothed"),
    "label_names": ((None, ["labels"]), "gold tags are those of the column 'labels'"),
    "use_liger_kernel": ((False,), "there are no Liger kernels for taggers"),
    "liger_kernel_config": ((None,), "there are no Liger kernels for taggers"),
    "use_cache": ((False,), "a tagger generates nothing, so it has no cache"),
    "past_index": ((-1, None), "a tagger has no past states"),
}
# These optimizers update each weight in the backward pass, all with one learning rate.
ONE_RATE = tuple(name for name in OptimizerNames if name.value.endswith(("layerwise", "lomo")))


def refuse_without_effect(args: Any) -> None:
    """Refuse training arguments that would have no effect.

    Args:
        args: [`StructKDTrainingArguments`].

    Raises:
        ValueError: Naming the argument and the reason.
    """
    for name, (values, reason) in WITHOUT_EFFECT.items():
        if hasattr(args, name) and getattr(args, name) not in values:
            raise ValueError(f"{name}={getattr(args, name)!r} has no effect in StructKDTrainer: {reason}")
    if args.crf_learning_rate is not None and args.optim in ONE_RATE:
        raise ValueError(f"crf_learning_rate has no effect with optim={str(args.optim.value)!r}, which has one rate")
    config = args.parallelism_config
    cut = [name for name in ("tp_size", "cp_size", "sp_size") if (getattr(config, name, 1) or 1) > 1]
    if cut:
        raise ValueError(f"parallelism_config with {', '.join(cut)} above 1 cuts sentences up; a CRF needs them whole")


def refuse_ignored(
    config: Any,
    args: Any,
    compute_metrics: Any,
    lambda_schedule: Any,
    compute_loss_func: Any = None,
    optimizers: tuple[Any, Any] = (None, None),
    **others: Any,
) -> None:
    """Refuse arguments of a trainer that it would ignore or misread.

    Args:
        config: The model's configuration.
        args: [`StructKDTrainingArguments`].
        compute_metrics, lambda_schedule, compute_loss_func, optimizers, others: The arguments of the trainer.

    Raises:
        ValueError: Naming the argument and the reason.
    """
    if compute_loss_func is not None:
        raise ValueError(
            "compute_loss_func has no effect in StructKDTrainer, whose loss is lambda * KD + (1 - lambda) * NLL: "
            "choose an objective, or override compute_loss"
        )
    if args.crf_learning_rate is not None and optimizers[0] is not None:
        raise ValueError("crf_learning_rate has no effect on an optimizer of your own: give the CRF a group in it")
    for name in ("include_for_metrics", "batch_eval_metrics"):
        if getattr(args, name) and compute_metrics is None:
            raise ValueError(
                f"{name}={getattr(args, name)!r} is for a compute_metrics of your own: the scores of StructKDTrainer "
                "are made of the tags of a whole corpus"
            )
    if isinstance(compute_metrics, TaggingMetrics) and compute_metrics.label_names != label_names(config):
        raise ValueError(
            f"compute_metrics numbers the labels {compute_metrics.label_names}, and the model {label_names(config)}: "
            "give TaggingMetrics the labels in the model's order, or leave compute_metrics out"
        )
    if args.neftune_noise_alpha is not None and getattr(config, "freeze_encoder", False):
        raise ValueError("neftune_noise_alpha has no effect on a frozen encoder (freeze_encoder), which has no noise")
    if lambda_schedule is not None:
        fields = type(args).__dataclass_fields__
        names = ("lambda_schedule", "lambda_start", "lambda_end", "lambda_rate")
        if changed := [name for name in names if getattr(args, name) != fields[name].default]:
            raise ValueError(
                f"{', '.join(changed)} of the arguments have no effect: a lambda_schedule is given beside"
            )


def choose_best_metric(args: Any, compute_metrics: Any, eval_dataset: Any) -> None:
    """Set `args.metric_for_best_model` to the name of a score that evaluations will have.

    `"macro"` becomes the average over languages of the headline metric; for a single corpus it is the score itself.

    Args:
        args: [`StructKDTrainingArguments`], changed in place.
        compute_metrics: That of the trainer; its `metric_name`, if it has one, is the headline metric.
        eval_dataset: One corpus, a mapping of corpora, or `None`.

    Raises:
        ValueError: If there will be no such score. `Trainer` would fail only after the first evaluation.
    """
    if args.metric_for_best_model is None or eval_dataset is None:
        return
    prefix, name = ("eval_", args.metric_for_best_model.removeprefix("eval_"))
    headline = getattr(compute_metrics, "metric_name", None)
    if name == MACRO:
        if headline is None:
            raise ValueError(
                "metric_for_best_model='macro' averages the headline metric, and your compute_metrics does not say "
                "which of its scores that is: write 'macro_' and the score's name ('macro_loss' for the loss), or "
                "give compute_metrics an attribute metric_name"
            )
        name = f"{MACRO}_{headline}"
        args.greater_is_better = args.greater_is_better and not name.endswith("loss")
    if isinstance(eval_dataset, Mapping):
        # The longest name: of the corpora "pt" and "pt_br", "pt_br_f1" is a score of the second.
        named = [c for c in (MACRO, *eval_dataset) if name.startswith(f"{c}_")]
        corpus = max(named, key=len, default=None)
        if corpus is None:
            raise ValueError(
                f"metric_for_best_model={args.metric_for_best_model!r} is no score of an evaluation of several "
                f"corpora: 'macro' is their average, 'macro_loss' the loss's, '{next(iter(eval_dataset))}_{name}' one "
                f"corpus'; the corpora are {', '.join(eval_dataset)}"
            )
        score = name.removeprefix(f"{corpus}_")
    else:
        name = score = name.removeprefix(f"{MACRO}_")
    if isinstance(compute_metrics, TaggingMetrics) and score not in ("loss", *compute_metrics.possible_scores()):
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r}: there is no score {score!r}; there are loss, "
            f"{', '.join(compute_metrics.possible_scores())}"
        )
    if args.prediction_loss_only and score != "loss":
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} and prediction_loss_only=True contradict each other"
        )
    args.metric_for_best_model = prefix + name if args.metric_for_best_model.startswith(prefix) else name


def check_training_data(dataset: Any, args: Any) -> None:
    """Check training data before teachers are asked about them.

    Raises:
        TypeError: If the data are several corpora, or neither tokenised nor a `Dataset`.
        ValueError: If there are no sentences, if languages are to be balanced and there is no column `language`, or if
            sentences are to be drawn from a stream.
    """
    if isinstance(dataset, Mapping):
        raise TypeError(
            f"train_dataset is one corpus, not a mapping of {', '.join(map(str, dataset))}: join them with "
            "datasets.concatenate_datasets, each with a column 'language'"
        )
    if isinstance(dataset, Dataset):
        if not len(dataset):
            raise ValueError("the training data have no sentences")
        if args.language_sampling_temperature is not None and LANGUAGE not in dataset.column_names:
            raise ValueError(f"language_sampling_temperature needs a column {LANGUAGE!r} in the training data")
    if isinstance(dataset, torch.utils.data.IterableDataset | IterableDataset):
        for name in ("language_sampling_temperature", "unlabelled_rate"):
            if getattr(args, name) is not None:
                raise ValueError(f"{name} has no effect on a stream, whose sentences come in its own order")
    refuse_untokenised(dataset)


def refuse_untokenised(dataset: Any) -> None:
    """Refuse data that still have to be tokenised or annotated and are neither a `Dataset` nor a stream.

    Raises:
        TypeError: If they are a list of anything but tokenised sentences.
    """
    if isinstance(dataset, list | tuple):
        row = dataset[0] if dataset else {}
        if not isinstance(row, Mapping) or "input_ids" not in row:
            raise TypeError(
                "a corpus that is not tokenised is a datasets.Dataset with a column 'tokens' (Dataset.from_list makes "
                f"one of rows), not a list of {type(row).__name__}"
            )


def refuse_lossy_collator(collator: Callable, dataset: Any, objectives: WeightedObjectives) -> None:
    """Refuse a data collator that drops the teachers' answers: the student would learn from gold tags alone.

    Args:
        collator: The data collator of the user.
        dataset: The training data with the columns that collators get.
        objectives: The objectives with their weights.

    Raises:
        ValueError: Naming the dropped columns.
    """
    if not isinstance(dataset, Dataset):
        return
    columns = needed_columns(objectives)
    needed = [name for name in dataset.column_names if target_of(name) in columns]
    row = next((row for row in dataset if all(row[name] is not None for name in needed)), None) if needed else None
    if row is None:
        return
    try:
        batch = collator([row])
    except Exception as error:
        raise ValueError(
            f"the data_collator cannot batch the columns {', '.join(row)} ({error}): start from "
            "DataCollatorForStructKD"
        ) from error
    if lost := [name for name in needed if name not in batch]:
        raise ValueError(
            f"the data_collator leaves out {', '.join(lost)}, which the loss reads: start from DataCollatorForStructKD"
        )


logger = logging.getLogger(__name__)
_ROWS_AT_ONCE = 10_000


def check_answers(dataset: Dataset, objectives: WeightedObjectives, label_names: Sequence[str], top_k: int) -> None:
    """Check the teachers' answers in a corpus before training.

    Args:
        dataset: The corpus, with the columns that the objectives read.
        objectives: The objectives with their weights.
        label_names: The student's labels in the order of the ids.
        top_k: Number of tag sequences to learn from; if no answer holds as many, a warning says so.

    Raises:
        ValueError: If answers number other labels than the student's, were given at another (global) temperature than
            that of the objectives, or a sentence has some of the columns that the objectives read and lacks others, or
            the answers of some of its teachers are missing.
    """
    _check_voices(dataset, objectives)
    needed = [name for name in needed_columns(objectives) if name in dataset.column_names]
    if not needed:
        return
    wanted = {name: t for objective, _ in objectives.values() for name, t in objective.teacher_temperatures.items()}
    columns = [*needed, *(name for name in (LABELS, TEMPERATURE) if name in dataset.column_names)]
    key, most, start = labels_key(label_names), 0, 0
    if LABELS not in columns:
        logger.warning(
            "the answers do not say whose labels they number (no column %s): they are taken as they are", LABELS
        )
    for table in dataset.with_format("arrow").select_columns(columns).iter(batch_size=_ROWS_AT_ONCE):
        given = np.stack([table[name].is_valid().to_numpy() for name in needed])
        answered = np.asarray(given.any(axis=0))
        if len(partly := np.flatnonzero(answered & ~given.all(axis=0))):
            lacking = [name for name, valid in zip(needed, given[:, partly[0]]) if not valid]
            raise ValueError(
                f"row {start + partly[0]} of the training data has some of the teachers' answers and lacks {lacking}: "
                "annotate all parts of the corpus with the same targets"
            )
        if LABELS in columns:
            _check_labels(table[LABELS], answered, key, label_names, start)
        _check_temperatures(table, answered, wanted)
        if TOPK_LOG_PROBS in needed:
            most = max(most, pc.max(pc.list_value_length(table[TOPK_LOG_PROBS])).as_py() or 0)
        start += len(table)
    if TOPK_LOG_PROBS in needed and 0 < most < top_k:
        logger.warning("top_k is %d, and no sentence has more than %d tag sequences among its answers", top_k, most)


def _check_voices(dataset: Dataset, objectives: WeightedObjectives) -> None:
    """Refuse answers where teachers that leave other labels open are missing: the weights do not add up to 1."""
    weights = [name for name in dataset.column_names if target_of(name) == WEIGHT]
    if not weights:
        return
    columns = needed_columns(objectives)
    for number in (name.removeprefix(WEIGHT) for name in weights):
        if lacking := [
            name for name in columns if name in dataset.column_names and name + number not in dataset.column_names
        ]:
            raise ValueError(
                f"the training data have {WEIGHT}{number} and lack {lacking[0]}{number}: the answers of some teachers "
                "were removed"
            )
    start = 0
    for table in dataset.with_format("arrow").select_columns(weights).iter(batch_size=_ROWS_AT_ONCE):
        total = np.sum([table[name].fill_null(0.0).to_numpy() for name in weights], axis=0)
        given = table[WEIGHT].is_valid().to_numpy() if WEIGHT in weights else np.ones(len(table), bool)
        if len(wrong := np.flatnonzero(given & (abs(total - 1.0) > 1e-4))):
            raise ValueError(
                f"the weights of the teachers' answers at row {start + wrong[0]} of the training data add up to "
                f"{total[wrong[0]]:g}, not to 1: the columns of some teachers ({WEIGHT}_2, ...) are missing"
            )
        start += len(table)


def _check_labels(
    stored: pa.ChunkedArray, answered: np.ndarray, key: int, label_names: Sequence[str], start: int
) -> None:
    keys = stored.fill_null(0).to_numpy()
    if len(wrong := np.flatnonzero(answered & (keys != 0) & (keys != key))):
        raise ValueError(
            f"the teachers' answers at row {start + wrong[0]} of the training data number other labels than the "
            f"student's, or the same in another order; the student's are {list(label_names)}. Ask the teachers again "
            "with these as label_names, or give the student the labels in the order of the answers"
        )


def _check_temperatures(table: pa.Table, answered: np.ndarray, wanted: dict[str, float]) -> None:
    for name, temperature in wanted.items():
        if TEMPERATURE in table.column_names:
            stored = table[TEMPERATURE]
            if pa.types.is_list(stored.type):
                stored = pc.list_element(stored.filter(stored.is_valid()), TEMPERED_COLUMNS.index(name))
            at = np.ones(len(answered))
            at[table[TEMPERATURE].is_valid().to_numpy()] = stored.drop_null().to_numpy()
            temperatures = np.unique(at[answered])
        else:
            temperatures = np.ones(1)
        if (abs(temperatures - temperature) > 1e-6 * temperature).any():
            raise ValueError(
                f"the teachers were annotated at temperature {', '.join(f'{t:g}' for t in temperatures)} for {name}, "
                f"but the objectives want {temperature:g}: a temperature of mode 'global' is the same in "
                "annotate(temperature=...) and in training; one of mode 'local' leaves the annotation at 1"
            )
