"""Checks before a training starts: arguments without effect, the metric of the best model, data and collator.

`Trainer` accepts many arguments that [`StructKDTrainer`], which has its own loss, would ignore. They are refused.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from transformers.training_args import OptimizerNames

from ..data.columns import LANGUAGE, target_of
from ..distillation.objectives import WeightedObjectives, needed_columns
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
