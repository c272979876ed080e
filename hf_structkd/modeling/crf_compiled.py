"""Compiled loops for the CPU: when they are used, and the pass that is made of them.

The torch loops of `crf_sums.py` and `crf_paths.py` spend most of their time on starting some hundred small operations.
`crf_loops.py` has the same recursions as plain loops that numba compiles; here tensors become their arrays. The loops
serve tensors on the CPU where numba is installed (the ``fast`` extra); sums, up to `MAX_TAGS` tags. They are imported
at their first use, because numba takes half a second to import, and the first call after an installation compiles for
some seconds. Both implementations agree to rounding, k-best order and ties included, which the tests check.
``use_native`` or the environment variable ``HF_STRUCTKD_NATIVE`` (0 or 1) switches them off or on.

Shapes: B sentences of at most T words, C tags, K paths per sentence; scores are float64 and in nats.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .crf_batch import Chain, check_tags
from .crf_reference import IMPOSSIBLE, LIMIT, Scores
from .crf_sums import TINY, Messages
from .tag_scheme import IGNORED

MAX_TAGS = 64  # above, the matrix products of torch sum faster than loops over single sentences

# ---- the switch ----

_SWITCH: dict[str, bool | None] = {"": None, "0": False, "1": True}
if (_setting := os.environ.get("HF_STRUCTKD_NATIVE", "")) not in _SWITCH:
    raise ValueError(f"HF_STRUCTKD_NATIVE is 0 (torch alone) or 1 (compiled loops), not {_setting!r}")
# True or False: as the caller decided; None: where numba is installed.
_enabled: bool | None = _SWITCH[_setting]


@cache
def _installed() -> bool:
    return importlib.util.find_spec("numba") is not None


def use_native(on: bool | None) -> bool | None:
    """Switch compiled loops for CPU tensors on or off.

    Args:
        on: whether to use them from now on; `None`, the default of a process: if numba is installed.

    Returns:
        The setting before the call.

    Raises:
        ImportError: if they are switched on and numba is not installed.
    """
    global _enabled
    if on and not _installed():
        raise ImportError("compiled CRF loops need numba: pip install 'hf_structkd[fast]'")
    before, _enabled = _enabled, on
    return before


def native_maxima(chain: Chain) -> bool:
    """Whether this chain's best paths are found by compiled loops."""
    return _enabled is not False and chain.device.type == "cpu" and _installed()


def native_sums(chain: Chain) -> bool:
    """Whether the sums over this chain's paths are computed by compiled loops."""
    return native_maxima(chain) and len(chain.scores.start) <= MAX_TAGS


def _array(tensor: Tensor) -> Any:
    """A tensor as the numpy array of a loop: contiguous, without gradients, float64 if it holds scores."""
    tensor = tensor.detach()
    return (tensor.double() if tensor.is_floating_point() else tensor).contiguous().numpy()


# ---- sums over all paths ----


