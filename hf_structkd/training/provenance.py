"""Fingerprints of what a model is made of: the data with their tags, the encoder, and the files of the model."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from ..data.columns import ANNOTATED_TYPES
from ..data.words import gold_tags, tag_column
from ..files import file_sha256, json_sha256
from ..teachers.annotate import corpus_fingerprint

_MODEL_FILES = (".json", ".safetensors", ".bin", ".model", ".txt")


def digest(value: Any) -> str:
    """A short hash of JSON values. Kept results hold it, so it must not change: letters are hashed unescaped."""
    return json_sha256(value, ensure_ascii=False)[:16]


def data_fingerprint(data: Dataset) -> str:
    """A hash of sentences with their languages and, after a hyphen, a hash of their gold tags."""
    if tag_column(data) is None:
        return f"{corpus_fingerprint(data)}-{digest(None)}"
    # The same as `digest` of the whole list, computed sentence by sentence: the JSON of a large corpus would be long.
    tag_hash = hashlib.sha256(b"[")
    for row, tags in enumerate(gold_tags(data)):
        text = (", " if row else "") + json.dumps(tags, ensure_ascii=False)
        tag_hash.update(text.encode("utf-8", "surrogatepass"))
    tag_hash.update(b"]")
    if ANNOTATED_TYPES in data.column_names:
        tag_hash.update(json.dumps(list(data[ANNOTATED_TYPES]), ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return f"{corpus_fingerprint(data)}-{tag_hash.hexdigest()[:16]}"


def same_data(one: Any, other: Any) -> bool:
    """Whether two fingerprints, or mappings of fingerprints, are of the same data.

    Results of the first versions hold fingerprints of the sentences alone; only these parts are then compared.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_data(one[name], other[name]) for name in one)
    if isinstance(one, str) and isinstance(other, str) and ("-" in one) != ("-" in other):
        return one.partition("-")[0] == other.partition("-")[0]
    return one == other


@cache
def content_key(model: str, revision: str | None = None) -> str:
    """A key of an encoder that does not depend on where it lies.

    Args:
        model: A folder, or a Hub id.
        revision: Branch, tag or commit of a Hub id.

    Returns:
        For a folder a hash of its files; for a Hub id `id@commit`, or the id alone if it is not in the cache.
    """
    folder = Path(model)
    if folder.is_dir():
        files = hashlib.sha256()
        for file in sorted(folder.iterdir()):
            if file.suffix in _MODEL_FILES:
                files.update(file.name.encode() + bytes.fromhex(file_sha256(file)))
        return files.hexdigest()[:16]
    commit = hub_commit(model, revision)
    return model if commit is None else f"{model}@{commit}"


def hub_commit(model: str, revision: str | None = None) -> str | None:
    """The commit of a Hub id in the cache; for a path, and for a model that is not in the cache, `revision`."""
    try:
        file: Any = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:  # a path
        file = None
    # a file of the cache lies in .../snapshots/<commit>/
    return Path(file).parent.name if isinstance(file, str) else revision


def model_files(folder: Path) -> dict[str, str]:
    """Name -> checksum of the files that a model in a folder is loaded from; without its card and records."""
    return {
        file.name: file_sha256(file)
        for file in sorted(folder.iterdir())
        if file.name == "config.json" or file.name.startswith("tokenizer") or file.suffix in (".safetensors", ".bin")
        if file.name != "training_args.bin"
    }
