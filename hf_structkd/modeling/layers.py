"""A BiLSTM over words, between encoder and CRF: the student of SLKD (arXiv 2004.03846) on a frozen encoder."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


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


class WordLSTM(InFloat32):
    """Reads each row's words in both directions; in float32, as rounding adds up along a sentence.

    Args:
        input_size: of a word's vector.
        hidden_size: units of one direction.
        num_layers: LSTMs on top of each other.
        dropout: between them.
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
        """Read the words.

        Args:
            words: (batch, words, input_size); what lies beyond a row's length is not read.
            lengths: (batch,), words; a row may have none.

        Returns:
            (batch, words, 2 * hidden_size), float32; zeros beyond a row's length.
        """
        with torch.autocast(words.device.type, enabled=False):
            packed = pack_padded_sequence(
                words.float(), lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
            )
            states, _ = pad_packed_sequence(self.layers(packed)[0], batch_first=True, total_length=words.shape[1])
        return states * (lengths > 0)[:, None, None]


def fresh_lstm_values(lstm: nn.LSTM) -> dict[str, Tensor]:
    """Values to start training from: Glorot for what comes in, orthogonal for what recurs, forget gates open."""
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
