"""The models that [`StructKDTrainer`] trains: those with a CRF head, and stock token classifiers.

A stock model's softmax over each word's first subword is a CRF whose transitions are all 0 and which allows every tag
sequence. Read so, a softmax student is trained, distilled and scored by the very code that a CRF student is, and what
it decodes, the most probable tag of each word, is what a [`Teacher`] made of it says.
"""

import logging
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..data.columns import IGNORED
from ..modeling.crf import LinearChainCRF
from ..modeling.crf_head import CRFTokenClassifierOutput
from ..modeling.windows import encode_in_windows, encoder_window
from ..modeling.word_tensors import compact

logger = logging.getLogger(__name__)
HALF = (torch.float16, torch.bfloat16)


def has_crf(model: Any) -> bool:
    """Whether a model, or the one inside an adapter, has a CRF head, be it of the code beside a checkpoint."""
    return callable(getattr(model, "distribution", None)) and hasattr(model, "find_words")


def look_at(
    model: PreTrainedModel | None, model_init: Callable[..., PreTrainedModel] | None
) -> tuple[PreTrainedConfig, bool]:
    """The configuration of the model to train, and whether it has a CRF head.

    Raises:
        ValueError: if there is no model, or both are given, as for `Trainer`.
        TypeError: if it is no token classifier.
    """
    if model is None and model_init is not None:
        # as `Trainer.call_model_init` does, whose trial is not there yet
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

    Told by the batch's `word_mask`, else by its labels, else, where nothing is to be learnt, by a model that knows.
    """
    if "word_mask" in inputs:
        return inputs["word_mask"].bool()
    if labels is not None:
        return labels != IGNORED
    if plain.training or not has_crf(plain):
        raise ValueError("a batch needs word_mask or labels to know its words")
    return plain.find_words(inputs["input_ids"], inputs["attention_mask"], None, None)


def student_scores(
    model: nn.Module, plain: Any, inputs: dict[str, Any], word_mask: Tensor
) -> CRFTokenClassifierOutput:
    """A forward pass.

    Args:
        model: to be called; a wrapped copy of `plain`, maybe.
        plain: the model itself.
        inputs: a batch without labels and targets.
        word_mask: (batch, subwords), boolean, True on the first subword of each word.

    Returns:
        The output of a model with a CRF head, in which a stock model's transition scores are 0.
    """
    if has_crf(plain):
        return model(**{**inputs, "word_mask": word_mask})
    logits = _logits(model, without_adapter(plain), inputs).float()
    tags = None if plain.training else torch.where(word_mask, logits.argmax(dim=-1), IGNORED)
    none = logits.new_zeros(logits.shape[-1])
    return CRFTokenClassifierOutput(
        logits=logits,
        tags=tags,
        emissions=compact(logits, word_mask),
        lengths=word_mask.sum(dim=1),
        transitions=none.expand(len(none), -1),
        start_transitions=none,
        end_transitions=none,
    )


def training_distribution(plain: Any, output: CRFTokenClassifierOutput) -> LinearChainCRF:
    """What the loss compares with gold tags and answers: the tag distribution of each row of `student_scores`."""
    if has_crf(plain):
        return plain.distribution(output, "train")
    lengths = output.lengths.clamp(min=1)
    return LinearChainCRF(
        output.emissions, output.transitions, output.start_transitions, output.end_transitions, lengths=lengths
    )


def crf_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The transition, start and end scores that are trained; a stock model has none."""
    return [p for name, p in model.named_parameters() if "crf" in name.split(".") and p.requires_grad]


def train_in_float32(model: Any, autocast: bool) -> None:
    """Make the weights that are trained float32, and say so, where a checkpoint stores them in half precision.

    In half precision small updates are lost, and losses become NaN after a few of them.

    Args:
        model: changed in place.
        autocast: whether forward passes run under autocast. Without it frozen weights become float32 too, since
            layers of different types do not go together.
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


def without_adapter(model: Any) -> Any:
    """The model that an adapter (LoRA, say) is around; itself, where there is none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _logits(model: nn.Module, plain: PreTrainedModel, inputs: dict[str, Any]) -> Tensor:
    """(batch, subwords, tags), through windows where the rows are too long, as a teacher reads them."""
    inputs = {name: value for name, value in inputs.items() if name != "word_mask"}
    window = encoder_window(plain)
    if window is None or inputs["input_ids"].shape[1] <= window:
        return model(**inputs).logits
    return encode_in_windows(
        lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits,
        inputs["input_ids"],
        inputs["attention_mask"],
        window=window,
        pad_token_id=plain.config.pad_token_id or 0,
        training=plain.training,
    )
