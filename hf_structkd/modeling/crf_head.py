"""The head that turns an encoder into a word-level linear-chain CRF tagger.

Public tensors have Hugging Face's shapes, `(batch, subwords)` with -100 off the words. Inside, the words of each row
are compacted to the front, `(batch, words, ...)` plus `lengths`, so that masks with holes cannot occur.
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
from .layers import CRFParameters, WordLSTM, initial_lstm_values
from .tag_scheme import IGNORED, TagScheme
from .windows import content_mask, encode_in_windows, encoder_window
from .word_tensors import (
    LOG_ZERO,
    cap_below_chosen,
    compact,
    gold_statistics,
    mean_over_subwords,
    merge_tags,
    refuse_partial_labels,
    spread,
)
from .words import WordStarts, refuse_bare_tokenizer, word_start_pieces


@dataclass
class CRFTokenClassifierOutput(ModelOutput):
    """The output of a model with a [`~.crf_head.CRFHeadMixin`].

    Args:
        loss: (), the negative log-likelihood of the gold tags, nats per word, or divided by `num_items_in_batch`.
        logits: (batch, subwords, tags), nats, zero off the words. In eval mode the log-marginals of a word on each of
            its subwords, capped so that the Viterbi tag is the largest; continuation subwords carry the continuation
            tag (B-X becomes I-X); where neither labels nor a word mask are given, BIOES tags are written in B- and I-,
            as the stock pipeline needs them. In training mode, or with `decode=False`, the emissions.
        tags: (batch, subwords), the Viterbi tags, -100 off the first subword of each word; `None` where not decoded.
        emissions: (batch, words, tags), nats, words compacted; zero beyond a row's words.
        lengths: (batch,), words per row.
        transitions, start_transitions, end_transitions: (tags, tags) [from, to], (tags,), (tags,), the CRF's scores,
            nats; part of the output so that a loss on them passes through the forward of a (possibly wrapped) model.
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


_GLUED = (
    "this model has glued_words: pieces do not tell where its words start, because no blank stands before some of "
    "them. Pass word_mask, as tokenize_words gives it, or use the pipeline 'crf-token-classification'"
)
HEAD_KEYS = [r"^(classifier|crf|lstm|word_starts)\."]  # the weights of a checkpoint that are not the encoder's


