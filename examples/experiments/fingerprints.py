"""What tells an encoder, a corpus or settings from others, wherever they lie."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_structkd.distillation.annotate import corpus_fingerprint


@cache
def content_key(model: str) -> str:
    """What tells an encoder from others wherever it lies: a hash of a folder's files, or a Hub id as it stands."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".bin", ".model", ".txt"):
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def fingerprint_with_tags(data: Dataset) -> str:
    return f"{corpus_fingerprint(data)}-{digest(list(data['tags']))}"


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
