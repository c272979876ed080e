"""What a training run knows about the card of its student."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from ..distillation.mixtures import Teachers, teachers_by_language
from ..hub.model_card import StudentCardData, TeacherCard
from ..modeling.configuration import label_names
from .arguments import StructKDTrainingArguments

_HYPERPARAMETERS = (
    *("learning_rate", "crf_learning_rate", "num_train_epochs", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "lr_scheduler_type", "warmup_steps", "weight_decay", "normalization"),
    *("language_sampling_temperature", "bf16", "fp16", "seed"),
)


def objective_name(objective: str | Mapping[str, float]) -> str:
    """How tables and cards call a choice of objectives: `posterior+top_wk`, `posterior+0.5*top_wk`."""
    if isinstance(objective, str):
        return objective
    return "+".join(name if weight == 1 else f"{weight:g}*{name}" for name, weight in objective.items())


def student_card_data(
    config: PreTrainedConfig,
    args: StructKDTrainingArguments,
    model_name: str,
    teachers: Teachers | None = None,
    **more: Any,
) -> StudentCardData:
    """The card data of a student.

    Args:
        config: the student's.
        args: of its training.
        model_name: how the card calls it.
        teachers: as for `annotate`.
        more: further fields of [`StudentCardData`], such as `comparison`; they win.
    """
    by_language = teachers_by_language(teachers) if teachers else {}
    data: dict[str, Any] = {
        "label_names": label_names(config),
        "scheme": getattr(config, "tag_scheme", None) or "BIO",
        "languages": getattr(config, "languages", None) or [],
        "model_id": args.hub_model_id or model_name,
        "class_name": (getattr(config, "architectures", None) or ["XLMRobertaForTokenClassificationCRF"])[0],
        "teachers": [
            TeacherCard(name=teacher.name, language=language, revision=teacher.revision)
            for language, members in by_language.items()
            for teacher, _ in members
        ],
        "objective": objective_name(args.objective),
        "lambda_schedule": f"{args.lambda_schedule}, {args.lambda_start:g} to {args.lambda_end:g}",
        "temperature": args.temperature,
        "top_k": args.top_k,
        "hyperparameters": {
            name: getattr(args, name) for name in _HYPERPARAMETERS if getattr(args, name, None) is not None
        },
    }
    return StudentCardData(model_name, **{**data, **more})
