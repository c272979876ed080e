"""What the cells of a grid share in one process: corpora, teachers, and the two made into training data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from hf_structkd.data.augmentation import augment
from hf_structkd.data.columns import AUTOMATIC_COLUMNS
from hf_structkd.data.unlabelled import hide_gold, mix_unlabelled
from hf_structkd.data.words import encode_corpus

from .grid import Cell, Grid
from .grid_corpora import GridCorpora
from .teacher_sets import TeacherSets

STUDENT_COLUMNS = ("input_ids", "attention_mask", "word_mask", "labels", "language")


class Pool:
    """The corpora of a grid, its teachers, and what cells are trained on: tokenised sentences with answers.

    Args:
        grid: the grid.
        cache: folder for teachers and their answers, shared by grids.
    """

    def __init__(self, grid: Grid, cache: Path) -> None:
        self.corpora = GridCorpora(grid)
        self.teacher_sets = TeacherSets(grid, self.corpora, cache)
        self._encoded: dict[tuple[str, str, str], Dataset] = {}

    def training_data(self, cell: Cell, tokenizer: Any, tokenizer_key: str | None) -> Dataset:
        """The sentences that a cell's student is trained on, tokenised, with the answers its objective reads."""
        needed = {name for objective, _ in cell.objectives.values() for name in objective.needs}
        parts = []
        for language in self.corpora.languages:
            gold, text = self.corpora.rows(language, cell)
            answers = self.teacher_sets.answers(language, cell) if needed else None
            for split, rows in (("train", gold), ("text", text)):
                if not len(rows):
                    continue
                part = self.encoded(language, split, tokenizer, tokenizer_key).select_columns(list(STUDENT_COLUMNS))
                if answers is not None:
                    answer_columns = [n for n in answers.column_names if n in needed or n in AUTOMATIC_COLUMNS]
                    part = concatenate_datasets([part, answers.select_columns(answer_columns)], axis=1)
                parts.append(part.select(rows))
            if cell.data.augmentation is not None:
                columns = [name for name in parts[-1].column_names if name not in STUDENT_COLUMNS]
                parts.append(self.rewritten(language, cell, tokenizer, columns))
        return concatenate_datasets([part.cast(parts[0].features) for part in parts])

    def rewritten(self, language: str, cell: Cell, tokenizer: Any, columns: Sequence[str]) -> Dataset:
        """A cell's sentences, gold and text, rewritten; tokenised, with `columns` of the teachers' answers."""
        gold, text = self.corpora.rows(language, cell)
        pool = self.corpora.splits[language]["train"]
        # of text nobody knows the mentions
        sentences = concatenate_datasets([pool.select(gold), hide_gold(pool).select(text)])
        data = mix_unlabelled(sentences, augment(sentences, cell.data.augmentation, tokenizer, cell.seed))
        data = data.select(range(len(sentences), len(data)))
        answers = self.teacher_sets.answers_about(data, language, cell)
        encoded = encode_corpus(data, tokenizer, self.corpora.labels).select_columns(list(STUDENT_COLUMNS))
        return concatenate_datasets([encoded, answers.select_columns(list(columns))], axis=1)

    def encoded(self, language: str, split: str, tokenizer: Any, tokenizer_key: str | None) -> Dataset:
        """A split in a student's subwords; `text` is the training split without its gold tags."""
        key = (tokenizer_key or "", language, split)
        if tokenizer_key is None or key not in self._encoded:
            if split == "text":
                data = hide_gold(self.corpora.splits[language]["train"])
            else:
                data = self.corpora.splits[language][split]
            self._encoded[key] = encode_corpus(data, tokenizer, self.corpora.labels)
        return self._encoded[key]
