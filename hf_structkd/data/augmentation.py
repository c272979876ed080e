"""Augmentation: new sentences made by rewriting a corpus, for teachers to answer and students to learn from.

A teacher can be asked about any text, so a student can learn from more than the sentences of its corpus: rewritten
sentences show it how the teacher tags other words in the same places. They have no gold tags. Mention replacement and
token replacement follow Dai and Adel, "An Analysis of Simple Data Augmentation for Named Entity Recognition" (2020),
with two differences that gold tags would forbid: a mention may be replaced by one of another type, and a word by one
of another tag.
"""

import random
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from datasets import Dataset

from ..modeling.tag_scheme import TagScheme
from ..modeling.words import word_start_pieces
from .columns import IGNORED, LANGUAGE, TOKENS
from .words import check_corpus, check_words, gold_tags

ENDING_RATE = 0.3  # share of the composed words that have an ending from another piece


@dataclass(frozen=True)
class Augmentation:
    """How sentences are rewritten; first the mentions, then the words.

    Args:
        copies: rewritten sentences per sentence.
        mention_rate: share of the mentions (entities by their gold tags) that are replaced by another mention of the
            same language, in [0, 1].
        word_rate: share of the words that are replaced by a word of the same language, drawn by its frequency.
        vocabulary_rate: share of the other words that are replaced by one composed of pieces of the tokenizer's
            vocabulary, of the same script: words that the corpus may not have.

    Raises:
        ValueError: for a number out of its range.
    """

    copies: int = 3
    mention_rate: float = 0.8
    word_rate: float = 0.25
    vocabulary_rate: float = 0.25

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise ValueError(f"augmentation needs at least 1 copy, not {self.copies}")
        for name in ("mention_rate", "word_rate", "vocabulary_rate"):
            rate = getattr(self, name)
            if not 0.0 <= rate <= 1.0:
                raise ValueError(f"augmentation: {name} must be in [0, 1], not {rate}")


def augment(dataset: Dataset, augmentation: Augmentation, tokenizer: Any = None, seed: int = 0) -> Dataset:
    """Rewritten sentences, without gold tags.

    Args:
        dataset: a corpus. Sentences without tags keep their mentions; without a column `language`, all sentences are
            of one language.
        augmentation: how many sentences to make, and how.
        tokenizer: the student's fast tokenizer, required with a `vocabulary_rate`.
        seed: the same corpus, tokenizer and seed give the same sentences.

    Returns:
        `copies` times as many sentences, with the columns `tokens` and, if the dataset has it, `language`, ready for
        `hide_gold`, `mix_unlabelled` and `annotate`.

    Raises:
        ValueError: if the dataset has no words, texts in their place, or another number of tags than words; or if a
            required tokenizer is missing or not a fast one.
    """
    check_corpus(dataset)
    vocabulary = None
    if augmentation.vocabulary_rate:
        if tokenizer is None:
            raise ValueError("augmentation with a vocabulary_rate needs a tokenizer, whose vocabulary it draws from")
        vocabulary = VocabularyWords(tokenizer)
    check_words(dataset[TOKENS], range(len(dataset)))
    sentences = [list(words) for words in dataset[TOKENS]]
    languages = list(dataset[LANGUAGE]) if LANGUAGE in dataset.column_names else [""] * len(sentences)
    mentions = _mentions(dataset)
    words_of_language: dict[str, list[str]] = defaultdict(list)
    mentions_of_language: dict[str, list[list[str]]] = defaultdict(list)
    for words, spans, language in zip(sentences, mentions, languages):
        words_of_language[language] += words
        mentions_of_language[language] += [words[start:end] for start, end in spans]

    rng = random.Random(f"augmentation {seed}")
    rewritten: dict[str, list] = {TOKENS: [], LANGUAGE: []}
    for _ in range(augmentation.copies):
        for words, spans, language in zip(sentences, mentions, languages):
            sentence = _replace_mentions(words, spans, mentions_of_language[language], augmentation.mention_rate, rng)
            for position, word in enumerate(sentence):
                if rng.random() < augmentation.word_rate:
                    sentence[position] = rng.choice(words_of_language[language])
                elif vocabulary is not None and rng.random() < augmentation.vocabulary_rate:
                    sentence[position] = vocabulary.similar_word(word, rng)
            rewritten[TOKENS].append(sentence)
            rewritten[LANGUAGE].append(language)
    if LANGUAGE not in dataset.column_names:
        del rewritten[LANGUAGE]
    features = dataset.select_columns(list(rewritten)).features
    return Dataset.from_dict(rewritten, features=features)


