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
    encode_corpus,
)

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
