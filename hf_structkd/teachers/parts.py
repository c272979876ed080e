"""Annotation in parts, which independent jobs write to any place that fsspec knows, and training reads as they are.

ADDRESS/manifest.json                  the question, the same for all parts
ADDRESS/part-00003-of-00016.parquet    rows of the corpus with their answers
ADDRESS/part-00003-of-00016.json       written last: rows, checksum, summary; a part without it is not finished
"""

import json
import logging
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features, IterableDataset, concatenate_datasets, load_dataset
from datasets import config as datasets_config
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ..files import file_sha256, json_sha256, stream_sha256, write_atomically
from .annotate import ask, corpus_fingerprint, prepare_question, without_answers
from .answer_store import AnnotationError, differences
from .panel import Teachers
from .question import ALL_LANGUAGES

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_ROWS_AT_ONCE = 1000


def annotate_part(
    dataset: Dataset,
    teachers: Teachers,
    address: str | os.PathLike[str],
    *,
    part: int,
    num_parts: int,
    label_names: Sequence[str],
    targets: Sequence[str],
    top_k: int = 10,
    temperature: float | Mapping[str, float] = 1.0,
    batch_size: int = 64,
    progress: bool = True,
) -> str:
    """Annotate one part of a corpus and store it with the answers, as Parquet.

    Parts are contiguous and can be annotated by any number of jobs, in any order, on any machines. A finished part is
    not asked about again; of a job that is killed, or a part that is damaged, the part under way is. The answers are
    those of [`annotate`] about the part's sentences, to the bit.

    Args:
        dataset: The whole corpus.
        teachers, label_names, targets, top_k, temperature, batch_size, progress: As for [`annotate`].
        address: A folder, or an address that fsspec knows (`s3://bucket/folder`, with the extra `s3`).
        part: The number of the part, from 0.
        num_parts: How many parts there are.

    Returns:
        The address of the part.

    Raises:
        ValueError: As [`annotate`] does; for a part that does not exist, or more parts than sentences.
        AnnotationError: If the address cannot be reached or written, or holds parts of another question.
    """
    if not 0 <= part < num_parts:
        raise ValueError(f"parts are numbered from 0 to {num_parts - 1}; there is no part {part}")
    if num_parts > len(dataset):
        raise ValueError(f"{len(dataset):,} sentences cannot be cut into {num_parts:,} parts")
    question, record = prepare_question(
        dataset, teachers, label_names, targets, top_k, temperature, batch_size, every_language=True
    )
    record |= {"data": corpus_fingerprint(dataset), "sentences": len(dataset), "parts": num_parts}
    place = _Place(address)
    place.hold_manifest(record)
    name, first, last = part_name(part, num_parts), *_bounds(part, num_parts, len(dataset))
    rows = dataset.select(range(first, last))
    binding = {"rows": [first, last], "question": json_sha256(record)}
    if place.is_whole(name, binding):
        logger.info("%s is finished", place.url(f"{name}.parquet"))
        return place.url(f"{name}.parquet")
    panels: Any = question.panels
    asked, _ = prepare_question(
        rows,
        panels.get(ALL_LANGUAGES, panels),
        label_names,
        targets,
        top_k,
        temperature,
        batch_size,
        every_language=True,
    )
    answers = ask(asked, progress)
    annotated = concatenate_datasets([without_answers(rows).flatten_indices(), answers], axis=1)
    place.store(name, annotated, binding)
    return place.url(f"{name}.parquet")


