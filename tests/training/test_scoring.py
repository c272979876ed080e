"""Danger: scores of another reading of the tags than the one that users get, and the wrong model kept for it."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from transformers import DataCollatorForTokenClassification, Trainer, TrainingArguments

from hf_structkd import (
    DataCollatorForStructKD,
    LinearChainCRF,
    StructKDTrainer,
    StructKDTrainingArguments,
    TaggingMetrics,
    Teacher,
    annotate,
    encode_corpus,
    load_corpora,
    load_corpus,
)
from hf_structkd.data.source_text import CorpusError
from hf_structkd.data.unlabelled import hide_gold
from hf_structkd.distillation.losses import PartlyAnnotated, mixed_losses
from hf_structkd.distillation.targets import Targets
from hf_structkd.evaluation.compare import compare, declared_only
from hf_structkd.modeling.crf_head import gold_statistics
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.recipes.run import DistillationRun
from hf_structkd.training.preparation import encoded

from ..recipes.test_unlabelled import TINY

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


@pytest.mark.parametrize("order", ["by length", "of the corpus"])
def test_a_last_batch_that_training_drops_is_scored(make_trainer, order):
    size = len(WORDS) - 1
    more = {"per_device_eval_batch_size": size, "eval_do_concat_batches": order == "by length"}
    whole, dropping = (make_trainer("BIO", dataloader_drop_last=drop, **more) for drop in (False, True))
    dropping.model.load_state_dict(whole.model.state_dict())
    whole, dropping = (trainer.predict(trainer.eval_dataset) for trainer in (whole, dropping))
    rows = dropping.predictions if order == "by length" else [row for batch in dropping.predictions for row in batch]
    assert len(rows) == len(WORDS)
    assert dropping.metrics["test_loss"] == whole.metrics["test_loss"]
    assert dropping.metrics["test_f1"] == whole.metrics["test_f1"]


def test_training_still_drops_its_last_batch(make_trainer):
    trainer = make_trainer("BIO", dataloader_drop_last=True)
    trainer.evaluate()
    assert trainer.get_train_dataloader().batch_sampler.drop_last


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


# Danger: what nobody annotated is learnt, or scored, as if somebody had found nothing there.


LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
SCORES = ("emissions", "transitions", "start", "end")


def draw(seed, lengths):
    generator, tags = torch.Generator().manual_seed(seed), len(LABELS)
    shapes = [(len(lengths), max(lengths), tags), (tags, tags), (tags,), (tags,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def open_of(*types):
    """The tags of all types but these, for one sentence; `None` declares all."""
    return [types != (None,) and tag != "O" and tag[2:] not in types for tag in LABELS]


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_the_probability_of_everything_that_agrees(seed):
    lengths, declared = [4, 2, 3, 1], [("PER",), (None,), (), ("LOC", "PER")]
    scores = draw(seed, lengths)
    gold = [["O", "B-PER", "I-PER", "O"], ["O", "B-LOC"], ["O", "O", "O"], ["O"]]
    labels = torch.full((4, 4), -100)
    for row, tags in enumerate(gold):
        labels[row, : len(tags)] = torch.tensor([LABELS.index(tag) for tag in tags])
    open_tags = torch.tensor([open_of(*types) for types in declared])
    student = LinearChainCRF(*scores, lengths=torch.tensor(lengths))
    partly = PartlyAnnotated(open_tags, 0)
    weighted, _ = mixed_losses(student, labels, labels >= 0, Targets({}), {}, 0.0, partly)
    emissions, transitions, start, end = scores
    for row, (length, tags) in enumerate(zip(lengths, gold)):
        total, agreeing = [], []
        for path in itertools.product(range(len(LABELS)), repeat=length):
            score = start[path[0]] + end[path[-1]] + sum(emissions[row, i, tag] for i, tag in enumerate(path))
            score = score + sum(transitions[a, b] for a, b in itertools.pairwise(path))
            total.append(score)
            if all(
                LABELS[tag] == wanted or (wanted == "O" and open_tags[row, tag]) for tag, wanted in zip(path, tags)
            ):
                agreeing.append(score)
        expected = torch.stack(total).logsumexp(0) - torch.stack(agreeing).logsumexp(0)
        assert weighted["nll"][row].item() == pytest.approx(expected.item(), abs=1e-10)
        wanted = torch.autograd.grad(expected, scores, retain_graph=True, allow_unused=True)
        found = torch.autograd.grad(weighted["nll"][row], scores, retain_graph=True)
        for one, other, name in zip(wanted, found, SCORES):
            one = torch.zeros_like(other) if one is None else one  # a sentence of one word has no transitions
            torch.testing.assert_close(other, one, rtol=0, atol=1e-9, msg=name)


def test_with_all_types_declared_it_is_the_nll_to_the_bit():
    lengths = [3, 2]
    student = LinearChainCRF(*draw(5, lengths), lengths=torch.tensor(lengths))
    labels = torch.tensor([[0, 1, 2], [3, -100, -100]])[:, :3]
    labels[1, 1] = 0
    plain, _ = mixed_losses(student, labels, labels >= 0, Targets({}), {}, 0.0)
    nothing_open = PartlyAnnotated(torch.zeros(2, len(LABELS), dtype=torch.bool), 0)
    partly, _ = mixed_losses(student, labels, labels >= 0, Targets({}), {}, 0.0, nothing_open)
    assert torch.equal(plain["nll"], partly["nll"])


def test_it_agrees_with_another_library():
    other = pytest.importorskip("pytorch_partial_crf", reason="pytorch-partial-crf is not installed")
    lengths = [4, 4]
    scores = [part.detach().float().requires_grad_() for part in draw(3, lengths)]
    crf = other.PartialCRF(len(LABELS))
    with torch.no_grad():
        crf.transitions.copy_(scores[1])
        crf.start_transitions.copy_(scores[2])
        crf.end_transitions.copy_(scores[3])
    labels = torch.tensor([[0, 3, 4, 0], [1, 0, 0, 2]])
    student = LinearChainCRF(*scores, lengths=torch.tensor(lengths))
    gold, _ = gold_statistics(labels, labels >= 0, len(LABELS))
    # That library knows words with one tag (>= 0) and words with any tag (-1).
    any_tag = torch.ones(2, len(LABELS), dtype=torch.bool)
    found = PartlyAnnotated(any_tag, 0).nll(student, gold, student.cross_entropy(gold))
    theirs = crf(scores[0], labels.masked_fill(labels == 0, -1))
    assert found.sum().item() == pytest.approx(theirs.item(), rel=1e-4)


@pytest.fixture
def partly_annotated(corpus):
    """The Russian half of the corpus, whose annotators looked for places only."""
    english = corpus.filter(lambda row: row["language"] == "en")
    russian = corpus.filter(lambda row: row["language"] == "ru")

    def places(row):
        return {"tags": [tag if tag.endswith("LOC") else "O" for tag in row["tags"]], "annotated_types": ["LOC"]}

    russian = russian.map(places)
    empty = english.add_column("annotated_types", [None] * len(english), feature=russian.features["annotated_types"])
    return concatenate_datasets([empty, russian])


@pytest.mark.parametrize("objective", ["none", "posterior"])
def test_training_finds_what_the_other_corpus_taught(
    partly_annotated, corpus, labels, make_student, tokenizer, tmp_path, objective
):
    """Trained on the same sentences, a student that is told of the gaps keeps the types that fill them."""

    def persons(train):
        args = StructKDTrainingArguments(
            **{"output_dir": str(tmp_path), "report_to": "none", "disable_tqdm": True, "use_cpu": True},
            **{"save_strategy": "no", "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
            **{"learning_rate": 0.01, "num_train_epochs": 8, "seed": 1, "objective": objective, "lambda_start": 0.3},
        )
        teachers = {language: Teacher(make_student(seed=4), tokenizer) for language in ("en", "ru")}
        trainer = StructKDTrainer(
            make_student(seed=3), args, None, train, {"ru": partly_annotated.select(range(30, 60))}, tokenizer,
            teachers=teachers if objective != "none" else None,
        )  # fmt: skip
        trainer.train()
        metrics = trainer.evaluate()
        russian = [row["tokens"] for row in partly_annotated if row["language"] == "ru"]
        found = Teacher(trainer.model, tokenizer).tag(russian)
        return sum(tag.endswith("PER") for tags in found for tag in tags), metrics

    told, metrics = persons(partly_annotated)
    misled, _ = persons(partly_annotated.remove_columns("annotated_types"))
    assert told > misled
    assert "eval_ru_f1_PER" not in metrics, "nobody looked for persons there, so nothing can be said of them"


def test_scores_count_what_was_declared(partly_annotated):
    russian = partly_annotated.filter(lambda row: row["language"] == "ru")

    class Oracle:
        def tag(self, sentences, label_names=None, *, batch_size=64):
            return [["B-PER" if tag == "O" else tag for tag in tags] for tags in russian["tags"]]

    labels = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    scores, _ = compare({"x": Oracle()}, {"ru": {"test": russian}}, labels, ["test"])
    assert scores["test"]["x"]["ru"]["f1"] == 1.0
    scores, _ = compare({"x": Oracle()}, {"ru": {"test": russian.remove_columns("annotated_types")}}, labels, ["test"])
    assert scores["test"]["x"]["ru"]["f1"] < 0.9
    assert declared_only(["B-PER", "I-PER", "O", "S-LOC"], ["LOC"]) == ["O", "O", "O", "S-LOC"]
    assert declared_only(["B-PER"], None) == ["B-PER"]


def test_a_teacher_is_calibrated_on_sentences_whose_tags_are_all_known(partly_annotated, make_student, tokenizer):
    calibration = Teacher(make_student(seed=1), tokenizer).calibrate(partly_annotated)
    assert (calibration.sentences, calibration.left_out) == (30, 30)


def test_types_are_declared_per_language_or_per_sentence(tmp_path):
    file = tmp_path / "x.jsonl"
    rows = [
        {"tokens": ["Anna", "left"], "tags": ["B-PER", "O"], "annotated_types": ["PER"]},
        {"tokens": ["Bonn"], "tags": ["B-LOC"]},
        {"tokens": ["Ok"], "tags": None},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert load_corpus(file, language="en")["annotated_types"] == [["PER"], None, None]
    rows[0]["annotated_types"] = ["LOC"]
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(CorpusError, match=r"x.jsonl:1, word 1: the tag B-PER, but annotated_types has only LOC"):
        load_corpus(file, language="en")
    rows[0]["annotated_types"] = "PER"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(CorpusError, match="must be a list of entity types, not 'PER'"):
        load_corpus(file, language="en")
    corpora = load_corpora("demo", ["de", "en"], max_sentences=5, annotated_types={"de": ["LOC", "ORG", "PER"]})
    assert corpora["de"]["test"]["annotated_types"][0] == ["LOC", "ORG", "PER"]
    assert corpora["en"]["test"]["annotated_types"] == [None] * 5
    with pytest.raises(CorpusError, match="annotated_types names fr, but the languages are de"):
        load_corpora("demo", ["de"], annotated_types={"fr": ["PER"]})
    with pytest.raises(ValueError, match="is the text 'PER', but must be a list"):
        load_corpus("demo", language="de", annotated_types="PER")


def test_a_recipe_mixes_corpora_of_many_and_of_few_types(tmp_path, capsys):
    corpora = load_corpora("demo", ["de", "en"], max_sentences=40)
    for language, splits in corpora.items():
        for split, data in splits.items():
            kept = {"de": ("LOC",), "en": ("LOC", "ORG", "PER")}[language]
            rows = [
                {"tokens": words, "tags": [tag if tag[2:] in kept else "O" for tag in tags]}
                for words, tags in zip(data["tokens"], data["tags"])
            ]
            (tmp_path / f"{language}.{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = DistillationRun.from_recipe(
        corpus=str(tmp_path / "{language}.{split}.jsonl"), languages=["de", "en"], annotated_types={"de": ["LOC"]},
        model="scratch", model_config=TINY, vocab_size=300, teacher_model="scratch", teacher_model_config=TINY,
        teacher_num_train_epochs=1, num_train_epochs=1, objective="none", use_cpu=True, disable_tqdm=True,
        output_dir=str(tmp_path / "run"), baseline=False,
    )  # fmt: skip
    results = run.run()
    assert "de (LOC only): 40 train" in capsys.readouterr().out
    assert "B-PER" in run.data.labels
    assert not set(results.scores["test"]["none"]["de"]["by_type"]) - {"LOC"}
    assert math.isfinite(results.scores["test"]["none"]["en"]["f1"])


def test_a_teacher_that_a_recipe_trains_on_few_types_leaves_the_others_open(tmp_path):
    """Danger: what it never learnt, whether a word is O or of another type, is taught to the student as knowledge."""
    corpora = load_corpora("demo", ["de", "en"], max_sentences=20)
    for language, splits in corpora.items():
        for split, data in splits.items():
            rows = [
                {"tokens": w, "tags": [tag if language == "en" or tag.endswith("LOC") else "O" for tag in tags]}
                for w, tags in zip(data["tokens"], data["tags"])
            ]
            (tmp_path / f"{language}.{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = {
        **{"corpus": str(tmp_path / "{language}.{split}.jsonl"), "languages": ["de", "en"], "model": "scratch"},
        **{"annotated_types": {"de": ["LOC"]}, "model_config": TINY, "vocab_size": 300, "teacher_model": "scratch"},
        **{"teacher_model_config": TINY, "teacher_num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True},
        "teacher_temperature": "auto",
    }
    run = DistillationRun.from_recipe(**fields, objective="posterior", output_dir=str(tmp_path / "run"))
    annotated = run.annotate()
    labels = run.data.labels
    for row in (annotated[0], annotated[len(annotated) - 1]):
        open_types = () if row["language"] == "en" else ("ORG", "PER")
        representatives = [0 if tag[2:] in open_types else i for i, tag in enumerate(labels)]
        assert row["teacher_groups"] == representatives, row["language"]
    run = DistillationRun.from_recipe(**fields, objective="structural", output_dir=str(tmp_path / "other"))
    with pytest.raises(RecipeError, match="teacher for de is trained on a corpus that declares some types only"):
        run.teachers()


@pytest.mark.parametrize("labels", [["O", "LOC", "PER"], ["O", *(f"{p}-{t}" for t in ("LOC", "PER") for p in "BIES")]])
def test_plain_and_bioes_tags_are_types_too(labels, tokenizer, tmp_path):
    """Danger: in label sets without B- and I- what was declared has no effect, and nobody says so."""
    row = {"input_ids": [5, 6], "attention_mask": [1, 1], "word_mask": [1, 1], "labels": [0, 0]}
    batch = DataCollatorForStructKD(tokenizer, label_names=labels)([{**row, "annotated_types": ["LOC"]}, row])
    assert batch["open_tags"].tolist() == [[tag.endswith("PER") for tag in labels], [False] * len(labels)]
    person, place = ("PER", "LOC") if len(labels) == 3 else ("S-PER", "S-LOC")
    assert declared_only([person, "O", place], ["LOC"]) == ["O", "O", place]
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"tokens": ["Anna", "left"], "tags": [person, "O"], "annotated_types": ["LOC"]}))
    with pytest.raises(CorpusError, match=f"the tag {person}, but annotated_types has only LOC"):
        load_corpus(file, language="en", scheme="plain" if len(labels) == 3 else "BIOES")


def test_a_collator_without_names_is_refused(partly_annotated, tokenizer):
    encoded = encode_corpus(partly_annotated, tokenizer, sorted({t for row in partly_annotated["tags"] for t in row}))
    with pytest.raises(ValueError, match="annotated_types need a collator with label_names"):
        DataCollatorForStructKD(tokenizer)([encoded[40]])
