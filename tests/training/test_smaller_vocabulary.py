"""Dangers: a smaller vocabulary that tags differently where nothing was cut, because ids, positions, merges or scores
of unknown characters moved; one that loses special tokens or a language without a word about it."""

import pytest
import torch
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    pipeline,
)

from hf_structkd.data.smaller_tokenizer import character_pieces, keep_pieces
from hf_structkd.modeling.words import tokenize_words
from hf_structkd.training.smaller_student import trim_vocabulary, words_cut_otherwise
from tests.modeling.conftest import FAMILIES, Family, byte_level, family, spaces_as_pieces, unigram, wordpiece

__all__ = ["family"]  # a fixture


@pytest.fixture(scope="session")
def tokenizers_by_family(corpus, tokenizer):
    kinds = {"bert": wordpiece, "deberta-v2": unigram, "modernbert": byte_level}
    return {"xlm-roberta": tokenizer, **{name: make(list(corpus["tokens"])) for name, make in kinds.items()}}


def emissions(model, tokenizer, sentences):
    """Each sentence alone: other sentences of a batch would change nothing but the last bits."""
    batches = [tokenize_words([words], tokenizer) for words in sentences]
    with torch.no_grad():
        return [model(**{name: torch.tensor(rows) for name, rows in batch.items()}) for batch in batches]


def test_tags_are_the_same_to_the_last_bit_after_saving_and_loading(family: Family, corpus, tmp_path):
    model, tokenizer = family.student(), family.tokenizer
    sentences = list(corpus["tokens"])[:8]
    trimmed = trim_vocabulary(model, tokenizer, sentences, keep_characters=False)
    assert len(trimmed.kept) < len(tokenizer)
    assert trimmed.cut["all"].cut == 0
    trimmed.model.save_pretrained(tmp_path)
    trimmed.tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
    loaded_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.config.vocab_size == len(loaded_tokenizer) == len(trimmed.kept)
    for name in ("pad_token_id", "cls_token_id", "mask_token_id", "unk_token_id"):
        assert trimmed.kept[getattr(loaded_tokenizer, name)] == getattr(tokenizer, name)
    assert loaded.config.pad_token_id == loaded_tokenizer.pad_token_id
    pairs = zip(emissions(model, tokenizer, sentences), emissions(loaded, loaded_tokenizer, sentences))
    for before, after in pairs:
        assert torch.equal(before.emissions, after.emissions)
        assert torch.equal(before.tags, after.tags)


def test_the_pipelines_answer_as_before(family: Family, corpus):
    model, tokenizer = family.student(), family.tokenizer
    texts = [" ".join(words) for words in list(corpus["tokens"])[:8]]
    trimmed = trim_vocabulary(model, tokenizer, texts)
    for task, options in (
        ("token-classification", {"aggregation_strategy": "simple"}),
        ("crf-token-classification", {}),
    ):
        before, after = (
            pipeline(task, model=m, tokenizer=t, **options)(texts)
            for m, t in ((model, tokenizer), (trimmed.model, trimmed.tokenizer))
        )
        assert before == after
        assert any(before)


def test_a_batch_with_padding_is_read_as_before(family: Family, corpus):
    """RoBERTa counts positions from the padding's id."""
    model, tokenizer = family.student(), family.tokenizer
    sentences = list(corpus["tokens"])[:6]
    trimmed = trim_vocabulary(model, tokenizer, sentences)
    outputs = []
    for tagger, its_tokenizer in ((model, tokenizer), (trimmed.model, trimmed.tokenizer)):
        batch = its_tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            outputs.append(tagger(**batch))
    assert torch.equal(outputs[0].emissions, outputs[1].emissions)


@pytest.mark.parametrize("make", [wordpiece, unigram, byte_level, spaces_as_pieces])
def test_whatever_can_be_written_with_the_kept_pieces_is_cut_as_before(make, corpus):
    """Also words that the text lacks; BPE loses this with a merge too few, Unigram with another lowest score."""
    sentences = [*corpus["tokens"], ["§", "☃a", "zzz"]]
    tokenizer = make(list(corpus["tokens"]))
    used = {piece for row in tokenize_words(sentences[:12], tokenizer)["input_ids"] for piece in row}
    smaller, kept = keep_pieces(tokenizer, used | character_pieces(tokenizer))
    checked = 0
    for word in {word for words in sentences for word in words}:
        before = tokenize_words([["a", word]], tokenizer)["input_ids"][0]
        if set(before) <= set(kept):
            after = [kept[piece] for piece in tokenize_words([["a", word]], smaller)["input_ids"][0]]
            assert before == after, word
            checked += 1
    assert checked > 50
    assert len(kept) < len(tokenizer)


