"""The place of annotated parts: a folder on any file system that fsspec knows, in which files appear whole."""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset
from datasets import config as datasets_config
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ..files import file_sha256, json_sha256, stream_sha256
from .answer_store import AnnotationError, differences

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
_MANIFEST_FIELDS = {"parts": int, "sentences": int, "labels": list, "teachers": dict}
_EXTRAS = {"s3": "s3"}  # protocol -> the extra that brings its file system
Result = TypeVar("Result")


class PartStore:
    """A folder of parts. A file is written under another name first and then renamed, so it is whole or absent.

    Args:
        address: A folder, or an address that fsspec knows.

    Raises:
        AnnotationError: If the address is none, or its file system needs a package that is not installed.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        self.address = os.fspath(address)
        try:
            self.fs, self.root = url_to_fs(self.address)
        except ImportError as error:
            extra = _EXTRAS.get(self.address.split("://")[0])
            needed = f"pip install 'hf_structkd[{extra}]'" if extra else str(error)
            raise AnnotationError(f"{self.address}: its file system needs another package: {needed}") from error
        except (ValueError, OSError) as error:
            raise AnnotationError(f"{self.address}: {error}") from error

    @property
    def is_local(self) -> bool:
        """Whether the parts lie on a file system of this machine."""
        return isinstance(self.fs, LocalFileSystem)

    def url(self, name: str) -> str:
        """The address of a file, or of the folder for `""`."""
        return self.fs.unstrip_protocol(self._path(name) if name else self.root).removeprefix("file://")

    def open(self, name: str) -> Any:
        """A file, to be read."""
        return self._try("read", lambda: self.fs.open(self._path(name), "rb"))

    def check_reachable(self) -> None:
        """Raise AnnotationError if the address cannot be read, or holds somebody else's manifest."""
        with suppress(_DamagedManifestError):  # `hold_manifest` may write it anew
            self.manifest()

    def check_writable(self) -> None:
        """Raise AnnotationError if nothing can be written to the address."""
        self._try("written", lambda: self._write("probe", lambda file: file.write(b"may be removed"), keep=False))

    def manifest(self) -> dict[str, Any] | None:
        """The question; `None` if there is none.

        Raises:
            AnnotationError: If it cannot be read, is damaged, or is no manifest of parts.
        """
        content = self._try("read", lambda: self._read(MANIFEST))
        if content is None:
            return None
        try:
            manifest = json.loads(content)
        except ValueError as error:
            raise _DamagedManifestError(
                f"{self.url(MANIFEST)} is damaged ({error}); the job of any part writes it anew"
            ) from error
        if not isinstance(manifest, dict) or not all(
            isinstance(manifest.get(name), kind) for name, kind in _MANIFEST_FIELDS.items()
        ):
            raise AnnotationError(f"{self.url(MANIFEST)} is no manifest of annotated parts: use another address")
        return manifest

    def hold_manifest(self, record: Mapping[str, Any]) -> None:
        """Write the question, unless it is there.

        Raises:
            AnnotationError: If there is another one, or there are parts of another one.
        """
        try:
            stored = self.manifest()
        except _DamagedManifestError as error:
            logger.warning("%s", error)
            stored = None
        if stored is None:
            self._refuse_other_parts(record)
            self._try("written", lambda: self._write_json(MANIFEST, record))
            stored = self.manifest()  # another job may have written it meanwhile
        if differ := differences(stored or {}, record):
            raise AnnotationError(f"{self.address} holds parts of another question ({differ}); use another address")

    def _refuse_other_parts(self, record: Mapping[str, Any]) -> None:
        """A manifest that was lost is no reason to write over the parts of another question."""
        names = [name for name in self._names() if name.startswith("part-") and name.endswith(".json")]
        for name in names:
            note = self._note(name)
            if note.get("question", json_sha256(record)) != json_sha256(record):
                raise AnnotationError(
                    f"{self.address} has no manifest, and {name} belongs to another question; use another address"
                )

    def is_whole(self, name: str, binding: Mapping[str, Any], verify: bool = True) -> bool:
        """Whether a part is finished, belongs to the question, and has its checksum.

        Args:
            name: The part's name, without ending.
            binding: Fields that its note must have.
            verify: Whether to read the part; otherwise its size alone is compared.
        """
        note = self._note(f"{name}.json")
        if any(note.get(key) != value for key, value in binding.items()):
            return False
        path = self._path(f"{name}.parquet")
        if not self._try("read", lambda: self.fs.exists(path) and self.fs.size(path) == note.get("bytes")):
            return False
        return not verify or self._try("read", lambda: self._sha256(path)) == note.get("sha256")

    def write_part(self, name: str, annotated: Dataset, binding: Mapping[str, Any]) -> None:
        """Store a part, and then its note.

        Args:
            name: The part's name, without ending.
            annotated: Its rows.
            binding: Fields of its note.
        """
        try:
            summed = self._try("written", lambda: self._write(f"{name}.parquet", annotated.to_parquet))
            note = {**binding, "sha256": summed.digest.hexdigest(), "bytes": summed.bytes}
            self._try("written", lambda: self._write_json(f"{name}.json", note))
        except AnnotationError:
            if not self.is_whole(name, binding):  # else another job has stored the same part meanwhile
                raise
        self._remove_remains(name)

    def _remove_remains(self, name: str) -> None:
        """Remove what killed jobs left of a part that is finished now."""
        for other in self._names():
            if other.startswith(f".{name}.") and other.endswith(".tmp"):
                try:
                    self.fs.rm_file(self._path(other))
                except Exception as error:  # it costs room and nothing else
                    logger.warning("%s could not be removed (%s)", self.url(other), error)

    def local_files(self, names: Sequence[str], key: str, verify: bool) -> list[str]:
        """The parts' files on this machine: where they lie, or else in the cache of `datasets`.

        Args:
            names: The parts' names, without ending.
            key: Of the question.
            verify: Whether to compare the checksums of files that are downloaded.

        Raises:
            AnnotationError: If a file cannot be downloaded, or is not what was written.
        """
        if self.is_local:
            return [self._path(f"{name}.parquet") for name in names]
        folder = Path(datasets_config.HF_DATASETS_CACHE) / "hf_structkd_parts" / key[:32]
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for name in names:
            checksum = self._note(f"{name}.json")["sha256"]
            local = folder / f"{name}-{checksum[:16]}.parquet"
            if not local.exists():
                self._download(f"{name}.parquet", local, checksum if verify else None)
            files.append(str(local))
        return files

    def _download(self, name: str, local: Path, checksum: str | None) -> None:
        temporary = local.with_suffix(f".{uuid.uuid4().hex}.tmp")
        try:
            self._try("read", lambda: self.fs.get_file(self._path(name), str(temporary)))
            if checksum is not None and file_sha256(temporary) != checksum:
                raise AnnotationError(f"{self.url(name)} is damaged: annotate it again, or load the parts again")
            os.replace(temporary, local)
        finally:
            temporary.unlink(missing_ok=True)

    # ---- files ----

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _try(self, what: str, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except AnnotationError:
            raise
        except Exception as error:  # every file system has exceptions of its own
            raise AnnotationError(
                f"{self.address} could not be {what} ({type(error).__name__}: {error}): check the address, the "
                "network and your rights there; finished parts are not asked about again"
            ) from error

    def _names(self) -> list[str]:
        """The names of the files."""

        def listed() -> list[str]:
            self.fs.invalidate_cache()
            return self.fs.ls(self.root, detail=False) if self.fs.exists(self.root) else []

        return [path.rsplit("/", 1)[-1] for path in self._try("read", listed)]

    def _note(self, name: str) -> dict[str, Any]:
        """The note of a part; empty if there is none, or it is torn."""
        try:
            note = json.loads(self._try("read", lambda: self._read(name)) or "null")
        except ValueError:
            return {}
        return note if isinstance(note, dict) else {}

    def _read(self, name: str) -> bytes | None:
        self.fs.invalidate_cache()
        path = self._path(name)
        return self.fs.cat_file(path) if self.fs.exists(path) else None

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self._write(name, lambda file: file.write(json.dumps(content, indent=1).encode()))

    def _write(self, name: str, write: Callable[[Any], object], keep: bool = True) -> "_Summed":
        """Write a file under a temporary name, and give it its own; without `keep` it is removed instead."""
        self.fs.makedirs(self.root, exist_ok=True)
        temporary = self._path(f".{name}.{uuid.uuid4().hex}.tmp")
        try:
            with self.fs.open(temporary, "wb") as file:
                write(summed := _Summed(file))
            if keep:
                self.fs.mv(temporary, self._path(name))
            return summed
        finally:
            self.fs.invalidate_cache()
            if self.fs.exists(temporary):
                self.fs.rm_file(temporary)

    def _sha256(self, path: str) -> str:
        with self.fs.open(path, "rb") as file:
            return stream_sha256(file)


class _DamagedManifestError(AnnotationError):
    """A manifest that is cut off, as by a machine that lost power."""


class _Summed:
    """An open file, with the checksum and the number of the bytes that were written to it."""

    closed = False  # as pyarrow asks; whoever opened the file closes it

    def __init__(self, file: Any) -> None:
        self.file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.bytes += memoryview(data).nbytes
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()
