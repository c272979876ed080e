"""Danger: a calibration error that flatters, because bins or outcomes are counted wrong."""

import numpy as np
import pytest

from hf_structkd.evaluation.calibration import plot_reliability, reliability


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
