"""Dangers: other words than the model was trained with, words that are not those of the text, offsets elsewhere."""

import importlib.util

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_structkd.modeling import segmenters, unspaced_scripts
from hf_structkd.modeling.segmenters import SegmenterError, get_segmenter
from hf_structkd.modeling.taggers import XLMRobertaCRFConfig
from hf_structkd.modeling.words import split_words

LIBRARIES = {
    "icu": "icu",
    "rules+icu": "icu",
    "jieba": "jieba",
    "pythainlp": "pythainlp",
    "spacy:xx": "spacy",
    "spacy:en": "spacy",
}
NAMES = ["rules", "whitespace", "characters", *LIBRARIES]
MIXED = st.text(
    st.sampled_from(
        "abX1 é’'\n\r\t\u3000\u00a0שלמابن北京カナ서울กรุงเ\u0e31\U0001f600\U0001f1e9\u200d\u200b\ufeff\u0301.,-#@"
    ),
    max_size=60,
)


@pytest.fixture(params=NAMES)
def segmenter(request):
    if package := LIBRARIES.get(request.param):
        pytest.importorskip(package, reason=f"needs {package}, an extra of the package")
    return get_segmenter(request.param)


def test_words_cover_every_visible_character_in_order(segmenter):
    """Danger: a library normalises, drops or reorders characters, or counts other units."""

    @settings(max_examples=80, deadline=None)
    @given(MIXED)
    def check(text):
        position = 0
        for start, end in segmenter(text):
            assert position <= start < end <= len(text)
            assert not segmenters._VISIBLE.search(text, position, start)
            position = end
        assert not segmenters._VISIBLE.search(text, position)

    check()


def test_what_each_built_in_segmenter_does():
    text = "Olu's e\u0301t\xe9 — ok"
    words = {name: [text[a:b] for a, b in get_segmenter(name)(text)] for name in ("rules", "whitespace", "characters")}
    assert words["rules"] == ["Olu", "'s", "e\u0301t\xe9", "—", "ok"]
    assert words["whitespace"] == ["Olu's", "e\u0301t\xe9", "—", "ok"]
    assert words["characters"] == ["O", "l", "u", "'", "s", "e\u0301", "t", "\xe9", "—", "o", "k"]
    assert get_segmenter("rules") is split_words


@pytest.mark.parametrize("name", ["rules", "whitespace", "characters", "icu", "rules+icu"])
def test_a_long_document_takes_linear_time(name):
    """Danger: 100,000 words take minutes. (The time itself is not compared; quadratic code would not end.)"""
    if name.endswith("icu"):
        pytest.importorskip("icu", reason="needs PyICU, the `icu` extra")
    text = "Kano \U0001f600 hums. " * 25_000 + "กรุงเทพ."
    words = get_segmenter(name)(text)
    assert len(words) >= 75_000
    assert text[slice(*words[-1])][-1] == "."


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda text: ["Olu"], r"lost the character 'h' at 4, in 'Olu hums'"),
        (
            lambda text: ["hums", "Olu"],
            "lost the character 'O' at 0|which does not stand in the text from character 8",
        ),
        (lambda text: ["Olu", "hum", "z"], "gave 'z', which does not stand"),
        (lambda text: [(0, 3), (2, 8)], "from character 2 to 8, after one that ends at 3"),
        (lambda text: [(0, 3), (4, 9)], "in a text of 8 characters"),
        (lambda text: [(0, 0), (0, 8)], "from character 0 to 0"),
        (lambda text: [0, 3], "gave 0 where a part"),
        (lambda text: ["", "Olu"], "gave ''"),
    ],
)
def test_a_function_whose_words_are_not_those_of_the_text(function, message):
    with pytest.raises(SegmenterError, match=message):
        get_segmenter(function)("Olu hums")


