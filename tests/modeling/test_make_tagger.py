"""Dangers: a recipe's encoder gets another family's class, or a trained tagger's labels are renamed by position."""

import sys
from pathlib import Path

import pytest
from transformers import AutoModelForTokenClassification, BertConfig, ElectraConfig, ElectraModel

from hf_structkd.training.recipe import RecipeError

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from recipe_arguments import ModelArguments
from recipe_steps import make_tagger


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


def test_an_encoder_without_a_crf_class_is_an_error_of_the_recipe(tokenizers_by_family, labels, tmp_path):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ElectraModel(ElectraConfig(vocab_size=300, embedding_size=8, **shape)).save_pretrained(tmp_path)
    tokenizers_by_family["bert"].save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="no CRF head for encoders of type 'electra'"):
        make_tagger(ModelArguments(model=str(tmp_path)), labels, "BIO", no_sentences)


def test_a_softmax_teacher_of_another_family(tokenizers_by_family, labels, tmp_path):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    AutoModelForTokenClassification.from_config(BertConfig(vocab_size=300, **shape)).base_model.save_pretrained(
        tmp_path
    )
    tokenizers_by_family["bert"].save_pretrained(tmp_path)
    model, _ = make_tagger(ModelArguments(model=str(tmp_path), head="softmax"), labels, "BIO", no_sentences)
    assert type(model).__name__ == "BertForTokenClassification"
