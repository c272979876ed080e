"""Which corpora are datasets on the Hub, and under which ids; the card of a model that learnt from them has these.

Nothing is looked up. A dataset from the Hub says so itself, and a source that is no file was read from there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from .sources import FILE_NAME, HUB_ID

_PAGE = "https://huggingface.co/datasets/"
_DOWNLOADED = "hf://datasets/"  # followed by owner/name@commit/file
_NAME = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)


def hub_dataset(source: Any) -> str | None:
    """The id of a source of [`load_corpus`] on the Hub; `None` for files, folders, datasets in memory and the demo."""
    if not isinstance(source, str) or FILE_NAME.fullmatch(source) or Path(source).exists():
        return None
    match = HUB_ID.fullmatch(source)
    return None if match is None else match["name"]


def source_info(source: Any, features: datasets.Features) -> datasets.DatasetInfo:
    """What a dataset made of a source remembers of it: its page on the Hub, which `concatenate_datasets` keeps.

    Args:
        source: The source.
        features: The columns of the dataset.
    """
    if not isinstance(source, (str, Path)):
        parts = source.values() if isinstance(source, Mapping) else [source]
        names = _names(name for part in parts for name in hub_datasets_of(part))
    else:
        names = _names(filter(None, [hub_dataset(source)]))
    return datasets.DatasetInfo(homepage="\n\n".join(_PAGE + name for name in names), features=features)


def hub_datasets_of(dataset: Any) -> list[str]:
    """The ids of the datasets on the Hub that a `datasets.Dataset` was loaded or merged from; none for others."""
    info = getattr(dataset, "info", None)
    if not isinstance(info, datasets.DatasetInfo):
        return []
    pages = [page.removeprefix(_PAGE).rstrip("/") for page in (info.homepage or "").split() if page.startswith(_PAGE)]
    files = [file.removeprefix(_DOWNLOADED) for file in info.download_checksums or () if file.startswith(_DOWNLOADED)]
    return _names([*pages, *(file.partition("@")[0] for file in files)])


def hub_datasets_of_field(corpus: Any, languages: Sequence[str]) -> list[str]:
    """The ids of the datasets on the Hub that a recipe's field names.

    Args:
        corpus: The field: a source, or a mapping of sources, with the placeholder `{language}`.
        languages: What the placeholder stands for.
    """
    if isinstance(corpus, Mapping):
        return _names(name for value in corpus.values() for name in hub_datasets_of_field(value, languages))
    if not isinstance(corpus, str):
        return []
    sources = [corpus.replace("{language}", language).replace("{split}", "train") for language in languages]
    return _names(name for source in sources if (name := hub_dataset(source)) is not None)


def _names(names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if _NAME.fullmatch(name)]
