"""Danger: words of raw text that are not the words of corpora, or offsets that point elsewhere."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_structkd import load_corpus
from hf_structkd.modeling.words import split_words

SHARED = Path(__file__).parents[3] / "shared" / "data" / "ner"


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in split_words(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Anna (née Weiß), of St. Kitts.", ["Anna", "(", "née", "Weiß", ")", ",", "of", "St", ".", "Kitts", "."]),
        ("Zuid-Afrika O'Neill rock'n'roll", ["Zuid-Afrika", "O'Neill", "rock'n'roll"]),
        ("3.14 1,000 6–3 18:30, 77%", ["3.14", "1,000", "6–3", "18:30", ",", "77", "%"]),
        ("J. F. Kennedy of the U.S. said", ["J.", "F.", "Kennedy", "of", "the", "U.S.", "said"]),
        ("Boston's won’t don't we'll", ["Boston", "'s", "wo", "n’t", "do", "n't", "we", "'ll"]),
        ("l'Italie qu’il aujourd'hui", ["l'", "Italie", "qu’", "il", "aujourd'hui"]),
        ("''Die Welt'' ... ja!!!", ["''", "Die", "Welt", "''", "...", "ja", "!!!"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा", "।"]),  # vowel signs are marks, not letters
        ("cafe\u0301's", ["cafe\u0301", "'s"]),
        ("東京タワーは日本", ["東", "京", "タワー", "は", "日", "本"]),
        ("中文Python混合", ["中", "文", "Python", "混", "合"]),
        ("한국어 텍스트.", ["한국어", "텍스트", "."]),
        ("שלום مرحبا", ["שלום", "مرحبا"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),  # a joiner is part of the word
        ("a\u200bb\ufeff c\u00a0d\u3000e", ["a", "b", "c", "d", "e"]),
        ("a\x00b\x07\r\nc", ["a", "b", "c"]),
        ("👨\u200d👩\u200d👧 hi😀", ["👨\u200d👩\u200d👧", "hi", "😀"]),
        (" \u0e31 a \u0301", ["\u0e31", "a", "\u0301"]),  # marks without a letter, after a space
        ("", []),
        (" \t\n\u200b\x00", []),
    ],
)
def test_words_are_cut_as_corpora_cut_them(text, expected):
    assert words(text) == expected


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_words_are_in_order_without_spaces_and_cover_all_that_is_visible(text):
    spans = split_words(text)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    covered = {i for start, end in spans for i in range(start, end)}
    assert not any(text[i].isspace() for i in covered)
    assert all(i in covered for i, character in enumerate(text) if character.isalnum())


@pytest.mark.parametrize("piece", ["a", "'", "a-", "\u0301", "n't", "A.", "日", "1,", " ", "a'"])
def test_long_runs_take_linear_time(piece):
    # A regular expression that backtracks would take hours.
    split_words(piece * 50_000)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared corpora, which are not here")
@pytest.mark.parametrize("language", ["en", "de", "es", "nl"])
@pytest.mark.slow
def test_real_corpora_words_stay_whole(language):
    corpus = load_corpus(f"{SHARED}/wikiann/{language}/test.conll.gz", language=language)
    tokens = [token for sentence in corpus["tokens"][:2000] for token in sentence]
    whole = sum(len(split_words(token)) == 1 for token in tokens)
    assert whole / len(tokens) > 0.98
