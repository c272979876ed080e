"""Compiled loops for the CPU, by numba: whether they are used, and how they are compiled.

The torch loops spend most of their time on starting some hundred small operations. `native_sums.py` and
`native_paths.py` hold the same recursions as plain loops over one sentence after the other, several times faster. They
are an option and not the default: numba need not be installed (the ``fast`` extra), its first call compiles for some
seconds, and results should not depend on what happens to be installed. Switch them on with ``use_native(True)`` or the
environment variable ``HF_STRUCTKD_NATIVE=1``; tensors on other devices keep using torch. Both ways agree to rounding,
k-best order and ties included, which the tests check.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

try:
    import numba as _numba

    numba: Any = _numba
except ImportError:
    numba = None

_enabled = os.environ.get("HF_STRUCTKD_NATIVE", "0") not in ("", "0")


def use_native(on: bool) -> bool:
    """Use compiled loops for CPU tensors from now on, or stop using them. Returns what was set before.

    Raises:
        ImportError: if they are wanted and numba is not installed.
    """
    global _enabled
    if on and numba is None:
        raise ImportError("compiled CRF loops need numba: pip install 'hf_structkd[fast]'")
    before, _enabled = _enabled, on
    return before


def native_on(device: torch.device) -> bool:
    """Whether compiled loops are to be used for tensors there."""
    return _enabled and numba is not None and device.type == "cpu"


def compiled(function):
    """Decorator: the function as numba compiles it, at its first call.

    Constants of other files must come as arguments: numba keeps compiled code until the function's own file changes.
    """
    if numba is None:
        return function
    try:
        return numba.njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # nowhere to keep the compiled code
        return numba.njit(error_model="numpy")(function)


def array(tensor: Tensor):
    """A tensor's numbers as compiled loops take them: contiguous, without gradients, no half precision."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.detach().contiguous().numpy()
