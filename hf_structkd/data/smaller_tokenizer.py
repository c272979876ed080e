"""A fast tokenizer with some of its pieces: what it still can write with them, it cuts as before.

Why that holds, by the kind of tokenizer:

- Unigram takes the segmentation with the highest sum of scores. Without some pieces there are fewer segmentations, and
  the best one, if it is still there, is still the best. The score of unknown characters follows from the lowest score
  of all pieces, so one piece with that score always stays.
- WordPiece takes the longest piece that fits, again and again. If it is still there, it is still the longest.
- BPE joins pairs in the order of its merges. A piece stays together with all that it is joined from; then every join
  happens in the same order, and no other join comes between.
"""

import copy
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

BYTES = {f"<0x{byte:02X}>" for byte in range(256)}  # pieces of characters that have none, "byte fallback"


def keep_pieces(tokenizer: Any, pieces: Iterable[int]) -> tuple[Any, list[int]]:
    """Copy a fast tokenizer with some of its pieces.

    Args:
        tokenizer: A fast tokenizer of the kind Unigram, WordPiece, BPE or WordLevel; not changed.
        pieces: The ids to keep. Special and added tokens, byte pieces and whatever BPE joins a piece from stay too.

    Returns:
        The smaller tokenizer, and the old id of each of its pieces in the order of the new ids, which is rising.

    Raises:
        ValueError: If the tokenizer is not a fast one, or of another kind.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer; only a fast one can be made smaller")
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    written = json.loads(backend.to_str())
    model, added = written["model"], written["added_tokens"]
    if model["type"] not in ("Unigram", "WordPiece", "BPE", "WordLevel"):
        raise ValueError(f"a tokenizer of the kind {model['type']} cannot be made smaller: its pieces are not listed")
    vocabulary = _vocabulary(model)
    kept = set(pieces) | {token["id"] for token in added} | _always_kept(model, vocabulary)
    kept &= set(vocabulary.values()) | {token["id"] for token in added}
    if model["type"] == "BPE":
        kept |= _joined_from(model, vocabulary, kept)

    # `tokenizers` numbers added tokens that are no pieces of the model after all of these
    of_model = set(vocabulary.values())
    old_ids = [*sorted(kept & of_model), *sorted(kept - of_model)]
    new_ids = {old: new for new, old in enumerate(old_ids)}
    _rewrite_model(model, new_ids)
    for token in added:
        token["id"] = new_ids[token["id"]]
    _renumber_processor(written["post_processor"], new_ids)

    smaller = copy.deepcopy(tokenizer)
    smaller._tokenizer = Tokenizer.from_str(json.dumps(written, ensure_ascii=False))
    # `add_tokens` of these would number them anew; the backend has them already
    for name in ("vocab", "merges", "vocab_file", "merges_file", "tokenizer_file", "added_tokens_decoder"):
        smaller.init_kwargs.pop(name, None)
    _check(tokenizer, smaller, old_ids)
    return smaller, old_ids


def character_pieces(tokenizer: Any) -> set[int]:
    """The ids of pieces of one character, the marks of word starts and of continuations not counted."""
    prefix = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("continuing_subword_prefix") or ""
    return {
        index
        for piece, index in tokenizer.get_vocab().items()
        if len(piece) == 1 or len(piece.removeprefix(prefix)) == 1 or (len(piece) == 2 and piece[0] in "▁Ġ")
    }


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    if model["type"] == "Unigram":
        return {piece: index for index, (piece, _) in enumerate(model["vocab"])}
    return model["vocab"]


def _always_kept(model: dict[str, Any], vocabulary: dict[str, int]) -> set[int]:
    """The ids of the model's unknown and byte pieces, and in Unigram of a piece with the lowest score."""
    kept = {vocabulary[piece] for piece in BYTES if piece in vocabulary}
    if model["type"] == "Unigram":
        kept.add(min(range(len(model["vocab"])), key=lambda index: model["vocab"][index][1]))
        kept |= set() if model["unk_id"] is None else {model["unk_id"]}
    elif model.get("unk_token") in vocabulary:
        kept.add(vocabulary[model["unk_token"]])
    return kept


