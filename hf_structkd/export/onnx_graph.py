"""Encoder and Viterbi as one graph of tensors, for any number of sentences as long as the encoder's window allows."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from ..modeling.crf_reference import IMPOSSIBLE
from ..modeling.tag_scheme import IGNORED
from ..modeling.windows import content_mask


class TaggerGraph(nn.Module):
    """The exported graph. Words are not compacted, so that all shapes follow from the input's.

    Viterbi is two scans over subwords, whose state changes only where a word starts: from the right the best
    completion from each tag, from the left the path along it; the lowest tag wins ties. This is `follow` of
    `crf_paths.py`, in float64 as there.

    Args:
        model: with a CRF head, in float32.

    Raises:
        ValueError: if the model has a BiLSTM over words, which is not exported.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if model.lstm is not None:
            raise ValueError(
                "a BiLSTM between encoder and CRF cannot be exported to ONNX: distil without lstm_hidden_size"
            )
        self.encoder, self.classifier = model.base_model, model.classifier
        self.pool_mean = model.config.word_pooling == "mean"
        scheme, masked = model.tag_scheme, model.config.crf_constraints != "none"
        crf = {name: parameter.detach().double() for name, parameter in model.crf.named_parameters()}
        masks = {"transitions": scheme.allowed, "start_transitions": scheme.allowed_start}
        masks["end_transitions"] = scheme.allowed_end
        for name, scores in crf.items():
            forbidden = ~masks[name].to(scores.device) & masked
            self.register_buffer(name, scores.masked_fill(forbidden, IMPOSSIBLE))

    transitions: Tensor
    start_transitions: Tensor
    end_transitions: Tensor

    def forward(self, input_ids: Tensor, attention_mask: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tag a batch.

        Args:
            input_ids, attention_mask, word_mask: (batch, subwords), integers; word_mask is 1 on the first subword of
                each word.

        Returns:
            Tags (batch, subwords), -100 off the words; emissions (batch, subwords, tags), nats, undefined off the
            words.
        """
        words = word_mask.bool() & attention_mask.bool()
        vectors = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pool_mean:
            vectors = self._means(vectors, attention_mask, words)
        emissions = self.classifier(vectors)
        return self._viterbi(emissions, words), emissions

    def _means(self, vectors: Tensor, attention_mask: Tensor, words: Tensor) -> Tensor:
        """The mean over each word's subwords, at its first subword."""
        word_index = words.long().cumsum(dim=1)
        inside = (content_mask(attention_mask) | words) & (word_index > 0)
        same_word = ((word_index.unsqueeze(2) == word_index.unsqueeze(1)) & inside.unsqueeze(1)).to(vectors.dtype)
        return same_word @ vectors / same_word.sum(dim=2, keepdim=True).clamp(min=1)

    def _viterbi(self, emissions: Tensor, words: Tensor) -> Tensor:
        """Tags (batch, subwords), -100 off the words."""
        steps = (emissions.double().transpose(0, 1), words.transpose(0, 1))
        zeros = torch.zeros_like(steps[0][0])

        def backward(rest: Tensor, step: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            emission, is_word = step
            completion = emission + rest
            previous_rest = (self.transitions + completion.unsqueeze(1)).amax(dim=-1)
            return torch.where(is_word.unsqueeze(1), previous_rest, rest), completion

        _, completions = scan(backward, self.end_transitions + zeros, steps, dim=0, reverse=True)

        def forward(arriving: Tensor, step: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            completion, is_word = step
            tag = (arriving + completion).argmax(dim=-1)
            leaving = torch.where(is_word.unsqueeze(1), self.transitions[tag], arriving)
            return leaving, torch.where(is_word, tag, torch.full_like(tag, IGNORED))

        _, tags = scan(forward, self.start_transitions + zeros, (completions, steps[1]), dim=0)
        return tags.transpose(0, 1)