def load_parts(
    address: str | os.PathLike[str], *, streaming: bool = False, verify: bool = True
) -> Dataset | IterableDataset:
    """Read the parts that [`annotate_part`] wrote, in the order of the corpus.

    Args:
        address: As for [`annotate_part`].
        streaming: Whether to read rows while they are needed, straight from the Parquet files. Otherwise they become
            an Arrow file in the cache of `datasets`, which is mapped into memory; parts that lie elsewhere are
            downloaded into that cache first.
        verify: Whether to compare each part's checksum, which reads it once more.

    Raises:
        AnnotationError: If there is no manifest, a part is missing or damaged, or the address cannot be reached.
    """
    place = _Place(address)
    record = place.manifest()
    if record is None:
        raise AnnotationError(f"{place.url(MANIFEST)} is not there: no part was annotated, or the address is wrong")
    names = [part_name(part, record["parts"]) for part in range(record["parts"])]
    bindings = [
        {"rows": [*_bounds(part, record["parts"], record["sentences"])], "question": json_sha256(record)}
        for part in range(record["parts"])
    ]
    if missing := [n for n, binding in zip(names, bindings) if not place.is_whole(n, binding, verify)]:
        raise AnnotationError(
            f"of the {len(names)} parts at {place.url('')} {len(missing)} are missing or damaged: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; annotate them"
        )
    if streaming:
        with place.fs.open(f"{place.root}/{names[0]}.parquet", "rb") as file:
            features = Features.from_arrow_schema(pq.read_schema(file))
        parts = {"address": place.address, "names": names}  # a list, which the workers of a data loader share
        return IterableDataset.from_generator(_stream, gen_kwargs=parts, features=features)
    return load_dataset("parquet", data_files=place.local_files(names, json_sha256(record)), split="train")


