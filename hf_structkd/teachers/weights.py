"""A model's weights as a revision: for models whose library, or whose place, names none."""

import hashlib
from typing import Any

import torch


def update_with_weights(digest: Any, model: torch.nn.Module) -> None:
    """Feed a model's weights and buffers, by name and in their precision, to a hash of `hashlib`.

    Stored answers hold the hash, so the bytes must stay as they are.
    """
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def weights_hash(model: torch.nn.Module) -> str:
    """40 hexadecimal digits of the SHA-256 checksum of a model's weights and buffers."""
    digest = hashlib.sha256()
    update_with_weights(digest, model)
    return digest.hexdigest()[:40]
