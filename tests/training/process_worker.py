"""One process of two: annotates, trains, evaluates, resumes, and last trains on an answer that is no number."""

import json
import os
import sys
from collections import defaultdict
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import concatenate_datasets
from torch.utils.data import SequentialSampler

from hf_structkd import StructKDTrainer, StructKDTrainingArguments
from hf_structkd.data.columns import TARGET_COLUMNS
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.unlabelled import hide_gold
from hf_structkd.teachers.annotate import annotate
from hf_structkd.teachers.function import CallableTeacher
from tests.crashes import Setting
from tests.teachers import annotation_worker

SHARE = 8  # sentences that come to one of two processes in one update


class InOrder(StructKDTrainer):
    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)


def corpus():
    """Four batches of 8: English; Russian, no gold; English, no gold; English that no teacher was asked about."""
    english = load_demo_corpus("en", "train", num_sentences=3 * SHARE)
    russian = load_demo_corpus("ru", "train", num_sentences=SHARE)
    first, second, third = (english.select(range(i * SHARE, (i + 1) * SHARE)) for i in range(3))
    return concatenate_datasets([first, hide_gold(russian), hide_gold(second), third])


def work(folder: Path, batch_size: int, setting: Setting, spoilt: int = -1) -> dict:
    """Everything that must not depend on how many processes there are.

    Args:
        folder: where the answers go.
        batch_size: sentences of an update in this process.
        setting: tokenizer, student and dev corpora.
        spoilt: a row whose answers are not numbers.
    """
    columns = ["teacher_marginals", "teacher_topk_tags", "teacher_topk_log_probs"]
    annotated = annotate(
        corpus(),
        {language: CallableTeacher(setting.answer, setting.labels, name=language, revision="1") for language in
         ("en", "ru")},
        label_names=setting.labels,
        targets=columns,
        top_k=3,
        shard_size=5,
        batch_size=2,
        output_dir=folder / "answers",
        progress=False,
    )  # fmt: skip
    unasked = {name: None for name in TARGET_COLUMNS if name in annotated.column_names}

    def change(row, i):
        if i == spoilt:
            return {"teacher_marginals": [[float("nan")] * len(setting.labels) for _ in row["tokens"]]}
        return unasked if i >= 3 * SHARE else {}

    train = annotated.map(change, with_indices=True, features=annotated.features, keep_in_memory=True)
    args = StructKDTrainingArguments(
        str(folder / "run"), objective="posterior+top_wk", lambda_schedule="constant", lambda_start=0.6,
        per_device_train_batch_size=batch_size, per_device_eval_batch_size=2, max_steps=2, logging_steps=1,
        learning_rate=1e-2, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    model = setting.student(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.nn.init.normal_(model.classifier.weight)  # or it would tag no entities, and every score would be 0
    dev = {"en": setting.dev["en"].select(range(7)), "ru": setting.dev["ru"].select(range(1))}
    trainer = InOrder(model, args, None, train, dev, setting.tokenizer)
    trainer.train()
    metrics = trainer.evaluate()
    return {
        "losses": [
            {name: log[name] for name in ("loss", "loss_nll", "loss_posterior", "loss_top_wk", "nll", "kd_lambda")}
            for log in trainer.state.log_history
            if "loss" in log
        ],
        "saved": trainer.save_model(str(folder / "saved")),
        "metrics": {name: v for name, v in metrics.items() if not name.endswith(("_second", "_runtime"))},
        "weights": {
            name: p.detach().flatten().tolist() for name, p in trainer.model.named_parameters() if "crf" in name
        },
    }


# How sentences are drawn: what each option of the trainer that changes it is set to. 24 sentences, 8 without gold.
ORDERS = {
    "random": {},
    "group_by_length": {"train_sampling_strategy": "group_by_length"},
    "languages": {"language_sampling_temperature": 3.0},
    "without_gold": {"unlabelled_rate": 1 / 3, "train_sampling_strategy": "group_by_length"},
    "batch_rebalance": {"train_sampling_strategy": "batch_rebalance"},
}
STOPPED_AT = 8  # of 12 updates: in the middle of the second epoch


class Recorded(StructKDTrainer):
    """Remembers the subwords of this process's sentences, update by update."""

    def training_step(self, model, inputs, *args, **kwargs):
        rows = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist())
        self.seen[self.state.global_step] += [[i for i, kept in zip(ids, mask) if kept] for ids, mask in rows]
        return super().training_step(model, inputs, *args, **kwargs)


def drawn(folder: Path, batch_size: int, setting: Setting, resume: bool) -> dict[str, dict[int, list[list[int]]]]:
    """Order -> update -> this process's sentences, of a training of two epochs or of its end."""
    orders = {}
    for name, options in ORDERS.items():
        args = StructKDTrainingArguments(
            str(folder / name), objective="none", per_device_train_batch_size=batch_size, num_train_epochs=2, seed=5,
            save_strategy="steps", save_steps=STOPPED_AT, report_to="none", disable_tqdm=True, use_cpu=True, **options,
        )  # fmt: skip
        torch.manual_seed(1 + resume + PartialState().process_index)  # each process has random numbers of its own
        trainer = Recorded(setting.student(), args, None, setting.train.select(range(24)), None, setting.tokenizer)
        torch.manual_seed(1 + resume + PartialState().process_index)
        trainer.seen = defaultdict(list)
        trainer.train(resume_from_checkpoint=str(folder / name / f"checkpoint-{STOPPED_AT}") if resume else None)
        orders[name] = dict(trainer.seen)
    return orders


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, own = Path(sys.argv[1]), Setting()
    report = work(out, SHARE, own)
    state = PartialState()
    shared = annotation_worker.run(out / "shared", out / f"asked-{state.process_index}.txt")
    report |= {"world": state.num_processes, "env": os.environ["WORLD_SIZE"], "backend": state.backend}
    report["shared"] = json.loads(json.dumps(shared.to_dict()))
    report["drawn"] = [drawn(out / "orders", 2, own, resume) for resume in (False, True)]
    (out / f"report-{state.process_index}.json").write_text(json.dumps(report))
    state.wait_for_everyone()
    work(out, SHARE, own, spoilt=3)
