"""Dangers: a killed run that must start again or ends otherwise, half a checkpoint that is believed, a full disk."""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from hf_structkd import StructKDTrainingArguments
from hf_structkd.data.corpora import load_corpus
from hf_structkd.data.readers import CorpusError
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.teachers.answer_store import AnnotationError, PartialAnswers
from hf_structkd.training.checkpoints import (
    CHECKSUMS_FILE,
    CheckpointError,
    check_checkpoint,
    is_sealed,
    last_whole_checkpoint,
    seal_checkpoint,
)
from tests import crashes
from tests.crashes import train_into
from tests.teachers import annotation_worker


@pytest.fixture(scope="module")
def setting():
    return crashes.Setting()


@pytest.fixture(scope="module")
def whole(setting, tmp_path_factory) -> Path:
    """A training that nothing disturbed, with all of its checkpoints, one an update."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    trainer = setting.trainer(folder, save_total_limit=None)
    trainer.train()
    trainer.save_model(str(folder / "final"))
    trainer.state.save_to_json(str(folder / "final" / "trainer_state.json"))
    return folder


@pytest.fixture
def stopped(whole, tmp_path):
    """Its folder as it was when update 7 of 12 was done: in the middle of an epoch and of lambda's way."""
    folder = tmp_path / "run"
    for step in (5, 6, 7):
        shutil.copytree(whole / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    return folder


def losses(state) -> list[dict[str, float]]:
    return [{k: v for k, v in log.items() if "runtime" not in k and "per_second" not in k} for log in state.log_history
            if "loss" in log or "eval_macro_f1" in log]  # fmt: skip


def resumed(setting, folder, **options):
    trainer = setting.trainer(folder, **options)
    trainer.train(resume_from_checkpoint=True)
    return trainer


@pytest.mark.slow
def test_killed_training_ends_with_the_same_weights_losses_and_metrics(setting, tmp_path):
    """As scripts train. `python -m tests.crashes --kills 20` does this at length, and for annotation too."""
    works = [tmp_path / name / "student" for name in ("whole", "killed")]
    crashes.run_in_a_process(setting.train_as_scripts_do, works[0])
    # 24 batches of 0.1 seconds at least, so that no machine is done before the second kill
    slow = partial(setting.train_as_scripts_do, seconds=0.1)
    assert crashes.kill_until_done(slow, works[1], 2, 1.2, random.Random(0)) == 2
    assert crashes.remains(works[1]) == crashes.remains(works[0])
    assert {"model.safetensors", "losses and metrics"} <= crashes.remains(works[0]).keys()
    assert not (tmp_path / "killed" / "student.training").exists()


@pytest.mark.slow
def test_resuming_in_the_middle_of_an_epoch_goes_on_with_the_very_same_losses(setting, whole, stopped):
    """Languages drawn by temperature, unlabelled at a rate, accumulation, dropout, lambda half way: all as it was."""
    trainer = resumed(setting, stopped)
    assert trainer.state.max_steps == 12
    expected = json.loads((whole / "final" / "trainer_state.json").read_text())["log_history"]
    lambdas = [log["kd_lambda"] for log in expected if "loss" in log]
    assert len(set(lambdas)) == 12
    assert lambdas[0] > lambdas[6] > lambdas[-1]
    state = type(trainer.state).load_from_json(str(whole / "final" / "trainer_state.json"))
    assert losses(trainer.state) == losses(state)
    final = crashes.Student.from_pretrained(whole / "final").state_dict()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, final[name]), name


@pytest.mark.slow
def test_two_runs_with_a_seed_are_the_same_and_with_another_not(setting, whole, tmp_path):
    """The kill test has two processes for this; here it is one process twice, after other random numbers."""
    runs = []
    for seed in (3, 3, 4):
        torch.rand(7)
        trainer = setting.trainer(tmp_path / str(len(runs)), seed=seed, save_strategy="no", max_steps=4)
        trainer.train()
        runs.append(losses(trainer.state))
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.slow
def test_a_stream_is_trained_on_and_resumed_alike(setting, tmp_path):
    """Corpora too large for random access: read in order, shuffled within a buffer."""
    options = {
        "unlabelled_rate": None,
        "language_sampling_temperature": None,
        "max_steps": 4,
        "save_total_limit": None,
    }
    seen = []
    for start in (None, str(tmp_path / "checkpoint-2")):
        trainer = setting.trainer(tmp_path, **options)
        trainer.train_dataset = setting.train.to_iterable_dataset(num_shards=2).shuffle(seed=1, buffer_size=10)
        trainer.train(resume_from_checkpoint=start)
        seen.append(losses(trainer.state))
    assert seen[0] == seen[1]


def leave_unfinished(checkpoint: Path) -> None:
    """As a run leaves it that is killed while it writes it."""
    (checkpoint / CHECKSUMS_FILE).unlink()
    checkpoint.with_name(f"_unfinished-{checkpoint.name}").touch()


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