def test_bpe_keeps_what_a_piece_is_joined_from(corpus):
    tokenizer = byte_level(list(corpus["tokens"]))
    longest = max(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens), key=len)
    smaller, kept = keep_pieces(tokenizer, [tokenizer.convert_tokens_to_ids(longest)])
    ids = smaller.backend_tokenizer.model.tokenize(longest)
    assert [token.value for token in ids] == [longest]
    assert len(kept) < len(tokenizer) / 2


def test_a_tied_output_layer_is_cut_with_the_embeddings(tokenizer, corpus):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer) + 5, pad_token_id=1, max_position_embeddings=40, type_vocab_size=1, **shape
    )
    model = XLMRobertaForMaskedLM(config).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    trimmed = trim_vocabulary(model, tokenizer, list(corpus["tokens"])[:5])
    assert trimmed.model.get_output_embeddings().weight is trimmed.model.get_input_embeddings().weight
    assert len(trimmed.model.get_input_embeddings().weight) == len(trimmed.kept) == trimmed.model.config.vocab_size
    with torch.no_grad():
        ids = torch.tensor([trimmed.tokenizer(" ".join(corpus["tokens"][0]))["input_ids"]])
        before = model(torch.tensor(trimmed.kept)[ids]).logits[..., trimmed.kept]
        assert torch.allclose(before, trimmed.model(ids).logits, atol=1e-6)


def test_the_model_given_is_not_changed(make_student, tokenizer, corpus):
    model = make_student()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    size = len(tokenizer)
    trim_vocabulary(model, tokenizer, list(corpus["tokens"])[:3])
    assert len(tokenizer) == size
    assert model.config.vocab_size == size
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_cut_otherwise_is_counted_by_language(make_student, tokenizer, corpus):
    by_language = {
        name: [words for words, language in zip(corpus["tokens"], corpus["language"]) if language == name]
        for name in ("en", "ru")
    }
    model = make_student()
    trimmed = trim_vocabulary(model, tokenizer, by_language, min_count=3)
    for name, sentences in by_language.items():
        expected = 0
        for word in (word for words in sentences for word in words):
            before, after = (t([word], is_split_into_words=True)["input_ids"] for t in (tokenizer, trimmed.tokenizer))
            expected += before != [trimmed.kept[piece] for piece in after]
        assert trimmed.cut[name].cut == expected > 0
        assert trimmed.cut[name].words == sum(map(len, sentences))
    assert "en" in str(trimmed)
    assert "%" in str(trimmed)
    only_english = trim_vocabulary(model, tokenizer, by_language["en"])
    held_out = words_cut_otherwise(tokenizer, only_english, by_language)
    assert held_out["en"].cut == 0
    assert held_out["ru"].share > 0.5


def test_a_cut_that_loses_most_of_a_language_says_which_and_how_much(make_student, tokenizer, corpus):
    text = {"en": [["the"]] * 500, "ru": list(corpus["tokens"])[-5:]}
    with pytest.raises(ValueError, match=r"most of a language.*\d+\.\d % of ru"):
        trim_vocabulary(make_student(), tokenizer, text, min_count=400)
    with pytest.raises(ValueError, match="no sentences of ru"):
        trim_vocabulary(make_student(languages=["en", "ru"]), tokenizer, {"en": text["en"]})


def test_a_limit_is_kept_and_may_not_lose_special_pieces(make_student, tokenizer, corpus):
    model, sentences = make_student(), list(corpus["tokens"])
    trimmed = trim_vocabulary(model, tokenizer, sentences, max_pieces=250)
    assert len(trimmed.kept) <= 250
    with pytest.raises(ValueError, match="max_pieces 4 would lose special pieces"):
        trim_vocabulary(model, tokenizer, sentences, max_pieces=4)


def test_special_pieces_without_an_embedding_are_named(make_student, corpus, tokenizer):
    model = make_student()
    model.resize_token_embeddings(len(tokenizer) - 1)
    with pytest.raises(ValueError, match=r"lose special pieces.*<mask>"):
        trim_vocabulary(model, tokenizer, list(corpus["tokens"]))


@pytest.mark.parametrize(
    ("text", "error"), [([], "empty"), ({"en": [[]]}, "empty in en"), ([3], "neither a text"), ("one", "not one text")]
)
def test_a_text_that_is_none_is_refused(make_student, tokenizer, text, error):
    with pytest.raises((TypeError, ValueError), match=error):
        trim_vocabulary(make_student(), tokenizer, text)


def test_every_family_is_tried():
    assert set(FAMILIES) == {"xlm-roberta", "bert", "deberta-v2", "modernbert"}
