"""The cost of every objective: its training step against plain fine-tuning, and the bytes of its targets.

    python -m benchmarks.objective_cost [--tags 9 20 33] [--rounds 15] [--write docs/objectives.md]

A step is what `Trainer` does with a batch: fetch the rows, collate them, forward, loss, backward, update. The loss
alone is the same without the encoder: from a batch and its emissions to the gradients of emissions and transitions.
All objectives take the same batches in turn, in one run, in an order that rotates; a ratio is taken within each round
against objective `none` on the same batch, so that other work on the machine affects all alike. Printed are the
median ratio and its quartiles, and median milliseconds of the loss alone. Teacher and student are encoders of the
given shape with random weights, which take as long as trained ones; sentences are made of the demo corpus's words,
their lengths spread evenly around `--words`.

`--write` puts the tables into their marked place in a Markdown file.
"""

import argparse
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset

from hf_structkd import (
    StructKDTrainer,
    StructKDTrainingArguments,
    Teacher,
    XLMRobertaCRFConfig,
    XLMRobertaForTokenClassificationCRF,
    annotate,
)
from hf_structkd.data.columns import TARGET_COLUMNS
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.distillation.objectives import OBJECTIVES
from hf_structkd.distillation.weighted_objectives import NO_DISTILLATION, needed_columns, parse_objective
from hf_structkd.evaluation.markdown import fill_file, table

SPECS = [NO_DISTILLATION, *OBJECTIVES, "posterior+top_wk"]


def make_corpus(args: argparse.Namespace, labels: list[str]) -> Dataset:
    draw = random.Random(0)
    words = sorted({word for tokens in load_demo_corpus("en", "train")["tokens"] for word in tokens})
    lengths = [round(args.words * (0.25 + 1.5 * i / max(args.batch_size - 1, 1))) for i in range(args.batch_size)]
    tokens = [[draw.choice(words) for _ in range(max(1, length))] for _ in range(args.batches) for length in lengths]
    tags = [[draw.choice(labels) for _ in sentence] for sentence in tokens]
    return Dataset.from_dict({"tokens": tokens, "tags": tags, "language": ["en"] * len(tokens)})


def make_model(args: argparse.Namespace, labels: list[str], tokenizer, seed: int):
    torch.manual_seed(seed)
    config = XLMRobertaCRFConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        intermediate_size=4 * args.hidden,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        tag_scheme="plain",
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return XLMRobertaForTokenClassificationCRF(config)


def stored_bytes(annotated: Dataset, columns: tuple[str, ...]) -> float:
    if not columns:
        return 0.0
    return annotated.select_columns(list(columns)).data.nbytes / len(annotated)


class KnownEmissions(torch.nn.Module):
    """A model whose encoder takes no time, because its emissions are given."""

    def __init__(self, model, batch: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.distribution = model.distribution
        with torch.no_grad():
            self.outputs = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "word_mask")})

    def forward(self, **inputs):
        self.outputs.emissions = self.outputs.emissions.detach().requires_grad_()
        return self.outputs


