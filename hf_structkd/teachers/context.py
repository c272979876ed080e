"""Sentences with their neighbours: a teacher reads the document, the student the sentence alone.

A teacher is given the words of a sentence together with those of the sentences before and after it, as one long
sentence, and answers about the sentence's own words. Nothing is one entity across a sentence's bounds: scores of words
meet the teacher's start and end scores there, as without neighbours, and listed entities that cross a bound are cut or
left out (see the teachers' `distribution`). Teachers with context: Wang et al. 2021, "Improving Named Entity
Recognition by External Context Retrieving and Cooperative Learning" (arXiv 2105.03654), whose CRF reads the sentence's
own words alone, too.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor

from ..data.columns import DOCUMENT, LANGUAGE
from ..modeling.glued_words import join_words
from ..modeling.words import as_sentences

Context = Sequence[tuple[Sequence[str], Sequence[str]]]  # for each sentence the words before it, and after it


def with_context(sentences: Sequence[Sequence[str]], context: Context | None) -> list[list[str]]:
    """Each sentence between its neighbours' words.

    Raises:
        ValueError: for another number of contexts than sentences.
    """
    if context is None:
        return as_sentences(sentences)
    if len(context) != len(sentences):
        raise ValueError(f"there are contexts of {len(context)} sentences where there are {len(sentences)} sentences")
    return [join_words([before, words, after]) for words, (before, after) in zip(sentences, context)]


def own_words(values: Tensor, sentences: Sequence[Sequence[str]], context: Context) -> Tensor:
    """What a teacher said of the words of the sentences themselves.

    Args:
        values: (batch, words, ...) of `with_context`'s sentences.
        sentences, context: as there.

    Returns:
        (batch, words of the longest sentence, ...); arbitrary beyond a sentence's words.
    """
    starts = torch.tensor([len(before) for before, _ in context])
    positions = starts[:, None] + torch.arange(max(map(len, sentences)))
    positions = positions.clamp(max=values.shape[1] - 1).to(values.device)
    return values[torch.arange(len(values), device=values.device)[:, None], positions]


def document_bounds(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """For each row the first row of its document, and the one behind its last.

    Args:
        dataset: with a column `document`; rows of one document and language stand together, in their order. A row
            whose document is null is one of its own.

    Raises:
        ValueError: if there is no such column, or a document's rows do not stand together.
    """
    if DOCUMENT not in dataset.column_names:
        raise ValueError(
            f"a teacher's context are the neighbours in the document, and the corpus has no column {DOCUMENT!r}: read "
            "it with load_corpus(..., documents='marked'), documents='source' where a source is one document, or add "
            "the column"
        )
    table = dataset.with_format("arrow").select_columns(
        [name for name in (DOCUMENT, LANGUAGE) if name in dataset.column_names]
    )
    keys = [column.to_pylist() for column in (pa.table(table[:]).columns)]
    rows = list(zip(*keys))
    firsts = np.arange(len(rows))
    ends = np.arange(1, len(rows) + 1)
    seen: dict[tuple, int] = {}
    start = 0
    for row in range(1, len(rows) + 1):
        if row < len(rows) and rows[row] == rows[start] and rows[start][0] is not None:
            continue
        if rows[start][0] is not None:
            if rows[start] in seen:
                raise ValueError(
                    f"document {rows[start][0]!r} begins at row {seen[rows[start]]} and again at row {start}: the "
                    "rows of a document must stand together, in their order. Ask the teachers before a corpus is "
                    "shuffled"
                )
            seen[rows[start]] = start
        firsts[start:row], ends[start:row] = start, row
        start = row
    return firsts, ends
