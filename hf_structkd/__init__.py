"""Structure-level knowledge distillation for multilingual sequence labelling, at home in Hugging Face.

Several strong taggers for single languages in, one multilingual encoder + CRF out (arXiv 2004.03846 and followers).

A public name is imported when it is first used: `import hf_structkd` alone takes no time, and neither does the help of
the command `structkd`. What transformers has to know of this package, it is told as soon as both are imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .registration import register_with_transformers

__version__ = "0.1.0"

# public name -> the module in which it stands
_MODULES = {
    "annotate": "teachers.annotate",
    "annotate_part": "teachers.parts",
    "AnnotationError": "teachers.annotate",
    "BertCRFConfig": "modeling.taggers",
    "BertForTokenClassificationCRF": "modeling.taggers",
    "CallableTeacher": "teachers.function",
    "ChatTeacher": "teachers.chat",
    "crf_class_for": "modeling.taggers",
    "CRFTokenClassificationPipeline": "modeling.pipeline",
    "DataCollatorForStructKD": "data.collator",
    "DebertaV2CRFConfig": "modeling.taggers",
    "DebertaV2ForTokenClassificationCRF": "modeling.taggers",
    "DistillationRun": "recipes.run",
    "embed_from_teachers": "training.teacher_embeddings",
    "encode_corpus": "data.words",
    "extend_labels": "training.extended_labels",
    "GlinerTeacher": "teachers.gliner_model",
    "label_inventory": "data.corpora",
    "LinearChainCRF": "modeling.crf",
    "load_corpora": "data.corpora",
    "load_corpus": "data.corpora",
    "load_parts": "teachers.parts",
    "load_teacher": "teachers.kinds",
    "ModernBertCRFConfig": "modeling.taggers",
    "ModernBertForTokenClassificationCRF": "modeling.taggers",
    "Recipe": "recipes.recipe",
    "RecipeError": "recipes.parser",
    "smaller_student": "training.smaller_student",
    "SpacyTeacher": "teachers.spacy_pipeline",
    "SpanTeacher": "teachers.spans",
    "StanzaTeacher": "teachers.stanza_pipeline",
    "start_from_teachers": "training.teacher_weights",
    "StructKDTrainer": "training.trainer",
    "StructKDTrainingArguments": "training.arguments",
    "SufficientStatistics": "modeling.crf",
    "tag_dataset": "data.tagging",
    "TaggingMetrics": "evaluation.tagging_metrics",
    "TagScheme": "modeling.tag_scheme",
    "Teacher": "teachers.checkpoint",
    "TeacherAnnotator": "teachers.annotator",
    "trim_vocabulary": "training.smaller_student",
    "words_cut_otherwise": "training.smaller_student",
    "XLMRobertaCRFConfig": "modeling.taggers",
    "XLMRobertaForTokenClassificationCRF": "modeling.taggers",
}
__all__ = [
    "__version__",
    "annotate",
    "annotate_part",
    "AnnotationError",
    "BertCRFConfig",
    "BertForTokenClassificationCRF",
    "CallableTeacher",
    "ChatTeacher",
    "crf_class_for",
    "CRFTokenClassificationPipeline",
    "DataCollatorForStructKD",
    "DebertaV2CRFConfig",
    "DebertaV2ForTokenClassificationCRF",
    "DistillationRun",
    "embed_from_teachers",
    "encode_corpus",
    "extend_labels",
    "GlinerTeacher",
    "label_inventory",
    "LinearChainCRF",
    "load_corpora",
    "load_corpus",
    "load_parts",
    "load_teacher",
    "ModernBertCRFConfig",
    "ModernBertForTokenClassificationCRF",
    "Recipe",
    "RecipeError",
    "smaller_student",
    "SpacyTeacher",
    "SpanTeacher",
    "StanzaTeacher",
    "start_from_teachers",
    "StructKDTrainer",
    "StructKDTrainingArguments",
    "SufficientStatistics",
    "tag_dataset",
    "TaggingMetrics",
    "TagScheme",
    "Teacher",
    "TeacherAnnotator",
    "trim_vocabulary",
    "words_cut_otherwise",
    "XLMRobertaCRFConfig",
    "XLMRobertaForTokenClassificationCRF",
]

if TYPE_CHECKING:
    from .data.collator import DataCollatorForStructKD as DataCollatorForStructKD
    from .data.corpora import label_inventory as label_inventory
    from .data.corpora import load_corpora as load_corpora
    from .data.corpora import load_corpus as load_corpus
    from .data.tagging import tag_dataset as tag_dataset
    from .data.words import encode_corpus as encode_corpus
    from .evaluation.tagging_metrics import TaggingMetrics as TaggingMetrics
    from .modeling.crf import LinearChainCRF as LinearChainCRF
    from .modeling.crf import SufficientStatistics as SufficientStatistics
    from .modeling.pipeline import CRFTokenClassificationPipeline as CRFTokenClassificationPipeline
    from .modeling.tag_scheme import TagScheme as TagScheme
    from .modeling.taggers import BertCRFConfig as BertCRFConfig
    from .modeling.taggers import BertForTokenClassificationCRF as BertForTokenClassificationCRF
    from .modeling.taggers import DebertaV2CRFConfig as DebertaV2CRFConfig
    from .modeling.taggers import DebertaV2ForTokenClassificationCRF as DebertaV2ForTokenClassificationCRF
    from .modeling.taggers import ModernBertCRFConfig as ModernBertCRFConfig
    from .modeling.taggers import ModernBertForTokenClassificationCRF as ModernBertForTokenClassificationCRF
    from .modeling.taggers import XLMRobertaCRFConfig as XLMRobertaCRFConfig
    from .modeling.taggers import XLMRobertaForTokenClassificationCRF as XLMRobertaForTokenClassificationCRF
    from .modeling.taggers import crf_class_for as crf_class_for
    from .recipes.parser import RecipeError as RecipeError
    from .recipes.recipe import Recipe as Recipe
    from .recipes.run import DistillationRun as DistillationRun
    from .teachers.annotate import AnnotationError as AnnotationError
    from .teachers.annotate import annotate as annotate
    from .teachers.annotator import TeacherAnnotator as TeacherAnnotator
    from .teachers.chat import ChatTeacher as ChatTeacher
    from .teachers.checkpoint import Teacher as Teacher
    from .teachers.function import CallableTeacher as CallableTeacher
    from .teachers.gliner_model import GlinerTeacher as GlinerTeacher
    from .teachers.kinds import load_teacher as load_teacher
    from .teachers.parts import annotate_part as annotate_part
    from .teachers.parts import load_parts as load_parts
    from .teachers.spacy_pipeline import SpacyTeacher as SpacyTeacher
    from .teachers.spans import SpanTeacher as SpanTeacher
    from .teachers.stanza_pipeline import StanzaTeacher as StanzaTeacher
    from .training.arguments import StructKDTrainingArguments as StructKDTrainingArguments
    from .training.extended_labels import extend_labels as extend_labels
    from .training.smaller_student import smaller_student as smaller_student
    from .training.smaller_student import trim_vocabulary as trim_vocabulary
    from .training.smaller_student import words_cut_otherwise as words_cut_otherwise
    from .training.teacher_embeddings import embed_from_teachers as embed_from_teachers
    from .training.teacher_weights import start_from_teachers as start_from_teachers
    from .training.trainer import StructKDTrainer as StructKDTrainer


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_transformers()
