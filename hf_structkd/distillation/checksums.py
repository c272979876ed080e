"""Checksums of files, and small JSON files that tell when they are not what was written."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = "seal"


def file_sha256(file: Path) -> str:
    """The SHA-256 checksum of a file, read in pieces."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with a checksum of themselves, under `seal`."""
    content = json.loads(json.dumps(content))  # as it will come back from a file: tuples are lists
    return {**content, SEAL: _of(content)}


def read_sealed(file: Path) -> dict[str, Any]:
    """What was written with a seal, without it; files from before there were seals are taken as they are.

    Raises:
        ValueError: if the file is not what was written; it says how that shows.
    """
    content = json.loads(file.read_bytes().decode("utf-8"))  # errors of either are ValueErrors
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} where a mapping was written")
    seal = content.pop(SEAL, None)
    if seal is not None and seal != _of(content):
        raise ValueError("it does not match its own checksum")
    return content


def _of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
