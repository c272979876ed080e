"""Dangers: a student that starts from other layers than it says, from one teacher instead of the mean, or with
another piece's embedding; a head of other labels; layers that do not exist."""

import json
from copy import copy, deepcopy

import pytest
import torch
from transformers import AutoModelForTokenClassification, BertConfig, BertForTokenClassification

from hf_structkd import (
    CallableTeacher,
    DataCollatorForStructKD,
    TagScheme,
    Teacher,
    embed_from_teachers,
    encode_corpus,
    extend_labels,
    start_from_teachers,
    trim_vocabulary,
)
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.training.card import base_model
from hf_structkd.training.provenance import Origin, encoder_origin
from hf_structkd.training.teacher_embeddings import mix_embeddings, piece_vectors, teacher_views
from tests.conftest import draw_student
from tests.modeling.conftest import FAMILIES, Family, family, tokenizers_by_family  # noqa: F401 (fixtures)

from ..conftest import label_fields


def layer(model, number):
    return dict(model.base_model.encoder.layer[number].named_parameters())


@pytest.fixture
def teachers(make_student, tokenizer):
    return {
        name: Teacher(make_student(seed=seed, num_hidden_layers=5), tokenizer) for seed, name in ((1, "en"), (2, "ru"))
    }


def test_the_mean_of_teachers_with_layers_spread_over_theirs(teachers, make_student, tokenizer):
    student = make_student(seed=9, num_hidden_layers=3)
    start_from_teachers(student, tokenizer, teachers)
    for place, chosen in enumerate((0, 2, 4)):
        sources = [layer(teacher.model, chosen) for teacher in teachers.values()]
        for name, p in layer(student, place).items():
            torch.testing.assert_close(p, (sources[0][name] + sources[1][name]) / 2)
    for name in ("crf.transitions", "classifier.weight", "roberta.embeddings.word_embeddings.weight"):
        values = [teacher.model.get_parameter(name) for teacher in teachers.values()]
        torch.testing.assert_close(student.get_parameter(name), (values[0] + values[1]) / 2)


def test_one_teacher_with_all_its_layers_is_copied(teachers, make_student, tokenizer, corpus):
    student = make_student(seed=9, num_hidden_layers=5)
    start_from_teachers(student, tokenizer, teachers["en"], layers=[0, 1, 2, 3, 4])
    sentences = list(corpus["tokens"])[:5]
    assert Teacher(student, tokenizer).tag(sentences) == teachers["en"].tag(sentences)


def test_weights_of_a_panel_count(teachers, make_student, tokenizer):
    student = make_student(seed=9, num_hidden_layers=5)
    start_from_teachers(student, tokenizer, [(teachers["en"], 3.0), (teachers["ru"], 1.0)])
    first, second = (teacher.model.classifier.weight for teacher in teachers.values())
    torch.testing.assert_close(student.classifier.weight, 0.75 * first + 0.25 * second)


def test_embeddings_go_by_the_piece_also_of_other_vocabularies(teachers, make_student, tokenizer, corpus, labels):
    small = train_tokenizer(corpus["tokens"], vocab_size=150)
    student = draw_student(small, labels, seed=3)
    trimmed = trim_vocabulary(student, small, list(corpus["tokens"])[:20], keep_characters=False)
    before = trimmed.model.get_input_embeddings().weight.clone()
    start_from_teachers(trimmed.model, trimmed.tokenizer, teachers["en"])
    rows, theirs = trimmed.model.get_input_embeddings().weight, teachers["en"].model.get_input_embeddings().weight
    unknown = 0
    for piece, index in trimmed.tokenizer.get_vocab().items():
        if piece in tokenizer.get_vocab():
            assert torch.equal(rows[index], theirs[tokenizer.get_vocab()[piece]]), piece
        else:
            assert torch.equal(rows[index], before[index]), piece
            unknown += 1
    assert unknown < len(before) / 2


