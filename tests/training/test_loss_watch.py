"""Dangers: a NaN that trains on unseen, an error that names the wrong sentences, a check that costs every step."""

import gc
import os
import resource
import tracemalloc

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, concatenate_datasets

from hf_structkd.teachers.annotate import annotate
from hf_structkd.teachers.answer_store import PartialAnswers
from hf_structkd.teachers.function import CallableTeacher
from hf_structkd.training.loss_watch import LossGuard, NonFiniteLossError, find_rows
from tests import crashes


@pytest.fixture(scope="module")
def setting():
    return crashes.Setting()


def poisoned(setting, row: int, value: float):
    """The training data with a teacher's answer that is not a number."""

    def spoil(example, i):
        return {"teacher_marginals": [[value] * len(w) for w in example["teacher_marginals"]]} if i == row else {}

    return setting.train.map(spoil, with_indices=True, features=setting.train.features)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("options", [{}, {"bf16": True}], ids=["fp32", "bf16"])
def test_a_loss_that_is_not_finite_stops_training_and_names_its_sentence(setting, tmp_path, value, options):
    trainer = setting.trainer(tmp_path, save_strategy="no", unlabelled_rate=None, **options)
    row = 20
    trainer.train_dataset = poisoned(setting, row, value)
    words = " ".join(trainer.train_dataset[row]["tokens"])[:40]
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train()
    lines = str(caught.value).splitlines()
    assert f"the loss of update {trainer.state.global_step + 1} is {value:g}" in lines[0] or "nan" in lines[0]
    assert f"row {row}" in lines[1]
    assert "language ru" in lines[1]
    assert words in lines[1]
    assert "posterior" in lines[1]
    assert "top_wk" not in lines[1]
    assert len(lines) == 3  # that sentence alone
    assert "weights are finite" in lines[2]
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_broken_weights_are_not_blamed_on_the_sentences(setting, tmp_path):
    trainer = setting.trainer(tmp_path, save_strategy="no", per_device_train_batch_size=16)
    torch.nn.init.constant_(trainer.model.classifier.bias, float("nan"))
    with pytest.raises(
        NonFiniteLossError, match=r"and 8 more of the 16 sentences(.|\n)*not finite already .*classifier"
    ):
        trainer.train()


def test_sentences_are_found_by_their_subwords_wherever_they_are(setting):
    data = concatenate_datasets([setting.train, setting.train.select([4])]).shuffle(seed=1)
    ids = [list(data[row]["input_ids"]) for row in (0, 9, 27)]
    for number, (row, wanted) in enumerate(zip((0, 9, 27), ids)):
        assert row in find_rows(data, ids)[number]
        assert all(list(data[other]["input_ids"]) == wanted for other in find_rows(data, ids)[number])
    twice = list(setting.train[4]["input_ids"])
    assert len(find_rows(data, [twice])[0]) == 2
    assert find_rows(data, [[1, 2, 3]]) == [[]]


