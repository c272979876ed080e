"""Danger: a program on a card that does not run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_structkd import XLMRobertaForTokenClassificationCRF
from hf_structkd.evaluation.results import RunResults
from hf_structkd.hub.describe import describe_student
from hf_structkd.hub.snippets import example_sentence, snippets, widget_examples
from hf_structkd.modeling.configuration import label_names

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def on_card(folder: Path) -> list[str]:
    return CODE.findall((folder / "README.md").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_every_program_on_a_card_runs(make_student, tokenizer, tmp_path):
    """Each as it is printed, in a process of its own; only the repository's name is that of a folder."""
    folder = tmp_path / "tagger"
    student = make_student(seed=1)
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = {"name": "tagger", "class_name": type(student).__name__, "labels": label_names(student.config)}
    describe_student(folder, RunResults(model={**model, "languages": ["ru"]}))
    programs = on_card(folder)
    assert len(programs) == 3
    # The one that imports the package last: the others must do without it.
    first, second, last = sorted(programs, key=lambda program: "import XLMRobertaForTokenClassificationCRF" in program)
    assert "top_k=3" in programs[0]  # what most readers want comes first
    together = "\n".join([first, second, "import sys\nassert 'hf_structkd' not in sys.modules\n", last])
    done = subprocess.run(
        [sys.executable, "-c", together], cwd=tmp_path, capture_output=True, text=True, timeout=250,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout
    words = example_sentence(("ru",)).split()
    assert f"('{words[0]}', " in printed.splitlines()[-1]  # the class: every word with its tag
    best = [line for line in printed.splitlines() if re.match(r"[01]\.\d+ \[", line)]
    assert len(best) == 3  # the k best analyses
    probabilities = [float(line.split()[0]) for line in best]
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_tagger_whose_pieces_do_not_tell_its_words(make_student, tokenizer, tmp_path, monkeypatch, capsys):
    """Danger: its card offers the stock pipeline, which refuses it."""
    student = make_student(max_position_embeddings=130)
    student.config.glued_words = True
    student.save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    model = {"name": "tagger", "class_name": type(student).__name__, "labels": label_names(student.config)}
    describe_student(tmp_path / "tagger", RunResults(model={**model, "languages": ["ru"], "glued_words": True}))
    assert "The stock pipeline cannot run it" in (tmp_path / "tagger" / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    programs = on_card(tmp_path / "tagger")
    assert len(programs) == 2
    for program in programs:
        exec(compile(program.replace(", trust_remote_code=True", ""), "card", "exec"), {})
    assert "('Вену', " in capsys.readouterr().out


@pytest.mark.parametrize("scheme", ["BIO", "plain"])
def test_programs_are_python_for_every_kind_of_tags(scheme):
    for program in snippets("org/it's", XLMRobertaForTokenClassificationCRF.__name__, ("xx",), scheme).values():
        compile(program, "card", "exec")
        assert ("aggregation_strategy" in program) <= (scheme == "BIO")


def test_a_page_on_the_hub_offers_a_text_in_each_language_that_is_known(tmp_path):
    assert [example["example_title"] for example in widget_examples(["xx", "pt-BR", "pt", "nl"])] == ["pt", "nl"]
    describe_student(tmp_path, RunResults(model={"name": "tagger", "languages": ["tr", "xx"]}))
    (example,) = ModelCard.load(tmp_path / "README.md").data.widget
    assert example == {"text": "Clara Weber 1998'de Bremen'den Viyana'ya taşındı.", "example_title": "tr"}
    describe_student(tmp_path, RunResults(model={"name": "tagger", "languages": ["xx"]}))
    assert "widget" not in ModelCard.load(tmp_path / "README.md").data.to_dict()
