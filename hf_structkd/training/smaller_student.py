"""A smaller student made from a trained model: some of its layers, or the pieces of its vocabulary that a text uses.

Most of a small multilingual model is its embeddings, and a text in four languages uses a tenth of them
("Load What You Need", Abdaoui et al. 2020). The tags of all words whose pieces stay are the same to the last bit.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.smaller_tokenizer import character_pieces, keep_pieces
from ..modeling.glued_words import GluedWords
from ..modeling.segmenters import DEFAULT_WORDS, get_segmenter
from ..modeling.words import tokenize_words

SPREAD = "spread"  # evenly spaced layers
LAYER_LISTS = ("encoder.layer", "layers")  # module names of the layers in BERT-like models and in ModernBERT


TRIMMING_EXPLAINED = (
    "(Pieces that the text does not use are removed. A word that had one is cut into smaller pieces, so its tags may "
    "differ; all other words are read as before.)"
)


def evenly_spaced(layers: int, kept: int) -> list[int]:
    """Choose evenly spaced layers, the first and the last among them.

    Args:
        layers: The number of layers.
        kept: The number to choose.

    Returns:
        Layer numbers from 0 to `layers - 1`; for 6 of 12 layers `[0, 2, 4, 7, 9, 11]`.
    """
    if kept == 1:
        return [0]
    return [(2 * i * (layers - 1) + kept - 1) // (2 * (kept - 1)) for i in range(kept)]


def smaller_student(model: Any, keep_layers: int | Sequence[int]) -> Any:
    """Copy a model with fewer layers: embeddings, the kept layers, the head and its configuration stay the same.

    Args:
        model: A model of the XLM-R, BERT, DeBERTa-v2 or ModernBERT family, with a CRF or without; not changed.
        keep_layers: The number of layers to keep, evenly spaced (see [`evenly_spaced`]), or their numbers from 0.

    Returns:
        The smaller model in eval mode, with the original's dtype and device.

    Raises:
        ValueError: If there are no such layers, or a layer cannot take another's position (ModernBERT's first has no
            norm of its own and must stay the first).
    """
    layer_count = model.config.num_hidden_layers
    if isinstance(keep_layers, int):
        if not 1 <= keep_layers <= layer_count:
            raise ValueError(f"keep_layers must be from 1 to {layer_count}, the layers there are, not {keep_layers}")
        kept = evenly_spaced(layer_count, keep_layers)
    else:
        kept = list(keep_layers)
        if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= layer_count:
            raise ValueError(f"keep_layers must be rising layer numbers from 0 to {layer_count - 1}, not {kept}")
    modules = dict(model.base_model.named_modules())
    if not (layer_lists := [name for name in LAYER_LISTS if name in modules]):
        raise ValueError(f"{type(model).__name__} keeps its layers in no known place ({', '.join(LAYER_LISTS)})")
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):  # ModernBERT: local or global attention
        config.layer_types = [config.layer_types[layer] for layer in kept]

    smaller = type(model)(config).to(device=model.device, dtype=model.dtype)
    prefix = f"{'' if model.base_model is model else f'{model.base_model_prefix}.'}{layer_lists[0]}."
    source = model.state_dict()
    values: dict[str, Tensor] = {}
    for place, layer in enumerate(kept):
        old, new = _layer(source, f"{prefix}{layer}."), _layer(smaller.state_dict(), f"{prefix}{place}.")
        if differ := sorted(set(old) ^ set(new)):
            raise ValueError(
                f"layer {layer} cannot stand in place {place}, which differs in {differ}: keep layer {place} there"
            )
        values |= {f"{prefix}{place}.{name}": value for name, value in old.items()}
    values |= {name: value for name, value in source.items() if not name.startswith(prefix)}
    smaller.load_state_dict(values)
    return smaller.eval()


def _layer(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


Sentences = Iterable[str | Sequence[str]]
Text = Sentences | Mapping[str, Sentences]
ALL = "all"  # the name of a text that names no languages
MOST = 0.5  # above this share of its words cut otherwise, a language counts as lost


@dataclass(frozen=True)
class CutWords:
    """How many words of a text a smaller vocabulary cuts otherwise.

    Args:
        words: The words of the text.
        cut: Those of them that are cut into other pieces than before.
    """

    words: int
    cut: int

    @property
    def share(self) -> float:
        """The share of words cut otherwise, in [0, 1]."""
        return self.cut / self.words if self.words else 0.0

    def __str__(self) -> str:
        return f"{100 * self.share:.2f} % of {self.words:,} words"


@dataclass(frozen=True)
class TrimmedVocabulary:
    """What [`trim_vocabulary`] returns.

    Args:
        model: The smaller model, in eval mode.
        tokenizer: Its tokenizer.
        kept: The old id of each piece, in the order of the new ids.
        pieces_before: The number of embeddings before.
        cut: Language -> words of the text that are cut otherwise; the one key is `"all"` if the text names no
            languages.
    """

    model: Any
    tokenizer: Any
    kept: list[int]
    pieces_before: int
    cut: dict[str, CutWords]

    def __str__(self) -> str:
        lost = "; ".join(f"{'' if language == ALL else f'{language} '}{cut}" for language, cut in self.cut.items())
        return f"vocabulary: {len(self.kept):,} of {self.pieces_before:,} pieces kept; cut otherwise: {lost}"


def trim_vocabulary(
    model: Any,
    tokenizer: Any,
    text: Text,
    *,
    min_count: int = 1,
    max_pieces: int | None = None,
    keep_characters: bool = True,
) -> TrimmedVocabulary:
    """Copy a model and its tokenizer with the pieces that a text uses.

    Special and added tokens always stay, and what BPE joins the kept pieces from. A word whose pieces all stay is cut
    as before, so that its tags are the same; other words are cut into smaller pieces that stay, and counted.

    Args:
        model: Any model of transformers with input embeddings, with a CRF or without; not changed.
        tokenizer: Its fast tokenizer.
        text: Sentences, each a list of words or a raw text, or language -> such sentences. Raw texts are cut as the
            model cuts them.
        min_count: Keep the pieces that occur at least so often.
        max_pieces: Keep at most so many pieces, the most frequent ones; `None` for all that occur often enough.
        keep_characters: Keep all single characters too, so that no character becomes unknown that was known.

    Returns:
        The smaller model and tokenizer, and what is cut otherwise.

    Raises:
        ValueError: If the text is empty or lacks a language of the model (`model.config.languages`), if the model has
            no embedding for a special token, if `max_pieces` would not even hold the special tokens, or if more than
            half of the words of a language would be cut otherwise; the message names each with its percentage.
        TypeError: If a sentence is neither a text nor a list of words.
    """
    if min_count < 1 or (max_pieces is not None and max_pieces < 1):
        raise ValueError(f"min_count ({min_count}) and max_pieces ({max_pieces}) must be at least 1")
    by_language = _by_language(text)
    _refuse_missing_languages(model, by_language)
    rows = model.get_input_embeddings().weight.shape[0]
    _refuse_special_without_row(tokenizer, rows)

    words = {name: _words(sentences, model) for name, sentences in by_language.items()}
    raw = {sentence for sentences in by_language.values() for sentence in sentences if isinstance(sentence, str)}
    glued_words = _has_glued_words(model)
    counts = _count_pieces(words, raw, tokenizer, glued_words)
    always = set(tokenizer.all_special_ids) | _config_ids(model).intersection(range(rows))
    always |= set(range(_fixed_ids(model)))
    always |= character_pieces(tokenizer) if keep_characters else set()
    chosen = [piece for piece, count in counts.most_common() if count >= min_count and piece not in always]
    if max_pieces is not None:
        smallest = len(keep_pieces(tokenizer, always)[1])
        if max_pieces < smallest:
            raise ValueError(
                f"max_pieces {max_pieces:,} would lose special pieces: special tokens"
                f"{' and single characters' if keep_characters else ''} alone are {smallest:,}. Give at least so many"
                f"{', or keep_characters=False' if keep_characters else ''}"
            )
        chosen = _fitting(tokenizer, always, chosen, max_pieces)
    smaller_tokenizer, kept = keep_pieces(tokenizer, always.union(chosen))
    cut = {
        name: _cut_words(counted, tokenizer, smaller_tokenizer, kept, glued_words) for name, counted in words.items()
    }
    if lost := {name: counted for name, counted in cut.items() if counted.share > MOST}:
        listed = ", ".join(f"{100 * counted.share:.1f} % of {name}" for name, counted in lost.items())
        raise ValueError(
            f"the cut to {len(kept):,} pieces would lose most of a language: words cut otherwise: {listed}. Lower "
            f"min_count ({min_count}), raise max_pieces ({max_pieces}), or give more text"
        )
    return TrimmedVocabulary(_smaller_model(model, kept), smaller_tokenizer, kept, rows, cut)


def words_cut_otherwise(tokenizer: Any, trimmed: TrimmedVocabulary, text: Text) -> dict[str, CutWords]:
    """Count the words of any text, for instance held-out sentences, that a smaller vocabulary cuts otherwise.

    Args:
        tokenizer: The tokenizer before.
        trimmed: The result of [`trim_vocabulary`].
        text: As for [`trim_vocabulary`].

    Returns:
        Language -> the count; the one key is `"all"` if the text names no languages.
    """
    return {
        name: _cut_words(
            _words(sentences, trimmed.model),
            tokenizer,
            trimmed.tokenizer,
            trimmed.kept,
            _has_glued_words(trimmed.model),
        )
        for name, sentences in _by_language(text).items()
    }


# ---- the text ----


def _by_language(text: Text) -> dict[str, list[Any]]:
    """Raises ValueError if there are no words."""
    if isinstance(text, str):
        raise TypeError(f"text must be a list of sentences, not one text: {text[:80]!r}")
    parts = text.items() if isinstance(text, Mapping) else [(ALL, text)]
    listed = {name: list(part) for name, part in parts}
    for row, sentence in ((row, sentence) for part in listed.values() for row, sentence in enumerate(part)):
        if not hasattr(sentence, "__len__"):
            raise TypeError(f"sentence {row} is neither a text nor a list of words: {str(sentence)[:80]!r}")
    empty = [name for name, sentences in listed.items() if not any(map(len, sentences))]
    if empty or not listed:
        raise ValueError(
            f"the text is empty{'' if empty in ([], [ALL]) else ' in ' + ', '.join(empty)}: give sentences"
        )
    return listed


def _words(sentences: Sequence[Any], model: Any) -> Counter[str]:
    """How often each word occurs."""
    split = get_segmenter(getattr(model.config, "words", DEFAULT_WORDS))
    counted: Counter[str] = Counter()
    for row, sentence in enumerate(sentences):
        if isinstance(sentence, str):
            counted.update(sentence[start:end] for start, end in split(sentence))
        elif all(isinstance(word, str) for word in sentence):
            counted.update(sentence)
        else:
            raise TypeError(f"sentence {row} is neither a text nor a list of words: {str(sentence)[:80]!r}")
    return counted


def _refuse_missing_languages(model: Any, by_language: Mapping[str, Any]) -> None:
    known = getattr(model.config, "languages", None) or []
    missing = [language for language in known if language not in by_language]
    if missing and ALL not in by_language:
        raise ValueError(
            f"the text has no sentences of {', '.join(missing)}, which the model tags, and most of their words would "
            "be cut otherwise: give sentences of them too, or take them out of model.config.languages"
        )


def _has_glued_words(model: Any) -> bool:
    return bool(getattr(model.config, "glued_words", False))


def _encode_both(
    words: Sequence[str], tokenizer: Any, glued_words: bool
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The pieces of each word at the start of a sentence, and further on: some tokenizers cut these differently.

    With glued words the second are those behind a blank and those without one, one after the other.
    """
    if not words:
        return []
    repeated: list[list[str]] = [[word, word] for word in words]
    if glued_words:
        repeated = [GluedWords([word] * 3, [False, False, True]) for word in words]
    encoded = tokenize_words(repeated, tokenizer, glued_words)
    both = []
    for ids, mask in zip(encoded["input_ids"], encoded["word_mask"]):
        first, second = [place for place, starts in enumerate(mask) if starts][:2]
        tail = len(ids) - _specials_after(tokenizer)
        both.append((tuple(ids[first:second]), tuple(ids[second:tail])))
    return both


