"""Raw text to words, words to subwords, and the pieces of a vocabulary that start a word.

Raw text (`split_words`). Each corpus has its own words, and a tagger knows words as its corpora cut them. These are
the rules that most annotated corpora share; where yours differs, give the pipeline words instead of text.

- A word is a run of letters, digits, combining marks, joiners and underscores, in any script.
- A hyphen, apostrophe, dot, colon or comma between such runs stays inside the word where corpora keep it there:
  ``Zuid-Afrika``, ``O'Neill``, ``3.14``, ``1,000``, ``18:30``. Initials and abbreviations keep their dots: ``J.``,
  ``U.S.``.
- The English clitics ``'s 'm 'd 're 've 'll n't`` and the French and Italian elided words (``l'``, ``d'``, ``qu'``,
  ``dell'``) are separate words.
- Each Han character and each Hiragana is a word, with its marks, as in WikiAnn and most character-level corpora. Runs
  of Katakana and of Hangul are words. Thai, Lao, Khmer and Burmese have no spaces, and only a dictionary knows their
  words: a word runs from space to space.
- Every other visible character, punctuation and emoji included, is a word; the same character repeated (``...``,
  ``''``) is one word.
- Spaces, control characters and format characters (zero-width space, byte-order mark) separate words and belong to
  none; the joiners U+200C and U+200D belong to the word around them.

Subwords (`tokenize_words`). Every word keeps at least one subword, so that its tag has a place.

Word starts (`word_start_pieces`). A model that stores which pieces start a word finds the words of a plain
`(input_ids, attention_mask)` batch, so that the stock token-classification pipeline can run it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import regex
import torch
from torch import Tensor, nn

from .glued_words import GluedWords, Pieces, flags_of, glued_tokenizer

# ---- raw text to words ----

_ALONE = r"[\p{Han}\p{Hiragana}]"
_PART = rf"(?:(?!{_ALONE})[\p{{L}}\p{{N}}\p{{M}}\p{{Pc}}\u200c\u200d])"
_CLITIC = rf"['’](?i:s|m|d|re|ve|ll)(?!{_PART})"
_ELIDED = r"(?i:[cdjlmnst]|qu|lorsqu|puisqu|jusqu|un|(?:d|n|s)ell|all|dall|quest|quell)['’]"

_WORD = regex.compile(
    rf"""
      {_ALONE}\p{{M}}*
    | (?i:n['’]t)(?!{_PART})
    | {_PART}+?(?=(?i:n['’]t)(?!{_PART}))                                   # do|n't
    | {_CLITIC}
    | {_ELIDED}(?=\p{{L}})
    | \b\p{{L}}\p{{M}}*\.(?:\p{{L}}\p{{M}}*\.)*(?!{_PART})                  # J.  U.S.
    | {_PART}+(?:(?!{_CLITIC})(?:[-‐‑'’·:]|(?<=\p{{N}})[.,–](?=\p{{N}})|(?<=\p{{L}}\p{{M}}*)\.(?=\p{{L}})){_PART}+)*
    | (\p{{P}}|\p{{S}})\1+
    | [\p{{Z}}\p{{Cc}}]                                                        # else \X takes the marks that follow
    | \X
    """,
    regex.VERBOSE | regex.VERSION1,
)
_VISIBLE = regex.compile(r"[^\p{Z}\p{Cc}\p{Cf}\p{Cs}]")


def split_words(text: str) -> list[tuple[int, int]]:
    """The words of a text as character offsets, by the rules of this module.

    Args:
        text: any text; it is not changed, and offsets count its code points as Python does.

    Returns:
        First character and one past the last of each word, in order; empty for a text without visible characters.
    """
    spans = (match.span() for match in _WORD.finditer(text))
    # What begins with a letter or a digit is visible, and most words do.
    return [(start, end) for start, end in spans if text[start].isalnum() or _VISIBLE.search(text, start, end)]


# ---- words to subwords ----


def as_sentences(sentences: Iterable[Iterable[str]]) -> list[list[str]]:
    """Sentences as lists of words, in the order of iteration.

    Any iterable will do; it is never indexed, because `sentences[0]` of a pandas `Series` is the row labelled 0, at
    whatever position.

    Args:
        sentences: each a sized collection of strings.

    Raises:
        TypeError: if a sentence is not a list of words, naming it: a text would be cut into letters.
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
        listed.append(GluedWords(words, words.glued) if isinstance(words, GluedWords) else list(words))
        for position, word in enumerate(listed[-1]):
            if not isinstance(word, str):
                raise TypeError(f"sentence {row}, word {position} is no string, but {type(word).__name__}: {word!r}")
    return listed


def tokenize_words(
    sentences: Sequence[Sequence[str]], tokenizer: Any, glued_words: bool = False
) -> dict[str, list[list[int]]]:
    """Subwords of pre-split sentences, and where each word starts. Nothing is truncated.

    A word without any piece (such as a lone zero-width character) becomes the unknown token, so that every word keeps
    a place for its tag. Words get a space before them where the tokenizer needs one, see [`drops_word_marks`], so that
    they have the same pieces as in running text.

    Args:
        sentences: lists of words.
        tokenizer: a fast tokenizer that adds a special token before and after a text.
        glued_words: as in the configuration of the model: whether words of `GluedWords` that follow their neighbour
            without a blank have the pieces that they have there in running text. All other words stand between blanks.

    Returns:
        `input_ids`, `attention_mask` and `word_mask` (1 on the first subword of each word), one list per sentence.

    Raises:
        ValueError: if the tokenizer is not a fast one, has no pieces for glued words, or a sentence has no words.
        TypeError: for a text where a list of words is meant, see [`as_sentences`].
    """
    sentences = as_sentences(sentences)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer; hf_structkd needs one to align words")
    for row, words in enumerate(sentences):
        if not len(words):
            raise ValueError(f"sentence {row} has no words; drop empty sentences before tokenising")
    rows = [_replace_surrogates(words) for words in sentences]
    encode: Callable[[list[list[str]]], Pieces] = partial(_encode, tokenizer)
    drops_marks = drops_word_marks(tokenizer)
    if glued_words:
        unmarked = glued_tokenizer(tokenizer, drops_marks)
        rows = [unmarked.mark(words, flags_of(sentence)) for words, sentence in zip(rows, sentences)]
        encode = unmarked.encode
    elif drops_marks:
        rows = [[words[0], *(_prepend_space(word) for word in words[1:])] for words in rows]
    pieces = encode(rows)
    lacks_pieces = False
    for row, words in enumerate(rows):
        missing = set(range(len(words))) - set(pieces.words[row])
        if missing:
            rows[row] = [tokenizer.unk_token if i in missing else word for i, word in enumerate(words)]
            lacks_pieces = True
    if lacks_pieces:
        pieces = encode(rows)
    word_masks = []
    for row, words in enumerate(rows):
        previous, mask = None, []
        for word in pieces.words[row]:
            mask.append(int(word is not None and word != previous))
            previous = word
        if sum(mask) != len(words):
            raise ValueError(f"sentence {row}: {len(words)} words, but the tokenizer kept {sum(mask)}: {words!r}")
        word_masks.append(mask)
    return {
        "input_ids": pieces.input_ids,
        "attention_mask": [[1] * len(ids) for ids in pieces.input_ids],
        "word_mask": word_masks,
    }


def pad_subwords(encoded: Mapping[str, Sequence[list[int]]], pad_token_id: int | None) -> dict[str, Tensor]:
    """Lists of subwords as tensors (sentences, subwords), filled up to the longest sentence.

    Args:
        encoded: as [`tokenize_words`] returns it; `word_mask` may be missing.
        pad_token_id: that of the tokenizer, which fills `input_ids`; 0 where it has none. Masks are filled with 0.
    """
    width = max(map(len, encoded["input_ids"]))
    return {
        name: torch.tensor(
            [row + [(pad_token_id or 0) if name == "input_ids" else 0] * (width - len(row)) for row in rows]
        )
        for name, rows in encoded.items()
    }


def drops_word_marks(tokenizer: Any) -> bool:
    """Whether a tokenizer leaves out the mark of the space before a pre-split word, which running text has.

    Byte-level BPE with `add_prefix_space` off (ModernBERT) and Gemma's pieces (mmBERT) do. Their encoders have hardly
    seen a word without its mark, except the first of a text: such pieces look like the middle of a word.
    """
    running_text = tokenizer("a a", add_special_tokens=False)["input_ids"]

    def encode_words(words: list[str]) -> list[int]:
        return tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]

    return encode_words(["a", "a"]) != running_text and encode_words(["a", " a"]) == running_text


def _replace_surrogates(words: Sequence[str]) -> list[str]:
    """The words, with U+FFFD for lone surrogates (halves of a character, from text cut or decoded wrongly)."""
    try:
        " ".join(words).encode()
    except UnicodeEncodeError:
        return [word.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for word in words]
    return list(words)


def _prepend_space(word: str) -> str:
    return word if word[:1].isspace() else f" {word}"


def _encode(tokenizer: Any, rows: list[list[str]]) -> Pieces:
    encoded = tokenizer(rows, is_split_into_words=True, truncation=False, padding=False, verbose=False)
    return Pieces(encoded["input_ids"], [encoded.word_ids(row) for row in range(len(rows))])


# ---- pieces that start a word ----

SPACE_MARKERS = ("▁", "Ġ")  # the mark of a preceding space, in SentencePiece and in byte-level BPE


class WordStarts(nn.Module):
    """The pieces of the vocabulary that start a word, stored with the weights.

    Attributes:
        pieces: (vocab_size,), boolean; all False until `set_word_starts` of a model is called.
    """

    pieces: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.register_buffer("pieces", torch.zeros(vocab_size, dtype=torch.bool))


def word_start_pieces(tokenizer: Any, vocab_size: int) -> Tensor:
    """A mask over the vocabulary: True for the pieces that start a word.

    WordPiece (BERT) cuts words at punctuation before it marks their pieces, so that 'second-hand' looks like three
    words to a model without a word mask; the other kinds mark the pieces after a space. The first piece of a text may
    lack its mark.

    Args:
        tokenizer: a fast tokenizer (WordPiece, SentencePiece-like or byte-level BPE).
        vocab_size: rows of the model's embedding matrix, at least the tokenizer's length.

    Returns:
        (vocab_size,), boolean. Special tokens are False.

    Raises:
        ValueError: if the tokenizer is not a fast one, has more pieces than the model, or marks words in an unknown
            way.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer; hf_structkd needs one to align words")
    vocabulary = tokenizer.get_vocab()
    if max(vocabulary.values()) >= vocab_size:
        raise ValueError(
            f"the tokenizer has {max(vocabulary.values()) + 1} pieces and the model {vocab_size} embeddings: "
            "they do not belong together, or the model needs resize_token_embeddings"
        )
    prefix = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("continuing_subword_prefix")
    special = set(tokenizer.all_special_tokens) - {tokenizer.unk_token}
    mask = torch.zeros(vocab_size, dtype=torch.bool)
    if prefix:
        starts = [i for piece, i in vocabulary.items() if not piece.startswith(prefix) and piece not in special]
    else:
        starts = [i for piece, i in vocabulary.items() if piece.startswith(SPACE_MARKERS) and piece not in special]
    if not starts:
        raise ValueError(
            f"no piece of {type(tokenizer).__name__} carries a word marker ({', '.join(SPACE_MARKERS)} or '##'): "
            "words cannot be told from subwords; give the model a word_mask instead"
        )
    mask[torch.tensor(starts)] = True
    return mask


def refuse_bare_tokenizer(tokenizer: Any) -> None:
    """Raise ValueError if a tokenizer puts no special token before or after a text.

    A model that finds words by itself, or cuts a long text into windows, takes the first and the last subword for
    special tokens; without them it would lose two words.
    """
    is_special = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    if not (len(is_special) > 1 and is_special[0] and is_special[-1]):
        raise ValueError(
            f"{type(tokenizer).__name__} does not put special tokens before and after a text, as the encoder's own "
            "tokenizer does: give it a post-processor that does"
        )
