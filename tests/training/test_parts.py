"""Dangers: streamed parts teach something else than parts in memory, or hold answers that do not fit."""

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, annotate_part, load_parts
from hf_structkd.data.words import encode_corpus
from hf_structkd.teachers import part_store

from ..teachers.test_voices import LABELS, three_teachers

OBJECTIVE = "posterior+top_wk"
ADDRESSES = ("folder", "file", "memory")


@pytest.fixture
def student(tokenizer, make_student):
    from ..conftest import draw_student

    return lambda labels=LABELS: draw_student(tokenizer, labels, hidden_dropout_prob=0.0)


@pytest.fixture
def address(request, tmp_path, monkeypatch):
    monkeypatch.setattr(part_store.datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    MemoryFileSystem.store.clear()
    folder = tmp_path / "parts"
    return {"folder": folder, "file": f"file://{folder}", "memory": "memory://bucket/parts"}[request.param]


def annotated(corpus, tokenizer, address, **options):
    """Two parts; the teachers of one language are three voices, those of the other are one."""
    data = encode_corpus(corpus.select(range(20, 40)), tokenizer, LABELS)
    given = {"label_names": LABELS, "top_k": 3, "progress": False, **options}
    for part in (1, 0):
        annotate_part(
            data, {"en": three_teachers(), "ru": three_teachers()[:1]}, address, part=part, num_parts=2,
            targets=["teacher_marginals", "teacher_topk_tags"], **given,
        )  # fmt: skip


def trainer_of(data, model, tokenizer, folder):
    args = StructKDTrainingArguments(
        str(folder), objective=OBJECTIVE, top_k=3, train_sampling_strategy="sequential", max_steps=5, logging_steps=1,
        per_device_train_batch_size=4, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    return StructKDTrainer(model, args, train_dataset=data, processing_class=tokenizer)


@pytest.mark.parametrize("address", ADDRESSES, indirect=True)
def test_streamed_and_mapped_parts_teach_the_same(corpus, tokenizer, address, student, tmp_path):
    annotated(corpus, tokenizer, address)
    runs = []
    for streaming in (False, True):
        model = student()
        trainer = trainer_of(load_parts(address, streaming=streaming), model, tokenizer, tmp_path / "run")
        trainer.train()
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        runs.append((losses, model.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert len(set(runs[0][0])) == 5
    for name, values in runs[0][1].items():
        assert torch.equal(values, runs[1][1][name]), name


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("address", ["folder"], indirect=True)
def test_answers_that_do_not_fit_are_refused_before_training(corpus, tokenizer, address, student, tmp_path, streaming):
    annotated(corpus, tokenizer, address, temperature=2.0)
    data = load_parts(address, streaming=streaming)
    with pytest.raises(ValueError, match=r"annotated at temperature 2 for teacher_marginals, but .* want 1"):
        trainer_of(data, student(), tokenizer, tmp_path / "run")
    with pytest.raises(ValueError, match="number other labels than the student's, or the same in another order"):
        trainer_of(data, student(["O", *LABELS[:0:-1]]), tokenizer, tmp_path / "run")
