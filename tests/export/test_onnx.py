"""Dangers: an exported graph that is right only for the shapes it was traced with, or tags differently; int8 that
costs the scores; an example of docs/pipeline.md that does not run."""

import random
import re
from pathlib import Path

import pytest

pytest.importorskip("onnxscript", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")
pytest.importorskip("onnxruntime", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, TaggingMetrics, Teacher, load_corpus
from hf_structkd.export.onnx import OnnxTagger, export_onnx

from ..conftest import draw_student
from ..modeling.conftest import Family, wordpiece

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "pipeline.md"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "ner" / "wikiann"


@pytest.fixture(scope="module")
def teacher(corpus, tokenizer, labels, tmp_path_factory) -> Teacher:
    """A small tagger, trained until it knows its corpus: weights that have a shape, not those drawn at random."""
    size = {"hidden_size": 64, "intermediate_size": 256, "max_position_embeddings": 258}
    options = {
        "objective": "none", "learning_rate": 1e-2, "crf_learning_rate": 5e-2, "num_train_epochs": 25,
        "per_device_train_batch_size": 15,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    args = StructKDTrainingArguments(str(tmp_path_factory.mktemp("training")), **options)
    trainer = StructKDTrainer(draw_student(tokenizer, labels, **size), args, None, corpus, None, tokenizer)
    trainer.train()
    return Teacher(trainer.model, tokenizer)


@pytest.fixture(scope="module")
def exported(teacher, tmp_path_factory) -> dict[str, OnnxTagger]:
    """Written as the page shows it."""
    (program,) = re.findall(r"```python\n([^`]*?export_onnx.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as there:
        there.chdir(folder)
        exec(compile(program, str(PAGE), "exec"), {"model": teacher.model, "tokenizer": teacher.tokenizer})
    return {
        name: OnnxTagger(folder / place, threads=1)
        for name, place in {"full": "exported", "int8": "exported-int8"}.items()
    }


def shuffled(sentences) -> list[list[str]]:
    """Ragged, from one word to a long sentence, in no order."""
    some = [words[:length] for words, length in zip(sentences, [1, 2, 3, 30, 30, 5, 1, 30, 7, 30] * 4)]
    random.Random(0).shuffle(some)
    return some


def folder_of(tagger: OnnxTagger) -> Path:
    return Path(tagger.tokenizer.name_or_path)


def test_the_graph_tags_like_the_model_whatever_the_batch(teacher, exported, corpus):
    sentences = shuffled(corpus["tokens"])
    expected = teacher.tag(sentences)
    assert len({tag for tags in expected for tag in tags}) == len(teacher.labels)  # it has learnt to use them all
    for batch_size in (1, 7, 40):
        assert exported["full"].tag(sentences, batch_size=batch_size) == expected
    assert exported["full"].tag([]) == []


def test_int8_is_smaller_and_costs_little(teacher, exported, corpus):
    sizes = {
        name: sum(f.stat().st_size for f in folder_of(tagger).glob("*.onnx*")) for name, tagger in exported.items()
    }
    assert sizes["int8"] < 0.7 * sizes["full"]
    words, gold = list(corpus["tokens"]), list(corpus["tags"])
    score = {
        name: TaggingMetrics(teacher.labels).report(tagger.tag(words), gold)["f1"] for name, tagger in exported.items()
    }
    assert score["full"] > 0.9
    assert score["int8"] > score["full"] - 0.1


@pytest.mark.skipif(not SHARED.exists(), reason="needs real sentences: ../shared/data/ner/wikiann")
def test_real_sentences_are_tagged_alike(teacher, exported):
    """Four languages, as they come: words of many pieces, marks, numbers, from one word to sixty."""
    sentences: list[list[str]] = []
    for language in ("en", "de", "es", "nl"):
        path = SHARED / language / "test.conll.gz"
        sentences += [words[:60] for words in load_corpus(path, language=language, max_sentences=100)["tokens"]]
    assert exported["full"].tag(sentences) == teacher.tag(sentences)
    tags = exported["int8"].tag(sentences)
    assert [len(path) for path in tags] == [len(words) for words in sentences]
    words = [pair for a, b in zip(tags, teacher.tag(sentences)) for pair in zip(a, b)]
    assert sum(one == other for one, other in words) > 0.9 * len(words)


def test_another_family_with_mean_pooling_and_no_constraints(corpus, labels, tmp_path):
    family = Family("bert", wordpiece(list(corpus["tokens"])), labels)
    model = family.student(max_position_embeddings=200, word_pooling="mean", crf_constraints="none")
    export_onnx(model, family.tokenizer, tmp_path)
    sentences = shuffled(corpus["tokens"])
    tagger, expected = OnnxTagger(tmp_path, threads=1), Teacher(model, family.tokenizer).tag(sentences)
    for batch_size in (1, 40):
        assert tagger.tag(sentences, batch_size=batch_size) == expected


def test_what_cannot_be_exported_or_run_is_said(exported, make_student, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="BiLSTM between encoder and CRF cannot be exported"):
        export_onnx(make_student(lstm_hidden_size=8), tokenizer, tmp_path / "lstm")
    assert not (tmp_path / "lstm").exists()
    with pytest.raises(ValueError, match=r"sentence 1 has .* subwords; an exported model takes 256 at once"):
        exported["full"].tag([["a"], ["Paris"] * 300])
    with pytest.raises(ValueError, match="sentence 0 has no words"):
        exported["full"].tag([[]])
