"""DeBERTa-v2 and v3 (mDeBERTa) with a linear-chain CRF over words."""

from transformers import DebertaV2Config, DebertaV2Model
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2PreTrainedModel

from .configuration import CRFConfigMixin
from .crf_head import CRFHeadMixin


class DebertaV2CRFConfig(CRFConfigMixin, DebertaV2Config):
    """[`DebertaV2Config`] with the fields of [`CRFConfigMixin`]."""

    model_type = "deberta-v2-crf"
    encoder_model_type = "deberta-v2"

    def __init__(self, **kwargs):  # transformers would otherwise generate one that skips the mixin's
        super().__init__(**kwargs)


class DebertaV2ForTokenClassificationCRF(CRFHeadMixin, DebertaV2PreTrainedModel):
    """DeBERTa-v2 encoder, linear emissions, linear-chain CRF over words; see [`CRFHeadMixin`]."""

    config_class = DebertaV2CRFConfig

    def __init__(self, config: DebertaV2CRFConfig) -> None:
        super().__init__(config)
        self.deberta = DebertaV2Model(config)
        self.add_crf_head()
        self.post_init()


DebertaV2CRFConfig.register_for_auto_class()
DebertaV2ForTokenClassificationCRF.register_for_auto_class("AutoModelForTokenClassification")