def test_functions_may_give_words_or_offsets():
    text = " Olu \u200b hums\n"
    assert get_segmenter(str.split)(text) == [(1, 4), (7, 11)]
    assert get_segmenter(lambda text: [(1, 4), (5, 6), (7, 11)])(text) == [(1, 4), (7, 11)]


class TestRulesAndIcu:
    """Dangers: ICU's words where the rules know better, or the rules' where only a dictionary does."""

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("Olu's U.S. \U0001f600 한국어", ["Olu", "'s", "U.S.", "\U0001f600", "한국어"]),
            ("我爱北京。", ["我", "爱", "北", "京", "。"]),
            ("\U0001f600日本のカナで don't", ["\U0001f600", "日本", "の", "カナ", "で", "do", "n't"]),
            ("กรุงเทพ และ AB", ["กรุงเทพ", "และ", "AB"]),
            ("ລາວ ខ្ញុំស្រលាញ់ភ្នំពេញ", ["ລາວ", "ខ្ញុំ", "ស្រលាញ់", "ភ្នំពេញ"]),
        ],
    )
    def test_each_script_has_its_words(self, text, words):
        pytest.importorskip("icu", reason="needs PyICU, the `icu` extra")
        assert [text[a:b] for a, b in get_segmenter("rules+icu")(text)] == words

    def test_only_texts_of_such_scripts_need_icu(self, monkeypatch):
        def missing(name):
            raise ModuleNotFoundError(f"No module named {name!r}")

        monkeypatch.setattr(unspaced_scripts, "import_module", missing)
        unspaced_scripts._breaker.cache_clear()
        assert get_segmenter("rules+icu")("Olu's") == [(0, 3), (3, 5)]
        with pytest.raises(SegmenterError, match=r"'rules\+icu' need PyICU: pip install 'hf_structkd\[icu\]'"):
            get_segmenter("rules+icu")("กรุงเทพ")


def test_unknown_and_missing_segmenters_are_named(monkeypatch):
    with pytest.raises(SegmenterError, match=r"unknown segmenter 'rulse'. Did you mean 'rules'\?"):
        get_segmenter("rulse")
    for name in ("icu:th", "spacy", "rules:x", ""):
        with pytest.raises(SegmenterError, match="unknown segmenter"):
            get_segmenter(name)
    with pytest.raises(SegmenterError, match="must be the name of a segmenter or a function, not int"):
        get_segmenter(3)

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(segmenters, "import_module", missing)
    monkeypatch.setattr(unspaced_scripts, "import_module", missing)
    segmenters._named.cache_clear()
    for name, extra in {"icu": "icu", "jieba": "chinese", "pythainlp": "thai", "spacy:de": "spacy"}.items():
        with pytest.raises(SegmenterError, match=rf"pip install 'hf_structkd\[{extra}\]'"):
            get_segmenter(name)
    segmenters._named.cache_clear()


def test_entry_points_add_segmenters(monkeypatch):
    class Point:
        name = "halves"

        def load(self):
            return lambda text: [text[: len(text) // 2], text[len(text) // 2 :]]

    monkeypatch.setattr(segmenters, "entry_points", lambda group: [Point()] if group.endswith("segmenters") else [])
    segmenters._named.cache_clear()
    assert get_segmenter("halves")("abcd") == [(0, 2), (2, 4)]
    segmenters._named.cache_clear()


def test_spacy_without_such_a_language():
    if importlib.util.find_spec("spacy") is None:
        pytest.skip("needs spaCy, the `spacy` extra")
    with pytest.raises(SegmenterError, match="spaCy has no language 'zz'"):
        get_segmenter("spacy:zz")


def test_a_configuration_stores_names_alone():
    assert XLMRobertaCRFConfig().words == "rules"
    assert XLMRobertaCRFConfig.from_dict(XLMRobertaCRFConfig(words="icu").to_dict()).words == "icu"
    with pytest.raises(ValueError, match="words must be the name of a segmenter, not function"):
        XLMRobertaCRFConfig(words=str.split and (lambda text: []))