def test_a_head_of_other_labels_is_not_taken(teachers, tokenizer, labels):
    student = draw_student(tokenizer, labels[::-1], seed=9)
    before = student.classifier.weight.clone()
    start_from_teachers(student, tokenizer, teachers)
    assert torch.equal(student.classifier.weight, before)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name, tokenizers_by_family, labels):  # noqa: F811
    made = Family(name, tokenizers_by_family[name], labels)
    teacher = Teacher(made.student(seed=4), made.tokenizer)
    student = made.student(seed=5)
    start_from_teachers(student, made.tokenizer, teacher)
    for key, value in teacher.model.state_dict().items():
        assert torch.equal(student.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("layers", "error"),
    [([0, 7], "layers 0 to 4, and no layer 7"), ([0], "for a student of 2"), ("top", "'spread' or layer numbers")],
)
def test_layers_that_do_not_exist_are_named(teachers, make_student, tokenizer, layers, error):
    with pytest.raises(ValueError, match=error):
        start_from_teachers(make_student(num_hidden_layers=2), tokenizer, teachers, layers)


def test_what_cannot_start_a_student_is_refused(teachers, make_student, tokenizer, labels):
    with pytest.raises(ValueError, match=r"has 5 layers, and the student 6"):
        start_from_teachers(make_student(num_hidden_layers=6), tokenizer, teachers)
    with pytest.raises(ValueError, match="of its own family and width"):
        start_from_teachers(make_student(hidden_size=32), tokenizer, teachers)
    with pytest.raises(ValueError, match="frozen"):
        start_from_teachers(make_student(freeze_encoder=True), tokenizer, teachers)
    function = CallableTeacher(lambda sentences: [], labels, name="f", revision="1")
    with pytest.raises(TypeError, match="no checkpoint: it has no weights"):
        start_from_teachers(make_student(), tokenizer, function)


@pytest.mark.parametrize(("setting", "value"), [("num_attention_heads", 1), ("hidden_act", "relu")])
def test_weights_that_fit_and_compute_something_else_are_refused(teachers, make_student, tokenizer, setting, value):
    """Danger: all shapes fit, and the student starts from the weights of another function."""
    student = make_student(num_hidden_layers=5, **{setting: value})
    theirs = getattr(teachers["en"].model.config, setting)
    assert theirs != value
    with pytest.raises(ValueError, match=f"has {setting} {theirs}, and the student {value}"):
        start_from_teachers(student, tokenizer, teachers)


def test_a_layer_with_another_reach_of_attention_is_refused(tokenizers_by_family, labels):  # noqa: F811
    """Danger: a layer that reads the whole sentence starts one that reads near words, with other rotations."""
    name = next(name for name in FAMILIES if "modern" in name.lower())
    made = Family(name, tokenizers_by_family[name], labels)
    teacher = Teacher(made.student(seed=4, num_hidden_layers=7), made.tokenizer)
    kinds = teacher.model.config.layer_types
    student = made.student(seed=5, num_hidden_layers=3)
    near, far = kinds.index("sliding_attention"), len(kinds) - 1
    assert student.config.layer_types[1] == "sliding_attention" != kinds[far]
    with pytest.raises(ValueError, match=rf"layer {far} of teacher .* cannot take place 1 of the student"):
        start_from_teachers(student, made.tokenizer, teacher, [0, far, far])
    fitting = [0, near, kinds.index(student.config.layer_types[2], 1)]  # the first layer lacks a norm
    start_from_teachers(student, made.tokenizer, teacher, fitting)
    assert torch.equal(student.base_model.layers[1].mlp.Wi.weight, teacher.model.base_model.layers[near].mlp.Wi.weight)


# Dangers: embeddings that the layers above no longer understand, pieces that get another's vector, silent no-ops.


def embeddings_of(model):
    return model.get_input_embeddings().weight.detach().clone()


def pieces_of(tokenizer):
    return torch.tensor(sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)))


@pytest.fixture
def teacher(make_student, tokenizer):
    return Teacher(make_student(seed=5), tokenizer)


def test_a_piece_gets_what_the_teacher_makes_of_it_alone(teacher, tokenizer, make_student):
    pieces = pieces_of(tokenizer)
    vectors = piece_vectors(teacher, tokenizer, pieces, batch_size=7)
    for place in (0, 11, len(pieces) - 1):
        ids = torch.tensor([[tokenizer.bos_token_id, pieces[place], tokenizer.eos_token_id]])
        expected = teacher.model.base_model(ids).last_hidden_state[0, 1]
        torch.testing.assert_close(vectors[place], expected)


