"""Is a checkpoint a trained tagger, all of it and nothing else? A damaged one must not teach."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..modeling.crf_head import CRFHeadMixin

# Left-over weights of a trained tagger: what its encoder was pretrained with, and buffers of older releases.
_HARMLESS = re.compile(
    r"(^|\.)(pooler|lm_head|cls\.predictions|cls\.seq_relationship|vocab_transform|vocab_layer_norm|vocab_projector"
    r"|lm_predictions|mask_predictions|discriminator_predictions|generator_predictions"
    r"|position_ids|token_type_ids|inv_freq)(\.|$)"
)
_LONGEST = 2048  # words, up to which a checkpoint must have tag sequences for every length
_TOLD = {"word_starts.pieces"}  # a model may be told after loading which words there are


def refuse_unsound(model: PreTrainedModel, tokenizer: Any, loading_info: Mapping[str, Any], name: str) -> None:
    """Raise ValueError, naming the checkpoint, if what was loaded cannot be what was trained.

    Args:
        model: as it was loaded.
        tokenizer: its own.
        loading_info: what `from_pretrained(..., output_loading_info=True)` gives.
        name: of the checkpoint.
    """
    if missing := sorted(set(loading_info["missing_keys"]) - _TOLD):
        raise ValueError(f"{name} lacks the weights {_some(missing)}: no trained tagger, or not all of one")
    if left := sorted(key for key in loading_info["unexpected_keys"] if not _HARMLESS.search(key)):
        raise ValueError(
            f"{name} holds weights that its configuration has no place for, {_some(left)}: its config.json is not the "
            "one that it was trained with, or it is no tagger of this kind. If it is right, load model and tokenizer "
            "yourself and give Teacher(model, tokenizer)"
        )
    scores = {id(parameter) for parameter in model.crf.parameters()} if isinstance(model, CRFHeadMixin) else set()
    for key, weight in model.named_parameters():
        excluded = (weight == -torch.inf) if id(weight) in scores else torch.zeros_like(weight, dtype=torch.bool)
        if not bool((weight.isfinite() | excluded).all()):
            raise ValueError(f"{name} is damaged: its weight {key} holds NaN or infinite numbers")
    if isinstance(model, CRFHeadMixin):
        _refuse_impossible_lengths(model, name)
    embeddings: Any = model.get_input_embeddings()
    pieces, rows = max(tokenizer.get_vocab().values()) + 1, len(embeddings.weight)
    if pieces > rows:
        raise ValueError(
            f"{name} has a tokenizer with {pieces:,} pieces and embeddings for {rows:,}: they do not belong together"
        )


@torch.no_grad()
def _refuse_impossible_lengths(model: CRFHeadMixin, name: str) -> None:
    """Scores of -inf exclude tag sequences; some must be left for sentences of every length."""
    crf = model.crf
    masks = model.constraints("decode", crf.transitions.device)
    allowed = {}
    for mask, parameter in (("allowed", "transitions"), ("allowed_start", "start"), ("allowed_end", "end")):
        score = getattr(crf, parameter if parameter == "transitions" else f"{parameter}_transitions")
        allowed[mask] = (score > -torch.inf) & masks.get(mask, torch.ones_like(score, dtype=torch.bool))
    reached, before = allowed["allowed_start"], set()
    # Which tags a word may have follows from those of the word before: from a set that comes again on, all is known.
    # Cycles of transitions may put that off as far as the least common multiple of their lengths: there is a bound.
    for words in range(1, _LONGEST + 1):
        if (key := tuple(reached.tolist())) in before:
            return
        before.add(key)
        if not bool((reached & allowed["allowed_end"]).any()):
            raise ValueError(
                f"{name} is damaged: its transition, start and end scores exclude all tag sequences of {words} word(s)"
            )
        reached = (reached[:, None] & allowed["allowed"]).any(dim=0)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules of a model in evaluation mode, without dropout; afterwards as they were."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
