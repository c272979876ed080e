"""Dangers: cards that say what results.json does not, paths that leave this machine, a mean taken for one run."""

import json
from dataclasses import asdict, replace

import pytest

from hf_structkd.evaluation.report import ComparisonReport
from hf_structkd.evaluation.results import RunResults, read_results
from hf_structkd.hub import describe
from hf_structkd.hub.describe import describe_student, redescribe
from hf_structkd.hub.from_results import card_data
from hf_structkd.hub.public import publishable, without_tokens

PATH = "/home/somebody/models"


def run(seed: int, english: float) -> RunResults:
    scores = {"en": {"f1": english, "PER": {"f1": english}, "LOC": {"f1": 0.5}}, "avg": {"f1": english}}
    table = ComparisonReport("f1", {"posterior": {"en": english}}, {"en": 0.9}, {"en": 0.6}, "test")
    return RunResults(
        settings={"model": f"{PATH}/encoder", "teachers": {"en": f"{PATH}/en"}, "objective": "posterior"},
        scores={"test": {"posterior": scores}},
        comparison={"test": table.to_dict()},
        seed=seed,
        train_sentences={"en": 10},
        seconds={"posterior": 12.0},
        versions={"torch": "2.13.0"},
        model={"name": "tagger", "labels": ["O", "B-PER"], "base_model": f"{PATH}/encoder", "languages": ["en"]},
        teachers=[{"name": f"{PATH}/en", "language": "en", "revision": "f00d", "weight": 1.0, "score": 0.9}],
        objective={
            "name": "posterior", "top_k": 3, "lambda_schedule": "linear, 1 to 0",
            "parts": [{"name": "posterior", "weight": 1.0, "temperature": 1.0, "source": "2004.03846"}],
        },
        history=[{"step": 1, "loss": 2.0, "kd_lambda": 1.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_en_f1": 0.5}],
        label_examples={"B-PER": ["Clara"]},
        citations=["@misc{a, url = {https://arxiv.org/abs/2004.03846}}"],
    )  # fmt: skip


def test_a_folder_is_described_and_described_again_the_same(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")
    card = describe_student(tmp_path, run(1, 0.8), [run(2, 0.7)])
    written = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    assert {path.name for path in written} == {
        "README.md", "results.json", "2.json", "training_curves.png", "language_gap.png"
    }  # fmt: skip
    assert all(data.startswith(b"\x89PNG") for path, data in written.items() if path.suffix == ".png")
    text = card.read_text()
    for part in (
        "| posterior | 75.00 ± 7.07 | 75.00 ± 7.07 | 50.0 % |",
        "| `PER` | 75.00 ± 7.07 |",
        "| `LOC` | 50.00 |",
        "| en | `en` | f00d | 90.00 |",
        "seeds 1, 2; these weights are of seed 1",
        "value: 0.8",
        "![Loss, lambda",
        "![Scores of teachers",
        "https://arxiv.org/abs/2004.03846",
    ):
        assert part in text, f"{part!r} is missing"
    assert PATH.encode() not in b"".join(written.values())
    redescribe(tmp_path)
    assert {path: path.read_bytes() for path in written} == written


def test_what_is_written_can_be_read_and_is_what_was_measured(tmp_path):
    original = run(1, 0.8)
    describe_student(tmp_path, original)
    again = read_results(tmp_path)
    assert again == publishable(original)
    assert (again.scores, again.history, again.citations) == (original.scores, original.history, original.citations)
    assert again.settings == {"model": "encoder", "teachers": {"en": "en"}, "objective": "posterior"}
    assert original.settings["model"] == f"{PATH}/encoder"


def test_results_of_earlier_versions_make_a_card(tmp_path):
    """Danger: files written before a member was added are not read any more."""
    old = {"schema_version": 1, "settings": {}, "scores": {}, "comparison": {}, "seed": 1, "versions": {"a": "1"}}
    (tmp_path / "results.json").write_text(json.dumps(old))
    assert "# tagger" in redescribe(tmp_path).read_text()


def test_without_matplotlib_the_card_has_no_pictures(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hf_structkd.evaluation.plots", None)
    text = describe_student(tmp_path, run(1, 0.8)).read_text()
    assert "![" not in text
    assert "| posterior | 80.00 |" in text


def test_results_that_make_no_card_leave_a_minimal_one(tmp_path, caplog):
    broken = replace(run(1, 0.8), comparison={"test": {"no": "metric"}})
    assert "# tagger" in describe_student(tmp_path, broken).read_text()
    assert "KeyError" in caplog.text


def test_pictures_that_fail_cost_the_pictures_alone(tmp_path, monkeypatch, caplog):
    plots = pytest.importorskip("hf_structkd.evaluation.plots")
    monkeypatch.setattr(plots, "training_curves", lambda *args: 1 / 0)
    assert "| posterior | 80.00 |" in describe_student(tmp_path, run(1, 0.8)).read_text()
    assert "could not be drawn" in caplog.text


def test_a_folder_that_cannot_be_written_does_not_raise(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert describe.describe_student(tmp_path / "file", run(1, 0.8)) is None
    assert "could not be written" in caplog.text


def test_runs_that_cannot_be_compared_are_refused():
    other = replace(run(2, 0.7), objective={"name": "top_k"})
    with pytest.raises(ValueError, match="different objectives"):
        card_data(run(1, 0.8), [other])
    other = run(2, 0.7)
    del other.comparison["test"]["students"]["posterior"]
    with pytest.raises(ValueError, match=r"differ in rows or languages.*posterior"):
        card_data(run(1, 0.8), [other])


def test_tokens_are_blanked_wherever_they_stand():
    token = "hf_" + "x" * 30
    assert token not in json.dumps(asdict(publishable(RunResults(settings={"a": [f"a {token}"]}))))
    assert without_tokens(f"Bearer {token}") == "Bearer <token>"
    assert without_tokens("Bearer odd", "odd\n") == "Bearer <token>"