def _specials_after(tokenizer: Any) -> int:
    """How many special tokens follow a text."""
    mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return next((place for place, special in enumerate(reversed(mask)) if not special), 0)


def _count_pieces(
    words: Mapping[str, Counter[str]], raw: Iterable[str], tokenizer: Any, glued_words: bool
) -> Counter[int]:
    total: Counter[str] = sum(words.values(), Counter())
    counts: Counter[int] = Counter()
    for (word, times), (first, later) in zip(total.items(), _encode_both(list(total), tokenizer, glued_words)):
        unknown = tokenizer.unk_token_id in later
        for piece in {*first, *later, *(_prefix_pieces(word, tokenizer) if unknown else ())}:
            counts[piece] += times
    if texts := sorted(raw):
        encoded = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        between = Counter(piece for ids in encoded for piece in ids)  # pieces of words are counted already
        counts.update({piece: times for piece, times in between.items() if piece not in counts})
    return counts


def _prefix_pieces(word: str, tokenizer: Any) -> set[int]:
    """The pieces that WordPiece matches before it gives a word up as unknown; without them it would match others."""
    backend = tokenizer.backend_tokenizer
    if type(backend.model).__name__ != "WordPiece":
        return set()
    normal = backend.normalizer.normalize_str(word) if backend.normalizer else word
    parts = [part for part, _ in backend.pre_tokenizer.pre_tokenize_str(normal)] if backend.pre_tokenizer else [normal]
    vocabulary, prefix = tokenizer.get_vocab(), backend.model.continuing_subword_prefix
    matched = set()
    for part in parts:
        start = 0
        while start < len(part):
            mark = prefix if start else ""
            ends = (end for end in range(len(part), start, -1) if mark + part[start:end] in vocabulary)
            if (end := next(ends, None)) is None:
                break
            matched.add(vocabulary[mark + part[start:end]])
            start = end
    return matched


