"""Dangers: losses on different scales, a lambda that does nothing, gradients that depend on how a batch is cut."""

import copy
import math
import re
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from huggingface_hub import ModelCard
from transformers import TrainerCallback

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher, annotate, encode_corpus
from hf_structkd.data.collator import DataCollatorForStructKD
from hf_structkd.data.columns import ArrayRows
from hf_structkd.distillation.objectives import OBJECTIVES
from hf_structkd.distillation.weighted_objectives import needed_columns, parse_objective
from hf_structkd.evaluation.results import read_results
from hf_structkd.hub.model_card import REWRITTEN
from hf_structkd.training import pushing_trainer
from hf_structkd.training.card import objective_name, trainer_results


@pytest.fixture
def teachers(make_student, tokenizer):
    return {"en": Teacher(make_student(seed=1), tokenizer), "ru": Teacher(make_student(seed=2), tokenizer)}


@pytest.fixture
def make_trainer(make_student, tokenizer, corpus, teachers, tmp_path):
    def make(model=None, train=corpus, eval_dataset=None, trainer_options=None, **options):
        defaults = {
            "output_dir": str(tmp_path / "out"), "report_to": "none", "disable_tqdm": True, "use_cpu": True,
            "save_strategy": "no", "logging_steps": 1, "per_device_train_batch_size": 16, "learning_rate": 1e-2,
        }  # fmt: skip
        args = StructKDTrainingArguments(**{**defaults, **options})
        return StructKDTrainer(
            model or make_student(), args, None, train, eval_dataset, tokenizer, teachers=teachers,
            **(trainer_options or {}),
        )  # fmt: skip

    return make


@pytest.fixture
def half_labelled(corpus):
    """Every third sentence without gold tags."""
    return corpus.map(lambda row, i: {"tags": None if i % 3 == 0 else row["tags"]}, with_indices=True)


def steps(trainer):
    return [log for log in trainer.state.log_history if "loss" in log]


class Gradients(TrainerCallback):
    def __init__(self):
        self.taken = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.taken.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


