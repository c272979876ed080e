"""Packages that only some teachers need: imported when such a teacher is made; and what their models are known by."""

import hashlib
import importlib
from types import ModuleType

import torch


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


def weights_hash(model: torch.nn.Module) -> str:
    """A hash of a model's weights and buffers: a revision where its library knows none."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:40]