def test_a_stream_shows_the_sentence_itself(setting):
    inputs = {"input_ids": torch.tensor([setting.train[3]["input_ids"]])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    guard = LossGuard()
    guard.remember({"nll": torch.tensor([float("inf")])}, torch.zeros(1, 2, 3))
    error = guard.explain(float("nan"), inputs, 6, torch.nn.Linear(1, 1), iter(()), setting.tokenizer)
    assert "the loss of update 7 is nan" in str(error)
    assert setting.train[3]["tokens"][0] in str(error)
    assert "nll inf" in str(error)


# Dangers: half precision that drifts away, memory that grows with every step or sentence.
#
# `STRUCTKD_LONG=1` runs the memory tests at their full length: 2,000 updates and 100,000 sentences.


LONG = os.environ.get("STRUCTKD_LONG") == "1"
PLAIN = {
    **{"save_strategy": "no", "eval_strategy": "no", "unlabelled_rate": None, "gradient_accumulation_steps": 1},
    **{"per_device_train_batch_size": 9},
}


class HalfPrecision(crashes.StructKDTrainer):
    """float16 autocast on a CPU, for which `fp16=True` is not, and without loss scaling: these losses are large."""

    dtype = torch.float16

    def autocast_smart_context_manager(self, cache_enabled=True):
        return torch.autocast("cpu", dtype=self.dtype, cache_enabled=cache_enabled)

    compute_loss_context_manager = autocast_smart_context_manager


def losses_of(trainer) -> torch.Tensor:
    trainer.train()
    return torch.tensor([log["loss"] for log in trainer.state.log_history if "loss" in log], dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_200_updates_in_half_precision_stay_near_float32(setting, tmp_path, precision):
    """The bounds: no update's loss further off than 1 %, no mean of 50 than 0.2 %."""
    updates, runs = 200, []
    options = {**PLAIN, "max_steps": updates, "learning_rate": 2e-3}
    for half in (False, True):
        trainer = setting.trainer(tmp_path / f"{half}", **options, bf16=half and precision == "bf16")
        trainer.model = setting.student(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        trainer.model_wrapped = trainer.model
        if half and precision == "fp16":
            trainer.__class__ = HalfPrecision
        runs.append(losses_of(trainer))
    exact, half = runs
    assert len(exact) == updates
    assert exact[-20:].mean() < 0.9 * exact[:20].mean()  # it learns
    assert not torch.equal(exact, half)  # it was in half precision
    blocks = [run.reshape(-1, 50).mean(dim=1) for run in runs]
    off = [((b - a).abs() / a).max().item() for a, b in (runs, blocks)]
    print(f"{precision}: one update at most {off[0]:.2%} off, means of 50 {off[1]:.2%}")
    assert off[0] < 0.01
    assert off[1] < 0.002


def memory() -> float:
    """MiB of this process."""
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def tensors() -> int:
    gc.collect()
    return sum(1 for thing in gc.get_objects() if isinstance(thing, torch.Tensor))


@pytest.mark.slow
def test_memory_does_not_grow_with_updates(setting, tmp_path):
    """Danger: a graph or a batch is kept from every update, in a log of losses or in the guard of the loss."""
    from transformers import TrainerCallback

    updates = 2000 if LONG else 60
    seen: dict[int, tuple[int, float]] = {}

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step in (updates // 4, updates // 2, updates):
                seen[state.global_step] = (tensors(), memory())

    trainer = setting.trainer(tmp_path, **{**PLAIN, "max_steps": updates, "logging_steps": updates})
    trainer.add_callback(Look())
    trainer.train()
    counts = [count for count, _ in seen.values()]
    print("tensors and MiB:", seen)
    assert counts[0] == counts[1] == counts[2]
    if LONG:
        assert seen[updates][1] - seen[updates // 4][1] < 16  # MiB over 1,500 updates


@pytest.mark.slow
def test_memory_does_not_grow_with_annotated_sentences(tmp_path, monkeypatch):
    """Danger: answers of finished shards, or the sentences, are kept in memory; a bound a tenth of the answers."""
    sentences, size, labels = (100_000, 2048, ["O", "B-X", "I-X"]) if LONG else (6_000, 256, ["O", "B-X", "I-X"])
    rng = np.random.default_rng(0)
    rows = [[f"w{word}" for word in rng.integers(0, 1000, size=20)] for _ in range(1000)]
    Dataset.from_dict({"tokens": [rows[i % 1000] for i in range(sentences)]}).save_to_disk(tmp_path / "corpus")
    uniform = CallableTeacher(lambda s: [np.full((len(w), 3), 1 / 3) for w in s], labels, name="u", revision="1")
    write, seen = PartialAnswers.write, []

    def watched(partial, number, rows, table, *args):
        write(partial, number, rows, table, *args)
        gc.collect()
        seen.append((tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes(), table.nbytes, memory()))

    monkeypatch.setattr(PartialAnswers, "write", watched)
    tracemalloc.start()
    try:
        annotate(
            Dataset.load_from_disk(str(tmp_path / "corpus")), uniform, label_names=labels, progress=False,
            targets=["teacher_topk_tags", "teacher_marginals"], shard_size=size, batch_size=256,
            output_dir=tmp_path / "answers",
        )  # fmt: skip
    finally:
        tracemalloc.stop()
    start = len(seen) // 4
    answers = sum(size for _, size, _ in seen[start:])
    grown = min(now for now, _, _ in seen[-3:]) - seen[start][0]  # what stays, not what a moment needs
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{sentences:,} sentences: {answers / 2**20:.1f} MiB of answers, {grown / 2**20:.2f} MiB grown, "
          f"resident {seen[start][2]:.0f} -> {seen[-1][2]:.0f} MiB, peak {peak:.0f} MiB")  # fmt: skip
    assert grown < 0.1 * answers
    if LONG:
        assert seen[-1][2] - seen[start][2] < 64  # MiB resident, over 75,000 sentences
