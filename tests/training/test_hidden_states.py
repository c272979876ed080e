"""Dangers: vectors of subwords compared with those of other words; a projection that is not trained, not resumed, or
published with the student; stages that never end; processes that train different projections."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_structkd import CallableTeacher, StructKDTrainer, StructKDTrainingArguments, Teacher
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.modeling.glued_words import GluedWords
from hf_structkd.modeling.words import tokenize_words
from hf_structkd.training.checkpoints import CheckpointError
from hf_structkd.training.hidden_state_trainer import PROJECTIONS_FILE
from hf_structkd.training.hidden_states import HiddenStateTeachers, word_vectors
from tests.conftest import draw_student
from tests.training import hidden_state_worker

ROOT = Path(__file__).parents[2]
QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def other_tokenizer(corpus):
    return train_tokenizer(corpus["tokens"], vocab_size=150)


@pytest.fixture(scope="module")
def teachers(tokenizer, other_tokenizer, labels):
    """Of other widths and with other subwords than the student; the Russian one is as wide as it is."""
    wide = {"hidden_size": 24, "num_hidden_layers": 3, "max_position_embeddings": 20}
    return {
        "en": Teacher(draw_student(other_tokenizer, labels, seed=1, **wide), other_tokenizer, name="wide"),
        "ru": Teacher(draw_student(tokenizer, labels, seed=2, word_pooling="mean"), tokenizer),
    }


@pytest.fixture
def train(tokenizer, make_student, teachers, corpus, tmp_path):
    def run(folder="run", resume=None, student=None, teachers=teachers, sentences=corpus, callbacks=None, **options):
        fields = {**QUIET, "objective": "none", "max_steps": 4, "per_device_train_batch_size": 6, **options}
        args = StructKDTrainingArguments(str(tmp_path / folder), **fields)
        model = student if student is not None else make_student(seed=3, **NO_DROPOUT)
        trainer = StructKDTrainer(
            model, args, None, sentences, None, tokenizer, teachers=teachers, callbacks=callbacks
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def test_the_vectors_are_those_of_the_words_also_in_long_sentences(teachers, corpus):
    teacher = teachers["en"]
    rows = [{"tokens": list(words), "language": "en"} for words in corpus["tokens"][:6]]
    assert max(len(teacher.tokenizer(row["tokens"], is_split_into_words=True)["input_ids"]) for row in rows) > 18
    hidden = HiddenStateTeachers(teachers, 16)
    english, russian = hidden.batches(rows)
    assert english["rows"].tolist() == [0, 1, 2, 3, 4, 5]
    assert not len(russian["rows"])
    words = english["word_mask"].bool()
    vectors = word_vectors(teacher, english["input_ids"], english["attention_mask"], words)
    expected = teacher.model.word_scores(english["input_ids"], english["attention_mask"], words).emissions
    inside = torch.arange(words.shape[1])[: vectors.shape[1]] < words.sum(dim=1, keepdim=True)
    torch.testing.assert_close(teacher.model.classifier(vectors)[inside], expected[inside])


def test_the_loss_is_the_squared_distance_of_words_by_sentence(teachers):
    rows = [{"tokens": ["Ada", "rests"], "language": "ru"}, {"tokens": ["Ada"], "language": "xx"},
            {"tokens": ["Oslo"], "language": "ru"}]  # fmt: skip
    hidden = HiddenStateTeachers(teachers, 16)
    batches = hidden.batches(rows)
    vectors = torch.randn(3, 2, 16)
    losses = hidden.losses(vectors, batches)
    batch = batches[1]
    targets = word_vectors(teachers["ru"], batch["input_ids"], batch["attention_mask"], batch["word_mask"].bool())
    first = ((vectors[0] - targets[0]) ** 2).mean(dim=-1).sum()
    third = ((vectors[2, 0] - targets[1, 0]) ** 2).mean()
    torch.testing.assert_close(losses, torch.stack([first, torch.zeros(()), third]))


def test_a_teacher_that_reads_glued_words_as_running_text_does_so_here(tokenizer, labels):
    """Danger: its vectors are those of other pieces than its answers."""
    model = draw_student(tokenizer, labels)
    model.config.glued_words = True
    words = GluedWords(["Ada", ",", "Oslo"], [False, True, True])
    rows = [{"tokens": list(words), "glued": words.glued}, {"tokens": list(words)}]
    (batch,) = HiddenStateTeachers(Teacher(model, tokenizer), 16).batches(rows)
    known, unknown = tokenize_words([words, list(words)], tokenizer, glued_words=True)["input_ids"]
    read = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"])]
    assert read == [known, unknown]
    assert known != unknown


def test_a_panel_weighs_its_teachers_and_a_layer_is_chosen(tokenizer, labels):
    pair = [Teacher(draw_student(tokenizer, labels, seed=seed, num_hidden_layers=2), tokenizer) for seed in (1, 2)]
    rows, vectors = [{"tokens": ["Ada", "rests"]}], torch.randn(1, 2, 16)
    alone = []
    for teacher in pair:
        hidden = HiddenStateTeachers(teacher, 16, layer=0)
        alone.append(hidden.losses(vectors, hidden.batches(rows)))
    both = HiddenStateTeachers([(pair[0], 3.0), (pair[1], 1.0)], 16, layer=0)
    torch.testing.assert_close(both.losses(vectors, both.batches(rows)), 0.75 * alone[0] + 0.25 * alone[1])
    last = HiddenStateTeachers(pair[0], 16)
    assert not torch.allclose(last.losses(vectors, last.batches(rows)), alone[0])


@pytest.mark.parametrize("head", ["crf", "softmax"])
def test_stages_one_after_the_other(train, head, tokenizer, labels, corpus, caplog):
    from transformers import XLMRobertaConfig, XLMRobertaForTokenClassification

    student = None
    if head == "softmax":
        shape = draw_student(tokenizer, labels, **NO_DROPOUT).config.to_dict()
        fields = {name: shape[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads",
                  "intermediate_size", "vocab_size", "pad_token_id", "id2label", "label2id")}  # fmt: skip
        student = XLMRobertaForTokenClassification(XLMRobertaConfig(max_position_embeddings=40, **fields))
    trainer = train(student=student, hidden_first=0.5, hidden_weight=0.1, learning_rate=1e-2, max_steps=20)
    logs = [log for log in trainer.state.log_history if "loss_hidden" in log]
    assert len(logs) == 20
    assert all(log["loss_nll"] == 0 and log["loss"] == pytest.approx(log["hidden"], rel=1e-3) for log in logs[:10])
    for log in logs[10:]:
        assert log["loss_nll"] > 0
        assert log["loss_hidden"] == pytest.approx(0.1 * log["hidden"], rel=1e-3)
    assert logs[9]["hidden"] < 0.8 * logs[0]["hidden"]
    assert "a projection from these to those is learnt and thrown away" in caplog.text


@pytest.mark.parametrize("crf_learning_rate", [None, 1e-2])
def test_the_head_stays_as_it_is_while_the_word_vectors_are_learnt_alone(train, make_student, crf_learning_rate):
    """Danger: weight decay shrinks a head that has no gradient, and Adam counts updates in which it learnt nothing."""
    student = make_student(seed=3, **NO_DROPOUT)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    after = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            after.append({name: p.detach().clone() for name, p in student.named_parameters()})

    options = {"weight_decay": 0.5, "learning_rate": 1e-2, "crf_learning_rate": crf_learning_rate, "max_steps": 4}
    train(student=student, hidden_first=0.5, hidden_weight=1.0, callbacks=[Watch()], **options)
    head = [name for name in before if name.startswith(("classifier.", "crf."))]
    assert head
    for name in head:
        assert torch.equal(after[1][name], before[name]), name
    assert not torch.equal(after[1]["roberta.encoder.layer.0.output.dense.weight"],
                           before["roberta.encoder.layer.0.output.dense.weight"])  # fmt: skip
    assert not torch.equal(after[3]["classifier.weight"], before["classifier.weight"])


def test_lambda_begins_after_the_first_stage(train):
    trainer = train(objective="posterior", hidden_first=0.5, max_steps=4)
    lambdas = [log["kd_lambda"] for log in trainer.state.log_history if "kd_lambda" in log]
    assert lambdas[0] == lambdas[1] == lambdas[2] == 1.0
    assert lambdas[3] < 1.0


def test_the_student_is_published_without_the_projection(train, tmp_path):
    trainer = train(hidden_weight=1.0)
    before = HiddenStateTeachers(trainer.teachers, 16, seed=trainer.args.seed).state_dict()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in trainer.hidden.state_dict().items())
    trainer.save_model(str(tmp_path / "saved"))
    weights = load_file(tmp_path / "saved" / "model.safetensors")
    assert not [name for name in weights if "project" in name or "hidden" in name]
    assert not (tmp_path / "saved" / PROJECTIONS_FILE).exists()


def test_a_resumed_training_ends_as_one_that_was_not_stopped(train, tmp_path):
    options = {"hidden_first": 0.5, "hidden_weight": 1.0, "learning_rate": 1e-2, "objective": "posterior",
               "save_strategy": "steps", "save_steps": 3, "max_steps": 6}  # fmt: skip
    whole = train("whole", **options)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    assert (checkpoint / PROJECTIONS_FILE).exists()
    resumed = train("resumed", resume=str(checkpoint), **options)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor)
    for name, tensor in whole.hidden.state_dict().items():
        torch.testing.assert_close(resumed.hidden.state_dict()[name], tensor)
    (checkpoint / PROJECTIONS_FILE).unlink()
    (checkpoint / "checksums.json").unlink()
    with pytest.raises((CheckpointError, ValueError), match=r"parameter group|without hidden-state distillation"):
        train("again", resume=str(checkpoint), **options)


def test_accumulated_batches_are_one_batch(train):
    options = {"hidden_first": 0.5, "hidden_weight": 1.0, "learning_rate": 1e-2, "max_steps": 4}
    one = train("one", **options, per_device_train_batch_size=6)
    two = train("two", **options, per_device_train_batch_size=2, gradient_accumulation_steps=3)
    for trained, other in ((one.model, two.model), (one.hidden, two.hidden)):
        for name, tensor in trained.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_bf16(train):
    trainer = train(hidden_first=0.5, hidden_weight=1.0, bf16=True, learning_rate=1e-2, max_steps=6)
    logs = [log["hidden"] for log in trainer.state.log_history if "hidden" in log]
    assert logs[-1] < logs[0]


def test_layers_are_thawed_from_the_top(train, make_student):
    student = make_student(seed=3, num_hidden_layers=2, **NO_DROPOUT)
    seen = []

    class Watched(StructKDTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            loss = super().training_step(model, inputs, *args, **kwargs)
            layers = [[p.grad is not None for p in layer.parameters()] for layer in model.base_model.encoder.layer]
            embedded = model.get_input_embeddings().weight.grad is not None
            seen.append((embedded, *(all(grads) for grads in layers), model.classifier.weight.grad is not None))
            return loss

    from tests.training import test_hidden_states as module

    original = module.StructKDTrainer
    module.StructKDTrainer = Watched
    try:
        train(student=student, hidden_first=0.25, hidden_thaw=1.0, max_steps=8)
    finally:
        module.StructKDTrainer = original
    assert seen[:2] == [(True, True, True, False)] * 2, "the head learns nothing from word vectors"
    assert (
        seen[2:]
        == [(False, False, False, True)] * 2 + [(False, False, True, True)] * 2 + [(False, True, True, True)] * 2
    )


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"hidden_first": 1.0}, r"hidden_first must be in \[0, 1\)"),
        ({"hidden_weight": -1.0}, "hidden_weight must be a number at least 0"),
        ({"hidden_layer": 0}, "hidden_layer has no effect"),
        ({"hidden_thaw": 0.5, "hidden_weight": 1.0}, "hidden_thaw has no effect"),
        ({"hidden_weight": 1.0, "hidden_layer": 2}, "has the layers 0 to 0, and no 2"),
        ({"hidden_weight": 1.0, "teachers": None}, "give teachers"),
        ({"hidden_weight": 1.0, "optim": "galore_adamw_layerwise", "optim_target_modules": "all-linear"}, "own optim"),
    ],
)
def test_what_cannot_be_learnt_is_refused(train, options, error):
    with pytest.raises(ValueError, match=error):
        train(**options)


def test_teachers_without_vectors_frozen_students_and_data_without_words(
    train, make_student, labels, corpus, tokenizer
):
    function = CallableTeacher(lambda sentences: [], labels, name="f", revision="1")
    with pytest.raises(TypeError, match="no checkpoint: it has no word vectors"):
        train(teachers=function, hidden_weight=1.0)
    with pytest.raises(ValueError, match="frozen encoder"):
        train(student=make_student(freeze_encoder=True), hidden_weight=1.0)
    from hf_structkd import encode_corpus

    with pytest.raises(ValueError, match="need a column 'tokens'"):
        train(sentences=encode_corpus(corpus, tokenizer, labels).remove_columns(["tokens"]), hidden_weight=1.0)


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*launcher, hidden_state_worker.__file__, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-4000:]
    reports = [json.loads((tmp_path / f"report-{rank}.json").read_text()) for rank in range(2)]
    assert reports[0]["world"] == 2
    one = hidden_state_worker.work(tmp_path / "one", batch_size=8)
    for report in reports:
        for name, values in one["weights"].items():
            assert report["weights"][name] == pytest.approx(values, abs=1e-4), name
