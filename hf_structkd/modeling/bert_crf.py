"""BERT (multilingual BERT and its kin) with a linear-chain CRF over words."""

from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertPreTrainedModel

from .configuration import CRFConfigMixin
from .crf_head import CRFHeadMixin


class BertCRFConfig(CRFConfigMixin, BertConfig):
    """[`BertConfig`] with the fields of [`CRFConfigMixin`]."""

    model_type = "bert-crf"
    encoder_model_type = "bert"

    def __init__(self, **kwargs):  # transformers would otherwise generate one that skips the mixin's
        super().__init__(**kwargs)


class BertForTokenClassificationCRF(CRFHeadMixin, BertPreTrainedModel):
    """BERT encoder, linear emissions, linear-chain CRF over words; see [`CRFHeadMixin`]."""

    config_class = BertCRFConfig

    def __init__(self, config: BertCRFConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.add_crf_head()
        self.post_init()


BertCRFConfig.register_for_auto_class()
BertForTokenClassificationCRF.register_for_auto_class("AutoModelForTokenClassification")
