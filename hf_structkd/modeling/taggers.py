"""The four families of taggers: XLM-RoBERTa, BERT, DeBERTa-v2 and ModernBERT with a linear-chain CRF over words.

Each family has a configuration, a tagger, and the encoder alone as `AutoModel` reads it from the tagger's checkpoint;
all three register for the auto classes, so that a checkpoint on the Hub carries this code. `crf_class_for` maps a type
of encoder to its tagger.
"""

from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    ModernBertConfig,
    ModernBertModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers import initialization as init
from transformers.models.bert.modeling_bert import BertPreTrainedModel
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2PreTrainedModel
from transformers.models.modernbert.modeling_modernbert import ModernBertPreTrainedModel
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaPreTrainedModel

from .configuration import CRFConfigMixin
from .crf_head import HEAD_KEYS, CRFHeadMixin

# ---- XLM-RoBERTa ----


class XLMRobertaCRFConfig(CRFConfigMixin, XLMRobertaConfig):
    """[`XLMRobertaConfig`] with the fields of [`CRFConfigMixin`]."""

    model_type = "xlm-roberta-crf"
    encoder_model_type = "xlm-roberta"

    def __init__(self, **kwargs):  # else transformers generates one that skips the mixin's
        super().__init__(**kwargs)


class XLMRobertaCRFModel(XLMRobertaModel):
    """The encoder alone, as `AutoModel` and the feature-extraction pipeline read it from a tagger's checkpoint."""

    config_class = XLMRobertaCRFConfig
    _keys_to_ignore_on_load_unexpected = HEAD_KEYS

    def __init__(self, config: XLMRobertaCRFConfig) -> None:
        super().__init__(config, add_pooling_layer=False)


class XLMRobertaForTokenClassificationCRF(CRFHeadMixin, XLMRobertaPreTrainedModel):
    """XLM-RoBERTa encoder, linear emissions, linear-chain CRF over words; see [`CRFHeadMixin`]."""

    config_class = XLMRobertaCRFConfig
    encoder_class = XLMRobertaCRFModel

    def __init__(self, config: XLMRobertaCRFConfig) -> None:
        super().__init__(config)
        self.roberta = XLMRobertaModel(config, add_pooling_layer=False)
        self.add_crf_head()
        self.post_init()


XLMRobertaCRFConfig.register_for_auto_class()
XLMRobertaCRFModel.register_for_auto_class("AutoModel")
XLMRobertaForTokenClassificationCRF.register_for_auto_class("AutoModelForTokenClassification")


# ---- BERT, multilingual BERT included ----


class BertCRFConfig(CRFConfigMixin, BertConfig):
    """[`BertConfig`] with the fields of [`CRFConfigMixin`]."""

    model_type = "bert-crf"
    encoder_model_type = "bert"

    def __init__(self, **kwargs):  # else transformers generates one that skips the mixin's
        super().__init__(**kwargs)


class BertCRFModel(BertModel):
    """The encoder alone, as `AutoModel` and the feature-extraction pipeline read it from a tagger's checkpoint."""

    config_class = BertCRFConfig
    _keys_to_ignore_on_load_unexpected = HEAD_KEYS

    def __init__(self, config: BertCRFConfig) -> None:
        super().__init__(config, add_pooling_layer=False)


