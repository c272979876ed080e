"""Danger: an argument that is taken and not looked at. Every one has a standing here, be it `Trainer`'s."""

import dataclasses
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HPSearchBackend

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, TaggingMetrics, encode_corpus
from hf_structkd.training.checks import ONE_RATE, WITHOUT_EFFECT

PAGE = Path(__file__).parents[2] / "docs" / "ecosystem.md"

# Looked at one by one, with transformers 5.11 to 5.23. `Trainer` does with these what it does with any model.
_TRAINERS = """
    output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type
    lr_scheduler_kwargs warmup_steps warmup_ratio optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
    optim_target_modules gradient_accumulation_steps max_grad_norm bf16 fp16 bf16_full_eval fp16_full_eval tf32
    activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
    torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps auto_find_batch_size
    logging_strategy logging_steps logging_first_step log_on_each_node logging_dir
    include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to run_name project trackio_space_id
    trackio_bucket_id trackio_static_space_id eval_strategy eval_steps eval_delay per_device_eval_batch_size
    eval_on_start eval_do_concat_batches eval_use_gather_object eval_accumulation_steps save_on_each_node
    enable_jit_checkpoint greater_is_better restore_callback_states_from_checkpoint full_determinism seed use_cpu
    accelerator_config dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order ddp_find_unused_parameters
    ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed debug
    skip_memory_metrics local_rank remove_unused_columns hub_private_repo hub_always_push hub_revision
"""
# No `Trainer` reads these: they are there for scripts.
SCRIPTS = {"do_train", "do_eval", "do_predict", "resume_from_checkpoint"}
# The package's code does something with these, or sees to it that they do what they say for its loss and its corpora.
_OWN = """
    confidence_weight focal_weights
    objective objective_combination temperature temperature_mode top_k lambda_schedule lambda_start lambda_end
    lambda_rate normalization unlabelled_rate annotation_dir annotation_batch_size license label_examples hub_datasets
    annotation_context focal_weights hidden_first hidden_weight hidden_layer hidden_thaw
    average_tokens_across_devices logging_nan_inf_filter data_seed length_column_name ignore_data_skip save_only_model
    save_strategy save_steps save_total_limit load_best_model_at_end dataloader_persistent_workers push_to_hub
    hub_model_id hub_strategy hub_token
"""
# Refused in some company, or for some values.
IN_PART = {
    "crf_learning_rate", "language_sampling_temperature", "train_sampling_strategy", "metric_for_best_model", "optim",
    "include_for_metrics", "batch_eval_metrics", "prediction_loss_only", "neftune_noise_alpha", "parallelism_config",
}  # fmt: skip
TRAINERS, OWN = set(_TRAINERS.split()), set(_OWN.split())
TRAINER_PARAMETERS = {
    "model": "a token classifier, or TypeError", "args": "StructKDTrainingArguments, or TypeError",
    "data_collator": "refused where it loses teachers' answers", "train_dataset": "honoured",
    "eval_dataset": "honoured", "processing_class": "honoured", "model_init": "honoured",
    "compute_loss_func": "refused",
    "compute_metrics": "honoured", "callbacks": "Trainer's", "optimizers": "not beside crf_learning_rate",
    "optimizer_cls_and_kwargs": "Trainer's", "preprocess_logits_for_metrics": "honoured",
}  # fmt: skip

WORDS = [["Nils", "sails"], ["the", "old", "Eva", "Berg", "sleeps"], ["rain"], ["Ugo", "and", "Pia"]]
TAGS = [["B-PER", "O"], ["O", "O", "B-PER", "I-PER", "O"], ["O"], ["B-PER", "O", "B-PER"]]
LABELS = ["O", "B-PER", "I-PER"]
LANGUAGES = ["no", "no", "it", "it"]


@pytest.fixture(scope="module")
def pieces():
    from hf_structkd.data.tokenizer import train_tokenizer

    return train_tokenizer(WORDS, vocab_size=60)


