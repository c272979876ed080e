"""Danger: an exported graph that is right only for the shapes it was traced with, or tags differently."""

import random

import pytest

pytest.importorskip("onnxscript", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")
pytest.importorskip("onnxruntime", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")

from hf_structkd import Teacher
from hf_structkd.export.onnx import OnnxTagger, export_onnx, quantize_onnx

from ..modeling.conftest import Family, wordpiece

pytestmark = pytest.mark.slow


@pytest.fixture
def sentences(corpus):
    """Ragged, one word to a whole window, in no order."""
    some = [words[:length] for words, length in zip(corpus["tokens"], [1, 2, 3, 30, 30, 5, 1, 30, 7, 30] * 4)]
    random.Random(0).shuffle(some)
    return some


@pytest.mark.parametrize(
    ("name", "fields"), [("xlm-roberta", {}), ("bert", {"word_pooling": "mean", "crf_constraints": "none"})]
)
def test_the_graph_tags_like_the_model_whatever_the_batch(
    name, fields, corpus, tokenizer, labels, sentences, tmp_path
):
    family = Family(name, wordpiece(list(corpus["tokens"])) if name == "bert" else tokenizer, labels)
    model = family.student(max_position_embeddings=200, **fields)
    export_onnx(model, family.tokenizer, tmp_path)
    tagger, expected = OnnxTagger(tmp_path, threads=1), Teacher(model, family.tokenizer).tag(sentences)
    for batch_size in (1, 7, 40):
        assert tagger.tag(sentences, batch_size=batch_size) == expected
    assert tagger.tag([]) == []


def test_int8_runs_and_is_smaller(make_student, tokenizer, sentences, tmp_path):
    wide = make_student(hidden_size=64, intermediate_size=256)
    export_onnx(wide, tokenizer, tmp_path / "full")
    quantize_onnx(tmp_path / "full", tmp_path / "int8")
    sizes = [sum(f.stat().st_size for f in (tmp_path / name).glob("*.onnx*")) for name in ("full", "int8")]
    assert sizes[1] < 0.8 * sizes[0]
    sentences = [words[:5] for words in sentences]
    tags = OnnxTagger(tmp_path / "int8", threads=1).tag(sentences)
    assert [len(path) for path in tags] == [len(words) for words in sentences]


def test_what_cannot_be_exported_or_run_is_said(make_student, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="BiLSTM between encoder and CRF cannot be exported"):
        export_onnx(make_student(lstm_hidden_size=8), tokenizer, tmp_path / "lstm")
    assert not (tmp_path / "lstm").exists()
    export_onnx(make_student(), tokenizer, tmp_path)
    with pytest.raises(ValueError, match=r"sentence 1 has .* subwords; an exported model takes 38 at once"):
        OnnxTagger(tmp_path).tag([["a"], ["Paris"] * 100])
