"""ModernBERT (and mmBERT) with a linear-chain CRF over words."""

import torch
from torch import nn
from transformers import ModernBertConfig, ModernBertModel
from transformers import initialization as init
from transformers.models.modernbert.modeling_modernbert import ModernBertPreTrainedModel

from .configuration import CRFConfigMixin
from .crf_head import HEAD_KEYS, CRFHeadMixin


class ModernBertCRFConfig(CRFConfigMixin, ModernBertConfig):
    """[`ModernBertConfig`] with the fields of [`CRFConfigMixin`]."""

    model_type = "modernbert-crf"
    encoder_model_type = "modernbert"

    def __init__(self, **kwargs):  # transformers would otherwise generate one that skips the mixin's
        super().__init__(**kwargs)


class ModernBertCRFModel(ModernBertModel):
    """The encoder of a checkpoint, alone: what `AutoModel` and the feature-extraction pipeline read."""

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
            # Some versions of transformers know ModernBERT's own layers only, and leave another's memory as it was.
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)


ModernBertCRFConfig.register_for_auto_class()
ModernBertCRFModel.register_for_auto_class("AutoModel")
ModernBertForTokenClassificationCRF.register_for_auto_class("AutoModelForTokenClassification")