def _stream(address: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    place = _Place(address)
    for name in names:
        with place.fs.open(f"{place.root}/{name}.parquet", "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=_ROWS_AT_ONCE):
                yield from batch.to_pylist()


def answers_in_parts(
    address: str | os.PathLike[str],
    dataset: Dataset,
    teachers: Teachers,
    *,
    label_names: Sequence[str],
    targets: Sequence[str],
    top_k: int,
    temperature: float | Mapping[str, float],
    batch_size: int,
) -> Dataset:
    """The parts at an address, if they answer this question about this corpus.

    Args:
        address: As for [`annotate_part`].
        dataset, teachers, label_names, targets, top_k, temperature, batch_size: As for [`annotate`].

    Raises:
        AnnotationError: As [`load_parts`]; also if the parts answer another question.
    """
    _, record = prepare_question(
        dataset, teachers, label_names, targets, top_k, temperature, batch_size, every_language=True
    )
    stored = read_manifest(address) or {}
    record |= {"data": corpus_fingerprint(dataset), "sentences": len(dataset)}
    if stored and (differ := differences(stored, record)):
        raise AnnotationError(f"{os.fspath(address)} holds parts of another question ({differ})")
    parts: Any = load_parts(address)
    return parts


def read_manifest(address: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The question that the parts at an address answer, as JSON values; `None` if there are none."""
    return _Place(address).manifest()


def part_name(part: int, num_parts: int) -> str:
    """The name of a part's files, without ending."""
    return f"part-{part:05d}-of-{num_parts:05d}"


def _bounds(part: int, num_parts: int, sentences: int) -> tuple[int, int]:
    """The first row of a part and one past its last; sizes differ by at most one."""
    return part * sentences // num_parts, (part + 1) * sentences // num_parts


class _Place:
    """A folder on a file system of fsspec. Files appear in it whole: under another name first, then renamed."""

    def __init__(self, address: str | os.PathLike[str]) -> None:
        self.address = os.fspath(address)
        try:
            self.fs, self.root = url_to_fs(self.address)
        except ImportError as error:
            extra = "pip install 'hf_structkd[s3]'" if self.address.startswith("s3") else str(error)
            raise AnnotationError(f"{self.address}: its file system needs another package: {extra}") from error
        except ValueError as error:
            raise AnnotationError(f"{self.address}: {error}") from error

    def url(self, name: str) -> str:
        return self.fs.unstrip_protocol(f"{self.root}/{name}" if name else self.root).removeprefix("file://")

    def _try(self, what: str, work: Any) -> Any:
        try:
            return work()
        except AnnotationError:
            raise
        except Exception as error:  # every file system has exceptions of its own
            raise AnnotationError(
                f"{self.address} could not be {what} ({type(error).__name__}: {error}): check the address, the "
                "network and your rights there; finished parts are not asked about again"
            ) from error

    def manifest(self) -> dict[str, Any] | None:
        content = self._try("read", lambda: self._read(MANIFEST))
        if content is None:
            return None
        try:
            return json.loads(content)
        except ValueError as error:
            raise AnnotationError(f"{self.url(MANIFEST)} is damaged ({error}): remove it, and its parts") from error

    def hold_manifest(self, record: Mapping[str, Any]) -> None:
        """Write the question, unless it is there. Raises AnnotationError if another one is."""
        if self.manifest() is None:
            self._try("written", lambda: self._write(MANIFEST, json.dumps(record, indent=1).encode()))
        stored = self.manifest()  # another job may have written it meanwhile
        if differ := differences(stored or {}, record):
            raise AnnotationError(f"{self.address} holds parts of another question ({differ}); use another address")

    def is_whole(self, name: str, binding: Mapping[str, Any], verify: bool = True) -> bool:
        """Whether a part is finished, belongs to the question and has its checksum (else: its size)."""
        try:
            note = json.loads(self._try("read", lambda: self._read(f"{name}.json")) or "null")
        except ValueError:
            return False
        if not isinstance(note, dict) or any(note.get(key) != value for key, value in binding.items()):
            return False
        path = f"{self.root}/{name}.parquet"
        if not self._try("read", lambda: self.fs.exists(path) and self.fs.size(path) == note.get("bytes")):
            return False
        return not verify or self._try("read", lambda: self._sha256(path)) == note.get("sha256")

    def local_files(self, names: Sequence[str], key: str) -> list[str]:
        """The parts' files on this machine: where they lie, or else in the cache of `datasets`."""
        if isinstance(self.fs, LocalFileSystem):
            return [f"{self.root}/{name}.parquet" for name in names]
        folder = Path(datasets_config.HF_DATASETS_CACHE) / "hf_structkd_parts" / key[:32]
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for name in names:
            checksum = json.loads(self._try("read", lambda name=name: self._read(f"{name}.json")))["sha256"]
            local = folder / f"{name}-{checksum[:16]}.parquet"
            if not local.exists():
                temporary = local.with_suffix(f".{uuid.uuid4().hex}.tmp")
                path = f"{self.root}/{name}.parquet"
                self._try("read", lambda path=path, to=temporary: self.fs.get_file(path, str(to)))
                os.replace(temporary, local)
            files.append(str(local))
        return files

    def store(self, name: str, annotated: Dataset, binding: Mapping[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "part.parquet"
            annotated.to_parquet(local)
            note = {**binding, "sha256": file_sha256(local), "bytes": local.stat().st_size}
            self._try("written", lambda: self._put(local, f"{name}.parquet"))
        self._try("written", lambda: self._write(f"{name}.json", json.dumps(note, indent=1).encode()))

    def _read(self, name: str) -> bytes | None:
        path = f"{self.root}/{name}"
        self.fs.invalidate_cache()
        return self.fs.cat_file(path) if self.fs.exists(path) else None

    def _write(self, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "file"
            write_atomically(local, content)
            self._put(local, name)

    def _put(self, local: Path, name: str) -> None:
        self.fs.makedirs(self.root, exist_ok=True)
        temporary = f"{self.root}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            self.fs.put_file(str(local), temporary)
            self.fs.mv(temporary, f"{self.root}/{name}")
        except BaseException:
            if self.fs.exists(temporary):
                self.fs.rm_file(temporary)
            raise

    def _sha256(self, path: str) -> str:
        with self.fs.open(path, "rb") as file:
            return stream_sha256(file)
