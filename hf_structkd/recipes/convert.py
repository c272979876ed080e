"""`structkd convert`: a corpus in another format, whole or divided, with a summary of what is in it."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from ..data.converter import WRITERS, corpus_bytes, format_of, summarise
from ..data.corpora import SPLITS, log_word_agreement, read_sentences
from ..data.demo_corpus import DEMO_LANGUAGES
from ..data.division import divide
from ..data.offset_spans import OFFSET_UNITS, SPAN_CHOICES
from ..data.source_text import CorpusError, RawSentence
from ..data.sources import ReadingOptions, source_name
from ..data.tag_checks import CORPUS_SCHEMES
from ..files import write_atomically
from .progress import show

PLACE = "{split}"  # in the target's name, where the corpus is divided


def main(arguments: Sequence[str], program: str) -> None:
    """Read a corpus, write it, and print what it holds."""
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False)
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument("--to", choices=WRITERS)
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
    if (PLACE in str(given.target)) != (given.shares is not None):
        parser.error(
            f"--shares divides a corpus into files: it needs a target with {PLACE} in it, and such a target it"
        )
    if given.shares and not all(0 < share < float("inf") for share in given.shares):
        parser.error(f"--shares must be above 0, not {' '.join(map(str, given.shares))}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("hf_structkd").setLevel(logging.INFO)
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
        divided = divide(sentences, dict(zip(SPLITS, given.shares)))
        parts = {Path(str(given.target).replace(PLACE, split)): part for split, part in divided.items()}
    # All are made before one is written: a format that cannot hold a part leaves nothing half-done.
    contents = {target: corpus_bytes(part, name) for target, part in parts.items()}
    for target, content in contents.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content)
        show(f"{target} ({name}): {summarise(parts[target])}")
