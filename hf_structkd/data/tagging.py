"""Tagging a dataset with a pipeline."""

from typing import Any

from datasets import Dataset, Features, List, Value

from ..modeling.glued_words import sentences_of
from .columns import TOKENS
from .words import check_corpus

_PLACE = {"word": Value("string"), "start": Value("int64"), "end": Value("int64")}
_SCORE = {"score": Value("float64")}
_ENTITY = {
    "entity_group": Value("string"),
    **_SCORE,
    **_PLACE,
    "start_word": Value("int64"),
    "end_word": Value("int64"),
}
_TAG = {"tag": Value("string"), **_SCORE, **_PLACE, "index": Value("int64")}


def tag_dataset(
    dataset: Dataset, pipe: Any, *, column: str | None = None, batch_size: int = 1000, **options: Any
) -> Dataset:
    """Tag every sentence of a dataset and add the pipeline's answers as columns.

    Args:
        dataset: with words in `tokens`, or texts in `text`.
        pipe: a [`CRFTokenClassificationPipeline`].
        column: another column of words or texts.
        batch_size: sentences given to the pipeline, and written, at once.
        options: of the pipeline: `top_k`, `marginals`, `entropy`, `threshold`; in addition to those it was made with.

    Returns:
        The dataset with a column for each key of the pipeline's answers.

    Raises:
        ValueError: if the dataset is a stream, lacks the column, or has a column that would be overwritten.
    """
    check_corpus(dataset, ())
    column = column or (TOKENS if TOKENS in dataset.column_names else "text")
    if column not in dataset.column_names:
        raise ValueError(f"there is no column {column!r} of words or texts; the dataset has {dataset.column_names}")
    name, item = ("tags", _TAG) if pipe.scheme.name == "plain" else ("entities", _ENTITY)
    labels = {label: Value("float64") for label in pipe.scheme.tags}
    columns = {
        name: List(item),
        "top_k": List({**_SCORE, name: List(item)}),
        "marginals": List({**_PLACE, "scores": labels}),
        "entropy": Value("float64"),
    }
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    requested = {**pipe._forward_params, **options}
    added = {key: feature for key, feature in columns.items() if key == name or requested.get(key)}
    if existing := [key for key in added if key in dataset.column_names]:
        raise ValueError(f"the dataset has columns {existing} already: rename or remove them first")

    def tag(batch: dict[str, list]) -> dict[str, list]:
        answers = pipe(sentences_of(batch) if column == TOKENS else batch[column], **options)
        return {key: [answer[key] for answer in answers] for key in added}

    # Not from the cache: its key would be a hash of the whole model, computed at every call.
    return dataset.map(
        tag,
        batched=True,
        batch_size=batch_size,
        features=Features({**dataset.features, **added}),
        load_from_cache_file=False,
        desc="Tagging",
    )
