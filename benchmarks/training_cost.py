"""The cost of the recipes of examples/recipes/paper: counted operations, measured steps, estimated GPU hours.

    python -m benchmarks.training_cost --measure [--device cuda] [--batch_size 8] [--rounds 3]
    python -m benchmarks.training_cost --write
    python -m benchmarks.training_cost --stock [--hidden 64] [--layers 1] [--rounds 60]

`--stock` times training steps of `Trainer` itself, with its collator and its rows, and of ours with the objective
posterior+top_wk and stored answers, in turn, with one encoder; and fetching and collating a batch alone, of rows with
Python lists and with arrays. It prints a line of JSON: each ratio as median and quartiles of the rounds.

`--measure` times training steps of each student at its real size, random weights, without distillation and with the
recipe's objective in turn, and keeps them in results/paper/step_times.json. `--write` counts the operations of each
encoder, makes the estimates and fills the marked places of examples/recipes/paper/README.md; published figures are in
results/paper/reference.yaml. The hours follow from the operations and the paper's own hours, not from the steps timed
here.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, BertConfig, XLMRobertaConfig

from hf_structkd.evaluation import markdown
from hf_structkd.evaluation.markdown import fill_file
from hf_structkd.files import write_atomically

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "recipes" / "paper"
RESULTS = Path(__file__).parent / "results" / "paper"
STEP_TIMES = RESULTS / "step_times.json"
ROBERTA = {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SHAPES = {  # of the encoders that the recipes name; the configurations' defaults are those of a base model
    "FacebookAI/xlm-roberta-base": XLMRobertaConfig(**ROBERTA),
    "FacebookAI/xlm-roberta-large": XLMRobertaConfig(**ROBERTA, **LARGE),
    "google-bert/bert-base-multilingual-cased": BertConfig(vocab_size=119547),
}
STUDENTS = ("xlmr", "mbert", "mbert_bilstm")
LENGTH = 32  # subwords of the sentence whose operations are counted


def recipe(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def operations_a_subword(fields: dict[str, Any], training: bool) -> float:
    """Floating-point operations of an encoder's matrix products per subword; of a frozen one, without gradients."""
    with torch.device("meta"):
        model = AutoModel.from_config(SHAPES[fields["model"]], add_pooling_layer=False)
        ids = torch.ones(1, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        states = model(input_ids=ids).last_hidden_state
        if training and not fields.get("model_config", {}).get("freeze_encoder"):
            states.sum().backward()
    return counter.get_total_flops() / LENGTH


def lstm_operations_a_word(fields: dict[str, Any]) -> float:
    """Operations of a BiLSTM per word; 0 if there is none. Two operations per weight forward, four backward."""
    hidden = fields.get("model_config", {}).get("lstm_hidden_size") or 0
    return 6 * 2 * 4 * hidden * (SHAPES[fields["model"]].hidden_size + hidden)


# ---- steps, timed here ----


def time_steps(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a training step of a student without distillation and with its recipe's objective."""
    from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher, annotate, crf_class_for
    from hf_structkd.data.columns import TARGET_COLUMNS
    from hf_structkd.data.demo_corpus import load_demo_corpus
    from hf_structkd.data.tokenizer import train_tokenizer
    from hf_structkd.distillation.weighted_objectives import needed_columns, parse_objective

    from .objective_cost import make_corpus

    fields = recipe(name)
    labels = ["O", *(f"{prefix}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for prefix in "BIES")]
    shape = SimpleNamespace(words=options.words, batch_size=options.batch_size, batches=1)
    corpus = make_corpus(shape, ["O"])
    tokenizer = train_tokenizer(load_demo_corpus("en", "train")["tokens"], vocab_size=8000)
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    config = SHAPES[fields["model"]]
    cls = crf_class_for(config)

    def make(**own: Any) -> Any:
        torch.manual_seed(0)
        known = {**config.to_dict(), **named, "tag_scheme": "BIOES", **own}
        return cls(cls.config_class(**{k: v for k, v in known.items() if k not in ("model_type", "architectures")}))

    small = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": len(tokenizer)}
    teacher = Teacher(make(**small), tokenizer)  # its answers take the same room whatever its size
    objectives = parse_objective(fields["objective"])
    annotated = annotate(
        corpus, teacher, label_names=labels, targets=needed_columns(objectives), top_k=5, progress=False
    )
    model = make(**fields.get("model_config", {})).to(options.device)
    model.train()
    specs = ("none", fields["objective"])
    # On a CPU, the process's own time, which other processes do not lengthen.
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {spec: [] for spec in specs}
    with tempfile.TemporaryDirectory() as folder:
        trainers: dict[str, Any] = {}
        for spec in specs:
            args = StructKDTrainingArguments(
                folder,
                objective=spec,
                optim=fields.get("optim", "adamw_torch"),
                learning_rate=1e-6,
                lambda_schedule="constant",
                lambda_start=0.5,
                use_cpu=options.device == "cpu",
                report_to="none",
                disable_tqdm=True,
            )
            trainers[spec] = StructKDTrainer(model, args, None, annotated, None, tokenizer)
            trainers[spec].optimizer = trainers["none"].optimizer  # one set of moments: a second would not fit
            trainers[spec].create_optimizer()
        keep = {*TARGET_COLUMNS, "input_ids", "attention_mask", "word_mask", "labels"}
        trainer = trainers["none"]
        rows = [{k: v for k, v in row.items() if k in keep} for row in trainer.train_dataset]
        subwords = sum(len(row["input_ids"]) for row in rows)
        for round_ in range(-1, options.rounds):
            for spec, trainer in trainers.items():
                started = clock()
                batch = trainer.data_collator([dict(row) for row in rows])
                items = trainer._get_num_items_in_batch([batch], trainer.args.device)
                trainer.training_step(model, trainer._prepare_inputs(batch), items)
                trainer.optimizer.step()
                trainer.optimizer.zero_grad()
                if options.device != "cpu":
                    torch.cuda.synchronize()
                if round_ >= 0:  # the one before warms up
                    seconds[spec].append(clock() - started)
    ratios = [with_it / without for without, with_it in zip(*seconds.values())]
    return {
        "objective": fields["objective"],
        "subwords": subwords,
        "seconds": {spec: statistics.median(found) for spec, found in seconds.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def measure(options: argparse.Namespace) -> None:
    device = f"{platform.machine()} CPU" if options.device == "cpu" else torch.cuda.get_device_name()
    report = {
        "machine": f"{device}, {torch.get_num_threads()} thread(s), torch {torch.__version__.split('+')[0]}",
        "clock": "processor time" if options.device == "cpu" else "elapsed time",
        "batch_size": options.batch_size,
        "words": options.words,
        "rounds": options.rounds,
        "students": {name: time_steps(name, options) for name in STUDENTS},
    }
    write_atomically(STEP_TIMES, json.dumps(report, indent=2) + "\n")


# ---- steps against Trainer's own ----


def against_stock(options: argparse.Namespace) -> dict[str, Any]:
    """Training steps of `Trainer` and ours on the same sentences, and our batches made from lists and from arrays."""
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from transformers import (
        AutoModelForTokenClassification,
        DataCollatorForTokenClassification,
        Trainer,
        TrainingArguments,
    )

    from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher, annotate
    from hf_structkd.data.columns import target_of
    from hf_structkd.data.tokenizer import train_tokenizer
    from hf_structkd.distillation.weighted_objectives import needed_columns, parse_objective

    from .objective_cost import make_corpus, make_model

    objective = "posterior+top_wk"
    shape = {"words": options.words, "batch_size": options.batch_size, "batches": 16, "heads": 4}
    shape = argparse.Namespace(**shape, hidden=options.hidden, layers=options.layers)
    labels = [f"T{number}" for number in range(options.tags)]
    corpus = make_corpus(shape, labels)
    tokenizer = train_tokenizer(corpus["tokens"], vocab_size=8000)
    teacher, student = (make_model(shape, labels, tokenizer, seed) for seed in (1, 2))
    answers = needed_columns(parse_objective(objective))
    annotated = annotate(
        corpus, Teacher(teacher, tokenizer), label_names=labels, targets=answers, top_k=5, progress=False
    )
    fields = {name: value for name, value in student.config.to_dict().items() if not name.startswith("crf_")}
    plain = AutoModelForTokenClassification.from_config(XLMRobertaConfig(**fields))
    plain.roberta.load_state_dict(student.roberta.state_dict())
    common: dict[str, Any] = {
        "per_device_train_batch_size": options.batch_size,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        arguments = StructKDTrainingArguments(
            folder, objective=objective, lambda_schedule="constant", lambda_start=0.5, **common
        )
        ours = StructKDTrainer(student, arguments, None, annotated, None, tokenizer)
        stock = Trainer(
            plain,
            TrainingArguments(folder, **common),
            DataCollatorForTokenClassification(tokenizer),
            # As a user of Trainer has it: without the columns that distillation added.
            ours.train_dataset.remove_columns(
                [name for name in ours.train_dataset.column_names if target_of(name) or name == "word_mask"]
            ),
        )
        contestants = {"stock": stock, "ours": ours}
        for trainer in contestants.values():
            trainer.create_optimizer()
            trainer.model.train()
        kept = [name for name in ours.train_dataset.column_names if name not in ("tokens", "tags", "language")]
        rows = {"lists": ours.train_dataset.select_columns(kept), "arrays": None}
        rows["arrays"] = ours._remove_unused_columns(ours.train_dataset)

        def batches(data: Dataset) -> Any:
            while True:
                yield from DataLoader(data, options.batch_size, collate_fn=ours.data_collator)

        def steps(trainer: Any) -> Any:
            while True:
                loader = iter(trainer.get_train_dataloader())
                for _ in range(shape.batches):
                    samples, items = trainer.get_batch_samples(loader, 1, trainer.args.device)
                    trainer.training_step(trainer.model, samples[0], items)
                    trainer.optimizer.step()
                    trainer.optimizer.zero_grad()
                    yield

        work = {name: steps(trainer) for name, trainer in contestants.items()}
        work |= {name: batches(data) for name, data in rows.items()}
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for round_ in range(-shape.batches, options.rounds):
            for name, iterator in work.items():
                started = time.process_time()
                next(iterator)
                if round_ >= 0:
                    seconds[name].append(time.process_time() - started)

    def ratio(name: str, to: str) -> list[float]:
        ratios = [one / other for one, other in zip(seconds[name], seconds[to])]
        return [round(value, 3) for value in statistics.quantiles(ratios, n=4)]

    return {
        "milliseconds": {name: round(1000 * statistics.median(times), 2) for name, times in seconds.items()},
        "step of ours to Trainer's, quartiles": ratio("ours", "stock"),
        "batch of arrays to one of lists, quartiles": ratio("arrays", "lists"),
    }


# ---- estimates and tables ----


def size_of(reference: dict[str, Any], corpus: str) -> tuple[float, float]:
    """Words and subwords of a corpus's training sentences, all languages."""
    sizes = reference["sizes"][corpus].values()
    words = sum(count for _, count in sizes)
    return words, words * reference["subwords_a_word"] + 2 * sum(sentences for sentences, _ in sizes)


def operations(reference: dict[str, Any], corpus: str, name: str) -> float:
    """Floating-point operations of training a recipe's tagger on a corpus, without distillation."""
    fields = recipe(name)
    words, subwords = size_of(reference, corpus)
    operations = subwords * operations_a_subword(fields, training=True) + words * lstm_operations_a_word(fields)
    return fields["num_train_epochs"] * operations


def share_of_peak(reference: dict[str, Any]) -> float:
    """The share of a GPU's peak that the paper's training time implies, if all epochs of its recipe ran."""
    done = operations(reference, "conll", reference["paper"]["student"])
    hours, peak = reference["paper"]["v100_hours"]["baseline"], reference["gpus"][reference["paper_gpu"]]
    return done / (hours * 3600 * peak * 1e12)


def table(header: list[str], rows: list[list[str]]) -> str:
    return f"\n{markdown.table(header, rows, numbers=True)}\n"


def scores_table(reference: dict[str, Any]) -> str:
    rows = []
    for origin in ("paper", "official_readme"):
        for corpus, scores in reference[origin]["scores"].items():
            columns = ("teachers", "baseline", "top_k", "top_wk", "posterior", "posterior+top_wk")
            shown = [f"{scores[name]:.2f}" if name in scores else "" for name in columns]
            rows.append([f"`{corpus}.yaml` `{reference[origin]['student']}.yaml`", *shown])
    header = ["recipes", "teachers", "baseline", "`top_k`", "`top_wk`", "`posterior`", "`posterior+top_wk`"]
    sources = f"First four rows: {reference['paper']['source']}. Last: {reference['official_readme']['source']}.\n"
    return table(header, rows) + "\n" + sources


def hours_table(reference: dict[str, Any]) -> str:
    share, paper = share_of_peak(reference), reference["paper"]["v100_hours"]
    ratio = paper["posterior"] / paper["baseline"]
    header = ["corpora", "trained", "epochs", "10^15 operations"]
    header += [f"{gpu}, hours (with distillation)" for gpu in reference["gpus"]]
    rows = []
    for corpus in reference["sizes"]:
        for name in ("teacher", *STUDENTS):
            count = operations(reference, corpus, name)
            cells = []
            for peak in reference["gpus"].values():
                hours = count / (share * peak * 1e12 * 3600)
                cells.append(f"{hours:.2g}" + ("" if name == "teacher" else f" ({hours * ratio:.2g})"))
            shown = f"{name}, all languages" if name == "teacher" else name
            rows.append([f"`{corpus}`", shown, str(recipe(name)["num_train_epochs"]), f"{count / 1e15:,.0f}", *cells])
    stated = ", ".join(f"{name} {hours}" for name, hours in paper.items())
    note = (
        f"Hours at {100 * share:.1f} % of the GPU's stated peak, which is what the paper's {paper['baseline']} hours "
        "on a V100 imply for its baseline on CoNLL if all "
        f"{recipe(reference['paper']['student'])['num_train_epochs']} epochs ran (so that row repeats them by "
        f"construction). The paper's V100 hours on CoNLL: {stated}. With distillation: times {ratio:.2f}, the paper's "
        f"`posterior` to its baseline. {reference['subwords_a_word']} subwords a word are assumed.\n"
    )
    return table(header, rows) + "\n" + note


def steps_table(measured: dict[str, Any]) -> str:
    rows = []
    for name, student in measured["students"].items():
        fields = recipe(name)
        plain = student["seconds"]["none"]
        count = student["subwords"] * operations_a_subword(fields, training=True)
        rates = sorted(student["ratios"])
        cells = [f"{plain:.2f}", f"{student['seconds'][student['objective']]:.2f}"]
        cells += [f"{student['ratio']:.2f} ({rates[0]:.2f} to {rates[-1]:.2f})", f"{count / plain / 1e9:.0f}"]
        rows.append([f"`{name}`", f"`{student['objective']}`", *cells])
    header = ["student", "objective", "step without, s", "step with, s", "ratio (range)", "10^9 operations a second"]
    note = (
        f"{measured['machine']}; batches of {measured['batch_size']} sentences of {measured['words']} words on "
        f"average, 17 tags, {measured['rounds']} rounds in turn, random weights; {measured['clock']}.\n"
    )
    return table(header, rows) + "\n" + note


def write() -> None:
    reference = yaml.safe_load((RESULTS / "reference.yaml").read_text(encoding="utf-8"))
    measured = json.loads(STEP_TIMES.read_text(encoding="utf-8"))
    figures = {"scores": scores_table(reference), "hours": hours_table(reference)}
    figures["steps"] = steps_table(measured)
    fill_file(FOLDER / "README.md", "paper", {f"paper / {name}": text for name, text in figures.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="time the steps, and keep the times")
    parser.add_argument("--write", action="store_true", help="fill examples/recipes/paper/README.md")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stock", action="store_true", help="time steps of Trainer and ours in turn, and print them")
    for name, default in {"batch_size": 8, "words": 17, "rounds": 3, "hidden": 64, "layers": 1, "tags": 9}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    if not (options.measure or options.write or options.stock):
        parser.error("give --measure, --write or --stock")
    if options.stock:
        shape = {name: vars(options)[name] for name in ("batch_size", "words", "rounds", "hidden", "layers", "tags")}
        print(json.dumps({**shape, "threads": torch.get_num_threads(), **against_stock(options)}))
    if options.measure:
        measure(options)
    if options.write:
        write()


if __name__ == "__main__":
    main()
