"""Pre-split words to subwords, every word keeping its place."""

from collections.abc import Iterable, Sequence
from typing import Any


def as_sentences(sentences: Iterable[Iterable[str]]) -> list[list[str]]:
    """Sentences as lists of words, in the order of iteration.

    They may come in anything; a pandas `Series`, for one, answers `sentences[0]` with what is labelled 0, wherever it
    stands.

    Raises:
        TypeError: naming the sentence, if one is not a list of words: a text would be cut into letters.
    """
    if isinstance(sentences, str | bytes):
        raise TypeError(f"give a list of sentences, each a list of words, not a text: {sentences[:80]!r}")
    listed: list[list[str]] = []
    for row, words in enumerate(sentences):
        if isinstance(words, str | bytes) or not hasattr(words, "__len__"):
            raise TypeError(
                f"sentence {row} is no list of words, but {type(words).__name__}: {str(words)[:80]!r}; the pipeline "
                "'crf-token-classification' takes texts and finds the words"
            )
        listed.append(list(words))
        for place, word in enumerate(listed[-1]):
            if not isinstance(word, str):
                raise TypeError(f"sentence {row}, word {place} is no string, but {type(word).__name__}: {word!r}")
    return listed


def tokenize_words(sentences: Sequence[Sequence[str]], tokenizer: Any) -> dict[str, list[list[int]]]:
    """Subwords of pre-split sentences, and where each word starts. Nothing is truncated.

    A word that the tokenizer turns into nothing (a lone zero-width character, say) becomes its unknown token, so that
    every word keeps a place for its tag. Words are given a space before them where the tokenizer wants one, see
    [`drops_word_marks`], so that they become the pieces that they are in running text.

    Args:
        sentences: lists of words.
        tokenizer: a fast tokenizer that adds a special token before and after a text.

    Returns:
        `input_ids`, `attention_mask` and `word_mask` (1 on the first subword of each word), a list for each sentence.

    Raises:
        ValueError: if the tokenizer is not a fast one, or a sentence has no words.
        TypeError: for a text where a list of words is meant, see [`as_sentences`].
    """
    sentences = as_sentences(sentences)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer; hf_structkd needs one to align words")
    for row, words in enumerate(sentences):
        if not len(words):
            raise ValueError(f"sentence {row} has no words; drop empty sentences before tokenising")
    words_of = [_encodable(words) for words in sentences]
    if drops_word_marks(tokenizer):
        words_of = [[words[0], *(_after_a_space(word) for word in words[1:])] for words in words_of]
    given = [list(words) for words in words_of]
    encoded = _encode(words_of, tokenizer)
    for row, words in enumerate(words_of):
        missing = set(range(len(words))) - set(encoded.word_ids(row))
        if missing:
            words_of[row] = [tokenizer.unk_token if i in missing else word for i, word in enumerate(words)]
    if words_of != given:
        encoded = _encode(words_of, tokenizer)
    word_masks = []
    for row, words in enumerate(words_of):
        previous, mask = None, []
        for word in encoded.word_ids(row):
            mask.append(int(word is not None and word != previous))
            previous = word
        if sum(mask) != len(words):
            raise ValueError(f"sentence {row}: {len(words)} words, but the tokenizer kept {sum(mask)}: {words!r}")
        word_masks.append(mask)
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "word_mask": word_masks,
    }


def drops_word_marks(tokenizer: Any) -> bool:
    """Whether pre-split words lack the mark of the space before them, which the same words have in running text.

    So it is with byte-level BPE whose `add_prefix_space` is off (ModernBERT) and with Gemma's pieces (mmBERT). Their
    encoders hardly ever saw a word without its mark, but for the first of a text, and such pieces look like the middle
    of a word.
    """
    running = tokenizer("a a", add_special_tokens=False)["input_ids"]

    def split(words: list[str]) -> list[int]:
        return tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]

    return split(["a", "a"]) != running and split(["a", " a"]) == running


def _encodable(words: Sequence[str]) -> list[str]:
    """The words, lone surrogates (half of a character, from text cut or read wrongly) as U+FFFD."""
    try:
        " ".join(words).encode()
    except UnicodeEncodeError:
        return [word.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for word in words]
    return list(words)


def _after_a_space(word: str) -> str:
    return word if word[:1].isspace() else f" {word}"


def _encode(sentences: list[list[str]], tokenizer: Any) -> Any:
    return tokenizer(sentences, is_split_into_words=True, truncation=False, padding=False, verbose=False)
