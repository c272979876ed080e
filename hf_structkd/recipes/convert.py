"""`structkd convert`: a corpus in another format, whole or divided, with a summary of what is in it."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from ..data.converter import WRITERS, corpus_bytes, format_of, summarise
from ..data.corpora import SPLITS, log_word_agreement, read_sentences
from ..data.demo_corpus import DEMO_LANGUAGES
from ..data.offset_spans import OFFSET_UNITS, SPAN_CHOICES
from ..data.sampling import divide
from ..data.source_text import CorpusError, RawSentence, settings_as_options
from ..data.sources import ReadingOptions, source_name
from ..data.tag_checks import CORPUS_SCHEMES
from ..files import write_atomically
from .progress import show, shown_log

PLACE = "{split}"  # in the target's name, where the corpus is divided


def main(arguments: Sequence[str], program: str) -> None:
    """Read a corpus, write it, and print what it holds."""
    usage = "%(prog)s SOURCE TARGET [--option value ...]  (%(prog)s --help lists them)"  # errors stand below it
    parser = argparse.ArgumentParser(prog=program, usage=usage, allow_abbrev=False)
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument("--to", choices=WRITERS)
    parser.add_argument("--format")
    parser.add_argument("--scheme", choices=CORPUS_SCHEMES)
    parser.add_argument("--to_scheme", choices=("BIO", "BIOES"))
    parser.add_argument("--orphans", choices=("accept", "repair", "refuse"), default="accept")
    parser.add_argument("--labels", nargs="+")
    parser.add_argument("--spans", choices=SPAN_CHOICES, default="refuse")
    parser.add_argument("--offset_unit", choices=OFFSET_UNITS)
    parser.add_argument("--max_sentences", type=int)
    parser.add_argument("--language", choices=DEMO_LANGUAGES)
    parser.add_argument("--shares", type=float, nargs=len(SPLITS), metavar=tuple(name.upper() for name in SPLITS))
    for name in ("--tags_column", "--tokens_column", "--sentence_column", "--words", "--split"):
        parser.add_argument(name)
    given = parser.parse_args(arguments)
    if (given.source == "demo") != (given.language is not None):
        parser.error("--language chooses a language of the built-in corpus, demo; other sources have no use for it")
    if given.shares and PLACE not in str(given.target):
        splits = ", ".join(SPLITS)
        parser.error(
            f"--shares divides a corpus into {len(SPLITS)} files: write {PLACE} in the name of the target, where "
            f"{splits} will stand ('corpus.{PLACE}.jsonl')"
        )
    if PLACE in str(given.target) and not given.shares:
        parser.error(f"{given.target}: {PLACE} stands for the parts of a divided corpus: add --shares 0.8 0.1 0.1")
    if given.shares and (problem := problem_of_shares(given.shares)):
        parser.error(problem)
    with settings_as_options(), shown_log():
        convert(given, parser)


def problem_of_shares(shares: Sequence[float]) -> str | None:
    """What is wrong with shares, which are parts of 1 or percent; `None` for what is right."""
    typed = " ".join(f"{share:g}" for share in shares)
    if not all(0 < share < float("inf") for share in shares):
        return f"--shares must be above 0, not {typed}"
    if not any(math.isclose(sum(shares), whole, rel_tol=1e-3) for whole in (1, 100)):
        return f"--shares {typed} add up to {sum(shares):g}: give parts of 1 (0.8 0.1 0.1) or percent (80 10 10)"
    return None


def convert(given: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Read, divide and write, as the command line says."""
    name = format_of(given.target, given.to)
    if given.target.exists() and Path(given.source).exists() and given.target.samefile(given.source):
        raise CorpusError(f"{given.target}: source and target are the same file.")
    try:
        options = ReadingOptions(
            tags_column=given.tags_column,
            tokens_column=given.tokens_column,
            sentence_column=given.sentence_column,
            label_names=given.labels,
            words=given.words,
            spans=given.spans,
            offset_unit=given.offset_unit,
            format=given.format,
        )
        sentences = read_sentences(
            given.source,
            given.language or "und",
            given.split,
            options,
            given.scheme,
            given.to_scheme,
            given.orphans,
            given.max_sentences,
        )
        log_word_agreement(source_name(given.source), sentences, given.words)
    except CorpusError:
        raise
    except ValueError as error:
        parser.error(str(error))
    parts: dict[Path, Sequence[RawSentence]] = {given.target: sentences}
    if given.shares:
        if sum(given.shares) > 2:
            show("The shares are read as percent.")
        divided = divide(sentences, dict(zip(SPLITS, given.shares)))
        parts = {Path(str(given.target).replace(PLACE, split)): part for split, part in divided.items()}
    # All are made before one is written: a format that cannot hold a part leaves nothing half-done.
    contents = {target: corpus_bytes(part, name) for target, part in parts.items()}
    for target, content in contents.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content)
        show(f"{target} ({name}): {summarise(parts[target])}")
