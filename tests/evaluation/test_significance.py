"""Dangers: tests that find differences where there are none, or intervals that do not hold what they promise."""

import numpy as np
import pytest
from scipy import stats

from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.evaluation.seqeval_metric import strict_seqeval
from hf_structkd.evaluation.significance import (
    bootstrap_scores,
    holm,
    macro_score,
    paired_bootstrap,
    paired_t_test,
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


@pytest.mark.parametrize("over_seeds", [False, True])
def test_intervals_hold_the_truth_as_often_as_they_promise(over_seeds):
    """Two taggers that are equally good; with seeds that vary only the interval over seeds too may be trusted."""
    rng = np.random.default_rng(3)
    held = 0
    for trial in range(100):
        deviation = 0.03 if over_seeds else 0.0
        pair = [{"en": draw(rng, 0.8, seeds=8, sentences=150, deviation=deviation)} for _ in range(2)]
        found = paired_bootstrap(*pair, over_seeds=over_seeds, resamples=300, seed=trial)
        held += found.low <= 0 <= found.high
    assert held >= 84  # percentile intervals of 8 seeds are a little narrow: about 91 %


def test_sentences_alone_would_be_overconfident_where_seeds_vary():
    rng = np.random.default_rng(4)
    pair = [{"en": draw(rng, 0.8, seeds=6, sentences=400, deviation=0.03)} for _ in range(2)]
    both, sentences = (paired_bootstrap(*pair, over_seeds=over, resamples=400) for over in (True, False))
    assert both.high - both.low > 1.5 * (sentences.high - sentences.low)


def test_teachers_with_one_run_share_the_resamples():
    rng = np.random.default_rng(5)
    base, teachers = {"en": draw(rng, 0.7)}, {"en": draw(rng, 0.9, seeds=1)}
    scores = bootstrap_scores([base, teachers], resamples=300)
    assert scores.shape == (2, 300)
    assert (scores[1] - scores[0]).mean() == pytest.approx(macro_score(teachers) - macro_score(base), abs=0.01)


def test_what_cannot_be_paired_is_refused():
    rng = np.random.default_rng(6)
    with pytest.raises(ValueError, match="must be the same, in order"):
        paired_bootstrap({"en": draw(rng, 0.5)}, {"de": draw(rng, 0.5)})
    with pytest.raises(ValueError, match="the same seeds and sentences"):
        paired_bootstrap({"en": draw(rng, 0.5, seeds=3)}, {"en": draw(rng, 0.5, seeds=4)})
