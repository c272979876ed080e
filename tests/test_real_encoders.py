"""Danger: what works on tiny random models fails on pretrained encoders stored in half precision."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from hf_structkd import (
    StructKDTrainer,
    StructKDTrainingArguments,
    Teacher,
    XLMRobertaForTokenClassificationCRF,
    load_corpora,
)
from hf_structkd.data.corpora import label_inventory

SHARED = Path(__file__).parents[2] / "shared"
ENCODER = SHARED / "encoders" / "lab-h64-l2"
WIKIANN = SHARED / "data" / "ner" / "wikiann"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ENCODER.exists(), reason="needs the shared pretrained encoders, which are not here"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pretrained_encoder_becomes_a_student(dtype):
    model = XLMRobertaForTokenClassificationCRF.from_pretrained(ENCODER, num_labels=7, dtype=dtype)
    assert model.roberta.embeddings.word_embeddings.weight.dtype == dtype
    for parameter in model.crf.parameters():
        assert parameter.dtype == torch.float32
        assert (parameter == 0).all()


def test_a_real_corpus_is_distilled(tmp_path):
    if not WIKIANN.exists():
        pytest.skip("needs the shared WikiAnn corpora, which are not here")
    corpora = load_corpora(
        f"{WIKIANN}/{{language}}/{{split}}.conll.gz", ["en"], max_sentences={"train": 200, "dev": 50, "test": 50}
    )
    labels = label_inventory(corpora)
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)

    def make() -> XLMRobertaForTokenClassificationCRF:
        model = XLMRobertaForTokenClassificationCRF.from_pretrained(
            ENCODER, id2label=dict(enumerate(labels)), dtype=torch.float32
        )
        model.set_word_starts(tokenizer)
        return model

    def train(model, objective, teachers=None):
        args = StructKDTrainingArguments(
            str(tmp_path), objective=objective, num_train_epochs=3, learning_rate=2e-3, crf_learning_rate=2e-2,
            per_device_train_batch_size=16, logging_steps=5, report_to="none", save_strategy="no", use_cpu=True,
            disable_tqdm=True,
        )  # fmt: skip
        trainer = StructKDTrainer(
            model, args, None, corpora["en"]["train"], {"en": corpora["en"]["dev"]}, tokenizer, teachers=teachers
        )
        trainer.train()
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        assert losses[-1] < 0.7 * losses[0]
        return model

    teacher = Teacher(train(make(), "none"), tokenizer)
    train(make(), "posterior+top_wk", teacher)
