"""Dangers: deviations that are none, curves of nothing, resources misread."""

import statistics

import pytest

from hf_structkd.data.label_examples import label_examples
from hf_structkd.evaluation.aggregate import mean_and_deviation, mean_report
from hf_structkd.evaluation.report import ComparisonReport
from hf_structkd.evaluation.resources import measured_energy, peak_memory
from hf_structkd.training.card import curves, evaluation_reports


def report(student: float, **more) -> ComparisonReport:
    languages = {"en": student, "de": student - 0.1}
    options = {"teachers": {"en": 0.9, "de": 0.8}, "baseline": {"en": 0.5, "de": 0.4}, "split": "test"}
    return ComparisonReport("f1", {"s": languages}, **{**options, **more})


def test_several_runs_are_their_mean_with_the_sample_deviation():
    runs = [report(0.7), report(0.72), report(0.77)]
    mean = mean_report(runs)
    assert mean.students["s"]["en"] == pytest.approx(0.73)
    assert mean.deviations["s"]["de"] == pytest.approx(statistics.stdev([0.6, 0.62, 0.67]))
    assert mean.deviations["s"]["avg"] == pytest.approx(statistics.stdev([0.65, 0.67, 0.72]))
    assert set(mean.deviations) == {"s"}, "the same teachers in all runs do not deviate"
    assert "73.00 ± 3.61" in mean.to_markdown()
    assert ComparisonReport.from_dict(mean.to_dict()) == mean


def test_one_run_has_no_deviation_and_runs_that_differ_no_mean():
    assert mean_report([report(0.7)]).to_markdown() == report(0.7).to_markdown()
    assert mean_and_deviation([0.5]) == (0.5, None)
    with pytest.raises(ValueError, match="rows or languages"):
        mean_report([report(0.7), report(0.7, teachers=None)])
    with pytest.raises(ValueError, match="differ"):
        mean_report([report(0.7), report(0.7, split="dev")])
    with pytest.raises(ValueError, match="No runs"):
        mean_report([])


@pytest.mark.slow
def test_pictures_are_of_what_was_logged(tmp_path):
    plots = pytest.importorskip("hf_structkd.evaluation.plots")
    pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")
    assert plots.training_curves([], tmp_path / "none.png") is None
    assert plots.training_curves([{"step": 1.0}], tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()
    history = [{"step": i, "loss": 1 / i, "loss_nll": 1 / i} for i in range(1, 5)] + [{"step": 4, "eval_en_f1": 0.5}]
    first = plots.training_curves(history, tmp_path / "a.png").read_bytes()
    assert plots.training_curves(history, tmp_path / "b.png").read_bytes() == first
    assert plots.training_curves(history[:-1], tmp_path / "c.png").read_bytes() != first
    one = plots.language_gap_chart(report(0.7), tmp_path / "d.png").read_bytes()
    many = plots.language_gap_chart(mean_report([report(0.6), report(0.8)]), tmp_path / "e.png").read_bytes()
    assert one != many, "deviations are not to be seen"


def test_history_keeps_the_curves_and_thins_them_out():
    log = [{"step": i, "epoch": i / 10, "loss": 1.0, "loss_nll": 0.5, "grad_norm": 3.0} for i in range(2000)]
    log += [{"step": 2000, "eval_en_f1": 0.5, "eval_en_accuracy": 0.9, "eval_runtime": 1.0}, {"eval_ta_accuracy": 0.7}]
    kept = curves(log)
    assert 250 <= len(kept) <= 502
    assert kept[0] == {"step": 0, "epoch": 0.0, "loss": 1.0, "loss_nll": 0.5}
    assert kept[-2:] == [{"step": 2000, "eval_en_f1": 0.5}, {"eval_ta_accuracy": 0.7}]


def test_the_scores_of_one_evaluation_are_found():
    log = [
        {"step": 1, "eval_en_f1": 0.1}, {"step": 2, "eval_en_f1": 0.2, "eval_en_f1_PER": 0.3, "eval_en_loss": 1.0},
        {"step": 3, "eval_en_f1": 0.15},
    ]  # fmt: skip
    assert evaluation_reports(log, ["en", "de"], "f1", 2) == {"en": {"f1": 0.2, "by_type": {"PER": {"f1": 0.3}}}}
    assert evaluation_reports(log, ["en"], "f1") == {"en": {"f1": 0.15}}


def test_label_examples_are_frequent_and_typical_words():
    sentences = [
        (["Clara", "Weber", "of", "Bremen", "3"], ["B-PER", "I-PER", "O", "B-LOC", "O"]),
        (["Clara", "of", "Bank", "of", "Bremen"], ["B-PER", "O", "B-ORG", "I-ORG", "I-ORG"]),
        (["Secret", "of", "Weber"], ["B-PER", "O", "I-PER"]),
        (["unlabelled"], None),
    ]
    labels = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC"]
    # once is no example, and "of" is mostly outside
    assert label_examples(sentences, labels) == {"B-PER": ["Clara"], "I-PER": ["Weber"]}


def test_memory_and_energy(tmp_path):
    assert peak_memory()["peak_rss_mib"] > 20
    assert measured_energy(tmp_path) == {}
    (tmp_path / "emissions.csv").write_text("timestamp,emissions,energy_consumed\na,0.1,0.5\nb,0.2,0.25\n")
    assert measured_energy(tmp_path) == pytest.approx({"kwh": 0.75, "co2_kg": 0.3})
    (tmp_path / "emissions.csv").write_text("another,file\n1,2\n")
    assert measured_energy(tmp_path) == {}
