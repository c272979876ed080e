"""Where a model came from: fingerprints of data with tags, encoder and files; the encoder's id on the Hub.

Nothing is looked up on the Hub, and a folder's own name is no evidence. What counts is an id that was loaded from the
Hub, the place of a folder in the Hub's cache, the folder's model card, and what its configuration remembers.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from huggingface_hub import ModelCard, try_to_load_from_cache
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


_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)", re.ASCII)
# Words that folders begin with, not owners on the Hub: `runs/encoder` in a configuration was a path, elsewhere.
_FOLDERS = re.compile(
    r"(?i)(\.+|cache|checkpoints?|data|encoders?|experiments?|home|models?|outputs?|results?|runs?|save[ds]?|students?|"
    r"teachers?|tmp|trained|weights|work)[_-]?\d*/.*"
)


class Origin(NamedTuple):
    """Where an encoder came from.

    Args:
        name: Its id on the Hub; `None` if nothing tells.
        commit: Its commit, if that is known of the encoder itself.
    """

    name: str | None = None
    commit: str | None = None


def encoder_origin(model: str, revision: str | None = None) -> Origin:
    """The id on the Hub of an encoder, or of the model that a local encoder was made from.

    Args:
        model: What the encoder was loaded from: an id on the Hub, or a folder.
        revision: Branch, tag or commit of an id.
    """
    folder = Path(model)
    if not folder.exists():
        return Origin(model, hub_commit(model, revision)) if _is_id(model) else Origin()
    # .../models--owner--name/snapshots/COMMIT in the Hub's cache
    parts = folder.absolute().parts
    if len(parts) > 2 and parts[-2] == "snapshots" and (cached := _CACHED.fullmatch(parts[-3])):
        return Origin(f"{cached[1]}/{cached[2]}", parts[-1])
    named = (_base_on_card(folder), _name_in_config(folder))
    return Origin(next((name for name in named if name is not None and _is_id(name)), None))


def _is_id(name: str) -> bool:
    return bool(_HUB_ID.fullmatch(name)) and not _FOLDERS.fullmatch(name) and not Path(name).exists()


def _base_on_card(folder: Path) -> str | None:
    try:
        base: Any = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.base_model
    except Exception:  # there is none, or it is a stranger's and broken
        return None
    if isinstance(base, list) and len(base) == 1:
        base = base[0]
    return base if isinstance(base, str) else None


def _name_in_config(folder: Path) -> str | None:
    """What transformers before version 5 wrote into `config.json`: the name that the model was loaded by."""
    try:
        name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) else None