def _fitting(tokenizer: Any, always: set[int], chosen: list[int], limit: int) -> list[int]:
    """As many of the most frequent pieces as fit, with all that BPE joins them from."""
    low, high = 0, len(chosen)
    while low < high:
        middle = (low + high + 1) // 2
        if len(keep_pieces(tokenizer, always.union(chosen[:middle]))[1]) <= limit:
            low = middle
        else:
            high = middle - 1
    return chosen[:low]


def _cut_words(counted: Counter[str], before: Any, after: Any, kept: Sequence[int], glued_words: bool) -> CutWords:
    words = list(counted)
    pairs = zip(words, _encode_both(words, before, glued_words), _encode_both(words, after, glued_words))
    cut = sum(
        counted[word] for word, old, new in pairs if old != tuple(tuple(kept[piece] for piece in part) for part in new)
    )
    return CutWords(counted.total(), cut)


# ---- the model ----


def _refuse_special_without_row(tokenizer: Any, rows: int) -> None:
    without = {token: index for token, index in tokenizer.get_added_vocab().items() if index >= rows}
    if without:
        listed = ", ".join(f"{token} ({index})" for token, index in sorted(without.items(), key=lambda item: item[1]))
        raise ValueError(
            f"the cut would lose special pieces: the model has {rows:,} embeddings, and none for {listed}. Call "
            "model.resize_token_embeddings(len(tokenizer)) first, or give the model's own tokenizer"
        )


