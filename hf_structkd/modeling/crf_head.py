"""The head that turns any encoder into a word-level linear-chain CRF tagger.

Hugging Face shapes outside: `(batch, subwords)` tensors with -100 off the words. Words inside: each row's words are
compacted to the front, `(batch, words, ...)` plus `lengths`, so that a hole in a mask cannot be expressed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from .configuration import label_names
from .crf import LinearChainCRF
from .layers import CRFParameters, WordLSTM, fresh_lstm_values
from .tag_scheme import IGNORED, TagScheme
from .windows import content_mask, encode_in_windows, encoder_window
from .word_tensors import (
    LOG_ZERO,
    compact,
    gold_statistics,
    led_by,
    mean_over_subwords,
    merge_tags,
    refuse_partial_labels,
    spread,
)
from .words import WordStarts, refuse_bare_tokenizer, word_start_pieces


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


HEAD_KEYS = [r"^(classifier|crf|lstm|word_starts)\."]  # of a checkpoint's weights, what is not the encoder's


class CRFHeadMixin:
    """A linear-chain CRF over the words of an encoder; list it before the encoder's `PreTrainedModel`.

    A family's class sets its encoder as the attribute that `base_model_prefix` names, calls `add_crf_head()` and then
    `post_init()`. The words of a batch come from `word_mask` where it is given, else from `labels`, else from the
    tokenizer's word-starting pieces stored with the model (`set_word_starts`).
    """

    config: Any
    base_model: Any
    training: bool
    _keep_in_fp32_modules_strict: Any = None  # of each model those that it has
    encoder_class: Any  # what `AutoModel` makes of a checkpoint
    pieces_cut_words = False  # whether the tokenizers' pieces that start a word also stand inside words

    def add_crf_head(self) -> None:
        config = self.config
        self._keep_in_fp32_modules_strict = {"crf", "lstm"} if config.lstm_hidden_size else {"crf"}
        dropout = getattr(config, "classifier_dropout", None)
        self.dropout = nn.Dropout(getattr(config, "hidden_dropout_prob", 0.0) if dropout is None else dropout)
        self.lstm = None
        if config.lstm_hidden_size:
            self.lstm = WordLSTM(config.hidden_size, config.lstm_hidden_size, config.lstm_layers, self.dropout.p)
        width = 2 * config.lstm_hidden_size if config.lstm_hidden_size else config.hidden_size
        self.classifier = nn.Linear(width, config.num_labels)
        self.crf = CRFParameters(config.num_labels)
        self.word_starts = WordStarts(config.vocab_size)
        self._scheme: tuple[Any, TagScheme] | None = None

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
        elif isinstance(module, nn.LSTM):
            for name, value in fresh_lstm_values(module).items():
                init.copy_(module.get_parameter(name), value)

    def freeze_encoder(self, frozen: bool = True) -> None:
        """Train the head alone, on an encoder that stays as it is and has no dropout; saved with the configuration."""
        self.config.freeze_encoder = frozen
        self.base_model.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)  # type: ignore[misc]
        if self.config.freeze_encoder:
            # Here, not in the constructor: from_pretrained puts fresh parameters in and ends with a call of eval().
            self.base_model.requires_grad_(False)
            self.base_model.eval()
        return self

    @property
    def tag_scheme(self) -> TagScheme:
        """The tags, in the order of the label ids, and what the scheme allows; made anew where those have changed."""
        wanted = tuple(label_names(self.config)), self.config.tag_scheme
        if self._scheme is None or self._scheme[0] != wanted:
            self._scheme = wanted, TagScheme(*wanted)
        return self._scheme[1]

    def set_word_starts(self, tokenizer: Any) -> None:
        """Remember which of the tokenizer's pieces start a word; saved with the weights.

        Raises:
            ValueError: if they cannot be told, see [`word_start_pieces`], or the tokenizer adds no special tokens.
        """
        refuse_bare_tokenizer(tokenizer)
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
        return self.tag_scheme.masks(device)

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
        """The first subword of every word: (batch, subwords), boolean.

        Raises:
            ValueError: where nothing tells words, or labels leave out a word that the pieces tell.
        """
        if word_mask is not None:
            return word_mask.bool() & attention_mask.bool()
        if labels is not None:
            words = labels != IGNORED
            if input_ids is not None and not self.pieces_cut_words:
                refuse_partial_labels(words, self.word_starts.pieces[input_ids] & content_mask(attention_mask))
            return words
        if input_ids is None:
            raise ValueError(
                "inputs_embeds do not tell where words start, the pieces of input_ids would: pass word_mask "
                "(True on the first subword of each word)"
            )
        if not bool(self.word_starts.pieces.any()):
            raise ValueError(
                "this model cannot tell where words start: pass word_mask (True on the first subword of each word), "
                "or call model.set_word_starts(tokenizer) once before saving it"
            )
        inside = content_mask(attention_mask)
        first = inside & (inside.cumsum(dim=1) == 1)  # whatever piece a text begins with, a word begins there
        return (self.word_starts.pieces[input_ids] & inside) | first

    def encode(self, input_ids, attention_mask, **kwargs: Any) -> tuple[Tensor, Any]:
        """Vectors of all subwords (batch, subwords, hidden), through windows where the rows are too long."""
        if not getattr(self.config, "type_vocab_size", 0):
            kwargs.pop("token_type_ids", None)  # some tokenizers make them for any encoder
        window = encoder_window(self)
        given = input_ids if input_ids is not None else kwargs["inputs_embeds"]
        if window is None or given.shape[1] <= window:
            outputs = self.base_model(input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
            return outputs.last_hidden_state, outputs
        return self._encode_long(input_ids, attention_mask, window, **kwargs)

    def _encode_long(self, input_ids, attention_mask, window: int, **kwargs: Any) -> tuple[Tensor, BaseModelOutput]:
        if refused := [name for name in ("inputs_embeds", "position_ids") if name in kwargs]:
            raise ValueError(
                f"a text longer than the encoder's window of {window} subwords is cut into windows, each with "
                f"positions of its own: give input_ids, not {' and '.join(refused)}"
            )
        if kwargs.pop("output_attentions", None) or getattr(self.config, "output_attentions", False):
            raise ValueError(f"there are no attentions over a text longer than the encoder's window of {window}")
        every_layer = kwargs.pop("output_hidden_states", None)
        every_layer = getattr(self.config, "output_hidden_states", False) if every_layer is None else every_layer
        along = {name: kwargs.pop(name) for name in ("token_type_ids",) if name in kwargs}

        def encode_window(ids: Tensor, mask: Tensor, **cut: Tensor) -> Tensor:
            outputs = self.base_model(
                ids, attention_mask=mask, return_dict=True, output_hidden_states=every_layer, **cut, **kwargs
            )
            layers = (*outputs.hidden_states, outputs.last_hidden_state) if every_layer else ()
            return torch.cat(layers, dim=-1) if layers else outputs.last_hidden_state

        vectors = encode_in_windows(
            encode_window,
            input_ids,
            attention_mask,
            window=window,
            overlap=self.config.window_overlap,
            pad_token_id=self.config.pad_token_id or 0,
            training=self.training,
            along=along,
        )
        *layers, last = vectors.split(self.config.hidden_size, dim=-1)
        return last, BaseModelOutput(last_hidden_state=last, hidden_states=tuple(layers) or None)

    def pool_words(self, vectors: Tensor, attention_mask: Tensor, word_mask: Tensor) -> Tensor:
        """One vector a word, compacted: (batch, words, hidden); `word_pooling` says which."""
        if self.config.word_pooling == "first":
            return compact(vectors, word_mask)
        return mean_over_subwords(vectors, attention_mask, word_mask)

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
        decode: bool = True,
        **kwargs: Any,
    ) -> CRFTokenClassifierOutput | tuple:
        """Tag a batch.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds: as for the encoder.
            labels: (batch, subwords), tag ids on the first subword of each word, -100 elsewhere; a row of -100 alone
                is unlabelled and adds nothing to the loss.
            word_mask: (batch, subwords), True on the first subword of each word.
            num_items_in_batch: what the summed loss is divided by; `None`: the batch's labelled words.
            decode: whether to decode in eval mode; without it `logits` are the emissions and `tags` are left out, for
                callers who read the `distribution` themselves.

        Raises:
            ValueError: if nothing tells where words start, or a row is labelled in part. Without word_mask that is
                seen where the pieces of `set_word_starts` tell words for certain, which BERT's do not (they cut words
                at punctuation): there -100 means that no word starts.
        """
        if attention_mask is None:
            given_input = input_ids if input_ids is not None else inputs_embeds
            if given_input is None:
                raise ValueError("give input_ids or inputs_embeds")
            attention_mask = torch.ones(given_input.shape[:2], dtype=torch.long, device=given_input.device)
        given = {"token_type_ids": token_type_ids, "position_ids": position_ids, "inputs_embeds": inputs_embeds}
        kwargs.update({name: value for name, value in given.items() if value is not None})
        as_bio = labels is None and word_mask is None
        word_mask = self.find_words(input_ids, attention_mask, labels, word_mask)
        output = self.word_scores(input_ids, attention_mask, word_mask, **kwargs)
        if labels is not None:
            nll, counted = self.gold_nll(output, labels, word_mask)
            # By item: set as an attribute, a field that was None becomes no key before transformers 5.3.
            output["loss"] = nll.sum() / (counted.clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        if self.training or not decode:
            output["logits"] = spread(output.emissions, attention_mask, word_mask)
        else:
            # A caller who says where words are reads the model's own tags; the stock pipeline, which knows B- and I-
            # only, gives text alone.
            decoded = self.decode(output, attention_mask, word_mask, as_bio=as_bio)
            output["logits"], output["tags"] = decoded
        return output if return_dict is None or return_dict else output.to_tuple()

    def word_scores(self, input_ids, attention_mask, word_mask: Tensor, **kwargs: Any) -> CRFTokenClassifierOutput:
        """Emissions of the words and the CRF's own scores, nothing decoded."""
        vectors, encoded = self.encode(input_ids, attention_mask, **kwargs)
        lengths = word_mask.sum(dim=1)
        words = self.dropout(self.pool_words(vectors, attention_mask, word_mask))
        if self.lstm is not None:
            words = self.dropout(self.lstm(words, lengths)).to(self.classifier.weight.dtype)
        inside = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
        with torch.autocast(words.device.type, enabled=False):  # it would round emissions until tags tie
            weights = self.classifier.weight.dtype
            emissions = self.classifier(words.to(weights) if weights.is_floating_point else words)
        return CRFTokenClassifierOutput(
            emissions=emissions.float() * inside.unsqueeze(-1),
            lengths=lengths,
            # Copies: DistributedDataParallel takes a bare parameter among the outputs for one without a gradient.
            transitions=self.crf.transitions.clone(),
            start_transitions=self.crf.start_transitions.clone(),
            end_transitions=self.crf.end_transitions.clone(),
            hidden_states=getattr(encoded, "hidden_states", None),
            attentions=getattr(encoded, "attentions", None),
        )

    def gold_nll(self, output: CRFTokenClassifierOutput, labels: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's -log p(gold tags) in nats (0 where unlabelled), (batch,), and the labelled words, ()."""
        statistics, counted = gold_statistics(labels, word_mask, self.config.num_labels)
        return self.distribution(output, "train").cross_entropy(statistics), counted

    @torch.no_grad()
    def decode(
        self, output: CRFTokenClassifierOutput, attention_mask: Tensor, word_mask: Tensor, as_bio: bool = False
    ) -> tuple[Tensor, Tensor]:
        """`logits` and `tags` as [`CRFTokenClassifierOutput`] defines them.

        Args:
            as_bio: whether BIOES `logits` speak in B- and I- only, see [`TagScheme`]'s `bio_reading`.
        """
        scheme, distribution = self.tag_scheme, self.distribution(output, "decode")
        best, _ = distribution.argmax()
        log_marginals, chosen = distribution.log_marginals.float().clamp(min=LOG_ZERO), best.clamp(min=0)
        if as_bio and scheme.name == "BIOES":
            reading = torch.tensor(scheme.bio_reading, device=best.device)
            log_marginals, chosen = merge_tags(log_marginals, reading), reading[chosen]
        continuation = torch.tensor(scheme.continuation, device=best.device)
        later = led_by(merge_tags(log_marginals, continuation), continuation[chosen])
        logits = spread(led_by(log_marginals, chosen), attention_mask, word_mask, later)
        tags = torch.full(word_mask.shape, IGNORED, dtype=torch.long, device=word_mask.device)
        tags[word_mask] = best[torch.arange(best.shape[1], device=best.device) < output.lengths[:, None]]
        return logits, tags
