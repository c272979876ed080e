"""`structkd convert`: a corpus in another format, with a summary of what is in it."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from ..data.converter import WRITERS, corpus_bytes, format_of, summarise
from ..data.corpora import log_word_agreement, read_sentences
from ..data.offset_spans import OFFSET_UNITS, SPAN_CHOICES
from ..data.source_text import CorpusError
from ..data.sources import ReadingOptions, source_name
from ..data.tag_checks import CORPUS_SCHEMES
from ..files import write_atomically
from .progress import show


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
    for name in ("--tags_column", "--tokens_column", "--sentence_column", "--words", "--split"):
        parser.add_argument(name)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("hf_structkd").setLevel(logging.INFO)
    name = format_of(given.target, given.to)
    if given.target.exists() and given.target.samefile(given.source):
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
            "und",
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
    write_atomically(given.target, corpus_bytes(sentences, name))
    show(f"{given.target} ({name}): {summarise(sentences)}")
