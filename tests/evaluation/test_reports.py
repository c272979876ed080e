"""Averages, the comparison table, results.json."""

import json
import math

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