FILES = ("model.safetensors", "optimizer.pt", "trainer_state.json", CHECKSUMS_FILE)
# Without its checksums a checkpoint is a stock `Trainer`'s: see below.
HARMS = [(harm, name) for harm in (flip_a_bit, cut) for name in FILES] + [(Path.unlink, name) for name in FILES[:-1]]


@pytest.mark.slow
@pytest.mark.parametrize(("harm", "name"), HARMS, ids=[f"{harm.__name__} {name}" for harm, name in HARMS])
def test_a_torn_checkpoint_is_named_and_not_used(setting, stopped, caplog, harm, name):
    harm(stopped / "checkpoint-7" / name)
    found = last_whole_checkpoint(stopped)
    assert found == stopped / "checkpoint-6"
    assert f"checkpoint-7/{name}" in caplog.text or (name == CHECKSUMS_FILE and "checkpoint-7" in caplog.text)
    if name == "model.safetensors":
        trainer = setting.trainer(stopped)
        with pytest.raises(CheckpointError, match=r"checkpoint-7/model.safetensors is (damaged|missing)"):
            trainer.train(resume_from_checkpoint=str(stopped / "checkpoint-7"))


@pytest.mark.slow
def test_where_the_newest_checkpoint_was_never_finished_the_one_before_it_is_taken(setting, whole, stopped, caplog):
    """Danger: with `save_total_limit` 1 the good one is removed before the new one is whole."""
    leave_unfinished(stopped / "checkpoint-7")
    (stopped / "checkpoint-7" / "optimizer.pt").unlink()
    trainer = resumed(setting, stopped, save_total_limit=1)
    assert "checkpoint-7 was never finished" in caplog.text
    assert [path.name for path in stopped.iterdir()] == ["checkpoint-12"]
    state = type(trainer.state).load_from_json(str(whole / "final" / "trainer_state.json"))
    assert losses(trainer.state) == losses(state)


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_was_finished_it_starts_from_the_beginning(setting, stopped, caplog):
    for checkpoint in list(stopped.iterdir()):
        leave_unfinished(checkpoint)
    trainer = resumed(setting, stopped, max_steps=2)
    assert "training starts from the beginning" in caplog.text
    assert [log["step"] for log in losses(trainer.state)] == [1, 2, 2]  # two updates and the last evaluation
    assert sorted(path.name for path in stopped.iterdir()) == ["checkpoint-2"]


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_a_stock_checkpoint_is_taken_with_a_warning(setting, stopped, caplog, named):
    """Danger: checkpoints of somebody who comes from the stock `Trainer` are taken for torn ones and removed."""
    (stopped / "checkpoint-7" / CHECKSUMS_FILE).unlink()
    trainer = setting.trainer(stopped, max_steps=8, save_total_limit=None)
    trainer.train(resume_from_checkpoint=str(stopped / "checkpoint-7") if named else True)
    assert "checkpoint-7 has no checksums.json: whether it is whole is not known" in caplog.text
    assert [log["step"] for log in losses(trainer.state)][-2:] == [8, 8]
    assert (stopped / "checkpoint-7" / "model.safetensors").exists()
    assert is_sealed(stopped / "checkpoint-8")


# ---- what would go on otherwise than it began ----


@pytest.mark.slow
def test_the_model_alone_is_not_gone_on_from(setting, stopped, caplog):
    """Danger: with `save_only_model` the optimizer and the learning rate start anew in the middle, without a word."""
    trainer = setting.trainer(stopped, save_only_model=True, max_steps=9, save_total_limit=None)
    trainer.train(resume_from_checkpoint=True)
    assert sorted(path.name for path in (stopped / "checkpoint-9").glob("*.pt*")) == []
    with pytest.raises(CheckpointError, match=r"checkpoint-9 holds the model alone \(save_only_model\)"):
        setting.trainer(stopped).train(resume_from_checkpoint=str(stopped / "checkpoint-9"))
    assert last_whole_checkpoint(stopped) == stopped / "checkpoint-7"
    assert "checkpoint-9 holds the model alone" in caplog.text
    for step in (5, 6, 7):
        shutil.rmtree(stopped / f"checkpoint-{step}")
    trainer = setting.trainer(stopped, max_steps=1)
    trainer.train(resume_from_checkpoint=True)
    assert "to go on from: training starts from the beginning" in caplog.text
    assert [log["step"] for log in trainer.state.log_history if "loss" in log] == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"per_device_train_batch_size": 5}, "8 sentences per update, and this one has 10"),
        ({"gradient_accumulation_steps": 3}, "8 sentences per update, and this one has 12"),
        ({"unlabelled_rate": None}, r"is at epoch 2\.333, and this training would go on at epoch 1\.857"),
    ],
)
def test_another_place_in_the_data_is_refused(setting, stopped, options, said):
    """Danger: counting updates of another size, sentences are left out and others come twice."""
    trainer = setting.trainer(stopped, **options)
    with pytest.raises(CheckpointError, match=f"{said}.*ignore_data_skip"):
        trainer.train(resume_from_checkpoint=True)


