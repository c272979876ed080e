"""A smaller student that starts from a trained model: some of its layers, everything else whole."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

LAYER_LISTS = ("encoder.layer", "layers")  # where BERT's kin and ModernBERT keep their layers


def evenly_spaced(layers: int, kept: int) -> list[int]:
    """`kept` of the layers 0 to `layers - 1`, the first and the last among them, evenly spaced; of 12, 6 are
    0 2 4 7 9 11."""
    if kept == 1:
        return [0]
    return [(2 * i * (layers - 1) + kept - 1) // (2 * (kept - 1)) for i in range(kept)]


def smaller_student(model: Any, keep_layers: int | Sequence[int]) -> Any:
    """A model of the same class with fewer layers, everything in it copied: embeddings, the kept layers, the head.

    Labels, CRF scores, word starts and all else in the configuration stay. The original is left as it is.

    Args:
        model: a model of the XLM-R, BERT, DeBERTa-v2 or ModernBERT kind, with a CRF or without.
        keep_layers: how many layers, evenly spaced (see [`evenly_spaced`]), or which, counted from 0.

    Returns:
        The smaller model, in eval mode, with the original's dtype and device.

    Raises:
        ValueError: if there are no such layers, or a layer cannot stand in another's place (ModernBERT's first has no
            norm of its own and must stay the first).
    """
    there = model.config.num_hidden_layers
    if isinstance(keep_layers, int):
        if not 1 <= keep_layers <= there:
            raise ValueError(f"keep_layers must be from 1 to {there}, the layers there are, not {keep_layers}")
        kept = evenly_spaced(there, keep_layers)
    else:
        kept = list(keep_layers)
        if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= there:
            raise ValueError(f"keep_layers must be rising layer numbers from 0 to {there - 1}, not {kept}")
    modules = dict(model.base_model.named_modules())
    if not (found := [name for name in LAYER_LISTS if name in modules]):
        raise ValueError(f"{type(model).__name__} keeps its layers in no known place ({', '.join(LAYER_LISTS)})")
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):  # ModernBERT: local or global attention
        config.layer_types = [config.layer_types[layer] for layer in kept]

    smaller = type(model)(config).to(device=model.device, dtype=model.dtype)
    prefix = f"{'' if model.base_model is model else f'{model.base_model_prefix}.'}{found[0]}."
    source = model.state_dict()
    values: dict[str, Tensor] = {}
    for place, layer in enumerate(kept):
        own, wanted = _layer(source, f"{prefix}{layer}."), _layer(smaller.state_dict(), f"{prefix}{place}.")
        if differ := sorted(set(own) ^ set(wanted)):
            raise ValueError(
                f"layer {layer} cannot stand in place {place}, which differs in {differ}: keep layer {place} there"
            )
        values |= {f"{prefix}{place}.{name}": value for name, value in own.items()}
    values |= {name: value for name, value in source.items() if not name.startswith(prefix)}
    smaller.load_state_dict(values)
    return smaller.eval()


def _layer(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
