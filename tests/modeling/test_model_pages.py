"""Danger: a page about the CRF whose example does not run, or whose tables nobody measured."""

import re
from pathlib import Path

import pytest

from hf_structkd import LinearChainCRF
from hf_structkd.evaluation.markdown import fill_file

from ..pages import ROOT, commands, programs, run_program

CRF_PAGE = "docs/crf.md"


def test_the_example_runs_and_the_members_exist():
    text = (ROOT / CRF_PAGE).read_text(encoding="utf-8")
    (program,) = programs(CRF_PAGE)
    names = run_program(program, {})
    assert names["emissions"].grad is not None
    table = text[text.index("| member |") : text.index("**Exact**")]
    members = re.findall(r"`(\w+)[(`]", "".join(line.split("|")[1] for line in table.splitlines() if "`" in line))
    assert len(members) >= 14
    assert [name for name in members if not hasattr(LinearChainCRF, name)] == []


def test_figures_go_into_their_places_and_missing_places_are_named(tmp_path):
    """Danger: a figure written beside its marks, or over the text after them."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- results: x / y -->\nold\n<!-- end -->\nb <!-- results: z --><!-- end -->\n")
    for _ in range(2):
        fill_file(page, "x", {"x / y": "\\1 new\nlines"})
    assert page.read_text() == (
        "a\n<!-- results: x / y -->\n\\1 new\nlines\n<!-- end -->\nb <!-- results: z --><!-- end -->\n"
    )
    with pytest.raises(ValueError, match="no place for 'x'"):
        fill_file(page, "x", {"x": ""})
    with pytest.raises(ValueError, match="nothing is called 'z'"):
        fill_file(page, "z", {})


# Danger: examples of docs/pipeline.md that do not run, or that give something else than the page says.


PIPELINE_PAGE = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")


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
    table = re.search(r"^\| key \|.*\n(?:\|.*\n)+", PIPELINE_PAGE, flags=re.MULTILINE).group()
    documented = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert {"tags", *names["answer"]} == set(documented)  # a model of entities has no `tags`
    assert len(names["answer"]["top_k"]) == 3
    members = re.search(r"the best analysis: (.*?) \(characters\), (.*?) \(words\)", PIPELINE_PAGE)
    assert set(names["answer"]["entities"][0]) == set(re.findall(r"`(\w+)`", " ".join(members.groups())))
    assert {"entities", "entropy"} < set(names["dataset"].column_names)


@pytest.mark.slow
def test_the_commands_of_the_page_run(names, run_script):
    stand_ins = {"CHECKPOINT": "someone/tagger", "CORPUS": "demo", "FOLDER": "calibration"}
    few = ("--languages", "en", "--max_test_sentences", "20")
    for command in commands("docs/pipeline.md"):
        run_script(" ".join(command[:2]), *(stand_ins.get(word, word) for word in command[2:]), *few)
    assert list(Path("calibration").iterdir())