class Recorded(crashes.StructKDTrainer):
    """Remembers the subwords of the sentences of each update."""

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen = getattr(self, "seen", {})
        rows = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist())
        here = [tuple(i for i, kept in zip(ids, mask) if kept) for ids, mask in rows]
        self.seen.setdefault(self.state.global_step, []).extend(here)
        return super().training_step(model, inputs, *args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["random", "group_by_length", "sequential", "batch_rebalance"])
def test_a_resumed_training_sees_the_sentences_that_come_next(setting, tmp_path, strategy):
    """Danger: the order comes from random numbers that a new process draws otherwise."""
    options = {
        **{"language_sampling_temperature": None, "unlabelled_rate": None, "train_sampling_strategy": strategy},
        **{"num_train_epochs": 3, "eval_strategy": "no", "save_strategy": "steps", "save_total_limit": None},
    }
    seen = []
    for resume in (None, str(tmp_path / "checkpoint-6")):
        torch.manual_seed(len(seen))  # somebody else's
        trainer = setting.trainer(tmp_path, **options)
        trainer.__class__ = Recorded
        trainer.train(resume_from_checkpoint=resume)
        seen.append({step: sorted(rows) for step, rows in trainer.seen.items() if step >= 6})
    assert len(seen[0]) > 4
    assert seen[0] == seen[1]


@pytest.mark.slow
def test_a_resumed_training_knows_how_long_it_took_before(setting, stopped, whole):
    """Danger: the seconds on card and results are those since the last kill."""
    before = json.loads((whole / "checkpoint-7" / "training.json").read_text())["seconds"]
    assert 0 < before < json.loads((whole / "checkpoint-12" / "training.json").read_text())["seconds"]
    trainer = resumed(setting, stopped, save_total_limit=None)
    assert trainer.earlier_seconds == before
    assert json.loads((stopped / "checkpoint-12" / "training.json").read_text())["seconds"] > before


# ---- no room, no permission, no data ----


@contextmanager
def mounted(folder: Path, *options: str):
    """A file system of its own on a folder, where the rights to mount one are there."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no right to mount a small file system: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@contextmanager
def files_of_at_most(size: int):
    """A limit that the operating system sets on this process: writing more to a file fails, for root too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def answers_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_a_full_disk_ends_annotation_with_a_clear_error_and_more_room_lets_it_go_on(tmp_path):
    annotation_worker.run(tmp_path / "whole")
    disk = tmp_path / "disk"
    with mounted(disk, "size=32k"):
        with pytest.raises(AnnotationError, match=r"could not be written \(No space left on device\): make room"):
            annotation_worker.run(disk / "answers")
        finished = sorted(path.name for path in (disk / "answers.partial").glob("shard-*.json"))
        assert finished
        assert not list((disk / "answers.partial").glob("*.tmp"))
        assert not (disk / "answers").exists()
        remount(disk, "size=1m")
        annotation_worker.run(disk / "answers", tmp_path / "asked.txt")
        assert answers_of(disk / "answers") == answers_of(tmp_path / "whole")
        # what was finished was not asked again
        assert len((tmp_path / "asked.txt").read_text().split()) <= 60 - 4 * len(finished)


@pytest.mark.slow
def test_a_full_disk_ends_training_with_a_clear_error_and_more_room_lets_it_go_on(setting, whole, tmp_path):
    disk = tmp_path / "disk"
    size = sum(path.stat().st_size for path in (whole / "checkpoint-5").rglob("*")) // 1024
    with mounted(disk, f"size={int(2.5 * size)}k"):
        with pytest.raises(CheckpointError, match=r"checkpoint-\d+ could not be written \(.*make room"):
            setting.trainer(disk / "run", save_total_limit=None).train()
        kept = last_whole_checkpoint(disk / "run")
        assert kept is not None
        assert [path.name for path in (disk / "run").glob("checkpoint-*") if not is_sealed(path)] == []
        remount(disk, f"size={20 * size}k")
        trainer = resumed(setting, disk / "run")
        state = type(trainer.state).load_from_json(str(whole / "final" / "trainer_state.json"))
        assert losses(trainer.state) == losses(state)