def _mentions(dataset: Dataset) -> list[list[tuple[int, int]]]:
    """For each sentence (first word, word after the last) of each mention; plain tags have no mentions."""
    rows = [[] if tags is None or any(tag in (None, IGNORED) for tag in tags) else tags for tags in gold_tags(dataset)]
    for number, (words, tags) in enumerate(zip(dataset[TOKENS], rows)):
        if tags and len(tags) != len(words):
            raise ValueError(f"row {number} has {len(words)} tokens and {len(tags)} tags")
    if not (inventory := sorted({tag for tags in rows for tag in tags})):
        return [[] for _ in rows]
    scheme = TagScheme(inventory)
    if scheme.name == "plain":
        return [[] for _ in rows]
    return [[(span.start, span.end) for span in scheme.spans(tags)] for tags in rows]


def _replace_mentions(
    words: Sequence[str],
    spans: Sequence[tuple[int, int]],
    mentions: Sequence[list[str]],
    rate: float,
    rng: random.Random,
) -> list[str]:
    rewritten: list[str] = []
    copied = 0
    for start, end in spans:
        rewritten += words[copied:start]
        rewritten += rng.choice(mentions) if rng.random() < rate else words[start:end]
        copied = end
    return rewritten + list(words[copied:])


class VocabularyWords:
    """Composes words of the pieces of a tokenizer's vocabulary.

    Args:
        tokenizer: a fast tokenizer.

    Raises:
        ValueError: if the tokenizer is not a fast one, or does not mark the start of words in a known way.
    """

    def __init__(self, tokenizer: Any) -> None:
        size = max(tokenizer.get_vocab().values()) + 1
        starts = word_start_pieces(tokenizer, size).tolist()
        self._starts: dict[str, list[str]] = defaultdict(list)
        self._endings: dict[str, list[str]] = defaultdict(list)
        pieces = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))
        for index, text in zip(pieces, piece_texts(tokenizer, pieces)):
            script = script_of(text)
            if script is None or not text.isalpha():
                continue
            (self._starts if starts[index] else self._endings)[script].append(text)

    def similar_word(self, word: str, rng: random.Random) -> str:
        """A word of the same script; `word` itself if it has no letters of a known script.

        Letters are upper or lower case as in the vocabulary.
        """
        script = script_of(word)
        if script is None or not (starts := self._starts.get(script)):
            return word
        composed = rng.choice(starts)
        endings = self._endings.get(script)
        if endings and rng.random() < ENDING_RATE:
            composed += rng.choice(endings)
        return composed


def piece_texts(tokenizer: Any, pieces: list[int]) -> list[str]:
    """Pieces as text, without the mark of a space; empty for the mark alone."""
    # Decoded behind another piece, where the mark becomes the blank that it stands for.
    anchor = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])
    anchor_length = len(tokenizer.convert_tokens_to_string(anchor))
    tokens = tokenizer.convert_ids_to_tokens(pieces)
    return [tokenizer.convert_tokens_to_string([*anchor, token])[anchor_length:].strip() for token in tokens]


@lru_cache(maxsize=1 << 16)
def script_of(text: str) -> str | None:
    """The script of a text's first letter as Unicode names it, such as LATIN; `None` if there is no letter."""
    letter = next((character for character in text if character.isalpha()), None)
    return unicodedata.name(letter, "").split(" ")[0] or None if letter else None
