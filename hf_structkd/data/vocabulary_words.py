"""Words put together from the pieces of a tokenizer's vocabulary."""

import random
import unicodedata
from collections import defaultdict
from functools import lru_cache
from typing import Any

from ..modeling.word_starts import word_start_pieces

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
