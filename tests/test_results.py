"""Danger: a figure in RESULTS.md, the README or a page that no committed result makes, or that is out of date."""

import re
import shutil
from pathlib import Path

import pytest

from tests.test_pages import WITH_FIGURES as DOCUMENTS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"


@pytest.mark.slow
@pytest.mark.filterwarnings("error:constrained_layout")  # forty cells left a plot no room beside its legend
def test_documents_say_what_the_committed_results_make(tmp_path, run_script):
    pytest.importorskip("matplotlib", reason="plots need the extra `plots`")
    for document in DOCUMENTS:
        (tmp_path / document).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / document, tmp_path / document)
    grids = [RESULTS.parent / "grids" / f"{folder.name}.yaml" for folder in sorted(RESULTS.iterdir())]
    kept = tmp_path / "experiments" / "results"
    options = ("--keep", kept)
    run_script("experiments.report", *grids, *options, "--update", *(tmp_path / d for d in DOCUMENTS))
    for document in DOCUMENTS:
        assert (tmp_path / document).read_text() == (ROOT / document).read_text(), f"run report.py on {document}"
    for file in (*RESULTS.glob("*/runs.jsonl"), *RESULTS.glob("*/summary.json")):
        assert (kept / file.relative_to(RESULTS)).read_text() == file.read_text(), file


def test_results_are_packed():
    for folder in RESULTS.iterdir():
        assert {path.name for path in folder.iterdir()} == {
            "runs.jsonl",
            "sentences.npz",
            "summary.json",
            "figures.png",
        }


def test_results_show_no_machine_and_no_text_of_a_corpus():
    for file in (*RESULTS.rglob("*.json"), *RESULTS.rglob("*.jsonl")):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w/:.<}])/(home|tmp|root|work|usr|mnt|Users|data)/", text), file
        assert "tokens" not in text, file
