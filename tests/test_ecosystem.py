"""Dangers: what works with any Trainer fails with ours, or does something else without a word. The programs are those
of docs/ecosystem.md, so a page whose examples do not run is a danger too."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, XLMRobertaConfig, XLMRobertaModel
from transformers.trainer_utils import HPSearchBackend

from hf_structkd import (
    CRFTokenClassificationPipeline,
    StructKDTrainer,
    StructKDTrainingArguments,
    TagScheme,
    Teacher,
    XLMRobertaCRFConfig,
    XLMRobertaForTokenClassificationCRF,
    load_corpora,
)
from hf_structkd.data.corpora import label_inventory
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.evaluation import seqeval_metric
from tests.conftest import WITHOUT_COMPILED_LOOPS, label_fields
from tests.pages import ROOT, programs, run_program

PAGE = (ROOT / "docs" / "ecosystem.md").read_text(encoding="utf-8")
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def world(make_student, tokenizer, corpus, labels, tmp_path, monkeypatch):
    """The names that the page goes on from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    student = make_student()
    fields = {
        name: getattr(student.config, name)
        for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
            "max_position_embeddings", "type_vocab_size", "pad_token_id",
        )
    }  # fmt: skip
    XLMRobertaModel(XLMRobertaConfig(**fields)).save_pretrained("encoder")

    def make_model():
        model = XLMRobertaForTokenClassificationCRF.from_pretrained("encoder", **label_fields(labels))
        model.set_word_starts(tokenizer)
        return model

    return {
        "make_model": make_model,
        "StructKDTrainer": StructKDTrainer,
        "StructKDTrainingArguments": StructKDTrainingArguments,
        "XLMRobertaForTokenClassificationCRF": XLMRobertaForTokenClassificationCRF,
        "encoder": "encoder",
        **label_fields(labels),
        "model": student,
        "tokenizer": tokenizer,
        "train": corpus,
        "dev": {name: corpus.filter(lambda row, of=name: row["language"] == of) for name in ("en", "ru")},
        "teachers": {"en": Teacher(make_student(1), tokenizer), "ru": Teacher(make_student(2), tokenizer)},
        "backend": "aot_eager",  # the graph is the same as inductor's, without minutes of C++
        "options": {
            "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 16, "num_train_epochs": 2,
            "learning_rate": 1e-2, "seed": 3,
        },
    }  # fmt: skip


def follow(section: str, world: dict) -> SimpleNamespace:
    """Run a section's program; returns all the names it leaves."""
    first = PAGE[: PAGE.index(f"\n## {section}\n") + 2].count("\n") + 1
    program = next(program for program in programs("docs/ecosystem.md") if program.line > first)
    return SimpleNamespace(**run_program(program, dict(world)))


def train_logs(trainer) -> list[dict]:
    return [log for log in trainer.state.log_history if "loss" in log]


@pytest.mark.slow
def test_the_stock_trainer(world):
    world["options"] |= {"eval_strategy": "epoch", "report_to": "none"}
    done = follow("The stock `Trainer`", world)
    evaluations = [log for log in done.trainer.state.log_history if "eval_f1" in log]
    assert len(evaluations) == 2
    assert evaluations[1]["eval_loss"] < evaluations[0]["eval_loss"]
    again = XLMRobertaForTokenClassificationCRF.from_pretrained("tagger")
    assert CRFTokenClassificationPipeline(model=again, tokenizer=done.tokenizer)("Anna")["entities"] is not None


@pytest.mark.slow
def test_early_stopping_stops_and_the_best_epoch_is_what_remains(world):
    # Danger: eval_macro_f1 comes too late for callbacks and for the choice of the best checkpoint.
    world["options"] |= {"num_train_epochs": 12, "learning_rate": 0.0, "report_to": "none"}
    trainer = follow("Early stopping", world).trainer
    scores = [log["eval_macro_f1"] for log in trainer.state.log_history if "eval_macro_f1" in log]
    assert len(scores) == 3  # nothing is learnt, so the first epoch stays best, and two are waited for
    assert trainer.state.epoch == 3
    assert trainer.state.best_metric == max(scores)
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")