def _rewrite_model(model: dict[str, Any], new_ids: dict[int, int]) -> None:
    if model["type"] == "Unigram":
        model["vocab"] = [entry for index, entry in enumerate(model["vocab"]) if index in new_ids]
        model["unk_id"] = None if model["unk_id"] is None else new_ids[model["unk_id"]]
        return
    model["vocab"] = {piece: new_ids[index] for piece, index in model["vocab"].items() if index in new_ids}
    if model["type"] == "BPE":
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            pair
            for pair in model["merges"]
            if all(piece in model["vocab"] for piece in (*_pair(pair), _joined(*_pair(pair), prefix)))
        ]


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """The parts of a merge, which older files write as one text."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _joined(first: str, second: str, prefix: str) -> str:
    return first + second.removeprefix(prefix)


def _joined_from(model: dict[str, Any], vocabulary: dict[str, int], kept: set[int]) -> set[int]:
    """The ids of all that BPE joins the kept pieces from."""
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    ranks = {pair: rank for rank, pair in reversed([*enumerate(map(_pair, model["merges"]))])}
    names = {index: piece for piece, index in vocabulary.items()}
    needed = set()
    for index in kept & set(names):
        piece = names[index]
        # the piece may stand at the start of a word, where its first part has no prefix, or further on
        inner = bool(prefix) and piece.startswith(prefix) and piece != prefix
        body = piece.removeprefix(prefix) if inner else piece
        ends = bool(suffix) and body.endswith(suffix) and body != suffix
        letters = list(body.removesuffix(suffix) if ends else body)
        parts = [letter if place == 0 and not inner else prefix + letter for place, letter in enumerate(letters)]
        parts[-1] += suffix if ends else ""
        needed |= {vocabulary[part] for part in _joins(parts, ranks, prefix) if part in vocabulary}
    return needed


def _joins(parts: list[str], ranks: dict[tuple[str, str], int], prefix: str) -> set[str]:
    """All pieces that BPE passes through when it joins these."""
    passed = set(parts)
    while len(parts) > 1:
        pairs = [(ranks.get(pair, len(ranks)), place) for place, pair in enumerate(itertools.pairwise(parts))]
        rank, place = min(pairs)
        if rank == len(ranks):
            break
        parts = [*parts[:place], _joined(parts[place], parts[place + 1], prefix), *parts[place + 2 :]]
        passed.add(parts[place])
    return passed


def _renumber_processor(processor: dict[str, Any] | None, new_ids: dict[int, int]) -> None:
    """Renumber the special tokens that a post-processor puts around a text, in place."""
    if processor is None:
        return
    for inner in processor.get("processors", ()):
        _renumber_processor(inner, new_ids)
    if isinstance(tokens := processor.get("special_tokens"), dict):
        for token in tokens.values():
            token["ids"] = [new_ids[index] for index in token["ids"]]
    for name in ("sep", "cls"):
        if name in processor:
            processor[name] = [processor[name][0], new_ids[processor[name][1]]]


def _check(tokenizer: Any, smaller: Any, old_ids: list[int]) -> None:
    """Raise ValueError if a piece, or a special token of the tokenizer, has another name than before."""
    before = tokenizer.convert_ids_to_tokens(old_ids)
    after = smaller.convert_ids_to_tokens(list(range(len(old_ids))))
    if before != after or len(smaller) != len(old_ids):
        wrong = next((pair for pair in zip(before, after) if pair[0] != pair[1]), ("", ""))
        raise ValueError(
            f"{type(tokenizer).__name__} cannot be made smaller: it would have {len(smaller)} pieces instead of "
            f"{len(old_ids)}, {wrong[1]!r} in the place of {wrong[0]!r}"
        )
