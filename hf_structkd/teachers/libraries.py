"""What teachers of other libraries share: their package, imported when needed, and their weights as a revision."""

import hashlib
import importlib
from types import ModuleType
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


def import_package(name: str, *, extra: str) -> ModuleType:
    """Import a package of an extra.

    Args:
        name: the package.
        extra: the extra of hf_structkd that installs it.

    Raises:
        ImportError: if it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.split(".")[0]:
            raise  # it is installed, and lacks something itself
        raise ImportError(f"this teacher needs {name}: pip install 'hf_structkd[{extra}]'", name=name) from error
