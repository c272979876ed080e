"""Dangers: processes that ask twice, weigh sentences otherwise, wait for each other for ever, or are only one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from datasets import Dataset

from hf_structkd.hub.model_card import is_edited
from tests import crashes
from tests.crashes import Setting
from tests.teachers import annotation_worker
from tests.training import process_worker

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "examples" / "accelerate"
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "attention_probs_dropout_prob": 0.0}  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, str, list[dict]]:
    """A launch with the shipped configuration: its folder, what it printed, what each process reported."""
    folder = tmp_path_factory.mktemp("two")
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    command = [*accelerate, "--config_file", str(CONFIGS / "two_processes_cpu.yaml"), process_worker.__file__]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, str(folder)], env=env, capture_output=True, text=True, check=False, timeout=250)
    files = [folder / f"report-{rank}.json" for rank in range(2)]
    assert all(file.exists() for file in files), done.stderr[:6000]
    assert done.returncode != 0  # its last step is one that must fail
    return folder, done.stderr, [json.loads(file.read_text()) for file in files]


@pytest.mark.slow
def test_two_processes_come_to_what_one_does(two, tmp_path):
    """Each update's two batches differ in all that may: language, gold tags, answers. Dev has 7 sentences and 1."""
    folder, _, reports = two
    for report in reports:
        assert (report["world"], report["env"], report["backend"]) == (2, "2", "gloo")
    one = process_worker.work(tmp_path / "one", 2 * process_worker.SHARE, Setting())
    for path in (tmp_path / "one", folder):
        assert not is_edited(path / "saved" / "README.md")  # whole, by one process
        assert (path / "saved" / "results.json").exists()
    answers = [(path / "answers" / "answers.arrow").read_bytes() for path in (tmp_path / "one", folder)]
    assert answers[0] == answers[1]
    first = one["losses"][0]
    assert first["loss_nll"] > 0
    assert first["loss_posterior"] > 0
    for update, expected in enumerate(one["losses"]):
        assert reports[0]["losses"][update] == pytest.approx(expected, rel=1e-5, abs=1e-6), update
    assert one["metrics"]["eval_macro_f1"] > 0
    for report in reports:
        assert report["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
        for name, values in one["weights"].items():
            assert report["weights"][name] == pytest.approx(values, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("order", process_worker.ORDERS)
def test_two_processes_draw_what_one_draws_and_go_on_with_what_comes_next(two, tmp_path, order, monkeypatch):
    """Danger: a sampler that is not told the epoch, or draws numbers of its own: sentences come twice or never."""
    _, _, reports = two
    whole, resumed = (
        {int(step): sorted(rows + reports[1]["drawn"][leg][order][step])
         for step, rows in reports[0]["drawn"][leg][order].items()}
        for leg in (0, 1)
    )  # fmt: skip
    assert sorted(whole) == list(range(12))
    assert resumed == {step: rows for step, rows in whole.items() if step >= process_worker.STOPPED_AT}
    monkeypatch.setattr(process_worker, "ORDERS", {order: process_worker.ORDERS[order]})
    alone = process_worker.drawn(tmp_path, 4, Setting(), resume=False)[order]
    assert whole == {step: sorted(rows) for step, rows in alone.items()}


@pytest.mark.slow
def test_two_processes_share_the_asking_and_read_the_same_bytes(two, tmp_path):
    folder, _, reports = two
    annotation_worker.run(tmp_path / "alone")
    assert crashes.remains(folder / "shared") == crashes.remains(tmp_path / "alone")
    assert reports[0]["shared"] == reports[1]["shared"]
    asked = [(folder / f"asked-{rank}.txt").read_text().split() for rank in range(2)]
    assert min(map(len, asked)) >= 16
    assert sorted(asked[0] + asked[1]) == sorted(words[0] for words in annotation_worker.corpus()["tokens"])


@pytest.mark.slow
def test_of_two_processes_one_names_the_bad_sentence_and_neither_waits(two):
    """Danger: the other process waits for the next gradient until somebody looks in the morning."""
    _, printed, _ = two
    assert "the loss of update 1 is nan" in printed
    assert "row 3, language en" in printed


# ---- the command of docs/scaling.md ----

CUT_SMALL = {
    "languages": ["en", "ru"], "max_train_sentences": 16, "teacher_max_train_sentences": 16, "max_dev_sentences": 5,
    "max_test_sentences": 6, "num_train_epochs": 2, "teacher_num_train_epochs": 1, "vocab_size": 250,
    "model_config": {**TINY, "hidden_dropout_prob": 0.0}, "teacher_model_config": {**TINY, "hidden_dropout_prob": 0.0},
    "logging_steps": 1, "learning_rate": "1e-3", "disable_tqdm": "true",
}  # fmt: skip


def fields(**changes) -> list[str]:
    """Fields of a recipe as the command line writes them."""
    line = []
    for name, value in {**CUT_SMALL, **changes}.items():
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        line += [f"--{name}", *map(str, values)]
    return line


def launch(*options: str) -> subprocess.Popen:
    """The documented command on a recipe cut small; nothing in the environment helps it."""
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    command = next(line for line in page.splitlines() if "two_processes_cpu.yaml" in line and "launch" in line)
    program, launcher, *words = command.replace("RECIPE.yaml", "examples/recipes/demo.yaml").split()
    assert (program, launcher) == ("accelerate", "launch")
    env = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", *words, *options],
        cwd=ROOT,
        env={**env, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill(launcher: subprocess.Popen, rank: int) -> None:
    for process in psutil.Process(launcher.pid).children(recursive=True):
        if process.environ().get("RANK") == str(rank):
            os.kill(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_the_documented_command_comes_to_what_one_process_does_also_after_a_kill(tmp_path, run_script):
    """Dangers: each process believes that it is alone; the other one waits for ever; what was done is done again."""
    two, one = tmp_path / "two", tmp_path / "one"
    options = fields(output_dir=two, per_device_train_batch_size=4)
    first = launch(*options)
    printed = []
    for line in first.stdout:
        printed.append(line)
        if line.startswith("== Baseline"):
            kill(first, 1)
            break
    killed = time.perf_counter()
    said = first.communicate(timeout=60)[0]
    assert time.perf_counter() - killed < 15
    assert first.returncode != 0
    assert said.count("Traceback") == 1  # the launcher's own
    assert "exitcode  : -9" in said
    headings = [re.split("[:,]", line)[0].strip() for line in printed if line.startswith("==")]
    assert headings == ["== Corpora", "== Teacher for en", "== Teacher for ru", "== Baseline"]

    second = launch(*options)
    printed = second.communicate(timeout=200)[0]
    assert second.returncode == 0, printed[-3000:]
    for heading in ("== Corpora", "== Student, posterior+top_wk", "== Scores", "== The student at work"):
        assert printed.count(heading) == 1
    run_script("run_distill.py", ROOT / "examples/recipes/demo.yaml",
               *fields(output_dir=one, per_device_train_batch_size=8))  # fmt: skip
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, two)]
    assert results[0]["scores"] == results[1]["scores"]
    for model in ("teachers/en", "teachers/ru", "baseline", "student"):
        logs = []
        for folder in (one, two):
            history = json.loads((folder / model / "trainer_state.json").read_text())["log_history"]
            logs.append([log for log in history if "train_runtime" not in log])
        assert len(logs[0]) == len(logs[1]) >= 4
        for alone, together in zip(*logs):
            assert alone.keys() == together.keys()
            for name, value in alone.items():
                if not name.endswith(("_runtime", "_per_second")):
                    assert together[name] == pytest.approx(value, rel=2e-3, abs=1e-4), (model, name, alone["step"])
    answers = [Dataset.from_file(str(folder / "annotations" / "answers.arrow")) for folder in (one, two)]
    assert len(answers[0]) == len(answers[1]) == 32
    for alone, together in zip(*answers):
        for expected, marginals in zip(alone["teacher_marginals"], together["teacher_marginals"]):
            assert marginals == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_launch_configurations_are_read(file):
    """Danger: a field that accelerate does not know; what needs GPUs is not tried further."""
    config = load_config_from_file(str(file))
    assert config.num_processes > 1
    assert config.distributed_type != "NO"
    if config.distributed_type != "MULTI_GPU":
        assert "UNTESTED" in file.read_text()
