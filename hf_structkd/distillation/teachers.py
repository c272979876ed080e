"""Teachers: token-classification checkpoints, with a CRF or a softmax head, each with its own tokenizer."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel

from ..data.words import tokenize_words
from ..modeling.configuration import label_names as labels_of
from ..modeling.crf_head import CRFHeadMixin, compact
from ..modeling.linear_chain import LinearChainCRF
from ..modeling.windows import encode_in_windows, encoder_window


def batches_of_like_length(sentences: Sequence[Sequence[str]], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches, longest sentences first: less padding, and the peak of memory comes first."""
    rows = sorted(range(len(sentences)), key=lambda row: len(sentences[row]), reverse=True)
    for start in range(0, len(rows), batch_size):
        yield rows[start : start + batch_size]


class Teacher:
    """A tagger that is asked for its distribution over the tag sequences of a sentence.

    Args:
        model: any `AutoModelForTokenClassification`. One with a [`CRFHeadMixin`] answers with its CRF; any other with
            the softmax of its logits on each word's first subword, which is a CRF without transitions.
        tokenizer: the model's own fast tokenizer; it need not be the student's.
        label_map: teacher label -> student label, for labels that are only named differently.
        name: for messages, the cache and the card; the checkpoint's name where `None`.
        revision: what tells this teacher from an earlier one; a hash of weights, labels and tokenizer where `None`.

    Raises:
        ValueError: if the label map names a label the teacher lacks, or gives two labels one name.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        *,
        label_map: Mapping[str, str] | None = None,
        name: str | None = None,
        revision: str | None = None,
    ) -> None:
        own = labels_of(model.config)
        label_map = dict(label_map or {})
        self.name = name or getattr(model, "name_or_path", "") or type(model).__name__
        if unknown := sorted(set(label_map) - set(own)):
            raise ValueError(f"label_map of teacher {self.name}: it has no label {unknown}; it has {own}")
        self.labels = [label_map.get(label, label) for label in own]
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"label_map of teacher {self.name} gives one name to several labels: {self.labels}")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._revision = revision

    @classmethod
    def from_pretrained(
        cls,
        model_id_or_path: str,
        *,
        revision: str | None = None,
        label_map: Mapping[str, str] | None = None,
        trust_remote_code: bool = False,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> "Teacher":
        """Load a checkpoint from the Hub or a folder, in float32 unless `dtype` says otherwise.

        Args:
            model_id_or_path, revision, trust_remote_code: as for `AutoModelForTokenClassification`.
            label_map: see the class.
            device: where it runs; the CPU where `None`.
            kwargs: for the model's `from_pretrained`.
        """
        kwargs.setdefault("dtype", torch.float32)
        common = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
        model = AutoModelForTokenClassification.from_pretrained(model_id_or_path, **common, **kwargs)
        tokenizer = AutoTokenizer.from_pretrained(model_id_or_path, **common)
        commit = getattr(model.config, "_commit_hash", None)
        return cls(model.to(device or "cpu"), tokenizer, label_map=label_map, name=model_id_or_path, revision=commit)

    @cached_property
    def revision(self) -> str:
        """A Hub commit, or a hash of the weights, the labels and the tokenizer."""
        if self._revision:
            return self._revision
        digest = hashlib.sha256(json.dumps([self.labels, self.tokenizer.backend_tokenizer.to_str()]).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else b""
            )
        return digest.hexdigest()[:40]

    def label_order(self, label_names: Sequence[str]) -> list[int]:
        """For each student label the index of the teacher's. Raises ValueError, naming what differs."""
        missing = [label for label in label_names if label not in self.labels]
        extra = [label for label in self.labels if label not in label_names]
        if missing or extra:
            raise ValueError(
                f"the labels of teacher {self.name} and of the student differ: the teacher lacks {missing or 'none'}, "
                f"and has {extra or 'none'} beyond the student's. Give the teacher a label_map from its names to the "
                "student's, or train one with the student's labels"
            )
        return [self.labels.index(label) for label in label_names]

    @torch.inference_mode()
    def distribution(self, sentences: Sequence[Sequence[str]], label_names: Sequence[str]) -> LinearChainCRF:
        """The teacher's distribution over the tag sequences of each sentence, in the student's label order.

        Args:
            sentences: lists of words, of any length.
            label_names: the student's labels.

        Raises:
            ValueError: if the label sets differ.
        """
        order = torch.tensor(self.label_order(label_names), device=self.model.device)
        encoded = tokenize_words(sentences, self.tokenizer)
        batch = self._pad(encoded)
        if isinstance(self.model, CRFHeadMixin):
            return self._crf(batch, order)
        emissions = compact(self._logits(batch["input_ids"], batch["attention_mask"]), batch["word_mask"].bool())
        transitions = torch.zeros(len(order), len(order), device=emissions.device)
        lengths = batch["word_mask"].sum(dim=1)
        return LinearChainCRF(emissions.float().log_softmax(dim=-1)[..., order], transitions, lengths=lengths)

    def tag(
        self, sentences: Sequence[Sequence[str]], label_names: Sequence[str] | None = None, *, batch_size: int = 64
    ) -> list[list[str]]:
        """The best tag sequence of each sentence, as names.

        Args:
            sentences: lists of words, of any length.
            label_names: the labels wanted; the teacher's own by default.
            batch_size: sentences a forward pass; sentences of like length go together.

        Raises:
            ValueError: if the label sets differ.
        """
        labels = list(label_names) if label_names is not None else self.labels
        tagged: list[list[str]] = [[] for _ in sentences]
        for rows in batches_of_like_length(sentences, batch_size):
            tags, _ = self.distribution([sentences[row] for row in rows], labels).argmax()
            for row, path in zip(rows, tags.tolist()):
                tagged[row] = [labels[tag] for tag in path[: len(sentences[row])]]
        return tagged

    def _pad(self, encoded: Mapping[str, list[list[int]]]) -> dict[str, Tensor]:
        width = max(len(row) for row in encoded["input_ids"])
        padding = {"input_ids": self.tokenizer.pad_token_id or 0, "attention_mask": 0, "word_mask": 0}
        return {
            name: torch.tensor([row + [fill] * (width - len(row)) for row in encoded[name]], device=self.model.device)
            for name, fill in padding.items()
        }

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

    def _crf(self, batch: Mapping[str, Tensor], order: Tensor) -> LinearChainCRF:
        scores = self.model.word_scores(batch["input_ids"], batch["attention_mask"], batch["word_mask"].bool())
        masks = self.model.constraints("decode", scores.emissions.device)
        return LinearChainCRF(
            scores.emissions[..., order],
            scores.transitions[order][:, order],
            scores.start_transitions[order],
            scores.end_transitions[order],
            lengths=scores.lengths.clamp(min=1),
            **{name: mask[order][:, order] if mask.dim() == 2 else mask[order] for name, mask in masks.items()},
        )
