"""What a model with a CRF head returns."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class CRFTokenClassifierOutput(ModelOutput):
    """What a model with a [`~.crf_head.CRFHeadMixin`] returns.

    Args:
        loss: (), the gold tags' negative log-likelihood in nats a word, or divided by `num_items_in_batch`.
        logits: (batch, subwords, tags), nats. In eval mode log-marginals, capped so that the Viterbi tag is the
            largest, on every subword of a word (continuation subwords carry the continuation tag: B-X becomes I-X;
            where neither labels nor a word mask are given, BIOES tags are told in B- and I-, as the stock pipeline
            wants them);
            in training mode, or with `decode=False`, the emissions. Zero off the words.
        tags: (batch, subwords), the Viterbi tags, -100 off the first subword of each word; only where decoded.
        emissions: (batch, words, tags), nats, words compacted; zero beyond a row's words.
        lengths: (batch,), words.
        transitions, start_transitions, end_transitions: the CRF's scores, nats; handed out so that a loss over them
            runs through the (possibly wrapped) model's forward.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    tags: Tensor | None = None
    emissions: Tensor = None  # type: ignore[assignment]
    lengths: Tensor = None  # type: ignore[assignment]
    transitions: Tensor = None  # type: ignore[assignment]
    start_transitions: Tensor = None  # type: ignore[assignment]
    end_transitions: Tensor = None  # type: ignore[assignment]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
