"""Annotation and training as one process that can be killed at any moment, and what it leaves behind.

python -m tests.crashes --kills 20 --seed 0        kills of annotation and of training, 20 each at least
"""

import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import concatenate_datasets, disable_progress_bars

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, XLMRobertaCRFConfig
from hf_structkd import XLMRobertaForTokenClassificationCRF as Student
from hf_structkd.data.corpora import label_inventory
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.data.words import encode_corpus
from hf_structkd.recipes.folder import train_into, train_tagger
from hf_structkd.teachers.annotate import annotate
from hf_structkd.teachers.function import CallableTeacher
from hf_structkd.training.loss_watch import LossLog
from tests.teachers import annotation_worker

FORK = multiprocessing.get_context("fork")  # a process of its own, without importing torch again
OPTIONS = {
    **{"objective": "posterior+top_wk", "top_k": 3, "lambda_start": 0.9, "lambda_end": 0.1, "learning_rate": 5e-3},
    **{"num_train_epochs": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "seed": 3},
    **{"language_sampling_temperature": 2.0, "unlabelled_rate": 0.25, "logging_steps": 1},
    **{"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "eval_strategy": "steps", "eval_steps": 3},
    **{"load_best_model_at_end": False, "use_cpu": True, "report_to": "none", "disable_tqdm": True},
}


class Setting:
    """A tiny corpus of two languages, a third of it without gold, with answers; its tokenizer and its student."""

    def __init__(self) -> None:
        parts = [load_demo_corpus("en", "train", num_sentences=18), load_demo_corpus("ru", "train", num_sentences=9)]
        corpus = concatenate_datasets(parts)
        self.labels = label_inventory(corpus)
        self.tokenizer = train_tokenizer(corpus["tokens"], vocab_size=250)
        self.dev = {name: encode_corpus(part.select(range(8)), self.tokenizer, self.labels) for name, part in
                    zip(("en", "ru"), parts)}  # fmt: skip
        corpus = corpus.map(lambda row, i: {"tags": None if i % 3 == 0 else row["tags"]}, with_indices=True)
        asked = annotate(
            corpus,
            CallableTeacher(self.answer, self.labels, name="hash", revision="1"),
            label_names=self.labels,
            targets=["teacher_marginals", "teacher_topk_tags"],
            top_k=3,
            progress=False,
        )
        self.train = encode_corpus(asked, self.tokenizer, self.labels)

    def answer(self, sentences):
        answers = []
        for words in sentences:
            torch.manual_seed(int(hashlib.sha256(" ".join(words).encode()).hexdigest()[:8], 16))
            answers.append(torch.rand(len(words), len(self.labels)).softmax(dim=1).numpy())
        return answers

    def student(self, **fields) -> Student:
        """With dropout: random states must survive a crash too."""
        config = XLMRobertaCRFConfig(
            vocab_size=len(self.tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=60, type_vocab_size=1, tag_scheme="BIO",
            pad_token_id=self.tokenizer.pad_token_id, id2label=dict(enumerate(self.labels)),
            label2id={label: i for i, label in enumerate(self.labels)}, **fields,
        )  # fmt: skip
        torch.manual_seed(0)
        return Student(config)

    def trainer(self, output: Path, **options) -> StructKDTrainer:
        args = StructKDTrainingArguments(str(output), **{**OPTIONS, **options})
        return StructKDTrainer(self.student(), args, None, self.train, self.dev, self.tokenizer)

    def train_as_scripts_do(self, folder: Path, seconds: float = 0.0) -> None:
        """As run_distill.py trains a student: a work folder, a lock, checkpoints, resuming by itself.

        Args:
            folder: where the student goes.
            seconds: waited in every update, so that kills hit updates as well as the writing of checkpoints.
        """
        disable_progress_bars()
        logging.getLogger("hf_structkd").addHandler(logging.FileHandler(folder.with_name("log.txt")))
        add = LossLog.add
        LossLog.add = lambda *args: (time.sleep(seconds), add(*args))[1]  # type: ignore[method-assign]
        args = StructKDTrainingArguments(str(folder), **OPTIONS)
        train_into(
            folder,
            {"seed": 3},
            args,
            lambda own: train_tagger(self.student(), self.tokenizer, self.train, self.dev, own),
        )


def annotate_as_users_do(folder: Path, seconds: float = 0.004) -> None:
    annotation_worker.run(folder, seconds=seconds)


def remains(folder: Path) -> dict[str, str]:
    """What must be the same whatever happened: bytes of answers or weights, and losses and metrics without times."""
    kept = {}
    for file in sorted(folder.iterdir()):
        if file.name == "trainer_state.json":
            state = json.loads(file.read_text())
            times = ("_runtime", "_per_second", "total_flos")
            logs = [{k: v for k, v in log.items() if not k.endswith(times)} for log in state["log_history"]]
            logs = [log for log in logs if "train_loss" not in log]  # the mean since the last start
            kept["losses and metrics"] = json.dumps(logs)
        elif file.suffix in (".arrow", ".safetensors") or folder.name == "answers":
            kept[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return kept


def run_quietly(work: Callable[[Path], None], folder: Path) -> None:
    torch.set_num_threads(1)
    with folder.with_name("printed.txt").open("a") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
        work(folder)


def run_in_a_process(work: Callable[[Path], None], folder: Path) -> None:
    """Do `work` undisturbed. Raises RuntimeError, with what it printed, if it fails."""
    kill_until_done(work, folder, 0, 0.0, random.Random(0))


def kill_until_done(
    work: Callable[[Path], None], folder: Path, kills: int, longest: float, draw: random.Random
) -> int:
    """Start `work`, kill it after a random time, again and again; the last start is left alone.

    Args:
        work: makes `folder`.
        kills: how often it is killed, if it does not finish before.
        longest: seconds that a start is given at most.

    Returns:
        How often it was killed.

    Raises:
        RuntimeError: if a start failed by itself.
    """
    killed = 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        process = FORK.Process(target=run_quietly, args=(work, folder))
        process.start()
        if killed < kills:
            process.join(draw.uniform(0.0, longest))
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == 0:
            return killed
        if process.exitcode != -signal.SIGKILL:
            printed = folder.with_name("printed.txt").read_text()[-3000:]
            raise RuntimeError(f"after {killed} kills it failed by itself, exit code {process.exitcode}: {printed}")
        killed += 1


def table(kills: int, seed: int, at_most: int = 8) -> list[dict[str, object]]:
    """A row each for annotation and training: runs, kills, runs that ended as the undisturbed one, torn checkpoints.

    Args:
        kills: of each, in as many runs as it takes.
        seed: of the moments.
        at_most: kills in one run.
    """
    draw, rows, setting = random.Random(seed), [], Setting()
    works = {"annotation": (annotate_as_users_do, "answers"), "training": (setting.train_as_scripts_do, "student")}
    for name, (work, folder) in works.items():
        with tempfile.TemporaryDirectory() as place:
            started = time.perf_counter()
            run_in_a_process(work, Path(place) / "whole" / folder)
            seconds = time.perf_counter() - started
            wanted = remains(Path(place) / "whole" / folder)
            killed, runs, same, torn = 0, 0, 0, 0
            while killed < kills:
                own = Path(place) / str(runs) / folder
                killed += kill_until_done(work, own, min(at_most, kills - killed), seconds / 2, draw)
                log = own.with_name("log.txt")
                torn += log.read_text().count("never finished") if log.exists() else 0
                same += remains(own) == wanted
                runs += 1
                shutil.rmtree(own.parent)
            rows.append({"what": name, "runs": runs, "kills": killed, "identical": same, "torn checkpoints": torn})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of annotation and of training, each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for row in table(options.kills, options.seed):
        print(json.dumps(row), flush=True)
