"""XLM-RoBERTa with a linear-chain CRF over words."""

from transformers import XLMRobertaConfig, XLMRobertaModel
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaPreTrainedModel

from .configuration import CRFConfigMixin
from .crf_head import HEAD_KEYS, CRFHeadMixin


class XLMRobertaCRFConfig(CRFConfigMixin, XLMRobertaConfig):
    """[`XLMRobertaConfig`] with the fields of [`CRFConfigMixin`]."""

    model_type = "xlm-roberta-crf"
    encoder_model_type = "xlm-roberta"

    def __init__(self, **kwargs):  # transformers would otherwise generate one that skips the mixin's
        super().__init__(**kwargs)


class XLMRobertaCRFModel(XLMRobertaModel):
    """The encoder of a checkpoint, alone: what `AutoModel` and the feature-extraction pipeline read."""

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
