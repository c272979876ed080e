"""Words that follow their neighbour without a blank, tokenised as in running text.

Tokenizers that mark the blank before a word (SentencePiece's `▁`, byte-level BPE's `Ġ`) give every word of a list its
mark. Running text has none inside `(Olu,` or between the words of Chinese, Japanese and Thai: an encoder has hardly
seen `▁京` in the middle of a text, and the mark often costs a piece of its own. `GluedWords` are words that know where
blanks are missing; a model with `glued_words` in its configuration reads their pieces without the mark. No piece spans
two words, so that every word keeps a place for its tag.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

GLUED = "glued"  # the column of a corpus that says which words are glued; None where nobody knows
_TOKENS = "tokens"


class GluedWords(list[str]):
    """The words of one sentence, with those that follow the word before them without a blank.

    Wherever the package takes a list of words it takes this, too. Models without `glued_words` read the words alone.

    Args:
        words: the words.
        glued: one boolean per word; that of the first has no effect.

    Raises:
        ValueError: for another number of booleans than words.
    """

    def __init__(self, words: Iterable[str], glued: Iterable[bool]) -> None:
        super().__init__(words)
        self.glued = [bool(flag) for flag in glued]
        if len(self.glued) != len(self):
            raise ValueError(f"there are {len(self)} words, and {len(self.glued)} flags that say which are glued")

    @classmethod
    def of_text(cls, text: str, offsets: Sequence[tuple[int, int]]) -> "GluedWords":
        """The words of a text, from the first character and one past the last of each."""
        return cls([text[start:end] for start, end in offsets], glued_flags(offsets))

    def __reduce__(self) -> Any:
        return type(self), (list(self), self.glued)


def glued_flags(offsets: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each word begins where the one before it ends."""
    ends = [-1, *(end for _, end in offsets)]
    return [start == end for (start, _), end in zip(offsets, ends)]


def flags_of(words: Sequence[str]) -> list[bool]:
    """Which words are glued; none where the list does not know."""
    return words.glued if isinstance(words, GluedWords) else [False] * len(words)


def join_words(parts: Sequence[Sequence[str]]) -> list[str]:
    """The words of several sentences as one; between sentences stands a blank, within them what they know."""
    words = [word for part in parts for word in part]
    if not any(isinstance(part, GluedWords) for part in parts):
        return words
    return GluedWords(words, [bool(place) and flag for part in parts for place, flag in enumerate(flags_of(part))])


def sentences_of(rows: Any, numbers: Sequence[int] | None = None) -> list[list[str]]:
    """The words of sentences, which know where no blank stands before them if their corpus does.

    Args:
        rows: a corpus, a batch of one, or one column -> values.
        numbers: of the rows in the corpus, for messages.

    Raises:
        ValueError: if a row has another number of `glued` than words.
    """
    columns = getattr(rows, "column_names", rows)
    sentences = list(rows[_TOKENS])
    if GLUED not in columns:
        return sentences
    known: list[list[str]] = []
    for place, (words, flags) in enumerate(zip(sentences, rows[GLUED])):
        try:
            known.append(words if flags is None or words is None else GluedWords(words, flags))
        except ValueError as error:
            raise ValueError(f"row {numbers[place] if numbers else place}: {error}") from error
    return known


class Pieces(NamedTuple):
    """The pieces of some sentences.

    Attributes:
        input_ids: of each sentence, with its special tokens.
        words: of each sentence the number of each piece's word; `None` for special tokens.
    """

    input_ids: list[list[int]]
    words: list[list[int | None]]


class GluedTokenizer:
    """Tokenises words with a mark where a blank stands before them, and without where none does.

    Args:
        tokenizer: a fast tokenizer that marks the blank before a word.
        drops_word_marks: whether it leaves out the mark of pre-split words, see
            [`~.words.drops_word_marks`].

    Raises:
        ValueError: if the tokenizer marks words in another way.
    """

    def __init__(self, tokenizer: Any, drops_word_marks: bool) -> None:
        self._marks_first = not drops_word_marks
        backend = tokenizer.backend_tokenizer
        spec = json.loads(backend.to_str())
        self._marker = " "
        if not drops_word_marks:
            self._marker, spec["pre_tokenizer"] = _without_marks(spec["pre_tokenizer"])
            if not self._marker:
                raise ValueError(
                    f"{type(tokenizer).__name__} does not mark the blank before a word by a piece that begins with "
                    "▁ (Metaspace) or Ġ (byte-level), so that it has no other pieces for words without one: leave "
                    "glued_words out"
                )
        self._tokenizer = Tokenizer.from_str(json.dumps(spec))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = backend.encode_special_tokens

    def mark(self, words: Sequence[str], glued: Sequence[bool]) -> list[str]:
        """The words of a sentence, with the mark of a blank before those that one stands before.

        Args:
            words: the words.
            glued: for each whether it follows the word before it without a blank.
        """
        return [
            self._marked(word) if (self._marks_first if place == 0 else not is_glued) else word
            for place, (word, is_glued) in enumerate(zip(words, glued))
        ]

    def _marked(self, word: str) -> str:
        return word if word[:1].isspace() or word.startswith(self._marker) else self._marker + word

    def encode(self, rows: list[list[str]]) -> Pieces:
        """The pieces of sentences whose words are marked."""
        encodings = self._tokenizer.encode_batch(rows, is_pretokenized=True)
        return Pieces([encoding.ids for encoding in encodings], [encoding.word_ids for encoding in encodings])


_TOKENIZERS: WeakKeyDictionary[Any, tuple[int, GluedTokenizer]] = WeakKeyDictionary()


def glued_tokenizer(tokenizer: Any, drops_word_marks: bool) -> GluedTokenizer:
    """The [`GluedTokenizer`] of a tokenizer, made once and again when pieces were added."""
    size = len(tokenizer)
    known = _TOKENIZERS.get(tokenizer)
    if known is None or known[0] != size:
        known = size, GluedTokenizer(tokenizer, drops_word_marks)
        _TOKENIZERS[tokenizer] = known
    return known[1]


def _without_marks(spec: Any) -> tuple[str, Any]:
    """The mark that a pre-tokenizer puts before every text, and the pre-tokenizer without it; "" if it puts none."""
    if not isinstance(spec, dict):
        return "", spec
    if spec["type"] == "Metaspace" and spec.get("prepend_scheme") in ("always", "first"):
        return spec["replacement"], {**spec, "prepend_scheme": "never"}
    if spec["type"] == "ByteLevel" and spec.get("add_prefix_space"):
        return " ", {**spec, "add_prefix_space": False}
    if spec["type"] != "Sequence":
        return "", spec
    parts = [_without_marks(part) for part in spec["pretokenizers"]]
    marker = next((mark for mark, _ in parts if mark), "")
    # What stands between blanks gets a mark in Metaspace itself, so that blanks need not be split off before it.
    kept = [part for _, part in parts if not (marker == parts[-1][0] != " " and part["type"] == "WhitespaceSplit")]
    return marker, {**spec, "pretokenizers": kept}
