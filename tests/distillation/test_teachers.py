"""Dangers: a teacher answers for the wrong label or word, and its answers are trusted."""

import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaForTokenClassification

from hf_structkd import Teacher


@pytest.fixture
def softmax_model(tokenizer, labels):
    torch.manual_seed(1)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, pad_token_id=1, type_vocab_size=1, id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    model = XLMRobertaForTokenClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    return model


def test_a_crf_teacher_answers_with_its_own_distribution(make_student, tokenizer, corpus, labels):
    model = make_student(seed=3)
    sentences = corpus["tokens"][:5]
    distribution = Teacher(model, tokenizer).distribution(sentences, labels)
    for i, words in enumerate(sentences):
        alone = Teacher(model, tokenizer).distribution([words], labels)
        torch.testing.assert_close(distribution.marginals[i, : len(words)], alone.marginals[0], atol=1e-5, rtol=1e-4)
        assert distribution.lengths[i] == len(words)


def test_labels_are_matched_by_name_not_by_number(make_student, tokenizer, corpus, labels):
    teacher = Teacher(make_student(), tokenizer)
    order = list(reversed(labels))
    sentences = corpus["tokens"][:4]
    straight, turned = teacher.distribution(sentences, labels), teacher.distribution(sentences, order)
    back = [order.index(label) for label in labels]
    torch.testing.assert_close(turned.marginals[..., back], straight.marginals)
    torch.testing.assert_close(turned.edge_counts[:, back][:, :, back], straight.edge_counts)
    assert teacher.tag(sentences, order) == teacher.tag(sentences)


def test_a_softmax_teacher_is_a_crf_without_transitions(softmax_model, tokenizer, corpus, labels):
    sentences = [words[:6] for words in corpus["tokens"][:4]]  # short enough for the stock model's one window
    marginals = Teacher(softmax_model, tokenizer).distribution(sentences, labels).marginals
    for i, words in enumerate(sentences):
        encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        ids = encoded.word_ids()
        firsts = [p for p, word in enumerate(ids) if word is not None and word != ids[p - 1]]
        expected = softmax_model(**encoded).logits[0, firsts].softmax(dim=-1)
        torch.testing.assert_close(marginals[i, : len(words)], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head", ["crf", "softmax"])
def test_a_sentence_longer_than_the_teachers_window_is_answered_whole(
    head, softmax_model, make_student, tokenizer, corpus, labels
):
    model = softmax_model if head == "softmax" else make_student()
    words = [word for sentence in corpus["tokens"][:15] for word in sentence]
    distribution = Teacher(model, tokenizer).distribution([words], labels)
    torch.testing.assert_close(distribution.marginals.sum(dim=-1), torch.ones(1, len(words)))


def test_other_labels_are_an_error_that_says_which_and_a_map_mends_names(make_student, tokenizer, corpus, labels):
    renamed = {label: label.replace("PER", "PERSON") for label in labels if "PER" in label}
    wanted = [renamed.get(label, label) for label in labels]
    with pytest.raises(ValueError, match=r"lacks \['B-PERSON', 'I-PERSON'\], and has \['B-PER', 'I-PER'\].*label_map"):
        Teacher(make_student(), tokenizer).distribution(corpus["tokens"][:1], wanted)
    mapped = Teacher(make_student(), tokenizer, label_map=renamed)
    assert mapped.distribution(corpus["tokens"][:1], wanted).marginals.shape[-1] == len(labels)
    with pytest.raises(ValueError, match="it has no label"):
        Teacher(make_student(), tokenizer, label_map={"B-MISC": "O"})


def test_the_revision_changes_with_weights_and_labels_and_with_nothing_else(make_student, tokenizer, tmp_path):
    teacher = Teacher(make_student(seed=1), tokenizer)
    assert teacher.revision == Teacher(make_student(seed=1), tokenizer).revision
    assert teacher.revision != Teacher(make_student(seed=2), tokenizer).revision
    assert teacher.revision != Teacher(make_student(seed=1), tokenizer, label_map={"B-PER": "B-X"}).revision
    teacher.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert Teacher.from_pretrained(str(tmp_path)).revision == teacher.revision
