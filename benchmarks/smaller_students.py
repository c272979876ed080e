"""What each way of making a tagger smaller costs and saves: size, sentences per second of one core, F1.

python -m benchmarks.smaller_students --model ENCODER --corpus 'DATA/{language}/{split}.conll' --languages en de \
    --layers 12 6 3 1 --work FOLDER

One teacher with all layers is trained on gold tags. Then, for each number of layers, students on gold tags alone and
distilled (posterior+top_wk, word vectors first), with the whole vocabulary and with the pieces of the training
sentences; each is exported in float and in int8, and tags the test sentences in onnxruntime with one thread, round
after round; the process's own time is counted. Finished trainings in FOLDER are kept, so that a stopped run goes on.
Writes FOLDER/smaller_students.json, .md (the table) and .png (F1 against speed).
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from hf_structkd import DistillationRun, Recipe, RecipeError, TaggingMetrics
from hf_structkd.data.source_text import CorpusError
from hf_structkd.evaluation.aggregate import macro_average
from hf_structkd.evaluation.markdown import table
from hf_structkd.export.onnx import OnnxTagger, export_onnx, quantize_onnx
from hf_structkd.files import write_atomically
from hf_structkd.modeling.words import tokenize_words
from hf_structkd.recipes.data import load_data
from hf_structkd.recipes.fields import DataArguments
from hf_structkd.recipes.parser import parse_recipe
from hf_structkd.recipes.train_teacher import main as train_teacher
from hf_structkd.teachers.checkpoint import Teacher

MIB = 2**20


@dataclass
class SmallerArguments:
    """The encoder, the folder to work in, and how long to train."""

    model: str = field(metadata={"help": "encoder: Hub id or folder"})
    work: str = field(metadata={"help": "folder for the trainings, the exports and the results"})
    layers: list[int] = field(default_factory=lambda: [12, 6, 3, 1], metadata={"help": "numbers of layers to try"})
    epochs: float = field(default=3.0, metadata={"help": "passes over the training sentences, for every model"})
    learning_rate: float = field(default=1e-4, metadata={"help": "for every model"})
    train_batch_size: int = field(default=16, metadata={"help": "sentences per update"})
    batch_size: int = field(default=32, metadata={"help": "sentences per forward pass when time is taken"})
    rounds: int = field(default=3, metadata={"help": "how often time is taken; times are medians"})
    seed: int = field(default=1, metadata={"help": "of all trainings"})


def recipe_fields(data_args: DataArguments, args: SmallerArguments) -> dict[str, Any]:
    """What all trainings have in common."""
    return {
        **{name: value for name, value in vars(data_args).items() if value is not None},
        **{"model": args.model, "num_train_epochs": args.epochs, "seed": args.seed},
        **{"per_device_train_batch_size": args.train_batch_size, "learning_rate": args.learning_rate},
        **{"crf_learning_rate": 1e-2, "report_to": "none", "save_strategy": "epoch", "save_total_limit": 1},
        **{"use_cpu": True, "disable_tqdm": True, "eval_strategy": "no"},
    }


def students(fields: dict[str, Any], args: SmallerArguments) -> dict[tuple[int, bool, bool], Path]:
    """(layers, distilled, trimmed) -> the folder of the student, trained unless it is there."""
    work, most = Path(args.work), max(args.layers)
    work.mkdir(parents=True, exist_ok=True)
    recipe, teacher = work / "teacher.yaml", work / "teacher"
    write_atomically(recipe, json.dumps({**fields, "keep_layers": most, "output_dir": str(teacher)}))
    train_teacher([str(recipe)], "benchmarks.smaller_students")
    taught = {"objective": "posterior+top_wk", "teachers": str(teacher), "teacher_layers": "spread"}
    taught |= {"hidden_first": 0.3, "hidden_weight": 0.1}
    students = {}
    for layers in args.layers:
        for is_trimmed in (False, True):
            folder = work / f"{layers}-{'trimmed' if is_trimmed else 'whole'}"
            settings = {"keep_layers": layers, "output_dir": str(folder)}
            settings |= {"trim_vocabulary": 1} if is_trimmed else {}
            run = DistillationRun(Recipe.from_mapping({**fields, **taught, **settings}))
            baseline = run.baseline()
            assert baseline is not None
            students |= {(layers, False, is_trimmed): baseline, (layers, True, is_trimmed): run.student()}
    return students


def measured(student: Path, work: Path, sentences: dict[str, Any], args: SmallerArguments) -> list[dict[str, Any]]:
    """Size, speed and F1 of a student in float and in int8."""
    loaded = Teacher.from_pretrained(str(student))
    folders = {"float": work / "float", "int8": work / "int8"}
    export_onnx(loaded.model, loaded.tokenizer, folders["float"])
    quantize_onnx(folders["float"], folders["int8"])
    rows = []
    for numbers, folder in folders.items():
        tagger = OnnxTagger(folder, threads=1)
        window = tagger.window or sys.maxsize
        metrics, reports, seconds, count = TaggingMetrics(loaded.labels), {}, [0.0] * args.rounds, 0
        for language, data in sentences.items():
            ids = tokenize_words(list(data["tokens"]), tagger.tokenizer)["input_ids"]
            data = data.select([row for row, pieces in enumerate(ids) if len(pieces) <= window])
            words, count = list(data["tokens"]), count + len(data)
            for number in range(args.rounds):
                started = time.process_time()
                tags = tagger.tag(words, batch_size=args.batch_size)
                seconds[number] += time.process_time() - started
            reports[language] = metrics.report(tags, list(data["tags"]))
        size = sum(part.stat().st_size for part in folder.glob("model.onnx*"))
        speed, f1 = count / median(seconds), 100 * macro_average(reports)[metrics.metric_name]
        rows.append({"numbers": numbers, "mib": size / MIB, "speed": speed, "f1": f1, "sentences": count})
    return rows


def as_table(rows: list[dict[str, Any]]) -> str:
    header = ["layers", "learnt from", "vocabulary", "numbers", "MiB", "sentences/s", "F1 x 100"]
    lines = [
        [
            *(str(row["layers"]), "teacher" if row["distilled"] else "gold", "trimmed" if row["trimmed"] else "whole"),
            *(row["numbers"], f"{row['mib']:.1f}", f"{row['speed']:,.0f}", f"{row['f1']:.2f}"),
        ]
        for row in rows
    ]
    return table(header, lines, numbers=True)


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """F1 against sentences per second; the area of a point is the size of the model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for is_distilled, colour in ((False, "tab:grey"), (True, "tab:blue")):
        for numbers, marker in (("float", "o"), ("int8", "^")):
            chosen = [row for row in rows if (row["distilled"], row["numbers"]) == (is_distilled, numbers)]
            label = f"{'distilled' if is_distilled else 'gold alone'}, {numbers}"
            axes.scatter(
                [row["speed"] for row in chosen],
                [row["f1"] for row in chosen],
                s=[row["mib"] for row in chosen],
                **{"c": colour, "marker": marker, "alpha": 0.6, "label": label},
            )
    for row in rows:
        if row["distilled"] and row["numbers"] == "float":
            axes.annotate(str(row["layers"]), (row["speed"], row["f1"]))
    axes.set(xscale="log", xlabel="sentences per second of one core", ylabel="F1 x 100 (macro over languages)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def main() -> None:
    data_args, args = parse_recipe((DataArguments, SmallerArguments), description=__doc__, exit_on_error=True)
    torch.set_num_threads(1)
    work = Path(args.work)
    sentences = {language: splits["test"] for language, splits in load_data(data_args, ["test"]).items()}
    rows = []
    for (layers, is_distilled, is_trimmed), folder in students(recipe_fields(data_args, args), args).items():
        for row in measured(folder, work / "exported" / folder.parent.name / folder.name, sentences, args):
            rows.append({"layers": layers, "distilled": is_distilled, "trimmed": is_trimmed, **row})
    write_atomically(work / "smaller_students.json", json.dumps(rows, indent=2) + "\n")
    write_atomically(work / "smaller_students.md", as_table(rows) + "\n")
    draw(rows, work / "smaller_students.png")
    print(as_table(rows))


if __name__ == "__main__":
    try:
        main()
    except (CorpusError, RecipeError) as error:
        sys.exit(f"error: {error}")
