"""The configuration fields that every encoder + CRF family shares."""

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

# transformers copies a checkpoint's code by following imports, so this import also ships the pipeline.
from .pipeline import TASK, CRFTokenClassificationPipeline

CONSTRAINT_MODES = ("none", "decode", "train")
POOLING_MODES = ("first", "mean")


def label_names(config: Any) -> list[str]:
    """A model's labels in the order of their ids."""
    return [config.id2label[i] for i in range(config.num_labels)]


# Above the sizes of any tagger, below sizes that would exhaust a machine's memory before a weight is read.
LIMITS = {
    "labels": 10_000,
    "num_hidden_layers": 1_000,
    "hidden_size": 100_000,
    "intermediate_size": 1_000_000,
    "vocab_size": 10_000_000,
    "max_position_embeddings": 10_000_000,
    "lstm_hidden_size": 100_000,
    "lstm_layers": 100,
}


def refuse_oversized(config: Mapping[str, Any], name: Any) -> None:
    """Refuse a configuration, possibly a stranger's, of a size that no tagger has.

    Args:
        config: the fields of `config.json`.
        name: of the checkpoint, for the message.

    Raises:
        ValueError: naming the field and its limit.
    """
    labels = config.get("id2label")
    sizes = {**config, "labels": len(labels) if isinstance(labels, Mapping) else config.get("num_labels")}
    for field, limit in LIMITS.items():
        size = sizes.get(field)
        if isinstance(size, (int, float)) and size > limit:
            raise ValueError(f"{name}: its configuration has {field} {size:,}, more than {limit:,}; it is not loaded")


class _RegisteredPipelines(dict):
    """Pipelines that need no code from the checkpoint, because the installed package has registered them.

    `transformers.pipeline` infers the task from the keys, then requires `trust_remote_code` for a task that is `in`
    this dictionary. Since none is, the installed pipeline runs the checkpoint.
    """

    def __contains__(self, task: object) -> bool:
        return False


