"""Layers of the head that stay in float32: the CRF's scores, and a BiLSTM over words between encoder and CRF.

The BiLSTM on a frozen encoder is the student of Wang et al. 2020 (arXiv 2004.03846).
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Float32Module(nn.Module):
    """A module whose parameters stay in float32 under `.to(bfloat16)`, `.half()` and the like.

    `from_pretrained` does not cast through modules; `_keep_in_fp32_modules_strict` tells it the same.
    """

    def _apply(self, fn, recurse=True):  # every cast and move comes through here
        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype in (torch.float16, torch.bfloat16):
                return tensor.to(device=moved.device, dtype=torch.float32)
            return moved

        return super()._apply(keep_precision, recurse)


class CRFParameters(Float32Module):
    """The scores that a CRF adds to the emissions; they start at 0.

    Args:
        num_tags: number of tags.

    Attributes:
        transitions: (tags, tags), nats, `[from, to]`.
        start_transitions, end_transitions: (tags,), nats.
    """

    def __init__(self, num_tags: int) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(num_tags, num_tags, dtype=torch.float32))
        self.start_transitions = nn.Parameter(torch.zeros(num_tags, dtype=torch.float32))
        self.end_transitions = nn.Parameter(torch.zeros(num_tags, dtype=torch.float32))


class WordLSTM(Float32Module):
    """An LSTM over each row's words, in both directions; in float32, because rounding adds up along a sentence.

    Args:
        input_size: width of a word's vector.
        hidden_size: units per direction.
        num_layers: LSTMs on top of each other.
        dropout: probability between them.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.LSTM(
            input_size,
            hidden_size,
            num_layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if num_layers > 1 else 0.0,
            dtype=torch.float32,
        )

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """States of the words.

        Args:
            words: (batch, words, input_size); values beyond a row's length are not read.
            lengths: (batch,), words per row; 0 is allowed.

        Returns:
            (batch, words, 2 * hidden_size), float32; zeros beyond a row's length.
        """
        with torch.autocast(words.device.type, enabled=False):
            packed = pack_padded_sequence(
                words.float(), lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
            )
            states, _ = pad_packed_sequence(self.layers(packed)[0], batch_first=True, total_length=words.shape[1])
        return states * (lengths > 0)[:, None, None]


def initial_lstm_values(lstm: nn.LSTM) -> dict[str, Tensor]:
    """Initial values by parameter name: Glorot for input weights, orthogonal for recurrent ones, forget biases 1."""
    values = {}
    for name, parameter in lstm.named_parameters():
        value = torch.zeros(parameter.shape, dtype=parameter.dtype)
        gates = value.chunk(4)  # input, forget, cell, output
        if name.startswith("weight_ih"):
            for gate in gates:
                nn.init.xavier_uniform_(gate)
        elif name.startswith("weight_hh"):
            for gate in gates:
                nn.init.orthogonal_(gate)
        elif name.startswith("bias_ih"):  # the other bias stays 0, since the two are added
            gates[1].fill_(1.0)
        values[name] = value
    return values
