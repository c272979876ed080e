"""Danger: a model takes continuation pieces for words, and tags half-words."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_structkd.modeling.word_starts import word_start_pieces


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


def test_a_tokenizer_of_another_model_is_refused(tokenizer):
    with pytest.raises(ValueError, match="do not belong together"):
        word_start_pieces(tokenizer, 10)


def test_a_tokenizer_without_word_marks_is_refused():
    backend = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(ValueError, match=r"no piece of .* carries a word marker"):
        word_start_pieces(PreTrainedTokenizerFast(tokenizer_object=backend), 2)
