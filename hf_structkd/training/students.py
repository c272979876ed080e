"""The models that [`StructKDTrainer`] trains: those with a CRF head, and stock token classifiers.

The softmax of a stock model over the first subword of each word is a CRF whose transition scores are all 0, and which
allows every tag sequence. As such a CRF, a softmax student is trained, distilled and scored by the code for CRF
students. It decodes the most probable tag of each word, as a [`Teacher`] made of it does.
"""

import logging
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..data.columns import IGNORED, LANGUAGE
from ..modeling.crf import LinearChainCRF
from ..modeling.crf_head import CRFTokenClassifierOutput
from ..modeling.windows import encode_in_windows, encoder_window
from ..modeling.word_tensors import compact

logger = logging.getLogger(__name__)
HALF = (torch.float16, torch.bfloat16)


def has_crf(model: Any) -> bool:
    """Whether a model, or the model inside an adapter, has a CRF head; it may come from a checkpoint's own code."""
    return callable(getattr(model, "distribution", None)) and hasattr(model, "find_words")


def student_config(
    model: PreTrainedModel | None, model_init: Callable[..., PreTrainedModel] | None
) -> tuple[PreTrainedConfig, bool]:
    """The configuration of the model to train, and whether it has a CRF head.

    Raises:
        ValueError: Unless exactly one of `model` and `model_init` is given.
        TypeError: If the model is no token classifier.
    """
    if model is None and model_init is not None:
        # as in `Trainer.call_model_init`, before there is a trial
        model = model_init(None) if len(signature(model_init).parameters) else model_init()
    elif model is None or model_init is not None:
        raise ValueError("give StructKDTrainer a model or a model_init, one of the two")
    plain = without_adapter(model)
    is_stock = any("ForTokenClassification" in cls.__name__ for cls in type(plain).__mro__)
    if not hasattr(plain, "config") or not (has_crf(plain) or is_stock):
        raise TypeError(
            "StructKDTrainer trains a model with a CRF head (hf_structkd.crf_class_for) or one of transformers' "
            f"...ForTokenClassification; {type(plain).__name__} is neither"
        )
    return plain.config, has_crf(plain)


def words_of_batch(plain: Any, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
    """Which subwords start words: (batch, subwords), boolean.

    It is the batch's `word_mask`; else it follows from the labels; else, outside of training, a model with a CRF head
    finds the words.

    Raises:
        ValueError: If none of these is possible.
    """
    if "word_mask" in inputs:
        return inputs["word_mask"].bool()
    if labels is not None:
        return labels != IGNORED
    if plain.training or not has_crf(plain):
        raise ValueError("a batch needs word_mask or labels to know its words")
    return plain.find_words(inputs["input_ids"], inputs["attention_mask"], None, None)


def student_scores(
    model: nn.Module, plain: Any, inputs: dict[str, Any], word_mask: Tensor, hidden_states: bool = False
) -> CRFTokenClassifierOutput:
    """Run the student's forward pass.

    Args:
        model: The model to call, which may wrap `plain`.
        plain: The model itself.
        inputs: A batch without labels and targets.
        word_mask: (batch, subwords), boolean, True on the first subword of each word.
        hidden_states: Whether the output has hidden states, the last one at least.

    Returns:
        The output of a model with a CRF head; for a stock model the transition scores in it are 0.
    """
    if has_crf(plain):
        wanted = {"output_hidden_states": True} if hidden_states else {}
        return model(**{**inputs, "word_mask": word_mask, **wanted})
    logits, states = _logits(model, without_adapter(plain), inputs, hidden_states)
    tags = None if plain.training else torch.where(word_mask, logits.argmax(dim=-1), IGNORED)
    zeros = logits.new_zeros(logits.shape[-1])
    return CRFTokenClassifierOutput(
        logits=logits,
        tags=tags,
        emissions=compact(logits, word_mask),
        lengths=word_mask.sum(dim=1),
        transitions=zeros.expand(len(zeros), -1),
        start_transitions=zeros,
        end_transitions=zeros,
        hidden_states=None if states is None else (states,),
    )


def training_distribution(plain: Any, output: CRFTokenClassifierOutput) -> LinearChainCRF:
    """The student's tag distribution of each sentence, made of the output of [`student_scores`], for the loss."""
    if has_crf(plain):
        return plain.distribution(output, "train")
    lengths = output.lengths.clamp(min=1)
    return LinearChainCRF(
        output.emissions, output.transitions, output.start_transitions, output.end_transitions, lengths=lengths
    )


def crf_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The trained transition, start and end scores; empty for a stock model."""
    return [p for name, p in model.named_parameters() if "crf" in name.split(".") and p.requires_grad]


def train_in_float32(model: Any, autocast: bool) -> None:
    """Convert the trained weights of a half-precision checkpoint to float32, and log it.

    In half precision small updates are lost, and the loss becomes NaN after a few of them.

    Args:
        model: The model, changed in place.
        autocast: Whether forward passes run under autocast. Without it frozen weights become float32 too, since
            layers of different types cannot be combined.
    """
    half = [p for p in model.parameters() if p.dtype in HALF]
    trained = [p for p in half if p.requires_grad]
    if not trained:
        return
    changed = trained if autocast or getattr(model, "is_quantized", False) else half
    logger.warning(
        "the checkpoint is stored in %s: %s of the model's weights are float32 from now on, for training. bf16=True "
        "trains float32 weights with the arithmetic of bfloat16",
        str(trained[0].dtype).removeprefix("torch."),
        f"{sum(p.numel() for p in changed):,}",
    )
    for parameter in changed:
        parameter.data = parameter.data.float()


def name_languages(model: Any, data: Any) -> None:
    """Store the languages that a model learns in its configuration (`languages`), beside those that it had.

    Args:
        model: The model, or an adapter around it; changed in place.
        data: The training data; without a column `language`, and for streams, nothing is known and nothing stored.
    """
    if isinstance(data, Dataset) and LANGUAGE in data.column_names:
        config = without_adapter(model).config
        learnt = {language for language in data.unique(LANGUAGE) if language is not None}
        config.languages = sorted({*learnt, *(getattr(config, "languages", None) or [])})


def without_adapter(model: Any) -> Any:
    """The model inside an adapter such as LoRA; without an adapter the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _logits(
    model: nn.Module, plain: PreTrainedModel, inputs: dict[str, Any], hidden_states: bool
) -> tuple[Tensor, Tensor | None]:
    """Logits (batch, subwords, tags) in float32, and the last hidden states if they are wanted.

    Sentences that are too long are read in windows, as a teacher reads them.
    """
    inputs = {name: value for name, value in inputs.items() if name != "word_mask"}
    tags = plain.config.num_labels

    def call(**given: Any) -> Tensor:
        output = model(**given, **({"output_hidden_states": True} if hidden_states else {}))
        return torch.cat([output.logits, output.hidden_states[-1]], dim=-1) if hidden_states else output.logits

    window = encoder_window(plain)
    if window is None or inputs["input_ids"].shape[1] <= window:
        both = call(**inputs)
    else:
        both = encode_in_windows(
            lambda ids, mask: call(input_ids=ids, attention_mask=mask),
            inputs["input_ids"],
            inputs["attention_mask"],
            window=window,
            pad_token_id=plain.config.pad_token_id or 0,
            training=plain.training,
        )
    return both[..., :tags].float(), both[..., tags:] if hidden_states else None
