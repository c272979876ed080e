r"""What it costs and gains to read words without a blank before them as running text: pieces, time, scores.

python -m benchmarks.glued_words --model ENCODER --corpus '{"zh": "DATA/ner.{split}.jsonl"}' --seeds 1 2 3 \
    --work FOLDER

The corpus must know its blanks (character offsets, CoNLL-U, DocBin); `experiments.peoples_daily` writes Chinese ones.
For each seed two taggers are trained on gold tags, one of which reads every word as if it stood between blanks and one
`glued_words`. Measured on the test sentences: pieces per sentence, F1 (plain tags: accuracy), words per second of one
thread of the encoder and CRF, and the share of sentences with the same answer in raw text, of those whose words the
pipeline finds there. Trainings in FOLDER are kept, so that a stopped run goes on. Writes FOLDER/glued_words.json and
.md.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from datasets import Dataset

from hf_structkd import RecipeError
from hf_structkd.data.source_text import CorpusError
from hf_structkd.evaluation.markdown import fill_file, key, table
from hf_structkd.evaluation.results import read_results
from hf_structkd.files import write_atomically
from hf_structkd.modeling.glued_words import GluedWords, sentences_of
from hf_structkd.modeling.pipeline import CRFTokenClassificationPipeline
from hf_structkd.modeling.words import tokenize_words
from hf_structkd.recipes.data import load_data
from hf_structkd.recipes.fields import DataArguments
from hf_structkd.recipes.parser import parse_recipe
from hf_structkd.recipes.train_teacher import main as train_tagger
from hf_structkd.teachers.checkpoint import Teacher

Row = dict[str, Any]


@dataclass
class GluedArguments:
    """The encoder, the folder to work in, and how long to train."""

    model: str = field(metadata={"help": "encoder: Hub id or folder"})
    work: str = field(metadata={"help": "folder for the trainings and the results"})
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3], metadata={"help": "one pair of trainings per seed"})
    epochs: float = field(default=3.0, metadata={"help": "passes over the training sentences"})
    learning_rate: float = field(default=1e-4, metadata={"help": "of the encoder"})
    keep_layers: int | None = field(default=None, metadata={"help": "layers of the encoder to keep; default all"})
    trim_vocabulary: int | None = field(default=None, metadata={"help": "as in recipes"})
    write: str | None = field(default=None, metadata={"help": "document whose place `glued_words / PLACE` is filled"})
    place: str | None = field(default=None, metadata={"help": "PLACE, a name"})


def train(data_args: DataArguments, args: GluedArguments, seed: int, is_glued: bool) -> Path:
    """Train a tagger, unless it is there; its folder."""
    folder = Path(args.work) / f"{'glued' if is_glued else 'blanks'}-{seed}"
    recipe = {
        **{name: value for name, value in vars(data_args).items() if value is not None},
        **{"model": args.model, "num_train_epochs": args.epochs, "seed": seed, "glued_words": is_glued},
        **{"keep_layers": args.keep_layers, "trim_vocabulary": args.trim_vocabulary},
        **{"learning_rate": args.learning_rate, "crf_learning_rate": 1e-2, "per_device_train_batch_size": 16},
        **{"report_to": "none", "save_strategy": "no", "eval_strategy": "no", "use_cpu": True, "disable_tqdm": True},
        "output_dir": str(folder),
    }
    file = folder.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps({name: value for name, value in recipe.items() if value is not None}))
    if not (folder / "results.json").exists():
        train_tagger([str(file)], "benchmarks.glued_words")
    return folder


def measure(folder: Path, data: Dataset) -> Row:
    """Pieces, score, speed and agreement of the pipeline, on the test sentences."""
    tagger = Teacher.from_pretrained(str(folder))
    sentences = [words for words in sentences_of(data) if isinstance(words, GluedWords)]
    encoded = tokenize_words(sentences, tagger.tokenizer, tagger.glued_words)
    started = time.process_time()
    tags = tagger.tag(sentences, batch_size=32)
    seconds = time.process_time() - started
    words = sum(map(len, sentences))
    average = next(iter(read_results(folder).scores["test"].values()))["avg"]
    matched, same = compare_with_texts(tagger, sentences, tags)
    return {
        "pieces": sum(map(len, encoded["input_ids"])) / len(sentences) - 2,  # without the special ones
        "words": words / len(sentences),
        "score": 100 * average.get("f1", average["accuracy"]),
        "speed": words / seconds,
        "words_found": 100 * matched / len(sentences),
        "same_in_text": 100 * same / matched if matched else 100.0,
    }


def compare_with_texts(tagger: Teacher, sentences: list[GluedWords], tags: list[list[str]]) -> tuple[int, int]:
    """In how many sentences the pipeline finds the corpus's words in the text, and in how many of these the same tags.

    Args:
        tagger: the tagger.
        sentences: words that know their blanks.
        tags: those that the tagger gives to the words.
    """
    pipe = CRFTokenClassificationPipeline(model=tagger.model, tokenizer=tagger.tokenizer, batch_size=32)
    scheme = tagger.model.tag_scheme
    texts = ["".join(word if glued else f" {word}" for word, glued in zip(s, s.glued))[1:] for s in sentences]
    matched = same = 0
    for words, own_tags, text, answer in zip(sentences, tags, texts, pipe(texts, marginals=True)):
        if [part["word"] for part in answer["marginals"]] != list(words):
            continue
        matched += 1
        if "tags" in answer:
            same += [part["tag"] for part in answer["tags"]] == own_tags
        else:
            read = {(part["start_word"], part["end_word"], part["entity_group"]) for part in answer["entities"]}
            same += read == {(span.start, span.end, span.type) for span in scheme.spans(own_tags)}
            assert all(text[part["start"] : part["end"]] == part["word"] for part in answer["entities"])
    return matched, same


def as_table(rows: list[Row], seeds: int) -> str:
    header = ["words are read", "pieces per sentence", "words per sentence", f"score x 100 ({seeds} seeds)"]
    header += ["words/s", "same answers in raw text"]
    lines = []
    for is_glued in (False, True):
        chosen = [row for row in rows if row["glued"] is is_glued]
        scores = [row["score"] for row in chosen]
        spread = f" ± {stdev(scores):.2f}" if len(scores) > 1 else ""
        means = {name: mean(row[name] for row in chosen) for name in ("pieces", "words", "speed", "same_in_text")}
        lines.append(
            [
                *("as running text" if is_glued else "between blanks", f"{means['pieces']:.1f}"),
                *(f"{means['words']:.1f}", f"{mean(scores):.2f}{spread}", f"{means['speed']:,.0f}"),
                f"{means['same_in_text']:.1f} %",
            ]
        )
    return table(header, lines, numbers=True)


def main() -> None:
    data_args, args = parse_recipe((DataArguments, GluedArguments), description=__doc__, exit_on_error=True)
    torch.set_num_threads(1)
    (test,) = (splits["test"] for splits in load_data(data_args, ["test"], glued=True).values())
    rows = [
        {"seed": seed, "glued": is_glued, **measure(train(data_args, args, seed, is_glued), test)}
        for seed in args.seeds
        for is_glued in (False, True)
    ]
    report = {"model": Path(args.model).name, "test_sentences": len(test), "rows": rows}
    write_atomically(Path(args.work) / "glued_words.json", json.dumps(report, indent=2) + "\n")
    text = as_table(rows, len(args.seeds))
    write_atomically(Path(args.work) / "glued_words.md", text + "\n")
    if args.write:
        name = key("glued_words", args.place or "")
        fill_file(Path(args.write), "glued_words", {name: text})
    print(text)


if __name__ == "__main__":
    try:
        main()
    except (CorpusError, RecipeError) as error:
        sys.exit(f"error: {error}")
