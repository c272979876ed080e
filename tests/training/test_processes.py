"""Dangers: processes that ask twice, weigh sentences otherwise, wait for each other for ever, or are only one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from tests import crashes
from tests.crashes import Setting
from tests.distillation import annotation_worker

from . import process_worker

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "examples" / "accelerate"


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
    answers = [(path / "answers" / "answers.arrow").read_bytes() for path in (tmp_path / "one", folder)]
    assert answers[0] == answers[1]
    first = one["losses"][0]
    assert first["loss_nll"] > 0
    assert first["loss_posterior"] > 0
    for update, expected in enumerate(one["losses"]):
        assert reports[0]["losses"][update] == pytest.approx(expected, rel=1e-5, abs=1e-6), update
    assert one["metrics"]["eval_macro_f1"] > 0
    for report in reports:
        assert report["metrics"] == pytest.approx(one["metrics"], abs=1e-9)
        for name, values in one["weights"].items():
            assert report["weights"][name] == pytest.approx(values, abs=1e-5), name


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


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_launch_configurations_are_read(file):
    """Danger: a field that accelerate does not know; what needs GPUs is not tried further."""
    config = load_config_from_file(str(file))
    assert config.num_processes > 1
    assert config.distributed_type != "NO"
    if config.distributed_type != "MULTI_GPU":
        assert "UNTESTED" in file.read_text()
