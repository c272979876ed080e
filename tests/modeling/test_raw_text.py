"""Danger: words of raw text that are not the words of corpora, or offsets that point elsewhere."""

import itertools
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_structkd import load_corpus
from hf_structkd.modeling.windows import content_mask, encode_in_windows, window_starts
from hf_structkd.modeling.words import drops_word_marks, split_words, tokenize_words, word_start_pieces
from tests.modeling import conftest

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


# Danger: a long text is cut, or a subword gets another position's vector.


def remember(ids, mask):
    """An 'encoder' whose vector is the subword itself, the window's length, and the distance to its edges."""
    place = torch.arange(ids.shape[1]).expand_as(ids)
    last = mask.sum(dim=1, keepdim=True) - 1
    return torch.stack((ids, torch.minimum(place, last - place)), dim=-1).float()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(3, 70), min_size=1, max_size=4), st.integers(5, 12), st.data())
def test_every_subword_keeps_its_own_vector(counts, window, data):
    overlap = data.draw(st.integers(0, window - 3))
    ids, mask = torch.zeros(len(counts), max(counts), dtype=torch.long), torch.zeros(len(counts), max(counts))
    for row, count in enumerate(counts):
        ids[row, :count] = torch.randperm(1000)[:count] + 5
        mask[row, :count] = 1
    vectors = encode_in_windows(remember, ids, mask, window=window, overlap=overlap)
    assert (vectors[..., 0] == ids * mask).all()


def test_overlap_gives_context_on_both_sides():
    ids = torch.arange(102)[None]
    vectors = encode_in_windows(remember, ids, torch.ones_like(ids), window=22, overlap=10)
    inner = vectors[0, 12:-12, 1]
    assert inner.min() >= 5  # at least half the overlap lies on the nearer side of every inner subword


def test_windows_cover_and_overlap_as_asked():
    starts = window_starts(100, 20, 5)
    covered = {i for start in starts for i in range(start, start + 20)}
    assert covered == set(range(100))
    assert all(b - a <= 15 for a, b in itertools.pairwise(starts))


def test_content_leaves_out_special_tokens_and_padding():
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    assert content_mask(mask).tolist() == [[False, True, True, False, False], [False] * 5]


@pytest.mark.parametrize(
    ("mask", "overlap", "message"),
    [([[0, 1, 1, 1, 1, 1, 1, 1]], 1, "padded on the right"), ([[1] * 8], 3, "window_overlap")],
)
def test_bad_input_is_named(mask, overlap, message):
    with pytest.raises(ValueError, match=message):
        encode_in_windows(remember, torch.ones(1, 8, dtype=torch.long), torch.tensor(mask), window=5, overlap=overlap)


# Danger: a model takes continuation pieces for words, and tags half-words.


MAKERS = {
    "wordpiece": conftest.wordpiece,
    "unigram": conftest.unigram,
    "byte-level": conftest.byte_level,
    "byte-level, prefix": lambda sentences: conftest.byte_level(sentences, add_prefix_space=True),
    "spaces as pieces": conftest.spaces_as_pieces,
}


@pytest.fixture(scope="module", params=MAKERS)
def kind(request, corpus):
    return request.param, MAKERS[request.param](list(corpus["tokens"]))


def wordpiece():
    vocabulary = {"[UNK]": 0, "[PAD]": 1, "par": 2, "##is": 3, "in": 4}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")


def test_wordpiece_continuations_are_told_by_their_prefix():
    assert word_start_pieces(wordpiece(), 6).tolist() == [True, False, True, False, True, False]


def test_metaspace_pieces_agree_with_the_tokenizers_own_word_ids(tokenizer, corpus):
    pieces = word_start_pieces(tokenizer, len(tokenizer))
    for words in corpus["tokens"][:20]:
        encoded = tokenizer(words, is_split_into_words=True)
        ids = encoded.word_ids()
        firsts = [word is not None and word != ids[i - 1] for i, word in enumerate(ids)]
        assert pieces[encoded["input_ids"]].tolist() == firsts
    assert not pieces[tokenizer.all_special_ids].any()


def test_every_kind_of_tokenizer_marks_the_words_that_the_collator_marks(kind, corpus):
    # But for the first word of a text, which may lack the mark and which the model takes for a word anyway.
    name, tokenizer = kind
    pieces = word_start_pieces(tokenizer, len(tokenizer))
    sentences = list(corpus["tokens"])
    if name == "wordpiece":  # it marks nothing inside 'second-hand', whose three parts look like words
        sentences = [[word for word in words if word.isalnum() or len(word) == 1] for words in sentences]
    encoded = tokenize_words(sentences, tokenizer)
    for words, ids, mask in zip(sentences, encoded["input_ids"], encoded["word_mask"]):
        assert sum(mask) == len(words)
        found = pieces[ids].tolist()
        assert found[2:] == [bool(first) for first in mask[2:]], words


def test_pre_split_words_become_the_pieces_of_running_text(kind, corpus):
    # Byte-level BPE without a prefix space gives a pre-split word no mark; pieces from mid-word, to the encoder.
    name, tokenizer = kind
    assert drops_word_marks(tokenizer) == (name in ("byte-level", "spaces as pieces"))
    sentences = list(corpus["tokens"])
    running = tokenizer([" ".join(words) for words in sentences])["input_ids"]
    assert tokenize_words(sentences, tokenizer)["input_ids"] == running


def test_a_word_that_is_empty_or_starts_with_a_space_keeps_its_place(kind):
    _, tokenizer = kind
    encoded = tokenize_words([["Anna", "", " Paris", "\u200d", "\u00a0x"]], tokenizer)
    assert sum(encoded["word_mask"][0]) == 5


def test_saving_a_tokenizer_does_not_change_its_words(kind, corpus, tmp_path):
    _, tokenizer = kind
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert tokenize_words(corpus["tokens"][:5], again) == tokenize_words(corpus["tokens"][:5], tokenizer)
    assert (
        json.loads(again.backend_tokenizer.to_str())["model"]
        == json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    )


def test_a_tokenizer_of_another_model_is_refused(tokenizer):
    with pytest.raises(ValueError, match="do not belong together"):
        word_start_pieces(tokenizer, 10)


def test_a_tokenizer_without_word_marks_is_refused():
    backend = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(ValueError, match=r"no piece of .* carries a word marker"):
        word_start_pieces(PreTrainedTokenizerFast(tokenizer_object=backend), 2)