@pytest.fixture
def student(pieces):
    from tests.conftest import draw_student

    return draw_student(pieces, LABELS)


@pytest.fixture
def corpus():
    return Dataset.from_dict({"tokens": WORDS, "tags": TAGS, "language": LANGUAGES})


@pytest.fixture
def make_trainer(student, pieces, corpus, tmp_path):
    def make(train=corpus, dev=corpus, trainer_options=None, model=student, **more):
        options = {
            "output_dir": str(tmp_path / "out"), "objective": "none", "report_to": "none", "disable_tqdm": True,
            "use_cpu": True, "save_strategy": "no", "max_steps": 2, "per_device_train_batch_size": 2,
            "logging_strategy": "no", "learning_rate": 1e-2,
        }  # fmt: skip
        args = StructKDTrainingArguments(**{**options, **more})
        return StructKDTrainer(
            model, args, train_dataset=train, eval_dataset=dev, processing_class=pieces, **(trainer_options or {})
        )

    return make


def test_every_argument_was_looked_at():
    groups = (TRAINERS, SCRIPTS, OWN, IN_PART, set(WITHOUT_EFFECT))
    fields = {field.name for field in dataclasses.fields(StructKDTrainingArguments)}
    assert fields - set().union(*groups) == set(), "transformers or the package has arguments that nobody looked at"
    assert sum(map(len, groups)) == len(set().union(*groups)), "an argument has two standings"
    parameters = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert parameters - set(TRAINER_PARAMETERS) == set()


