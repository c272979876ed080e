"""Danger: languages drawn in other proportions than asked, or in another order on another process."""

from collections import Counter

import pytest

from hf_structkd.data.sampling import LanguageTemperatureSampler, language_counts

LANGUAGES = ["en"] * 80 + ["ta"] * 20


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, (80, 20)), (float("inf"), (50, 50)), (2.0, (67, 33))])
def test_counts_follow_the_temperature(temperature, expected):
    drawn = Counter(LANGUAGES[row] for row in LanguageTemperatureSampler(LANGUAGES, temperature))
    assert (drawn["en"], drawn["ta"]) == expected


def test_no_sentence_is_drawn_twice_before_its_language_is_used_up():
    rows = Counter(LanguageTemperatureSampler(LANGUAGES, float("inf")))
    assert max(rows[row] for row in range(80)) == 1
    assert {rows[row] for row in range(80, 100)} == {2, 3}


def test_the_order_depends_on_seed_and_epoch_alone():
    first, second = (LanguageTemperatureSampler(LANGUAGES, 2.0, seed=1) for _ in range(2))
    assert list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    assert list(LanguageTemperatureSampler(LANGUAGES, 2.0, seed=2)) != list(first)


def test_counts_add_up_whatever_is_rounded():
    for total in range(1, 40):
        assert sum(language_counts([3, 5, 7, 11], total, 3.0)) == total


@pytest.mark.parametrize(("languages", "temperature", "message"), [(["en"], 0, "above 0"), ([], 1, "no sentences")])
def test_bad_input_is_named(languages, temperature, message):
    with pytest.raises(ValueError, match=message):
        LanguageTemperatureSampler(languages, temperature)
