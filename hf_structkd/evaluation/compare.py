"""Scores taggers on the same corpora, language by language."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from datasets import Dataset

from ..modeling.glued_words import sentences_of
from ..modeling.tag_scheme import ANNOTATED_TYPES, tag_type
from .aggregate import macro_average
from .report import BASELINE, TEACHERS, ComparisonReport
from .tagging_metrics import TaggingMetrics


class Tagger(Protocol):
    """Any object that tags sentences of words."""

    def tag(
        self, sentences: Sequence[Sequence[str]], label_names: Sequence[str] | None = None, *, batch_size: int = 64
    ) -> list[list[str]]:
        """The tags of each word, out of `label_names`."""


def declared_only(tags: Sequence[str], annotated_types: Sequence[str] | None) -> list[str]:
    """Predicted tags, with O for entities of types that a sentence's annotators did not look for (`None`: for all)."""
    if annotated_types is None:
        return list(tags)
    return ["O" if tag_type(tag) not in (None, *annotated_types) else tag for tag in tags]


def compare(
    rows: Mapping[str, Tagger | Mapping[str, Tagger]],
    corpora: Mapping[str, Mapping[str, Dataset]],
    labels: Sequence[str],
    splits: Sequence[str],
    batch_size: int = 64,
    scheme: str | None = None,
) -> tuple[dict[str, Any], dict[str, ComparisonReport]]:
    """Score taggers on every language: strict entity F1 for BIO and BIOES, accuracy for plain tags.

    Args:
        rows: Row of the table -> tagger, or language -> tagger. The other rows are compared with `teachers` and
            `baseline`.
        corpora: Language -> split -> sentences. Of a sentence with `annotated_types`, predictions of other types
            count as O. A language that lacks a split is left out there.
        labels: The label set.
        splits: The splits to score.
        batch_size: Sentences per forward pass.
        scheme: The tag scheme; by default inferred from the labels.

    Returns:
        Split -> row -> language -> full report (the macro average under `avg`), and split -> table; without the
        splits that no language has.
    """
    metrics = TaggingMetrics(labels, scheme)
    scores: dict[str, Any] = {}
    tables = {}
    for split in splits:
        languages = [language for language, data in corpora.items() if split in data]
        if not languages:
            continue
        headline: dict[str, dict[str, float]] = {}
        scores[split] = {}
        for row, tagger in rows.items():
            reports = {}
            for language in languages:
                data = corpora[language][split]
                language_tagger = tagger[language] if isinstance(tagger, Mapping) else tagger
                predictions = language_tagger.tag(sentences_of(data), labels, batch_size=batch_size)
                if ANNOTATED_TYPES in data.column_names:
                    predictions = [
                        declared_only(tags, types) for tags, types in zip(predictions, data[ANNOTATED_TYPES])
                    ]
                reports[language] = metrics.report(predictions, list(data["tags"]))
            headline[row] = {language: report[metrics.metric_name] for language, report in reports.items()}
            scores[split][row] = {**reports, "avg": macro_average(reports)}
        tables[split] = ComparisonReport(
            metrics.metric_name,
            teachers=headline.pop(TEACHERS, None),
            baseline=headline.pop(BASELINE, None),
            students=headline,
            split=split,
            languages=languages,
        )
    return scores, tables