class NativePass(Messages):
    """The forward-backward pass on padded arrays."""

    def __init__(self, chain: Chain):
        from .crf_loops import forward_backward

        self.chain = chain
        B, T, C = chain.scores.emissions.shape
        empty = torch.empty(4, B, T, C, dtype=torch.float64)
        self.x, self.left, self.alpha, self.right = empty
        self.E, self.E_back = torch.empty(2, C, C, dtype=torch.float64)
        self.Z, self.forward, self.backward = torch.empty(3, B, T, dtype=torch.float64)
        self.log_z = torch.empty(B, dtype=torch.float64)
        emissions, *shared = chain.scores
        self.ok = forward_backward(
            *map(_array, (emissions, chain.lengths, *shared)),
            TINY,
            *map(_array, (self.x, self.E, self.E_back, self.left, self.alpha, self.right)),
            *map(_array, (self.Z, self.forward, self.backward, self.log_z)),
        )

    def _padded(self, rows: Tensor) -> Tensor:
        return rows.masked_fill(~(self.chain.alive[..., None] if rows.dim() == 3 else self.chain.alive), 0.0)

    def _edge_sides(self) -> tuple[Tensor, Tensor]:
        exists = self.chain.alive[:, 1:, None]
        left = (self.alpha[:, :-1] / self.Z[:, 1:, None]).masked_fill_(~exists, 0.0)
        return left, self.right[:, 1:].masked_fill(~exists, 0.0)

    def marginals(self) -> Tensor:
        return self._compute_marginals(logarithms=False)

    def log_marginals(self) -> Tensor:
        return self._compute_marginals(logarithms=True)

    def _compute_marginals(self, logarithms: bool) -> Tensor:
        from .crf_loops import marginals

        values = torch.zeros_like(self.left)
        messages = map(_array, (self.chain.lengths, self.left, self.right, self.Z))
        marginals(*messages, logarithms, TINY, _array(values))
        return values

    def log_partition_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        from .crf_loops import log_partition_gradient

        nodes, edges = torch.zeros_like(self.left), torch.zeros_like(self.E)
        parts = (upstream, self.chain.lengths, self.left, self.alpha, self.right, self.Z, nodes, edges)
        log_partition_gradient(*map(_array, parts))
        return nodes, edges * self.E

    def log_marginals_gradient(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        from .crf_loops import log_marginals_gradient

        nodes, edges = torch.zeros_like(self.left), torch.zeros_like(self.E)
        parts = (upstream, self.chain.lengths, self.x, self.E, self.E_back, self.left, self.alpha, self.right)
        factors = (self.Z, self.forward, self.backward, nodes, edges)
        log_marginals_gradient(*map(_array, parts + factors))
        return nodes, edges * self.E

    def log_prob_gradient(self, upstream: Tensor, paths: Tensor, exists: Tensor) -> Scores:
        """The gradient of the log probabilities (B, K) of paths (B, K, T), those that exist (B, K), by each score."""
        from .crf_loops import log_prob_gradient

        nodes, edges = torch.zeros_like(self.left), torch.zeros_like(self.E)
        start, end = nodes.new_zeros(2, len(edges))
        messages = (self.left, self.alpha, self.right, self.Z, self.E)
        parts = (upstream, exists, self.chain.lengths, paths, *messages, nodes, edges, start, end)
        log_prob_gradient(*map(_array, parts))
        return Scores(nodes, edges, start, end)


# ---- given paths ----


def native_path_scores(chain: Chain, paths: Tensor) -> Tensor:
    """As `path_score` of `crf_autograd.py`, without gradients: (B, K) for integer paths (B, K, T)."""
    from .crf_loops import path_scores

    emissions, *shared = chain.scores
    scores = torch.empty(paths.shape[:2], dtype=torch.float64)
    arrays = map(_array, (emissions, chain.lengths, *shared, paths.long()))
    if not path_scores(*arrays, IGNORED, _array(scores)):
        alive = chain.alive[:, None]
        missing = ((paths == IGNORED) | ~alive).all(-1)
        check_tags(paths, alive & ~missing[..., None], emissions.shape[2])
    return scores


# ---- maxima over all paths ----


def _arrays(chain: Chain) -> list[Any]:
    """The arguments that the loops for maxima share."""
    emissions, *shared = chain.detached()
    transitions, start, end = (part.double().clamp(min=IMPOSSIBLE) for part in shared)
    return [*map(_array, (emissions, chain.lengths, transitions, transitions.T, start, end)), IMPOSSIBLE, LIMIT]


def native_best_path(chain: Chain) -> Tensor:
    """As `best_path` of `crf_paths.py`."""
    from .crf_loops import best_path

    tags = torch.full(chain.scores.emissions.shape[:2], IGNORED)
    best_path(*_arrays(chain), tags.numpy())
    return tags


def native_k_best(chain: Chain, k: int) -> tuple[Tensor, Tensor]:
    """As `k_best` of `crf_paths.py`."""
    from .crf_loops import k_best

    B, T, _ = chain.scores.emissions.shape
    tags, valid = torch.full((B, k, T), IGNORED), torch.zeros(B, k, dtype=torch.bool)
    k_best(*_arrays(chain), k, tags.numpy(), valid.numpy())
    return tags, valid
