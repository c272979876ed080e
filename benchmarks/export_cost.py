"""A checkpoint in comparison with its ONNX and int8 exports: size, sentences per second, scores.

python -m benchmarks.export_cost --checkpoint CHECKPOINT --corpus 'DATA/{language}/{split}.conll' \
    --languages en de --exported FOLDER

PyTorch and onnxruntime tag the same test sentences in the same batches, one thread each, round after round; the
process's own time is counted. `--write` puts the table into its marked place (`<!-- results: export -->`) in a
Markdown file.
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from datasets import Dataset

from hf_structkd import Teacher
from hf_structkd.data.readers import CorpusError
from hf_structkd.evaluation.aggregate import macro_average
from hf_structkd.evaluation.markdown import fill_file, table
from hf_structkd.evaluation.tagging_metrics import TaggingMetrics
from hf_structkd.export.onnx import OnnxTagger, export_onnx, quantize_onnx
from hf_structkd.modeling.windows import encoder_window
from hf_structkd.modeling.words import tokenize_words
from hf_structkd.recipes.data import load_data
from hf_structkd.recipes.fields import DataArguments
from hf_structkd.recipes.parser import RecipeError, parse_recipe

MIB = 2**20


@dataclass
class ExportArguments:
    """The checkpoint to export, the folder to write, and how to measure."""

    checkpoint: str = field(metadata={"help": "a checkpoint of this package: Hub id or folder"})
    exported: str = field(metadata={"help": "the graphs are written here, under `onnx` and `int8`"})
    split: str = field(default="test", metadata={"help": "which split is tagged"})
    batch_size: int = field(default=32, metadata={"help": "sentences a forward pass"})
    rounds: int = field(default=3, metadata={"help": "how often; times are medians"})
    write: str | None = field(default=None, metadata={"help": "a Markdown file with a place for the table"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run the code that comes with the checkpoint"})


def size_of(file: Path) -> int:
    """Bytes of a graph, the weights beside it included."""
    return sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*"))


def those_that_fit(data: Dataset, teacher: Teacher) -> Dataset:
    """Sentences that fit an exported model, which has no windows for long ones."""
    ids = tokenize_words(list(data["tokens"]), teacher.tokenizer)["input_ids"]
    window = encoder_window(teacher.model)
    return data.select([row for row, pieces in enumerate(ids) if window is None or len(pieces) <= window])


def main() -> None:
    data_args, args = parse_recipe((DataArguments, ExportArguments), description=__doc__, exit_on_error=True)
    torch.set_num_threads(1)
    sentences = {language: splits[args.split] for language, splits in load_data(data_args, [args.split]).items()}
    teacher = Teacher.from_pretrained(args.checkpoint, trust_remote_code=args.trust_remote_code)
    given = sum(map(len, sentences.values()))
    sentences = {language: those_that_fit(data, teacher) for language, data in sentences.items()}
    folder = Path(args.exported)
    graphs = {"ONNX": export_onnx(teacher.model, teacher.tokenizer, folder / "onnx")}
    graphs["ONNX, int8"] = quantize_onnx(folder / "onnx", folder / "int8")
    weights = sum(value.nbytes for value in teacher.model.state_dict().values())
    sizes = {"PyTorch": weights, **{name: size_of(graph) for name, graph in graphs.items()}}
    taggers = {"PyTorch": teacher, **{name: OnnxTagger(graph.parent, threads=1) for name, graph in graphs.items()}}
    words = {language: list(data["tokens"]) for language, data in sentences.items()}
    seconds: dict[str, list[float]] = {name: [] for name in taggers}
    predicted: dict[str, dict[str, list[list[str]]]] = {}
    for _ in range(args.rounds):
        for name, tagger in taggers.items():
            started = time.process_time()
            predicted[name] = {lang: tagger.tag(own, batch_size=args.batch_size) for lang, own in words.items()}
            seconds[name].append(time.process_time() - started)
    metrics = TaggingMetrics(teacher.labels)
    count = sum(map(len, words.values()))
    long = f" ({given - count} longer than the encoder's window left out)" if given > count else ""
    lines = [
        f"{count:,} sentences{long}, batches of {args.batch_size}, one thread.",
        "",
    ]
    header = ["", "MiB", "sentences/s", f"{metrics.metric_name} x 100", "sentences tagged as by PyTorch"]
    rows = []
    for name, by_language in predicted.items():
        reports = {lang: metrics.report(tags, list(sentences[lang]["tags"])) for lang, tags in by_language.items()}
        score = 100 * macro_average(reports)[metrics.metric_name]
        same = sum(a == b for lang, tags in by_language.items() for a, b in zip(tags, predicted["PyTorch"][lang]))
        speed = count / median(seconds[name])
        share = f"{100 * same / count:.2f} %"
        rows.append([name, f"{sizes[name] / MIB:.1f}", f"{speed:,.0f}", f"{score:.2f}", share])
    text = "\n".join([*lines, table(header, rows, numbers=True)])
    print(text)
    if args.write:
        fill_file(Path(args.write), "export", {"export": text})


if __name__ == "__main__":
    try:
        main()
    except (CorpusError, RecipeError) as error:
        sys.exit(f"error: {error}")
