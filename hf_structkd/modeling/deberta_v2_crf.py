"""DeBERTa-v2 and v3 (mDeBERTa) with a linear-chain CRF over words."""

from transformers import DebertaV2Config, DebertaV2Model
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2PreTrainedModel

from .configuration import CRFConfigMixin
from .crf_head import HEAD_KEYS, CRFHeadMixin


class DebertaV2CRFConfig(CRFConfigMixin, DebertaV2Config):
    """[`DebertaV2Config`] with the fields of [`CRFConfigMixin`]."""

    model_type = "deberta-v2-crf"
    encoder_model_type = "deberta-v2"

    def __init__(self, **kwargs):  # transformers would otherwise generate one that skips the mixin's
        super().__init__(**kwargs)


class DebertaV2CRFModel(DebertaV2Model):
    """The encoder of a checkpoint, alone: what `AutoModel` and the feature-extraction pipeline read."""

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
