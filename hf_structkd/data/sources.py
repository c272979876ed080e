"""Opening the source that a corpus's name denotes: a file, a saved dataset, a dataset on the Hub, the demo."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeAlias, cast

import datasets

from ..modeling.segmenters import get_segmenter
from .column_files import read_columns
from .columns import TAG_COLUMNS, TOKEN_COLUMNS
from .conllu import read_conllu
from .default_words import DefaultSegmenter
from .demo_corpus import load_demo_corpus
from .docbin import read_docbin
from .foreign_formats import describe_foreign_file
from .offset_spans import OFFSET_UNITS, SPAN_CHOICES, OffsetUnit, SpanChoice, SpanCounts, sentences_from_texts
from .readers import pick_column, read_csv_texts, read_json, sentences_from_rows
from .source_text import PACKED_ENDINGS, CorpusError, RawSentence, setting
from .tool_exports import is_export_row, is_word_span_row, sentences_of_word_spans, texts_of_rows

logger = logging.getLogger(__name__)

# Names with these endings are files: where one is missing, it is not looked up on the Hub.
FILE_NAME = re.compile(
    r".*\.(conllu?|conll\d+|conllup?|txt|[ct]sv|iob\d?|bio|bioes|jsonl?|ndjson|jsonlines|parquet|spacy|gz|bz2|xz|zip)|\.{0,2}/.*",
    re.IGNORECASE,
)
JSON_ENDINGS = (".json", ".jsonl", ".ndjson", ".jsonlines")
Source: TypeAlias = str | Path | datasets.Dataset | datasets.DatasetDict
HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(?::(?P<config>[\w.+-]+))?(?:@(?P<revision>\w[\w./+-]*))?")
_CONVERTED = re.compile(r"refs/convert/\w+")  # branches that the Hub writes, also of datasets with scripts
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

    def __post_init__(self) -> None:
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


def open_source(source: Source, language: str, split: str | None, options: ReadingOptions) -> Iterator[RawSentence]:
    """Recognise a source and start to read it.

    Args:
        source, language, split: as for [`load_corpus`].
        options: the other arguments.

    Returns:
        Its sentences, without any check of their tags.

    Raises:
        CorpusError: if there is no such source, or, at once or while iterating, if it is broken; and for arguments
            without effect on a source of its kind.
    """
    name = source_name(source)
    if name == "demo":
        options.refuse(name, "of this corpus", *_COLUMNS, *_NUMBERED, *_OF_TEXTS)
        demo = load_demo_corpus(language, split or "train")
        return _sentences_of_dataset(f"demo:{language}", demo, ReadingOptions())
    if (table := open_table(source, split)) is not None:
        options.refuse(name, "of tables, whose columns have names", *_NUMBERED)
        return _sentences_of_dataset(name, table, options)
    path = Path(name)
    suffix = file_suffix(path)
    if suffix.endswith(JSON_ENDINGS):
        options.refuse(name, "of tables, whose columns have names", *_NUMBERED)
        return _sentences_of_rows(name, read_json(path), options, options.label_names)
    if suffix.endswith(".spacy"):
        return read_docbin(path)
    if suffix.endswith((".csv", ".tsv")) and (rows := read_csv_texts(path)) is not None:
        options.refuse(name, "of tables, whose columns have names", *_NUMBERED)
        return _sentences_of_rows(name, rows, options, None)
    if suffix.endswith((".conllu", ".conllup")):
        options.refuse(name, "of CoNLL-U, whose words are its FORM", "tokens_column", *_NUMBERED)
        return read_conllu(path, _column_name(options.tags_column))
    if options.tags_column is not None and options.column != -1:
        raise CorpusError(
            f"{name}: column={options.column} and tags_column={options.tags_column!r} are the same: give one."
        )
    tags = options.column if options.column != -1 else options.tags_column
    is_csv = suffix.endswith(".csv")
    return read_columns(path, tags, options.tokens_column, options.sentence_column, is_csv=is_csv)


def _sentences_of_rows(
    name: str,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    options: ReadingOptions,
    label_names: Sequence[str] | None,
) -> Iterator[RawSentence]:
    """The sentences of a table, or of an annotation tool's export, which its first row tells."""
    iterator = iter(rows)
    first = next(iterator, None)
    if first is None:
        return iter(())
    rows = chain([first], iterator)
    if options.tokens_column is None and options.tags_column is None:
        if is_word_span_row(first[1]):
            logger.info("%s: read as sentences with spans of words, as GLiNER takes them.", name)
            return sentences_of_word_spans(name, rows, options.spans, SpanCounts())
        if is_export_row(first[1]):
            logger.info("%s: read as texts with character offsets.", name)
            counts = SpanCounts()
            texts = texts_of_rows(name, rows, counts)
            segment = DefaultSegmenter() if options.words is None else get_segmenter(options.words)
            return sentences_from_texts(name, texts, segment, options.spans, options.offset_unit, counts)
    return sentences_from_rows(
        name, rows, _column_name(options.tokens_column), _column_name(options.tags_column), label_names
    )