class CRFHeadMixin:
    """A linear-chain CRF over the words of an encoder; list it before the encoder's `PreTrainedModel`.

    The class of a family sets its encoder as the attribute that `base_model_prefix` names, calls `add_crf_head()` and
    then `post_init()`. The words of a batch come from `word_mask` where it is given, else from `labels`, else from the
    tokenizer's word-starting pieces stored with the model (`set_word_starts`).
    """

    config: Any
    base_model: Any
    training: bool
    _keep_in_fp32_modules_strict: Any = None  # set per model, to the modules that it has
    encoder_class: Any  # the class that `AutoModel` builds from a checkpoint
    ambiguous_word_starts = False  # whether the tokenizer's pieces that start words also occur inside words

    def add_crf_head(self) -> None:
        """Build the layers of the head from the configuration."""
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
        # transformers 5 leaves all that a checkpoint lacks as uninitialised memory, buffers included.
        super()._init_weights(module)  # type: ignore[misc]
        if isinstance(module, CRFParameters):
            init.zeros_(module.transitions)
            init.zeros_(module.start_transitions)
            init.zeros_(module.end_transitions)
        elif isinstance(module, WordStarts):
            init.zeros_(module.pieces)
        elif isinstance(module, nn.LSTM):
            for name, value in initial_lstm_values(module).items():
                init.copy_(module.get_parameter(name), value)

    def freeze_encoder(self, frozen: bool = True) -> None:
        """Train the head alone; the encoder keeps its weights and runs without dropout.

        Args:
            frozen: saved with the configuration; False trains the encoder again.
        """
        self.config.freeze_encoder = frozen
        self.base_model.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)  # type: ignore[misc]
        if self.config.freeze_encoder:
            # Here, not in the constructor: from_pretrained replaces the parameters, then calls eval().
            self.base_model.requires_grad_(False)
            self.base_model.eval()
        return self

    @property
    def tag_scheme(self) -> TagScheme:
        """The tags, in the order of the label ids, and what their scheme allows; follows the configuration."""
        arguments = tuple(label_names(self.config)), self.config.tag_scheme
        if self._scheme is None or self._scheme[0] != arguments:
            self._scheme = arguments, TagScheme(*arguments)
        return self._scheme[1]

    def set_word_starts(self, tokenizer: Any) -> None:
        """Store which of the tokenizer's pieces start a word; saved with the weights.

        Args:
            tokenizer: the model's fast tokenizer.

        Raises:
            ValueError: if the pieces cannot be told, see [`word_start_pieces`], the tokenizer adds no special
                tokens, or the model has `glued_words`, whose first pieces carry no mark.
        """
        if self.config.glued_words:
            raise ValueError(_GLUED)
        refuse_bare_tokenizer(tokenizer)
        pieces = word_start_pieces(tokenizer, self.config.vocab_size)
        self.word_starts.pieces.copy_(pieces)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; added pieces do not start words until `set_word_starts` is called again."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)  # type: ignore[misc]
        old = self.word_starts.pieces
        new = torch.zeros(self.config.vocab_size, dtype=torch.bool, device=old.device)
        count = min(len(old), len(new))
        new[:count] = old[:count]
        self.word_starts.pieces = new
        return embeddings

    def constraints(self, mode: str, device: torch.device) -> dict[str, Tensor]:
        """The structural zeros as arguments of [`LinearChainCRF`].

        Args:
            mode: the use of the distribution, `"decode"` or `"train"`.
            device: of the masks.

        Returns:
            The masks of [`TagScheme`]; empty where `crf_constraints` excludes this mode.
        """
        constraints = self.config.crf_constraints
        if constraints == "none" or (constraints == "decode" and mode == "train"):
            return {}
        # Not a buffer: the masks follow from the labels, and a buffer that a checkpoint lacks would be garbage.
        return self.tag_scheme.masks(device)

    def distribution(self, output: CRFTokenClassifierOutput, mode: str) -> LinearChainCRF:
        """The tag distribution of each row of an output.

        Args:
            output: of this model or of a wrapped copy. A row without words counts as a row of one word with zero
                emissions: give it statistics of mass 0.
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
        """The first subword of every word.

        Args:
            input_ids, attention_mask, labels, word_mask: (batch, subwords) as in `forward`; all but the attention mask
                may be `None`.

        Returns:
            (batch, subwords), boolean.

        Raises:
            ValueError: if nothing tells where words start, or a row has labels on some of its words only.
        """
        if word_mask is not None:
            return word_mask.bool() & attention_mask.bool()
        if labels is not None:
            words = labels != IGNORED
            if input_ids is not None and not self.ambiguous_word_starts:
                refuse_partial_labels(words, self.word_starts.pieces[input_ids] & content_mask(attention_mask))
            return words
        if input_ids is None:
            raise ValueError(
                "inputs_embeds do not tell where words start, the pieces of input_ids would: pass word_mask "
                "(True on the first subword of each word)"
            )
        if self.config.glued_words:
            raise ValueError(_GLUED)
        if not bool(self.word_starts.pieces.any()):
            raise ValueError(
                "this model cannot tell where words start: pass word_mask (True on the first subword of each word), "
                "or call model.set_word_starts(tokenizer) once before saving it"
            )
        inside = content_mask(attention_mask)
        first = inside & (inside.cumsum(dim=1) == 1)  # the first piece of a text starts a word, marked or not
        return (self.word_starts.pieces[input_ids] & inside) | first

    def encode(self, input_ids, attention_mask, **kwargs: Any) -> tuple[Tensor, Any]:
        """Encode all subwords, in overlapping windows where the rows are longer than the encoder's window.

        Returns:
            The vectors (batch, subwords, hidden) and the encoder's output.
        """
        if not getattr(self.config, "type_vocab_size", 0):
            kwargs.pop("token_type_ids", None)  # some tokenizers make them for every encoder
        window = encoder_window(self)
        inputs = input_ids if input_ids is not None else kwargs["inputs_embeds"]
        if window is None or inputs.shape[1] <= window:
            outputs = self.base_model(input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
            return outputs.last_hidden_state, outputs
        return self._encode_long(input_ids, attention_mask, window, **kwargs)

    def _encode_long(self, input_ids, attention_mask, window: int, **kwargs: Any) -> tuple[Tensor, BaseModelOutput]:
        if unsupported := [name for name in ("inputs_embeds", "position_ids") if name in kwargs]:
            raise ValueError(
                f"a text longer than the encoder's window of {window} subwords is cut into windows, each with "
                f"positions of its own: give input_ids, not {' and '.join(unsupported)}"
            )
        if kwargs.pop("output_attentions", None) or getattr(self.config, "output_attentions", False):
            raise ValueError(f"there are no attentions over a text longer than the encoder's window of {window}")
        all_layers = kwargs.pop("output_hidden_states", None)
        all_layers = getattr(self.config, "output_hidden_states", False) if all_layers is None else all_layers
        token_types = {name: kwargs.pop(name) for name in ("token_type_ids",) if name in kwargs}

        def encode_window(ids: Tensor, mask: Tensor, **extra: Tensor) -> Tensor:
            outputs = self.base_model(
                ids, attention_mask=mask, return_dict=True, output_hidden_states=all_layers, **extra, **kwargs
            )
            layers = (*outputs.hidden_states, outputs.last_hidden_state) if all_layers else ()
            return torch.cat(layers, dim=-1) if layers else outputs.last_hidden_state

        vectors = encode_in_windows(
            encode_window,
            input_ids,
            attention_mask,
            window=window,
            overlap=self.config.window_overlap,
            pad_token_id=self.config.pad_token_id or 0,
            training=self.training,
            extra_inputs=token_types,
        )
        *layers, last = vectors.split(self.config.hidden_size, dim=-1)
        return last, BaseModelOutput(last_hidden_state=last, hidden_states=tuple(layers) or None)

    def pool_words(self, vectors: Tensor, attention_mask: Tensor, word_mask: Tensor) -> Tensor:
        """One vector per word, compacted: (batch, words, hidden), pooled by the configuration's `word_pooling`."""
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
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds: (batch, subwords), the last with
                (..., hidden), as for the encoder.
            labels: (batch, subwords), tag ids on the first subword of each word, -100 elsewhere; a row of -100 alone
                is unlabelled and adds nothing to the loss.
            word_mask: (batch, subwords), True on the first subword of each word.
            num_items_in_batch: divisor of the summed loss; `None`: the number of labelled words in the batch.
            return_dict: False for a tuple.
            decode: whether to decode in eval mode; without it `logits` are the emissions and `tags` are `None`, for
                callers who use the `distribution` themselves.

        Returns:
            A [`CRFTokenClassifierOutput`].

        Raises:
            ValueError: if nothing tells where words start, or a row has labels on some of its words only. Without
                word_mask the latter is detected where the pieces of `set_word_starts` are unambiguous. BERT's are not
                (they also start at punctuation inside words): there -100 means that no word starts.
        """
        if attention_mask is None:
            inputs = input_ids if input_ids is not None else inputs_embeds
            if inputs is None:
                raise ValueError("give input_ids or inputs_embeds")
            attention_mask = torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device)
        encoder_inputs = {
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        kwargs.update({name: value for name, value in encoder_inputs.items() if value is not None})
        as_bio = labels is None and word_mask is None
        word_mask = self.find_words(input_ids, attention_mask, labels, word_mask)
        output = self.word_scores(input_ids, attention_mask, word_mask, **kwargs)
        if labels is not None:
            nll, labelled = self.gold_nll(output, labels, word_mask)
            # By item: before transformers 5.3, setting the attribute adds no key for a field that was None.
            output["loss"] = nll.sum() / (labelled.clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        if self.training or not decode:
            output["logits"] = spread(output.emissions, attention_mask, word_mask)
        else:
            # A caller who passes labels or a word mask reads the model's tags; the stock pipeline passes neither, and
            # reads B- and I- only.
            decoded = self.decode(output, attention_mask, word_mask, as_bio=as_bio)
            output["logits"], output["tags"] = decoded
        return output if return_dict is None or return_dict else output.to_tuple()

    def word_scores(self, input_ids, attention_mask, word_mask: Tensor, **kwargs: Any) -> CRFTokenClassifierOutput:
        """Emissions of the words and the scores of the CRF, not decoded.

        Args:
            input_ids, attention_mask: (batch, subwords), as in `forward`.
            word_mask: (batch, subwords), boolean, see `find_words`.
            kwargs: the encoder's other inputs.
        """
        vectors, encoded = self.encode(input_ids, attention_mask, **kwargs)
        lengths = word_mask.sum(dim=1)
        words = self.dropout(self.pool_words(vectors, attention_mask, word_mask))
        if self.lstm is not None:
            words = self.dropout(self.lstm(words, lengths)).to(self.classifier.weight.dtype)
        inside = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
        with torch.autocast(words.device.type, enabled=False):  # autocast would round emissions until tags tie
            weights = self.classifier.weight.dtype
            emissions = self.classifier(words.to(weights) if weights.is_floating_point else words)
        return CRFTokenClassifierOutput(
            emissions=emissions.float() * inside.unsqueeze(-1),
            lengths=lengths,
            # Copies: DistributedDataParallel would take a parameter among the outputs for one without a gradient.
            transitions=self.crf.transitions.clone(),
            start_transitions=self.crf.start_transitions.clone(),
            end_transitions=self.crf.end_transitions.clone(),
            hidden_states=getattr(encoded, "hidden_states", None),
            attentions=getattr(encoded, "attentions", None),
        )

    def gold_nll(self, output: CRFTokenClassifierOutput, labels: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The negative log-likelihood of the gold tags.

        Args:
            output: of this model.
            labels: (batch, subwords), as in `forward`.
            word_mask: (batch, subwords), boolean, see `find_words`.

        Returns:
            -log p(gold tags) of each row, (batch,), nats, 0 where unlabelled; the number of labelled words, ().

        Raises:
            ValueError: if a row has labels on some of its words only.
        """
        statistics, labelled = gold_statistics(labels, word_mask, self.config.num_labels)
        return self.distribution(output, "train").cross_entropy(statistics), labelled

    @torch.no_grad()
    def decode(
        self, output: CRFTokenClassifierOutput, attention_mask: Tensor, word_mask: Tensor, as_bio: bool = False
    ) -> tuple[Tensor, Tensor]:
        """`logits` and `tags` as [`CRFTokenClassifierOutput`] defines them.

        Args:
            output: of this model.
            attention_mask, word_mask: (batch, subwords), the second boolean.
            as_bio: whether BIOES `logits` are written in B- and I- only, see `bio_reading` of [`TagScheme`].
        """
        scheme, distribution = self.tag_scheme, self.distribution(output, "decode")
        best = distribution.decode()
        log_marginals, chosen = distribution.log_marginals.float().clamp(min=LOG_ZERO), best.clamp(min=0)
        if as_bio and scheme.name == "BIOES":
            reading = torch.tensor(scheme.bio_reading, device=best.device)
            log_marginals, chosen = merge_tags(log_marginals, reading), reading[chosen]
        continuation = torch.tensor(scheme.continuation, device=best.device)
        later = cap_below_chosen(merge_tags(log_marginals, continuation), continuation[chosen])
        logits = spread(cap_below_chosen(log_marginals, chosen), attention_mask, word_mask, later)
        tags = torch.full(word_mask.shape, IGNORED, dtype=torch.long, device=word_mask.device)
        tags[word_mask] = best[torch.arange(best.shape[1], device=best.device) < output.lengths[:, None]]
        return logits, tags
