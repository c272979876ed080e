"""The models a recipe starts from: checked, made, given their labels."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

from ..data.columns import TRANSITIONS
from ..data.tokenizer import train_tokenizer
from ..distillation.objectives import needed_columns
from ..files import refuse_missing_folder
from ..modeling.configuration import CRFConfigMixin, label_names
from ..modeling.taggers import XLMRobertaCRFConfig, XLMRobertaForTokenClassificationCRF, crf_class_for
from ..training.arguments import StructKDTrainingArguments
from ..training.smaller_student import smaller_student
from .fields import ModelArguments
from .parser import RecipeError

SCRATCH = "scratch"
CRF_FIELDS = set(inspect.signature(CRFConfigMixin.__init__).parameters) - {"self", "kwargs"}


def check_model(args: ModelArguments) -> None:
    """Raise RecipeError if there is no such model, or it has too few embeddings: now, not after hours."""
    if args.model == SCRATCH:
        return
    try:
        refuse_missing_folder(args.model)
        config = AutoConfig.from_pretrained(
            args.model, revision=args.revision or "main", trust_remote_code=args.trust_remote_code
        )
        pieces = max(make_tokenizer(args, list).get_vocab().values()) + 1
    except (OSError, ValueError) as error:
        raise RecipeError(f"model {args.model!r}: {error}") from error
    if pieces > getattr(config, "vocab_size", pieces):
        raise RecipeError(
            f"model {args.model!r} has {config.vocab_size:,} embeddings and its tokenizer {pieces:,} pieces: save it "
            "again after model.resize_token_embeddings(len(tokenizer))"
        )


def encoder_of(args: ModelArguments) -> str | None:
    """What a model starts from, a folder or a Hub id; `None` for one from scratch."""
    return None if args.model == SCRATCH else args.model


def make_tokenizer(args: ModelArguments, sentences: Callable[[], list[list[str]]]) -> Any:
    """A model's tokenizer; `sentences` are what one from scratch is trained on."""
    if args.model == SCRATCH:
        try:
            return train_tokenizer(sentences(), vocab_size=args.vocab_size)
        except ValueError as error:
            raise RecipeError(f"no tokenizer can be made from scratch: {error}") from error
    return AutoTokenizer.from_pretrained(
        args.model, revision=args.revision or "main", trust_remote_code=args.trust_remote_code
    )


def make_tagger(
    args: ModelArguments, labels: Sequence[str], scheme: str | None, sentences: Callable[[], list[list[str]]]
) -> tuple[PreTrainedModel, Any]:
    """A model to train and its tokenizer; `sentences` are what a tokenizer from scratch is trained on."""
    fields = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        **(args.model_config or {}),
    }
    if args.head == "crf":
        fields.setdefault("tag_scheme", scheme)
    elif unused := sorted(CRF_FIELDS & set(fields)):
        raise RecipeError(f"model_config: {', '.join(unused)} need a model with head: crf")
    tokenizer = make_tokenizer(args, sentences)
    if args.model == SCRATCH:
        fields |= {"vocab_size": len(tokenizer), "type_vocab_size": 1, "pad_token_id": tokenizer.pad_token_id}
        fields.setdefault("max_position_embeddings", 258)
        model: Any = (
            XLMRobertaForTokenClassificationCRF(XLMRobertaCRFConfig(**fields))
            if args.head == "crf"
            else XLMRobertaForTokenClassification(XLMRobertaConfig(**fields))
        )
    else:
        common = {"revision": args.revision or "main", "trust_remote_code": args.trust_remote_code}
        config = AutoConfig.from_pretrained(args.model, **common)
        refuse_other_labels(args.model, config, labels)
        cls: Any = AutoModelForTokenClassification
        if args.head == "crf":
            try:
                cls = crf_class_for(config)
            except ValueError as error:
                raise RecipeError(f"model {args.model!r}: {error}") from error
        # float32 whatever the checkpoint holds: training in half precision without autocast diverges.
        model = cls.from_pretrained(args.model, dtype=torch.float32, **common, **fields)
    if args.keep_layers is not None:
        try:
            model = smaller_student(model, args.keep_layers)
        except ValueError as error:
            raise RecipeError(f"keep_layers of model {args.model!r}: {error}") from error
    if args.head == "crf":
        model.set_word_starts(tokenizer)
    elif scheme is not None:
        model.config.tag_scheme = scheme  # a stock configuration has no such field, and keeps it
    return model, tokenizer


def check_head(head: str, args: StructKDTrainingArguments) -> None:
    """Raise RecipeError if a softmax head is to be trained with what it has no part for: now, not after hours."""
    if head == "crf":
        return
    if TRANSITIONS in needed_columns(args.objectives):
        raise RecipeError(f"objective {args.objective!r} compares transition scores, which head: softmax has not")


def refuse_other_labels(model: str, config: Any, labels: Sequence[str]) -> None:
    """Raise RecipeError if a trained tagger, taken as a start, would have its labels renamed without a word."""
    is_tagger = any("ForTokenClassification" in name for name in config.architectures or [])
    own = label_names(config)
    if is_tagger and own != list(labels):
        raise RecipeError(f"model {model!r} is trained on the labels {own}, in this order; the corpora have {labels}")


def model_arguments_of_teacher(args: Any, model_args: ModelArguments) -> ModelArguments:
    """The teacher fields of a recipe as those of a tagger."""
    return replace(
        model_args,
        model=args.teacher_model,
        model_config=args.teacher_model_config,
        head=args.teacher_head,
        keep_layers=None,
        revision=None,
    )
