"""Averages, the comparison table, results.json."""

import json
import math
import statistics

import numpy as np
import pytest

from hf_structkd.evaluation import (
    ComparisonReport,
    RunResults,
    macro_average,
    micro_average,
    read_results,
    results,
    strict_seqeval,
    word_accuracy,
    write_results,
)
from hf_structkd.evaluation.aggregate import mean_and_deviation, mean_report
from hf_structkd.evaluation.calibration import plot_reliability, reliability
from hf_structkd.evaluation.flips import flip_table, flips, pooled_flips
from hf_structkd.evaluation.results import measured_energy, peak_memory
from hf_structkd.training.card import curves, evaluation_reports, label_examples

REPORT = ComparisonReport(
    metric="f1",
    students={"posterior": {"en": 0.72, "de": 0.68}, "worse": {"en": 0.5, "de": 0.5}},
    teachers={"en": 0.8, "de": 0.7},
    baseline={"en": 0.7, "de": 0.6},
    split="test",
)


def test_macro_counts_languages_and_micro_counts_entities():
    gold = {"en": [["B-PER"]] * 9, "de": [["B-LOC"]]}
    guess = {"en": [["B-PER"]] * 9, "de": [["O"]]}
    reports = {language: strict_seqeval(guess[language], gold[language]) for language in gold}
    macro = macro_average(reports)
    assert (macro["f1"], macro["recall"]) == (0.5, 0.5)
    assert "number" not in macro
    micro = micro_average(reports)
    together = strict_seqeval(guess["en"] + guess["de"], gold["en"] + gold["de"])
    together.pop("accuracy")
    assert micro == together
    words = {language: word_accuracy(guess[language], gold[language]) for language in gold}
    assert micro_average(words) == word_accuracy(guess["en"] + guess["de"], gold["en"] + gold["de"])


def test_a_language_without_a_score_is_not_averaged_away():
    with pytest.raises(ValueError, match=r"'f1'.*'de'"):
        macro_average({"en": {"f1": 1.0}, "de": {"accuracy": 1.0, "f1_PER": 1.0}})
    with pytest.raises(ValueError, match="No languages"):
        macro_average({})
    with pytest.raises(ValueError, match=r"'en'.*counts"):
        micro_average({"en": {"f1": 1.0}})
    # a type that does not occur in a language has no score there
    average = macro_average({"en": {"f1": 1.0, "f1_PER": 1.0}, "de": {"f1": 0.0, "f1_PER": 0.5, "f1_LOC": 0.25}})
    assert average == {"f1": 0.5, "f1_PER": 0.75, "f1_LOC": 0.25}


def test_the_gap_closed():
    # (70 - 65) / (75 - 65)
    assert REPORT.gap_closed("posterior") == pytest.approx(0.5)
    assert REPORT.gap_closed("worse") == pytest.approx(-1.5)


@pytest.mark.parametrize(
    "missing",
    [{"baseline": None}, {"teachers": None}, {"teachers": {"en": 0.7, "de": 0.6}}, {"teachers": {"en": 0.1, "de": 0}}],
)
def test_no_gap_no_share(missing):
    report = ComparisonReport.from_dict(REPORT.to_dict() | missing)
    assert report.gap_closed("posterior") is None
    assert "n/a" in report.to_text()
    assert "n/a" in report.to_markdown()


def test_the_table_shows_every_row_in_percent():
    assert REPORT.to_markdown().splitlines() == [
        "|  | en | de | avg | gap closed |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| teachers | 80.00 | 70.00 | 75.00 |  |",
        "| baseline | 70.00 | 60.00 | 65.00 |  |",
        "| posterior | 72.00 | 68.00 | 70.00 | 50.0 % |",
        "| worse | 50.00 | 50.00 | 50.00 | -150.0 % |",
    ]
    text = str(REPORT).splitlines()
    assert text[0] == "f1 x 100 on test"
    assert [line.split()[0] for line in text[4:8]] == ["teachers", "baseline", "posterior", "worse"]
    assert text[2].index("de") + 2 == text[4].index("70.00") + 5  # columns line up
    assert all(line == line.rstrip() for line in text)