REFUSED = [
    ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 has no effect in StructKDTrainer: a CRF"),
    ({"label_names": ["tags"]}, r"label_names=\['tags'\] has no effect"),
    ({"use_liger_kernel": True}, "use_liger_kernel=True has no effect"),
    ({"liger_kernel_config": {"rope": True}}, "liger_kernel_config=.* has no effect"),
    ({"use_cache": True}, "use_cache=True has no effect"),
    ({"crf_learning_rate": 0.1, "optim": "lomo"}, "crf_learning_rate has no effect with optim='lomo'"),
    ({"crf_learning_rate": 0.1, "optim": "galore_adamw_layerwise"}, "optim='galore_adamw_layerwise', which has one"),
    (
        {"language_sampling_temperature": 2.0, "train_sampling_strategy": "sequential"},
        "language_sampling_temperature has no effect with train_sampling_strategy='sequential'",
    ),
    ({"include_for_metrics": ["inputs"]}, "include_for_metrics=.* is for a compute_metrics of your own"),
    ({"batch_eval_metrics": True}, "batch_eval_metrics=True is for a compute_metrics of your own"),
    ({"prediction_loss_only": True, "metric_for_best_model": "f1"}, "and prediction_loss_only=True contradict"),
    ({"metric_for_best_model": "f2"}, "metric_for_best_model='f2': there is no score 'f2'; there are loss, precision"),
    ({"parallelism_config": SimpleNamespace(cp_size=2)}, "parallelism_config with cp_size above 1 cuts sentences up"),
    ({"trainer_options": {"compute_loss_func": max}}, "compute_loss_func has no effect in StructKDTrainer"),
    (
        {"trainer_options": {"lambda_schedule": lambda progress: 0.5}, "lambda_end": 0.5},
        "lambda_end of the arguments have no effect: a lambda_schedule is given beside",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: " ".join(value) if value else "")
def test_what_would_have_no_effect_is_refused_by_name(make_trainer, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**options)


def test_refusals_that_need_more_than_a_value(make_trainer, student, pieces, tmp_path):
    sgd = torch.optim.SGD(student.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="crf_learning_rate has no effect on an optimizer of your own"):
        make_trainer(crf_learning_rate=0.1, trainer_options={"optimizers": (sgd, None)})
    student.freeze_encoder()
    with pytest.raises(ValueError, match="neftune_noise_alpha has no effect on a frozen encoder"):
        make_trainer(neftune_noise_alpha=5.0)
    with pytest.raises(TypeError, match="args must be StructKDTrainingArguments, not TrainingArguments"):
        StructKDTrainer(student, TrainingArguments(str(tmp_path), use_cpu=True), processing_class=pieces)


def test_all_that_is_refused_is_tried_here_and_named_on_the_page():
    tried = {name for options, _ in REFUSED for name in options} | {"neftune_noise_alpha"}
    installed = {field.name for field in dataclasses.fields(StructKDTrainingArguments)}
    assert set(WITHOUT_EFFECT) & installed | IN_PART <= tried
    page = PAGE.read_text(encoding="utf-8")
    section = page[page.index("## Arguments without effect") :].split("\n## ")[0]
    missing = {name for name in (*WITHOUT_EFFECT, *IN_PART, "compute_loss_func") if f"`{name}" not in section}
    assert not missing
    assert len(ONE_RATE) >= 3


def test_neftune_reaches_the_encoder(make_trainer, student):
    """It is honoured: noise on the embeddings changes the loss of an encoder that is trained."""
    noise = []
    for alpha in (None, 50.0):
        trainer = make_trainer(neftune_noise_alpha=alpha, max_steps=1, logging_strategy="steps", logging_steps=1,
                               learning_rate=0.0)  # fmt: skip
        trainer.train()
        noise.append(trainer.state.log_history[0]["loss"])
    assert abs(noise[1] - noise[0]) > 0.01


# ---- the choice of the best model ----


class OwnScore:
    """A `compute_metrics` without a headline: the share of right tags, under a name of its own."""

    def __call__(self, prediction):
        words = prediction.label_ids != -100
        return {"right": float((prediction.predictions == prediction.label_ids)[words].mean())}


def test_macro_of_scores_of_ones_own_is_refused_or_names_its_score(make_trainer, corpus):
    """Danger: 'macro' averages the loss, and the model with the largest is kept."""
    dev = {"no": corpus.select(range(2)), "it": corpus.select(range(2, 4))}
    own = {"compute_metrics": OwnScore()}
    with pytest.raises(ValueError, match="your compute_metrics does not say which of its scores"):
        make_trainer(dev=dev, metric_for_best_model="macro", trainer_options=own)
    options = {
        "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 6,
        "load_best_model_at_end": True,
    }  # fmt: skip
    trainer = make_trainer(dev=dev, metric_for_best_model="macro_right", trainer_options=own, **options)
    trainer.train()
    found = [entry["eval_macro_right"] for entry in trainer.state.log_history if "eval_macro_right" in entry]
    assert len(found) == 6
    assert trainer.state.best_metric == max(found)
    assert trainer.evaluate()["eval_macro_right"] == max(found)
    trainer = make_trainer(dev=dev, metric_for_best_model="macro_loss", trainer_options=own, **options)
    trainer.train()
    found = [entry["eval_macro_loss"] for entry in trainer.state.log_history if "eval_macro_loss" in entry]
    assert trainer.state.best_metric == min(found)
    named = OwnScore()
    named.metric_name = "right"
    trainer = make_trainer(dev=dev, metric_for_best_model="macro", trainer_options={"compute_metrics": named})
    assert trainer.args.metric_for_best_model == "macro_right"


def test_macro_of_one_corpus_is_its_own_score(make_trainer):
    trainer = make_trainer(
        metric_for_best_model="macro", eval_strategy="steps", eval_steps=1, save_strategy="best",
        load_best_model_at_end=True,
    )  # fmt: skip
    trainer.train()
    found = [entry["eval_f1"] for entry in trainer.state.log_history if "eval_f1" in entry]
    assert trainer.state.best_metric == max(found)


@pytest.mark.parametrize("metric", ["loss", "f1", "eval_de_f1", "macro_f2", "no_precison"])
def test_a_score_that_several_corpora_will_not_have_is_refused_at_the_start(make_trainer, corpus, metric):
    dev = {"no": corpus.select(range(2)), "it": corpus.select(range(2, 4))}
    with pytest.raises(ValueError, match=f"metric_for_best_model='{metric}'"):
        make_trainer(dev=dev, metric_for_best_model=metric)


def test_metrics_that_number_other_labels_are_refused(make_trainer, student):
    """Danger: the model's tag 0 is scored as another label, the first of a list in another order."""
    labels = [student.config.id2label[i] for i in range(student.config.num_labels)]
    make_trainer(trainer_options={"compute_metrics": TaggingMetrics(labels)})
    with pytest.raises(ValueError, match=r"compute_metrics numbers the labels .* in the model's order"):
        make_trainer(trainer_options={"compute_metrics": TaggingMetrics(labels[::-1])})


@pytest.mark.parametrize("names", [("pt", "pt_br"), ("pt_br", "pt")])
def test_a_corpus_may_be_called_as_another_one_begins(make_trainer, corpus, names):
    """Danger: pt_br_f1 is refused, as the score br_f1 of pt."""
    dev = dict(zip(names, (corpus.select(range(2)), corpus.select(range(2, 4)))))
    for name in names:
        trainer = make_trainer(dev=dev, metric_for_best_model=f"{name}_f1")
        assert trainer.args.metric_for_best_model == f"{name}_f1"


def test_a_score_that_one_corpus_lacks_is_named(make_trainer, corpus):
    class Some(OwnScore):
        def __call__(self, prediction):
            return super().__call__(prediction) if len(prediction.label_ids) == 2 else {}

    dev = {"no": corpus.select(range(2)), "it": corpus.select(range(2, 3))}
    trainer = make_trainer(
        dev=dev, metric_for_best_model="macro_right", eval_strategy="steps", eval_steps=1,
        trainer_options={"compute_metrics": Some()},
    )  # fmt: skip
    with pytest.raises(ValueError, match="'macro_right': there is no right for it"):
        trainer.train()


def test_a_trial_starts_from_the_arguments_and_not_from_the_last_trial(make_trainer):
    """Danger: a search space that asks on a condition; the last trial's answer stays where it is not met."""
    trainer = make_trainer(learning_rate=0.5)
    trainer.hp_search_backend, trainer.hp_space = HPSearchBackend.OPTUNA, lambda trial: trial.values
    for values in ({"learning_rate": 0.25, "normalization": "sentence"}, {"lambda_end": 0.5}):
        trainer._hp_search_setup(SimpleNamespace(params=values, values=values))
    assert (trainer.args.learning_rate, trainer.args.normalization, trainer.args.lambda_end) == (0.5, "word", 0.5)
    with pytest.raises(ValueError, match="normalization must be one of"):
        trainer._hp_search_setup(SimpleNamespace(params={}, values={"normalization": "batch"}))


# ---- corpora ----


def test_predict_and_evaluate_take_corpora_of_words(make_trainer, corpus, pieces):
    trainer = make_trainer()
    expected = trainer.evaluate()
    found = trainer.predict(corpus)
    assert found.metrics["test_f1"] == expected["eval_f1"]
    bare = trainer.predict(corpus.remove_columns("tags"))
    assert (bare.predictions == found.predictions).all()
    assert trainer.evaluate(corpus)["eval_f1"] == expected["eval_f1"]
    with pytest.raises(TypeError, match="predict takes one corpus, not a mapping of no, it"):
        trainer.predict({"no": corpus, "it": corpus})
    with pytest.raises(TypeError, match="not a list of str"):
        trainer.predict(["Nils sails"])


def words_alone(rows):
    return [[int(tag) for tag in row if tag != -100] for row in rows]


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "sequential"])
def test_predictions_and_scores_come_in_the_order_of_the_corpus(make_trainer, corpus, strategy):
    """One process reads the longest sentences first."""
    alone = make_trainer()
    expected = [alone.predict(corpus.select([row])) for row in range(len(corpus))]
    seen = []
    trainer = make_trainer(train_sampling_strategy=strategy, per_device_eval_batch_size=2)
    trainer.compute_metrics = lambda prediction: seen.append(prediction) or {"f1": 0.0}
    for found in (trainer.predict(corpus), seen[0]):
        for name in ("predictions", "label_ids"):
            assert words_alone(getattr(found, name)) == [words_alone(getattr(one, name))[0] for one in expected]
    widths = [batch["input_ids"].shape[1] for batch in trainer.get_eval_dataloader(corpus)]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 2, "longer and shorter sentences"
    batches = make_trainer(per_device_eval_batch_size=2, eval_do_concat_batches=False).predict(corpus).predictions
    in_batches = [row for batch in batches for row in words_alone(batch)]
    assert in_batches == words_alone(trainer.predict(corpus).predictions), "a list of batches keeps the corpus's order"


