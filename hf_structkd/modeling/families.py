"""The encoder families that a CRF can be put on."""

from typing import Any

from .bert_crf import BertForTokenClassificationCRF
from .deberta_v2_crf import DebertaV2ForTokenClassificationCRF
from .modernbert_crf import ModernBertForTokenClassificationCRF
from .xlm_roberta_crf import XLMRobertaForTokenClassificationCRF

CRF_CLASSES: tuple[Any, ...] = (
    XLMRobertaForTokenClassificationCRF,
    BertForTokenClassificationCRF,
    DebertaV2ForTokenClassificationCRF,
    ModernBertForTokenClassificationCRF,
)


def crf_class_for(config: Any) -> Any:
    """The class that puts a CRF on an encoder.

    Args:
        config: a configuration, of a plain encoder or of an encoder with a CRF already, or its `model_type`.

    Returns:
        The model class; its `config_class` is the configuration's.

    Raises:
        ValueError: if there is none for this type of encoder; it names those there are.
    """
    kind = config if isinstance(config, str) else config.model_type
    for cls in CRF_CLASSES:
        if kind in (cls.config_class.model_type, cls.config_class.encoder_model_type):
            return cls
    known = ", ".join(cls.config_class.encoder_model_type for cls in CRF_CLASSES)
    raise ValueError(f"there is no CRF head for encoders of type {kind!r}; there is one for {known}")
