"""Which pieces of a tokenizer's vocabulary start a word.

A model that knows them finds the words of a plain `(input_ids, attention_mask)` batch by itself, which is what lets
the stock token-classification pipeline run it.
"""

import json
from typing import Any

import torch
from torch import Tensor, nn

SPACE_MARKERS = ("▁", "Ġ")  # SentencePiece's and byte-level BPE's sign for 'a space stood here'


class WordStarts(nn.Module):
    """The pieces of the vocabulary that start a word; all False until a tokenizer has been seen."""

    pieces: Tensor

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.register_buffer("pieces", torch.zeros(vocab_size, dtype=torch.bool))


def word_start_pieces(tokenizer: Any, vocab_size: int) -> Tensor:
    """A mask over the vocabulary: True for the pieces that start a word.

    WordPiece (BERT) cuts words at punctuation before it marks their pieces, so that 'second-hand' looks like three
    words to a model that has no word mask; the other kinds mark what spaces separate. The first piece of a text may
    lack its mark.

    Args:
        tokenizer: a fast tokenizer (WordPiece, SentencePiece-like or byte-level BPE).
        vocab_size: rows of the model's embedding matrix, at least the tokenizer's length.

    Returns:
        (vocab_size,), boolean. Special tokens are False.

    Raises:
        ValueError: if the tokenizer is not a fast one, has more pieces than the model, or marks words in no known way.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer; hf_structkd needs one to align words")
    vocabulary = tokenizer.get_vocab()
    if max(vocabulary.values()) >= vocab_size:
        raise ValueError(
            f"the tokenizer has {max(vocabulary.values()) + 1} pieces and the model {vocab_size} embeddings: "
            "they do not belong together, or the model wants resize_token_embeddings"
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
    frame = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    if not (len(frame) > 1 and frame[0] and frame[-1]):
        raise ValueError(
            f"{type(tokenizer).__name__} does not put special tokens before and after a text, as the encoder's own "
            "tokenizer does: give it a post-processor that does"
        )
