"""The head that turns any encoder into a word-level linear-chain CRF tagger.

Hugging Face shapes outside: `(batch, subwords)` tensors with -100 off the words. Words inside: each row's words are
compacted to the front, `(batch, words, ...)` plus `lengths`, so that a hole in a mask cannot be expressed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration import label_names
from .linear_chain import LinearChainCRF, SufficientStatistics
from .tag_scheme import TagScheme
from .windows import content_mask, encode_in_windows, encoder_window
from .word_starts import word_start_pieces

IGNORED = -100
LOG_ZERO = -1e4  # a finite stand-in for log 0 in `logits`, which the stock pipeline softmaxes


class CRFParameters(nn.Module):
    """The scores a CRF adds to the emissions, in float32 whatever the rest of the model is cast to.

    Attributes:
        transitions: (tags, tags), nats, `[from, to]`.
        start_transitions, end_transitions: (tags,), nats.
    """

    def __init__(self, num_tags: int) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(num_tags, num_tags, dtype=torch.float32))
        self.start_transitions = nn.Parameter(torch.zeros(num_tags, dtype=torch.float32))
        self.end_transitions = nn.Parameter(torch.zeros(num_tags, dtype=torch.float32))

    def _apply(self, fn, recurse=True):  # `.to(bfloat16)`, `.half()` and the like come through here
        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype in (torch.float16, torch.bfloat16):
                return tensor.to(device=moved.device, dtype=torch.float32)
            return moved

        return super()._apply(keep_precision, recurse)


class WordStarts(nn.Module):
    """The pieces of the vocabulary that start a word; all False until a tokenizer has been seen."""

    pieces: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.register_buffer("pieces", torch.zeros(vocab_size, dtype=torch.bool))


@dataclass
class CRFTokenClassifierOutput(ModelOutput):
    """What a model with a [`CRFHeadMixin`] returns.

    Args:
        loss: (), the gold tags' negative log-likelihood in nats a word, or divided by `num_items_in_batch`.
        logits: (batch, subwords, tags), nats. In eval mode log-marginals, capped so that the Viterbi tag is the
            largest, on every subword of a word (continuation subwords carry the continuation tag: B-X becomes I-X);
            in training mode the emissions. Zero off the words.
        tags: (batch, subwords), the Viterbi tags, -100 off the first subword of each word; eval mode only.
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


def compact(values: Tensor, word_mask: Tensor, padding: float = 0) -> Tensor:
    """Gather the values at the words to the front of each row.

    Args:
        values: (batch, subwords, ...).
        word_mask: (batch, subwords), boolean, True on the first subword of each word.
        padding: fills the rest.

    Returns:
        (batch, words, ...), words being the most that any row has (at least 1).
    """
    lengths = word_mask.sum(dim=1)
    width = max(int(lengths.max()), 1) if len(lengths) else 1
    compacted = values.new_full((values.shape[0], width, *values.shape[2:]), padding)
    inside = torch.arange(width, device=values.device) < lengths[:, None]
    compacted[inside] = values[word_mask]
    return compacted


def gold_statistics(labels: Tensor, word_mask: Tensor, num_tags: int) -> tuple[SufficientStatistics, Tensor]:
    """The gold paths as sufficient statistics, mass 0 where a row is unlabelled, and the number of labelled words, ().

    Args:
        labels: (batch, subwords), -100 off the words and on all words of an unlabelled row.
        word_mask: (batch, subwords), True on the first subword of each word.
        num_tags: the model's labels.

    Raises:
        ValueError: if a row has tags on some of its words only.
    """
    gold = compact(labels, word_mask, IGNORED)
    known, lengths = (gold != IGNORED).sum(dim=1), word_mask.sum(dim=1)
    partial = (known != 0) & (known != lengths)
    if bool(partial.any()):
        row = int(partial.nonzero()[0])
        raise ValueError(
            f"row {row} of the batch has labels on {int(known[row])} of its {int(lengths[row])} words: "
            "label all words of a sentence or none (-100)"
        )
    return SufficientStatistics.from_tags(gold, num_tags), known.sum()


