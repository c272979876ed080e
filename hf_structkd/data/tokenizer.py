"""A tokenizer for languages that no pretrained encoder covers, and for models trained from scratch."""

import json
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


def train_tokenizer(
    sentences: Iterable[Sequence[str]], vocab_size: int, model_max_length: int = 512
) -> PreTrainedTokenizerFast:
    """Train a fast Unigram tokenizer shaped like XLM-R's.

    `<s>`, `<pad>`, `</s>`, `<unk>` have ids 0 to 3 as in XLM-R, `<mask>` the last one; `▁` marks word
    starts; single sentences become `<s> A </s>`, pairs `<s> A </s> </s> B </s>`. Training is deterministic.

    Args:
        sentences: lists of words.
        vocab_size: the number of ids, special tokens included. A small corpus yields fewer.
        model_max_length: the longest input of the model, in subwords.

    Returns:
        A tokenizer for `tokenizer(words, is_split_into_words=True)`, with `word_ids()`.

    Raises:
        ValueError: if there are no sentences, or `vocab_size` does not even cover the characters.
    """
    texts = [" ".join(words) for words in sentences if words]
    if not texts:
        raise ValueError("No sentences to train a tokenizer on.")
    tokenizer = Tokenizer(models.Unigram())
    # Compatibility forms only: XLM-R's own character map also removes joiners, which Indic scripts need.
    tokenizer.normalizer = normalizers.NFKC()
    # Spaces are split off first, as in XLM-R's own tokenizer, or offsets into raw text would include them.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    characters = len(set("".join(texts))) + len(_SPECIAL) + 1
    if vocab_size <= characters:
        raise ValueError(f"vocab_size={vocab_size} is too small: the text needs more than {characters}.")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - 1, special_tokens=list(_SPECIAL), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.model = _reproducible_model(tokenizer, characters)
    tokenizer.add_special_tokens(["<mask>"])
    start, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=model_max_length,
        bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip


def _reproducible_model(tokenizer: Tokenizer, characters: int) -> models.Unigram:
    """The trained model without what differs between runs.

    The trainer gives rare characters the lowest score plus 0.0001 times their place in a hash table, which differs
    between runs; so do the last digits of its sums, and with both the order of pieces. Here rare characters all get
    the lowest score, scores are rounded, and pieces of equal score are ordered by their text.
    """
    vocabulary = [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    special, pieces = vocabulary[: len(_SPECIAL)], vocabulary[len(_SPECIAL) :]
    lowest = round(min(score for _, score in pieces), 4)
    rare = lowest + 0.0001 * characters
    rounded = [(piece, lowest if len(piece) == 1 and score < rare else round(score, 4)) for piece, score in pieces]
    return models.Unigram(special + sorted(rounded, key=lambda entry: (-entry[1], entry[0])), _SPECIAL.index("<unk>"))
