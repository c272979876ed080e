"""Dangers: each of several processes believes that it is alone; an error is printed by all of them, or by none."""

import os

import pytest
import torch

from hf_structkd import StructKDTrainingArguments, processes
from hf_structkd.teachers.function import CallableTeacher
from tests import crashes

LAUNCHED = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1"}


@pytest.fixture
def launched(monkeypatch):
    """As a launcher starts the second of two processes; accelerate is told not to look for the other one."""
    for name, value in {**LAUNCHED, "ACCELERATE_USE_CPU": "false"}.items():
        monkeypatch.setenv(name, value)


def test_a_process_that_finds_nobody_says_so_before_any_work(launched, tmp_path, corpus, labels):
    with pytest.raises(ValueError, match=r"2 processes were launched, but this one finds 1.*ACCELERATE_USE_CPU=true"):
        StructKDTrainingArguments(str(tmp_path / "run"), report_to="none")
    asked = CallableTeacher(lambda sentences: pytest.fail("asked"), labels, name="t", revision="1")
    with pytest.raises(ValueError, match="2 processes were launched, but this one finds 1"):
        crashes.annotate(
            corpus, asked, label_names=labels, targets=["teacher_marginals"], output_dir=tmp_path / "answers"
        )
    assert not list(tmp_path.iterdir())


def test_more_processes_than_accelerators_are_told_before_any_work(launched, monkeypatch):
    """Danger: an error of the communication library minutes later."""
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(processes.ProcessesError, match="2 processes were launched on a machine with 1 accelerators"):
        processes.check_processes()


def test_the_program_looks_for_the_others_itself_where_there_is_no_accelerator(launched, monkeypatch):
    monkeypatch.delenv(processes.USE_CPU)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    processes.prepare_processes()
    assert processes.USE_CPU not in os.environ
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    processes.prepare_processes()
    assert os.environ.pop(processes.USE_CPU) == "true"


@pytest.mark.parametrize("program", ["structkd evaluate", "structkd calibrate"])
def test_commands_of_one_process_refuse_to_be_launched_as_two(launched, monkeypatch, refusal, program):
    monkeypatch.setattr(processes, "_GRACE", 0.0)
    assert f"{program} works in one process, and 2 were launched" in refusal(program, "--checkpoint", "none")


@pytest.mark.parametrize(
    ("error", "said", "waits"),
    [
        (KeyError("corpus"), "error: 'corpus'", (False, True)),
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), "another process of", (True, True)),
    ],
)
def test_an_error_is_told_once_and_by_the_main_process_first(launched, monkeypatch, error, said, waits):
    """The launcher ends the others while they wait; what this one tells then is told nowhere else."""

    def main():
        raise error

    for rank, waited in enumerate(waits):
        slept: list[float] = []
        monkeypatch.setattr(processes.time, "sleep", slept.append)
        monkeypatch.setenv("RANK", str(rank))
        with pytest.raises(SystemExit, match=said):
            processes.run_main(main, (KeyError,))
        assert bool(slept) == waited


def test_an_error_of_the_program_keeps_its_traceback(launched, monkeypatch):
    def main():
        raise error

    error = RuntimeError("sizes differ")
    with pytest.raises(RuntimeError, match="sizes differ"):
        processes.run_main(main, (KeyError,))
    monkeypatch.delenv("WORLD_SIZE")
    error = RuntimeError("Connection closed by peer")  # of one process: no other one has ended
    with pytest.raises(RuntimeError, match="closed by peer"):
        processes.run_main(main, (KeyError,))
