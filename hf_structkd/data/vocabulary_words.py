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
        # A piece is read behind another one, where its marker becomes the blank it stands for.
        anchor = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])
        before = tokenizer.convert_tokens_to_string(anchor)
        special = set(tokenizer.all_special_ids)
        self._starts: dict[str, list[str]] = defaultdict(list)
        self._endings: dict[str, list[str]] = defaultdict(list)
        for piece, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
            if index in special:
                continue
            text = tokenizer.convert_tokens_to_string([*anchor, piece])[len(before) :].strip()
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


@lru_cache(maxsize=1 << 16)
def script_of(text: str) -> str | None:
    """The script of a text's first letter as Unicode names it, LATIN say; `None` if there is no letter."""
    letter = next((character for character in text if character.isalpha()), None)
    return unicodedata.name(letter, "").split(" ")[0] or None if letter else None
