"""Parameters that stay in float32, whatever the rest of a model is cast to."""

import torch
from torch import Tensor, nn


class InFloat32(nn.Module):
    """A module whose parameters stay in float32 under `.to(bfloat16)`, `.half()` and the like.

    `_keep_in_fp32_modules_strict` says the same to `from_pretrained`, which does not cast through modules.
    """

    def _apply(self, fn, recurse=True):  # every cast and move comes through here
        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype in (torch.float16, torch.bfloat16):
                return tensor.to(device=moved.device, dtype=torch.float32)
            return moved

        return super()._apply(keep_precision, recurse)


class CRFParameters(InFloat32):
    """The scores a CRF adds to the emissions.

    Attributes:
        transitions: (tags, tags), nats, `[from, to]`.
        start_transitions, end_transitions: (tags,), nats.
    """

    def __init__(self, num_tags: int) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(num_tags, num_tags, dtype=torch.float32))
        self.start_transitions = nn.Parameter(torch.zeros(num_tags, dtype=torch.float32))
        self.end_transitions = nn.Parameter(torch.zeros(num_tags, dtype=torch.float32))
