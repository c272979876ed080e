"""The files of an exported model: written and read as a whole.

An export is written into a work folder inside its target and moved into place when it is complete. The settings, which
list every other file with its checksum, are removed first and moved last: whenever an export is killed, the folder can
be opened as the old model or the new one, whole, or not at all. Other files of the folder are not touched.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import LOCK_FILE, exclusive_lock, file_sha256, read_sealed, sealed, write_atomically

SETTINGS_FILE = "tagger.json"
WORK_FOLDER = "_exporting"  # names that begin with _ are not pushed to the Hub


class ExportError(RuntimeError):
    """An exported model is damaged or was never finished, or cannot be written."""


@contextmanager
def write_export(folder: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    """Context manager that replaces an export when its block ends without an error.

    Args:
        folder: of the export; created if it is missing.
        settings: JSON values, stored beside the files.

    Yields:
        A work folder for the files of the export.

    Raises:
        ExportError: if another process exports to the folder, or it cannot be written to.
    """
    existed, work = folder.exists(), folder / WORK_FOLDER
    try:
        with exclusive_lock(work, ExportError, f"exporting to {folder}"):
            for path in work.iterdir():  # remains of an export that was killed
                if path.name != LOCK_FILE:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            try:
                yield work
                _move(work, folder, settings)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise ExportError(f"{folder} could not be written ({reason}): make room, or choose another folder") from error
    finally:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _move(work: Path, folder: Path, settings: Mapping[str, Any]) -> None:
    files = sorted(file for file in work.iterdir() if file.name != LOCK_FILE)
    checksums = {file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in files}
    text = json.dumps(sealed({**settings, "files": checksums}), indent=2) + "\n"
    write_atomically(work / SETTINGS_FILE, text)
    (folder / SETTINGS_FILE).unlink(missing_ok=True)
    for file in (*files, work / SETTINGS_FILE):
        os.replace(file, folder / file.name)


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of an export, after a check of all its files.

    Args:
        folder: of the export.

    Returns:
        The settings, with size and checksum of each file under `files`.

    Raises:
        ExportError: if there is no finished export, or a file is not as it was written; the message names the file.
    """
    file = folder / SETTINGS_FILE
    if not file.is_file():
        raise ExportError(f"{folder} holds no finished export, there is no {SETTINGS_FILE}: export the model again")
    try:
        settings = read_sealed(file)
        checksums = {name: (entry["bytes"], entry["sha256"]) for name, entry in settings["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ExportError(f"{file} is damaged ({error}): export the model again") from error
    for name, checksum in checksums.items():
        if Path(name).name != name:
            raise ExportError(f"{file} names {name!r}, which is outside its folder")
        path = folder / name
        if not path.is_file() or (path.stat().st_size, file_sha256(path)) != checksum:
            raise ExportError(f"{path} is not what was exported: export the model again")
    return settings
