"""Dangers: two jobs that train into one folder tear each other's checkpoints apart; a dead one holds it for ever."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from datasets import Dataset

from hf_structkd import StructKDTrainer, StructKDTrainingArguments
from hf_structkd.files import exclusive_lock
from hf_structkd.recipes.folder import SETTINGS_FILE, holds_work, provenance, train_into
from hf_structkd.recipes.parser import RecipeError

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def arguments(tmp_path) -> StructKDTrainingArguments:
    return StructKDTrainingArguments(
        output_dir=str(tmp_path), objective="none", max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True
    )


@pytest.fixture
def train(make_student, corpus, tokenizer):
    def train(args, only_make=False):
        if only_make:
            return make_student(), corpus, tokenizer
        trainer = StructKDTrainer(make_student(), args, train_dataset=corpus, processing_class=tokenizer)
        trainer.train()
        return trainer

    return train


def test_a_second_job_is_told_and_a_killed_one_holds_nobody_up(tmp_path, arguments, train):
    folder, started = tmp_path / "student", tmp_path / "started"

    def endless(args):
        started.touch()
        time.sleep(300)

    first = FORK.Process(target=train_into, args=(folder, {"seed": 1}, arguments, endless))
    first.start()
    while not started.exists():
        time.sleep(0.01)
    try:
        with pytest.raises(RecipeError, match=r"another process is training .*student .*wait until it has finished"):
            train_into(folder, {"seed": 1}, arguments, lambda args: pytest.fail("trained beside the other"))
        assert not folder.exists()
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.join()
    train_into(folder, {"seed": 1}, arguments, train)
    assert (folder / "model.safetensors").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["started", "student"]


def test_a_job_that_comes_when_the_other_has_just_finished_takes_its_model(tmp_path, arguments, train, monkeypatch):
    """Danger: it looked before the end, got the lock after it, and trains again or leaves its work folder behind."""
    from hf_structkd.recipes import folder as recipe_training

    enter = recipe_training.exclusive_lock

    def late(*args):
        monkeypatch.undo()
        train_into(tmp_path / "student", {"seed": 1}, arguments, train)  # the other job
        return enter(*args)

    monkeypatch.setattr(recipe_training, "exclusive_lock", late)
    seconds = train_into(tmp_path / "student", {"seed": 1}, arguments, lambda args: pytest.fail("trained again"))
    assert seconds > 0
    assert (tmp_path / "student" / SETTINGS_FILE).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    with pytest.raises(RecipeError, match=r"already holds another run \(seed: there 1, asked 2\)"):
        train_into(tmp_path / "student", {"seed": 2}, arguments, train)


def test_a_link_is_followed_and_the_work_lies_beside_what_it_names(tmp_path, arguments, train):
    """Danger: hours of training that end in a raw OSError at the last rename."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "student").mkdir()
    (tmp_path / "student").symlink_to(tmp_path / "disk" / "student", target_is_directory=True)

    def seen(args):
        assert Path(args.output_dir) == tmp_path / "disk" / "student.training"
        return train(args)

    train_into(tmp_path / "student", {"seed": 1}, arguments, seen)
    assert (tmp_path / "student").is_symlink()
    assert (tmp_path / "disk" / "student" / SETTINGS_FILE).exists()
    assert sorted(path.name for path in tmp_path.rglob("student*")) == ["student", "student"]


def test_a_folder_that_cannot_be_replaced_is_refused_before_any_training(tmp_path, arguments, monkeypatch):
    """As a container's volume: a mount point can be neither removed nor renamed over."""
    folder = tmp_path / "volume"
    folder.mkdir()
    rmdir = Path.rmdir

    def busy(path):
        if path == folder:
            raise OSError(16, "Device or resource busy")
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", busy)
    with pytest.raises(RecipeError, match=r"volume cannot be replaced .*busy.*mount point.*volume/model for instance"):
        train_into(folder, {"seed": 1}, arguments, lambda args: pytest.fail("trained in vain"))
    assert list(folder.iterdir()) == []


