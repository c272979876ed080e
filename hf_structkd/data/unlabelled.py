"""Sentences without gold tags, from which a student learns by distillation alone.

They are loaded from text and other corpora, or made by hiding gold tags; they are mixed with a labelled corpus, and
told apart from it.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets

from ..modeling.glued_words import GluedWords
from ..modeling.segmenters import Segmenter, SegmenterError, get_segmenter
from .column_files import read_columns
from .columns import GLUED, IGNORED, LANGUAGE, SUBWORD_LABELS, SUBWORDS, TOKEN_COLUMNS, TOKENS, column_values
from .conllu import read_conllu
from .default_words import DefaultSegmenter
from .hub_datasets import source_info
from .offset_spans import SpanCounts
from .readers import pick_column, read_csv_texts, read_json
from .sentence_splitters import get_splitter
from .sentence_table import arrow_dataset, word_batches
from .source_text import CorpusError, RawSentence, is_text, read_lines, setting
from .sources import Source, file_suffix, format_of_file, numbered_rows, open_table, source_name
from .tool_exports import is_export_row, is_word_span_row, read_docbin, texts_of_rows
from .words import check_corpus, is_tokenised, tag_column, with_column

logger = logging.getLogger(__name__)
_LINES_TO_COMPARE = 1000
# A line of words between blanks has up to 5 % that the rules would cut (French UD, "l'"), one of raw text 12 to 20 %.
_RAW_SHARE = 0.08

FEATURES = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "language": datasets.Value("string")})


def load_sentences(
    source: Source,
    *,
    language: str,
    split: str | None = "train",
    tokens_column: str | int | None = None,
    sentence_column: str | int | None = None,
    max_sentences: int | None = None,
    words: str | Callable[[str], Iterable[Any]] | None = None,
    sentences: str | Callable[[str], Iterable[Any]] | None = None,
    glued: bool = False,
) -> datasets.Dataset:
    """Load the sentences of one language; tags are ignored.

    Args:
        source: a `.txt` file with one sentence per line; or any source of `load_corpus`: column files, `.csv`,
            `.conllu`, `.json`, `.jsonl`, `.parquet`, a folder written by `save_to_disk`, a Hub id, a `Dataset`. No tag
            column is needed. Tables may have a column `text` in place of words.
        language: the value of the `language` column.
        split: the split, for sources that have several.
        tokens_column: the column of the words: a name in tables (by default one of `TOKEN_COLUMNS`); in column
            files and CSV a number (by default 0), or a name where the first line names the columns.
        sentence_column: as for `load_corpus`.
        max_sentences: Load only so many, from the start.
        words: how texts become words: the name of a segmenter or a function, see
            [`~.modeling.segmenters.get_segmenter`]. By default the words of a `.txt` file stand between blanks
            (`"whitespace"`), and those of other texts are the default ones (see `default_words.py`); words that a
            source holds stay as they are.
        sentences: texts are documents, and this is how they become sentences: the name of a splitter or a function,
            see [`~.data.sentence_splitters.get_splitter`]. By default each text, or line of a `.txt` file, is one
            sentence. With it, the lines of a `.txt` file are raw text, whose words are the default ones too.
        glued: as for `load_corpus`.

    Returns:
        A dataset with the columns `tokens` and `language`. Empty lines and sentences without words are left out.

    Raises:
        CorpusError: if the source is missing, empty or broken; the message names file and line, or row.
    """
    name = source_name(source)
    split_text = None if sentences is None else get_splitter(sentences)
    segment = DefaultSegmenter() if words is None else get_segmenter(words)
    is_raw = words is not None or sentences is not None
    source_sentences = _open(source, split, tokens_column, sentence_column, _Reading(segment, split_text, is_raw))
    filled = (sentence for sentence in source_sentences if sentence)
    try:
        batches = list(word_batches(islice(filled, max_sentences), glued))
    except MemoryError:
        raise CorpusError(f"{name}: does not fit into memory: take its first sentences (max_sentences=).") from None
    if not batches:
        raise CorpusError(f"{name}: no sentences. Is it the right file, and complete?")
    if isinstance(segment, DefaultSegmenter):
        segment.log(name)
    if not is_raw and file_suffix(Path(name)).endswith(".txt") and Path(name).is_file():
        _log_words_of_lines(name, segment)
    for columns in batches:
        columns[LANGUAGE] = pa.repeat(pa.scalar(language, pa.string()), len(columns[TOKENS]))
    features = datasets.Features({**FEATURES, GLUED: datasets.List(datasets.Value("bool"))}) if glued else FEATURES
    return arrow_dataset(batches, source_info(source, features))


@dataclass
class _Reading:
    """How raw text is read.

    Attributes:
        segment: finds the words of a text.
        split: finds the sentences of a text; `None` where each text is one sentence.
        is_raw: whether the lines of a `.txt` file are raw text, and not words between blanks.
    """

    segment: Segmenter
    split: Segmenter | None
    is_raw: bool

    def sentences(self, where: str, text: str) -> Iterator[list[str]]:
        """The sentences of a text, as words."""
        try:
            for start, end in [(0, len(text))] if self.split is None else self.split(text):
                sentence = text[start:end]
                yield GluedWords.of_text(sentence, self.segment(sentence))
        except SegmenterError as error:
            raise CorpusError(f"{where}: {error}") from error

    def refuse_splitter(self, name: str) -> None:
        """Raise CorpusError if sentences are to be found where the source holds words."""
        if self.split is not None:
            raise CorpusError(
                f"{name}: sentences splits texts, and this source holds sentences of words: leave it out."
            )


def _open(
    source: Source,
    split: str | None,
    tokens_column: str | int | None,
    sentence_column: str | int | None,
    reading: _Reading,
) -> Iterator[list[str]]:
    name = source_name(source)
    table = open_table(source, split)
    path = Path(name)
    suffix = "" if table is not None else file_suffix(path)
    kind = "" if table is not None or suffix.endswith(".txt") else format_of_file(path)[0]
    is_columns = kind in ("conll", "csv")
    if sentence_column is not None and not is_columns:
        raise CorpusError(f"{name}: sentence_column has no effect on a source of this kind: leave it out.")
    if table is not None:
        return _words_of_rows(name, numbered_rows(name, table), tokens_column, reading)
    if suffix.endswith(".txt"):
        if tokens_column is not None:
            raise CorpusError(
                f"{name}: a .txt file holds one sentence per line and has no columns: leave tokens_column out, or "
                "give a file with columns another ending, such as .conll."
            )
        return _words_of_texts(path, reading) if reading.is_raw else _words_of_lines(path)
    if kind == "jsonl":
        return _words_of_rows(name, read_json(path), tokens_column, reading)
    is_table = kind == "csv" or suffix.endswith(".tsv")
    if is_table and (texts := read_csv_texts(path, without_spans=True)) is not None:
        return _words_of_rows(name, texts, tokens_column, reading)
    reading.refuse_splitter(name)
    if kind == "conllu":
        return (_with_blanks(sentence) for sentence in read_conllu(path, "form"))
    if kind == "spacy":
        return (_with_blanks(sentence) for sentence in read_docbin(path, words_only=True))
    known = kind if tokens_column is None else "conll"
    columns = (None, tokens_column, sentence_column)
    rows = read_columns(path, *columns, is_csv=kind == "csv", words_only=True, known_format=known)
    return (sentence.tokens for sentence in rows)


def _with_blanks(sentence: RawSentence) -> list[str]:
    return sentence.tokens if sentence.glued is None else GluedWords(sentence.tokens, sentence.glued)


def _words_of_lines(path: Path) -> Iterator[list[str]]:
    for number, line in read_lines(path):
        if "\t" in line:
            raise CorpusError(
                f"{path}:{number}: a tab; a .txt file holds one sentence per line, words between spaces. Give a "
                f"file with columns another ending, such as .conll; for raw text, say how it becomes words: "
                f"{setting('words', 'rules')}."
            )
        yield [word for word in line.split(" ") if word]


def _log_words_of_lines(name: str, segment: Segmenter) -> None:
    """Log that the words of a `.txt` file were taken to stand between blanks; a warning if it seems to be raw text."""
    lines = islice(read_lines(Path(name)), _LINES_TO_COMPARE)
    words = [word for _, line in lines for word in line.split(" ") if word]
    several = list(dict.fromkeys(word for word in words if len(segment(word)) > 1))
    share = sum(len(segment(word)) > 1 for word in words) / max(len(words), 1)
    if share < _RAW_SHARE:
        logger.info(
            "%s: each line is read as words between blanks; raw text needs %s.", name, setting("words", "rules")
        )
        return
    logger.warning(
        "%s: each line is read as words between blanks, but it seems to be raw text: %.0f %% of these words are "
        "several, such as %s. Say how raw text becomes words: %s.",
        *(name, 100 * share, ", ".join(several[:4]), setting("words", "rules")),
    )


def _words_of_texts(path: Path, reading: _Reading) -> Iterator[list[str]]:
    for number, line in read_lines(path):
        yield from reading.sentences(f"{path}:{number}", line)


def _words_of_rows(source: str, rows: Any, tokens_column: str | int | None, reading: _Reading) -> Iterator[list[str]]:
    wanted = None if tokens_column is None else str(tokens_column)
    for place, row in rows:
        if wanted is None and is_word_span_row(row):
            reading.refuse_splitter(f"{source}{place}")
            yield list(row["tokenized_text"])
            continue
        is_text_row = is_text(row.get("text")) and not any(name in row for name in TOKEN_COLUMNS)
        if wanted is None and (is_export_row(row) or is_text_row):
            for item in texts_of_rows(source, [(place, row)], SpanCounts(), "drop"):
                if item.words is not None:
                    reading.refuse_splitter(f"{source}{place}")
                    yield GluedWords.of_text(item.text, item.words)
                else:
                    yield from reading.sentences(f"{source}{place}", item.text)
            continue
        reading.refuse_splitter(f"{source}{place}")
        column = pick_column(f"{source}{place}", row, wanted, TOKEN_COLUMNS, "tokens")
        words = row[column]
        if not isinstance(words, (list, tuple)) or not all(is_text(word) and word for word in words):
            raise CorpusError(f"{source}{place}: {column!r} must be a list of words, not {words!r:.80}.")
        yield list(words)


def hide_gold(dataset: Dataset) -> Dataset:
    """The same sentences without their gold tags.

    Args:
        dataset: a corpus; it stays as it is.

    Returns:
        The corpus, its tag column (where there is one) `None` in every row, with the features that it had. Where it
        is tokenised, the labels of its subwords are all -100.

    Raises:
        ValueError: if it is no `Dataset`.
    """
    check_corpus(dataset, ())
    hidden = dataset
    if column := tag_column(dataset):
        feature = dataset.features[column]
        hidden = dataset.remove_columns(column).add_column(column, [None] * len(dataset), feature=feature)
        hidden = hidden.select_columns(dataset.column_names)
    if is_tokenised(dataset) and SUBWORD_LABELS in dataset.column_names:
        labels = dataset.select_columns([SUBWORDS]).map(
            lambda batch: {SUBWORD_LABELS: [[IGNORED] * len(ids) for ids in batch[SUBWORDS]]},
            batched=True,
            remove_columns=[SUBWORDS],
            features=Features({SUBWORD_LABELS: dataset.features[SUBWORD_LABELS]}),
            desc="Hiding gold",
        )
        hidden = with_column(hidden, SUBWORD_LABELS, labels)
    return hidden


def mix_unlabelled(labelled: Dataset, unlabelled: Dataset | Sequence[Dataset]) -> Dataset:
    """Combine sentences with gold tags and sentences without to training data.

    Args:
        labelled: a corpus with tags, tokenised or not.
        unlabelled: one corpus or several, tokenised if the first is; their tags are hidden.

    Returns:
        All sentences, with the columns of `labelled`. `StructKDTrainingArguments.unlabelled_rate` decides how often
        the unlabelled sentences are drawn.

    Raises:
        ValueError: if a corpus has no words, or the first one no tags, or if some are tokenised and others not.
    """
    parts = [unlabelled] if isinstance(unlabelled, Dataset) else list(unlabelled)
    check_corpus(labelled, ())
    tokenised = is_tokenised(labelled)
    if tag_column(labelled) is None and not (tokenised and SUBWORD_LABELS in labelled.column_names):
        raise ValueError(f"the labelled corpus has no tags, only the columns {labelled.column_names}")
    hidden = []
    for part in parts:
        check_corpus(part, ())
        if is_tokenised(part) != tokenised:
            raise ValueError("of corpora to mix all are tokenised (encode_corpus), or none is")
        needed = SUBWORDS if tokenised else TOKENS
        if needed not in part.column_names:
            raise ValueError(f"an unlabelled corpus needs a column {needed!r}; this one has {part.column_names}")
        tags = tag_column(part)
        bare = part.remove_columns(tags) if tags else part
        if tokenised and SUBWORD_LABELS in bare.column_names:
            bare = bare.remove_columns(SUBWORD_LABELS)
        bare = bare.remove_columns([name for name in bare.column_names if name not in labelled.column_names])
        for name in labelled.column_names:
            if name not in bare.column_names:
                empty: list[Any] = [None] * len(bare)
                if tokenised and name == SUBWORD_LABELS:
                    empty = [[IGNORED] * len(ids) for ids in bare[SUBWORDS]]
                bare = bare.add_column(name, empty, feature=labelled.features[name])
        hidden.append(bare.select_columns(labelled.column_names).cast(labelled.features))
    return concatenate_datasets([labelled, *hidden])


def has_gold(dataset: Dataset) -> list[bool]:
    """Whether each sentence has gold tags: in `labels` where the corpus is tokenised, else in its column of tags."""
    column = _gold_column(dataset)
    if column is None:
        return [False] * len(dataset)
    return [_any_tag(tags) for tags in column_values(dataset, column)]


def has_any_gold(dataset: Dataset) -> bool:
    """Whether any sentence has gold tags."""
    column = _gold_column(dataset)
    if column is None:
        return False
    batches = dataset.with_format(None).select_columns(column).iter(batch_size=100)
    return any(_any_tag(tags) for batch in batches for tags in batch[column])


def select_gold(dataset: Dataset) -> Dataset:
    """The sentences that have gold tags, on which answers can be scored; the number of the others is logged.

    Raises:
        ValueError: if no sentence has gold tags.
    """
    rows = [row for row, gold in enumerate(has_gold(dataset)) if gold]
    if not rows:
        raise ValueError("none of the sentences has gold tags, so there is nothing to compare answers with")
    if len(rows) == len(dataset):
        return dataset
    logger.warning("%d of %d sentences have no gold tags and are not scored", len(dataset) - len(rows), len(dataset))
    return dataset.select(rows)


def _gold_column(dataset: Dataset) -> str | None:
    return SUBWORD_LABELS if is_tokenised(dataset) and SUBWORD_LABELS in dataset.column_names else tag_column(dataset)


def _any_tag(tags: Sequence[Any] | None) -> bool:
    return any(tag is not None and tag != IGNORED for tag in tags or ())