class CRFConfigMixin:
    """CRF fields on top of an encoder's configuration; list it before the encoder's configuration class.

    Args:
        tag_scheme: `"BIO"`, `"BIOES"` or `"plain"`; `None` infers it from the label names.
        crf_constraints: where transitions that the tag scheme forbids are structural zeros: `"none"` (nowhere),
            `"decode"` (for tags and marginals, the default) or `"train"` (for those and for the loss).
        crf_learning_rate: the learning rate for the CRF's transition, start and end scores. They start at zero and
            need a larger one than a pretrained encoder.
        languages: the languages (ISO 639 codes) of the training data.
        words: how raw text becomes words, the name of a segmenter (see [`~.segmenters.get_segmenter`]): as the
            training corpora were cut. A function has no name that a checkpoint could store: give it to the pipeline.
        glued_words: words that follow their neighbour without a blank have the pieces that they have there in running
            text (see `glued_words.py`), in training as in the pipeline. The model then needs a `word_mask`, because
            its pieces do not tell its words. For tokenizers that mark the blank before a word.
        word_pooling: the vector of a word: that of its `"first"` subword or the `"mean"` over its subwords.
        window_overlap: subwords that neighbouring encoder windows share when a text is longer than the encoder's
            window; `None` for a quarter of the window.
        freeze_encoder: train the head alone.
        lstm_hidden_size: units per direction of a BiLSTM over words between encoder and CRF; `None` for no LSTM.
        lstm_layers: LSTMs on top of each other.

    Raises:
        ValueError: if a field has a value outside its list.
    """

    encoder_model_type: str  # the model type of the plain encoder; its checkpoints load without a warning
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "tags",
        "emissions",
        "lengths",
        "transitions",
        "start_transitions",
        "end_transitions",
        "hidden_states",
        "attentions",
    ]  # a stock Trainer then keeps `logits` alone, as metrics in the style of `run_ner.py` expect

    def __init__(
        self,
        *,
        tag_scheme: str | None = None,
        crf_constraints: str = "decode",
        crf_learning_rate: float | None = None,
        languages: list[str] | None = None,
        words: str = "rules",
        glued_words: bool = False,
        word_pooling: str = "first",
        window_overlap: int | None = None,
        freeze_encoder: bool = False,
        lstm_hidden_size: int | None = None,
        lstm_layers: int = 1,
        **kwargs: Any,
    ) -> None:
        if crf_constraints not in CONSTRAINT_MODES:
            raise ValueError(f"crf_constraints must be one of {CONSTRAINT_MODES}, not {crf_constraints!r}")
        if word_pooling not in POOLING_MODES:
            raise ValueError(f"word_pooling must be one of {POOLING_MODES}, not {word_pooling!r}")
        if not isinstance(words, str):
            raise ValueError(
                f"words must be the name of a segmenter, not {type(words).__name__}: a checkpoint stores names. Give "
                "a function to the pipeline, pipeline(..., words=function), or offer it as an entry point of the "
                "group 'hf_structkd.segmenters'"
            )
        if not isinstance(glued_words, bool):
            raise ValueError(f"glued_words must be True or False, not {glued_words!r}")
        if (lstm_hidden_size is not None and lstm_hidden_size < 1) or lstm_layers < 1:
            raise ValueError(
                f"lstm_hidden_size ({lstm_hidden_size}) and lstm_layers ({lstm_layers}) must be at least 1; "
                "lstm_hidden_size None means no LSTM"
            )
        self.tag_scheme = tag_scheme
        self.crf_constraints = crf_constraints
        self.crf_learning_rate = crf_learning_rate
        self.languages = languages
        self.words = words
        self.glued_words = glued_words
        self.word_pooling = word_pooling
        self.window_overlap = window_overlap
        self.freeze_encoder = freeze_encoder
        self.lstm_hidden_size = lstm_hidden_size
        self.lstm_layers = lstm_layers
        super().__init__(**kwargs)

    @property
    def custom_pipelines(self) -> dict[str, Any]:
        """The pipelines that `transformers.pipeline(model=..., trust_remote_code=True)` finds with the checkpoint."""
        from_the_hub = type(self).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME)
        return self._shipped_pipelines() if from_the_hub else _RegisteredPipelines(self._shipped_pipelines())

    @custom_pipelines.setter
    def custom_pipelines(self, value: Any) -> None:
        pass  # a configuration file and `Pipeline.save_pretrained` set it to what it already is

    @staticmethod
    def _shipped_pipelines() -> dict[str, Any]:
        module = CRFTokenClassificationPipeline.__module__.rpartition(".")[2]
        implementation = f"{module}.{CRFTokenClassificationPipeline.__name__}"
        return {TASK: {"impl": implementation, "pt": ["AutoModelForTokenClassification"], "type": "text"}}

    def to_dict(self) -> dict[str, Any]:
        fields = {**super().to_dict(), "custom_pipelines": self._shipped_pipelines()}  # type: ignore[misc]
        if tagger := (fields.get("auto_map") or {}).get("AutoModelForTokenClassification"):
            # transformers records one class per checkpoint; the same file defines the encoder's.
            encoder = tagger.replace("ForTokenClassificationCRF", "CRFModel")
            fields["auto_map"] = {**fields["auto_map"], "AutoModel": encoder}
        return fields

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a configuration. That of a plain encoder becomes one of this family, which is how a student starts.

        Raises:
            ValueError: if it belongs to another type of encoder, whose weights would all be ignored as unknown.
        """
        config, unused = super().get_config_dict(*args, **kwargs)  # type: ignore[misc]
        checkpoint = args[0] if args else "the checkpoint"
        refuse_oversized(config, checkpoint)
        family_type = cls.model_type  # type: ignore[attr-defined]
        model_type = config.get("model_type", family_type)
        if model_type not in (family_type, cls.encoder_model_type):
            raise ValueError(
                f"{checkpoint} holds a model of type {model_type!r}, which {cls.__name__} does not read "
                f"({family_type} or {cls.encoder_model_type}); hf_structkd.crf_class_for names the class that does"
            )
        if "model_type" in config:
            config["model_type"] = family_type
        return config, unused
