"""BERT (multilingual BERT and its kin) with a linear-chain CRF over words."""

from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertPreTrainedModel

from .configuration import CRFConfigMixin
from .crf_head import HEAD_KEYS, CRFHeadMixin


class BertCRFConfig(CRFConfigMixin, BertConfig):
    """[`BertConfig`] with the fields of [`CRFConfigMixin`]."""

    model_type = "bert-crf"
    encoder_model_type = "bert"

    def __init__(self, **kwargs):  # transformers would otherwise generate one that skips the mixin's
        super().__init__(**kwargs)


class BertCRFModel(BertModel):
    """The encoder of a checkpoint, alone: what `AutoModel` and the feature-extraction pipeline read."""

    config_class = BertCRFConfig
    _keys_to_ignore_on_load_unexpected = HEAD_KEYS

    def __init__(self, config: BertCRFConfig) -> None:
        super().__init__(config, add_pooling_layer=False)


class BertForTokenClassificationCRF(CRFHeadMixin, BertPreTrainedModel):
    """BERT encoder, linear emissions, linear-chain CRF over words; see [`CRFHeadMixin`]."""

    config_class = BertCRFConfig
    encoder_class = BertCRFModel
    pieces_cut_words = True

    def __init__(self, config: BertCRFConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.add_crf_head()
        self.post_init()


BertCRFConfig.register_for_auto_class()
BertCRFModel.register_for_auto_class("AutoModel")
BertForTokenClassificationCRF.register_for_auto_class("AutoModelForTokenClassification")
