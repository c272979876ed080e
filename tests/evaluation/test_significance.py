"""Dangers: tests that find differences where there are none, or intervals that do not hold what they promise."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.evaluation import significance
from hf_structkd.evaluation.scores import strict_seqeval
from hf_structkd.evaluation.significance import (
    MeanScores,
    holm,
    macro_score,
    paired_bootstrap,
    paired_t_test,
    resampled_scores,
    score_of_counts,
    sentence_counts,
    sign_flip_test,
)


def test_t_test_is_scipys_with_its_interval():
    a, b = np.array([0.71, 0.73, 0.70, 0.74]), np.array([0.70, 0.71, 0.70, 0.71])
    found, expected = paired_t_test(a - b), stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.n == 4


@pytest.mark.parametrize(("differences", "p_value"), [([0.1, 0.1], 0.0), ([0.0, 0.0], 1.0)])
def test_t_test_of_constant_differences_is_no_nan(differences, p_value):
    assert paired_t_test(differences).p_value == p_value


def test_one_pair_has_no_p_value_and_none_is_an_error():
    assert np.isnan(paired_t_test([0.1]).p_value)
    assert np.isnan(sign_flip_test([0.1]))
    for test in (paired_t_test, sign_flip_test):
        with pytest.raises(ValueError, match="no pairs"):
            test([])


def test_sign_flips_are_counted_exactly():
    # All of one sign: of 2 ** 5 sign vectors two are as extreme.
    assert sign_flip_test([0.1, 0.2, 0.3, 0.1, 0.4]) == pytest.approx(2 / 32)
    # Signs of (3, -1, 1): |sum| at least 3 for the 3 with +1 -1, -1 +1 or +1 +1, and their negatives.
    assert sign_flip_test([3.0, -1.0, 1.0]) == pytest.approx(6 / 8)


def test_sign_flips_of_many_pairs_are_drawn_reproducibly():
    differences = np.random.default_rng(0).normal(0.2, 1.0, 30)
    found = sign_flip_test(differences)
    assert found == sign_flip_test(differences)
    assert found == pytest.approx(paired_t_test(differences).p_value, abs=0.03)


def test_holm_known_answer():
    # Holm's steps: 4 * 0.01, 3 * 0.02 -> 0.06, 2 * 0.03 -> 0.06 (never falling), 1 * 0.2.
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    corrected = holm([0.01, float("nan"), 0.04])
    assert corrected[0] == pytest.approx(0.02)
    assert np.isnan(corrected[1])


def test_holm_keeps_the_chance_of_a_false_discovery():
    rng = np.random.default_rng(1)
    families = rng.uniform(size=(2000, 6))
    false_discoveries = np.mean([min(holm(family)) < 0.05 for family in families])
    assert false_discoveries < 0.065
    assert np.mean(families.min(axis=1) < 0.05) > 0.2  # what uncorrected values would do


@pytest.mark.parametrize("scheme", ["BIO", "plain"])
def test_counts_add_up_to_the_corpus_score(scheme):
    gold = list(load_demo_corpus("en", "test", num_sentences=40)["tags"])
    guess = [[*tags[:-1], "O"] if i % 2 else ["O"] * len(tags) for i, tags in enumerate(gold)]
    counts = sentence_counts(guess, gold, scheme)
    assert counts.shape == (40, 2 if scheme == "plain" else 3)
    report = strict_seqeval(guess, gold)
    expected = report["accuracy" if scheme == "plain" else "f1"]
    assert 0 < expected < 1
    assert score_of_counts(counts.sum(axis=0)) == pytest.approx(expected)


def test_counts_refuse_sentences_that_do_not_match():
    with pytest.raises(ValueError, match="Sentence 0 has 1 predicted tags, but 2 gold tags"):
        sentence_counts([["O"]], [["O", "O"]], "BIO")
    with pytest.raises(ValueError, match="0 predicted sentences, but 1"):
        sentence_counts([], [["O"]], "BIO")
    with pytest.raises(ValueError, match=r"predictions\[0\] is 'B-PER'"):
        sentence_counts(["B-PER", "O"], [["B-PER", "O"]], "BIO")


def draw(rng, accuracy, seeds=4, sentences=200, deviation=0.0):
    """Word counts of runs whose accuracies vary by `deviation` from seed to seed."""
    words = rng.integers(3, 12, size=sentences)
    of_seed = accuracy + rng.normal(0, deviation, size=seeds) if deviation else np.full(seeds, accuracy)
    right = np.stack([rng.binomial(words, p) for p in of_seed])
    return np.stack([right, np.broadcast_to(words, right.shape)], axis=-1)


def test_a_tagger_does_not_differ_from_itself_and_a_better_one_does():
    rng = np.random.default_rng(2)
    base = {language: draw(rng, 0.7) for language in ("en", "de")}
    same = paired_bootstrap(base, base, resamples=200)
    assert (same.estimate, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    better = {language: draw(rng, 0.85) for language in ("en", "de")}
    found = paired_bootstrap(better, base, resamples=500)
    assert found.estimate == pytest.approx(macro_score(better) - macro_score(base))
    assert found.low < found.estimate < found.high
    assert found.low > 0.1
    assert found.p_value < 0.01
    assert paired_bootstrap(base, better, resamples=500).p_value < 0.01


def test_sentences_alone_hold_what_they_promise_where_seeds_do_not_vary():
    rng = np.random.default_rng(3)
    held = 0
    for trial in range(100):
        pair = [{"en": draw(rng, 0.8, seeds=8, sentences=150)} for _ in range(2)]
        found = paired_bootstrap(*pair, over_seeds=False, resamples=300, seed=trial)
        held += found.low <= 0 <= found.high
    assert held >= 89


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "deviation", "sentences"),
    [(3, 0.02, 500), (5, 0.02, 500), (10, 0.02, 300), (3, 0.01, 60), (5, 0.002, 60)],
)
def test_intervals_miss_the_truth_no_more_often_than_they_promise(seeds, deviation, sentences):
    """Danger: with few seeds, drawing seeds with replacement finds differences where there are none."""
    rng = np.random.default_rng(seeds)
    trials, gain, gap = 200, 0.03, 0.12
    discoveries = shares = defined = 0
    for trial in range(trials):
        better, base = ({"en": draw(rng, p, seeds, sentences, deviation)} for p in (0.7 + gain, 0.7))
        teachers = {"en": draw(rng, 0.7 + gap, seeds=1, sentences=sentences)}
        scores = MeanScores.of([better, base, teachers], resamples=80, seed=trial)
        share = scores.share_of_gap(0, 1, 2)
        if not np.isnan(share.estimate):
            defined += 1
            shares += not share.low <= gain / gap <= share.high
        null = MeanScores(scores.means - [gain, 0, 0], scores.over_seeds, scores.over_sentences, scores.runs)
        found = null.difference(0, 1)
        assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
        discoveries += found.p_value < 0.05
    # 5 % of 200 are 10, with a binomial deviation of 3; percentiles of drawn seeds have more where seeds vary most
    assert discoveries <= 19
    assert defined > 0.7 * trials
    assert shares <= 19


def test_one_seed_has_no_interval_and_equal_runs_are_certain():
    rng = np.random.default_rng(7)
    one, base, teachers = ({"en": draw(rng, p, seeds=1)} for p in (0.8, 0.7, 0.9))
    scores = MeanScores.of([one, base, teachers], resamples=100)
    for found in (scores.difference(0, 1), scores.share_of_gap(0, 1, 2)):
        assert found.estimate > 0
        assert np.isnan([found.low, found.high, found.p_value]).all()
    same = paired_bootstrap(base, base)
    assert np.isnan(same.p_value)


@pytest.mark.parametrize("teachers", [0.7, 0.705, 0.6])
def test_a_share_of_no_gap_is_not_defined(teachers):
    """Danger: where teachers are hardly better than the baseline, any share comes out, and any interval."""
    rng = np.random.default_rng(8)
    better, base = ({"en": draw(rng, p, seeds=5, deviation=0.01)} for p in (0.8, 0.7))
    scores = MeanScores.of([better, base, {"en": draw(rng, teachers, seeds=1)}], resamples=200)
    assert np.isnan(scores.share_of_gap(0, 1, 2).estimate)


def test_fiellers_interval_is_where_the_contrast_is_not_told_from_0():
    scores = MeanScores(np.array([0.74, 0.70, 0.80]), np.diag([4e-6, 5e-6, 0.0]), np.diag([1e-5, 1e-5, 1e-5]), runs=4)
    share = scores.share_of_gap(0, 1, 2)
    assert share.estimate == pytest.approx(0.4)
    for end in (share.low, share.high):
        # The difference (system - baseline) - end (teachers - baseline), written as one of two taggers.
        mixture = np.array([[1, 0, 0], [0, 1 - end, end]])
        contrast = MeanScores(
            mixture @ scores.means,
            mixture @ scores.over_seeds @ mixture.T,
            mixture @ scores.over_sentences @ mixture.T,
            runs=4,
        )
        assert contrast.difference(0, 1).p_value == pytest.approx(0.05)


def test_sentences_alone_would_be_overconfident_where_seeds_vary():
    rng = np.random.default_rng(4)
    pair = [{"en": draw(rng, 0.8, seeds=6, sentences=400, deviation=0.03)} for _ in range(2)]
    both, sentences = (paired_bootstrap(*pair, over_seeds=over, resamples=400) for over in (True, False))
    assert both.high - both.low > 1.5 * (sentences.high - sentences.low)


def test_teachers_with_one_run_share_the_resamples():
    rng = np.random.default_rng(5)
    base, teachers = {"en": draw(rng, 0.7)}, {"en": draw(rng, 0.9, seeds=1)}
    scores = resampled_scores([base, teachers], resamples=300)
    assert scores.shape == (2, 4, 300)
    assert (scores[1] - scores[0]).mean() == pytest.approx(macro_score(teachers) - macro_score(base), abs=0.01)
    assert np.ptp(scores[1], axis=0).max() == 0.0


def test_a_large_test_set_is_resampled_in_little_memory(monkeypatch):
    """The draws of a million sentences took 24 GB."""
    counts = np.random.default_rng(0).integers(0, 3, (2, 2, 20_000, 3))
    taggers = [{"en": counts[0], "de": counts[0][:, :300]}, {"en": counts[1], "de": counts[1][:, :300]}]
    tracemalloc.start()
    resampled = resampled_scores(taggers, resamples=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    monkeypatch.setattr(significance, "_DRAWS_AT_ONCE", 10**9)
    assert np.array_equal(resampled, resampled_scores(taggers, resamples=1000)), "the same draws"


def test_what_cannot_be_paired_is_refused():
    rng = np.random.default_rng(6)
    with pytest.raises(ValueError, match="must be the same, in order"):
        paired_bootstrap({"en": draw(rng, 0.5)}, {"de": draw(rng, 0.5)})
    with pytest.raises(ValueError, match="the same seeds and sentences"):
        paired_bootstrap({"en": draw(rng, 0.5, seeds=3)}, {"en": draw(rng, 0.5, seeds=4)})
