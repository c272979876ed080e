"""Dangers: a tagger that learns a new type forgets an old one before training begins, or loses a row when it is saved;
a type that exists is added again."""

import pytest
import torch
from transformers import AutoModelForTokenClassification, BertConfig, BertForTokenClassification

from hf_structkd import DataCollatorForStructKD, TagScheme, encode_corpus, extend_labels

from ..conftest import label_fields
from ..modeling.conftest import family, tokenizers_by_family  # noqa: F401 (fixtures)

SCHEMES = {
    "BIO": TagScheme.from_entity_types(["LOC", "PER"], "BIO").tags,
    "BIOES": TagScheme.from_entity_types(["LOC", "PER"], "BIOES").tags,
    "plain": ("NOUN", "O", "VERB"),
    "plain without O": ("NOUN", "PART", "VERB"),
}
ADDED = {"BIO": ["B-X", "I-X"], "BIOES": ["B-X", "I-X", "E-X", "S-X"]}


def batch_of(tokenizer, corpus, labels):
    outside = labels.index("O") if "O" in labels else 0
    unlabelled = corpus.select([0, 31, 2, 33]).remove_columns("tags")
    rows = list(encode_corpus(unlabelled, tokenizer, labels))
    assert outside >= 0
    return {key: value for key, value in DataCollatorForStructKD(tokenizer)(rows).items() if key != "labels"}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("constraints", ["none", "decode", "train"])
def test_old_labels_are_kept_exactly_and_still_decoded(make_student, tokenizer, corpus, scheme, constraints, tmp_path):
    labels = list(SCHEMES[scheme])
    model = make_student(crf_constraints=constraints, **label_fields(labels))
    larger = extend_labels(model, ["X"])
    added = ADDED.get(scheme, ["X"])
    assert larger.config.num_labels == len(labels) + len(added)
    assert list(larger.tag_scheme.tags) == [*labels, *added]
    assert model.config.num_labels == len(labels), "the model itself is not changed"
    count = len(labels)
    for name, old in model.state_dict().items():
        new = larger.state_dict()[name]
        same = new[tuple(slice(0, size) for size in old.shape)]
        assert torch.equal(same, old), name
    batch = batch_of(tokenizer, corpus, labels)
    with torch.no_grad():
        before, after = model(**batch), larger(**batch)
    torch.testing.assert_close(after.emissions[..., :count], before.emissions)
    if "O" in labels:
        assert torch.equal(after.tags, before.tags)
        outside = labels.index("O")
        weight = after.emissions[..., count:].logsumexp(-1) - after.emissions[..., outside]
        inside = torch.arange(weight.shape[1]) < after.lengths[:, None]
        torch.testing.assert_close(weight[inside], torch.tensor(0.1).log().expand(int(inside.sum())))
    larger.save_pretrained(tmp_path)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(**batch).logits, after.logits)


def test_every_family_is_extended(family, corpus):  # noqa: F811
    model = family.student(lstm_hidden_size=8)
    larger = extend_labels(model, ["EVENT", "WORK-of-art"])
    batch = batch_of(family.tokenizer, corpus, family.labels)
    with torch.no_grad():
        assert torch.equal(larger(**batch).tags, model(**batch).tags)
    assert larger.config.id2label[larger.config.num_labels - 1] == "I-WORK-of-art"
    loss = larger.train()(**{**batch, "labels": torch.where(batch["word_mask"].bool(), 0, -100)}).loss
    loss.backward()
    assert larger.classifier.weight.grad[len(family.labels) :].abs().sum() > 0, "new rows learn"


def test_half_precision_stays_and_the_crf_stays_exact(make_student):
    model = make_student().to(torch.bfloat16)
    larger = extend_labels(model, ["X"])
    assert larger.classifier.weight.dtype == torch.bfloat16
    assert larger.crf.transitions.dtype == torch.float32
    count = model.config.num_labels
    assert torch.equal(larger.crf.transitions[:count, :count], model.crf.transitions)


def test_a_softmax_tagger_is_extended_saved_and_loaded(tmp_path):
    labels = list(SCHEMES["BIO"])
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    model = BertForTokenClassification(BertConfig(vocab_size=50, **shape, **label_fields(labels))).eval()
    torch.nn.init.normal_(model.classifier.bias)
    larger = extend_labels(model, ["X", "Y"])
    larger.save_pretrained(tmp_path)
    again = AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, 50, (3, 9))
    with torch.no_grad():
        old, new = model(ids).logits, again(ids).logits
    torch.testing.assert_close(new[..., : len(labels)], old)
    assert torch.equal(new.argmax(-1), old.argmax(-1))
    assert again.config.label2id["I-Y"] == again.num_labels - 1 == len(labels) + 3


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (["LOC"], "knows the type 'LOC' already"),
        (["X", "X"], "named twice"),
        (["O"], "cannot be named 'O'"),
        (["B-X"], "is a BIO label: name the type, 'X'"),
        ([], "name the new types in a list"),
        ("X", "name the new types in a list"),
        ([" "], "is no name"),
    ],
)
def test_types_that_cannot_be_added_are_refused(make_student, types, message):
    with pytest.raises(ValueError, match=message):
        extend_labels(make_student(**label_fields(list(SCHEMES["BIO"]))), types)


def test_one_nameless_type_leaves_no_room_for_a_second(make_student):
    with pytest.raises(ValueError, match="one type without a name"):
        extend_labels(make_student(**label_fields(["O", "B", "I"])), ["X"])


def test_a_model_without_a_layer_of_labels_is_refused(make_student):
    model = make_student()
    model.classifier = torch.nn.Identity()
    with pytest.raises(ValueError, match="no linear layer of its"):
        extend_labels(model, ["X"])
