"""Checks that the teachers' answers in a corpus fit the objectives and the student, before training."""

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..data.columns import (
    LABELS,
    TEMPERATURE,
    TEMPERED_COLUMNS,
    TOPK_LOG_PROBS,
    WEIGHT,
    labels_key,
    target_of,
)
from ..distillation.objectives import WeightedObjectives, needed_columns

logger = logging.getLogger(__name__)
_ROWS_AT_ONCE = 10_000


def check_answers(dataset: Dataset, objectives: WeightedObjectives, label_names: Sequence[str], top_k: int) -> None:
    """Check the teachers' answers in a corpus before training.

    Args:
        dataset: The corpus, with the columns that the objectives read.
        objectives: The objectives with their weights.
        label_names: The student's labels in the order of the ids.
        top_k: Number of tag sequences to learn from; if no answer holds as many, a warning says so.

    Raises:
        ValueError: If answers number other labels than the student's, were given at another (global) temperature than
            that of the objectives, or a sentence has some of the columns that the objectives read and lacks others, or
            the answers of some of its teachers are missing.
    """
    _check_voices(dataset, objectives)
    needed = [name for name in needed_columns(objectives) if name in dataset.column_names]
    if not needed:
        return
    wanted = {name: t for objective, _ in objectives.values() for name, t in objective.teacher_temperatures.items()}
    columns = [*needed, *(name for name in (LABELS, TEMPERATURE) if name in dataset.column_names)]
    key, most, start = labels_key(label_names), 0, 0
    if LABELS not in columns:
        logger.warning(
            "the answers do not say whose labels they number (no column %s): they are taken as they are", LABELS
        )
    for table in dataset.with_format("arrow").select_columns(columns).iter(batch_size=_ROWS_AT_ONCE):
        given = np.stack([table[name].is_valid().to_numpy() for name in needed])
        answered = np.asarray(given.any(axis=0))
        if len(partly := np.flatnonzero(answered & ~given.all(axis=0))):
            lacking = [name for name, valid in zip(needed, given[:, partly[0]]) if not valid]
            raise ValueError(
                f"row {start + partly[0]} of the training data has some of the teachers' answers and lacks {lacking}: "
                "annotate all parts of the corpus with the same targets"
            )
        if LABELS in columns:
            _check_labels(table[LABELS], answered, key, label_names, start)
        _check_temperatures(table, answered, wanted)
        if TOPK_LOG_PROBS in needed:
            most = max(most, pc.max(pc.list_value_length(table[TOPK_LOG_PROBS])).as_py() or 0)
        start += len(table)
    if TOPK_LOG_PROBS in needed and 0 < most < top_k:
        logger.warning("top_k is %d, and no sentence has more than %d tag sequences among its answers", top_k, most)


def _check_voices(dataset: Dataset, objectives: WeightedObjectives) -> None:
    """Refuse answers where teachers that leave other labels open are missing: the weights do not add up to 1."""
    weights = [name for name in dataset.column_names if target_of(name) == WEIGHT]
    if not weights:
        return
    columns = needed_columns(objectives)
    for number in (name.removeprefix(WEIGHT) for name in weights):
        if lacking := [
            name for name in columns if name in dataset.column_names and name + number not in dataset.column_names
        ]:
            raise ValueError(
                f"the training data have {WEIGHT}{number} and lack {lacking[0]}{number}: the answers of some teachers "
                "were removed"
            )
    start = 0
    for table in dataset.with_format("arrow").select_columns(weights).iter(batch_size=_ROWS_AT_ONCE):
        total = np.sum([table[name].fill_null(0.0).to_numpy() for name in weights], axis=0)
        given = table[WEIGHT].is_valid().to_numpy() if WEIGHT in weights else np.ones(len(table), bool)
        if len(wrong := np.flatnonzero(given & (abs(total - 1.0) > 1e-4))):
            raise ValueError(
                f"the weights of the teachers' answers at row {start + wrong[0]} of the training data add up to "
                f"{total[wrong[0]]:g}, not to 1: the columns of some teachers ({WEIGHT}_2, ...) are missing"
            )
        start += len(table)


def _check_labels(
    stored: pa.ChunkedArray, answered: np.ndarray, key: int, label_names: Sequence[str], start: int
) -> None:
    keys = stored.fill_null(0).to_numpy()
    if len(wrong := np.flatnonzero(answered & (keys != 0) & (keys != key))):
        raise ValueError(
            f"the teachers' answers at row {start + wrong[0]} of the training data number other labels than the "
            f"student's, or the same in another order; the student's are {list(label_names)}. Ask the teachers again "
            "with these as label_names, or give the student the labels in the order of the answers"
        )


def _check_temperatures(table: pa.Table, answered: np.ndarray, wanted: dict[str, float]) -> None:
    for name, temperature in wanted.items():
        if TEMPERATURE in table.column_names:
            stored = table[TEMPERATURE]
            if pa.types.is_list(stored.type):
                stored = pc.list_element(stored.filter(stored.is_valid()), TEMPERED_COLUMNS.index(name))
            at = np.ones(len(answered))
            at[table[TEMPERATURE].is_valid().to_numpy()] = stored.drop_null().to_numpy()
            temperatures = np.unique(at[answered])
        else:
            temperatures = np.ones(1)
        if (abs(temperatures - temperature) > 1e-6 * temperature).any():
            raise ValueError(
                f"the teachers were annotated at temperature {', '.join(f'{t:g}' for t in temperatures)} for {name}, "
                f"but the objectives want {temperature:g}: a temperature of mode 'global' is the same in "
                "annotate(temperature=...) and in training; one of mode 'local' leaves the annotation at 1"
            )