def test_a_teacher_with_other_pieces_reads_them_as_words(corpus, tokenizer, make_student, labels):
    from tests.conftest import draw_student

    other = train_tokenizer(corpus["tokens"], vocab_size=120)
    teacher = Teacher(draw_student(other, labels, seed=2), other)
    longest = max((piece for piece in tokenizer.get_vocab() if piece.startswith("▁")), key=len)
    pieces = tokenizer.convert_tokens_to_ids([longest, "▁"])
    vectors = piece_vectors(teacher, tokenizer, torch.tensor(pieces))
    expected = teacher.model.base_model(**other([longest[1:]], is_split_into_words=True, return_tensors="pt"))
    torch.testing.assert_close(vectors[0], expected.last_hidden_state[0, 1])
    torch.testing.assert_close(vectors[1], vectors[0])  # no text: the mean of the others


def test_a_teacher_with_further_pieces_reads_the_others_themselves(teacher, tokenizer):
    pieces = pieces_of(tokenizer)
    expected = piece_vectors(teacher, tokenizer, pieces)
    teacher.tokenizer = deepcopy(tokenizer)
    teacher.tokenizer.add_tokens(["<more>"])
    torch.testing.assert_close(piece_vectors(teacher, tokenizer, pieces), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_and_half_precision(name, tokenizers_by_family, labels):  # noqa: F811
    tokenizer = tokenizers_by_family[name]
    made = Family(name, tokenizer, labels)
    teacher, student = Teacher(made.student(seed=1), tokenizer), made.student().to(torch.bfloat16)
    pieces = pieces_of(tokenizer)
    ids = torch.tensor([[tokenizer.cls_token_id, pieces[7], tokenizer.sep_token_id]])
    expected = teacher.model.base_model(ids).last_hidden_state[0, 1]
    torch.testing.assert_close(piece_vectors(teacher, tokenizer, pieces)[7], expected)
    before = embeddings_of(student)
    embed_from_teachers(student, tokenizer, teacher)
    after = embeddings_of(student)
    assert after.dtype == torch.bfloat16
    assert after.isfinite().all()
    assert (after[pieces] != before[pieces]).any(dim=1).all()


def test_size_place_and_special_tokens_stay(teacher, tokenizer, make_student):
    student = make_student()
    before = embeddings_of(student)
    embed_from_teachers(student, tokenizer, teacher, share=0.5)
    after, pieces = embeddings_of(student), pieces_of(tokenizer)
    assert not torch.allclose(after[pieces], before[pieces], atol=0.01)
    torch.testing.assert_close(after[tokenizer.all_special_ids], before[tokenizer.all_special_ids])
    torch.testing.assert_close(after[pieces].mean(dim=0), before[pieces].mean(dim=0), atol=1e-4, rtol=0)
    spread = [(e[pieces] - e[pieces].mean(dim=0)).norm().item() for e in (before, after)]
    assert spread[1] == pytest.approx(spread[0], rel=1e-4)


def test_with_hardly_any_share_of_the_teachers_embeddings_stay_where_they_were(teacher, tokenizer, make_student):
    student = make_student()
    before = embeddings_of(student)
    embed_from_teachers(student, tokenizer, teacher, share=1e-6)  # turned back to where the layers expect them
    torch.testing.assert_close(embeddings_of(student), before, atol=2e-3 * before.abs().max().item(), rtol=0)
    embed_from_teachers(student, tokenizer, teacher, share=0.0)


def test_pieces_that_the_teacher_takes_for_the_same_come_together(tokenizer, make_student):
    student, pieces = make_student(), pieces_of(tokenizer)
    torch.manual_seed(0)
    groups = torch.randint(0, 3, (len(pieces),))
    view = torch.randn(3, 40)[groups]
    same = groups[:, None] == groups

    def closeness():
        vectors = embeddings_of(student)[pieces]
        distances = torch.cdist(vectors, vectors)
        return (distances[same].mean() / distances[~same].mean()).item()

    before = closeness()
    mix_embeddings(student, tokenizer, [(view, 1.0)], 0.8)
    assert before > 0.95
    assert closeness() < 0.7


def test_teachers_count_by_language_and_weight(tokenizer, make_student):
    one, two = (Teacher(make_student(seed=seed), tokenizer) for seed in (1, 2))
    views = teacher_views(tokenizer, {"en": [(one, 3.0), (two, 1.0)], "ru": copy(two)})
    assert [weight for _, weight in views] == [0.75, 1.25]  # asked once, counted for both languages


def test_what_has_no_vectors_or_no_sense_is_refused(teacher, tokenizer, make_student, labels):
    function = CallableTeacher(lambda sentences: [], labels, name="rules", revision="1", answers="paths")
    with pytest.raises(TypeError, match="teacher rules is no checkpoint"):
        embed_from_teachers(make_student(), tokenizer, {"en": function})
    small = make_student()
    small.resize_token_embeddings(200)
    with pytest.raises(ValueError, match=r"\d+ pieces and the student 200 embeddings: call student.resize"):
        embed_from_teachers(small, tokenizer, teacher)
    frozen = make_student()
    frozen.freeze_encoder()
    with pytest.raises(ValueError, match="the student's encoder is frozen"):
        embed_from_teachers(frozen, tokenizer, teacher)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), not 1.0"):
        embed_from_teachers(make_student(), tokenizer, teacher, share=1.0)


