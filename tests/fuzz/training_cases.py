"""Trainings that nobody meant: how each is drawn, and what it says of itself."""

import math
import random
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from transformers import XLMRobertaConfig, XLMRobertaForTokenClassification

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher, annotate, encode_corpus
from hf_structkd.data.collator import DataCollatorForStructKD
from hf_structkd.data.columns import TARGET_COLUMNS
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.distillation.objectives import OBJECTIVES
from hf_structkd.distillation.targets import Targets
from hf_structkd.distillation.weighted_objectives import needed_columns, parse_objective
from hf_structkd.modeling.crf import LinearChainCRF
from hf_structkd.modeling.tag_scheme import convert_tags
from hf_structkd.teachers.function import CallableTeacher
from tests.conftest import draw_student, label_fields

SIZES = {"xa": 16, "xb": 8}  # sentences of each language; every third has no gold where a case asks for such
WORDS = (
    *("alder", "birch", "cedar", "dowel", "elm", "fir", "gouge", "hazel", "iron", "jig", "kiln", "lathe", "maple"),
    *("nail", "oak", "plane", "rasp", "saw", "teak", "vise"),
)
KINDS = ("TREE", "TOOL")
OF_GROUPS = (
    "posterior",
    "top_k",
    "top_wk",
    "fuzzy",
    "gate_word",
    "gate_sentence",
)  # objectives for teachers that cannot tell some tags apart
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 80,
        "type_vocab_size": 1}  # fmt: skip


