"""Sentences per second: our pipeline and the stock one with our model, against a plain encoder in the stock pipeline.

python -m benchmarks.pipeline_throughput --batch-size 1 16

All three run the same encoder (random weights) over the same raw texts, in turn, round after round, so that a busy
machine slows them alike; the ratio is taken within each round. On a CPU the process's own time is counted, on other
devices the clock's. Prints a line of JSON for each batch size; `--write` puts a table into its marked place
(`<!-- results: throughput -->`) in a Markdown file.

`--forward` compares with the plain encoder's forward pass alone, over the same texts, tokenised, padded and in batches
of similar length: the pass of our model in eval mode (which decodes), tokenising and the plain pass, and our pipeline.

`--taggers NAME...` compares taggers that exist, a student with its teachers for instance, on the words of the corpus.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForTokenClassification, pipeline
from transformers.utils import logging

from hf_structkd import CRFTokenClassificationPipeline, XLMRobertaCRFConfig, XLMRobertaForTokenClassificationCRF
from hf_structkd.data.corpora import label_inventory, load_corpus
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.evaluation.markdown import fill_file, table
from hf_structkd.modeling.words import tokenize_words
from hf_structkd.teachers.base import batches_by_length
from hf_structkd.teachers.kinds import load_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape = {"hidden": 768, "layers": 12, "heads": 12}
    for name, default in {"sentences": 64, **shape, "rounds": 5, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--write", type=Path, help="a Markdown file with a marked place for the table")
    parser.add_argument("--corpus", default="demo", help="`demo`, or a corpus of one language as load_corpus reads it")
    parser.add_argument("--language", default="en")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--forward", action="store_true", help="compare with the plain forward pass alone")
    parser.add_argument(
        "--taggers", nargs="+", metavar="NAME", help="compare these instead: checkpoints, or kind:NAME (spacy:NAME)"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()

    split = {"split": "train"} if args.corpus == "demo" else {}
    corpus = load_corpus(args.corpus, language=args.language, **split)
    texts = [" ".join(words) for words in corpus["tokens"]]
    texts = (texts * (args.sentences // len(texts) + 1))[: args.sentences]
    if args.taggers:
        for size in args.batch_size:
            print(json.dumps({**vars(args), **compare_taggers(args, corpus["tokens"], size)}, default=str))
        return
    labels = label_inventory(corpus)
    tokenizer = train_tokenizer(corpus["tokens"], vocab_size=2000)
    fields = {
        "vocab_size": len(tokenizer),
        "hidden_size": args.hidden,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "intermediate_size": 4 * args.hidden,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "pad_token_id": tokenizer.pad_token_id,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    torch.manual_seed(0)
    ours = XLMRobertaForTokenClassificationCRF(XLMRobertaCRFConfig(**fields))
    ours.set_word_starts(tokenizer)
    plain = AutoModelForTokenClassification.from_config(AutoConfig.for_model("xlm-roberta", **fields))
    plain.roberta.load_state_dict(ours.roberta.state_dict())
    common: dict[str, Any] = {"tokenizer": tokenizer, "device": args.device}

    def stock(model: Any) -> Callable[..., Any]:
        return pipeline("token-classification", model=model.eval(), aggregation_strategy="simple", **common)

    contestants = {
        "plain encoder, stock pipeline": stock(plain),
        "CRF, stock pipeline": stock(ours),
        "CRF, our pipeline": CRFTokenClassificationPipeline(model=ours, **common),
    }

    def measure(batch_size: int) -> dict[str, Any]:
        for tag in contestants.values():
            tag(texts[:batch_size], batch_size=batch_size)
        runs = {name: partial(tag, texts, batch_size=batch_size) for name, tag in contestants.items()}
        rounds = [{name: seconds(run, args.device) for name, run in runs.items()} for _ in range(args.rounds)]
        base, figures = next(iter(contestants)), {}
        for name in contestants:
            ratios = [each[base] / each[name] for each in rounds]
            figures[name] = {
                "sentences_per_s": round(args.sentences / statistics.median(each[name] for each in rounds), 1),
                "ratio": round(statistics.median(ratios), 3),
                "ratio_spread": [round(min(ratios), 3), round(max(ratios), 3)],
            }
        words = sum(len(text.split()) for text in texts)
        return {"batch_size": batch_size, "words": words, "contestants": figures}

    def forward_passes(batch_size: int) -> dict[str, Any]:
        words = [text.split() for text in texts]

        def tokenised() -> list[dict[str, torch.Tensor]]:
            encoded, batches = tokenize_words(words, tokenizer)["input_ids"], []
            for rows in batches_by_length(encoded, batch_size):
                padded = tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt")
                batches.append({name: padded[name].to(args.device) for name in ("input_ids", "attention_mask")})
            return batches

        def forward(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
            with torch.inference_mode():
                for batch in batches:
                    model(**batch)

        ready, tag = tokenised(), contestants["CRF, our pipeline"]
        work: dict[str, Callable[[], Any]] = {
            "plain forward": lambda: forward(plain, ready),
            "CRF forward, decoded": lambda: forward(ours, ready),
            "tokenise, plain forward": lambda: forward(plain, tokenised()),
            "our pipeline": lambda: tag(texts, batch_size=batch_size),
        }

        for run in work.values():
            run()
        rounds = [{name: seconds(run, args.device) for name, run in work.items()} for _ in range(args.rounds)]
        base, figures = next(iter(work)), {}
        for name in work:
            ratios = [each[base] / each[name] for each in rounds]
            figures[name] = [round(value, 3) for value in statistics.quantiles(ratios, n=4)]
        milliseconds = round(1000 * statistics.median(each[base] for each in rounds), 1)
        return {"batch_size": batch_size, "milliseconds": milliseconds, "ratio, quartiles": figures}

    if args.forward:
        for size in args.batch_size:
            print(json.dumps({**vars(args), **forward_passes(size)}, default=str))
        return
    reports = [measure(size) for size in args.batch_size]
    for report in reports:
        print(json.dumps({**vars(args), **report}, default=str))
    if args.write:
        fill_file(args.write, "throughput", {"throughput": as_markdown(args, reports)})


def compare_taggers(args: argparse.Namespace, sentences: Sequence[Sequence[str]], batch_size: int) -> dict[str, Any]:
    """Sentences per second of each tagger of `--taggers`: quartiles over rounds in which each has its turn."""
    chosen = list(sentences[: args.sentences])
    taggers = {name: load_teacher(name, device=args.device) for name in args.taggers}
    runs = {name: partial(tagger.tag, chosen, batch_size=batch_size) for name, tagger in taggers.items()}
    for run in runs.values():
        run()
    rounds = [{name: seconds(run, args.device) for name, run in runs.items()} for _ in range(args.rounds)]
    speeds = {name: [len(chosen) / each[name] for each in rounds] for name in runs}
    quartiles = {
        name: [round(value, 1) for value in statistics.quantiles(values, n=4)] for name, values in speeds.items()
    }
    return {"batch_size": batch_size, "sentences": len(chosen), "sentences_per_s, quartiles": quartiles}


def seconds(run: Callable[[], Any], device: str) -> float:
    """What a run takes: the process's own time on a CPU, the clock's on other devices."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - started


def as_markdown(args: argparse.Namespace, reports: list[dict[str, Any]]) -> str:
    names = list(reports[0]["contestants"])
    head = f"Encoder of {args.layers} layers of {args.hidden}, {args.sentences} texts, {args.rounds} rounds."
    rows = []
    for report in reports:
        cells = []
        for each in report["contestants"].values():
            low, high = each["ratio_spread"]
            cells.append(f"{each['sentences_per_s']} sentences/s, {each['ratio']:.2f} ({low:.2f} to {high:.2f})")
        rows.append([str(report["batch_size"]), *cells])
    return f"{head}\n\n{table(['batch', *names], rows)}"


if __name__ == "__main__":
    main()
