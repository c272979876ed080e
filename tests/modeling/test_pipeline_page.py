"""Danger: examples of docs/pipeline.md that do not run, or that give something else than the page says."""

import re
from pathlib import Path

import pytest

from ..page_snippets import ROOT, commands, programs, run_program

PAGE = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
PROGRAMS = programs("docs/pipeline.md")


@pytest.fixture
def names(make_student, tokenizer, corpus, tmp_path, monkeypatch) -> dict:
    """What the page goes on from: a model and its tokenizer, also as the checkpoint of the examples; a dataset."""
    monkeypatch.chdir(tmp_path)
    model = make_student()
    model.save_pretrained("someone/tagger")
    tokenizer.save_pretrained("someone/tagger")
    return {"model": model, "tokenizer": tokenizer, "dataset": corpus.select(range(3))}


def test_the_examples_run_and_give_what_the_page_says(names):
    *programs, onnx = PROGRAMS
    assert "export_onnx" in onnx.text  # tests/export runs it
    assert len(programs) == 3
    for program in programs:
        run_program(program, names)
    table = re.search(r"^\| key \|.*\n(?:\|.*\n)+", PAGE, flags=re.MULTILINE).group()
    documented = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert {"tags", *names["answer"]} == set(documented)  # a model of entities has no `tags`
    assert len(names["answer"]["top_k"]) == 3
    members = re.search(r"the best analysis: (.*?) \(characters\), (.*?) \(words\)", PAGE)
    assert set(names["answer"]["entities"][0]) == set(re.findall(r"`(\w+)`", " ".join(members.groups())))
    assert {"entities", "entropy"} < set(names["dataset"].column_names)


@pytest.mark.slow
def test_the_commands_of_the_page_run(names, run_script):
    stand_ins = {"CHECKPOINT": "someone/tagger", "CORPUS": "demo", "FOLDER": "calibration"}
    few = ("--languages", "en", "--max_test_sentences", "20")
    for command in commands("docs/pipeline.md"):
        run_script(" ".join(command[:2]), *(stand_ins.get(word, word) for word in command[2:]), *few)
    assert list(Path("calibration").iterdir())
