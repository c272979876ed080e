"""Dangers: an eval_loss that depends on batches or lambda, or counts what has no gold; losses of another training."""

import pytest
import torch

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher, annotate
from hf_structkd.data.unlabelled import hide_gold
from hf_structkd.training.preparation import encoded


@pytest.fixture
def make_trainer(make_student, tokenizer, corpus, tmp_path):
    def make(train=corpus, dev=None, **options):
        defaults = {
            "output_dir": str(tmp_path / "out"), "report_to": "none", "disable_tqdm": True, "use_cpu": True,
            "save_strategy": "no", "logging_steps": 1, "per_device_train_batch_size": 20, "objective": "none",
        }  # fmt: skip
        args = StructKDTrainingArguments(**{**defaults, **options})
        return StructKDTrainer(make_student(), args, None, train, dev, tokenizer)

    return make


def alone(trainer, data) -> tuple[float, int, int]:
    """The gold likelihood's sum over sentences that come one by one; how many words and sentences have gold."""
    loss, words, sentences = 0.0, 0, 0
    for row in encoded(data, trainer.processing_class, trainer.label_names_in_order):
        if any(label != -100 for label in row["labels"]):
            batch = trainer.data_collator([row])
            count = int((batch["labels"] != -100).sum())
            with torch.no_grad():
                student = trainer.model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")})
            loss += student.loss.item() * count
            words, sentences = words + count, sentences + 1
    return loss, words, sentences


@pytest.mark.parametrize("normalization", ["word", "sentence"])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_loss_of_an_evaluation_is_a_mean_over_what_has_gold(make_trainer, corpus, normalization, batch_size):
    dev = corpus.select(range(11)).map(
        lambda row, i: {"tags": None if i % 4 == 1 else row["tags"]}, with_indices=True, features=corpus.features
    )
    trainer = make_trainer(dev=dev, normalization=normalization, per_device_eval_batch_size=batch_size)
    loss, words, sentences = alone(trainer, dev)
    assert sentences == 8
    expected = loss / (words if normalization == "word" else sentences)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert trainer.predict(trainer.eval_dataset).metrics["test_loss"] == pytest.approx(expected, rel=1e-5)


def test_where_nothing_has_gold_there_is_no_loss(make_trainer, corpus):
    """Danger: 0.0, the best loss there is, picks the model; or sentences without gold tags are scored 0."""
    hidden = hide_gold(corpus.select(range(5)))
    with pytest.raises(ValueError, match="cannot be evaluated: no sentence has gold tags"):
        make_trainer(dev=hidden)
    trainer = make_trainer(dev=corpus.select(range(5)))
    expected = trainer.predict(corpus.select(range(5)))
    assert {"test_loss", "test_f1", "test_accuracy"} <= expected.metrics.keys()
    for unlabelled in (hidden, hidden.remove_columns("tags"), encoded(hidden, trainer.processing_class, [])):
        found = trainer.predict(unlabelled)
        assert not {name for name in found.metrics if "f1" in name or "accuracy" in name or "loss" in name}
        assert (found.predictions == expected.predictions).all()
    assert trainer.predict(corpus.select(range(5))).metrics["test_f1"] == expected.metrics["test_f1"]


@pytest.mark.parametrize("sentences", [5, 6, 7, 8])
def test_the_last_batch_counts_once_however_answers_are_gathered(make_trainer, corpus, sentences):
    """Danger: with eval_use_gather_object the last batch's filling cuts the wrong axis."""
    dev = corpus.select(range(sentences))
    options = {"per_device_eval_batch_size": 4, "eval_use_gather_object": True}
    trainer = make_trainer(dev=dev, **options)
    loss, words, _ = alone(trainer, dev)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss / words, rel=1e-5)


def test_it_means_the_same_whatever_lambda_is_by_now(make_trainer, make_student, tokenizer, labels, corpus):
    """Danger: epochs are compared by a loss that is all teachers' in the first and all gold's in the last."""
    teacher = Teacher(make_student(seed=1), tokenizer)
    options = {"label_names": labels, "targets": ["teacher_marginals"], "progress": False}
    train, dev = (annotate(corpus.select(range(n)), teacher, **options) for n in (20, 7))
    losses = [
        make_trainer(train, dev, objective="posterior", lambda_start=start).evaluate()["eval_loss"]
        for start in (1.0, 0.25)
    ]
    assert losses[0] == losses[1]
    trainer = make_trainer(train, dev)
    loss, words, _ = alone(trainer, dev)
    assert losses[0] == pytest.approx(loss / words, rel=1e-5)


def test_a_second_training_logs_its_own_updates_alone(make_trainer):
    """Danger: updates after the last log line of one training are in the first of the next."""
    trainer = make_trainer(logging_steps=2, max_steps=3)
    trainer.train()
    assert trainer.loss_log
    trainer.train()
    for log in trainer.state.log_history:
        if "loss" in log:
            assert log["loss"] == pytest.approx(log["loss_nll"], rel=1e-4)