def measure(args: argparse.Namespace, count: int) -> dict[str, dict[str, float]]:
    """objective -> milliseconds, its ratio to no distillation with quartiles, and bytes per sentence."""
    labels = [f"T{i}" for i in range(count)]
    corpus = make_corpus(args, labels)
    tokenizer = train_tokenizer(corpus["tokens"], vocab_size=8000)
    teacher = Teacher(make_model(args, labels, tokenizer, 1).to(args.device), tokenizer)
    objectives = {spec: parse_objective(spec) for spec in SPECS}
    every = needed_columns({name: pair for chosen in objectives.values() for name, pair in chosen.items()})
    annotated = annotate(corpus, teacher, label_names=labels, targets=every, top_k=args.top_k, progress=False)
    trainers, costs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for spec, chosen in objectives.items():
            needed = needed_columns(chosen)
            left = [name for name in TARGET_COLUMNS if name in annotated.column_names and name not in needed]
            own_args = StructKDTrainingArguments(
                folder,
                objective=spec,
                per_device_train_batch_size=args.batch_size,
                lambda_schedule="constant",
                lambda_start=0.5,
                learning_rate=1e-5,
                report_to="none",
                disable_tqdm=True,
                use_cpu=args.device == "cpu",
            )
            model = make_model(args, labels, tokenizer, 2)
            trainer = StructKDTrainer(
                model, own_args, train_dataset=annotated.remove_columns(left), processing_class=tokenizer
            )
            trainer.create_optimizer()
            trainer.model.train()
            trainers[spec] = trainer
            costs[spec] = {"bytes": stored_bytes(annotated, needed)}

    keep = {*TARGET_COLUMNS, "input_ids", "attention_mask", "word_mask", "labels"}

    def collated(spec: str, number: int):
        trainer, first = trainers[spec], number % args.batches * args.batch_size
        rows = [trainer.train_dataset[row] for row in range(first, first + args.batch_size)]
        batch = trainer.data_collator([{k: v for k, v in row.items() if k in keep} for row in rows])
        return trainer._get_num_items_in_batch([batch], trainer.args.device), trainer._prepare_inputs(batch)

    def wait() -> float:
        if args.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(spec: str, number: int) -> float:
        trainer, started = trainers[spec], wait()
        items, batch = collated(spec, number)
        trainer.training_step(trainer.model, batch, items)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return wait() - started

    known = {(spec, number): collated(spec, number) for spec in SPECS for number in range(args.batches)}
    fast = {key: KnownEmissions(trainers[key[0]].model, batch) for key, (_, batch) in known.items()}

    def loss_alone(spec: str, number: int) -> float:
        items, batch = known[spec, number % args.batches]
        started = wait()
        trainers[spec].compute_loss(fast[spec, number % args.batches], batch, num_items_in_batch=items).backward()
        return wait() - started

    def in_turn(run, rounds: int) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {spec: [] for spec in SPECS}
        for number in range(-1, rounds):
            for spec in [*SPECS[number % len(SPECS) :], *SPECS[: number % len(SPECS)]]:
                seconds = run(spec, number)
                if number >= 0:  # the round before the first one warms up
                    times[spec].append(seconds)
        return times

    alone, times = in_turn(loss_alone, 5 * args.rounds), in_turn(step, args.rounds)
    for spec in SPECS:
        ratios = [distilled / plain for distilled, plain in zip(times[spec], times[NO_DISTILLATION])]
        low, middle, high = statistics.quantiles(ratios, n=4)
        costs[spec] |= {"ms": 1000 * statistics.median(times[spec]), "low": low, "ratio": middle, "high": high}
        costs[spec]["loss_ms"] = 1000 * statistics.median(alone[spec])
    pairs = zip(alone["structural"], alone["posterior"])
    costs["structural"]["to_posterior"] = statistics.median(a / b for a, b in pairs)
    return costs


def as_markdown(args: argparse.Namespace, measured: dict[int, dict[str, dict[str, float]]]) -> str:
    lines = [
        f"Measured with `benchmarks/objective_cost.py` on an {platform.machine()} CPU"
        if args.device == "cpu"
        else f"Measured with `benchmarks/objective_cost.py` on a {torch.cuda.get_device_name()}",
        f"({torch.get_num_threads()} thread(s), torch {torch.__version__.split('+')[0]}): batches of "
        f"{args.batch_size} sentences of {args.words} words on average, k = {args.top_k}, an encoder with "
        f"{args.layers} layers of {args.hidden}, {args.rounds} rounds. *Step*: time of a training step over that of "
        "`none` on the same batch, "
        "median (quartiles). *Loss*: the loss and its gradients without the encoder, for the batch, gold's part "
        "included. *Bytes*: the targets of a sentence.",
        "",
    ]
    rows = []
    for spec in SPECS:
        cells = []
        for costs in measured.values():
            cost = costs[spec]
            spread = f"{cost['ms']:.0f} ms" if spec == NO_DISTILLATION else ""
            cells.append(spread or f"{cost['ratio']:.2f} ({cost['low']:.2f} to {cost['high']:.2f})")
            cells += [f"{cost['loss_ms']:.1f} ms", f"{cost['bytes']:,.0f}"]
        rows.append([f"`{spec}`", *cells])
    header = [name for c in measured for name in (f"step, {c} tags", "loss", "bytes")]
    against = ", ".join(f"{costs['structural']['to_posterior']:.2f} ({c} tags)" for c, costs in measured.items())
    return "\n".join(
        [
            *lines,
            table(["objective", *header], rows),
            "",
            f"The loss of `structural` against that of `posterior`, median of pairs: {against}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tags", type=int, nargs="+", default=[9, 20, 33])
    for name, default in {
        **{"hidden": 256, "layers": 4, "heads": 4, "batch-size": 32, "words": 24, "top-k": 5},
        **{"batches": 4, "rounds": 15},
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", type=Path, help="a Markdown file with marked places for the tables")
    args = parser.parse_args()
    text = as_markdown(args, {count: measure(args, count) for count in args.tags})
    print(text)
    if args.write:
        fill_file(args.write, "objective_cost", {"objective_cost": f"\n{text}\n"})


if __name__ == "__main__":
    main()