class BertForTokenClassificationCRF(CRFHeadMixin, BertPreTrainedModel):
    """BERT encoder, linear emissions, linear-chain CRF over words; see [`CRFHeadMixin`]."""

    config_class = BertCRFConfig
    encoder_class = BertCRFModel
    ambiguous_word_starts = True

    def __init__(self, config: BertCRFConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.add_crf_head()
        self.post_init()


BertCRFConfig.register_for_auto_class()
BertCRFModel.register_for_auto_class("AutoModel")
BertForTokenClassificationCRF.register_for_auto_class("AutoModelForTokenClassification")


# ---- DeBERTa-v2 and v3, mDeBERTa included ----


class DebertaV2CRFConfig(CRFConfigMixin, DebertaV2Config):
    """[`DebertaV2Config`] with the fields of [`CRFConfigMixin`]."""

    model_type = "deberta-v2-crf"
    encoder_model_type = "deberta-v2"

    def __init__(self, **kwargs):  # else transformers generates one that skips the mixin's
        super().__init__(**kwargs)


class DebertaV2CRFModel(DebertaV2Model):
    """The encoder alone, as `AutoModel` and the feature-extraction pipeline read it from a tagger's checkpoint."""

    config_class = DebertaV2CRFConfig
    _keys_to_ignore_on_load_unexpected = HEAD_KEYS


class DebertaV2ForTokenClassificationCRF(CRFHeadMixin, DebertaV2PreTrainedModel):
    """DeBERTa-v2 encoder, linear emissions, linear-chain CRF over words; see [`CRFHeadMixin`]."""

    config_class = DebertaV2CRFConfig
    encoder_class = DebertaV2CRFModel

    def __init__(self, config: DebertaV2CRFConfig) -> None:
        super().__init__(config)
        self.deberta = DebertaV2Model(config)
        self.add_crf_head()
        self.post_init()


DebertaV2CRFConfig.register_for_auto_class()
DebertaV2CRFModel.register_for_auto_class("AutoModel")
DebertaV2ForTokenClassificationCRF.register_for_auto_class("AutoModelForTokenClassification")


# ---- ModernBERT, mmBERT included ----


class ModernBertCRFConfig(CRFConfigMixin, ModernBertConfig):
    """[`ModernBertConfig`] with the fields of [`CRFConfigMixin`]."""

    model_type = "modernbert-crf"
    encoder_model_type = "modernbert"

    def __init__(self, **kwargs):  # else transformers generates one that skips the mixin's
        super().__init__(**kwargs)


class ModernBertCRFModel(ModernBertModel):
    """The encoder alone, as `AutoModel` and the feature-extraction pipeline read it from a tagger's checkpoint."""

    config_class = ModernBertCRFConfig
    _keys_to_ignore_on_load_unexpected = HEAD_KEYS


class ModernBertForTokenClassificationCRF(CRFHeadMixin, ModernBertPreTrainedModel):
    """ModernBERT encoder, linear emissions, linear-chain CRF over words; see [`CRFHeadMixin`].

    Unlike the stock classifier there is no prediction head (dense, activation, norm) between encoder and emissions.
    """

    config_class = ModernBertCRFConfig
    encoder_class = ModernBertCRFModel

    def __init__(self, config: ModernBertCRFConfig) -> None:
        super().__init__(config)
        self.model = ModernBertModel(config)
        self.add_crf_head()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.classifier:
            # Some versions of transformers initialise ModernBERT's own layers only.
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)


ModernBertCRFConfig.register_for_auto_class()
ModernBertCRFModel.register_for_auto_class("AutoModel")
ModernBertForTokenClassificationCRF.register_for_auto_class("AutoModelForTokenClassification")


# ---- the family of an encoder ----

CRF_CLASSES: tuple[Any, ...] = (
    XLMRobertaForTokenClassificationCRF,
    BertForTokenClassificationCRF,
    DebertaV2ForTokenClassificationCRF,
    ModernBertForTokenClassificationCRF,
)


def crf_class_for(config: Any) -> Any:
    """The tagger class for an encoder.

    Args:
        config: the configuration of a plain encoder or of a tagger with a CRF, or its `model_type`.

    Returns:
        The model class; its `config_class` is the class of its configurations.

    Raises:
        ValueError: if no family has this type of encoder; the message names the families.
    """
    model_type = config if isinstance(config, str) else config.model_type
    for cls in CRF_CLASSES:
        if model_type in (cls.config_class.model_type, cls.config_class.encoder_model_type):
            return cls
    supported = ", ".join(cls.config_class.encoder_model_type for cls in CRF_CLASSES)
    raise ValueError(f"there is no CRF head for encoders of type {model_type!r}; there is one for {supported}")
