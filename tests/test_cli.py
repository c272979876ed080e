"""Dangers: a command that takes seconds to say how it is used, a typing error that ends in a traceback."""

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from hf_structkd import StructKDTrainingArguments, __version__, cli, processes
from hf_structkd.teachers.function import CallableTeacher
from tests import crashes

ROOT = Path(__file__).parents[1]
# What must not be imported before a command runs.
HEAVY = ("torch", "transformers", "datasets", "numpy", "pandas", "scipy", "numba", "evaluate", "accelerate")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from hf_structkd import cli\n"
        f"assert cli.main(['--help']) == cli.main(['--version']) == 0\n"
        f"assert not [cli.main([name, '--help']) for name in cli.COMMANDS if cli.main([name, '--help'])]\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_its_help(command, capsys):
    assert cli.main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: structkd {command} ")
    assert command in cli.overview()
    assert all(len(line) < 121 for line in said.splitlines())


def test_every_command_can_be_found():
    for command in cli.COMMANDS.values():
        module, _, function = command.function.partition(":")
        __import__(f"hf_structkd.{module}")
        assert callable(getattr(sys.modules[f"hf_structkd.{module}"], function))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage: structkd COMMAND"),
        (("distil",), "no command 'distil'; did you mean 'distill'?"),
        (("frobnicate",), "no command 'frobnicate'; there are distill, teacher"),
        (("distill", "--num_processes"), "--num_processes wants a number of at least 1, not ''"),
        (("distill", "--num_processes", "many"), "not 'many'"),
        (("distill", "--num_processes=0"), "not '0'"),
        (("distill", "demo", "--num_processes", "2", "--num_processes=3"), "--num_processes is given twice"),
        (("teacher", "--num_processes", "1", "--num_processes", "1"), "--num_processes is given twice"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, message, capsys):
    assert cli.main(list(arguments)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("distill", "demo", "--objectiv", "none"), "did you mean '--objective'"),
        (("distill", "no_such_recipe"), "Recipe no_such_recipe: there is no such file, and no recipe of this name"),
        (("teacher", "demo"), "'teacher_model' in recipe demo; it is a field of `structkd distill`"),
        (("distill", "dmeo"), "no recipe of this name; did you mean 'demo'?"),
        (("evaluate", "--corpus", "demo"), "checkpoint"),
        (("teacher", "--corpus", "demo", "--top_k", "3"), "top_k: this command trains on gold tags alone"),
    ],
)
def test_wrong_recipes_are_told_with_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith(f"structkd {arguments[0]}: error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("card", "nowhere"), "structkd card: error: there is no folder 'nowhere' with a results.json"),
        (("card", "."), "structkd card: error: there is no 'results.json', which `structkd distill` and"),
        (("card", "damaged"), "structkd card: error: damaged/results.json"),
        (("export", "./nowhere", "onnx"), "structkd export: error: "),
        (("evaluate", "--corpus", "demo", "--checkpoint", "./nowhere"), "structkd evaluate: error: "),
    ],
)
def test_what_goes_wrong_is_one_line_and_status_1(arguments, message, tmp_path):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "results.json").write_text("{")
    done = subprocess.run(
        [sys.executable, "-m", "hf_structkd", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("arguments", [("--help",), ("distill", "--help"), ("distill", "--list-recipes")])
def test_a_reader_that_has_seen_enough_is_no_error(arguments):
    """`structkd --help | head -1`"""
    command = subprocess.Popen(
        [sys.executable, "-m", "hf_structkd", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    command.stdout.close()
    assert command.stderr.read() == b""
    assert command.wait(timeout=60) == 0


def test_version_tells_what_a_bug_report_needs(capsys):
    assert cli.main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"structkd {__version__}"
    assert lines[1].startswith(f"Python {platform.python_version()} on ")
    assert {f"{name} {metadata.version(name)}" for name in ("torch", "transformers")} <= set(lines)
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    (asked,) = [field for field in form["body"] if field.get("id") == "versions"]
    assert re.findall("`(.*?)`", asked["attributes"]["description"]) == ["structkd --version"]


def test_version_is_told_where_a_package_is_missing(capsys, monkeypatch):
    """Danger: the command that a broken environment is reported with breaks there."""
    monkeypatch.setattr(cli, "PACKAGES", ("torch", "no-such-package"))
    assert cli.main(["--version"]) == 0
    assert "no-such-package is not installed" in capsys.readouterr().out.splitlines()


def test_recipes_that_come_along_are_listed_and_found(capsys):
    assert cli.main(["distill", "--list-recipes"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"demo", "wikiann", "paper/wikiann"} <= set(names)


def test_several_processes_are_launched_through_accelerate(monkeypatch):
    started = []
    done = SimpleNamespace(returncode=3)
    monkeypatch.setattr(cli.subprocess, "run", lambda command, check: started.append(command) or done)
    assert cli.main(["distill", "demo", "--num_processes", "2", "--seed", "1"]) == 3
    (command,) = started
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    assert command[-5:] == ["hf_structkd", "distill", "demo", "--seed", "1"]
    assert command[command.index("--num_processes") + 1] == "2"


# Dangers: each of several processes believes that it is alone; an error is printed by all of them, or by none.


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


@pytest.mark.parametrize(
    ("library", "arguments"),
    [
        ("onnxscript", ["export", "{model}", "{out}"]),
        ("matplotlib", ["calibrate", "--checkpoint", "{model}", "--corpus", "demo", "--output_dir", "{out}"]),
    ],
)
def test_a_library_that_a_command_needs_is_named_with_what_to_install(
    tmp_path, make_student, tokenizer, monkeypatch, library, arguments
):
    """Danger: a traceback, and for calibrate after the checkpoint has been asked about every sentence."""
    make_student().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setitem(sys.modules, library, None)
    places = {"model": str(tmp_path / "model"), "out": str(tmp_path / "out")}
    with pytest.raises(SystemExit, match=r"pip install 'hf_structkd\[") as stopped:
        cli.main([argument.format(**places) for argument in arguments])
    assert library in str(stopped.value)
    assert not (tmp_path / "out").exists()
