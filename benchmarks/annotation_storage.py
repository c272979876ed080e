"""Disk space and time for teachers' answers, measured on the demo corpus and extrapolated to a corpus of any size.

    python -m benchmarks.annotation_storage [--languages en de ...] [--write docs/scaling.md]

Annotates demo sentences with a CRF teacher of random weights for each objective and k, and divides the size of the
answers by the number of sentences. Then it asks for one objective's answers with an encoder of the given shape and
measures the seconds of CPU. The plan multiplies both; it does not guess how much faster a GPU is than this machine.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets

from hf_structkd import Teacher, XLMRobertaCRFConfig, XLMRobertaForTokenClassificationCRF, annotate
from hf_structkd.data.corpora import label_inventory
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.distillation.objectives import OBJECTIVES
from hf_structkd.distillation.weighted_objectives import needed_columns, parse_objective
from hf_structkd.evaluation.markdown import fill_file, table

SHARD = 2048  # the default of annotate


def make_teacher(corpus: Dataset, hidden: int, layers: int, heads: int) -> tuple[Teacher, list[str]]:
    """A CRF tagger of this shape with random weights, and the corpus' labels."""
    labels, tokenizer = label_inventory(corpus), train_tokenizer(corpus["tokens"], vocab_size=2000)
    torch.manual_seed(0)
    config = XLMRobertaCRFConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * hidden, max_position_embeddings=258, type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id, id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    return Teacher(XLMRobertaForTokenClassificationCRF(config), tokenizer), labels


def ask(corpus: Dataset, teacher: Teacher, labels: list[str], objective: str, top_k: int) -> tuple[float, float]:
    """Bytes per sentence and seconds of CPU per sentence."""
    _ = teacher.revision  # computes the hash of the weights, once per teacher
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        annotate(
            corpus, teacher, label_names=labels, targets=needed_columns(parse_objective(objective)), top_k=top_k,
            output_dir=Path(folder) / "answers", progress=False,
        )  # fmt: skip
        seconds = time.process_time() - started
        size = (Path(folder) / "answers" / "answers.arrow").stat().st_size
    return size / len(corpus), seconds / len(corpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs="+", default=["en", "de", "ru", "hi"])
    parser.add_argument("--sentences", type=int, default=500, help="sentences per language, for the sizes")
    parser.add_argument("--timed", type=int, default=128, help="number of sentences in all, for the time")
    parser.add_argument("--top_k", nargs="+", type=int, default=[1, 5, 10, 50])
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--planned", type=int, default=100_000_000, help="number of sentences of the planned corpus")
    parser.add_argument("--write", type=Path, help="a Markdown file whose marked places are filled")
    args = parser.parse_args()

    parts = [load_demo_corpus(language, "train", num_sentences=args.sentences) for language in args.languages]
    corpus = concatenate_datasets(parts).shuffle(seed=0).flatten_indices()
    small, labels = make_teacher(corpus, 32, 1, 2)
    sizes: dict[str, dict[int, float]] = {}
    for objective in (*OBJECTIVES, "posterior+top_wk"):
        lists = any("topk" in column for column in needed_columns(parse_objective(objective)))
        sizes[objective] = {k: ask(corpus, small, labels, objective, k)[0] for k in (args.top_k if lists else [1])}
    overhead = ask(corpus, small, labels, "posterior+top_wk", 5)[1]
    timed = corpus.select(range(min(args.timed, len(corpus))))
    seconds = ask(timed, make_teacher(corpus, args.hidden, args.layers, args.heads)[0], labels, "posterior+top_wk", 5)[
        1
    ]
    words = sum(map(len, corpus["tokens"])) / len(corpus)
    report = {
        "sentences": len(corpus), "words a sentence": round(words, 1), "labels": len(labels), "bytes": sizes,
        "sentences/s": round(1 / seconds, 1), "sentences/s, tiny encoder": round(1 / overhead, 1),
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    print(json.dumps({**vars(args), **report}, default=str))
    if args.write:
        fill_file(args.write, "scaling", tables(args, report))


def tables(args: argparse.Namespace, report: dict[str, Any]) -> dict[str, str]:
    head = f"{report['sentences']:,} sentences of {report['words a sentence']} words, {report['labels']} labels."
    storage = []
    for objective, sizes in report["bytes"].items():
        cells = [f"{sizes.get(k, sizes.get(1)):,.0f}" for k in args.top_k]
        storage.append([f"`{objective}`", *cells])
    header = ["bytes a sentence", *(f"k = {k}" for k in args.top_k)]
    rate, tiny = report["sentences/s"], report["sentences/s, tiny encoder"]
    shape = f"{args.layers} layers of {args.hidden}"
    speed = (
        f"One process of {report['threads']} CPU thread(s), in CPU time: {rate:,.1f} sentences/s with an encoder of "
        f"{shape}, {tiny:,.0f} with one so small that nearly all is this library's own work."
    )
    k = 5 if 5 in args.top_k else args.top_k[0]
    plan = []
    for objective in ("posterior", "top_wk", "posterior+top_wk", "structural"):
        size = report["bytes"][objective].get(k, report["bytes"][objective].get(1))
        plan.append(
            [f"`{objective}`, k = {k}", f"{size * args.planned / 1e9:,.0f} GB", f"{-(-args.planned // SHARD):,}"]
        )
    planned = table([f"{args.planned:,} sentences", "answers", f"shards of {SHARD:,}"], plan, numbers=True)
    days = lambda per_second: args.planned / per_second / 86_400  # noqa: E731
    times = [[f"{per_second:,}", f"{days(per_second):,.1f}"] for per_second in (1_000, 5_000, 20_000)]
    times.append([f"{rate:,.1f} (this machine)", f"{days(rate):,.0f}"])
    duration = table(["sentences/s of all processes together", "days"], times, numbers=True)
    return {
        "scaling / storage": f"{head}\n\n{table(header, storage, numbers=True)}",
        "scaling / speed": speed,
        "scaling / plan": f"{planned}\n\n{duration}",
    }


if __name__ == "__main__":
    main()
