"""Dangers: embeddings that the layers above no longer understand, pieces that get another's vector, silent no-ops."""

from copy import copy, deepcopy

import pytest
import torch

from hf_structkd import CallableTeacher, Teacher, embed_from_teachers
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.training.teacher_embeddings import mix_embeddings, piece_vectors, teacher_views
from tests.modeling.conftest import FAMILIES, Family, tokenizers_by_family  # noqa: F401 (a fixture)


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
    family = Family(name, tokenizer, labels)
    teacher, student = Teacher(family.student(seed=1), tokenizer), family.student().to(torch.bfloat16)
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
