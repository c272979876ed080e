"""One process of two: trains with hidden-state distillation, a projection among what is trained."""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from torch.utils.data import SequentialSampler

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher
from hf_structkd.data.corpora import label_inventory
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.tokenizer import train_tokenizer
from tests.conftest import draw_student


class InOrder(StructKDTrainer):
    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)


def work(folder: Path, batch_size: int) -> dict:
    """What must not depend on how many processes there are."""
    corpus = load_demo_corpus("en", "train", num_sentences=32)
    labels, tokenizer = label_inventory(corpus), train_tokenizer(corpus["tokens"], vocab_size=200)
    teacher = Teacher(draw_student(tokenizer, labels, seed=1, hidden_size=24), tokenizer)
    student = draw_student(tokenizer, labels, seed=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    args = StructKDTrainingArguments(
        str(folder / "run"), objective="none", hidden_first=0.5, hidden_weight=1.0, max_steps=4, learning_rate=1e-2,
        per_device_train_batch_size=batch_size, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = InOrder(student, args, None, corpus, None, tokenizer, teachers=teacher)
    trainer.train()
    trained = {**dict(trainer.model.named_parameters()), **dict(trainer.hidden.named_parameters())}
    names = ("crf.transitions", "classifier.bias", "projections.0.weight", "projections.0.bias")
    return {
        "weights": {name: trained[name].detach().flatten().tolist() for name in names},
        "world": PartialState().num_processes,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    report = work(out, batch_size=4)
    (out / f"report-{PartialState().process_index}.json").write_text(json.dumps(report))
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()  # a process that ends first would pull the connection away from the other
