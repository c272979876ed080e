"""Opening the source that a corpus's name denotes: a file, a saved dataset, a dataset on the Hub, the demo."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, TypeAlias, cast

import datasets
import pyarrow as pa

from ..modeling.segmenters import get_segmenter
from .column_files import read_columns
from .columns import TAG_COLUMNS, TOKEN_COLUMNS
from .conllu import read_conllu
from .default_words import DefaultSegmenter
from .demo_corpus import load_demo_corpus
from .foreign_formats import FILE_FORMATS, FORMATS, ROW_FORMATS, check_format, describe_foreign_file, format_of_line
from .offset_spans import OFFSET_UNITS, SPAN_CHOICES, OffsetUnit, SpanChoice, SpanCounts, sentences_from_texts
from .readers import pick_column, read_csv_texts, read_json, sentence_columns, sentences_from_rows
from .sentence_table import SentenceColumns, columns_of_lists
from .source_text import (
    PACKED_ENDINGS,
    CorpusError,
    RawSentence,
    read_lines,
    setting,
    showing_first_line,
    start_of,
    with_first_line,
)
from .tool_exports import SPAN_COLUMNS, read_docbin, row_format, sentences_of_word_spans, texts_of_rows

logger = logging.getLogger(__name__)

# Names with these endings are files: where one is missing, it is not looked up on the Hub.
FILE_NAME = re.compile(
    r".*\.(conllu?|conll\d+|conllup?|txt|[ct]sv|iob\d?|bio|bioes|jsonl?|ndjson|jsonlines|parquet|spacy|gz|bz2|xz|zip)|\.{0,2}/.*",
    re.IGNORECASE,
)
# What an ending says of a file's format; other endings say nothing, and the content is asked.
_FORMATS_OF_ENDINGS = (
    (re.compile(r"\.(jsonl?|ndjson|jsonlines)$"), "jsonl"),
    (re.compile(r"\.conllup?$"), "conllu"),
    (re.compile(r"\.csv$"), "csv"),
    (re.compile(r"\.spacy$"), "spacy"),
    (re.compile(r"\.parquet$"), "parquet"),
    (re.compile(r"\.(conll\d*|txt|tsv|iob\d?|bio|bioes)$"), "conll"),
)
_ZLIB = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")  # how a DocBin begins
_LINES_ASKED = 1_000  # of a file whose ending says nothing
_ROWS_ASKED = 100  # of a table, which may begin with rows that nobody annotated
Stream: TypeAlias = datasets.IterableDataset | datasets.IterableDatasetDict
Sentences: TypeAlias = Iterator[RawSentence | SentenceColumns]
Source: TypeAlias = str | Path | datasets.Dataset | datasets.DatasetDict | Stream
HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(?::(?P<config>[\w.+-]+))?(?:@(?P<revision>\w[\w./+-]*))?")
_CONVERTED = re.compile(r"refs/convert/\w+")  # branches that the Hub writes, also of datasets with scripts
_ROWS_AT_ONCE = 1_000
_COLUMNS, _NUMBERED = ("tags_column", "tokens_column"), ("sentence_column", "column")
_OF_TEXTS = ("words", "spans", "offset_unit")
_SAME_SPLIT = {"dev": "validation", "validation": "dev"}


@dataclass(frozen=True)
class ReadingOptions:
    """How a source is read; the fields are arguments of [`load_corpus`]."""

    tags_column: str | int | None = None
    tokens_column: str | int | None = None
    sentence_column: str | int | None = None
    column: int = -1
    label_names: Sequence[str] | None = None
    words: str | Callable[[str], Iterable[Any]] | None = None
    spans: SpanChoice = "refuse"
    offset_unit: OffsetUnit | None = None
    format: str | None = None

    def __post_init__(self) -> None:
        check_format(self.format)
        if self.spans not in SPAN_CHOICES:
            raise ValueError(f"spans must be one of {', '.join(SPAN_CHOICES)}, not {self.spans!r}.")
        if self.offset_unit not in (None, *OFFSET_UNITS):
            raise ValueError(f"offset_unit must be one of {', '.join(OFFSET_UNITS)}, not {self.offset_unit!r}.")
        if self.words is not None:
            get_segmenter(self.words)

    def refuse(self, source: str, kind: str, *names: str) -> None:
        """Raise CorpusError if one of these options is given, because it has no effect on a source of a kind."""
        defaults = {field.name: field.default for field in fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise CorpusError(f"{source}: {setting(name).removesuffix('=')} says nothing {kind}: leave it out.")


def open_source(source: Source, language: str, split: str | None, options: ReadingOptions) -> Sentences:
    """Recognise a source and start to read it.

    Args:
        source, language, split: as for [`load_corpus`].
        options: the other arguments.

    Returns:
        Its sentences, one by one or many at a time, without any check of their tags.

    Raises:
        CorpusError: if there is no such source, or, at once or while iterating, if it is broken; and for arguments
            without effect on a source of its kind.
    """
    name = source_name(source)
    if name == "demo":
        options.refuse(name, "of this corpus", *_COLUMNS, *_NUMBERED, *_OF_TEXTS, "format")
        demo = load_demo_corpus(language, split or "train")
        return _sentences_of_dataset(f"demo:{language}", demo, ReadingOptions())
    if (table := open_table(source, split, options.format)) is not None:
        options.refuse(name, "of tables, whose columns have names", *_NUMBERED)
        is_file = isinstance(source, (str, Path)) and Path(source).is_file()
        if options.format not in (None, *ROW_FORMATS, "parquet" if is_file else None):
            raise CorpusError(
                f"{name}: {setting('format', options.format)} is one of files; of tables there are "
                f"{', '.join(ROW_FORMATS)}."
            )
        holder = format_of_file(Path(name), options.format) if is_file else (None, "")
        return _sentences_of_dataset(name, table, options, *holder)
    path = Path(name)
    kind, reason = format_of_file(path, options.format)
    chosen = (*(getattr(options, name) for name in (*_COLUMNS, "sentence_column")), options.column + 1 or None)
    if kind == "ontonotes" and options.format is None and any(column is not None for column in chosen):
        kind = "conll"  # whoever numbers the columns knows better
    if kind == "spacy":
        _log_format(name, kind, reason)
        return read_docbin(path)
    rows = read_csv_texts(path) if kind == "csv" or file_suffix(path).endswith(".tsv") else None
    if rows is not None:
        kind = "csv"
    elif kind == "jsonl":
        rows = read_json(path)
    if rows is not None:
        options.refuse(name, "of tables, whose columns have names", *_NUMBERED)
        return _sentences_of_rows(path, rows, options, options.label_names, kind, reason)
    if options.format in ROW_FORMATS:
        problem = f"{path}: {setting('format', options.format)} is one of JSON and of tables with a column 'text'"
        raise showing_first_line(path, CorpusError(problem))
    _log_format(name, kind, reason)
    if kind == "conllu":
        options.refuse(name, "of CoNLL-U, whose words are its FORM", "tokens_column", *_NUMBERED)
        return with_first_line(path, read_conllu(path, _column_name(options.tags_column)), options.format)
    if kind not in ("csv", "conll"):
        options.refuse(name, f"of the format {kind}, whose columns are always the same", *_COLUMNS, *_NUMBERED)
    if options.tags_column is not None and options.column != -1:
        raise CorpusError(
            f"{name}: column={options.column} and tags_column={options.tags_column!r} are the same: give one."
        )
    tags = options.column if options.column != -1 else options.tags_column
    columns = (tags, options.tokens_column, options.sentence_column)
    sentences = read_columns(path, *columns, is_csv=kind == "csv", known_format=kind, in_columns=True)
    return with_first_line(path, sentences, options.format)


def format_of_file(path: Path, given: str | None = None) -> tuple[str, str]:
    """The format of a file, and what tells it.

    Args:
        path: a file.
        given: the format that the user names; where it is one of rows, the file that holds them is recognised.

    Returns:
        The format, one of `FILE_FORMATS`, and a phrase for the log: `"by its ending"`.

    Raises:
        CorpusError: if there is no such file, or it holds no text where its content is to tell.
    """
    if given in FILE_FORMATS:
        return given, "as you said"
    suffix = file_suffix(path)
    by_ending = next((name for ending, name in _FORMATS_OF_ENDINGS if ending.search(suffix)), None)
    if given is not None:
        is_table = by_ending in ("csv", "parquet") or suffix.endswith(".tsv")
        return (by_ending if is_table and by_ending else "jsonl"), "as you said"
    return (by_ending, "by its ending") if by_ending else (_format_of_content(path), "by its content")


def _format_of_content(path: Path) -> str:
    start = start_of(path)
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(_ZLIB):
        return "spacy"
    for _, line in islice(read_lines(path), _LINES_ASKED):
        if line.startswith("# global.columns"):
            return "conllu"
        if line.strip() and not line.startswith("#"):
            name = format_of_line(line)
            if name in ("conllu", "ontonotes", "jsonl", "json"):
                return "jsonl" if name == "json" else name
            return "csv" if _is_csv_header(line) else "conll"
    return "conll"


def _is_csv_header(line: str) -> bool:
    """Whether commas or semicolons part the usual names of columns."""
    names = [name.strip().lower() for name in re.split("[,;]", line)]
    words = any(name in TOKEN_COLUMNS for name in names) and any(name in TAG_COLUMNS for name in names)
    return words or ("text" in names and any(name in SPAN_COLUMNS for name in names))


def _log_format(source: str, name: str, reason: str) -> None:
    logger.info("%s: format %s (%s), %s.", source, name, FORMATS[name], reason)


def _sentences_of_rows(
    source: str | Path,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    options: ReadingOptions,
    label_names: Sequence[str] | None,
    holder: str | None = None,
    reason: str = "",
    in_lists: Sentences | None = None,
) -> Sentences:
    """The sentences of a table, or of an annotation tool's export, which its first rows tell.

    Args:
        source: a file, or the name of a table.
        rows, label_names: as for `sentences_from_rows`.
        options: the arguments of `load_corpus`.
        holder, reason: the format of the file, and what tells it.
        in_lists: the sentences, where the rows are those of a table with lists of words and of tags.
    """
    name, iterator = str(source), iter(rows)
    columns = _column_name(options.tokens_column), _column_name(options.tags_column)
    try:
        first, kind = _first_rows(iterator, *columns)
        if not first:
            return
        _check_row_format(name, options.format, kind, first[-1][1])
    except CorpusError as error:
        raise (showing_first_line(source, error, options.format) if isinstance(source, Path) else error) from error
    rows, counts = chain(first, iterator), SpanCounts()
    if options.format in ("jsonl", "parquet"):
        kind = None
    elif options.format is None:
        names = ", ".join(first[-1][1])
        reason = f"{reason or 'by'}{' and' if reason else ''} its columns: {names:.200}"
    if kind is not None or holder is not None:
        named = options.format if options.format in ROW_FORMATS else kind or holder
        _log_format(name, named or "", reason or "as you said")
    if kind == "gliner":
        yield from sentences_of_word_spans(name, rows, options.spans, counts)
    elif kind is not None:
        texts = texts_of_rows(name, rows, counts, options.spans, *columns)
        segment = DefaultSegmenter() if options.words is None else get_segmenter(options.words)
        yield from sentences_from_texts(name, texts, segment, options.spans, options.offset_unit, counts)
    else:
        sentences = in_lists or sentences_from_rows(name, rows, *columns, label_names)
        yield from with_first_line(source, sentences, options.format) if isinstance(source, Path) else sentences


def _first_rows(
    rows: Iterator[tuple[str, Mapping[str, Any]]], tokens_column: str | None, tags_column: str | None
) -> tuple[list[tuple[str, Mapping[str, Any]]], str | None]:
    """The first rows, up to one that tells their format, and the format; texts without spans do not tell it."""
    first = []
    for place, row in islice(rows, _ROWS_ASKED):
        first.append((place, row))
        kind = row_format(row, tokens_column, tags_column)
        has_words = any(isinstance(row.get(column), (list, tuple)) for column in TOKEN_COLUMNS)
        if kind is not None or has_words or not isinstance(row.get(tokens_column or "text"), str):
            return first, kind
    return first, None


def _check_row_format(name: str, wanted: str | None, kind: str | None, row: Mapping[str, Any]) -> None:
    """Raise CorpusError if rows are not of the format that the user names."""
    of_texts = kind is not None and kind != "gliner"
    if wanted not in ROW_FORMATS or kind == wanted or (wanted == "spans" and of_texts):
        return
    look = f"look like {kind}" if kind else "are not like that"
    raise CorpusError(f"{name}: {setting('format', wanted)}, but its rows {look}; their columns are {', '.join(row)}.")


def source_name(source: Source) -> str:
    """The name of a source, for messages.

    Raises:
        CorpusError: for anything that is no corpus.
    """
    if isinstance(source, datasets.Dataset):
        return "the Dataset"
    if isinstance(source, datasets.DatasetDict):
        return "the DatasetDict"
    if isinstance(source, (datasets.IterableDataset, datasets.IterableDatasetDict)):
        return f"the {type(source).__name__}"
    if isinstance(source, (str, Path)):
        return str(source)
    raise CorpusError(f"a corpus is a path, a Hub id, a Dataset or a DatasetDict, not {type(source).__name__}.")


def is_one_table(source: Source) -> bool:
    """Whether a source holds one set of sentences, whatever the split."""
    if not isinstance(source, (str, Path)):
        return isinstance(source, (datasets.Dataset, datasets.IterableDataset))
    path = Path(source)
    try:
        if path.is_dir():
            return not (path / "dataset_dict.json").exists()
        return path.exists() or FILE_NAME.fullmatch(str(source)) is not None
    except OSError:
        return False  # a name too long: an error when it is opened


def file_suffix(path: Path) -> str:
    """The ending of a file's name, which tells its format, in lower case and without those of packed files."""
    suffix = "".join(path.suffixes[-2:]).lower()
    for packed in PACKED_ENDINGS:
        suffix = suffix.removesuffix(packed)
    return suffix


