"""Teachers that are token-classification checkpoints, with a CRF or a softmax head, each with its own tokenizer."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForTokenClassification, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from ..modeling.configuration import label_names as labels_of
from ..modeling.configuration import refuse_oversized
from ..modeling.crf_head import CRFHeadMixin, compact
from ..modeling.log_space import Scores
from ..modeling.subwords import tokenize_words
from ..modeling.windows import encode_in_windows, encoder_window
from .label_maps import LabelMap
from .tag_teacher import TagTeacher, TeacherScores


class Teacher(TagTeacher):
    """A transformers checkpoint as a teacher.

    Args:
        model: any `AutoModelForTokenClassification`. One with a [`CRFHeadMixin`] answers with its CRF; any other with
            the softmax of its logits on each word's first subword, which is a CRF without transitions.
        tokenizer: the model's own fast tokenizer; it need not be the student's.
        label_map, temperature: as for [`TagTeacher`].
        scheme: of its labels; the model's configuration's, else inferred, where `None`.
        name: for messages, the record and the card; the checkpoint's name where `None`.
        revision: what tells this teacher from an earlier one; a hash of weights, labels and tokenizer where `None`.

    Raises:
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
            device: where it runs; the CPU where `None`.
            kwargs: for the model's `from_pretrained`.

        Raises:
            OSError: if there is no such checkpoint.
            ValueError: if weights are missing: a plain encoder, or a damaged tagger, would teach noise.
        """
        kwargs.setdefault("dtype", torch.float32)
        common = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
        fields, _ = PreTrainedConfig.get_config_dict(model_id_or_path, revision=revision or "main")
        refuse_oversized(fields, model_id_or_path)
        model, found = AutoModelForTokenClassification.from_pretrained(
            model_id_or_path, output_loading_info=True, **common, **kwargs
        )
        if missing := sorted(set(found["missing_keys"]) - {"word_starts.pieces"}):  # told which words there are
            raise ValueError(
                f"{model_id_or_path} lacks the weights {', '.join(missing)}: no trained tagger, or not all of one"
            )
        tokenizer = AutoTokenizer.from_pretrained(model_id_or_path, **common)
        commit = getattr(model.config, "_commit_hash", None)
        reading: dict[str, Any] = {"label_map": label_map, "scheme": scheme, "temperature": temperature}
        return cls(model.to(device or "cpu"), tokenizer, name=model_id_or_path, revision=commit, **reading)

    @cached_property
    def revision(self) -> str:
        """A Hub commit, or a hash of the weights, the labels and the tokenizer."""
        if self._revision:
            return self._revision
        digest = hashlib.sha256(json.dumps([self._mapped, self.tokenizer.backend_tokenizer.to_str()]).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else b""
            )
        return digest.hexdigest()[:40]

    def settings(self) -> dict[str, Any]:
        if self.model.dtype == torch.float32:
            return super().settings()
        # a Hub commit does not say it
        return {**super().settings(), "dtype": str(self.model.dtype).removeprefix("torch.")}

    def own_scores(self, sentences: Sequence[Sequence[str]]) -> TeacherScores:
        batch = self._pad(tokenize_words(sentences, self.tokenizer))
        words = batch["word_mask"].bool()
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        if isinstance(self.model, CRFHeadMixin):
            output = self.model.word_scores(batch["input_ids"], batch["attention_mask"], words)
            scores = Scores(output.emissions, output.transitions, output.start_transitions, output.end_transitions)
            return TeacherScores(scores, lengths, self.model.constraints("decode", output.emissions.device))
        emissions = compact(self._logits(batch["input_ids"], batch["attention_mask"]), words)
        emissions = emissions.float().log_softmax(dim=-1)
        none = emissions.new_zeros(emissions.shape[-1])
        scores = Scores(emissions, none.expand(len(none), -1), none, none)
        return TeacherScores(scores, lengths, {})

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
