"""Danger: scores of another reading of the tags than the one that users get, and the wrong model kept for it."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, Trainer, TrainingArguments

from hf_structkd import (
    DataCollatorForStructKD,
    StructKDTrainer,
    StructKDTrainingArguments,
    TaggingMetrics,
    Teacher,
    annotate,
    encode_corpus,
)
from hf_structkd.data.unlabelled import hide_gold
from hf_structkd.training.preparation import encoded

WORDS = [["Vera", "paints"], ["Old", "Tom", "Reed", "slept", "here"], ["rain", "fell"], ["Ida", "met", "Lo", "Marsh"]]


TAGS = {
    "BIO": [
        ["B-PER", "O"],
        ["O", "B-PER", "I-PER", "O", "O"],
        ["O", "O"],
        ["B-PER", "O", "B-PER", "I-PER"],
    ],
    "BIOES": [
        ["S-PER", "O"],
        ["O", "B-PER", "E-PER", "O", "O"],
        ["O", "O"],
        ["S-PER", "O", "B-PER", "E-PER"],
    ],
    "plain": [["NOUN", "VERB"], ["ADJ", "NOUN", "NOUN", "VERB", "ADV"], ["NOUN", "VERB"], ["X", "VERB", "X", "NOUN"]],
}


HEADLINE = {"BIO": "f1", "BIOES": "f1", "plain": "accuracy"}


def label_set(scheme):
    return sorted({tag for tags in TAGS[scheme] for tag in tags} | ({"I-PER"} if scheme == "BIOES" else set()))


@pytest.fixture(scope="module")
def words_tokenizer():
    from hf_structkd.data.tokenizer import train_tokenizer

    return train_tokenizer(WORDS, vocab_size=60)  # so few pieces that most words have several


@pytest.fixture
def make_trainer(words_tokenizer, tmp_path):
    from tests.conftest import draw_student

    def make(scheme, model=None, **more):
        options = {
            "output_dir": str(tmp_path / "out"), "objective": "none", "report_to": "none", "disable_tqdm": True,
            "use_cpu": True, "save_strategy": "no", "per_device_train_batch_size": 4, "learning_rate": 3e-2,
            "per_device_eval_batch_size": 2, "num_train_epochs": 40, "logging_strategy": "no",
        }  # fmt: skip
        given = {name: more.pop(name) for name in list(more) if name in ("preprocess_logits_for_metrics",)}
        corpus = Dataset.from_dict({"tokens": WORDS, "tags": TAGS[scheme]})
        model = model or draw_student(words_tokenizer, label_set(scheme))
        args = StructKDTrainingArguments(**{**options, **more})
        return StructKDTrainer(model, args, None, corpus, corpus, words_tokenizer, **given)

    return make


@pytest.fixture(params=["BIO", "BIOES", "plain"])
def trained(request, make_trainer):
    """A trainer whose student has learnt its corpus by heart, and the scheme."""
    trainer = make_trainer(request.param)
    trainer.train()
    assert Teacher(trainer.model, trainer.processing_class).tag(WORDS) == TAGS[request.param]
    return trainer, request.param


def named(predictions, labels):
    return [[labels[tag] for tag in row if tag != -100] for row in predictions]


def test_every_scheme_is_scored_as_it_is_tagged(trained, make_trainer):
    trainer, scheme = trained
    labels = label_set(scheme)
    assert trainer.evaluate()[f"eval_{HEADLINE[scheme]}"] == 1.0
    found = trainer.predict(trainer.eval_dataset)
    assert found.metrics[f"test_{HEADLINE[scheme]}"] == 1.0
    assert named(found.predictions, labels) == TAGS[scheme]
    # words without gold tags, and with no labels at all: the same tags, and nothing to score
    bare = Dataset.from_dict({"tokens": WORDS})
    hidden = trainer.predict(encode_corpus(bare, trainer.processing_class, labels))
    assert named(hidden.predictions, labels) == TAGS[scheme]
    unlabelled = trainer.predict(trainer.eval_dataset.remove_columns(["labels", "tags"]))
    assert named(unlabelled.predictions, labels) == TAGS[scheme]
    assert unlabelled.label_ids is None
    assert "test_loss" not in unlabelled.metrics
    # and with neither labels nor a word mask the model finds the words itself
    alone = trainer.predict(trainer.eval_dataset.remove_columns(["labels", "tags", "word_mask"]))
    assert named(alone.predictions, labels) == TAGS[scheme]


def test_the_logits_that_a_function_of_ones_own_gets_say_the_same(trained, make_trainer):
    trainer, scheme = trained
    own = make_trainer(scheme, trainer.model, preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1))
    assert own.evaluate()[f"eval_{HEADLINE[scheme]}"] == 1.0


def test_labels_on_every_subword_count_words_once(trained):
    trainer, scheme = trained

    def on_every_subword(row):
        seen, labels = -100, []
        for label, inside in zip(row["labels"], row["attention_mask"]):
            seen = label if label != -100 else seen
            labels.append(seen if inside else -100)
        return {"labels": labels}

    everywhere = trainer.eval_dataset.map(on_every_subword)
    assert sum(map(len, everywhere["labels"])) > 2 * sum(map(len, WORDS))
    metrics = trainer.evaluate(everywhere)
    assert metrics[f"eval_{HEADLINE[scheme]}"] == 1.0


def test_a_stock_trainer_gives_the_same_scores_and_tags(trained, tmp_path):
    trainer, scheme = trained
    labels, tokenizer, corpus = label_set(scheme), trainer.processing_class, trainer.eval_dataset
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True)
    for collator, data in (
        (DataCollatorForStructKD(tokenizer), corpus),
        (DataCollatorForTokenClassification(tokenizer), corpus.remove_columns("word_mask")),
    ):
        stock = Trainer(trainer.model, args, data_collator=collator, compute_metrics=TaggingMetrics(labels))
        assert stock.evaluate(data)[f"eval_{HEADLINE[scheme]}"] == 1.0
    # told where words are, it tags sentences without labels in the model's own tags too
    unlabelled = corpus.remove_columns(["labels", "tags"])
    tags = Trainer(trainer.model, args, data_collator=DataCollatorForStructKD(tokenizer)).predict(unlabelled)
    best = [row[np.array(mask, bool)] for row, mask in zip(tags.predictions.argmax(-1), padded(corpus["word_mask"]))]
    assert named(best, labels) == TAGS[scheme]


def padded(masks):
    width = max(map(len, masks))
    return [[*mask, *[0] * (width - len(mask))] for mask in masks]


def test_the_model_kept_is_the_one_that_tags_best(make_trainer):
    """BIOES scored as BIO was 0 in every epoch, so the first epoch's model was the best."""
    trainer = make_trainer(
        "BIOES", eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, save_total_limit=1,
        metric_for_best_model="f1", num_train_epochs=30,
    )  # fmt: skip
    trainer.train()
    scores = [entry["eval_f1"] for entry in trainer.state.log_history if "eval_f1" in entry]
    assert max(scores) == trainer.state.best_metric > 0
    tagged = Teacher(trainer.model, trainer.processing_class).tag(WORDS)
    assert TaggingMetrics(label_set("BIOES")).report(tagged, TAGS["BIOES"])["f1"] == trainer.state.best_metric


