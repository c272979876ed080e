"""Dangers: focal weights on the wrong words, on padding, or silently without effect."""

import pytest
import torch

from hf_structkd import LinearChainCRF, StructKDTrainingArguments
from hf_structkd.data.columns import EMISSIONS, MARGINALS
from hf_structkd.distillation.focal import focal_weights
from hf_structkd.distillation.objectives import OBJECTIVES
from hf_structkd.distillation.targets import Targets

IGNORED = -100


@pytest.fixture
def parts():
    """Two sentences of 3 and 2 words in 4 and 3 subwords; the teacher is right about words 0 and 2, and word 1."""
    torch.manual_seed(0)
    student = LinearChainCRF(
        torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True),
        torch.randn(3, 3, dtype=torch.float64),
        lengths=torch.tensor([3, 2]),
    )
    best = torch.tensor([[1, 0, 2], [0, 1, 0]])
    marginals = 0.1 + 0.7 * torch.nn.functional.one_hot(best, 3).double()
    marginals[1, 2] = 0.0
    labels = torch.tensor([[1, IGNORED, 2, 2], [2, 1, IGNORED, IGNORED]])
    word_mask = torch.tensor([[True, False, True, True], [True, True, False, False]])
    return student, marginals, labels, word_mask


def test_words_that_the_teacher_has_right_weigh_more(parts):
    _, marginals, labels, word_mask = parts
    weights = focal_weights(Targets(teacher_marginals=marginals), labels, word_mask, 1.0, 5.0)
    assert weights[0].tolist() == [6.0, 1.0, 6.0]
    assert weights[1, :2].tolist() == [1.0, 6.0]
    unlabelled = torch.stack([labels[0], torch.full((4,), IGNORED)])
    assert focal_weights(Targets(teacher_marginals=marginals), unlabelled, word_mask)[1].tolist() == [1.0, 1.0, 1.0]
    assert focal_weights(Targets(teacher_marginals=marginals), None, word_mask, 2.0).tolist() == [[2.0] * 3] * 2


def test_a_group_that_holds_the_gold_tag_is_right(parts):
    _, marginals, labels, word_mask = parts
    groups = torch.tensor([[0, 1, 0]] * 2)  # the teacher cannot tell tag 2 from tag 0
    targets = Targets(teacher_marginals=marginals, teacher_groups=groups)
    assert focal_weights(targets, labels, word_mask)[0].tolist() == [6.0, 6.0, 6.0]


@pytest.mark.parametrize("name", ["posterior", "token", "emission"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_is_the_weighted_sum_over_words(parts, name, temperature):
    student, marginals, _, _ = parts
    weights = torch.tensor([[6.0, 1.0, 3.0], [2.0, 0.5, 9.0]], dtype=torch.float64)
    answers = {MARGINALS: marginals, EMISSIONS: (marginals + 1e-9).log()}
    objective = OBJECTIVES[name](temperature)

    def loss(chosen):
        return objective(student, Targets(**answers, word_weights=chosen))

    torch.testing.assert_close(loss(torch.ones_like(weights)), objective(student, Targets(**answers)))
    by_word = torch.stack([loss(torch.eye(3, dtype=torch.float64)[word].expand(2, 3)) for word in range(3)], dim=1)
    inside = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(loss(weights), (weights * by_word * inside).sum(dim=1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "posterior+top_wk"}, "objective top_wk is no sum over words"),
        ({"objective": "none"}, "objective none is no sum over words"),
        ({"focal_weights": [1.0]}, "two numbers"),
        ({"focal_weights": [1.0, -1.0]}, "two numbers"),
        ({"focal_weights": [0.0, 0.0]}, "two numbers"),
    ],
)
def test_weights_without_effect_are_refused(tmp_path, fields, message):
    defaults = {"objective": "posterior", "focal_weights": [1.0, 5.0], "output_dir": str(tmp_path), "use_cpu": True}
    with pytest.raises(ValueError, match=message):
        StructKDTrainingArguments(**(defaults | fields))
