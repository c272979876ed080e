"""Files that are whole and belong to one process: checksums, sealed JSON, locks, replacement in one step.

Everything in the package that must survive a crash goes through this module:

- [`file_sha256`] and [`json_sha256`] are the checksums of a file and of JSON values.
- [`sealed`] and [`read_sealed`] put a checksum into a small JSON file and verify it: damage is noticed.
- [`exclusive_lock`] lets one process at a time work in a folder.
- [`write_atomically`] replaces a file in one step.

The module imports nothing else of the package.
"""

import difflib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

LOCK_FILE = "_lock"  # names that begin with _ are not pushed to the Hub
SEAL = "seal"  # the member of a sealed JSON file that holds the checksum of the others


def file_sha256(file: Path) -> str:
    """The SHA-256 checksum of a file in hexadecimal digits."""
    with file.open("rb") as stream:
        return stream_sha256(stream)


def stream_sha256(stream: BinaryIO) -> str:
    """The SHA-256 checksum of what is left to read of an open file, in hexadecimal digits.

    It is read in pieces of 1 MiB, so that its size does not matter.
    """
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def json_sha256(value: Any, ensure_ascii: bool = True) -> str:
    """The SHA-256 checksum of JSON values. The order of a mapping's keys does not matter.

    Args:
        value: What `json.dumps` takes.
        ensure_ascii: As in `json.dumps`. Stored checksums depend on it, so each caller keeps the one it began with.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=ensure_ascii)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of JSON values with their checksum under `seal`, for [`read_sealed`] to verify."""
    content = json.loads(json.dumps(content))  # as a file will give it back: tuples become lists
    return {**content, SEAL: json_sha256(content)}


def read_sealed(file: Path) -> dict[str, Any]:
    """Read a JSON file that was written with [`sealed`], and verify its checksum.

    Args:
        file: The file. One without a seal, as earlier versions wrote it, is accepted.

    Returns:
        The contents without the seal.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file is not JSON, not a mapping, or does not match its checksum.
    """
    content = json.loads(file.read_bytes().decode("utf-8"))  # errors of either are ValueErrors
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} where a mapping was written")
    seal = content.pop(SEAL, None)
    if seal is not None and seal != json_sha256(content):
        raise ValueError("it does not match its own checksum")
    return content


@contextmanager
def exclusive_lock(folder: Path, error: type[Exception], activity: str) -> Iterator[None]:
    """Hold a folder for this process; the folder is made if it is missing.

    The operating system holds the lock, on a file in the folder, and releases it when the process ends for whatever
    reason: a killed job blocks nobody. The folder may be removed while it is held. A process that waited for a folder
    that was then removed holds nothing, so check again inside the lock whether there is still work to do.

    Args:
        folder: The folder to hold.
        error: The exception class to raise.
        activity: What the process that holds the folder is doing, for the message (`"training runs/x/student"`).

    Raises:
        error: If another process holds the folder, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        lock.acquire(blocking=False)
    except Timeout:
        raise error(
            f"another process is {activity} (it holds {folder / LOCK_FILE}): wait until it has finished, or choose "
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


@contextmanager
def model_named(name: str | os.PathLike, revision: str | None = None) -> Iterator[None]:
    """Within it a model is loaded, from a folder or from the Hub; the error says what was looked for where.

    Args:
        name: a folder, or an id on the Hub: one word, or two with a slash between them.
        revision: branch, tag or commit on the Hub, where one is asked for.

    Raises:
        FileNotFoundError: if the name can only be a folder's, and is none.
        ValueError: if a folder is asked for a revision, which transformers would pass over in silence.
        OSError: in the words of whoever asked the Hub, with the folder that is nearest in name, if one is.
    """
    refuse_missing_folder(name)
    if revision is not None and Path(name).is_dir():
        raise ValueError(f"revision {revision!r} is for a model on the Hub, and {os.fspath(name)!r} is a folder")
    try:
        yield
    except OSError as error:
        near = None if Path(name).exists() else nearest_folder(name)
        if near is None:
            raise
        raise OSError(
            f"{error}\nIf a folder is meant: there is no {os.fspath(name)!r}; the nearest is {near!r}"
        ) from error


def nearest_folder(name: str | os.PathLike) -> str | None:
    """The folder that a mistyped name probably means: each part that is not there becomes the nearest that is."""
    parts = Path(name).parts
    existing = Path()
    for part in parts:
        if (existing / part).is_dir():
            existing = existing / part
            continue
        try:
            folders = [other.name for other in existing.iterdir() if other.is_dir()]
        except OSError:
            return None
        near = difflib.get_close_matches(part, folders, n=1)
        if not near:
            return None
        existing = existing / near[0]
    return f"./{existing}" if os.fspath(name).startswith("./") else str(existing)


def refuse_missing_folder(name: str | os.PathLike) -> None:
    """Raise FileNotFoundError for a name that can only be a folder's, and is none.

    Args:
        name: a folder, or an id on the Hub: one word, or two with a slash between them.
    """
    parts = os.fspath(name).replace(os.sep, "/").split("/")
    is_path = len(parts) > 2 or any(part in ("", ".", "..", "~") for part in parts) or Path(name).is_absolute()
    if is_path and not Path(name).is_dir():
        state = "it is a file" if Path(name).exists() else "there is nothing of this name"
        near = nearest_folder(name)
        advice = f"; the nearest is {near!r}" if near else ""
        raise FileNotFoundError(f"there is no folder {os.fspath(name)!r} ({state}; seen from {os.getcwd()}){advice}")


def is_held(folder: Path) -> bool:
    """Whether a process holds a folder, see `exclusive_lock`."""
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:  # not ours to lock: nobody can tell
        return True
    lock.release()
    return False


def write_atomically(target: Path, content: str | bytes) -> None:
    """Replace a file in one step: a reader sees the old file or the new one, never half of one.

    Args:
        target: The file; its folder must exist.
        content: What the file will hold; text is written as UTF-8.

    Raises:
        OSError: If the folder cannot be written to; the old file, if any, is then untouched.
    """
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
