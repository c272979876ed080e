"""Annotation in parts, which independent jobs write to any place that fsspec knows, and training reads as they are.

ADDRESS/manifest.json                  the question, the same for all parts
ADDRESS/part-00003-of-00016.parquet    rows of the corpus with their answers
ADDRESS/part-00003-of-00016.json       written last: rows, checksum, summary; a part without it is not finished
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features, IterableDataset, concatenate_datasets, load_dataset

from ..files import json_sha256
from .annotate import ask, corpus_fingerprint, prepare_question, processes, without_answers
from .answer_store import AnnotationError, differences
from .panel import Teachers
from .part_store import PartStore

logger = logging.getLogger(__name__)

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
    context: int = 0,
    progress: bool = True,
) -> str:
    """Annotate one part of a corpus and store it with the answers, as Parquet.

    Parts are contiguous and can be annotated by any number of jobs, in any order, on any machines. A finished part is
    not asked about again; of a job that is killed, or a part that is damaged, the part under way is. The answers are
    those of [`annotate`] about the part's sentences, to the bit; with a `context`, neighbours are read across the
    bounds of parts. A part's answers are in memory until it is stored.

    Args:
        dataset: The whole corpus.
        teachers, label_names, targets, top_k, temperature, batch_size, context, progress: As for [`annotate`].
        address: A folder, or an address that fsspec knows (`s3://bucket/folder`, with the extra `s3`).
        part: The number of the part, from 0.
        num_parts: How many parts there are.

    Returns:
        The address of the part.

    Raises:
        ValueError: As [`annotate`] does; for a part that does not exist, or more parts than sentences; if a launcher
            started several processes.
        AnnotationError: If the address cannot be reached or written, before any teacher is asked; or if it holds parts
            of another question.
    """
    if not 0 <= part < num_parts:
        raise ValueError(f"parts are numbered from 0 to {num_parts - 1}; there is no part {part}")
    if num_parts > len(dataset):
        raise ValueError(f"{len(dataset):,} sentences cannot be cut into {num_parts:,} parts")
    if (number := processes().num_processes) > 1:
        raise ValueError(
            f"{number} processes would each ask about the whole part: start a job for every part, with one process"
        )
    store = PartStore(address)
    store.check_reachable()  # before the corpus is read and teachers are loaded
    question, record = prepare_question(
        dataset, teachers, label_names, targets, top_k, temperature, batch_size, every_language=True, context=context
    )
    record |= {"data": corpus_fingerprint(dataset), "sentences": len(dataset), "parts": num_parts}
    store.hold_manifest(record)
    name, rows = part_name(part, num_parts), _rows(part, num_parts, len(dataset))
    binding = _binding(rows, record)
    if store.is_whole(name, binding):
        logger.info("%s is finished", store.url(f"{name}.parquet"))
        return store.url(f"{name}.parquet")
    store.check_writable()
    answers = ask(question, progress, rows)
    corpus = without_answers(dataset.select(rows)).flatten_indices(keep_in_memory=True)
    store.hold_manifest(record)  # two questions may have begun at the same time: one of them stops here
    store.write_part(name, concatenate_datasets([corpus, answers], axis=1), binding)
    return store.url(f"{name}.parquet")


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
    store = PartStore(address)
    record = store.manifest()
    if record is None:
        raise AnnotationError(
            f"{store.url('')} has no manifest: no part was annotated there, the address is wrong, or the manifest was "
            "removed; the job of any part writes it anew"
        )
    names = [part_name(part, record["parts"]) for part in range(record["parts"])]
    bindings = [_binding(_rows(part, len(names), record["sentences"]), record) for part in range(len(names))]
    read_here = verify and (streaming or store.is_local)  # what is downloaded is compared where it arrives
    if missing := [n for n, binding in zip(names, bindings) if not store.is_whole(n, binding, read_here)]:
        raise AnnotationError(
            f"of the {len(names)} parts at {store.url('')} {len(missing)} are missing or damaged: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; annotate them"
        )
    if streaming:
        with store.open(f"{names[0]}.parquet") as file:
            features = Features.from_arrow_schema(pq.read_schema(file))
        parts = {"address": store.address, "names": names}  # a list, which the workers of a data loader share
        return IterableDataset.from_generator(_stream, gen_kwargs=parts, features=features)
    return load_dataset("parquet", data_files=store.local_files(names, json_sha256(record), verify), split="train")


def _stream(address: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    store = PartStore(address)
    for name in names:
        with store.open(f"{name}.parquet") as file:
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
    context: int = 0,
) -> Dataset:
    """The parts at an address, if they answer this question about this corpus.

    Args:
        address: As for [`annotate_part`].
        dataset, teachers, label_names, targets, top_k, temperature, batch_size, context: As for [`annotate`].

    Raises:
        AnnotationError: As [`load_parts`]; also if the parts answer another question.
    """
    _, record = prepare_question(
        dataset, teachers, label_names, targets, top_k, temperature, batch_size, every_language=True, context=context
    )
    stored = read_manifest(address) or {}
    record |= {"data": corpus_fingerprint(dataset), "sentences": len(dataset)}
    if stored and (differ := differences(stored, record)):
        raise AnnotationError(f"{os.fspath(address)} holds parts of another question ({differ})")
    parts: Any = load_parts(address)
    return parts


def read_manifest(address: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The question that the parts at an address answer, as JSON values; `None` if there are none."""
    return PartStore(address).manifest()


def part_name(part: int, num_parts: int) -> str:
    """The name of a part's files, without ending."""
    return f"part-{part:05d}-of-{num_parts:05d}"


def _rows(part: int, num_parts: int, sentences: int) -> range:
    """The rows of a part; the sizes of parts differ by at most one."""
    return range(part * sentences // num_parts, (part + 1) * sentences // num_parts)


def _binding(rows: range, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a part's note that say what it is a part of."""
    return {"rows": [rows.start, rows.stop], "question": json_sha256(record)}
