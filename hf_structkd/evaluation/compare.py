"""Scoring taggers against each other, language by language."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from datasets import Dataset

from .aggregate import macro_average
from .report import ComparisonReport
from .tagging_metrics import TaggingMetrics


class Tagger(Protocol):
    """Whatever tags sentences of words."""

    def tag(
        self, sentences: Sequence[Sequence[str]], label_names: Sequence[str] | None = None, *, batch_size: int = 64
    ) -> list[list[str]]:
        """The tags of each word, out of `label_names`."""


def compare(
    rows: Mapping[str, Tagger | Mapping[str, Tagger]],
    corpora: Mapping[str, Mapping[str, Dataset]],
    labels: Sequence[str],
    splits: Sequence[str],
    batch_size: int = 64,
    scheme: str | None = None,
) -> tuple[dict[str, Any], dict[str, ComparisonReport]]:
    """Score taggers on every language: strict spans for BIO and BIOES, accuracy for plain tags.

    Args:
        rows: name -> tagger, or language -> tagger; `teachers` and `baseline` are what the others are compared with.
        corpora: language -> split -> sentences.
        labels: the label set.
        splits: which to score.
        batch_size: sentences a forward pass.
        scheme: of the tags; inferred from the labels where `None`.

    Returns:
        Full reports by split, row and language (the macro average under `avg`), and a table for each split.
    """
    metrics = TaggingMetrics(labels, scheme)
    scores: dict[str, Any] = {}
    tables = {}
    for split in splits:
        headline: dict[str, dict[str, float]] = {}
        scores[split] = {}
        for row, tagger in rows.items():
            reports = {}
            for language, data in corpora.items():
                own = tagger[language] if isinstance(tagger, Mapping) else tagger
                predictions = own.tag(list(data[split]["tokens"]), labels, batch_size=batch_size)
                reports[language] = metrics.report(predictions, list(data[split]["tags"]))
            headline[row] = {language: report[metrics.metric_name] for language, report in reports.items()}
            scores[split][row] = {**reports, "avg": macro_average(reports)}
        tables[split] = ComparisonReport(
            metrics.metric_name,
            teachers=headline.pop("teachers", None),
            baseline=headline.pop("baseline", None),
            students=headline,
            split=split,
            languages=list(corpora),
        )
    return scores, tables