def open_table(
    source: Source, split: str | None, format: str | None = None
) -> datasets.Dataset | datasets.IterableDataset | None:
    """Open a saved dataset, a Parquet file, or a dataset on the Hub, in memory or read as a stream.

    Args:
        source, split, format: as for [`load_corpus`].

    Returns:
        The dataset; `None` for a file of another format, which exists.

    Raises:
        CorpusError: if there is no such source, or it is broken.
    """
    if isinstance(source, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        source = _choose_split(source_name(source), source, split)
    if isinstance(source, (datasets.Dataset, datasets.IterableDataset)):
        return source.with_format(None)
    path, name = Path(source), source_name(source)
    try:
        exists = path.exists()
    except OSError as error:  # a name too long for any file, a folder that may not be entered
        raise CorpusError(f"{name:.200}: {error.strerror}.") from error
    if path.is_dir():
        return _load_saved(path, split)
    if not exists and not FILE_NAME.fullmatch(name):
        if match := HUB_ID.fullmatch(name):
            return _load_from_hub(match["name"], match["config"], match["revision"], split)
        raise CorpusError(
            f"{name}: no such file or folder, nor a Hub id (owner/name, owner/name:config, either with @revision)."
        )
    if not exists:
        raise CorpusError(f"{name}: no such file.")
    return _read_parquet(path) if format_of_file(path, format)[0] == "parquet" else None


def numbered_rows(
    source: str, table: datasets.Dataset | datasets.IterableDataset, skipped: int = 0
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A table's rows with their places, for `sentences_from_rows`.

    Args:
        source: the name of the table.
        table: the rows.
        skipped: how many rows the source has before them.

    Raises:
        CorpusError: on a row that cannot be decoded, such as text that is not UTF-8.
    """
    rows = iter(table)
    for number in count(skipped + 1):
        try:
            row = cast("Mapping[str, Any]", next(rows))
        except StopIteration:
            return
        except Exception as error:
            raise CorpusError(f"{source}, row {number}: cannot be decoded ({error}).") from error
        yield f", row {number}", row


def _column_name(column: str | int | None) -> str | None:
    return column if column is None else str(column)


def _choose_split(source: str, splits: Mapping[Any, Any], split: str | None) -> Any:
    for name in (split, _SAME_SPLIT.get(split or "")):
        if name is not None and name in splits:
            return splits[name]
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    raise CorpusError(f"{source}: choose a split (got {split!r}); there are {', '.join(map(str, splits))}.")


def _load_saved(path: Path, split: str | None) -> datasets.Dataset:
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:
        raise CorpusError(f"{path}: a folder, but not one written by save_to_disk ({error}).") from error
    chosen = _choose_split(str(path), loaded, split) if isinstance(loaded, datasets.DatasetDict) else loaded
    return chosen.with_format(None)  # a format that was stored with it would give arrays, or tensors


def _read_parquet(path: Path) -> datasets.Dataset:
    from pyarrow import parquet

    try:
        # Straight from Arrow: the dataset builder would leave a second copy of the file in the cache.
        return datasets.Dataset(datasets.table.InMemoryTable(parquet.read_table(path)))
    except Exception as error:  # Arrow's errors, and those of datasets about metadata of another kind
        with path.open("rb") as file:
            start = file.read(512)
        if not start.startswith(b"PAR1") and (description := describe_foreign_file(start)):
            raise CorpusError(f"{path}: {description}") from None
        raise CorpusError(f"{path}: not a Parquet file, or a damaged one ({error}).") from error


def _load_from_hub(name: str, config: str | None, revision: str | None, split: str | None) -> datasets.Dataset:
    options: dict[str, str | None] = {} if revision is None else {"revision": revision}
    if revision is not None and _CONVERTED.fullmatch(revision):
        config, options["data_dir"] = None, config  # on these branches a configuration is an unnamed folder
    try:
        loaded = datasets.load_dataset(name, config, **options)
    except Exception as error:  # network, permissions, missing configurations: the Hub's message is the clearest
        reason = f"{type(error).__name__}: {error}"
        raise CorpusError(
            f"{name}: neither a file nor to be had from the Hub ({reason}). Give a path that exists, or the id of a "
            "dataset without loading script, with its configuration as owner/name:config. Many of those with a script "
            "are there without it as owner/name:config@refs/convert/parquet."
        ) from error
    return _choose_split(name, cast("datasets.DatasetDict", loaded), split)


def _sentences_of_dataset(
    source: str,
    dataset: datasets.Dataset | datasets.IterableDataset,
    options: ReadingOptions,
    holder: str | None = None,
    reason: str = "",
) -> Sentences:
    rows = numbered_rows(source, dataset)
    features = dataset.features or {}  # a stream may not know its columns
    class_names = {
        name: inner.names
        for name, feature in features.items()
        if isinstance(inner := getattr(feature, "feature", None), datasets.ClassLabel)
    }
    if isinstance(dataset, datasets.Dataset) and dataset.num_rows == 0:
        return iter(())
    # The column of the tags decides what numbers in it mean; where a table has none, reading its first row raises.
    lists = [name for name, feature in features.items() if hasattr(feature, "feature")]
    wanted = _column_name(options.tags_column)
    tags_column = None
    if features and (
        wanted is not None
        or (any(name in TAG_COLUMNS for name in features) and any(name in TOKEN_COLUMNS for name in features))
    ):
        tags_column = pick_column(source, features, wanted, TAG_COLUMNS, "tags", lists)
    names = class_names.get(tags_column or "", options.label_names)
    chosen = sentence_columns(features, _column_name(options.tokens_column), wanted)
    in_lists = None
    if isinstance(dataset, datasets.Dataset) and chosen is not None and set(chosen) <= set(lists):
        in_lists = _sentences_of_lists(source, dataset, chosen, names)
    return _sentences_of_rows(source, rows, options, names, holder, reason, in_lists)


def _sentences_of_lists(
    source: str, dataset: datasets.Dataset, chosen: tuple[str, str], names: Sequence[str] | None
) -> Sentences:
    """The sentences of a table whose columns of words and tags, which are lists, are known."""
    for start in range(0, len(dataset), _ROWS_AT_ONCE):
        part = dataset.select(range(start, min(start + _ROWS_AT_ONCE, len(dataset))))
        table = part.with_format("arrow")[:]
        tokens, tags = (_one_chunk(table[name]) for name in chosen)
        places = [f", row {number}" for number in range(start + 1, start + len(part) + 1)]
        columns = columns_of_lists(source, tokens, tags, names, places)
        if columns is None:
            yield from sentences_from_rows(source, numbered_rows(source, part, start), *chosen, names)
        else:
            yield columns


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
