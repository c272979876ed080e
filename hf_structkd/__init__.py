"""Structure-level knowledge distillation for multilingual sequence labelling, at home in Hugging Face.

Several strong taggers for single languages in, one multilingual encoder + CRF out (arXiv 2004.03846 and followers).
"""

from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .data.collator import DataCollatorForStructKD
from .data.corpora import load_corpora, load_corpus
from .data.tagging import tag_dataset
from .data.words import encode_corpus
from .evaluation.tagging_metrics import TaggingMetrics
from .modeling.crf import LinearChainCRF, SufficientStatistics
from .modeling.pipeline import TASK, CRFTokenClassificationPipeline
from .modeling.tag_scheme import TagScheme
from .modeling.taggers import (
    CRF_CLASSES,
    BertCRFConfig,
    BertForTokenClassificationCRF,
    DebertaV2CRFConfig,
    DebertaV2ForTokenClassificationCRF,
    ModernBertCRFConfig,
    ModernBertForTokenClassificationCRF,
    XLMRobertaCRFConfig,
    XLMRobertaForTokenClassificationCRF,
    crf_class_for,
)
from .teachers.annotate import AnnotationError, annotate
from .teachers.checkpoint import Teacher
from .teachers.function import CallableTeacher
from .training.arguments import StructKDTrainingArguments
from .training.smaller_student import smaller_student
from .training.teacher_embeddings import embed_from_teachers
from .training.trainer import StructKDTrainer

__all__ = [
    "AnnotationError",
    "CallableTeacher",
    "BertCRFConfig",
    "BertForTokenClassificationCRF",
    "CRFTokenClassificationPipeline",
    "DataCollatorForStructKD",
    "DebertaV2CRFConfig",
    "DebertaV2ForTokenClassificationCRF",
    "LinearChainCRF",
    "ModernBertCRFConfig",
    "ModernBertForTokenClassificationCRF",
    "StructKDTrainer",
    "StructKDTrainingArguments",
    "SufficientStatistics",
    "TagScheme",
    "TaggingMetrics",
    "Teacher",
    "XLMRobertaCRFConfig",
    "XLMRobertaForTokenClassificationCRF",
    "annotate",
    "crf_class_for",
    "embed_from_teachers",
    "encode_corpus",
    "load_corpora",
    "load_corpus",
    "smaller_student",
    "tag_dataset",
]

for _model in CRF_CLASSES:
    AutoConfig.register(_model.config_class.model_type, _model.config_class)
    AutoModel.register(_model.config_class, _model.encoder_class)
    AutoModelForTokenClassification.register(_model.config_class, _model)
# Under a name of its own: registering "token-classification" anew would take the stock pipeline from every model.
PIPELINE_REGISTRY.register_pipeline(TASK, CRFTokenClassificationPipeline, AutoModelForTokenClassification, type="text")
