"""Danger: a page that says how a tagger becomes smaller, and whose commands do not run."""

import pytest

pytest.importorskip("onnxscript", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")
pytest.importorskip("onnxruntime", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")

from transformers import AutoConfig, AutoTokenizer

from hf_structkd import load_corpora

from ..conftest import draw_student
from ..pages import commands, programs, quickly, run_program

FEW = ("--max_train_sentences", "40", "--no_baseline", "--max_dev_sentences", "10", "--max_test_sentences", "10")
PAGE = "docs/make_it_smaller.md"


@pytest.mark.slow
def test_the_commands_of_the_page_run(tokenizer, labels, run_script, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shape = {"num_hidden_layers": 4, "max_position_embeddings": 66, "languages": ["de", "en"]}
    for seed, name in enumerate(("old", "teachers/de", "teachers/en")):
        draw_student(tokenizer, labels, seed=seed, **shape).save_pretrained(f"runs/{name}")
        tokenizer.save_pretrained(f"runs/{name}")
    (tmp_path / "text").mkdir()
    for language, splits in load_corpora("demo", ["de", "en"], max_sentences=20).items():
        text = "\n".join(" ".join(words) for words in splits["train"]["tokens"])
        (tmp_path / "text" / f"{language}.txt").write_text(text)
    printed = []
    for command in commands(PAGE):
        assert command[0] == "structkd"
        printed.append(run_script(" ".join(command[:2]), *quickly(command, *FEW)))
    assert "pieces kept" in printed[0]
    assert "in the dev sentences of de: " in printed[0]
    student = AutoConfig.from_pretrained("runs/small/student")
    assert student.num_hidden_layers == 1
    assert student.vocab_size == len(AutoTokenizer.from_pretrained("runs/small/student")) < len(tokenizer)
    assert AutoConfig.from_pretrained("runs/from_teachers/student").num_hidden_layers == 2
    assert "pieces kept" in printed[2]
    assert "int8 on the text: " in printed[2]
    for program in programs(PAGE):
        run_program(program, {"__name__": "page"})
    assert AutoConfig.from_pretrained("runs/trimmed").num_hidden_layers == 2
