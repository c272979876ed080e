"""What a corpus's name stands for: a file of some format, a saved dataset, a dataset on the Hub, the demo."""

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
from .impostors import what_it_is
from .readers import pick_column, read_json, sentences_from_rows
from .source_text import CorpusError, RawSentence

# Names with these endings are files: that one is missing must not send us looking on the Hub.
FILE_NAME = re.compile(
    r".*\.(conllu?|conll\d+|conllup?|txt|[ct]sv|iob\d?|bio|bioes|jsonl?|ndjson|jsonlines|parquet|gz)|\.{0,2}/.*",
    re.IGNORECASE,
)
JSON_ENDINGS = (".json", ".jsonl", ".ndjson", ".jsonlines")
Source: TypeAlias = str | Path | datasets.Dataset | datasets.DatasetDict  # what a corpus can be given as
_HUB_ID = re.compile(r"(?P<name>\w[\w.-]*/[\w.-]+)(?::(?P<config>[\w.+-]+))?(?:@(?P<revision>\w[\w./+-]*))?")
_CONVERTED = re.compile(r"refs/convert/\w+")  # branches that the Hub itself writes, from datasets with scripts too
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
    """Find out what ``source`` is and start reading it.

    Args:
        source: As for :func:`load_corpus`, like the other arguments.

    Returns:
        The sentences as found.

    Raises:
        CorpusError: If there is no such source, or, at once or while iterating, if it is broken; and for arguments
            that say nothing about a source of its kind.
    """
    name = source_name(source)
    if name == "demo":
        _refuse(name, "", tags_column=tags_column, tokens_column=tokens_column, sentence_column=sentence_column)
        _refuse(name, "", column=None if column == -1 else column)
        demo = load_demo_corpus(language, split or "train")
        return _from_dataset(f"demo:{language}", demo, None, None, None)
    numbered = {"sentence_column": sentence_column, "column": None if column == -1 else column}
    if (table := open_table(source, split)) is not None:
        _refuse(name, "of tables, whose columns have names", **numbered)
        return _from_dataset(name, table, _as_name(tokens_column), _as_name(tags_column), label_names)
    path = Path(name)
    suffix = file_suffix(path)
    if suffix.endswith(JSON_ENDINGS):
        _refuse(name, "of tables, whose columns have names", **numbered)
        return sentences_from_rows(name, read_json(path), _as_name(tokens_column), _as_name(tags_column), label_names)
    if suffix.endswith(".conllu"):
        _refuse(name, "of CoNLL-U, whose words are its FORM", tokens_column=tokens_column, **numbered)
        return read_conllu(path, _as_name(tags_column) or "upos")
    if tags_column is not None and column != -1:
        raise CorpusError(f"{name}: column={column} and tags_column={tags_column!r} are the same: give one.")
    tags = column if column != -1 else tags_column
    return read_columns(path, tags, tokens_column, sentence_column, is_csv=suffix.endswith(".csv"))


def source_name(source: Source) -> str:
    """What messages call a source.

    Raises:
        CorpusError: For a stream, or whatever else no corpus is.
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
    """Whether a source holds one set of sentences, whatever split is asked of it."""
    if isinstance(source, (datasets.Dataset, datasets.DatasetDict)):
        return isinstance(source, datasets.Dataset)
    path = Path(source)
    try:
        if path.is_dir():
            return not (path / "dataset_dict.json").exists()
        return path.exists() or FILE_NAME.fullmatch(str(source)) is not None
    except OSError:
        return False  # a name too long: told when it is opened


def _refuse(source: str, why: str, **given: Any) -> None:
    if useless := [name for name, value in given.items() if value is not None]:
        raise CorpusError(f"{source}: {useless[0]} says nothing {why or 'of this corpus'}: leave it out.")


def file_suffix(path: Path) -> str:
    """What a file's name says of its format, ``.gz`` apart, in lower case."""
    return "".join(path.suffixes[-2:]).lower().removesuffix(".gz")