def test_scores_do_not_depend_on_how_sentences_are_batched(trained):
    trainer, scheme = trained
    torch.nn.init.normal_(trainer.model.classifier.weight)  # so that there is something to get wrong
    expected = Teacher(trainer.model, trainer.processing_class).tag(WORDS)
    for size, whole in ((1, True), (3, True), (4, False)):
        trainer.args.per_device_eval_batch_size, trainer.args.eval_do_concat_batches = size, whole
        found = trainer.predict(trainer.eval_dataset).predictions
        rows = found if whole else [row for batch in found for row in batch]
        assert named(rows, label_set(scheme)) == expected


# Dangers: an eval_loss that depends on batches or lambda, or counts what has no gold; losses of another training.


@pytest.fixture
def loss_trainer(make_student, tokenizer, corpus, tmp_path):
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
def test_the_loss_of_an_evaluation_is_a_mean_over_what_has_gold(loss_trainer, corpus, normalization, batch_size):
    dev = corpus.select(range(11)).map(
        lambda row, i: {"tags": None if i % 4 == 1 else row["tags"]}, with_indices=True, features=corpus.features
    )
    trainer = loss_trainer(dev=dev, normalization=normalization, per_device_eval_batch_size=batch_size)
    loss, words, sentences = alone(trainer, dev)
    assert sentences == 8
    expected = loss / (words if normalization == "word" else sentences)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert trainer.predict(trainer.eval_dataset).metrics["test_loss"] == pytest.approx(expected, rel=1e-5)