@pytest.mark.slow
def test_a_search_tries_objective_and_lambda_too(world):
    # Danger: what the trainer has read from its arguments before the search stays, whatever a trial says.
    pytest.importorskip("optuna", reason="needs optuna, the extra 'search'")
    world["options"] |= {"report_to": "none", "eval_strategy": "epoch", "save_strategy": "no", "logging_steps": 1}
    seen = []

    class Seen(StructKDTrainer):
        def train(self, *args, **kwargs):
            out = super().train(*args, **kwargs)
            seen.append((self.args.objective, self.args.lambda_end, train_logs(self)))
            return out

    world["StructKDTrainer"] = Seen
    best = follow("Hyper-parameter search", world).best
    assert best.objective is not None
    assert set(best.hyperparameters) == {"crf_learning_rate", "lambda_end", "objective"}
    assert len(seen) == 2
    for objective, lambda_end, logs in seen:
        parts = {name.removeprefix("loss_") for name in logs[0] if name.startswith("loss_")}
        assert parts == {"nll", *objective.split("+")}
        assert logs[-1]["kd_lambda"] == pytest.approx(lambda_end)


def trial_of(**values):
    return SimpleNamespace(params=values, values=values)


def searching(world, **options) -> StructKDTrainer:
    args = StructKDTrainingArguments("search", report_to="none", **world["options"], **options)
    trainer = StructKDTrainer(
        world["model"], args, train_dataset=world["train"], processing_class=world["tokenizer"],
        teachers=world["teachers"],
    )  # fmt: skip
    trainer.hp_search_backend = HPSearchBackend.OPTUNA
    trainer.hp_space = lambda trial: trial.values
    return trainer


@pytest.mark.slow
def test_what_a_trial_chooses_is_what_the_loss_is_made_of(world):
    trainer = searching(world, objective="posterior+top_wk")
    trainer._hp_search_setup(trial_of(objective="top_wk", lambda_start=0.25, temperature=2.0))
    assert list(trainer.objectives) == ["top_wk"]
    assert trainer.objectives["top_wk"][0].temperature == 2.0
    assert trainer.current_lambda() == 0.25
    with pytest.raises(ValueError, match=r"needs the columns.*teacher_edge_counts.*asked once"):
        trainer._hp_search_setup(trial_of(objective="structural"))
    with pytest.raises(ValueError, match="needs top_k 9, not 5"):
        trainer._hp_search_setup(trial_of(objective="top_wk", top_k=9))


