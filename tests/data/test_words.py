"""Dangers: a word without subwords loses its tag, labels slip by one, a wrong tag is silently taken for another."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_structkd.data.words import encode_corpus
from hf_structkd.modeling.subwords import tokenize_words

# What real text holds: zero-width and combining characters, no-break spaces, emoji, scripts the tokenizer never saw.
WORDS = st.text(alphabet=st.sampled_from("aB.9 ​‍́é中🙂ي️\x00­"), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(sentences=st.lists(st.lists(WORDS, min_size=1, max_size=6), min_size=1, max_size=3))
def test_every_word_has_exactly_one_first_subword(tokenizer, sentences):
    encoded = tokenize_words(sentences, tokenizer)
    for words, mask, ids in zip(sentences, encoded["word_mask"], encoded["input_ids"]):
        assert sum(mask) == len(words)
        assert len(mask) == len(ids)
        assert mask[0] == mask[-1] == 0  # special tokens


def test_a_word_that_tokenises_to_nothing_becomes_the_unknown_token(tokenizer):
    ids = tokenize_words([["Anna", "", "Paris"]], tokenizer)
    assert tokenizer.unk_token_id in ids["input_ids"][0]
    assert sum(ids["word_mask"][0]) == 3


def test_nothing_is_truncated(tokenizer):
    words = ["Boston"] * 5000
    assert sum(tokenize_words([words], tokenizer)["word_mask"][0]) == 5000


def test_a_sentence_without_words_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="sentence 1 has no words"):
        tokenize_words([["a"], []], tokenizer)


def test_labels_stand_on_first_subwords_in_order(tokenizer, labels, corpus):
    for row in encode_corpus(corpus, tokenizer, labels):
        on_words = [label for label, first in zip(row["labels"], row["word_mask"]) if first]
        assert [labels[label] for label in on_words] == row["tags"]
        assert all(label == -100 for label, first in zip(row["labels"], row["word_mask"]) if not first)


def test_class_labels_are_read_by_name_not_by_number(tokenizer, labels, corpus):
    names = list(reversed(labels))
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
    data = Dataset.from_dict(
        {"tokens": corpus["tokens"], "ner_tags": [[names.index(tag) for tag in tags] for tags in corpus["tags"]]},
        features=features,
    )
    assert encode_corpus(data, tokenizer, labels)["labels"] == encode_corpus(corpus, tokenizer, labels)["labels"]


def test_missing_tags_make_an_unlabelled_sentence(tokenizer):
    data = Dataset.from_dict({"tokens": [["a", "b"], ["c"]], "tags": [["O", "O"], None]})
    encoded = encode_corpus(data, tokenizer, ["O"])
    assert any(label == 0 for label in encoded[0]["labels"])
    assert all(label == -100 for label in encoded[1]["labels"])
    without = encode_corpus(data.remove_columns("tags"), tokenizer, ["O"])
    assert all(label == -100 for row in without["labels"] for label in row)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"tokens": [["a", "b"]], "tags": [["O", "B-X"]]},
            r"row 0: tag 'B-X' is not among the model's labels \['O'\]",
        ),
        ({"tokens": [["a", "b"]], "tags": [["O"]]}, "row 0 has 2 tokens and 1 tags"),
        ({"text": ["a b"]}, "needs a column 'tokens'"),
    ],
)
def test_bad_rows_are_named(tokenizer, columns, message):
    with pytest.raises(ValueError, match=message):
        encode_corpus(Dataset.from_dict(columns), tokenizer, ["O"])
