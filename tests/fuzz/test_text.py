"""Danger: a text that makes the pipeline crash, hang, lose words or say where nothing is."""

import random
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_structkd import CRFTokenClassificationPipeline
from hf_structkd.modeling.words import split_words, tokenize_words
from tests.conftest import draw_student
from tests.fuzz.fuzzing import AWKWARD, TEXT, fuzz, only_our_errors

WORDS = st.lists(st.one_of(TEXT, st.sampled_from(AWKWARD), st.sampled_from(["a" * 300, "\u0301" * 200, "क्षि" * 60])),
                 max_size=8)  # fmt: skip
TEXTS = st.one_of(TEXT, WORDS.map(" ".join), WORDS.map("".join))
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "top_k": st.integers(1, 4),
        "marginals": st.booleans(),
        "entropy": st.booleans(),
        "threshold": st.floats(0, 1),
    },
)


@pytest.fixture(scope="module")
def pipe(tokenizer, labels):
    return CRFTokenClassificationPipeline(model=draw_student(tokenizer, labels), tokenizer=tokenizer)


def check_place(part, text):
    assert 0 <= part["start"] <= part["end"] <= len(text)
    assert text[part["start"] : part["end"]] == part["word"]


def check(answer, text, words, labels, options):
    """Probabilities are probabilities, places are places, and every word is accounted for."""
    analyses = [answer["entities"], *(analysis["entities"] for analysis in answer.get("top_k", []))]
    for entities in analyses:
        last = 0
        for entity in entities:
            check_place(entity, text)
            assert last <= entity["start_word"] < entity["end_word"] <= words
            assert options.get("threshold", 0) <= entity["score"] <= 1 + 1e-6
            last = entity["end_word"]
    scores = [analysis["score"] for analysis in answer.get("top_k", [])]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 + 1e-6 for score in scores)
    assert sum(scores) <= 1 + 1e-5
    if options.get("marginals"):
        assert len(answer["marginals"]) == words
        for word in answer["marginals"]:
            check_place(word, text)
            assert list(word["scores"]) == labels
            assert all(0 <= p <= 1 + 1e-6 for p in word["scores"].values())
            assert abs(sum(word["scores"].values()) - 1) < 1e-4
    if options.get("entropy"):
        assert answer["entropy"] >= 0


@fuzz(0.25)
@given(st.lists(TEXTS, min_size=1, max_size=3), OPTIONS)
def test_texts(pipe, labels, texts, options):
    for text, answer in zip(texts, pipe(texts, **options), strict=True):
        check(answer, text, len(split_words(text)), labels, options)


@fuzz(0.25)
@given(st.lists(WORDS, min_size=1, max_size=3), OPTIONS)
def test_sentences_of_words(pipe, labels, sentences, options):
    answers = pipe(sentences, is_split_into_words=True, **options)
    for words, answer in zip(sentences, answers, strict=True):
        check(answer, " ".join(words), len(words), labels, options)


@fuzz(0.1)
@given(st.recursive(st.one_of(st.none(), st.integers(), st.floats(), st.binary(max_size=3), TEXT),
                    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=2)),
                    max_leaves=4), st.one_of(st.none(), st.booleans()))  # fmt: skip
def test_inputs_of_any_type(pipe, inputs, split):
    with only_our_errors(kinds=(TypeError, ValueError)):
        list(pipe(inputs, is_split_into_words=split))


@fuzz()
@given(TEXTS)
def test_splitting(text):
    """Words follow one another, are not empty, and leave out nothing that can be seen."""
    position, rest = 0, []
    for start, end in split_words(text):
        assert position <= start < end <= len(text)
        rest.append(text[position:start])
        position = end
    rest.append(text[position:])
    assert not any(character.isalnum() for character in "".join(rest))


@fuzz()
@given(st.lists(WORDS, min_size=1, max_size=3))
def test_words_keep_their_places(tokenizer, sentences):
    with only_our_errors():
        encoded = tokenize_words(sentences, tokenizer)
        for words, mask in zip(sentences, encoded["word_mask"], strict=True):
            assert sum(mask) == len(words)
            assert (mask[0], mask[-1]) == (0, 0)


KINDS = {
    "zero-width": "a\u200bb",
    "only-zero-width": "\u200b",
    "combining": "e\u0301\u0301\u0301",
    "lone-combining": "\u0301 \u0301",
    "emoji": "👩\u200d👩\u200d👧 🇩🇪 ☺\ufe0f",
    "right-to-left": "שלום \u0645\u0631\u062d\u0628\u0627 \u202eabc",
    "control": "a\0b\x1b[0m",
    "surrogates": "\ud800 a \udc00",
    "long": "a" * 20_000,
    "long-combining": "\u0301" * 5_000,
    "long-han": "日" * 3_000,
    "blanks": " " * 10_000,
    "bom": "\ufeffAnna",
    "crlf": "a\r\nb\rc",
    "empty": "",
}


@pytest.mark.parametrize("text", KINDS.values(), ids=KINDS)
def test_named_kinds_of_text(pipe, labels, text):
    everything = {"top_k": 2, "marginals": True, "entropy": True}
    check(pipe(text, **everything), text, len(split_words(text)), labels, everything)
    words = text.split(" ")
    check(pipe(words, is_split_into_words=True, **everything), text, len(words), labels, everything)


def test_splitting_takes_time_in_proportion():
    """A regular expression that backtracks would take minutes where it takes milliseconds."""
    generator = random.Random(0)
    for unit in ("a'", "1.", "n't", "l'a", "a-", "U.", "'s", "e\u0301", "!?", "\u200d", "क्"):
        text = unit * 20_000
        started = perf_counter()
        split_words(text[: len(text) - generator.randrange(3)])
        assert perf_counter() - started < 10, unit