@pytest.mark.slow
def test_trackers_show_the_parts_of_the_loss_and_lambda(world):
    # Danger: a run whose curves show one loss, where nobody sees which part of it falls.
    pytest.importorskip("tensorboard", reason="needs tensorboard, the extra 'trackers'")
    trackio = pytest.importorskip("trackio", reason="needs trackio, the extra 'trackers'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = follow("Trackers", world).trainer
    logs = train_logs(trainer)
    wanted = ["loss", "loss_nll", "loss_posterior", "loss_top_wk", "nll", "posterior", "top_wk", "kd_lambda"]

    (events,) = Path("student").rglob("events.out.tfevents.*")
    board = EventAccumulator(str(events))
    board.Reload()
    for name in wanted:
        shown = [event.value for event in board.Scalars(f"train/{name}")]
        assert shown == pytest.approx([log[name] for log in logs], rel=1e-5), name

    (run,) = trackio.Api().runs("student")
    rows = trackio.SQLiteStorage.get_logs("student", run.name, run_id=run.id)
    for name in wanted:
        shown = [row[f"train/{name}"] for row in rows if f"train/{name}" in row]
        assert shown == pytest.approx([log[name] for log in logs], rel=1e-5), name


@pytest.mark.slow
def test_energy_is_on_the_card_where_codecarbon_measured_it(world, monkeypatch):
    pytest.importorskip("codecarbon", reason="needs codecarbon: pip install codecarbon")
    monkeypatch.setenv("CODECARBON_LOG_LEVEL", "error")
    args = StructKDTrainingArguments("student", report_to="codecarbon", max_steps=2, **world["options"])
    trainer = StructKDTrainer(
        world["model"], args, train_dataset=world["train"], processing_class=world["tokenizer"],
        teachers=world["teachers"],
    )  # fmt: skip
    trainer.train()
    trainer.create_model_card()
    card = Path("student/README.md").read_text(encoding="utf-8")
    shown = float(
        re.search(r"^\| energy \| (\S+) kWh, \S+ kg CO2 equivalents \(codecarbon\) \|$", card, re.MULTILINE)[1]
    )
    assert 0 < shown < 0.1
    assert "co2_eq_emissions:" in card


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["encoder", "torch_compile=True"])
def test_compiled_models_train_the_same_and_the_crf_stays_out_of_the_graph(world, make_student, whole):
    # Danger: torch.compile unrolls the loop over time, minutes for every new length, or checkpoints get other names.
    torch._dynamo.reset()
    world["options"] |= {"report_to": "none", "max_steps": 2, "logging_steps": 1}
    world["train"] = world["train"].select(range(16))
    plain = follow("Gradient checkpointing", {**world, "model": make_student(**NO_DROPOUT)}).trainer
    if whole:
        world["options"] |= {"torch_compile_backend": "aot_eager"}
        args = StructKDTrainingArguments("student", **world["options"])
        trainer = StructKDTrainer(
            make_student(**NO_DROPOUT), args, train_dataset=world["train"], processing_class=world["tokenizer"],
            teachers=world["teachers"],
        )  # fmt: skip
        trainer.train()
    else:
        trainer = follow("`torch.compile`", {**world, "model": make_student(**NO_DROPOUT)}).trainer
    stats = torch._dynamo.utils.counters["stats"]
    assert stats["unique_graphs"] > 0
    assert stats["calls_captured"] < 1500, "the loop over time has been unrolled"
    assert [log["loss"] for log in train_logs(trainer)] == pytest.approx(
        [log["loss"] for log in train_logs(plain)], rel=1e-4
    )
    trainer.save_model("compiled")
    again = XLMRobertaForTokenClassificationCRF.from_pretrained("compiled")
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, plain.model.state_dict()[name], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_gradients_and_is_really_on(world, make_student):
    # Danger: an option that is taken and does nothing, or one that changes what is learnt. Dropout stays on.
    passes, gradients = [], []
    for checkpointing in (True, False):
        model = make_student()
        calls: list[int] = []
        # inside the layer, whose own hooks stand outside; before, since computing again ends once all is there
        model.roberta.encoder.layer[0].attention.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        world["options"] |= {"max_steps": 1, "report_to": "none", "learning_rate": 0.0, "logging_steps": 1}
        kept: dict[str, torch.Tensor] = {}
        for name, parameter in model.named_parameters():
            parameter.register_post_accumulate_grad_hook(lambda p, name=name, kept=kept: kept.update({name: p.grad}))
        if checkpointing:
            follow("Gradient checkpointing", {**world, "model": model})
        else:
            args = StructKDTrainingArguments("student", **world["options"])
            StructKDTrainer(
                model, args, train_dataset=world["train"], processing_class=world["tokenizer"],
                teachers=world["teachers"],
            ).train()  # fmt: skip
        passes.append(len(calls))
        gradients.append({name: grad.clone() for name, grad in kept.items()})
    assert passes == [2, 1]
    assert gradients[0].keys() == gradients[1].keys()
    assert "crf.transitions" in gradients[0]
    for name, grad in gradients[0].items():
        torch.testing.assert_close(grad, gradients[1][name], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_lora_trains_saves_reloads_and_merges(world):
    # Danger: an adapter without the CRF's scores, which loads without a word and tags as if there were none.
    pytest.importorskip("peft", reason="needs peft, the extra 'lora'")
    world["options"] |= {"report_to": "none", "num_train_epochs": 3}
    done = follow("LoRA", world)
    student, again, merged = done.student.eval(), done.again.eval(), done.merged.eval()
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    for part in ("lora_A", "crf.modules_to_save.default.transitions", "classifier.modules_to_save.default.weight"):
        assert any(part in name for name in trained), part
    assert not any("encoder" in name and "lora" not in name for name in trained)
    assert merged.crf.transitions.abs().max() > 0
    assert merged.crf.transitions.dtype == torch.float32

    batch = done.trainer.data_collator(list(done.trainer.train_dataset)[:8])
    batch = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask", "labels")}
    loaded = XLMRobertaForTokenClassificationCRF.from_pretrained("merged")
    with torch.no_grad():
        expected = student(**batch)
        for other in (again, merged, loaded):
            got = other(**batch)
            torch.testing.assert_close(got.logits, expected.logits, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(got.transitions, expected.transitions)
            torch.testing.assert_close(got.loss, expected.loss, atol=1e-4, rtol=1e-4)
    # raw text: the pieces that start words went along
    assert loaded.word_starts.pieces.equal(done.make_model().word_starts.pieces)
    answer = CRFTokenClassificationPipeline(model=loaded, tokenizer=done.tokenizer)("Anna flew to Paris.")
    assert "entities" in answer
    size = sum(path.stat().st_size for path in Path("adapter").glob("*.safetensors"))
    assert size < Path("merged/model.safetensors").stat().st_size / 2


# Danger: a model that only our trainer can train. A script for the stock `Trainer` must do with it what it does with
# any tagger: stock collator, -100 labels, argmax of logits, evaluate, predict, save, reload.


SCRIPT = Path(__file__).with_name("stock_run_ner.py")


SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """A corpus as JSON lines, and the arguments that name it."""
    folder, arguments = tmp_path_factory.mktemp("corpus"), []
    for name, split, count in (("train", "train", 300), ("validation", "dev", 40), ("test", "test", 40)):
        rows = load_demo_corpus("en", split, num_sentences=count)
        lines = [json.dumps({"tokens": row["tokens"], "ner_tags": row["tags"]}) for row in rows]
        (folder / f"{name}.json").write_text("\n".join(lines), encoding="utf-8")
        arguments += [f"--{name}_file", str(folder / f"{name}.json")]
    return arguments


@pytest.fixture
def save_start(tmp_path):
    """Saves what a script starts from, weights drawn at random, with a tokenizer."""

    def save(encoder_alone: bool) -> Path:
        tokenizer = train_tokenizer(load_demo_corpus("en", "train", num_sentences=300)["tokens"], vocab_size=1500)
        tags = ["B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O"]
        shape = {
            "vocab_size": len(tokenizer), "max_position_embeddings": 40, "type_vocab_size": 1,
            "pad_token_id": tokenizer.pad_token_id, **SIZE,
        }  # fmt: skip
        if encoder_alone:
            model = XLMRobertaModel(XLMRobertaConfig(**shape))
        else:
            model = XLMRobertaForTokenClassificationCRF(XLMRobertaCRFConfig(**shape, **label_fields(tags)))
        model.save_pretrained(tmp_path / "start")
        tokenizer.save_pretrained(tmp_path / "start")
        return tmp_path / "start"

    return save


def run_script(checkpoint: Path, output: Path, files: list[str], *more: str, cache: Path) -> dict:
    options = {
        "metric": seqeval_metric.__file__, "learning_rate": 2e-2, "num_train_epochs": 8, "use_cpu": True,
        "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "eval_strategy": "epoch",
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, SCRIPT, "--model_name_or_path", checkpoint, "--output_dir", output, *files, *given, *more],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            **WITHOUT_COMPILED_LOOPS,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(cache),
        },
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["tagger with its own code", "plain encoder"])
def test_a_script_for_the_stock_trainer_trains_evaluates_predicts_and_reloads(start, files, save_start, tmp_path):
    encoder_alone = start == "plain encoder"
    how = ("--with_crf", "true") if encoder_alone else ("--trust_remote_code", "true")
    output = tmp_path / "output"
    said = run_script(save_start(encoder_alone), output, files, *how, cache=tmp_path / "home")
    assert said["model"] == "XLMRobertaForTokenClassificationCRF"
    assert said["package_imported"] == encoder_alone
    # It learns: with accumulation, a loss whose scale is wrong would show here first.
    assert said["after"]["eval_f1"] > said["before"]["eval_f1"] + 0.3
    assert said["after"]["eval_loss"] < said["before"]["eval_loss"] / 2
    assert said["predict"]["predict_f1"] > 0.3
    assert said["difference_after_reload"] < 1e-5
    # argmax of logits is the Viterbi path, which the constraints keep legal; argmax of emissions would not be
    config = AutoConfig.from_pretrained(output)
    scheme = TagScheme([config.id2label[i] for i in range(config.num_labels)])
    assert len(said["predictions"]) == 40
    assert not [tags for tags in said["predictions"] if scheme.violations(tags)]


