"""Packages that only some teachers need: imported when such a teacher is made."""

import importlib
from types import ModuleType


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
