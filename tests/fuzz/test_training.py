"""Danger: a path through training that skips what was asked for; results that depend on how the work was cut up.

`make test` tries the first few of the drawn trainings, `make fuzz` many more.
"""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from hf_structkd import TaggingMetrics, Teacher
from hf_structkd.data.sampling import language_counts, unlabelled_count
from tests.fuzz.fuzzing import CASES
from tests.fuzz.training_cases import (
    SIZES,
    World,
    draw_case,
    evaluation_loss_alone,
    losses_alone,
    make_trainer,
    precision,
    report,
    train_on,
    train_whole,
)

ROOT = Path(__file__).parents[2]
FEW = 9
SEEDS = range(max(FEW, CASES // 100))  # a training takes a few seconds
worlds: dict[str, World] = {}
reached: list[float] = []  # the scores of all models

pytestmark = pytest.mark.slow


def world_of(case) -> World:
    return worlds.setdefault(case["scheme"], World(case["scheme"]))


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Path:
    """All cases of two processes, trained in one launch; the folder of their reports."""
    folder = tmp_path_factory.mktemp("launched")
    seeds = [seed for seed in SEEDS if draw_case(seed)["processes"] == 2]
    (folder / "seeds.json").write_text(json.dumps(seeds))
    config = str(ROOT / "examples" / "accelerate" / "two_processes_cpu.yaml")
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        config,
        str(Path(__file__).with_name("training_worker.py")),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(folder)], env=env, capture_output=True, text=True, check=False, timeout=60 + 60 * len(seeds)
    )
    (folder / "printed.txt").write_text(done.stdout + done.stderr)
    return folder


def trained(case, folder, request) -> tuple[dict, dict, Path]:
    """Reports of a training from beginning to end and of one resumed, and the folder they lie in."""
    world = world_of(case)
    if case["processes"] == 1:
        return train_whole(world, case, folder), train_on(world, case, folder), folder
    place = request.getfixturevalue("launched")
    files = [place / f"report-{case['seed']}-{rank}.json" for rank in range(2)]
    assert all(file.exists() for file in files), (place / "printed.txt").read_text()[-4000:]
    legs = []
    for first, second in zip(*(json.loads(file.read_text()) for file in files)):
        for name in ("logs", "scores", "best", "metric"):  # of both processes, whoever asks
            ours, others = (without_times(part.get(name)) for part in (first, second))
            assert ours == others or name == "logs", name
        assert first["weights"] == second["weights"]
        seen = {step: rows + second["seen"][step] for step, rows in first["seen"].items()}
        legs.append({**first, "seen": seen})
    return legs[0], legs[1], place / str(case["seed"])


def without_times(scores):
    kept = scores if isinstance(scores, dict) else {}
    return {k: v for k, v in kept.items() if not k.endswith(("_runtime", "_second"))} or scores


def updates(logs) -> list[dict]:
    return [log for log in logs if "loss" in log]


def expected_lambda(options, step: int, max_steps: int, epoch: float) -> float:
    start, end = options["lambda_start"], options["lambda_end"]
    share = min(step / max(max_steps - 1, 1), 1.0)
    if options["lambda_schedule"] == "constant":
        return start
    if options["lambda_schedule"] == "linear_per_epoch":
        share = min(math.floor(epoch + 1e-9) / max(options["num_train_epochs"] - 1, 1), 1.0)
    if options["lambda_schedule"] == "cosine":
        share = 0.5 * (1.0 - math.cos(math.pi * share))
    return start + (end - start) * share


