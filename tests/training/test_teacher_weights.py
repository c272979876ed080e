"""Dangers: a student that starts from other layers than it says, from one teacher instead of the mean, or with
another piece's embedding; a head of other labels; layers that do not exist."""

import pytest
import torch

from hf_structkd import CallableTeacher, Teacher, start_from_teachers, trim_vocabulary
from hf_structkd.data.tokenizer import train_tokenizer
from tests.conftest import draw_student
from tests.modeling.conftest import FAMILIES, Family, tokenizers_by_family  # noqa: F401 (a fixture)


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
    family = Family(name, tokenizers_by_family[name], labels)
    teacher = Teacher(family.student(seed=4), family.tokenizer)
    student = family.student(seed=5)
    start_from_teachers(student, family.tokenizer, teacher)
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
