"""Checksums of files, and small JSON files that tell when they are not what was written."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

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


# One job at a time in a folder.


LOCK_FILE = "_lock"  # names with _ stay out of pushes to the Hub


@contextmanager
def only_us(folder: Path, error: type[Exception], doing: str) -> Iterator[None]:
    """Hold a folder for this process; made if it is not there.

    The lock is the operating system's, on a file in the folder, so it ends with the process however that ends: a job
    that was killed holds nobody up. The folder may be removed while it is held. A job that waited at the door of a
    removed folder then holds nothing, so look again, with the lock in hand, whether the work is still to be done.

    Args:
        folder: a work folder.
        error: what is raised if another process holds it, or it cannot be written to.
        doing: what that one must be doing, for the message (`"asking the teachers for runs/x/annotations"`).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        lock.acquire(blocking=False)
    except Timeout:
        raise error(
            f"another process is {doing} (it holds {folder / LOCK_FILE}): wait until it has finished, or choose "
            "another folder"
        ) from None
    except OSError as refused:
        raise error(
            f"{folder} cannot be written to ({refused.strerror or refused}): choose another folder"
        ) from refused
    try:
        yield
    finally:
        lock.release()


def write_atomically(target: Path, text: str) -> None:
    """Replace a text file in one step, so that nothing half-written is left behind.

    Args:
        target: The file; its folder must exist.
        text: The contents, written as UTF-8.

    Raises:
        OSError: If the folder cannot be written to; the old file, if any, is then untouched.
    """
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