def source_name(source: Source) -> str:
    """The name of a source, for messages.

    Raises:
        CorpusError: for a stream, or anything else that is no corpus.
    """
    if isinstance(source, datasets.Dataset):
        return "the Dataset"
    if isinstance(source, datasets.DatasetDict):
        return "the DatasetDict"
    if isinstance(source, (str, Path)):
        return str(source)
    if isinstance(source, (datasets.IterableDataset, datasets.IterableDatasetDict)):
        raise CorpusError(
            f"{type(source).__name__}: a stream has no end to check, and a corpus is read as a whole. Make a Dataset "
            "of what you need: Dataset.from_list(list(stream.take(100_000)))."
        )
    raise CorpusError(f"a corpus is a path, a Hub id, a Dataset or a DatasetDict, not {type(source).__name__}.")


def is_one_table(source: Source) -> bool:
    """Whether a source holds one set of sentences, whatever the split."""
    if isinstance(source, (datasets.Dataset, datasets.DatasetDict)):
        return isinstance(source, datasets.Dataset)
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


def open_table(source: Source, split: str | None) -> datasets.Dataset | None:
    """Open a saved dataset, a Parquet file, or a dataset on the Hub or in memory.

    Returns:
        The dataset; `None` for a file of another format, which exists.

    Raises:
        CorpusError: if there is no such source, or it is broken.
    """
    if isinstance(source, datasets.DatasetDict):
        return _choose_split("the DatasetDict", source, split)
    if isinstance(source, datasets.Dataset):
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
    return _read_parquet(path) if file_suffix(path).endswith(".parquet") else None


def numbered_rows(source: str, table: datasets.Dataset) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A table's rows with their places, for `sentences_from_rows`.

    Raises:
        CorpusError: on a row that cannot be decoded, such as text that is not UTF-8.
    """
    rows = iter(table)
    for number in count(1):
        try:
            row = cast("Mapping[str, Any]", next(rows))
        except StopIteration:
            return
        except Exception as error:
            raise CorpusError(f"{source}, row {number}: cannot be decoded ({error}).") from error
        yield f", row {number}", row


def _column_name(column: str | int | None) -> str | None:
    return column if column is None else str(column)


def _choose_split(source: str, splits: Mapping[Any, datasets.Dataset], split: str | None) -> datasets.Dataset:
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
    return _choose_split(str(path), loaded, split) if isinstance(loaded, datasets.DatasetDict) else loaded


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


def _sentences_of_dataset(source: str, dataset: datasets.Dataset, options: ReadingOptions) -> Iterator[RawSentence]:
    rows = numbered_rows(source, dataset)
    class_names = {
        name: inner.names
        for name, feature in dataset.features.items()
        if isinstance(inner := getattr(feature, "feature", None), datasets.ClassLabel)
    }
    if dataset.num_rows == 0:
        return iter(())
    # The column of the tags decides what numbers in it mean; where a table has none, reading its first row raises.
    lists = [name for name, feature in dataset.features.items() if hasattr(feature, "feature")]
    wanted = _column_name(options.tags_column)
    tags_column = None
    if wanted is not None or (
        any(name in TAG_COLUMNS for name in dataset.column_names)
        and any(name in TOKEN_COLUMNS for name in dataset.column_names)
    ):
        tags_column = pick_column(source, dataset.column_names, wanted, TAG_COLUMNS, "tags", lists)
    return _sentences_of_rows(source, rows, options, class_names.get(tags_column or "", options.label_names))
