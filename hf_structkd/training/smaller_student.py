"""A smaller student made from a trained model: some of its layers, and everything else."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

SPREAD = "spread"  # evenly spaced layers
LAYER_LISTS = ("encoder.layer", "layers")  # module names of the layers in BERT-like models and in ModernBERT


def evenly_spaced(layers: int, kept: int) -> list[int]:
    """Choose evenly spaced layers, the first and the last among them.

    Args:
        layers: The number of layers.
        kept: The number to choose.

    Returns:
        Layer numbers from 0 to `layers - 1`; for 6 of 12 layers `[0, 2, 4, 7, 9, 11]`.
    """
    if kept == 1:
        return [0]
    return [(2 * i * (layers - 1) + kept - 1) // (2 * (kept - 1)) for i in range(kept)]


def smaller_student(model: Any, keep_layers: int | Sequence[int]) -> Any:
    """Copy a model with fewer layers: embeddings, the kept layers, the head and its configuration stay the same.

    Args:
        model: A model of the XLM-R, BERT, DeBERTa-v2 or ModernBERT family, with a CRF or without; not changed.
        keep_layers: The number of layers to keep, evenly spaced (see [`evenly_spaced`]), or their numbers from 0.

    Returns:
        The smaller model in eval mode, with the original's dtype and device.

    Raises:
        ValueError: If there are no such layers, or a layer cannot take another's position (ModernBERT's first has no
            norm of its own and must stay the first).
    """
    layer_count = model.config.num_hidden_layers
    if isinstance(keep_layers, int):
        if not 1 <= keep_layers <= layer_count:
            raise ValueError(f"keep_layers must be from 1 to {layer_count}, the layers there are, not {keep_layers}")
        kept = evenly_spaced(layer_count, keep_layers)
    else:
        kept = list(keep_layers)
        if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= layer_count:
            raise ValueError(f"keep_layers must be rising layer numbers from 0 to {layer_count - 1}, not {kept}")
    modules = dict(model.base_model.named_modules())
    if not (layer_lists := [name for name in LAYER_LISTS if name in modules]):
        raise ValueError(f"{type(model).__name__} keeps its layers in no known place ({', '.join(LAYER_LISTS)})")
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):  # ModernBERT: local or global attention
        config.layer_types = [config.layer_types[layer] for layer in kept]

    smaller = type(model)(config).to(device=model.device, dtype=model.dtype)
    prefix = f"{'' if model.base_model is model else f'{model.base_model_prefix}.'}{layer_lists[0]}."
    source = model.state_dict()
    values: dict[str, Tensor] = {}
    for place, layer in enumerate(kept):
        old, new = _layer(source, f"{prefix}{layer}."), _layer(smaller.state_dict(), f"{prefix}{place}.")
        if differ := sorted(set(old) ^ set(new)):
            raise ValueError(
                f"layer {layer} cannot stand in place {place}, which differs in {differ}: keep layer {place} there"
            )
        values |= {f"{prefix}{place}.{name}": value for name, value in old.items()}
    values |= {name: value for name, value in source.items() if not name.startswith(prefix)}
    smaller.load_state_dict(values)
    return smaller.eval()


def _layer(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