# Dangers: a tagger that learns a new type forgets an old one before training begins, or loses a row when it is saved;
# a type that exists is added again.


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


# Danger: a card that names a local folder, or a stranger's model, as the model that the student was made from.


ID = "FacebookAI/xlm-roberta-base"


def encoder(folder, config=None, card=None):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {}))
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    return str(folder)


def test_an_id_is_its_own_origin(tmp_path, monkeypatch):
    assert encoder_origin(ID, "v1") == Origin(ID, "v1")
    assert encoder_origin("encoder").name is None  # a folder that was there once
    monkeypatch.chdir(tmp_path)
    encoder(tmp_path / "FacebookAI" / "xlm-roberta-base")
    assert encoder_origin(ID).name is None


def test_a_snapshot_of_the_cache_has_id_and_commit(tmp_path):
    folder = encoder(tmp_path / "hub" / "models--FacebookAI--xlm-roberta-base" / "snapshots" / "abc123")
    assert encoder_origin(folder) == Origin(ID, "abc123")


@pytest.mark.parametrize(
    ("config", "card", "name"),
    [
        ({"_name_or_path": ID}, None, ID),  # as transformers 4 wrote it
        ({}, f"---\nbase_model: {ID}\n---\n# mine", ID),
        ({"_name_or_path": "/data/me"}, f"---\nbase_model: [{ID}]\n---\n# mine", ID),
        ({"_name_or_path": "other/encoder"}, f"---\nbase_model: {ID}\n---\n# mine", ID),  # what somebody stated counts
        ({"_name_or_path": "/home/me/encoder"}, None, None),
        ({"_name_or_path": "runs/encoder"}, None, None),
        ({"_name_or_path": "../me/encoder"}, None, None),
        ({"_name_or_path": "encoder"}, None, None),
        ({"_name_or_path": 3}, None, None),
        ([], None, None),
        ({}, f"---\nbase_model: [{ID}, a/b]\n---\n# merged", None),
        ({}, "---\n: [\n---\n# broken", None),
        ({}, "# no metadata", None),
    ],
)
def test_a_local_encoder_says_what_it_was_made_from_or_nothing(tmp_path, config, card, name):
    assert encoder_origin(encoder(tmp_path / "encoder", config, card)).name == name


def test_a_result_has_the_encoder_as_it_was_given_and_what_the_hub_knows_of_it(tmp_path):
    folder = encoder(tmp_path / "encoder", {"_name_or_path": ID})
    assert base_model(folder) == {"base_model": folder, "base_model_revision": None, "base_model_id": ID}
    assert base_model(ID, "v1") == {"base_model": ID, "base_model_revision": "v1", "base_model_id": ID}
    assert base_model(None) == {}
