"""An exported model's files: all of one export, or refused.

They are written into a work folder inside the target and moved into place when all are there. The settings, which name
every other file with its checksum, go first and come last: whenever an export is killed, what can be opened is the old
model or the new one, whole. Other files of the folder stay as they are.
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
WORK_FOLDER = "_exporting"  # what begins with _ is not pushed to the Hub


class ExportError(RuntimeError):
    """An exported model is damaged or was never finished, or cannot be written."""


@contextmanager
def written_whole(folder: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    """A work folder to write the files of an export into; without an error they replace those in `folder`.

    Args:
        folder: of the export; made if it is missing.
        settings: what is kept beside the files, JSON values.

    Raises:
        ExportError: if another process exports to the folder, or it cannot be written to.
    """
    was_there, work = folder.exists(), folder / WORK_FOLDER
    try:
        with exclusive_lock(work, ExportError, f"exporting to {folder}"):
            for left in work.iterdir():  # of an export that was killed
                if left.name != LOCK_FILE:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            try:
                yield work
                _move(work, folder, settings)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        why = error.strerror or error
        raise ExportError(f"{folder} could not be written ({why}): make room, or choose another folder") from error
    finally:
        if not was_there and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _move(work: Path, folder: Path, settings: Mapping[str, Any]) -> None:
    files = sorted(file for file in work.iterdir() if file.name != LOCK_FILE)
    sums = {file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in files}
    text = json.dumps(sealed({**settings, "files": sums}), indent=2) + "\n"
    write_atomically(work / SETTINGS_FILE, text)
    (folder / SETTINGS_FILE).unlink(missing_ok=True)
    for file in (*files, work / SETTINGS_FILE):
        os.replace(file, folder / file.name)


def read_settings(folder: Path) -> dict[str, Any]:
    """What an export was written with; its files are looked at.

    Raises:
        ExportError: if there is no finished export, or a file is not what was written; it names the file.
    """
    file = folder / SETTINGS_FILE
    if not file.is_file():
        raise ExportError(f"{folder} holds no finished export, there is no {SETTINGS_FILE}: export the model again")
    try:
        settings = read_sealed(file)
        sums = {name: (said["bytes"], said["sha256"]) for name, said in settings["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ExportError(f"{file} is damaged ({error}): export the model again") from error
    for name, said in sums.items():
        if Path(name).name != name:
            raise ExportError(f"{file} names {name!r}, which is outside its folder")
        path = folder / name
        if not path.is_file() or (path.stat().st_size, file_sha256(path)) != said:
            raise ExportError(f"{path} is not what was exported: export the model again")
    return settings
