"""Asking the teachers once, and keeping their answers as dataset columns."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset, Features, List, Value, concatenate_datasets, load_from_disk
from tqdm.auto import tqdm

from ..data.columns import LANGUAGE, TARGET_COLUMNS, TOKENS, TOPK_LOG_PROBS, TOPK_TAGS
from .tag_teacher import batches_of_like_length
from .targets import ask
from .teachers import Teacher

logger = logging.getLogger(__name__)
RECORD_FILE = "annotation.json"
Teachers = Mapping[str, Teacher] | Teacher


class AnnotationError(ValueError):
    """A stored annotation does not fit what is asked."""


def annotate(
    dataset: Dataset,
    teachers: Teachers,
    *,
    label_names: Sequence[str],
    targets: Sequence[str],
    top_k: int = 10,
    temperature: float = 1.0,
    batch_size: int = 64,
    output_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> Dataset:
    """Add the teachers' answers to a corpus.

    Under several processes the main one asks and the others read its answers, if there is an `output_dir`.

    Args:
        dataset: columns `tokens` and, where teachers differ by language, `language`.
        teachers: language -> teacher, or one teacher for every sentence.
        label_names: the student's labels, in the order of their ids.
        targets: names of [`TARGET_COLUMNS`].
        top_k: tag sequences asked for a sentence; those there are, where there are fewer.
        temperature: divides all of a teacher's scores before it answers (a global temperature).
        batch_size: sentences a forward pass; sentences of like length go together.
        output_dir: where the answers are kept, and read from if they are there.
        progress: show a progress bar.

    Returns:
        The dataset with the target columns.

    Raises:
        ValueError: for k < 1, an unknown target, a language without a teacher, or label sets that differ.
        AnnotationError: if `output_dir` holds answers to another question; it says what differs.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if unknown := [name for name in targets if name not in TARGET_COLUMNS]:
        raise ValueError(f"unknown targets {unknown}; there are {list(TARGET_COLUMNS)}")
    if TOKENS not in dataset.column_names:
        raise ValueError(
            f"a corpus needs a column {TOKENS!r} with lists of words; this one has {dataset.column_names}"
        )
    by_language = _by_language(dataset, teachers)
    for teacher in by_language.values():
        teacher.label_order(label_names)
    wanted = list(targets) + ([TOPK_LOG_PROBS] if TOPK_TAGS in targets and TOPK_LOG_PROBS not in targets else [])
    wanted = [name for name in TARGET_COLUMNS if name in wanted]
    record = {
        "targets": wanted,
        "labels": list(label_names),
        "top_k": top_k if TOPK_TAGS in wanted else None,
        "temperature": temperature,
        "teachers": {language: teacher.revision for language, teacher in sorted(by_language.items())},
        "data": corpus_fingerprint(dataset),
        "version": version("hf_structkd"),
    }
    kept = dataset.remove_columns([name for name in TARGET_COLUMNS if name in dataset.column_names])
    if output_dir is None:
        answers = _ask_all(dataset, by_language, record, top_k, batch_size, progress)
    else:
        with PartialState().main_process_first():
            answers = _kept_or_asked(dataset, by_language, record, top_k, batch_size, progress, Path(output_dir))
    return concatenate_datasets([kept, answers], axis=1)


def corpus_fingerprint(dataset: Dataset) -> str:
    """A hash of the sentences and their languages, in order; independent of how the dataset was made."""
    digest = hashlib.sha256()
    languages = dataset[LANGUAGE] if LANGUAGE in dataset.column_names else [""] * len(dataset)
    for words, language in zip(dataset[TOKENS], languages):
        digest.update("\0".join((language or "", *words)).encode("utf-8", "surrogatepass") + b"\1")
    return digest.hexdigest()[:16]


def _by_language(dataset: Dataset, teachers: Teachers) -> dict[str, Teacher]:
    if isinstance(teachers, Teacher):
        return {"*": teachers}
    if LANGUAGE not in dataset.column_names:
        raise ValueError(f"teachers are given by language, but the corpus has no column {LANGUAGE!r}")
    languages = sorted(set(dataset[LANGUAGE]))
    if missing := [language for language in languages if language not in teachers]:
        raise ValueError(f"no teacher for language {', '.join(missing)}; there are teachers for {sorted(teachers)}")
    return {language: teachers[language] for language in languages}


def _kept_or_asked(
    dataset: Dataset,
    teachers: Mapping[str, Teacher],
    record: dict[str, Any],
    top_k: int,
    batch_size: int,
    progress: bool,
    folder: Path,
) -> Dataset:
    if (folder / RECORD_FILE).exists():
        stored = json.loads((folder / RECORD_FILE).read_text())
        differ = [
            f"{key}: stored {stored.get(key)!r}, asked {record[key]!r}"
            for key in record
            if stored.get(key) != record[key]
        ]
        if differ:
            raise AnnotationError(
                f"{folder} holds answers to another question ({'; '.join(differ)}); use another folder"
            )
        return load_from_disk(str(folder))
    if folder.exists() and any(folder.iterdir()):
        raise AnnotationError(f"{folder} is not empty and holds no {RECORD_FILE}; use another folder for the answers")
    answers = _ask_all(dataset, teachers, record, top_k, batch_size, progress)
    # Written beside its place and moved there whole, so that a crash leaves nothing that looks finished.
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    answers.save_to_disk(str(partial))
    (partial / RECORD_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False))
    if folder.exists():
        folder.rmdir()
    shutil.move(str(partial), str(folder))
    return load_from_disk(str(folder))


def _ask_all(
    dataset: Dataset,
    teachers: Mapping[str, Teacher],
    record: dict[str, Any],
    top_k: int,
    batch_size: int,
    progress: bool,
) -> Dataset:
    sentences = list(dataset[TOKENS])
    languages = list(dataset[LANGUAGE]) if "*" not in teachers else ["*"] * len(sentences)
    answers: dict[str, list] = {name: [None] * len(sentences) for name in record["targets"]}
    bar = tqdm(total=len(sentences), desc="Asking the teachers", unit=" sentences", disable=not progress)
    for language, teacher in teachers.items():
        rows = [row for row, of in enumerate(languages) if of == language]
        for picked in batches_of_like_length([sentences[row] for row in rows], batch_size):
            batch = [rows[i] for i in picked]
            distribution = teacher.distribution([sentences[row] for row in batch], record["labels"])
            if record["temperature"] != 1.0:
                distribution = distribution.with_temperature(record["temperature"])
            lengths = [len(sentences[row]) for row in batch]
            batch_answers = ask(distribution, record["targets"], top_k)
            for name, values in batch_answers.items():
                axes, stored = TARGET_COLUMNS[name].axes, TARGET_COLUMNS[name].stored
                for i, row in enumerate(batch):
                    value = values[i]
                    if "k" in axes:
                        value = value[batch_answers[TOPK_LOG_PROBS][i] > float("-inf")]
                    if "words" in axes:
                        value = value[:, : lengths[i]] if axes[0] == "k" else value[: lengths[i]]
                    answers[name][row] = value.astype(stored)
            bar.update(len(batch))
    bar.close()
    return Dataset.from_dict(answers, features=target_features(record["targets"]))


def target_features(targets: Sequence[str]) -> Features:
    """The Arrow types of target columns."""
    features = {}
    for name in targets:
        column = TARGET_COLUMNS[name]
        feature: Any = Value(column.stored)
        for _ in column.axes:
            feature = List(feature)
        features[name] = feature
    return Features(features)
