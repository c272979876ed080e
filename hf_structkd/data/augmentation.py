"""New sentences out of those there are, for teachers to answer and students to learn from.

A teacher can be asked about any text, so a student need not stop at the sentences of its corpus: rewritten ones show
it what the teacher makes of other words in the same places. They carry no gold tags. Mention replacement and token
replacement are those of Dai and Adel, "An Analysis of Simple Data Augmentation for Named Entity Recognition" (2020),
with two differences that gold tags would forbid: a mention may come from another type, and a word from another tag.
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
from .words import check_corpus, check_words, tag_column, tag_names

ENDING_RATE = 0.3  # how many of the words made have an ending from another piece


class VocabularyWords:
    """Draws words that look like others: of the same script, upper or lower case as the vocabulary has them.

    Args:
        tokenizer: a fast tokenizer.

    Raises:
        ValueError: if it is not a fast one, or marks the start of words in no known way.
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

    def like(self, word: str, rng: random.Random) -> str:
        """Another word of the script that `word` is written in; `word` itself if it has no letters of a known one."""
        script = script_of(word)
        if script is None or not (starts := self._starts.get(script)):
            return word
        made = rng.choice(starts)
        endings = self._endings.get(script)
        if endings and rng.random() < ENDING_RATE:
            made += rng.choice(endings)
        return made


def piece_texts(tokenizer: Any, pieces: list[int]) -> list[str]:
    """Pieces as text, without the mark of a space; empty where there is nothing else."""
    # read behind another piece, where the mark becomes the blank it stands for
    anchor = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])
    before = len(tokenizer.convert_tokens_to_string(anchor))
    tokens = tokenizer.convert_ids_to_tokens(pieces)
    return [tokenizer.convert_tokens_to_string([*anchor, token])[before:].strip() for token in tokens]


@lru_cache(maxsize=1 << 16)
def script_of(text: str) -> str | None:
    """The script of a text's first letter as Unicode names it, LATIN say; `None` if there is no letter."""
    letter = next((character for character in text if character.isalpha()), None)
    return unicodedata.name(letter, "").split(" ")[0] or None if letter else None


@dataclass(frozen=True)
class Augmentation:
    """How sentences are rewritten; the mentions first, then the words.

    Args:
        copies: rewritten sentences for each one.
        mention_rate: how many of the mentions (entities by their gold tags) give way to another mention of the same
            language, in [0, 1].
        word_rate: how many of the words give way to another one of the same language, drawn as often as it occurs.
        vocabulary_rate: how many of the other words give way to one made of pieces of the tokenizer's vocabulary, of
            the same script: words that the corpus may not have.

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
        dataset: a corpus. Sentences without tags keep their mentions; without a `language` column all are of one.
        augmentation: how many are made, and what becomes of their words.
        tokenizer: a fast tokenizer, needed with a `vocabulary_rate`: the student's.
        seed: what is drawn. The same corpus, tokenizer and seed give the same sentences.

    Returns:
        `copies` times as many sentences, with the columns `tokens` and, where there is one, `language`. `hide_gold`,
        `mix_unlabelled` and `annotate` take them.

    Raises:
        ValueError: if the dataset has no words, or texts in their place, or as many tags as it should not have; or if
            the tokenizer that is needed is not given or is not a fast one.
    """
    check_corpus(dataset)
    made = None
    if augmentation.vocabulary_rate:
        if tokenizer is None:
            raise ValueError("augmentation with a vocabulary_rate needs a tokenizer, whose vocabulary it draws from")
        made = VocabularyWords(tokenizer)
    check_words(dataset[TOKENS], range(len(dataset)))
    sentences = [list(words) for words in dataset[TOKENS]]
    languages = list(dataset[LANGUAGE]) if LANGUAGE in dataset.column_names else [""] * len(sentences)
    mentions = _mentions(dataset)
    known_words: dict[str, list[str]] = defaultdict(list)
    known_mentions: dict[str, list[list[str]]] = defaultdict(list)
    for words, spans, language in zip(sentences, mentions, languages):
        known_words[language] += words
        known_mentions[language] += [words[start:end] for start, end in spans]

    rng = random.Random(f"augmentation {seed}")
    rewritten: dict[str, list] = {TOKENS: [], LANGUAGE: []}
    for _ in range(augmentation.copies):
        for words, spans, language in zip(sentences, mentions, languages):
            new = _replace_mentions(words, spans, known_mentions[language], augmentation.mention_rate, rng)
            for position, word in enumerate(new):
                if rng.random() < augmentation.word_rate:
                    new[position] = rng.choice(known_words[language])
                elif made is not None and rng.random() < augmentation.vocabulary_rate:
                    new[position] = made.like(word, rng)
            rewritten[TOKENS].append(new)
            rewritten[LANGUAGE].append(language)
    if LANGUAGE not in dataset.column_names:
        del rewritten[LANGUAGE]
    features = dataset.select_columns(list(rewritten)).features
    return Dataset.from_dict(rewritten, features=features)


def _mentions(dataset: Dataset) -> list[list[tuple[int, int]]]:
    """The first word of each mention and the one after its last, sentence by sentence; parts of speech have none."""
    column, names = tag_column(dataset), tag_names(dataset)
    if column is None:
        return [[] for _ in range(len(dataset))]
    rows = [
        []
        if tags is None or any(tag in (None, IGNORED) for tag in tags)
        else [names[tag] if names else tag for tag in tags]
        for tags in dataset[column]
    ]
    for number, (words, tags) in enumerate(zip(dataset[TOKENS], rows)):
        if tags and len(tags) != len(words):
            raise ValueError(f"row {number} has {len(words)} tokens and {len(tags)} tags")
    if not (found := sorted({tag for tags in rows for tag in tags})):
        return [[] for _ in rows]
    scheme = TagScheme(found)
    if scheme.name == "plain":
        return [[] for _ in rows]
    return [[(span.start, span.end) for span in scheme.spans(tags)] for tags in rows]


def _replace_mentions(
    words: Sequence[str], spans: Sequence[tuple[int, int]], known: Sequence[list[str]], rate: float, rng: random.Random
) -> list[str]:
    rewritten: list[str] = []
    done = 0
    for start, end in spans:
        rewritten += words[done:start]
        rewritten += rng.choice(known) if rng.random() < rate else words[start:end]
        done = end
    return rewritten + list(words[done:])