def test_rows_are_averaged_over_the_same_languages():
    # a zero-shot language has no teacher: averaging it for the student alone would compare different things
    report = ComparisonReport("f1", {"s": {"en": 0.72, "de": 0.68, "fo": 0.1}}, REPORT.teachers, REPORT.baseline)
    assert report.average("s") == pytest.approx(0.7)
    assert report.gap_closed("s") == pytest.approx(0.5)
    assert "avg is over en, de." in report.to_text()
    assert "avg is over en, de." in report.to_markdown()
    assert "| teachers | 80.00 | 70.00 | n/a |" in report.to_markdown()


def test_teachers_that_have_nothing_to_teach_are_named():
    # Danger: somebody trains teachers for too short a time, and sees "n/a" without a reason.
    weak = ComparisonReport("f1", REPORT.students, REPORT.baseline, REPORT.teachers)
    for text in (weak.to_text(), weak.to_markdown()):
        assert "The teachers are not better than the baseline" in text
    assert "not better" not in REPORT.to_text()
    assert "not better" not in ComparisonReport("f1", REPORT.students, None, REPORT.baseline).to_text()


def test_languages_can_be_ordered_but_not_lost():
    ordered = ComparisonReport("f1", {"s": {"en": 0.1, "de": 0.2}}, languages=["de", "en"])
    assert ordered.to_markdown().startswith("|  | de | en | avg |\n")
    with pytest.raises(ValueError, match="'de'"):
        ComparisonReport("f1", {"s": {"en": 0.1, "de": 0.2}}, languages=["en"])
    with pytest.raises(ValueError, match="Nothing to compare"):
        ComparisonReport("f1")
    with pytest.raises(ValueError, match="'baseline'"):
        ComparisonReport("f1", {"baseline": {"en": 0.1}})


def test_a_report_survives_json():
    again = ComparisonReport.from_dict(json.loads(json.dumps(REPORT.to_dict())))
    assert again == REPORT
    assert again.to_text() == REPORT.to_text()


def test_results_are_written_whole_and_read_back(tmp_path):
    run = RunResults(
        settings={"learning_rate": np.float32(0.5), "languages": ("en",)},
        scores={"test": {"student": {"en": {"f1": np.float64(0.5), "PER": {"f1": math.nan}}}}},
        comparison={"test": REPORT.to_dict()},
        seed=np.int64(3),
        train_sentences={"en": np.int64(5)},
        seconds={"student": np.float64(1.5)},
    )
    path = write_results(run, tmp_path / "new" / "run")
    assert path == tmp_path / "new" / "run" / "results.json"
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = read_results(path.parent)
    assert (again.seed, again.settings) == (3, {"learning_rate": 0.5, "languages": ["en"]})
    assert again.scores["test"]["student"]["en"] == {"f1": 0.5, "PER": {"f1": None}}
    assert {"python", "torch", "transformers", "datasets", "hf_structkd"} <= again.versions.keys()
    assert ComparisonReport.from_dict(again.comparison["test"]) == REPORT


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_results(RunResults(seed=1), tmp_path / "results.json")
    with pytest.raises(TypeError, match=r"results\.settings\.model"):
        write_results(RunResults(settings={"model": object()}), path)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(results.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results(RunResults(seed=2), path)
    assert read_results(path).seed == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ('{"schema_version": 99}', "schema 99"), ("[]", "schema None")],
)
def test_foreign_results_are_refused(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=rf"results\.json.*{message}"):
        read_results(tmp_path)


# Dangers: deviations that are none, curves of nothing, resources misread.


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


# Danger: a calibration error that flatters, because bins or outcomes are counted wrong.


def test_the_error_is_the_mean_gap_between_score_and_truth():
    found = reliability([0.95, 0.95, 0.95, 0.95, 0.25, 0.25], [True, True, True, False, False, True], bins=10)
    assert found.counts.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 4]
    assert found.ece == pytest.approx((4 * abs(0.75 - 0.95) + 2 * abs(0.5 - 0.25)) / 6)
    assert found.brier == pytest.approx(np.mean([0.05**2] * 3 + [0.95**2] + [0.25**2, 0.75**2]))
    bins = found.to_dict()["bins"]
    assert bins[9]["accuracy"] == 0.75
    assert bins[0]["accuracy"] is None


