"""The models that training starts from: checked early, then made with the labels of the corpora."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
)

from ..data.columns import LANGUAGE, TRANSITIONS
from ..data.default_words import default_words_of
from ..data.tokenizer import train_tokenizer
from ..distillation.weighted_objectives import needed_columns
from ..files import model_named
from ..modeling.configuration import CRFConfigMixin, label_names
from ..modeling.taggers import XLMRobertaCRFConfig, XLMRobertaForTokenClassificationCRF, crf_class_for
from ..modeling.words import refuse_bare_tokenizer, tokenize_words
from ..training.arguments import StructKDTrainingArguments
from ..training.extended_labels import extend_labels
from ..training.smaller_student import (
    TRIMMING_EXPLAINED,
    smaller_student,
    trim_vocabulary,
    words_cut_otherwise,
)
from .fields import ModelArguments
from .growth import SCRATCH, is_tagger
from .parser import RecipeError
from .progress import show

CRF_FIELDS = set(inspect.signature(CRFConfigMixin.__init__).parameters) - {"self", "kwargs"}


def check_model(args: ModelArguments) -> None:
    """Raise RecipeError, before any training, if there is no such model or it has too few embeddings."""
    if args.model == SCRATCH:
        return
    try:
        with model_named(args.model, args.revision):
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
    """The folder or Hub id that a model starts from; `None` for a model made from scratch."""
    return None if args.model == SCRATCH else args.model


def make_tokenizer(args: ModelArguments, sentences: Callable[[], list[list[str]]]) -> Any:
    """The tokenizer of a model.

    Args:
        args: The model fields of a recipe.
        sentences: Returns the sentences, lists of words, that a tokenizer from scratch is trained on.

    Raises:
        RecipeError: If the sentences do not suffice for a tokenizer.
    """
    if args.model == SCRATCH:
        try:
            return train_tokenizer(sentences(), vocab_size=args.vocab_size)
        except ValueError as error:
            raise RecipeError(f"no tokenizer can be made from scratch: {error}") from error
    return AutoTokenizer.from_pretrained(
        args.model, revision=args.revision or "main", trust_remote_code=args.trust_remote_code
    )


def make_tagger(
    args: ModelArguments,
    labels: Sequence[str],
    scheme: str | None,
    sentences: Callable[[], list[list[str]]],
    words: str | None = None,
    corpora: Sequence[Dataset] = (),
    glued_words: bool | None = None,
) -> tuple[PreTrainedModel, Any]:
    """Make the model to train.

    Args:
        args: The model fields of a recipe.
        labels: The label set in the order of the ids.
        scheme: The tag scheme; `None` to infer it from the labels.
        sentences: Returns the sentences, lists of words, that a tokenizer from scratch is trained on.
        words: How raw text becomes words; `None` for what the model says. A model that is no tagger yet says nothing,
            and gets [`default_words_of`] the corpora.
        corpora: What the model learns from.
        glued_words: Whether words without a blank before them are read as running text; `None` for what the model
            says, at first not. A model without a CRF never does.

    Returns:
        The model in float32 and its tokenizer.

    Raises:
        RecipeError: If fields do not fit the model, or the model is a tagger with other labels.
    """
    common = {"revision": args.revision or "main", "trust_remote_code": args.trust_remote_code}
    config = None if args.model == SCRATCH else AutoConfig.from_pretrained(args.model, **common)
    fields = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        **(args.model_config or {}),
    }
    if args.head == "crf":
        fields.setdefault("tag_scheme", scheme)
        if words is not None and fields.setdefault("words", words) != words:
            raise RecipeError(f"words: {words!r}, but model_config says words: {fields['words']!r}; give one")
        if "words" not in fields and (config is None or not is_tagger(config)):
            fields["words"] = default_words_of(corpora)
        if glued_words is not None and fields.setdefault("glued_words", glued_words) != glued_words:
            raise RecipeError(f"glued_words: {glued_words}, but model_config says the opposite; give one")
        if not fields.get("glued_words", False) and getattr(config, "glued_words", False) and glued_words is None:
            raise RecipeError(
                f"the tagger {args.model!r} reads words without a blank before them as running text: say glued_words: "
                "true, so that the corpora are read with their blanks, or false"
            )
    elif unused := sorted(CRF_FIELDS & set(fields)):
        raise RecipeError(f"model_config: {', '.join(unused)} need a model with head: crf")
    tokenizer = make_tokenizer(args, sentences)
    if config is None:
        fields |= {"vocab_size": len(tokenizer), "type_vocab_size": 1, "pad_token_id": tokenizer.pad_token_id}
        fields.setdefault("max_position_embeddings", 258)
        model: Any = (
            XLMRobertaForTokenClassificationCRF(XLMRobertaCRFConfig(**fields))
            if args.head == "crf"
            else XLMRobertaForTokenClassification(XLMRobertaConfig(**fields))
        )
    else:
        if args.add_types is None:
            refuse_other_labels(args.model, config, labels)
        else:
            fields = {name: value for name, value in fields.items() if name not in ("id2label", "label2id")}
        cls: Any = AutoModelForTokenClassification
        if args.head == "crf":
            try:
                cls = crf_class_for(config)
            except ValueError as error:
                raise RecipeError(f"model {args.model!r}: {error}") from error
        # Always float32: training a half-precision checkpoint without autocast diverges.
        model = cls.from_pretrained(args.model, dtype=torch.float32, **common, **fields)
    if args.add_types is not None:
        model = extend_labels(model, args.add_types)
    if args.keep_layers is not None:
        try:
            model = smaller_student(model, args.keep_layers)
        except ValueError as error:
            raise RecipeError(f"keep_layers of model {args.model!r}: {error}") from error
    if args.head == "crf":
        prepare_words(model, tokenizer)
    elif scheme is not None:
        model.config.tag_scheme = scheme  # stock configurations save fields that they do not define
    return model, tokenizer


def trim_tagger(
    model: PreTrainedModel, tokenizer: Any, args: ModelArguments, train: Dataset, dev: Mapping[str, Dataset]
) -> tuple[PreTrainedModel, Any]:
    """The model to train with the pieces that its sentences use, if the recipe says `trim_vocabulary`.

    Args:
        model, tokenizer: As [`make_tagger`] returns them.
        args: The model fields of a recipe.
        train: The sentences that it learns from, with a column `language`.
        dev: Language -> development sentences, in which what is cut otherwise is counted.

    Returns:
        The smaller model and its tokenizer, or the same ones.

    Raises:
        RecipeError: If most of a language would be lost; the message says which, in percent.
    """
    if args.trim_vocabulary is None:
        return model, tokenizer
    text: dict[str, list[list[str]]] = {}
    for language, words in zip(train[LANGUAGE], train["tokens"]):
        text.setdefault(language, []).append(words)
    model.config.languages = sorted(text)
    try:
        trimmed = trim_vocabulary(model, tokenizer, text, min_count=args.trim_vocabulary)
    except ValueError as error:
        raise RecipeError(f"trim_vocabulary of model {args.model!r}: {error}") from error
    show(f"{trimmed}\n{TRIMMING_EXPLAINED}")
    held_out = {language: list(sentences["tokens"]) for language, sentences in dev.items() if len(sentences)}
    for language, cut in words_cut_otherwise(tokenizer, trimmed, held_out).items() if held_out else ():
        show(f"in the dev sentences of {language}: {cut} are cut otherwise")
    return trimmed.model, trimmed.tokenizer


def prepare_words(model: Any, tokenizer: Any) -> None:
    """Let a model with a CRF know words by the tokenizer's pieces or, with `glued_words`, by a word mask alone.

    Raises:
        RecipeError: If the tokenizer has no pieces for words without a blank before them.
    """
    if not model.config.glued_words:
        model.set_word_starts(tokenizer)
        return
    try:
        refuse_bare_tokenizer(tokenizer)
        tokenize_words([["a"]], tokenizer, glued_words=True)
    except ValueError as error:
        raise RecipeError(f"glued_words: {error}") from error


def check_head(head: str, args: StructKDTrainingArguments) -> None:
    """Raise RecipeError, before any training, if an objective needs transition scores and the head has none."""
    if head == "crf":
        return
    if TRANSITIONS in needed_columns(args.objectives):
        raise RecipeError(
            f"objective {args.objective!r} compares transition scores, which head: softmax does not have"
        )


def refuse_other_labels(model: str, config: Any, labels: Sequence[str]) -> None:
    """Raise RecipeError if training would start from a tagger with other labels, which would be renamed silently."""
    trained_labels = label_names(config)
    if is_tagger(config) and trained_labels != list(labels):
        raise RecipeError(
            f"model {model!r} is trained on the labels {trained_labels}, in this order; the corpora have {labels}"
        )


def model_arguments_of_teacher(args: Any, model_args: ModelArguments) -> ModelArguments:
    """The model fields of the teachers that a recipe trains."""
    return replace(
        model_args,
        model=args.teacher_model,
        model_config=args.teacher_model_config,
        head=args.teacher_head,
        keep_layers=None,
        add_types=None,
        trim_vocabulary=None,
        revision=None,
    )