def open_table(source: Source, split: str | None) -> datasets.Dataset | None:
    """A saved dataset, a Parquet file, a dataset on the Hub or in memory; ``None`` for other files, which exist.

    Raises:
        CorpusError: If there is no such source, or it is broken.
    """
    if isinstance(source, datasets.DatasetDict):
        return _choose_split("the DatasetDict", source, split)
    if isinstance(source, datasets.Dataset):
        return source.with_format(None)
    path, name = Path(source), source_name(source)
    try:
        there = path.exists()
    except OSError as error:  # a name too long for any file, a folder that may not be entered
        raise CorpusError(f"{name:.200}: {error.strerror}.") from error
    if path.is_dir():
        return _saved(path, split)
    if not there and not FILE_NAME.fullmatch(name):
        if match := _HUB_ID.fullmatch(name):
            return _from_hub(match["name"], match["config"], match["revision"], split)
        raise CorpusError(
            f"{name}: no such file or folder, nor a Hub id (owner/name, owner/name:config, either with @revision)."
        )
    if not there:
        raise CorpusError(f"{name}: no such file.")
    return _parquet(path) if file_suffix(path).endswith(".parquet") else None


def numbered_rows(source: str, table: datasets.Dataset) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A table's rows with their places, as `sentences_from_rows` wants them.

    Raises:
        CorpusError: On a row that cannot be decoded, text that is not UTF-8 say.
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


def _as_name(column: str | int | None) -> str | None:
    return column if column is None else str(column)


def _choose_split(source: str, splits: Mapping[Any, datasets.Dataset], split: str | None) -> datasets.Dataset:
    for name in (split, _SAME_SPLIT.get(split or "")):
        if name is not None and name in splits:
            return splits[name]
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    raise CorpusError(f"{source}: choose a split (got {split!r}); there are {', '.join(map(str, splits))}.")


def _saved(path: Path, split: str | None) -> datasets.Dataset:
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:
        raise CorpusError(f"{path}: a folder, but not one written by save_to_disk ({error}).") from error
    return _choose_split(str(path), loaded, split) if isinstance(loaded, datasets.DatasetDict) else loaded


def _parquet(path: Path) -> datasets.Dataset:
    from pyarrow import parquet

    try:
        # Straight from Arrow: the dataset builder would leave a second copy of the file in the cache.
        return datasets.Dataset(datasets.table.InMemoryTable(parquet.read_table(path)))
    except Exception as error:  # Arrow's own, and whatever a schema's metadata of another kind does to datasets
        with path.open("rb") as file:
            start = file.read(512)
        if not start.startswith(b"PAR1") and (found := what_it_is(start)):
            raise CorpusError(f"{path}: {found}") from None
        raise CorpusError(f"{path}: not a Parquet file, or a damaged one ({error}).") from error


def _from_hub(name: str, config: str | None, revision: str | None, split: str | None) -> datasets.Dataset:
    which: dict[str, str | None] = {} if revision is None else {"revision": revision}
    if revision is not None and _CONVERTED.fullmatch(revision):
        config, which["data_dir"] = None, config  # there a configuration is a folder, and nothing names it
    try:
        loaded = datasets.load_dataset(name, config, **which)
    except Exception as error:  # network, permissions, missing configurations: the Hub's own words are the best
        reason = f"{type(error).__name__}: {error}"
        raise CorpusError(
            f"{name}: neither a file nor to be had from the Hub ({reason}). Give a path that exists, or the id of a "
            "dataset without loading script, with its configuration as owner/name:config. Many of those with a script "
            "are there without it as owner/name:config@refs/convert/parquet."
        ) from error
    return _choose_split(name, cast("datasets.DatasetDict", loaded), split)


def _from_dataset(
    source: str,
    dataset: datasets.Dataset,
    tokens_column: str | None,
    tags_column: str | None,
    label_names: Sequence[str] | None,
) -> Iterator[RawSentence]:
    rows = numbered_rows(source, dataset)
    by_column = {
        name: inner.names
        for name, feature in dataset.features.items()
        if isinstance(inner := getattr(feature, "feature", None), datasets.ClassLabel)
    }
    if dataset.num_rows == 0:
        return iter(())
    # Which column of tags it is decides what numbers in it mean; a table without one is told by its first row.
    lists = [name for name, feature in dataset.features.items() if hasattr(feature, "feature")]
    if tags_column is not None or any(name in TAG_COLUMNS for name in dataset.column_names):
        tags_column = pick_column(source, dataset.column_names, tags_column, TAG_COLUMNS, "tags", lists)
    names = by_column.get(tags_column or "", label_names)
    return sentences_from_rows(source, rows, tokens_column, tags_column, names)