@pytest.mark.slow
def test_files_that_may_not_grow_are_met_alike_without_rights_to_mount(setting, tmp_path):
    """The same by a limit on the size of files, which needs no rights."""
    with files_of_at_most(2048), pytest.raises(AnnotationError, match=r"could not be written \(File too large\)"):
        annotation_worker.run(tmp_path / "answers")
    assert not (tmp_path / "answers").exists()
    annotation_worker.run(tmp_path / "answers")
    trainer = setting.trainer(tmp_path / "run", max_steps=1)
    with files_of_at_most(8192), pytest.raises(CheckpointError, match=r"checkpoint-1 could not be written"):
        trainer.train()
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_read_only_folder_is_named(setting, stopped, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=1m"):
        annotation_worker.run(disk / "answers")
        remount(disk, "ro")
        annotation_worker.run(disk / "answers")  # what is there can be read
        with pytest.raises(AnnotationError, match=r"others.partial cannot be written to \(Read-only file system\)"):
            annotation_worker.run(disk / "others")
        with pytest.raises(OSError, match=r"Read-only file system: '.*disk/run'"):
            setting.trainer(disk / "run")  # at once, and not after the first hours
        args = StructKDTrainingArguments(str(disk), report_to="none", use_cpu=True)
        with pytest.raises(RecipeError, match=r"student.training cannot be written to \(Read-only file system\)"):
            train_into(disk / "student", {}, args, lambda own: pytest.fail("trained for nothing"))


@pytest.mark.slow
def test_answers_that_vanish_while_they_are_asked_are_asked_again(tmp_path, monkeypatch):
    annotation_worker.run(tmp_path / "whole")
    write = PartialAnswers.write

    def vanishing(partial, number, *args):
        write(partial, number, *args)
        if number == 3:
            (partial.work / "shard-00001.arrow").unlink()

    monkeypatch.setattr(PartialAnswers, "write", vanishing)
    with pytest.raises(AnnotationError, match=r"shards \[1\] are missing from"):
        annotation_worker.run(tmp_path / "answers")
    monkeypatch.undo()
    annotation_worker.run(tmp_path / "answers")
    assert answers_of(tmp_path / "answers") == answers_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_corpus_that_vanishes_between_two_runs_is_named_and_back_again_it_goes_on(tmp_path):
    """Danger: half the answers are there, and the error is one about them."""
    file, elsewhere = tmp_path / "en.conll", tmp_path / "elsewhere"
    file.write_text("\n".join(f"w{row}\tO\n" for row in range(20)))

    def annotate(seconds=0.0):
        return crashes.annotate(
            load_corpus(file, language="en"), annotation_worker.teacher("en", tmp_path / "asked.txt", seconds),
            label_names=annotation_worker.LABELS, targets=["teacher_marginals"], batch_size=1, shard_size=1,
            output_dir=tmp_path / "answers", progress=False,
        )  # fmt: skip

    process = crashes.FORK.Process(target=annotate, args=(0.05,))
    process.start()
    while len(list((tmp_path / "answers.partial").glob("shard-*.json"))) < 3:
        time.sleep(0.01)
    os.rename(file, elsewhere)  # between two shards: what was read stays readable
    time.sleep(0.1)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.raises(CorpusError, match=r"no such file.*en\.conll|en\.conll.*no such file"):
        annotate()
    os.rename(elsewhere, file)
    assert len(annotate()) == 20
    assert len((tmp_path / "asked.txt").read_text().split()) <= 21  # one sentence may have been under way


# Danger: a list of checksums that says nothing, or of something else, passes for a whole checkpoint.


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "notes.md"):
        (folder / name).write_text(name)
    seal_checkpoint(folder)
    return folder


def described(text: str) -> dict:
    return {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def test_a_sealed_checkpoint_is_whole(checkpoint):
    check_checkpoint(checkpoint)
    (checkpoint / "README.md").write_text("written later, and not read by training")
    assert last_whole_checkpoint(checkpoint.parent) == checkpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda sums: sums.clear(),
            "no checksum of model.safetensors, optimizer.pt, scheduler.pt, trainer_state.json",
        ),
        (lambda sums: sums.pop("optimizer.pt"), "no checksum of optimizer.pt"),
        (lambda sums: sums.pop("trainer_state.json"), "no checksum of trainer_state.json"),
        (lambda sums: sums.update({"../outside": described("outside")}), "names '../outside', which is outside"),
        (lambda sums: sums.update({"/etc/hostname": described("x")}), "names '/etc/hostname', which is outside"),
        (lambda sums: sums.update({"a/../../outside": described("outside")}), "outside the checkpoint"),
    ],
)
def test_a_list_that_says_nothing_or_of_something_else_is_refused(checkpoint, change, message):
    (checkpoint.parent / "outside").write_text("outside")
    sums = json.loads((checkpoint / CHECKSUMS_FILE).read_text())
    change(sums)
    (checkpoint / CHECKSUMS_FILE).write_text(json.dumps(sums))
    with pytest.raises(CheckpointError, match=message):
        check_checkpoint(checkpoint)
    assert last_whole_checkpoint(checkpoint.parent) is None
