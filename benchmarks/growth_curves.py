"""How time and memory grow with sentences, words, labels and paths.

python -m benchmarks.growth_curves --results benchmarks/results/growth/curves.json --write docs/scaling.md

Each curve does one thing with inputs of growing size, in one process with one thread. Time is the processor's, the
median of several runs where one is short; memory is the most that the process held above what it held before. A slope
is that of a line through the three largest sizes on paper with logarithmic axes: 1 is linear. `--curves` chooses
curves, `--largest` leaves out larger sizes, and figures of other curves in the results file stay.
"""

import argparse
import ctypes
import gc
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from datasets.utils.logging import disable_progress_bar

from hf_structkd import (
    CallableTeacher,
    CRFTokenClassificationPipeline,
    LinearChainCRF,
    StructKDTrainer,
    StructKDTrainingArguments,
    TagScheme,
    XLMRobertaCRFConfig,
    XLMRobertaForTokenClassificationCRF,
    annotate,
    load_corpus,
)
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.data.words import encode_corpus
from hf_structkd.evaluation.markdown import fill_file, table
from hf_structkd.evaluation.scores import entity_set, strict_seqeval
from hf_structkd.evaluation.significance import paired_bootstrap
from hf_structkd.teachers.annotate import corpus_fingerprint

LABELS = ["O", *(f"{prefix}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for prefix in "BI")]
SENTENCES, WORDS, TAGS, PATHS = (
    (1_000, 10_000, 100_000, 1_000_000),
    (10, 100, 1_000, 10_000),
    (10, 30, 100, 300),
    (1, 10, 100),
)
_BASE = 1_000  # different sentences, which are repeated
_SHORT = 0.2  # seconds: shorter work is done several times
Work = Callable[[], object]


@dataclass(frozen=True)
class Curve:
    """One thing that is done with inputs of growing size.

    Args:
        title: Its name in the table.
        axis: What grows.
        sizes: How far.
        make: The size -> what is to be measured; making the input is not.
    """

    title: str
    axis: str
    sizes: tuple[int, ...]
    make: Callable[[int], Work]


def _base_corpus() -> Dataset:
    return load_demo_corpus("en", "train", num_sentences=_BASE)


def _repeated(base: Dataset, sentences: int) -> Dataset:
    whole = concatenate_datasets([base] * -(-sentences // len(base)))
    return whole.select(range(sentences))


def _loading(sentences: int) -> Work:
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name) / "corpus.conll"
    base = _base_corpus()
    text = "\n".join("".join(f"{w}\t{t}\n" for w, t in zip(row["tokens"], row["tags"])) for row in base) + "\n"
    file.write_text(text * (sentences // _BASE), encoding="utf-8")

    def load() -> None:
        assert len(load_corpus(str(file), language="en")) == sentences, folder  # which is kept until here

    return load


def _encoding(sentences: int) -> Work:
    base = _base_corpus()
    tokenizer, corpus = train_tokenizer(base["tokens"], vocab_size=2000), _repeated(base, sentences)
    return lambda: encode_corpus(corpus, tokenizer, LABELS)


def _fingerprint(sentences: int) -> Work:
    corpus = _repeated(_base_corpus(), sentences)
    return lambda: corpus_fingerprint(corpus)


def _trivial_teacher() -> CallableTeacher:
    scores = torch.randn(1000, len(LABELS), generator=torch.Generator().manual_seed(0))
    transitions, ends = torch.zeros(len(LABELS), len(LABELS)), torch.zeros(len(LABELS))
    return CallableTeacher(
        lambda batch: [(scores[: len(words)], transitions, ends, ends) for words in batch],
        LABELS,
        name="trivial",
        revision="1",
        answers="scores",
    )


_ASKED: dict[str, Any] = {
    "label_names": LABELS,
    "targets": ["teacher_marginals", "teacher_topk_tags"],
    "top_k": 5,
    "progress": False,
}


def _annotation(sentences: int) -> Work:
    corpus, teacher = _repeated(_base_corpus(), sentences), _trivial_teacher()

    def ask() -> None:
        with tempfile.TemporaryDirectory() as folder:
            annotate(corpus, teacher, output_dir=Path(folder) / "answers", **_ASKED)

    return ask


def _small_student(tokenizer: Any, **fields: Any) -> XLMRobertaForTokenClassificationCRF:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    common = {"vocab_size": len(tokenizer), "type_vocab_size": 1, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model = XLMRobertaForTokenClassificationCRF(
        XLMRobertaCRFConfig(max_position_embeddings=258, **common, **shape, **names, **fields)
    )
    model.set_word_starts(tokenizer)
    return model


def _epoch(sentences: int) -> Work:
    base = _base_corpus()
    tokenizer = train_tokenizer(base["tokens"], vocab_size=2000)
    encoded = encode_corpus(annotate(base, _trivial_teacher(), **_ASKED), tokenizer, LABELS)
    args = StructKDTrainingArguments(
        tempfile.gettempdir(),
        objective="posterior+top_wk",
        top_k=5,
        train_sampling_strategy="group_by_length",
        per_device_train_batch_size=32,
        report_to="none",
        use_cpu=True,
    )
    data, student = _repeated(encoded, sentences), _small_student(tokenizer)

    def read() -> None:
        trainer = StructKDTrainer(student, args, train_dataset=data, processing_class=tokenizer)
        assert sum(len(batch["input_ids"]) for batch in trainer.get_train_dataloader()) == sentences

    return read


def _drawn_tags(sentences: int) -> tuple[list[list[str]], list[list[str]]]:
    generator = np.random.default_rng(0)
    lengths = generator.integers(4, 30, sentences)
    starts = np.array(["O", *(label for label in LABELS if label.startswith("B"))])
    share = [0.8, *[0.2 / (len(starts) - 1)] * (len(starts) - 1)]

    def drawn() -> list[list[str]]:
        tags = iter(generator.choice(starts, lengths.sum(), p=share).tolist())
        return [[next(tags) for _ in range(length)] for length in lengths]

    return drawn(), drawn()


def _metric(sentences: int) -> Work:
    predicted, gold = _drawn_tags(sentences)

    def score() -> None:
        entity_set.cache_clear()  # or what a run before has read would cost nothing
        strict_seqeval(predicted, gold)

    return score


def _bootstrap(sentences: int) -> Work:
    counts = np.random.default_rng(0).integers(0, 3, (2, 1, sentences, 3))
    return lambda: paired_bootstrap({"en": counts[0]}, {"en": counts[1]}, over_seeds=False)


def _chain(batch: int, words: int, tags: int) -> LinearChainCRF:
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, words, tags), (tags, tags), (tags,), (tags,)
    scores = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return LinearChainCRF(*scores)


def _nll(batch: int, words: int, tags: int) -> Work:
    gold = torch.randint(tags, (batch, words), generator=torch.Generator().manual_seed(1))
    return lambda: (-_chain(batch, words, tags).log_prob(gold)).sum().backward()


def _paths(batch: int, words: int, tags: int, k: int) -> Work:
    chain = _chain(batch, words, tags)

    @torch.inference_mode()
    def best() -> None:
        chain.topk(k) if k > 1 else chain.decode()

    return best


def _long_text() -> tuple[Any, XLMRobertaForTokenClassificationCRF, list[str]]:
    base = _base_corpus()
    words = [word for sentence in base["tokens"] for word in sentence]
    tokenizer = train_tokenizer(base["tokens"], vocab_size=2000)
    return tokenizer, _small_student(tokenizer).eval(), words * 10


def _long_encoding(length: int) -> Work:
    tokenizer, _, words = _long_text()
    corpus = Dataset.from_dict({"tokens": [words[:length]], "tags": [["O"] * length]})
    return lambda: encode_corpus(corpus, tokenizer, LABELS)


def _long_pipeline(length: int) -> Work:
    tokenizer, model, words = _long_text()
    tag = CRFTokenClassificationPipeline(model=model, tokenizer=tokenizer)
    text = " ".join(words[:length])
    return lambda: tag(text)


def _tag_scheme(labels: int) -> Work:
    names = ["O", *(f"{prefix}-T{number}" for number in range(labels // 2) for prefix in "BI")]
    sentence = names[1:201]

    def make() -> None:
        scheme = TagScheme(names)
        scheme.masks(torch.device("cpu"))
        scheme.repair(sentence)
        scheme.spans(sentence)
        scheme.violations(sentence)

    return make


CURVES = {
    "loading": Curve("corpus read from a column file", "sentences", SENTENCES, _loading),
    "encoding": Curve("corpus tokenised", "sentences", SENTENCES, _encoding),
    "fingerprint": Curve("fingerprint of a corpus", "sentences", SENTENCES, _fingerprint),
    "annotation": Curve("annotation by a trivial teacher, marginals and 5 best", "sentences", SENTENCES, _annotation),
    "epoch": Curve("an epoch's batches, posterior+top_wk, by length", "sentences", SENTENCES, _epoch),
    "metric": Curve("strict entity scores", "sentences", SENTENCES, _metric),
    "bootstrap": Curve("paired bootstrap, 2,000 resamples", "sentences", SENTENCES, _bootstrap),
    "words nll": Curve("likelihood and gradient, 1 sentence, 9 tags", "words", WORDS, lambda n: _nll(1, n, 9)),
    "words viterbi": Curve("best path, 1 sentence, 9 tags", "words", WORDS, lambda n: _paths(1, n, 9, 1)),
    "words k best": Curve("10 best paths, 1 sentence, 9 tags", "words", WORDS, lambda n: _paths(1, n, 9, 10)),
    "words encoding": Curve("a sentence tokenised", "words", WORDS, _long_encoding),
    "words pipeline": Curve("the pipeline on one text, windows of 256", "words", WORDS, _long_pipeline),
    "tags nll": Curve("likelihood and gradient, 32 sentences of 20 words", "tags", TAGS, lambda n: _nll(32, 20, n)),
    "tags viterbi": Curve("best path, 32 sentences of 20 words", "tags", TAGS, lambda n: _paths(32, 20, n, 1)),
    "tags k best": Curve("10 best paths, 32 sentences of 20 words", "tags", TAGS, lambda n: _paths(32, 20, n, 10)),
    "k": Curve("k best paths, 32 sentences of 20 words, 9 tags", "k", PATHS, lambda n: _paths(32, 20, 9, n)),
    "tag scheme": Curve("tag scheme made, masks, a sentence read", "labels", (*TAGS, 1_000, 3_000), _tag_scheme),
}


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    """A figure of /proc/self/status in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def measure(work: Work, warm_up: bool) -> dict[str, float]:
    """Seconds and MiB of some work.

    Args:
        work: The work.
        warm_up: Whether to do it once before, so that what is compiled, or made once, is made.
    """
    if warm_up:
        work()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what a smaller size gave back would not be counted
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    seconds: list[float] = []
    while sum(seconds) < _SHORT and len(seconds) < 50:
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return {
        "seconds": float(f"{statistics.median(seconds):.4g}"),
        "mib": round(max(_peak() - before, 0) / 2**20, 2),
        "runs": len(seconds),
    }


def slope(points: list[dict[str, float]], name: str, least: float) -> float | None:
    """Of the line through the three largest sizes, both axes logarithmic; `None` where too little can be measured."""
    used = [point for point in points[-3:] if point[name] >= least]
    if len(used) < 2:
        return None
    sizes, values = (np.log([point[key] for point in used]) for key in ("size", name))
    return round(float(np.polyfit(sizes, values, 1)[0]), 2)


def as_markdown(curves: dict[str, Any]) -> str:
    rows = []
    for name, curve in CURVES.items():
        if name not in curves:
            continue
        points = curves[name]["points"]
        last = points[-1]
        each = last["seconds"] / last["size"]
        rows.append(
            [
                curve.title,
                f"{points[0]['size']:,} to {last['size']:,} {curve.axis}",
                _short(last["seconds"]),
                _short(each),
                _slope_text(curves[name]["time_slope"]),
                f"{last['mib']:,.0f} MiB",
                _slope_text(curves[name]["memory_slope"]),
            ]
        )
    head = ["what", "sizes", "time of the largest", "each", "slope", "memory of the largest", "slope"]
    return table(head, rows)


def _short(seconds: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1 or unit == "µs":
            digits = max(0, 1 - math.floor(math.log10(max(seconds * factor, 1e-9))))
            return f"{seconds * factor:.{min(digits, 2)}f} {unit}"
    raise AssertionError


def _slope_text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", nargs="+", choices=list(CURVES), default=list(CURVES))
    parser.add_argument("--largest", type=int, help="the largest size")
    parser.add_argument("--results", type=Path, help="a JSON file for the figures, to which others are added")
    parser.add_argument("--write", type=Path, help="a Markdown file with a marked place for the table of all figures")
    parser.add_argument("--read", action="store_true", help="measure nothing, write the table of --results")
    args = parser.parse_args()
    if args.read and args.results is None:
        parser.error("--read needs --results")
    torch.set_num_threads(1)
    disable_progress_bar()
    stored: dict[str, Any] = {}
    if args.results and args.results.exists():
        stored = json.loads(args.results.read_text(encoding="utf-8"))
    for name in [] if args.read else args.curves:
        points = []
        for size in CURVES[name].sizes:
            if args.largest is None or size <= args.largest:
                points.append({"size": size, **measure(CURVES[name].make(size), not points)})
                print(name, json.dumps(points[-1]), flush=True)
        stored[name] = {
            "axis": CURVES[name].axis,
            "points": points,
            "time_slope": slope(points, "seconds", 1e-4),
            "memory_slope": slope(points, "mib", 1.0),
        }
        if args.results:
            args.results.parent.mkdir(parents=True, exist_ok=True)
            args.results.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    text = as_markdown(stored)
    print(text)
    if args.write:
        fill_file(args.write, "growth", {"growth": text})


if __name__ == "__main__":
    main()