# Danger: what works on tiny random models fails on pretrained encoders stored in half precision.
SHARED = ROOT.parent / "shared"
ENCODER = SHARED / "encoders" / "lab-h64-l2"
WIKIANN = SHARED / "data" / "ner" / "wikiann"
needs_encoders = pytest.mark.skipif(
    not ENCODER.exists(), reason="needs the shared pretrained encoders, which are not here"
)


@pytest.mark.slow
@needs_encoders
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pretrained_encoder_becomes_a_student(dtype):
    model = XLMRobertaForTokenClassificationCRF.from_pretrained(ENCODER, num_labels=7, dtype=dtype)
    assert model.roberta.embeddings.word_embeddings.weight.dtype == dtype
    for parameter in model.crf.parameters():
        assert parameter.dtype == torch.float32
        assert (parameter == 0).all()


@pytest.mark.slow
@needs_encoders
def test_a_real_corpus_is_distilled(tmp_path):
    if not WIKIANN.exists():
        pytest.skip("needs the shared WikiAnn corpora, which are not here")
    corpora = load_corpora(
        f"{WIKIANN}/{{language}}/{{split}}.conll.gz", ["en"], max_sentences={"train": 200, "dev": 50, "test": 50}
    )
    labels = label_inventory(corpora)
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)

    def make() -> XLMRobertaForTokenClassificationCRF:
        model = XLMRobertaForTokenClassificationCRF.from_pretrained(
            ENCODER, id2label=dict(enumerate(labels)), dtype=torch.float32
        )
        model.set_word_starts(tokenizer)
        return model

    def train(model, objective, teachers=None):
        args = StructKDTrainingArguments(
            str(tmp_path), objective=objective, num_train_epochs=3, learning_rate=2e-3, crf_learning_rate=2e-2,
            per_device_train_batch_size=16, logging_steps=5, report_to="none", save_strategy="no", use_cpu=True,
            disable_tqdm=True,
        )  # fmt: skip
        trainer = StructKDTrainer(
            model, args, None, corpora["en"]["train"], {"en": corpora["en"]["dev"]}, tokenizer, teachers=teachers
        )
        trainer.train()
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        assert losses[-1] < 0.7 * losses[0]
        return model

    teacher = Teacher(train(make(), "none"), tokenizer)
    train(make(), "posterior+top_wk", teacher)
