"""Teachers that are token-classification checkpoints, with a CRF or a softmax head, and a tokenizer of their own."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from ..files import model_named
from ..modeling.configuration import label_names as labels_of
from ..modeling.configuration import refuse_oversized
from ..modeling.crf_head import CRFHeadMixin, compact
from ..modeling.crf_reference import Scores
from ..modeling.windows import encode_in_windows, encoder_window
from ..modeling.words import pad_subwords, tokenize_words
from .base import TagTeacher, TeacherScores, update_with_weights
from .label_map import LabelMap

# Fields of a configuration that do not change the answers.
_IRRELEVANT_FIELDS = (
    *("_name_or_path", "_commit_hash", "transformers_version", "architectures", "auto_map", "dtype", "torch_dtype"),
    *("id2label", "label2id", "languages"),
)


class Teacher(TagTeacher):
    """A transformers checkpoint as a teacher.

    Args:
        model: any `AutoModelForTokenClassification`. A model with a [`CRFHeadMixin`] answers with its CRF; any other
            with the softmax of its logits on each word's first subword, which is a CRF without transitions.
        tokenizer: the model's fast tokenizer; it may differ from the student's.
        label_map, temperature: as for [`TagTeacher`].
        scheme: of its labels; where `None`, the scheme of the model's configuration, else inferred.
        name: for messages, the record and the card; the checkpoint's name where `None`.
        revision: the version of the teacher; a hash of weights, labels and tokenizer where `None`.

    Raises:
        TypeError: if it is no transformers model, or no fast tokenizer.
        ValueError: if the label map names a label or type that the teacher lacks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        *,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
        name: str | None = None,
        revision: str | None = None,
    ) -> None:
        if not isinstance(model, PreTrainedModel) or not getattr(tokenizer, "is_fast", False):
            raise TypeError(
                f"a Teacher is made of a transformers model and its fast tokenizer, not of {type(model).__name__} and "
                f"{type(tokenizer).__name__}; Teacher.from_pretrained loads both from a folder or the Hub"
            )
        super().__init__(
            labels_of(model.config),
            name=name or getattr(model, "name_or_path", "") or type(model).__name__,
            label_map=label_map,
            scheme=scheme or getattr(model.config, "tag_scheme", None),
            temperature=temperature,
        )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._revision = revision

    @classmethod
    def from_pretrained(
        cls,
        model_id_or_path: str,
        *,
        revision: str | None = None,
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
        trust_remote_code: bool = False,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> "Teacher":
        """Load a checkpoint from the Hub or a folder, in float32 unless `dtype` says otherwise.

        Args:
            model_id_or_path, revision, trust_remote_code: as for `AutoModelForTokenClassification`.
            label_map, scheme, temperature: see the class.
            device: on which it runs; the CPU where `None`.
            kwargs: for the model's `from_pretrained`.

        Returns:
            The teacher, with the Hub's commit for a revision.

        Raises:
            OSError: if there is no such checkpoint.
            ValueError: if it is damaged, or no trained tagger, and would teach noise: weights are missing, left over
                or not finite, its scores exclude all tag sequences, the tokenizer has more pieces than the model has
                embeddings, or a file cannot be read.
        """
        kwargs.setdefault("dtype", torch.float32)
        common = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
        try:
            with model_named(model_id_or_path, revision):
                fields, _ = PreTrainedConfig.get_config_dict(model_id_or_path, revision=revision or "main")
                refuse_oversized(fields, model_id_or_path)
                model, loading_info = AutoModelForTokenClassification.from_pretrained(
                    model_id_or_path, output_loading_info=True, **common, **kwargs
                )
                tokenizer = AutoTokenizer.from_pretrained(model_id_or_path, **common)
                check_soundness(model, tokenizer, loading_info, str(model_id_or_path))
        except Exception as error:  # a damaged file: SafetensorError, RuntimeError, KeyError, AttributeError, ...
            if isinstance(error, OSError | ImportError) or str(model_id_or_path) in str(error):
                raise
            reason = f"{type(error).__name__}: {error}".strip()
            raise ValueError(f"{model_id_or_path} cannot be loaded; it may be damaged ({reason})") from error
        commit = getattr(model.config, "_commit_hash", None)
        reading: dict[str, Any] = {"label_map": label_map, "scheme": scheme, "temperature": temperature}
        return cls(model.to(device or "cpu"), tokenizer, name=str(model_id_or_path), revision=commit, **reading)

    @property
    def glued_words(self) -> bool:
        """Whether the model reads words that follow their neighbour without a blank as running text."""
        return bool(getattr(self.model.config, "glued_words", False))

    @property
    def revision(self) -> str:
        """A Hub commit, or a hash of the weights as they are now, the labels and the tokenizer."""
        return self._revision or self._hash()[:40]

    def _hash(self) -> str:
        digest = hashlib.sha256(json.dumps([self._mapped, _tokenization(self.tokenizer)]).encode())
        update_with_weights(digest, self.model)
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """As for [`TagTeacher`], but without the name: the same weights are the same teacher, wherever they lie."""
        fields = json.loads(json.dumps(self.model.config.to_diff_dict(), default=str))
        return {
            **{key: value for key, value in super().identity().items() if key != "name"},
            "model": type(self.model).__name__,
            "config": {key: value for key, value in sorted(fields.items()) if key not in _IRRELEVANT_FIELDS},
            # The weights may have changed in this process since a Hub commit, or the user's revision, was recorded.
            **({"weights": self._hash()} if self._revision else {}),
            **self._changed_since(),
        }

    def _changed_since(self) -> dict[str, Any]:
        """What else makes its answers, where it is not what follows from the rest of `identity`."""
        constrained_by, unknown = labels_of(self.model.config), self.tokenizer.unk_token
        return {
            **({"config.id2label": constrained_by} if constrained_by != self.unmapped_labels else {}),
            # Stands for words without a single piece; most tokenizers' models name the same one.
            **({"unk_token": unknown} if unknown != _unknown_piece(self.tokenizer) else {}),
        }

    def settings(self) -> dict[str, Any]:
        if self.model.dtype == torch.float32:
            return super().settings()
        # The precision is not part of a Hub commit.
        return {**super().settings(), "dtype": str(self.model.dtype).removeprefix("torch.")}

    def chain_scores(self, sentences: Sequence[Sequence[str]]) -> TeacherScores:
        with evaluation_mode(self.model):
            return self._evaluated_scores(sentences)

    def _evaluated_scores(self, sentences: Sequence[Sequence[str]]) -> TeacherScores:
        encoded = tokenize_words(sentences, self.tokenizer, self.glued_words)
        padded = pad_subwords(encoded, self.tokenizer.pad_token_id)
        batch = {name: values.to(self.model.device) for name, values in padded.items()}
        words = batch["word_mask"].bool()
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        if isinstance(self.model, CRFHeadMixin):
            output = self.model.word_scores(batch["input_ids"], batch["attention_mask"], words)
            scores = Scores(output.emissions, output.transitions, output.start_transitions, output.end_transitions)
            return TeacherScores(scores, lengths, self.model.constraints("decode", output.emissions.device))
        emissions = compact(self._logits(batch["input_ids"], batch["attention_mask"]), words)
        emissions = emissions.float().log_softmax(dim=-1)
        zeros = emissions.new_zeros(emissions.shape[-1])
        scores = Scores(emissions, zeros.expand(len(zeros), -1), zeros, zeros)
        return TeacherScores(scores, lengths, {})

    def _logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        window = encoder_window(self.model)
        if window is None or input_ids.shape[1] <= window:
            return self.model(input_ids, attention_mask=attention_mask).logits
        return encode_in_windows(
            lambda ids, mask: self.model(ids, attention_mask=mask).logits,
            input_ids,
            attention_mask,
            window=window,
            pad_token_id=self.tokenizer.pad_token_id or 0,
        )


def _unknown_piece(tokenizer: Any) -> str | None:
    """The piece that a fast tokenizer's own model gives to what it does not know."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model.get("unk_token") is not None or model.get("unk_id") is None:
        return model.get("unk_token")
    return model["vocab"][model["unk_id"]][0]


def _tokenization(tokenizer: Any) -> str:
    """The tokenizer as it was loaded, as JSON: without the truncation and padding that calls leave behind in it."""
    copied = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copied.no_truncation()
    copied.no_padding()
    return copied.to_str()


# Weights that a trained tagger may have left over: heads of its encoder's pretraining, and buffers of older releases.
_HARMLESS = re.compile(
    r"(^|\.)(pooler|lm_head|cls\.predictions|cls\.seq_relationship|vocab_transform|vocab_layer_norm|vocab_projector"
    r"|lm_predictions|mask_predictions|discriminator_predictions|generator_predictions"
    r"|position_ids|token_type_ids|inv_freq)(\.|$)"
)
_LONGEST = 2048  # words, up to which a checkpoint must have tag sequences for every length
_SET_LATER = {"word_starts.pieces"}  # a model may get its word-start pieces after loading


def check_soundness(model: PreTrainedModel, tokenizer: Any, loading_info: Mapping[str, Any], name: str) -> None:
    """Refuse a checkpoint whose loaded model cannot be the trained one.

    Args:
        model: as it was loaded.
        tokenizer: the model's.
        loading_info: as `from_pretrained(..., output_loading_info=True)` returns it.
        name: of the checkpoint, for messages.

    Raises:
        ValueError: if weights are missing, left over or not finite, the scores exclude all tag sequences, or the
            tokenizer has more pieces than the model has embeddings.
    """
    if missing := sorted(set(loading_info["missing_keys"]) - _SET_LATER):
        raise ValueError(f"{name} lacks the weights {_abbreviated(missing)}: no trained tagger, or not all of one")
    if left := sorted(key for key in loading_info["unexpected_keys"] if not _HARMLESS.search(key)):
        raise ValueError(
            f"{name} holds weights that its configuration has no place for, {_abbreviated(left)}: its config.json is "
            "not the one that it was trained with, or it is no tagger of this kind. If it is right, load model and "
            "tokenizer yourself and give Teacher(model, tokenizer)"
        )
    scores = {id(parameter) for parameter in model.crf.parameters()} if isinstance(model, CRFHeadMixin) else set()
    for key, weight in model.named_parameters():
        excluded = (weight == -torch.inf) if id(weight) in scores else torch.zeros_like(weight, dtype=torch.bool)
        if not bool((weight.isfinite() | excluded).all()):
            raise ValueError(f"{name} is damaged: its weight {key} holds NaN or infinite numbers")
    if isinstance(model, CRFHeadMixin):
        _check_possible_lengths(model, name)
    embeddings: Any = model.get_input_embeddings()
    pieces, rows = max(tokenizer.get_vocab().values()) + 1, len(embeddings.weight)
    if pieces > rows:
        raise ValueError(
            f"{name} has a tokenizer with {pieces:,} pieces and embeddings for {rows:,}: they do not belong together"
        )


@torch.no_grad()
def _check_possible_lengths(model: CRFHeadMixin, name: str) -> None:
    """Scores of -inf exclude tag sequences; sentences of every length must have possible ones."""
    crf = model.crf
    masks = model.constraints("decode", crf.transitions.device)
    allowed = {}
    for mask, parameter in (("allowed", "transitions"), ("allowed_start", "start"), ("allowed_end", "end")):
        score = getattr(crf, parameter if parameter == "transitions" else f"{parameter}_transitions")
        allowed[mask] = (score > -torch.inf) & masks.get(mask, torch.ones_like(score, dtype=torch.bool))
    possible, visited = allowed["allowed_start"], set()
    # The possible tags of a word follow from those of the word before: a set that occurs again decides all later ones.
    # Cycles of transitions may delay this up to the least common multiple of their lengths, hence the bound.
    for words in range(1, _LONGEST + 1):
        if (key := tuple(possible.tolist())) in visited:
            return
        visited.add(key)
        if not bool((possible & allowed["allowed_end"]).any()):
            raise ValueError(
                f"{name} is damaged: its transition, start and end scores exclude all tag sequences of {words} word(s)"
            )
        possible = (possible[:, None] & allowed["allowed"]).any(dim=0)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put all modules of a model into evaluation mode, without dropout, and restore their modes afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _abbreviated(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
