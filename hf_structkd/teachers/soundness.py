"""Checks that a checkpoint is a whole, trained tagger: a damaged one must not teach."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..modeling.crf_head import CRFHeadMixin

# Weights that a trained tagger may have left over: heads of its encoder's pretraining, and buffers of older releases.
_HARMLESS = re.compile(
    r"(^|\.)(pooler|lm_head|cls\.predictions|cls\.seq_relationship|vocab_transform|vocab_layer_norm|vocab_projector"
    r"|lm_predictions|mask_predictions|discriminator_predictions|generator_predictions"
    r"|position_ids|token_type_ids|inv_freq)(\.|$)"
)
_LONGEST = 2048  # words, up to which a checkpoint must have tag sequences for every length
_SET_LATER = {"word_starts.pieces"}  # a model may get its word-start pieces after loading


def check_soundness(model: PreTrainedModel, tokenizer: Any, loading_info: Mapping[str, Any], name: str) -> None:
    """Refuse a checkpoint whose loaded model cannot be the trained one.

    Args:
        model: as it was loaded.
        tokenizer: the model's.
        loading_info: as `from_pretrained(..., output_loading_info=True)` returns it.
        name: of the checkpoint, for messages.

    Raises:
        ValueError: if weights are missing, left over or not finite, the scores exclude all tag sequences, or the
            tokenizer has more pieces than the model has embeddings.
    """
    if missing := sorted(set(loading_info["missing_keys"]) - _SET_LATER):
        raise ValueError(f"{name} lacks the weights {_abbreviated(missing)}: no trained tagger, or not all of one")
    if left := sorted(key for key in loading_info["unexpected_keys"] if not _HARMLESS.search(key)):
        raise ValueError(
            f"{name} holds weights that its configuration has no place for, {_abbreviated(left)}: its config.json is "
            "not the one that it was trained with, or it is no tagger of this kind. If it is right, load model and "
            "tokenizer yourself and give Teacher(model, tokenizer)"
        )
    scores = {id(parameter) for parameter in model.crf.parameters()} if isinstance(model, CRFHeadMixin) else set()
    for key, weight in model.named_parameters():
        excluded = (weight == -torch.inf) if id(weight) in scores else torch.zeros_like(weight, dtype=torch.bool)
        if not bool((weight.isfinite() | excluded).all()):
            raise ValueError(f"{name} is damaged: its weight {key} holds NaN or infinite numbers")
    if isinstance(model, CRFHeadMixin):
        _check_possible_lengths(model, name)
    embeddings: Any = model.get_input_embeddings()
    pieces, rows = max(tokenizer.get_vocab().values()) + 1, len(embeddings.weight)
    if pieces > rows:
        raise ValueError(
            f"{name} has a tokenizer with {pieces:,} pieces and embeddings for {rows:,}: they do not belong together"
        )


@torch.no_grad()
def _check_possible_lengths(model: CRFHeadMixin, name: str) -> None:
    """Scores of -inf exclude tag sequences; sentences of every length must have possible ones."""
    crf = model.crf
    masks = model.constraints("decode", crf.transitions.device)
    allowed = {}
    for mask, parameter in (("allowed", "transitions"), ("allowed_start", "start"), ("allowed_end", "end")):
        score = getattr(crf, parameter if parameter == "transitions" else f"{parameter}_transitions")
        allowed[mask] = (score > -torch.inf) & masks.get(mask, torch.ones_like(score, dtype=torch.bool))
    possible, visited = allowed["allowed_start"], set()
    # The possible tags of a word follow from those of the word before: a set that occurs again decides all later ones.
    # Cycles of transitions may delay this up to the least common multiple of their lengths, hence the bound.
    for words in range(1, _LONGEST + 1):
        if (key := tuple(possible.tolist())) in visited:
            return
        visited.add(key)
        if not bool((possible & allowed["allowed_end"]).any()):
            raise ValueError(
                f"{name} is damaged: its transition, start and end scores exclude all tag sequences of {words} word(s)"
            )
        possible = (possible[:, None] & allowed["allowed"]).any(dim=0)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put all modules of a model into evaluation mode, without dropout, and restore their modes afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _abbreviated(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
