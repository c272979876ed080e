"""Dangers: a NaN that trains on unseen, an error that names the wrong sentences, a check that costs every step."""

import pytest
import torch
from datasets import concatenate_datasets

from hf_structkd.training.loss_watch import LossGuard, NonFiniteLossError, find_rows
from tests import crashes


@pytest.fixture(scope="module")
def setting():
    return crashes.Setting()


def poisoned(setting, row: int, value: float):
    """The training data with a teacher's answer that is not a number."""

    def spoil(example, i):
        return {"teacher_marginals": [[value] * len(w) for w in example["teacher_marginals"]]} if i == row else {}

    return setting.train.map(spoil, with_indices=True, features=setting.train.features)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("options", [{}, {"bf16": True}], ids=["fp32", "bf16"])
def test_a_loss_that_is_not_finite_stops_training_and_names_its_sentence(setting, tmp_path, value, options):
    trainer = setting.trainer(tmp_path, save_strategy="no", unlabelled_rate=None, **options)
    row = 20
    trainer.train_dataset = poisoned(setting, row, value)
    words = " ".join(trainer.train_dataset[row]["tokens"])[:40]
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train()
    lines = str(caught.value).splitlines()
    assert f"the loss of update {trainer.state.global_step + 1} is {value:g}" in lines[0] or "nan" in lines[0]
    assert f"row {row}" in lines[1]
    assert "language ru" in lines[1]
    assert words in lines[1]
    assert "posterior" in lines[1]
    assert "top_wk" not in lines[1]
    assert len(lines) == 3  # that sentence alone
    assert "weights are finite" in lines[2]
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_broken_weights_are_not_blamed_on_the_sentences(setting, tmp_path):
    trainer = setting.trainer(tmp_path, save_strategy="no", per_device_train_batch_size=16)
    torch.nn.init.constant_(trainer.model.classifier.bias, float("nan"))
    with pytest.raises(
        NonFiniteLossError, match=r"and 8 more of the 16 sentences(.|\n)*not finite already .*classifier"
    ):
        trainer.train()


def test_sentences_are_found_by_their_subwords_wherever_they_are(setting):
    data = concatenate_datasets([setting.train, setting.train.select([4])]).shuffle(seed=1)
    ids = [list(data[row]["input_ids"]) for row in (0, 9, 27)]
    for number, (row, wanted) in enumerate(zip((0, 9, 27), ids)):
        assert row in find_rows(data, ids)[number]
        assert all(list(data[other]["input_ids"]) == wanted for other in find_rows(data, ids)[number])
    twice = list(setting.train[4]["input_ids"])
    assert len(find_rows(data, [twice])[0]) == 2
    assert find_rows(data, [[1, 2, 3]]) == [[]]


def test_a_stream_shows_the_sentence_itself(setting):
    inputs = {"input_ids": torch.tensor([setting.train[3]["input_ids"]])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    guard = LossGuard()
    guard.remember({"nll": torch.tensor([float("inf")])}, torch.zeros(1, 2, 3))
    error = guard.explain(float("nan"), inputs, 6, torch.nn.Linear(1, 1), iter(()), setting.tokenizer)
    assert "the loss of update 7 is nan" in str(error)
    assert setting.train[3]["tokens"][0] in str(error)
    assert "nll inf" in str(error)