def test_scores_of_0_and_1_have_bins_and_honest_ones_no_error():
    found = reliability([0.0, 1.0, 1.0], [False, True, True])
    assert (found.counts[0], found.counts[-1], found.ece) == (1, 2, 0.0)
    generator = np.random.default_rng(0)
    scores = generator.random(20_000)
    assert reliability(scores, generator.random(20_000) < scores).ece < 0.02
    assert reliability(scores, generator.random(20_000) < scores**3).ece > 0.2


@pytest.mark.parametrize(
    ("scores", "right", "message"),
    [([], [], "at least one"), ([0.5], [True, False], "as many outcomes"), ([1.5], [True], "are probabilities")],
)
def test_what_is_no_probability_is_refused(scores, right, message):
    with pytest.raises(ValueError, match=message):
        reliability(scores, right)


def test_diagrams_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="needs the plots extra: matplotlib")
    plot_reliability(
        {"a": reliability([0.1, 0.9], [False, True]), "b": reliability([0.5], [True])}, tmp_path / "x.png"
    )
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


# Danger: an update that breaks what worked looks as good as one that does not, where only totals are compared.


GOLD = [["B-PER", "I-PER", "O"], ["O", "B-LOC"], ["O"], ["B-PER", "O", "B-LOC"]]
OLD = [["B-PER", "I-PER", "O"], ["O", "O"], ["O"], ["B-PER", "O", "O"]]
NEW = [["B-PER", "O", "O"], ["O", "B-LOC"], ["B-LOC"], ["B-PER", "O", "B-LOC"]]


def test_flips_are_counted_by_sentence_and_by_entity():
    report = flips(OLD, NEW, GOLD)
    assert report["sentences"] == {
        **{"number": 4, "right_before": 2, "right_now": 2, "lost": 2, "gained": 2},
        **{"negative_flip_rate": 1.0, "gain_rate": 1.0},
    }
    assert report["entities"] == {
        **{"number": 4, "right_before": 2, "right_now": 3, "lost": 1, "gained": 2},
        **{"negative_flip_rate": 0.5, "gain_rate": 1.0},
    }
    assert flips(OLD, OLD, GOLD)["entities"]["negative_flip_rate"] == 0.0


def test_bioes_and_plain_tags():
    bioes = lambda sentences: [[{"B-PER": "S-PER", "B-LOC": "S-LOC"}.get(t, t) for t in s] for s in sentences]  # noqa: E731
    gold, old, new = [["S-PER", "O"]], [["S-PER", "O"]], [["B-PER", "E-PER"]]
    assert flips(old, new, gold, "BIOES")["entities"]["lost"] == 1
    assert bioes([["B-LOC"]]) == [["S-LOC"]]
    plain = flips([["NOUN", "VERB"]], [["NOUN", "ADJ"]], [["NOUN", "ADJ"]], "plain")
    assert plain["words"]["gained"] == 1
    assert plain["words"]["negative_flip_rate"] == 0.0
    assert plain["sentences"]["negative_flip_rate"] is None, "nothing was right before"
    assert plain["sentences"]["gain_rate"] == 1.0


def test_languages_together_are_counts_not_means():
    one, other = flips(OLD, NEW, GOLD), flips(GOLD, GOLD, GOLD)
    pooled = pooled_flips({"en": one, "de": other})
    assert pooled["sentences"]["negative_flip_rate"] == 2 / 6
    assert pooled["entities"]["negative_flip_rate"] == 1 / 6
    text = flip_table({"new": {"en": one, "all": pooled}})
    assert "| new | en | 100.00 % (2 of 2) | 100.00 % (2 of 2) | 50.00 % (1 of 2) | 100.00 % (2 of 2) |" in text
    assert flip_table({}) is None


@pytest.mark.parametrize(
    ("old", "scheme", "message"),
    [
        (OLD[:2], "BIO", "2 predicted sentences, but 4 gold"),
        ([["X"], *OLD[1:]], "BIO", "Sentence 0 has 1 predicted"),
        ([["X", "O", "O"], *OLD[1:]], "BIO", "Sentence 0 has a tag that is not BIO"),
        (OLD, "IOB", "Unknown tag scheme"),
    ],
)
def test_what_cannot_be_compared_is_refused(old, scheme, message):
    with pytest.raises(ValueError, match=message):
        flips(old, NEW, GOLD, scheme)
