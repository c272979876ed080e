"""Dangers: rewriting leaks gold tags, changes what it must not, mixes languages, or draws differently each time."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_structkd.data.augmentation import Augmentation, VocabularyWords, augment, script_of
from hf_structkd.data.unlabelled import has_gold, mix_unlabelled

NOTHING = {"copies": 1, "mention_rate": 0.0, "word_rate": 0.0, "vocabulary_rate": 0.0}


def two_languages():
    return Dataset.from_dict(
        {
            "tokens": [["Anna", "Lee", "saw", "Rome"], ["nobody", "came"], ["Москва", "и", "Анна", "Ли"]],
            "tags": [["B-PER", "I-PER", "O", "B-LOC"], ["O", "O"], ["B-LOC", "O", "B-PER", "I-PER"]],
            "language": ["en", "en", "ru"],
        }
    )


def test_nothing_to_replace_gives_the_sentences_without_their_gold():
    corpus = two_languages()
    rewritten = augment(corpus, Augmentation(**NOTHING | {"copies": 2}))
    assert rewritten["tokens"][:] == corpus["tokens"][:] * 2
    assert rewritten["language"][:] == corpus["language"][:] * 2
    assert rewritten.column_names == ["tokens", "language"]
    assert has_gold(mix_unlabelled(corpus, rewritten)) == [True] * 3 + [False] * 6


def test_mentions_give_way_to_mentions_of_their_language():
    rewritten = augment(two_languages(), Augmentation(**NOTHING | {"copies": 40, "mention_rate": 1.0}))
    by_first = {"en": set(), "ru": set()}
    for words, language in zip(rewritten["tokens"], rewritten["language"]):
        by_first[language].add(" ".join(words))
    assert by_first["en"] == {"nobody came"} | {
        f"{a} saw {b}" for a in ("Anna Lee", "Rome") for b in ("Anna Lee", "Rome")
    }
    assert by_first["ru"] == {f"{a} и {b}" for a in ("Москва", "Анна Ли") for b in ("Москва", "Анна Ли")}


def test_class_labels_and_missing_tags_are_read():
    names = ["O", "B-X", "I-X"]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=names))})
    rows = {"tokens": [["a", "b", "c"], ["d"], ["e", "f"]], "ner_tags": [[1, 2, 0], [1], None]}
    rewritten = augment(
        Dataset.from_dict(rows, features=features), Augmentation(**NOTHING | {"copies": 30, "mention_rate": 1.0})
    )
    assert {tuple(words) for words in rewritten["tokens"]} == {
        ("a", "b", "c"),
        ("d", "c"),
        ("a", "b"),
        ("d",),
        ("e", "f"),
    }


def test_parts_of_speech_are_no_mentions():
    corpus = Dataset.from_dict({"tokens": [["he", "ran"], ["she", "sat"]], "upos": [["PRON", "VERB"]] * 2})
    rewritten = augment(corpus, Augmentation(**NOTHING | {"mention_rate": 1.0}))
    assert rewritten["tokens"][:] == corpus["tokens"][:]


def test_words_come_from_their_language_as_often_as_asked():
    corpus = Dataset.from_dict({"tokens": [["a"] * 50, ["b"] * 30, ["c"] * 40], "language": ["x", "x", "y"]})
    rewritten = augment(corpus, Augmentation(**NOTHING | {"copies": 20, "word_rate": 0.5}))
    first = [words for words in rewritten["tokens"] if len(words) == 50]
    share = sum(words.count("b") for words in first) / (50 * len(first))
    assert 0.12 < share < 0.26  # 0.5 * 3/8, with six deviations to each side
    assert all(set(words) == {"c"} for words in rewritten["tokens"] if len(words) == 40)


def test_the_vocabulary_gives_words_of_the_same_script(tokenizer):
    corpus = two_languages()
    known = {word for words in corpus["tokens"] for word in words}
    rewritten = augment(corpus, Augmentation(**NOTHING | {"copies": 20, "vocabulary_rate": 1.0}), tokenizer)
    for words, old in zip(rewritten["tokens"], list(corpus["tokens"]) * 20):
        assert [script_of(word) for word in words] == [script_of(word) for word in old]
    assert {word for words in rewritten["tokens"] for word in words} - known
    made = VocabularyWords(tokenizer)
    assert [made.similar_word(word, None) for word in ("12", "...", "\u200d", "")] == ["12", "...", "\u200d", ""]


def test_a_seed_draws_the_same_sentences(corpus, tokenizer):
    how = Augmentation(copies=2)
    again = [augment(corpus, how, tokenizer, seed)["tokens"][:] for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_what_cannot_be_rewritten_is_said(corpus, tokenizer):
    with pytest.raises(ValueError, match="needs a tokenizer"):
        augment(corpus, Augmentation())
    with pytest.raises(ValueError, match="a corpus needs a column 'tokens'"):
        augment(corpus.remove_columns("tokens"), Augmentation(), tokenizer)
    with pytest.raises(ValueError, match="at least 1 copy"):
        Augmentation(copies=0)
    with pytest.raises(ValueError, match=r"word_rate must be in \[0, 1\], not 1.5"):
        Augmentation(word_rate=1.5)
    empty = augment(corpus.select([]), Augmentation(), tokenizer)
    assert len(empty) == 0
    assert empty.column_names == ["tokens", "language"]
