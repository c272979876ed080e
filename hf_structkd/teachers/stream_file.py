"""A stream that is annotated is written to a file first: teachers are asked about sentences in the order of length."""

import os
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, IterableDataset
from datasets.table import InMemoryTable

from ..data.streams import first_rows, with_features
from ..data.words import check_corpus
from ..files import file_sha256
from ..processes import check_processes, prepare_processes

_ROWS_AT_ONCE = 1000


def stored_stream(stream: IterableDataset, file: Path) -> Dataset:
    """Write a stream to an Arrow file, some sentences at a time, and map the file into memory.

    Under several processes the first one writes.

    Args:
        stream: a stream of sentences that ends.
        file: is replaced when the stream has been read to its end.

    Raises:
        ValueError: if the stream has no sentences, or no column `tokens`.
    """
    from accelerate import PartialState

    first = first_rows(stream)
    check_corpus(first)
    prepare_processes()
    check_processes()
    with PartialState().main_process_first():
        if PartialState().is_main_process:
            _write(with_features(stream, first), file)
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all()
    return Dataset(InMemoryTable(table), fingerprint=file_sha256(file)[:16])


def _write(stream: IterableDataset, file: Path) -> None:
    schema = Features(stream.features or {}).arrow_schema
    unfinished = file.with_name(f"{file.name}.unfinished")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with unfinished.open("wb") as target, pa.ipc.new_stream(target, schema) as writer:
            for table in stream.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
                writer.write_table(table.select(schema.names).cast(schema))
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
