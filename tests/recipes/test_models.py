"""Dangers: a recipe's encoder gets another family's class, or a trained tagger's labels are renamed by position."""

import pytest
import torch
from transformers import AutoTokenizer, ElectraConfig, ElectraModel

from hf_structkd.recipes.fields import ModelArguments
from hf_structkd.recipes.models import check_model, make_tagger, trim_tagger
from hf_structkd.recipes.parser import RecipeError


def no_sentences():
    raise AssertionError("only a tokenizer from scratch needs sentences")


@pytest.fixture
def saved(family, tmp_path):
    family.student().save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def test_every_family_is_taken_as_it_is(family, saved):
    model, tokenizer = make_tagger(ModelArguments(model=saved), family.labels, "BIO", no_sentences)
    assert type(model) is family.cls
    assert model.config.tag_scheme == "BIO"
    assert tokenizer.get_vocab() == family.tokenizer.get_vocab()
    assert model.word_starts.pieces.any()


def test_a_taggers_labels_are_not_renamed(family, saved):
    with pytest.raises(RecipeError, match="is trained on the labels"):
        make_tagger(ModelArguments(model=saved), family.labels[::-1], "BIO", no_sentences)


def test_too_few_embeddings_are_told_before_teachers_are_trained(family, saved):
    check_model(ModelArguments(model=saved))
    tokenizer = AutoTokenizer.from_pretrained(saved)
    tokenizer.add_tokens([f"<extra{number}>" for number in range(family.student().config.vocab_size)])
    tokenizer.save_pretrained(saved)
    with pytest.raises(RecipeError, match="embeddings and its tokenizer"):
        check_model(ModelArguments(model=saved))


def test_an_encoder_without_a_crf_class_is_an_error_of_the_recipe(tokenizers_by_family, labels, tmp_path):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ElectraModel(ElectraConfig(vocab_size=300, embedding_size=8, **shape)).save_pretrained(tmp_path)
    tokenizers_by_family["bert"].save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="no CRF head for encoders of type 'electra'"):
        make_tagger(ModelArguments(model=str(tmp_path)), labels, "BIO", no_sentences)


def test_a_softmax_teacher_of_any_family(family, tmp_path):
    family.plain_encoder().save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    model, _ = make_tagger(ModelArguments(model=str(tmp_path), head="softmax"), family.labels, "BIO", no_sentences)
    assert type(model).__name__.endswith("ForTokenClassification")


def test_a_trained_tagger_starts_a_smaller_one_with_its_head(family, tmp_path):
    trained = family.student(num_hidden_layers=3)
    trained.save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    model, _ = make_tagger(ModelArguments(model=str(tmp_path), keep_layers=2), family.labels, "BIO", no_sentences)
    assert model.config.num_hidden_layers == 2
    assert torch.equal(model.crf.transitions, trained.crf.transitions)
    assert torch.equal(model.classifier.weight, trained.classifier.weight)
    with pytest.raises(RecipeError, match="keep_layers must be from 1 to 3"):
        make_tagger(ModelArguments(model=str(tmp_path), keep_layers=4), family.labels, "BIO", no_sentences)


def test_a_frozen_encoder_with_an_lstm_is_two_fields_of_the_recipe(family, tmp_path):
    family.plain_encoder().save_pretrained(tmp_path)
    family.tokenizer.save_pretrained(tmp_path)
    fields = {"freeze_encoder": True, "lstm_hidden_size": 4}
    model, _ = make_tagger(ModelArguments(model=str(tmp_path), model_config=fields), family.labels, None, no_sentences)
    assert model.lstm.layers.hidden_size == 4
    assert not any(p.requires_grad for p in model.base_model.parameters())
    arguments = ModelArguments(model=str(tmp_path), model_config=fields, head="softmax")
    with pytest.raises(RecipeError, match="freeze_encoder, lstm_hidden_size need a model with head: crf"):
        make_tagger(arguments, family.labels, None, no_sentences)


def test_a_recipe_trims_the_vocabulary_and_says_what_is_cut_otherwise(family, saved, corpus, capsys):
    arguments = ModelArguments(model=saved, trim_vocabulary=1)
    model, tokenizer = make_tagger(arguments, family.labels, "BIO", no_sentences)
    train = corpus.select(range(10))
    smaller, its_tokenizer = trim_tagger(model, tokenizer, arguments, train, {"ru": corpus.select(range(50, 60))})
    assert smaller.config.vocab_size == len(its_tokenizer) < len(tokenizer)
    said = capsys.readouterr().out
    assert "pieces kept" in said
    assert "in the dev sentences of ru: " in said
    assert "A word that had one is cut into smaller pieces, so its tags may differ" in said
    starts = its_tokenizer.convert_ids_to_tokens(smaller.word_starts.pieces.nonzero().flatten().tolist())
    assert set(starts) <= set(tokenizer.convert_ids_to_tokens(model.word_starts.pieces.nonzero().flatten().tolist()))
    same = trim_tagger(model, tokenizer, ModelArguments(model=saved), train, {})
    assert same == (model, tokenizer)