@pytest.mark.parametrize("seed", SEEDS)
def test_what_must_be_equal_in_any_training_is(seed, tmp_path, request):
    case = draw_case(seed)
    print("case", json.dumps(case))
    world, options = world_of(case), case["options"]
    whole, resumed, folder = trained(case, tmp_path / "whole", request)
    together = {"per_device_train_batch_size": case["batch"] * case["accumulation"] * case["processes"],
                "gradient_accumulation_steps": 1, "eval_strategy": "no", "save_strategy": "no",
                "load_best_model_at_end": False}  # fmt: skip
    trainer = make_trainer(world, case, tmp_path / "at once", **together)
    trainer.train()
    at_once = report(trainer)
    rough = 0.05 if options["bf16"] else 2e-4

    # The sentences of each update, whoever draws them; each as often as its epoch says.
    seen = {int(step): sorted(rows) for step, rows in whole["seen"].items()}
    assert seen == {int(step): sorted(rows) for step, rows in at_once["seen"].items()}
    last = 2 * options["save_steps"]
    assert {int(step): sorted(rows) for step, rows in resumed["seen"].items()} == {
        step: rows for step, rows in seen.items() if step >= last
    }
    check_epochs(world, case, seen)

    # The loss of each update and its parts.
    logs = updates(whole["logs"])
    assert len(logs) == len(seen) == len(updates(at_once["logs"]))
    for step, (log, other) in enumerate(zip(logs, updates(at_once["logs"]))):
        parts = sum(value for name, value in log.items() if name.startswith("loss_"))
        assert parts == pytest.approx(log["loss"], rel=max(rough, 1e-3), abs=1e-4)
        names = [name for name in other if name not in ("grad_norm", "learning_rate", "epoch", "step")]
        assert {n: log[n] for n in names} == pytest.approx({n: other[n] for n in names}, rel=rough, abs=rough)
        if options["objective"] != "none":
            epoch = step / (len(logs) / options["num_train_epochs"])
            assert log["kd_lambda"] == pytest.approx(expected_lambda(options, step, len(logs), epoch), abs=1e-6)
    lam = logs[0].get("kd_lambda", 0.0)
    assert logs[0]["loss"] == pytest.approx(losses_alone(world, case, seen[0], lam), rel=max(rough, 1e-3), abs=1e-3)

    # Resumed, it is the same training.
    assert updates(resumed["logs"]) == logs
    assert resumed["best"] == whole["best"]
    assert resumed["weights"] == whole["weights"]

    # The best model is the one that the stated metric says, and its scores are those of what was saved.
    metric = f"eval_{whole['metric'].removeprefix('eval_')}"
    history = {log["step"]: log[metric] for log in whole["logs"] if metric in log}
    best = (min if metric.endswith("loss") else max)(history.values())
    assert whole["best"] == [best, next(step for step, value in history.items() if value == best)]
    assert whole["scores"][metric] == pytest.approx(best, abs=1e-5)
    check_saved_model(world, case, folder / "best", whole["scores"])

    if options["objective"] != "none":
        plain = {**case, "options": {**options, "objective": "none", "unlabelled_rate": None}}
        if options["unlabelled_rate"] is not None:
            return  # a baseline without them sees other sentences
        trainer = make_trainer(world, plain, tmp_path / "baseline", **together)
        trainer.train()
        assert (torch.tensor(report(trainer)["weights"]) - torch.tensor(at_once["weights"])).abs().max() > 1e-3


def check_epochs(world, case, seen) -> None:
    """Each sentence once in an epoch, or languages and sentences without gold in the numbers asked for."""
    options, data = case["options"], world.train(case)
    rows = {tuple(row["input_ids"]): row for row in data}
    assert len(rows) == sum(SIZES.values())
    epochs = options["num_train_epochs"]
    drawn = [tuple(ids) for step in sorted(seen) for ids in seen[step]]
    size = len(drawn) // epochs
    assert size * epochs == len(drawn)
    gold = {ids: any(label != -100 for label in row["labels"]) for ids, row in rows.items()}
    steps = sorted(seen)
    for epoch in range(epochs):
        own = [tuple(ids) for step in steps[epoch * len(steps) // epochs : (epoch + 1) * len(steps) // epochs]
               for ids in seen[step]]  # fmt: skip
        assert len(own) == size
        temperature, rate = options["language_sampling_temperature"], options["unlabelled_rate"]
        if temperature is None and rate is None:
            assert Counter(own) == Counter(list(rows))
            continue
        strata = (True, False) if rate is not None else (None,)
        labelled = sum(gold.values())
        for stratum in strata:
            of = {language: [ids for ids, row in rows.items() if row["language"] == language
                             and stratum in (None, gold[ids])] for language in SIZES}  # fmt: skip
            total = size if stratum is None else labelled if stratum else unlabelled_count(labelled, rate)
            counts = language_counts([len(ids) for ids in of.values()], total, temperature or 1.0)
            found = [sum(ids in set(of[language]) for ids in own) for language in SIZES]
            assert found == counts


def check_saved_model(world, case, folder: Path, scores) -> None:
    """A model read back from its folder tags as the trainer's evaluation says."""
    tagger = Teacher.from_pretrained(str(folder))
    metrics = TaggingMetrics(world.labels, world.scheme)
    for language, data in world.dev.items():
        with precision(case):
            tags = tagger.tag(list(data["tokens"]), world.labels)
        found = metrics.report(tags, list(data["tags"]))[case["metric"]]
        with precision(case):
            loss = evaluation_loss_alone(tagger.model, world, case, language)
        score = scores[f"eval_{language}_{case['metric']}"]
        assert score == pytest.approx(found, abs=1e-9), language
        reached.append(score)
        assert scores[f"eval_{language}_loss"] == pytest.approx(loss, rel=0.02 if case["options"]["bf16"] else 1e-4)


def test_the_drawn_trainings_have_something_to_compare():
    """Danger: scores that are all 0, and alike for whatever reason."""
    assert not reached or sum(score > 0 for score in reached) > len(reached) / 2
