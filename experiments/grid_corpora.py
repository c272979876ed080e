"""The corpora of a grid, and which sentences of them a cell sees."""

import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from datasets import DatasetDict

from hf_structkd.recipes.data import labels_of, load_data
from hf_structkd.recipes.fields import DataArguments
from hf_structkd.recipes.parser import read_mapping
from hf_structkd.training.provenance import data_fingerprint

from .grid import Cell, Grid


class GridCorpora:
    """The corpora of a grid, read when they are asked for.

    Args:
        grid: the grid.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    @cached_property
    def data_arguments(self) -> DataArguments:
        (data,) = read_mapping((DataArguments,), self.grid.expand(_fields_of(DataArguments, self.grid.recipe)))
        return data

    @cached_property
    def splits(self) -> dict[str, DatasetDict]:
        """language -> train (the pool), dev and test."""
        return load_data(replace(self.data_arguments, max_train_sentences=self.grid.pool_sentences))

    @cached_property
    def zero_shot(self) -> dict[str, DatasetDict]:
        """Languages that nobody was trained on -> test."""
        if not self.grid.zero_shot:
            return {}
        fields = self.grid.expand({"corpus": self.grid.recipe.get("corpus"), **self.grid.zero_shot})
        (data,) = read_mapping((DataArguments,), fields)
        return load_data(data, splits=("test",))

    @cached_property
    def labels(self) -> list[str]:
        return labels_of(self.data_arguments, self.splits)

    @property
    def languages(self) -> list[str]:
        return list(self.splits)

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """language -> split -> a hash of its sentences and tags: what tells these corpora from others."""
        return _fingerprints(self.splits)

    @cached_property
    def zero_shot_fingerprints(self) -> dict[str, dict[str, str]]:
        """The same of the languages that nobody was trained on."""
        return _fingerprints(self.zero_shot)

    def rows(self, language: str, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
        """The pool's rows that a cell sees with gold tags, and those that it sees without."""
        pool_size = len(self.splits[language]["train"])
        gold = pool_size if cell.gold_sentences is None else cell.gold_sentences
        text = gold if cell.text_sentences is None else cell.text_sentences
        # A subset that a corpus is too small for is the whole corpus: treebanks differ in size.
        seed = cell.own.subset_seed if cell.own.subset_seed is not None else cell.seed
        generator = np.random.default_rng([seed, zlib.crc32(language.encode())])
        if cell.own.gold_pool is None:
            order = generator.permutation(pool_size)
            return order[:gold], order[gold:text]
        gold_pool = min(cell.own.gold_pool, pool_size)
        others = gold_pool + generator.permutation(pool_size - gold_pool)
        return generator.permutation(gold_pool)[:gold], others[: text - gold]


def _fingerprints(corpora: Mapping[str, DatasetDict]) -> dict[str, dict[str, str]]:
    return {
        language: {split: data_fingerprint(data) for split, data in splits.items()}
        for language, splits in corpora.items()
    }


def _fields_of(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in kind.__dataclass_fields__}