def test_every_corpus_is_scored_on_its_own_sentences_with_persistent_workers(make_trainer, corpus):
    two = {"a": corpus.select([0, 1]), "b": corpus.select([3])}
    plain, kept = make_trainer(), make_trainer(dataloader_num_workers=1, dataloader_persistent_workers=True)
    expected, found = plain.evaluate(two), kept.evaluate(two)
    assert expected["eval_a_loss"] != expected["eval_b_loss"]
    for name in ("eval_a_loss", "eval_b_loss"):
        assert found[name] == pytest.approx(expected[name])
    assert kept.evaluate(two["b"])["eval_loss"] == pytest.approx(expected["eval_b_loss"])


def test_what_cannot_be_scored_or_trained_on_is_said_at_the_start(make_trainer, corpus, pieces):
    bare = corpus.remove_columns("tags")
    with pytest.raises(ValueError, match="the corpus 'it' cannot be evaluated: no sentence has gold tags"):
        make_trainer(dev={"no": corpus, "it": bare})
    with pytest.raises(ValueError, match="cannot be evaluated: it has no sentences"):
        make_trainer(dev=corpus.select([]))
    with pytest.raises(ValueError, match="the training data have no sentences"):
        make_trainer(train=corpus.select([]))
    with pytest.raises(TypeError, match="train_dataset is one corpus, not a mapping of no, it"):
        make_trainer(train={"no": corpus, "it": corpus})
    with pytest.raises(ValueError, match="language_sampling_temperature needs a column 'language'"):
        make_trainer(train=corpus.remove_columns("language"), language_sampling_temperature=2.0)


