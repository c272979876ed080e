"""The tokenizer trained for languages without an encoder: XLM-R's shape, words recoverable, always the same."""

import pytest
from transformers import AutoTokenizer

from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def sentences():
    return [tokens for language in ("en", "ru", "hi") for tokens in load_demo_corpus(language, "dev")["tokens"]]


@pytest.fixture(scope="module")
def tokenizer(sentences):
    return train_tokenizer(sentences, vocab_size=800, model_max_length=128)


def test_shape(tokenizer):
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert tokenizer.mask_token_id == len(tokenizer) - 1
    assert len(tokenizer) <= 800
    assert tokenizer.model_max_length == 128
    ids = tokenizer(["Hallo"], is_split_into_words=True)["input_ids"]
    assert (ids[0], ids[-1]) == (0, 2)


def test_words_are_recoverable(tokenizer, sentences):
    """Labels are aligned through word_ids(): every word needs at least one piece, in order."""
    for words in sentences:
        encoding = tokenizer(words, is_split_into_words=True)
        assert list(dict.fromkeys(i for i in encoding.word_ids() if i is not None)) == list(range(len(words)))


def test_same_words_same_tokenizer(sentences, tokenizer, tmp_path):
    again = train_tokenizer(iter(sentences), vocab_size=800, model_max_length=128)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    words = ["नई", "दिल्ली", "Москва", "(", "xyz", "\u4e2d"]
    expected = tokenizer(words, is_split_into_words=True)
    for other in (again, loaded):
        encoding = other(words, is_split_into_words=True)
        assert (encoding.word_ids(), encoding["input_ids"]) == (expected.word_ids(), expected["input_ids"])


def test_refuses(sentences):
    with pytest.raises(ValueError, match="No sentences"):
        train_tokenizer([], 100)
    with pytest.raises(ValueError, match="too small"):
        train_tokenizer(sentences, 20)


def test_offsets_into_raw_text_are_those_of_the_words(tokenizer):
    """Danger: an entity of the stock pipeline that begins with the space before it."""
    text = "Ada  lives in Amsterdam"
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    covered = {place for start, end in encoding["offset_mapping"] for place in range(start, end)}
    assert covered == {place for place, character in enumerate(text) if character != " "}
    words = tokenizer(text.split(), is_split_into_words=True, add_special_tokens=False)
    assert encoding["input_ids"] == words["input_ids"]