def test_where_nothing_has_gold_there_is_no_loss(loss_trainer, corpus):
    """Danger: 0.0, the best loss there is, picks the model; or sentences without gold tags are scored 0."""
    hidden = hide_gold(corpus.select(range(5)))
    with pytest.raises(ValueError, match="cannot be evaluated: no sentence has gold tags"):
        loss_trainer(dev=hidden)
    trainer = loss_trainer(dev=corpus.select(range(5)))
    expected = trainer.predict(corpus.select(range(5)))
    assert {"test_loss", "test_f1", "test_accuracy"} <= expected.metrics.keys()
    for unlabelled in (hidden, hidden.remove_columns("tags"), encoded(hidden, trainer.processing_class, [])):
        found = trainer.predict(unlabelled)
        assert not {name for name in found.metrics if "f1" in name or "accuracy" in name or "loss" in name}
        assert (found.predictions == expected.predictions).all()
    assert trainer.predict(corpus.select(range(5))).metrics["test_f1"] == expected.metrics["test_f1"]


@pytest.mark.parametrize("sentences", [5, 6, 7, 8])
def test_the_last_batch_counts_once_however_answers_are_gathered(loss_trainer, corpus, sentences):
    """Danger: with eval_use_gather_object the last batch's filling cuts the wrong axis."""
    dev = corpus.select(range(sentences))
    options = {"per_device_eval_batch_size": 4, "eval_use_gather_object": True}
    trainer = loss_trainer(dev=dev, **options)
    loss, words, _ = alone(trainer, dev)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss / words, rel=1e-5)


def test_it_means_the_same_whatever_lambda_is_by_now(loss_trainer, make_student, tokenizer, labels, corpus):
    """Danger: epochs are compared by a loss that is all teachers' in the first and all gold's in the last."""
    teacher = Teacher(make_student(seed=1), tokenizer)
    options = {"label_names": labels, "targets": ["teacher_marginals"], "progress": False}
    train, dev = (annotate(corpus.select(range(n)), teacher, **options) for n in (20, 7))
    losses = [
        loss_trainer(train, dev, objective="posterior", lambda_start=start).evaluate()["eval_loss"]
        for start in (1.0, 0.25)
    ]
    assert losses[0] == losses[1]
    trainer = loss_trainer(train, dev)
    loss, words, _ = alone(trainer, dev)
    assert losses[0] == pytest.approx(loss / words, rel=1e-5)


def test_a_second_training_logs_its_own_updates_alone(loss_trainer):
    """Danger: updates after the last log line of one training are in the first of the next."""
    trainer = loss_trainer(logging_steps=2, max_steps=3)
    trainer.train()
    assert trainer.loss_log
    trainer.train()
    for log in trainer.state.log_history:
        if "loss" in log:
            assert log["loss"] == pytest.approx(log["loss_nll"], rel=1e-4)