def test_another_model_in_a_finished_folder_is_not_taken_for_the_one_trained_there(tmp_path, arguments, train):
    folder = tmp_path / "student"
    train_into(folder, {"seed": 1}, arguments, train)
    (folder / "README.md").write_text("a card changes nothing")
    train_into(folder, {"seed": 1}, arguments, lambda args: pytest.fail("trained again"))
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(RecipeError, match=r"another model than the one that was trained there: model\.safetensors"):
        train_into(folder, {"seed": 1}, arguments, train)
    record = json.loads((folder / SETTINGS_FILE).read_text())
    del record["files"]  # as the first versions left it
    (folder / SETTINGS_FILE).write_text(json.dumps(record))
    train_into(folder, {"seed": 1}, arguments, lambda args: pytest.fail("trained again"))


def test_what_a_model_was_made_of_is_compared_and_named(tmp_path, arguments, train, corpus, labels):
    """Danger: a corpus that changed under the same path; the old model is 'finished' and scored on the new one."""

    def made(data, names=labels, encoder=None):
        return provenance({"train": {"en": data}, "dev": {"en": corpus}}, names, encoder)

    folder = tmp_path / "student"
    train_into(folder, made(corpus), arguments, train)
    tags = [list(row) for row in corpus["tags"]]
    tags[3][0] = next(label for label in labels if label != tags[3][0])
    retagged = Dataset.from_dict({**corpus.to_dict(), "tags": tags}, features=corpus.features)
    for other, words in (
        (made(retagged), r"data\.train\.en: there '\w+-\w+', asked '\w+-\w+'"),
        (made(corpus.select(range(59))), r"data\.train\.en: "),
        (made(corpus, labels[::-1]), r"label_order: there \['O'"),
        (made(corpus, encoder="owner/name"), "encoder"),
    ):
        with pytest.raises(RecipeError, match=rf"already holds another run \({words}"):
            train_into(folder, other, arguments, train)
    record = json.loads((folder / SETTINGS_FILE).read_text())
    record["settings"].pop("data")
    (folder / SETTINGS_FILE).write_text(json.dumps(record))
    with pytest.raises(RecipeError, match="data was not recorded there by an earlier version"):
        train_into(folder, made(corpus), arguments, train)


def test_progress_is_told_in_lines_where_there_is_no_bar(tmp_path, arguments, train, capsys, monkeypatch):
    """Danger: a training that takes hours looks like one that hangs."""
    from hf_structkd.recipes import progress as progress
    from hf_structkd.recipes.folder import train_tagger

    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    arguments.max_steps, arguments.gradient_accumulation_steps = 3, 2

    def fit(args):
        model, data, tokenizer = train(args, only_make=True)
        return train_tagger(model, tokenizer, data, {"en": data.select(range(2))}, args, title="Teacher for xx")

    train_into(tmp_path / "student", {}, arguments, fit, "Teacher for xx")
    printed = capsys.readouterr().out
    assert "== Teacher for xx: 60 sentences, 4 updates per epoch\n" in printed  # 8 batches of 8, two an update
    assert "  1 of 3 updates, about " in printed
    train_into(tmp_path / "student", {}, arguments, fit, "Teacher for xx")
    assert f"== Teacher for xx: finished before, in {tmp_path / 'student'}\n" in capsys.readouterr().out


def test_what_is_written_before_any_work_is_no_work(tmp_path):
    """Danger: a run that failed while it was set up blocks the folder for the corrected one."""
    teacher = tmp_path / "run" / "teachers" / "en.training"
    teacher.mkdir(parents=True)
    (tmp_path / "run" / "settings.json").write_text("{}")
    (teacher / "_settings.json").write_text("{}")
    with exclusive_lock(teacher, RecipeError, "training"):
        assert holds_work(tmp_path / "run"), "another process is at it"
    assert not holds_work(tmp_path / "run")
    (teacher / "checkpoint-1").mkdir()
    (teacher / "checkpoint-1" / "model.safetensors").touch()
    assert holds_work(tmp_path / "run")


def test_settings_of_a_training_that_saved_nothing_are_forgotten(tmp_path, arguments, train):
    def fails(args):
        raise ValueError("too small")

    with pytest.raises(ValueError, match="too small"):
        train_into(tmp_path / "model", {"vocab_size": 5}, arguments, fails)
    train_into(tmp_path / "model", {"vocab_size": 300}, arguments, train)
    assert (tmp_path / "model" / "settings.json").exists()
