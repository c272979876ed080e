"""Dangers: committed cards typed by hand, out of date, or with what must not be published."""

import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_structkd.evaluation.results import read_results, read_runs
from hf_structkd.hub.describe import redescribe
from hf_structkd.hub.public import publishable
from tests.hub.loopback_hub import card_errors

CARDS = sorted((Path(__file__).parents[1] / "model_cards").glob("*/results.json"))
cards = pytest.mark.parametrize("results", CARDS, ids=lambda path: path.parent.name)


def test_there_are_cards():
    assert CARDS


@cards
def test_a_card_is_what_its_results_make(results, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")
    folder = results.parent
    shutil.copy(results, tmp_path / "results.json")
    shutil.copy(folder / "runs.jsonl", tmp_path / "runs.jsonl")
    assert redescribe(tmp_path).read_bytes() == (folder / "README.md").read_bytes(), "run structkd card FOLDER"
    # the bytes of pictures depend on the versions that drew them
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {p.name for p in (folder / "plots").iterdir()}


@cards
def test_a_card_shows_seeds_and_deviations_of_student_and_baseline(results):
    text = (results.parent / "README.md").read_text(encoding="utf-8")
    assert int(re.search(r"over (\d+) runs with seeds 1, 2, 3", text)[1]) >= 3
    table = text[text.index("\n## Scores\n") :].split("\n![")[0]
    read = read_results(results)
    for row in ("baseline", read.objective["name"]):
        line = re.search(rf"^\| {re.escape(row)} \|.*$", table, re.MULTILINE)[0]
        assert len(re.findall(r"\d ± \d", line)) == len(read.model["languages"]) + 1, row  # and the macro average


@cards
def test_a_card_is_valid_and_shows_no_machine(results):
    folder = results.parent
    assert not card_errors((folder / "README.md").read_text(encoding="utf-8"))
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results
    for path in (folder / "README.md", results, folder / "runs.jsonl"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w/:.<])/(home|tmp|root|work|usr|mnt|Users|data)/", text), path.name
        assert not re.search(r"hf_[a-zA-Z]{20,}", text), path.name
    runs = [read_results(results), *read_runs(folder / "runs.jsonl")]
    assert len(runs) > 1
    for read in runs:
        assert publishable(read) == read
        assert not read.label_examples, "words of a corpus"
