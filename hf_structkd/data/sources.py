"""Opening the source that a corpus's name denotes: a file, a saved dataset, a dataset on the Hub, the demo."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias, cast

import datasets

from .column_files import read_columns
from .columns import TAG_COLUMNS
from .conllu import read_conllu
from .demo_corpus import load_demo_corpus
from .foreign_formats import describe_foreign_file
from .readers import pick_column, read_json, sentences_from_rows
from .source_text import CorpusError, RawSentence

# Names with these endings are files: where one is missing, it is not looked up on the Hub.
FILE_NAME = re.compile(
    r".*\.(conllu?|conll\d+|conllup?|txt|[ct]sv|iob\d?|bio|bioes|jsonl?|ndjson|jsonlines|parquet|gz)|\.{0,2}/.*",
    re.IGNORECASE,
)
JSON_ENDINGS = (".json", ".jsonl", ".ndjson", ".jsonlines")
Source: TypeAlias = str | Path | datasets.Dataset | datasets.DatasetDict
_HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(?::(?P<config>[\w.+-]+))?(?:@(?P<revision>\w[\w./+-]*))?")
_CONVERTED = re.compile(r"refs/convert/\w+")  # branches that the Hub writes, also of datasets with scripts
_SAME_SPLIT = {"dev": "validation", "validation": "dev"}


def open_source(
    source: Source,
    language: str,
    split: str | None,
    tags_column: str | int | None,
    tokens_column: str | int | None,
    sentence_column: str | int | None,
    column: int,
    label_names: Sequence[str] | None,
) -> Iterator[RawSentence]:
    """Recognise a source and start to read it.

    Args:
        source: as for [`load_corpus`], like the other arguments.

    Returns:
        Its sentences, without any check of their tags.

    Raises:
        CorpusError: if there is no such source, or, at once or while iterating, if it is broken; and for arguments
            without effect on a source of its kind.
    """
    name = source_name(source)
    if name == "demo":
        _refuse_arguments(
            name, "", tags_column=tags_column, tokens_column=tokens_column, sentence_column=sentence_column
        )
        _refuse_arguments(name, "", column=None if column == -1 else column)
        demo = load_demo_corpus(language, split or "train")
        return _sentences_of_dataset(f"demo:{language}", demo, None, None, None)
    numbered = {"sentence_column": sentence_column, "column": None if column == -1 else column}
    if (table := open_table(source, split)) is not None:
        _refuse_arguments(name, "of tables, whose columns have names", **numbered)
        return _sentences_of_dataset(name, table, _column_name(tokens_column), _column_name(tags_column), label_names)
    path = Path(name)
    suffix = file_suffix(path)
    if suffix.endswith(JSON_ENDINGS):
        _refuse_arguments(name, "of tables, whose columns have names", **numbered)
        return sentences_from_rows(
            name, read_json(path), _column_name(tokens_column), _column_name(tags_column), label_names
        )
    if suffix.endswith(".conllu"):
        _refuse_arguments(name, "of CoNLL-U, whose words are its FORM", tokens_column=tokens_column, **numbered)
        return read_conllu(path, _column_name(tags_column) or "upos")
    if tags_column is not None and column != -1:
        raise CorpusError(f"{name}: column={column} and tags_column={tags_column!r} are the same: give one.")
    tags = column if column != -1 else tags_column
    return read_columns(path, tags, tokens_column, sentence_column, is_csv=suffix.endswith(".csv"))


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


def _refuse_arguments(source: str, kind: str, **arguments: Any) -> None:
    """Refuse arguments without effect.

    Raises:
        CorpusError: for the first one that is given.
    """
    if useless := [name for name, value in arguments.items() if value is not None]:
        raise CorpusError(f"{source}: {useless[0]} says nothing {kind or 'of this corpus'}: leave it out.")


def file_suffix(path: Path) -> str:
    """The ending of a file's name, which tells its format, in lower case and without `.gz`."""
    return "".join(path.suffixes[-2:]).lower().removesuffix(".gz")


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
        if match := _HUB_ID.fullmatch(name):
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


def _sentences_of_dataset(
    source: str,
    dataset: datasets.Dataset,
    tokens_column: str | None,
    tags_column: str | None,
    label_names: Sequence[str] | None,
) -> Iterator[RawSentence]:
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
    if tags_column is not None or any(name in TAG_COLUMNS for name in dataset.column_names):
        tags_column = pick_column(source, dataset.column_names, tags_column, TAG_COLUMNS, "tags", lists)
    names = class_names.get(tags_column or "", label_names)
    return sentences_from_rows(source, rows, tokens_column, tags_column, names)