def draw_case(seed: int) -> dict[str, Any]:
    """A training, as JSON holds it; the same seed draws the same one.

    `batch`, `accumulation` and `processes` say how an update's sentences are cut up, which must change nothing.
    """
    rng = random.Random(f"training {seed}")
    # What the first dozen has to have all of is gone through in turn.
    head = ("crf", "softmax", "crf")[seed % 3]
    scheme = ("BIO", "BIOES", "plain")[(seed + seed // 3) % 3]
    processes = (1, 1, 2, 1)[seed % 4]
    groups = rng.random() < 0.25
    names = OF_GROUPS if groups else [name for name in OBJECTIVES if head == "crf" or name != "substructure"]
    parts = sorted({names[seed % len(names)], *rng.sample(names, rng.choice([0, 0, 1]))}) if seed % 6 != 4 else []
    metric = "accuracy" if scheme == "plain" else "f1"
    hidden = bool(parts) and rng.random() < 0.6
    batch, accumulation = rng.choice([2, 4]), rng.choice([1, 2, 3])
    # Two checkpoints before the last one, the second of them in the second epoch of two.
    every = math.ceil(2 * math.ceil(sum(SIZES.values()) / (batch * accumulation * processes)) / 3)
    schedule = rng.choice(["linear", "linear_per_epoch", "cosine", "constant"])
    options = {
        "objective": {name: rng.choice([0.5, 1.0, 2.0]) for name in parts} or "none",
        "normalization": rng.choice(["word", "sentence"]),
        "lambda_schedule": schedule,
        "lambda_start": rng.choice([1.0, 0.7, 0.3]),
        "lambda_end": rng.choice([0.0, 0.6, 1.0]),
        "language_sampling_temperature": rng.choice([None, None, 0.5, 3.0, float("inf")]),
        "unlabelled_rate": rng.choice([None, 1 / 3, 0.5]) if hidden else None,
        "train_sampling_strategy": rng.choice(["random", "group_by_length"]),
        "crf_learning_rate": rng.choice([None, 0.03]) if head == "crf" else None,
        "metric_for_best_model": rng.choice(["macro", "macro_loss", f"xa_{metric}"]),
        "bf16": rng.random() < 0.25,
        "num_train_epochs": 2,
        "eval_steps": every,
        "save_steps": every,
        "seed": rng.randrange(1000),
    }
    return {
        **{"seed": seed, "head": head, "scheme": scheme, "groups": groups, "hidden": hidden, "options": options},
        **{
            "unasked": rng.random() < 0.4,
            "constraints": rng.choice(["none", "decode", "decode" if groups else "train"]),
        },
        **{"batch": batch, "accumulation": accumulation, "processes": processes},
        "metric": metric,
    }


class World:
    """The corpora, tokenizer, teachers and students of one tag scheme; nothing of it is from a file."""

    def __init__(self, scheme: str) -> None:
        rng = random.Random(f"woods {scheme}")
        self.scheme, seen = scheme, set()
        if scheme == "plain":
            self.labels = ["X", *KINDS, "MARK"]
        else:
            self.labels = ["O", *(f"{letter}-{kind}" for kind in KINDS for letter in
                                  ("BI" if scheme == "BIO" else "BIES"))]  # fmt: skip
        self.corpora, self.dev = {}, {}
        for language, size in SIZES.items():
            rows = []
            while len(rows) < size + 5:
                words = rng.choices(WORDS, k=rng.choice([1, 2, 3, 4, 6, 8]))
                if tuple(words) not in seen:
                    seen.add(tuple(words))
                    rows.append({"tokens": words, "tags": self._tags(words), "language": language})
            self.corpora[language] = Dataset.from_list(rows[:size])
            self.dev[language] = Dataset.from_list(rows[size : size + (5 if language == "xa" else 2)])
        whole = concatenate_datasets(list(self.corpora.values()))
        self.tokenizer = train_tokenizer(whole["tokens"], vocab_size=90)

    def _tags(self, words: list[str]) -> list[str]:
        """Each word has a kind of its own, so that there is something to learn; alike neighbours are one entity."""
        if self.scheme == "plain":
            return [self.labels[WORDS.index(word) % 4] for word in words]
        kinds = [(None, *KINDS)[WORDS.index(word) % 3] for word in words]
        tags = [
            "O" if kind is None else f"{'I' if kind == before else 'B'}-{kind}"
            for before, kind in zip([None, *kinds], kinds)
        ]
        return convert_tags(tags, "BIO", self.scheme)

    def teacher(self, language: str, case: dict[str, Any]) -> Any:
        if not case["groups"]:
            # What a student excludes its teacher must exclude too, or losses are infinite.
            fields = {"tag_scheme": self.scheme, "crf_constraints": case["constraints"]}
            model = draw_student(self.tokenizer, self.labels, seed=sum(map(ord, language)), **fields)
            return Teacher(model, self.tokenizer)
        # It knows one kind alone: all else it calls the first label.
        first, other = (self.labels[0], [label for label in self.labels[1:] if KINDS[1] not in label])
        own = [label for label in self.labels if label not in other]
        others = [first, "TREE", "MARK"] if self.scheme == "plain" else [first, "TREE"]

        def answer(sentences: list[list[str]]) -> list[Any]:
            drawn = [torch.Generator().manual_seed(len(" ".join(words))) for words in sentences]
            return [
                torch.rand(len(words), len(own), generator=g).add(0.2).softmax(dim=1).numpy()
                for words, g in zip(sentences, drawn)
            ]

        return CallableTeacher(answer, own, name=language, revision="1", label_map={first: others})

    def train(self, case: dict[str, Any]) -> Dataset:
        """The training data with the teachers' answers, tokenised."""
        data = concatenate_datasets(list(self.corpora.values()))
        if case["hidden"]:
            data = data.map(
                lambda row, i: {"tags": None if i % 3 == 0 else row["tags"]}, with_indices=True, features=data.features
            )
        objectives = parse_objective(case["options"]["objective"])
        if objectives:
            teachers = {language: self.teacher(language, case) for language in SIZES}
            data = annotate(
                data, teachers, label_names=self.labels, targets=needed_columns(objectives), top_k=3, progress=False
            )
        if objectives and case["unasked"]:
            answers = [name for name in TARGET_COLUMNS if name in data.column_names]
            data = data.map(
                lambda row, i: dict.fromkeys(answers) if i % 3 == 1 and i > 3 else {}, with_indices=True,
                features=data.features,
            )  # fmt: skip
        return encode_corpus(data, self.tokenizer, self.labels)

    def student(self, case: dict[str, Any]) -> Any:
        """Every weight is drawn; there is no dropout, whose random numbers depend on how a batch is cut."""
        if case["head"] == "crf":
            fields = {"tag_scheme": self.scheme, "crf_constraints": case["constraints"]}
            return draw_student(self.tokenizer, self.labels, seed=case["seed"], **{**TINY, **fields}).train()
        torch.manual_seed(case["seed"])
        size, padding = len(self.tokenizer), self.tokenizer.pad_token_id
        config = XLMRobertaConfig(vocab_size=size, pad_token_id=padding, **TINY, **label_fields(self.labels))
        model = XLMRobertaForTokenClassification(config)
        torch.nn.init.normal_(model.classifier.weight)
        return model


class Recorded(StructKDTrainer):
    """Remembers which sentences came in which update: by their subwords, of this process."""

    def training_step(self, model, inputs, *args, **kwargs):
        rows = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist())
        self.seen[self.state.global_step] += [[i for i, kept in zip(ids, mask) if kept] for ids, mask in rows]
        return super().training_step(model, inputs, *args, **kwargs)


def make_trainer(world: World, case: dict[str, Any], folder: Path, **changes: Any) -> Recorded:
    """The trainer of a case; `changes` are of the training arguments."""
    options = {
        "per_device_train_batch_size": case["batch"], "gradient_accumulation_steps": case["accumulation"],
        "top_k": 3, "learning_rate": 1e-2, "logging_steps": 1, "eval_strategy": "steps", "save_strategy": "steps",
        "per_device_eval_batch_size": 2, "load_best_model_at_end": True, "report_to": "none", "disable_tqdm": True,
        "use_cpu": True, **case["options"], **changes,
    }  # fmt: skip
    args = StructKDTrainingArguments(str(folder), **options)
    trainer = Recorded(world.student(case), args, None, world.train(case), dict(world.dev), world.tokenizer)
    trainer.seen = defaultdict(list)
    return trainer


def report(trainer: Recorded) -> dict[str, Any]:
    """What a training came to, as JSON holds it."""
    logs = [{k: v for k, v in log.items() if not k.endswith(("_runtime", "_per_second"))} for log in
            trainer.state.log_history if "train_loss" not in log]  # fmt: skip
    weights = torch.cat([p.detach().flatten() for _, p in sorted(trainer.model.named_parameters())])
    return {
        "seen": {str(step): rows for step, rows in trainer.seen.items()},
        "logs": logs,
        "weights": weights.tolist(),
        "best": [trainer.state.best_metric, trainer.state.best_global_step],
        "metric": trainer.args.metric_for_best_model,
    }


def train_whole(world: World, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """From the beginning to the end; the best model is left in `folder / "best"`, its scores are in the report."""
    trainer = make_trainer(world, case, folder)
    trainer.train()
    logs = report(trainer)
    trainer.save_model(str(folder / "best"))
    return {**logs, "scores": trainer.evaluate()}


def train_on(world: World, case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Once more from its second checkpoint, in a trainer that knows nothing of the first one."""
    torch.manual_seed(77)
    trainer = make_trainer(world, case, folder)
    trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{2 * case['options']['save_steps']}"))
    return report(trainer)


def losses_alone(world: World, case: dict[str, Any], rows: list[list[int]], lam: float) -> float:
    """The loss of the first update, from its sentences one by one, in float32, by the formula of the paper."""
    model, data = world.student(case).eval(), world.train(case)
    objectives = parse_objective(case["options"]["objective"])
    by_subwords = {tuple(row["input_ids"]): row for row in data}
    collate = DataCollatorForStructKD(world.tokenizer, len(world.labels))
    total, items = 0.0, 0
    for ids in rows:
        batch = collate([by_subwords[tuple(ids)]])
        targets, labels, words = Targets.pop_from(batch), batch.pop("labels"), batch["word_mask"]
        with torch.no_grad():
            crf = distribution(model, case, batch)
            gold = labels[words][None]
            labelled = bool((gold != -100).all())
            answered = bool(objectives) and bool(targets) and bool(targets.answered().all())
            nll = -float(crf.log_prob(gold)) if labelled else 0.0
            kd = sum(weight * float(part(crf, targets)) for part, weight in objectives.values()) if answered else 0.0
        share = (lam if labelled else 1.0) if answered else 0.0
        total += share * kd + (1.0 - share) * nll
        items += int(words.sum()) if case["options"]["normalization"] == "word" else 1
    return total / items


def distribution(model: Any, case: dict[str, Any], batch: dict[str, torch.Tensor]) -> LinearChainCRF:
    """What a student says of the tags of one sentence."""
    if case["head"] == "crf":
        return model.distribution(model(**batch), "train")
    words = batch.pop("word_mask")
    emissions = model(**batch).logits[words][None]
    none = torch.zeros(emissions.shape[-1])
    return LinearChainCRF(emissions, none.expand(len(none), -1), none, none, lengths=words.sum(dim=1))


def evaluation_loss_alone(model: Any, world: World, case: dict[str, Any], language: str) -> float:
    """The gold likelihood of a language's dev sentences, one by one, an item."""
    collate, total, items = DataCollatorForStructKD(world.tokenizer), 0.0, 0
    for row in encode_corpus(world.dev[language], world.tokenizer, world.labels):
        batch = collate([row])
        gold = batch.pop("labels")[batch["word_mask"]][None]
        with torch.no_grad():
            total -= float(distribution(model, case, batch).log_prob(gold))
        items += gold.numel() if case["options"]["normalization"] == "word" else 1
    return total / items


def precision(case: dict[str, Any]) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if case["options"]["bf16"] else nullcontext()
