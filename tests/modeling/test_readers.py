"""Danger: a tag sequence that means one thing to one reader of a model and another to the next, so that a score is not
that of the answers users get.

Every reader is a row of `READERS`: from a checkpoint and sentences to tags or entities. All must say what the model's
distribution says, in every scheme, for sentences of one word, of a few, and longer than the encoder's window, in
float32 and under bf16 autocast. `SCORERS` are those that score: one F1 (plain tags: accuracy) for all.
"""

import contextlib
import json
import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    pipeline,
)

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, TaggingMetrics, TagScheme, Teacher, encode_corpus
from hf_structkd.modeling.pipeline import TASK
from hf_structkd.modeling.tag_scheme import convert_tags
from hf_structkd.modeling.words import tokenize_words
from tests.conftest import draw_student

WORKER = Path(__file__).with_name("reading_worker.py")
LABELS = {
    "BIO": TagScheme.from_entity_types(["PER", "LOC"], "BIO").tags,
    "BIOES": TagScheme.from_entity_types(["PER", "LOC"], "BIOES").tags,
    "plain": ("NOUN", "VERB", "PUNCT"),
}
OTHER_SCHEME = {"BIO": "BIOES", "BIOES": "BIO", "plain": "plain"}
MODES = ("float32", "bf16 autocast")
VOCABULARY = (
    *("Mira", "Tomas", "Havel", "sailed", "from", "Porto", "to", "Bergen", "with", "Lena", "Okafor", "and", "old"),
    *("friends", "in", "winter", "the", "harbour"),
)
WINDOW = 38  # subwords
LENGTHS = {"one word": (1, 1), "short": (2, 8), "long": (18, 30)}
OF_EACH = {"one word": 6, "short": 20, "long": 6}

Spans = list[tuple[int, int, str]]
pytestmark = pytest.mark.slow


@dataclass
class Checkpoint:
    """A saved tagger, sentences, what its distribution says of them, and gold tags that it gets right in part."""

    scheme: TagScheme
    folder: Path
    sentences: list[list[str]] = field(default_factory=list)
    tags: list[list[str]] = field(default_factory=list)
    mode: str = "float32"
    alone: dict[str, Any] = field(default_factory=dict)  # what its own code says, in a process of its own

    @cached_property
    def model(self) -> Any:
        return AutoModelForTokenClassification.from_pretrained(self.folder, trust_remote_code=False).eval()

    @cached_property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)

    @property
    def texts(self) -> list[str]:
        return [" ".join(words) for words in self.sentences]

    @cached_property
    def gold(self) -> list[list[str]]:
        """The model's own tags, those of every third sentence replaced by another's of at least its length."""
        gold = [list(tags) for tags in self.tags]
        for row in range(0, len(gold), 3):
            length = len(gold[row])
            gold[row] = next(tags for tags in self.tags[row + 1 :] + self.tags if len(tags) >= length)[:length]
        if self.scheme.name != "plain":
            gold = [self.scheme.repair(tags) for tags in gold]
        return gold

    @property
    def corpus(self) -> Dataset:
        return Dataset.from_dict({"tokens": self.sentences, "tags": self.gold})

    def spans(self, tags: list[str]) -> Spans:
        """Entities, or for plain tags every word."""
        return [tuple(span) for span in self.scheme.spans(tags)]

    def context(self) -> Any:
        return contextlib.nullcontext() if self.mode == "float32" else torch.autocast("cpu", torch.bfloat16)


