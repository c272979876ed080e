"""Danger: an update that breaks what worked looks as good as one that does not, where only totals are compared."""

import pytest

from hf_structkd.evaluation.flips import flip_table, flips, pooled_flips

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
