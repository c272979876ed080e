"""Danger: a model takes continuation pieces for words, and tags half-words."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_structkd.modeling.words import drops_word_marks, tokenize_words, word_start_pieces
from tests.modeling import conftest

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