class CRFHeadMixin:
    """A linear-chain CRF over the words of an encoder; list it before the encoder's `PreTrainedModel`.

    A family's class sets its encoder as the attribute that `base_model_prefix` names, calls `add_crf_head()` and then
    `post_init()`. The words of a batch come from `word_mask` where it is given, else from `labels`, else from the
    tokenizer's word-starting pieces stored with the model (`set_word_starts`).
    """

    config: Any
    base_model: Any
    training: bool
    _keep_in_fp32_modules_strict: Any = ("crf",)

    def add_crf_head(self) -> None:
        config = self.config
        dropout = getattr(config, "classifier_dropout", None)
        self.dropout = nn.Dropout(getattr(config, "hidden_dropout_prob", 0.0) if dropout is None else dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.crf = CRFParameters(config.num_labels)
        self.word_starts = WordStarts(config.vocab_size)
        self._constraints: dict[str, Tensor] | None = None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers 5 leaves whatever a checkpoint lacks as uninitialised memory, buffers included.
        super()._init_weights(module)  # type: ignore[misc]
        if isinstance(module, CRFParameters):
            init.zeros_(module.transitions)
            init.zeros_(module.start_transitions)
            init.zeros_(module.end_transitions)
        elif isinstance(module, WordStarts):
            init.zeros_(module.pieces)

    @property
    def tag_scheme(self) -> TagScheme:
        """The tags, in the order of the label ids, and what the scheme allows."""
        return TagScheme(label_names(self.config), self.config.tag_scheme)

    def set_word_starts(self, tokenizer: Any) -> None:
        """Remember which of the tokenizer's pieces start a word; saved with the weights."""
        pieces = word_start_pieces(tokenizer, self.config.vocab_size)
        self.word_starts.pieces.copy_(pieces)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; pieces that are added do not start words until `set_word_starts` says otherwise."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)  # type: ignore[misc]
        old = self.word_starts.pieces
        new = torch.zeros(self.config.vocab_size, dtype=torch.bool, device=old.device)
        kept = min(len(old), len(new))
        new[:kept] = old[:kept]
        self.word_starts.pieces = new
        return embeddings

    def constraints(self, mode: str, device: torch.device) -> dict[str, Tensor]:
        """The structural zeros as arguments of [`LinearChainCRF`]; empty where `crf_constraints` asks for none.

        Args:
            mode: what the distribution is for, `"decode"` or `"train"`.
            device: where the masks are wanted.
        """
        asked = self.config.crf_constraints
        if asked == "none" or (asked == "decode" and mode == "train"):
            return {}
        # Not a buffer: the masks follow from the labels, and a buffer missing in a checkpoint would be garbage.
        if self._constraints is None or next(iter(self._constraints.values())).device != device:
            scheme = self.tag_scheme
            masks = {
                "allowed": scheme.allowed,
                "allowed_start": scheme.allowed_start,
                "allowed_end": scheme.allowed_end,
            }
            self._constraints = {name: mask.to(device) for name, mask in masks.items()}
        return self._constraints

    def distribution(self, output: CRFTokenClassifierOutput, mode: str) -> LinearChainCRF:
        """The tag distribution of each row of an output.

        Args:
            output: this model's, or a wrapped copy's, output. A row without words counts as one of a single word
                with zero emissions: give it statistics of mass 0.
            mode: `"train"` or `"decode"`, see [`CRFConfigMixin`]'s `crf_constraints`.
        """
        return LinearChainCRF(
            output.emissions,
            output.transitions,
            output.start_transitions,
            output.end_transitions,
            lengths=output.lengths.clamp(min=1),
            **self.constraints(mode, output.emissions.device),
        )

    def find_words(self, input_ids, attention_mask, labels, word_mask) -> Tensor:
        """The first subword of every word: (batch, subwords), boolean. Raises ValueError where nothing tells words."""
        if word_mask is not None:
            return word_mask.bool() & attention_mask.bool()
        if labels is not None:
            return labels != IGNORED
        if input_ids is None or not bool(self.word_starts.pieces.any()):
            raise ValueError(
                "this model cannot tell where words start: pass word_mask (True on the first subword of each word), "
                "or call model.set_word_starts(tokenizer) once before saving it"
            )
        inside = content_mask(attention_mask)
        first = inside & (inside.cumsum(dim=1) == 1)  # whatever piece a text begins with, a word begins there
        return (self.word_starts.pieces[input_ids] & inside) | first

    def encode(self, input_ids, attention_mask, **kwargs: Any) -> tuple[Tensor, Any]:
        """Vectors of all subwords (batch, subwords, hidden), through windows where the rows are too long."""
        window = encoder_window(self)
        if input_ids is None or window is None or input_ids.shape[1] <= window:
            outputs = self.base_model(input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
            return outputs.last_hidden_state, outputs
        vectors = encode_in_windows(
            lambda ids, mask: self.base_model(ids, attention_mask=mask, return_dict=True).last_hidden_state,
            input_ids,
            attention_mask,
            window=window,
            overlap=self.config.window_overlap,
            pad_token_id=self.config.pad_token_id or 0,
            training=self.training,
        )
        return vectors, None

    def pool_words(self, vectors: Tensor, attention_mask: Tensor, word_mask: Tensor) -> Tensor:
        """One vector a word, compacted: (batch, words, hidden); `word_pooling` says which."""
        if self.config.word_pooling == "first":
            return compact(vectors, word_mask)
        word_of = word_mask.cumsum(dim=1) - 1
        inside = (content_mask(attention_mask) | word_mask) & (word_of >= 0)
        weights = inside.unsqueeze(-1).to(vectors.dtype)
        width = max(int(word_mask.sum(dim=1).max()), 1)
        index = word_of.clamp(min=0).unsqueeze(-1)
        sums = vectors.new_zeros(vectors.shape[0], width, vectors.shape[2])
        sums = sums.scatter_add(1, index.expand_as(vectors), vectors * weights)
        counts = vectors.new_zeros(vectors.shape[0], width, 1).scatter_add(1, index, weights)
        return sums / counts.clamp(min=1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        word_mask: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CRFTokenClassifierOutput | tuple:
        """Tag a batch.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds: as for the encoder.
            labels: (batch, subwords), tag ids on the first subword of each word, -100 elsewhere; a row of -100 alone
                is unlabelled and adds nothing to the loss.
            word_mask: (batch, subwords), True on the first subword of each word.
            num_items_in_batch: what the summed loss is divided by; `None`: the batch's labelled words.

        Raises:
            ValueError: if nothing tells where words start, or a row is labelled in part.
        """
        if attention_mask is None:
            given_input = input_ids if input_ids is not None else inputs_embeds
            if given_input is None:
                raise ValueError("give input_ids or inputs_embeds")
            attention_mask = torch.ones(given_input.shape[:2], dtype=torch.long, device=given_input.device)
        given = {"token_type_ids": token_type_ids, "position_ids": position_ids, "inputs_embeds": inputs_embeds}
        kwargs.update({name: value for name, value in given.items() if value is not None})
        word_mask = self.find_words(input_ids, attention_mask, labels, word_mask)
        output = self.word_scores(input_ids, attention_mask, word_mask, **kwargs)
        if labels is not None:
            nll, counted = self.gold_nll(output, labels, word_mask)
            output.loss = nll.sum() / (counted.clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        if self.training:
            output.logits = self.spread(output.emissions, attention_mask, word_mask)
        else:
            output.logits, output.tags = self.decode(output, attention_mask, word_mask)
        return output if return_dict is None or return_dict else output.to_tuple()

    def word_scores(self, input_ids, attention_mask, word_mask: Tensor, **kwargs: Any) -> CRFTokenClassifierOutput:
        """Emissions of the words and the CRF's own scores, nothing decoded."""
        vectors, encoded = self.encode(input_ids, attention_mask, **kwargs)
        lengths = word_mask.sum(dim=1)
        words = self.dropout(self.pool_words(vectors, attention_mask, word_mask))
        inside = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
        return CRFTokenClassifierOutput(
            emissions=self.classifier(words).float() * inside.unsqueeze(-1),
            lengths=lengths,
            transitions=self.crf.transitions,
            start_transitions=self.crf.start_transitions,
            end_transitions=self.crf.end_transitions,
            hidden_states=getattr(encoded, "hidden_states", None),
            attentions=getattr(encoded, "attentions", None),
        )

    def gold_nll(self, output: CRFTokenClassifierOutput, labels: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's -log p(gold tags) in nats (0 where unlabelled), (batch,), and the labelled words, ()."""
        statistics, counted = gold_statistics(labels, word_mask, self.config.num_labels)
        return self.distribution(output, "train").cross_entropy(statistics), counted

    @torch.no_grad()
    def decode(
        self, output: CRFTokenClassifierOutput, attention_mask: Tensor, word_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`logits` and `tags` as [`CRFTokenClassifierOutput`] defines them."""
        distribution = self.distribution(output, "decode")
        best, _ = distribution.argmax()
        log_marginals = distribution.log_marginals.float().clamp(min=LOG_ZERO)
        # The best path may pass through a tag that is not its word's most probable. Others are capped just below it,
        # so that an argmax over logits gives the path and the path's tags keep the score nearest to their marginal.
        chosen = best.clamp(min=0).unsqueeze(-1)
        ceiling = log_marginals.gather(-1, chosen)
        capped = torch.minimum(log_marginals, ceiling - 1e-3).scatter(-1, chosen, ceiling)
        logits = self.spread(capped, attention_mask, word_mask, continuation=True)
        tags = torch.full(word_mask.shape, IGNORED, dtype=torch.long, device=word_mask.device)
        tags[word_mask] = best[torch.arange(best.shape[1], device=best.device) < output.lengths[:, None]]
        return logits, tags

    def spread(self, values: Tensor, attention_mask: Tensor, word_mask: Tensor, continuation: bool = False) -> Tensor:
        """Word values (batch, words, tags) onto the words' subwords (batch, subwords, tags); zero off the words.

        Args:
            continuation: values are log-probabilities, and a word's later subwords carry the tags' continuations.
        """
        word_of = word_mask.cumsum(dim=1) - 1
        index = word_of.clamp(min=0).unsqueeze(-1)
        spread = values.gather(1, index.expand(-1, -1, values.shape[-1]))
        if continuation:
            target = torch.tensor(self.tag_scheme.continuation, device=values.device)
            merge = nn.functional.one_hot(target, values.shape[-1]).to(values.dtype)  # [tag, its continuation]
            merged = (spread.exp() @ merge).log().clamp(min=LOG_ZERO)
            spread = torch.where(word_mask.unsqueeze(-1), spread, merged)
        on_words = (attention_mask.bool() & (word_of >= 0)).unsqueeze(-1)
        return torch.where(on_words, spread, torch.zeros((), dtype=values.dtype, device=values.device))