def test_streams_refuse_what_needs_the_whole_corpus(make_trainer, corpus, pieces):
    stream = encode_corpus(corpus, pieces, LABELS).to_iterable_dataset()
    for name, value in (("language_sampling_temperature", 2.0), ("unlabelled_rate", 0.5)):
        with pytest.raises(ValueError, match=f"{name} has no effect on a stream"):
            make_trainer(train=stream, **{name: value})
    with pytest.raises(ValueError, match=r"a stream, whose length nobody knows.*max_steps"):
        make_trainer(train=stream, max_steps=-1)


def test_a_collator_that_loses_the_teachers_answers_is_refused(make_trainer, student, corpus, pieces):
    """Danger: the student learns from gold tags alone, and nobody is told."""
    from hf_structkd import DataCollatorForStructKD, Teacher

    class Forgetful(DataCollatorForStructKD):
        def __call__(self, features):
            batch = super().__call__(features)
            return {name: value for name, value in batch.items() if not name.startswith("teacher_")}

    options = {"teachers": Teacher(student, pieces), "data_collator": Forgetful(pieces, len(LABELS))}
    with pytest.raises(ValueError, match="the data_collator leaves out teacher_marginals"):
        make_trainer(objective="posterior", trainer_options=options)
    make_trainer(trainer_options={"data_collator": Forgetful(pieces, len(LABELS))}).train()  # gold alone is no loss


def test_the_scores_that_metrics_promise_are_those_they_give():
    metrics = TaggingMetrics(LABELS)
    assert {*metrics.flatten(metrics.report(TAGS, TAGS))} == set(metrics.possible_scores())
    plain = TaggingMetrics(["NOUN", "VERB"])
    assert {*plain.flatten(plain.report([["NOUN"]], [["VERB"]]))} == set(plain.possible_scores())