@pytest.mark.parametrize("normalization", ["word", "sentence"])
@pytest.mark.slow
def test_four_times_four_equals_sixteen(make_trainer, make_student, half_labelled, normalization):
    # Danger: Trainer's item count misses unlabelled rows, and a mean of means weighs micro-batches alike.
    taken = []
    for batch_size, accumulation in ((16, 1), (4, 4), (1, 16)):
        gradients = Gradients()
        trainer = make_trainer(
            make_student(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
            half_labelled.select(range(16)),
            objective="posterior+top_wk+structural+emission",
            lambda_schedule="constant",
            lambda_start=0.6,
            normalization=normalization,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            max_grad_norm=1e9,
            trainer_options={"callbacks": [gradients]},
        )
        trainer.train()
        taken.append((steps(trainer)[0]["loss"], gradients.taken[0]))
    for loss, gradient in taken[1:]:
        assert loss == pytest.approx(taken[0][0], rel=1e-5)
        for name, value in gradient.items():
            torch.testing.assert_close(value, taken[0][1][name], atol=1e-5, rtol=1e-4)


def test_logged_parts_add_up_to_the_loss_and_lambda_mixes_them(make_trainer):
    trainer = make_trainer(objective={"posterior": 1.0, "top_wk": 0.5}, num_train_epochs=3)
    trainer.train()
    logs = steps(trainer)
    for log in logs:
        assert log["loss"] == pytest.approx(log["loss_nll"] + log["loss_posterior"] + log["loss_top_wk"], rel=1e-4)
        lam = log["kd_lambda"]
        assert log["loss_nll"] == pytest.approx((1 - lam) * log["nll"], rel=1e-4, abs=1e-6)
        assert log["loss_top_wk"] == pytest.approx(lam * log["top_wk"], rel=1e-4, abs=1e-6)
    assert logs[0]["kd_lambda"] == 1.0
    assert logs[-1]["kd_lambda"] == 0.0


def test_any_callable_is_a_schedule(make_trainer):
    own = {"lambda_schedule": lambda progress: 0.25 if progress.step < progress.max_steps / 2 else 0.75}
    trainer = make_trainer(objective="posterior", max_steps=4, trainer_options=own)
    trainer.train()
    assert [log["kd_lambda"] for log in steps(trainer)] == [0.25, 0.25, 0.75, 0.75]


@pytest.mark.slow
def test_accumulated_logs_are_means_over_updates(make_trainer):
    one = make_trainer(objective="posterior", num_train_epochs=2, seed=5)
    one.train()
    many = make_trainer(objective="posterior", num_train_epochs=2, seed=5, logging_steps=4)
    many.train()
    for name in ("loss", "loss_nll", "loss_posterior", "nll", "kd_lambda"):
        mean = sum(log[name] for log in steps(one)[:4]) / 4
        assert steps(many)[0][name] == pytest.approx(mean, rel=1e-4)


def test_an_unlabelled_sentence_is_distilled_in_full_whatever_lambda(make_trainer, corpus):
    unlabelled = corpus.map(lambda row: {"tags": None}, features=corpus.features)
    trainer = make_trainer(
        train=unlabelled, objective="posterior", lambda_schedule="constant", lambda_start=0.0, max_steps=1
    )
    trainer.train()
    log = steps(trainer)[0]
    assert log["nll"] == 0
    assert log["loss"] == pytest.approx(log["posterior"], rel=1e-5)
    assert log["loss"] > 0


def test_none_is_plain_crf_training_without_teachers(make_student, tokenizer, corpus, tmp_path):
    model = make_student(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, crf_constraints="none")
    args = StructKDTrainingArguments(
        output_dir=str(tmp_path), objective="none", report_to="none", use_cpu=True, max_steps=1, logging_steps=1,
        per_device_train_batch_size=60, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = StructKDTrainer(model, args, train_dataset=corpus, processing_class=tokenizer)
    batch = trainer.data_collator(list(trainer.train_dataset))
    expected = model(**batch).loss.item()
    trainer.train()
    assert steps(trainer)[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert "kd_lambda" not in steps(trainer)[0]


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.slow
def test_distillation_alone_brings_the_student_to_its_teacher(make_trainer, make_student, corpus, teachers, objective):
    student = make_student(seed=1)  # the English teacher's encoder; only the head has to be learnt
    torch.nn.init.zeros_(student.classifier.weight)
    for parameter in [*student.roberta.parameters()]:
        parameter.requires_grad_(False)
    english = corpus.filter(lambda row: row["language"] == "en")
    trainer = make_trainer(
        student, english, objective=objective, lambda_schedule="constant", num_train_epochs=15, learning_rate=0.1
    )
    trainer.train()
    logs = steps(trainer)
    assert logs[-1]["loss"] < 0.8 * logs[0]["loss"]


@pytest.mark.slow
def test_every_language_and_the_macro_average_are_evaluated(make_trainer, corpus):
    dev = {language: corpus.filter(lambda row, of=language: row["language"] == of) for language in ("en", "ru")}
    trainer = make_trainer(
        eval_dataset=dev, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="macro", num_train_epochs=2, save_total_limit=1,
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_macro_f1"] == pytest.approx((metrics["eval_en_f1"] + metrics["eval_ru_f1"]) / 2)
    assert metrics["eval_macro_f1"] == pytest.approx(trainer.state.best_metric)
    test = trainer.evaluate({"ru": dev["ru"]}, metric_key_prefix="test")  # not tokenised before
    assert test["test_macro_f1"] == pytest.approx(metrics["eval_ru_f1"])


def test_crf_parameters_have_their_own_learning_rate_and_no_decay(make_trainer, make_student):
    trainer = make_trainer(crf_learning_rate=0.5, learning_rate=1e-3, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    own = {id(p) for p in trainer.model.crf.parameters()}
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == len(list(trainer.model.parameters()))
    for p in trainer.model.parameters():
        assert groups[id(p)]["lr"] == (0.5 if id(p) in own else 1e-3)
        assert id(p) not in own or groups[id(p)]["weight_decay"] == 0.0
    hinted = make_trainer(make_student(crf_learning_rate=0.25)).create_optimizer()
    assert hinted.param_groups[-1]["lr"] == 0.25


@pytest.mark.slow
def test_resuming_goes_on_with_the_same_losses(make_trainer, make_student, corpus):
    options = {"objective": "posterior", "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(make_student(), **options)
    whole.train()
    checkpoint = f"{whole.args.output_dir}/checkpoint-3"
    resumed = make_trainer(make_student(seed=7), **options)
    resumed.train(resume_from_checkpoint=checkpoint)
    for a, b in zip(steps(whole)[3:], steps(resumed)[3:]):
        for name in ("loss", "loss_nll", "loss_posterior", "kd_lambda"):
            assert a[name] == pytest.approx(b[name], rel=1e-5), name


def test_a_tokenised_annotated_dataset_is_taken_as_it_is(make_trainer, corpus, teachers, tokenizer, labels):
    targets = needed_columns(parse_objective("posterior"))
    ready = encode_corpus(annotate(corpus, teachers, label_names=labels, targets=targets), tokenizer, labels)
    trainer = make_trainer(train=ready, objective="posterior", max_steps=1)
    assert trainer.train_dataset is ready
    trainer.train()


class OwnCollator(DataCollatorForStructKD):
    """A user's own: with arrays, `+` would add numbers, and not append them."""

    def __call__(self, features):
        return super().__call__([{**row, "labels": row["labels"] + [-100][:0]} for row in features])


@pytest.mark.parametrize("columns", [None, ["input_ids", "attention_mask", "word_mask", "labels"]])
def test_rows_are_arrays_for_our_collator_alone_and_batches_stay_the_same(make_trainer, half_labelled, columns):
    def trainer_of(train, collator=None):
        objective = "posterior+top_wk" if columns is None else "none"
        trainer = make_trainer(train=train, objective=objective, max_steps=1)
        if columns is not None:
            trainer.train_dataset = trainer.train_dataset.with_format(columns=columns)
        trainer.data_collator = collator or trainer.data_collator
        return trainer

    ours = trainer_of(half_labelled)
    own = OwnCollator(ours.processing_class, len(ours.label_names_in_order))
    stock = trainer_of(ours.train_dataset, own)
    arrays, lists = (list(trainer.get_train_dataloader()) for trainer in (ours, stock))
    types = [type(trainer._remove_unused_columns(trainer.train_dataset)) for trainer in (ours, stock)]
    assert types == [ArrayRows, Dataset]
    assert len(arrays) == len(lists) > 1
    for batch, expected in zip(arrays, lists):
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[name], expected[name]) for name in batch)


@pytest.mark.slow
def test_bf16_training_stays_near_float32(make_trainer, make_student):
    losses = []
    for bf16 in (False, True):
        model = make_student(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        trainer = make_trainer(model, objective="posterior+top_wk", max_steps=4, bf16=bf16)
        trainer.train()
        losses.append([log["loss"] for log in steps(trainer)])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_languages_are_drawn_by_temperature(make_trainer, corpus):
    english = corpus.filter(lambda row: row["language"] == "en")
    russian = corpus.filter(lambda row: row["language"] == "ru").select(range(6))
    trainer = make_trainer(
        train=concatenate_datasets([english, russian]),
        objective="none",
        language_sampling_temperature=math.inf,
    )
    drawn = [trainer.train_dataset[row]["language"] for row in trainer._get_train_sampler()]
    assert (drawn.count("en"), drawn.count("ru")) == (18, 18)
    trainer.train()


def test_constraints_in_training_refuse_illegal_gold_by_row(make_trainer, make_student, corpus):
    broken = corpus.map(
        lambda row, i: {"tags": ["I-PER", *row["tags"][1:]] if i == 4 else row["tags"]}, with_indices=True
    )
    with pytest.raises(ValueError, match=r"row 4 of the training data .* first at word 0"):
        make_trainer(make_student(crf_constraints="train"), broken, objective="none")


def test_weights_are_in_the_objectives_name():
    assert objective_name({"posterior": 1.0, "top_wk": 0.5}) == "posterior+0.5*top_wk"
    assert objective_name("posterior+top_wk") == "posterior+top_wk"


@pytest.mark.slow
def test_a_card_is_written_when_pushing_and_a_fuller_one_kept(make_trainer, tmp_path):
    """Danger: a push writes over a card that says more than the trainer knows, or that somebody edited."""
    trainer = make_trainer(max_steps=1)
    trainer.train()
    trainer.create_model_card(license="apache-2.0", tags="news")
    card = tmp_path / "out" / "README.md"
    for part in ("posterior+top_wk", "license: apache-2.0", "- news"):
        assert part in card.read_text()
    trainer.create_model_card(language="en")
    assert "license" not in card.read_text()
    edited = card.read_text().replace(REWRITTEN, "Measured by hand.")
    card.write_text(edited)
    trainer.create_model_card()
    assert card.read_text() == edited


@pytest.mark.slow
def test_a_saved_model_has_the_card_of_a_push_and_a_checkpoint_has_none(make_trainer, tmp_path, caplog):
    """Danger: a student that is saved and handed on has no card, or one of another training."""
    trainer = make_trainer(max_steps=1, save_strategy="steps", save_steps=1, hub_datasets=["me/corpus"])
    trainer.train()
    assert trainer.model.config.languages == ["en", "ru"]
    out, other = tmp_path / "out", tmp_path / "handed on"
    assert not (out / "checkpoint-1" / "README.md").exists()
    trainer.save_model()

    def described() -> list:
        text = re.sub(r"\| peak memory .*|<!-- card of .*", "", (out / "README.md").read_text())
        return [text, replace(read_results(out), memory={})]

    saved = described()
    trainer.create_model_card()  # as a push does
    assert described() == saved
    trainer.save_model(str(other))
    card = ModelCard.load(other / "README.md")
    assert "\n# handed on\n" in card.text
    assert (card.data.language, card.data.datasets) == (["en", "ru"], ["me/corpus"])
    (other / "README.md").write_text("mine")
    trainer.save_model(str(other))
    assert (other / "README.md").read_text() == "mine"
    assert "it stays as it is" in caplog.text


def test_languages_learnt_are_added_to_those_that_a_model_has(make_trainer, make_student, corpus):
    """Danger: the page and the scores do not warn of a language that a model saw nothing of."""
    trainer = make_trainer(
        make_student(languages=["xx"]), corpus.remove_columns("language"), objective="none", max_steps=1
    )
    trainer.train()
    assert trainer.model.config.languages == ["xx"]
    trainer = make_trainer(make_student(languages=["xx"]), corpus, objective="none", max_steps=1)
    trainer.train()
    assert trainer.model.config.languages == ["en", "ru", "xx"]


def test_a_card_says_what_the_trainer_knows(make_trainer, corpus, tmp_path):
    trainer = make_trainer(
        eval_dataset={"en": corpus.select(range(6)), "ru": corpus.select(range(30, 36))}, eval_strategy="steps",
        eval_steps=1, max_steps=2,
    )  # fmt: skip
    trainer.train()
    results = trainer_results(trainer, trainer.teachers)
    last = trainer.state.log_history
    for language in ("en", "ru"):
        logged = [entry[f"eval_{language}_f1"] for entry in last if f"eval_{language}_f1" in entry]
        assert results.scores["evaluation"]["posterior+top_wk"][language]["f1"] == logged[-1]
    assert [teacher["revision"] for teacher in results.teachers] == [t.revision for t in trainer.teachers.values()]
    assert [part["name"] for part in results.objective["parts"]] == ["posterior", "top_wk"]
    assert results.train_sentences == {"en": 30, "ru": 30}
    assert set(results.label_examples) <= set(results.model["labels"])
    assert results.label_examples
    assert {"loss", "loss_nll", "kd_lambda", "step"} <= results.history[0].keys()
    assert results.memory["peak_rss_mib"] > 50
    trainer.args.label_examples = False
    assert trainer_results(trainer).label_examples == {}


def test_a_card_that_fails_is_no_end_of_training(make_trainer, tmp_path, monkeypatch, caplog):
    trainer = make_trainer(max_steps=1)
    monkeypatch.setattr(pushing_trainer, "trainer_results", lambda *args: 1 / 0)
    trainer.create_model_card()
    assert "ZeroDivisionError" in caplog.text
    assert (tmp_path / "out" / "README.md").exists()


def test_the_access_token_is_not_pickled_beside_checkpoints(make_trainer, tmp_path):
    """Danger: training_args.bin, which is pushed with every model, shows everybody the token it was pushed with."""
    trainer = make_trainer(hub_token="hf_abcdefghijklmnop")
    trainer.save_model()
    for path in (tmp_path / "out").iterdir():
        assert b"hf_abcdefghijklmnop" not in path.read_bytes(), path.name
    assert torch.load(tmp_path / "out" / "training_args.bin", weights_only=False).top_k == trainer.args.top_k
    assert copy.deepcopy(trainer.args).hub_token == copy.copy(trainer.args).hub_token == "hf_abcdefghijklmnop"


def test_a_push_that_failed_during_training_is_told_once(caplog):
    """Danger: nobody hears that the Hub has had nothing since the first epoch."""
    jobs = [Future(), Future(), Future()]
    jobs[0].set_exception(OSError("no space for hf_abcdefghijklmnop"))
    jobs[1].set_result("fine")
    progress = SimpleNamespace(jobs=list(jobs))
    for _ in range(2):
        pushing_trainer.warn_of_failed_pushes(progress, "me/tagger", "hf_abcdefghijklmnop")
    assert len(caplog.records) == 1
    assert "A push to me/tagger during training failed: OSError: no space for <token>" in caplog.text
    assert progress.jobs == jobs[1:]


def test_the_corpus_is_not_pushed_by_accident(make_trainer, tmp_path):
    trainer = make_trainer(annotation_dir=str(tmp_path / "out" / "answers"))
    with pytest.raises(ValueError, match="inside output_dir"):
        trainer.push_to_hub()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"objective": "posteriro"}, "unknown objective"),
        ({"lambda_schedule": "steep"}, "unknown lambda schedule"),
        ({"normalization": "batch"}, "normalization must be one of"),
        ({"crf_learning_rate": 0.0}, "crf_learning_rate must be above 0"),
        ({"temperature": -1.0}, "temperature must be above 0"),
    ],
)
def test_bad_arguments_are_named(make_trainer, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**options)


def test_an_objective_without_answers_or_teachers_is_an_error(make_student, tokenizer, corpus, tmp_path):
    args = StructKDTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(
        ValueError, match=r"needs the columns .* no teachers to ask: .*annotate\(.*targets=\['teacher_m"
    ):
        StructKDTrainer(make_student(), args, train_dataset=corpus, processing_class=tokenizer)
    with pytest.raises(ValueError, match="tokenizer as processing_class"):
        StructKDTrainer(
            make_student(),
            StructKDTrainingArguments(output_dir=str(tmp_path), objective="none", use_cpu=True),
            train_dataset=corpus,
        )