def draw_checkpoint(scheme: str, tokenizer: Any, folder: Path) -> Checkpoint:
    """A tagger with small random weights, and sentences whose best analysis is no toss-up."""
    model = draw_student(tokenizer, LABELS[scheme], seed=1)
    with torch.no_grad():
        for weights in (model.classifier.weight, *model.crf.parameters()):
            weights.mul_(0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    found, draw = Checkpoint(model.tag_scheme, folder), random.Random(5)
    for kind, (least, most) in LENGTHS.items():
        kept = 0
        while kept < OF_EACH[kind]:
            words = [draw.choice(VOCABULARY) for _ in range(draw.randint(least, most))]
            batch = {name: torch.tensor(rows) for name, rows in tokenize_words([words], tokenizer).items()}
            with torch.no_grad():
                best = model.distribution(model(**batch, decode=False), "decode").topk(2)
            first, second = best.log_prob[0].tolist()
            if first - second < 0.2 or (kind == "long") != (batch["input_ids"].shape[1] > WINDOW):
                continue
            kept += 1
            found.sentences.append(words)
            found.tags.append([LABELS[scheme][tag] for tag in best.tags[0, 0].tolist()])
    return found


# ---- readers: each gives tags, or spans, of every sentence ----


def output_tags(one: Checkpoint) -> list[list[str]]:
    """`tags` of the output, from text alone: the model finds the words."""
    batch = one.tokenizer(one.sentences, is_split_into_words=True, padding=True, return_tensors="pt")
    return names_at(one.model(**batch).tags, None, one)


def output_logits(one: Checkpoint) -> list[list[str]]:
    """Argmax of the output's `logits`, words given."""
    encoded = tokenize_words(one.sentences, one.tokenizer)
    batch = one.tokenizer.pad({name: encoded[name] for name in ("input_ids", "attention_mask")}, return_tensors="pt")
    width = batch["input_ids"].shape[1]
    words = torch.tensor([row + [0] * (width - len(row)) for row in encoded["word_mask"]]).bool()
    return names_at(one.model(**batch, word_mask=words).logits.argmax(dim=-1), words, one)


def names_at(ids: Any, words: Any, one: Checkpoint) -> list[list[str]]:
    """Tag ids (sentences, subwords) as names, at the words."""
    ids = torch.as_tensor(np.asarray(ids))
    words = ids >= 0 if words is None else torch.as_tensor(np.asarray(words))
    return [[one.scheme.tags[tag] for tag in row[at].tolist()] for row, at in zip(ids, words)]


def our_trainer(one: Checkpoint, tmp_path: Path) -> StructKDTrainer:
    args = StructKDTrainingArguments(str(tmp_path), objective="none", **trainer_options(one))
    return StructKDTrainer(one.model, args, None, None, one.corpus, one.tokenizer)


def stock_trainer(one: Checkpoint, tmp_path: Path) -> tuple[Trainer, Dataset]:
    """As a script for any tagger has it: labels on first subwords, the stock collator."""
    data = encode_corpus(one.corpus, one.tokenizer, one.scheme.tags)
    data, metrics = data.select_columns(["input_ids", "attention_mask", "labels"]), TaggingMetrics(one.scheme.tags)
    return (
        Trainer(
            one.model,
            TrainingArguments(str(tmp_path), **trainer_options(one)),
            data_collator=DataCollatorForTokenClassification(one.tokenizer),
            eval_dataset=data,
            processing_class=one.tokenizer,
            compute_metrics=lambda found: metrics(EvalPrediction(found.predictions.argmax(-1), found.label_ids)),
        ),
        data,
    )


def trainer_options(one: Checkpoint) -> dict[str, Any]:
    return {
        "use_cpu": True, "bf16": one.mode != "float32", "per_device_eval_batch_size": 8, "report_to": "none",
        "disable_tqdm": True, "save_strategy": "no",
    }  # fmt: skip


def our_trainer_predicts(one: Checkpoint, tmp_path: Path) -> list[list[str]]:
    trainer = our_trainer(one, tmp_path)
    found = trainer.predict(trainer.eval_dataset)
    return names_at(found.predictions, found.label_ids != -100, one)


def our_trainer_predicts_without_gold(one: Checkpoint, tmp_path: Path) -> list[list[str]]:
    trainer = our_trainer(one, tmp_path)
    found = trainer.predict(trainer.eval_dataset.remove_columns(["labels", "tags"]))
    return names_at(found.predictions, None, one)


def stock_trainer_predicts(one: Checkpoint, tmp_path: Path) -> list[list[str]]:
    trainer, data = stock_trainer(one, tmp_path)
    found = trainer.predict(data)
    return names_at(found.predictions.argmax(-1), found.label_ids != -100, one)


def stock_pipeline(one: Checkpoint) -> list[Spans]:
    pipe = pipeline("token-classification", model=one.model, tokenizer=one.tokenizer, aggregation_strategy="simple")
    return [spans_of_groups(found, words, one) for found, words in zip(pipe(one.texts), one.sentences)]


def spans_of_groups(found: list[dict[str, Any]], words: list[str], one: Checkpoint) -> Spans:
    """The stock pipeline's groups in words; of plain tags it makes one group of neighbours."""
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    spans = []
    for group in found:
        start, end = (
            int(np.searchsorted(ends, group[name], side)) for name, side in (("start", "right"), ("end", "left"))
        )
        spans.append((start, end + 1, group["entity_group"]))
    if one.scheme.name == "plain":
        return [(place, place + 1, tag) for start, end, tag in spans for place in range(start, end)]
    return spans


def our_pipeline_on_words(one: Checkpoint) -> list[Spans]:
    pipe = pipeline(TASK, model=one.model, tokenizer=one.tokenizer)
    return [spans_of_answer(answer) for answer in pipe(one.sentences, batch_size=5)]


def our_pipeline_on_text(one: Checkpoint) -> list[Spans]:
    pipe = pipeline(TASK, model=one.model, tokenizer=one.tokenizer)
    return [spans_of_answer(pipe(text)) for text in one.texts]


def spans_of_answer(answer: dict[str, Any]) -> Spans:
    if "tags" in answer:
        return [(word["index"], word["index"] + 1, word["tag"]) for word in answer["tags"]]
    return [(found["start_word"], found["end_word"], found["entity_group"]) for found in answer["entities"]]


def teacher(one: Checkpoint) -> list[list[str]]:
    return Teacher.from_pretrained(str(one.folder)).tag(one.sentences, batch_size=7)


def teacher_in_the_other_scheme(one: Checkpoint) -> list[Spans]:
    """A BIOES tagger asked in BIO labels, and the reverse."""
    other = OTHER_SCHEME[one.scheme.name]
    scheme = TagScheme(LABELS[other])
    tags = Teacher.from_pretrained(str(one.folder)).tag(one.sentences, scheme.tags)
    return [[tuple(span) for span in scheme.spans(row)] for row in tags]


def onnx(one: Checkpoint, tmp_path: Path) -> list[list[str] | None]:
    """What an exported model refuses, because it is longer than the window, is `None`."""
    pytest.importorskip("onnxscript", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")
    from hf_structkd.export.onnx import OnnxTagger, export_onnx

    export_onnx(one.model, one.tokenizer, tmp_path)
    tagger = OnnxTagger(tmp_path, threads=1)
    long = [len(ids) > tagger.window for ids in tokenize_words(one.sentences, one.tokenizer)["input_ids"]]
    with pytest.raises(ValueError, match=f"an exported model takes {tagger.window} at once"):
        tagger.tag(one.sentences)
    tags = iter(tagger.tag([words for words, refused in zip(one.sentences, long) if not refused]))
    assert sum(long) == OF_EACH["long"]
    return [None if refused else next(tags) for refused in long]


def alone_tags(one: Checkpoint) -> list[list[str]]:
    return one.alone["tags"]


def alone_stock_pipeline(one: Checkpoint) -> list[Spans]:
    return [spans_of_groups(found, words, one) for found, words in zip(one.alone["stock pipeline"], one.sentences)]


def alone_our_pipeline(one: Checkpoint) -> list[Spans]:
    return [spans_of_answer(answer) for answer in one.alone["our pipeline"]]


READERS: dict[str, Callable[..., list[Any]]] = {
    "the output's tags": output_tags,
    "the output's logits": output_logits,
    "StructKDTrainer.predict": our_trainer_predicts,
    "StructKDTrainer.predict without gold": our_trainer_predicts_without_gold,
    "stock Trainer.predict": stock_trainer_predicts,
    "stock pipeline": stock_pipeline,
    "our pipeline on words": our_pipeline_on_words,
    "our pipeline on text": our_pipeline_on_text,
    "Teacher.tag": teacher,
    "Teacher.tag in the other scheme": teacher_in_the_other_scheme,
    "ONNX": onnx,
    "its own code alone: tags": alone_tags,
    "its own code alone: stock pipeline": alone_stock_pipeline,
    "its own code alone: our pipeline": alone_our_pipeline,
}


FLOAT32_ONLY = ("ONNX", "run_evaluate.py")  # these are asked for no other precision


# ---- scorers: each gives F1, or for plain tags accuracy ----


def our_trainer_evaluates(one: Checkpoint, tmp_path: Path, run_script: Any) -> float:
    found = our_trainer(one, tmp_path).evaluate()
    return found.get("eval_f1", found["eval_accuracy"])


def our_trainer_predict_metrics(one: Checkpoint, tmp_path: Path, run_script: Any) -> float:
    trainer = our_trainer(one, tmp_path)
    found = trainer.predict(trainer.eval_dataset).metrics
    return found.get("test_f1", found["test_accuracy"])


def stock_trainer_evaluates(one: Checkpoint, tmp_path: Path, run_script: Any) -> float:
    found = stock_trainer(one, tmp_path)[0].evaluate()
    return found.get("eval_f1", found["eval_accuracy"])


def run_evaluate(one: Checkpoint, tmp_path: Path, run_script: Any, gold: list[list[str]] | None = None) -> float:
    rows = [json.dumps({"tokens": words, "tags": tags}) for words, tags in zip(one.sentences, gold or one.gold)]
    (tmp_path / "en.test.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    run_script(
        "run_evaluate.py", "--checkpoint", one.folder, "--corpus", str(tmp_path / "{language}.{split}.jsonl"),
        "--languages", "en", "--output_file", tmp_path / "results.json",
    )  # fmt: skip
    scores = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["scores"]["test"]
    found = scores[one.folder.name]["en"]
    return found.get("f1", found["accuracy"])


def run_evaluate_in_the_other_scheme(one: Checkpoint, tmp_path: Path, run_script: Any) -> float:
    """A BIOES checkpoint on a BIO corpus, and the reverse."""
    own, other = one.scheme.name, OTHER_SCHEME[one.scheme.name]
    gold = one.gold if own == other else [convert_tags(tags, own, other) for tags in one.gold]
    return run_evaluate(one, tmp_path, run_script, gold)


SCORERS: dict[str, Callable[..., float]] = {
    "StructKDTrainer.evaluate": our_trainer_evaluates,
    "StructKDTrainer.predict": our_trainer_predict_metrics,
    "stock Trainer.evaluate": stock_trainer_evaluates,
    "run_evaluate.py": run_evaluate,
    "run_evaluate.py on a corpus in the other scheme": run_evaluate_in_the_other_scheme,
}


@pytest.fixture(scope="module")
def checkpoints(tokenizer, tmp_path_factory, python_without_the_package) -> dict[tuple[str, str], Checkpoint]:
    """(scheme, mode) -> checkpoint; all are read once by their own code, in one process."""
    folder = tmp_path_factory.mktemp("readers")
    drawn = {scheme: draw_checkpoint(scheme, tokenizer, folder / scheme) for scheme in LABELS}
    (folder / "sentences.json").write_text(json.dumps({str(one.folder): one.sentences for one in drawn.values()}))
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    ran = subprocess.run(
        [python_without_the_package, WORKER, folder / "sentences.json", *(one.folder for one in drawn.values())],
        env={**kept, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert ran.returncode == 0, ran.stderr
    alone = json.loads(ran.stdout.splitlines()[-1])
    return {
        (scheme, mode): Checkpoint(one.scheme, one.folder, one.sentences, one.tags, mode, alone[str(one.folder)][mode])
        for scheme, one in drawn.items()
        for mode in MODES
    }


def cases(table: dict[str, Any]) -> list[Any]:
    """(scheme, mode), row: every row of a table with every checkpoint."""
    return [
        pytest.param((scheme, mode), row, id=f"{row} {scheme} {mode}")
        for row, scheme, mode in product(table, LABELS, MODES)
        if mode == "float32" or not row.startswith(FLOAT32_ONLY)
    ]


@pytest.mark.parametrize(("place", "reader"), cases(READERS))
def test_every_reader_finds_the_same_entities(checkpoints, place, reader, tmp_path):
    checkpoint = checkpoints[place]
    read = READERS[reader]
    needs_a_folder = read.__code__.co_argcount > 1
    in_trainer = "Trainer" in reader  # which has an autocast of its own
    with contextlib.nullcontext() if in_trainer else checkpoint.context(), torch.no_grad():
        found = read(checkpoint, tmp_path) if needs_a_folder else read(checkpoint)
    assert len(found) == len(checkpoint.sentences)
    kinds = [kind for kind, count in OF_EACH.items() for _ in range(count)]
    wrong = []
    for kind, words, tags, said in zip(kinds, checkpoint.sentences, checkpoint.tags, found):
        if said is None:
            assert kind == "long"
            continue
        spans = checkpoint.spans(said) if said and isinstance(said[0], str) else [tuple(span) for span in said]
        if spans != checkpoint.spans(tags):
            wrong.append((kind, words, spans, checkpoint.spans(tags)))
    assert wrong == []


@pytest.mark.parametrize(("place", "scorer"), cases(SCORERS))
def test_every_scorer_gives_the_same_score(checkpoints, place, scorer, tmp_path, run_script):
    checkpoint = checkpoints[place]
    if checkpoint.scheme.name == "plain":
        pairs = [pair for gold, tags in zip(checkpoint.gold, checkpoint.tags) for pair in zip(gold, tags)]
        expected = sum(gold == tag for gold, tag in pairs) / len(pairs)
    else:
        gold, found = (
            {(row, span) for row, tags in enumerate(rows) for span in checkpoint.spans(tags)}
            for rows in (checkpoint.gold, checkpoint.tags)
        )
        expected = 2 * len(gold & found) / (len(gold) + len(found))
    assert 0.1 < expected < 0.95
    assert SCORERS[scorer](checkpoint, tmp_path, run_script) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scheme", LABELS)
def test_the_sentences_hold_what_readers_could_get_wrong(checkpoints, scheme):
    """Entities of one word and of several, neighbours of one type, several types, texts longer than the window."""
    checkpoint = checkpoints[scheme, "float32"]
    assert checkpoint.scheme.name == scheme
    spans = [checkpoint.spans(tags) for tags in checkpoint.tags]
    if checkpoint.scheme.name != "plain":
        sizes = {end - start for found in spans for start, end, _ in found}
        assert {1, 2, 3} <= sizes
        assert any(a[1] == b[0] and a[2] == b[2] for found in spans for a, b in pairwise(found))
    assert len({span[2] for found in spans for span in found}) >= 2
    ids = tokenize_words(checkpoint.sentences, checkpoint.tokenizer)["input_ids"]
    assert sum(len(row) > WINDOW for row in ids) == OF_EACH["long"]