def _config_ids(model: Any) -> set[int]:
    """The ids of pieces that the configuration names."""
    fields = model.config.to_dict()
    values = [value for name, value in fields.items() if name.endswith("_token_id") and value is not None]
    listed = [value if isinstance(value, list) else [value] for value in values]
    return {index for ids in listed for index in ids if isinstance(index, int)}


def _fixed_ids(model: Any) -> int:
    """How many of the first ids must keep their numbers: RoBERTa's positions are counted from the padding's id."""
    embeddings = getattr(model.base_model, "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else padding + 1


@torch.no_grad()
def _smaller_model(model: Any, kept: list[int]) -> Any:
    smaller = copy.deepcopy(model)
    rows = torch.tensor(kept)
    new_ids = {old: new for new, old in enumerate(kept)}
    inputs, outputs = smaller.get_input_embeddings(), smaller.get_output_embeddings()
    weights = {id(inputs.weight): inputs.weight}
    if outputs is not None:
        weights |= {id(tensor): tensor for tensor in (outputs.weight, outputs.bias) if tensor is not None}
    for weight in weights.values():  # the kept rows become the first ones, which is what resizing keeps
        weight[: len(kept)] = weight[rows.to(weight.device)]
    if starts := getattr(smaller, "word_starts", None):
        starts.pieces[: len(kept)] = starts.pieces[rows.to(starts.pieces.device)]
    smaller.resize_token_embeddings(len(kept), mean_resizing=False)
    _renumber_config(smaller.config, new_ids)
    if getattr(smaller, "generation_config", None) is not None:
        _renumber_config(smaller.generation_config, new_ids)
    embedding = smaller.get_input_embeddings()
    if isinstance(embedding, nn.Embedding) and inputs.padding_idx is not None:
        embedding.padding_idx = new_ids.get(inputs.padding_idx)
    return smaller.eval()


def _renumber_config(config: Any, new_ids: Mapping[int, int]) -> None:
    for name in [name for name in config.to_dict() if name.endswith("_token_id")]:
        value = getattr(config, name)
        if isinstance(value, list):
            setattr(config, name, [new_ids[index] for index in value])
        elif isinstance(value, int):
            setattr(config, name, new_ids.get(value))
