"""Dangers: two jobs that train into one folder tear each other's checkpoints apart; a dead one holds it for ever."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from hf_structkd import StructKDTrainer, StructKDTrainingArguments
from hf_structkd.training.recipe import RecipeError

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from recipe_training import SETTINGS_FILE, train_into

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def arguments(tmp_path) -> StructKDTrainingArguments:
    return StructKDTrainingArguments(
        output_dir=str(tmp_path), objective="none", max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True
    )


@pytest.fixture
def train(make_student, corpus, tokenizer):
    def train(args):
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
    import recipe_training

    enter = recipe_training.only_us

    def late(*args):
        monkeypatch.undo()
        train_into(tmp_path / "student", {"seed": 1}, arguments, train)  # the other job
        return enter(*args)

    monkeypatch.setattr(recipe_training, "only_us", late)
    seconds = train_into(tmp_path / "student", {"seed": 1}, arguments, lambda args: pytest.fail("trained again"))
    assert seconds > 0
    assert (tmp_path / "student" / SETTINGS_FILE).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    with pytest.raises(RecipeError, match=r"already holds another run \(seed: there 1, asked 2\)"):
        train_into(tmp_path / "student", {"seed": 2}, arguments, train)
