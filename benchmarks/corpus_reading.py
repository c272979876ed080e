"""Time and memory of reading a large corpus, beside those of its Arrow table, of its lines and of the tokenizer.

python -m benchmarks.corpus_reading --sentences 1000000 --results benchmarks/results/growth/corpus_reading.json

The corpus is the built-in one, repeated. Seconds are the processor's, in one process with one thread. Memory is the
most that the process held while it read, above what it held before. `--name` is the key in the results file, under
which figures of another version of the package can stand beside: it is the one that is imported.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from pyarrow import parquet

from hf_structkd import load_corpus
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.source_text import read_lines
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.data.words import encode_corpus

_BASE = 1_000  # different sentences, which are repeated


def main() -> None:
    """Write the file, read it, and add the figures to the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sentences", type=int, nargs="+", default=[200_000])
    parser.add_argument("--format", choices=("conll", "jsonl", "json", "parquet"), default="conll")
    parser.add_argument("--name", default="now")
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    disable_progress_bar()
    for sentences in sorted(arguments.sentences):  # the most memory held so far never falls
        figures = measure(sentences, arguments.format)
        results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
        results.setdefault(arguments.name, {})[f"{arguments.format} {sentences}"] = figures
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        arguments.results.write_text(json.dumps(results, indent=2) + "\n")
        print(arguments.name, arguments.format, sentences, json.dumps(figures))


def measure(sentences: int, file_format: str) -> dict[str, float]:
    """Read a corpus of so many sentences; seconds and MB."""
    base = load_demo_corpus("en", "train", num_sentences=_BASE)
    tokenizer = train_tokenizer(base["tokens"], vocab_size=2000)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"corpus.{file_format}"
        _write(file, base, sentences // _BASE)
        before = _held_now()
        seconds, corpus = _timed(lambda: load_corpus(str(file), language="en"))
        assert len(corpus) == sentences // _BASE * _BASE
        most, kept = _held_at_most(), _held_now()
        lines, _ = _timed(lambda: sum(1 for _ in read_lines(file, 1 << 30)) if file_format != "parquet" else 0)
        sample = corpus.select(range(min(len(corpus), 20_000)))
        tokenising, _ = _timed(
            lambda: encode_corpus(sample, tokenizer, sorted({t for row in base["tags"] for t in row}))
        )
        return {
            "file_mb": file.stat().st_size / 1e6,
            "arrow_mb": corpus.data.nbytes / 1e6,
            "most_mb": (most - before) / 1e6,
            "kept_mb": (kept - before) / 1e6,
            "seconds": seconds,
            "microseconds_per_sentence": 1e6 * seconds / len(corpus),
            "seconds_of_its_lines": lines,
            "seconds_of_the_tokenizer": tokenising / len(sample) * len(corpus),
        }


def _write(file: Path, base: Dataset, times: int) -> None:
    """Write a corpus that holds the sentences of another so many times."""
    if file.suffix == ".parquet":
        table = base.select_columns(["tokens", "tags"]).data.table
        with parquet.ParquetWriter(file, table.schema) as writer:
            for _ in range(times):
                writer.write_table(table)
        return
    rows = [{"tokens": row["tokens"], "tags": row["tags"]} for row in base]
    between, start, end = "\n", "", ""
    if file.suffix == ".conll":
        sentences = ["".join(f"{word}\t{tag}\n" for word, tag in zip(row["tokens"], row["tags"])) for row in rows]
    else:
        sentences = list(map(json.dumps, rows))
        between, start, end = (", ", "[", "]") if file.suffix == ".json" else ("\n", "", "\n")
    text = between.join(sentences)
    with file.open("w", encoding="utf-8") as stream:
        stream.write(start + text)
        for _ in range(times - 1):
            stream.write(between + text)
        stream.write(end)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _held_now() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _held_at_most() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
