"""Scoring taggers against each other, language by language."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ..data.corpora import label_inventory
from ..modeling.tag_scheme import TagScheme, split_tag
from ..recipes.parser import RecipeError
from ..teachers.checkpoint import Teacher
from .aggregate import macro_average
from .report import ComparisonReport
from .tagging_metrics import TaggingMetrics


def compare(
    rows: Mapping[str, Teacher | Mapping[str, Teacher]],
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
    metrics = TaggingMetrics(labels, scheme)  # type: ignore[arg-type]
    scores: dict[str, Any] = {}
    tables = {}
    for split in splits:
        headline: dict[str, dict[str, float]] = {}
        scores[split] = {}
        for row, tagger in rows.items():
            reports = {}
            for language, data in corpora.items():
                own = tagger if isinstance(tagger, Teacher) else tagger[language]
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


def common_labels(tagger: Teacher, corpora: Mapping[str, Mapping[str, Dataset]], scheme: str | None) -> TagScheme:
    """What a checkpoint and corpora are compared in: the types of both, in the scheme of the corpora's tags.

    Predictions of a BIOES checkpoint are read as BIO where the corpora are BIO, and the reverse.

    Args:
        tagger: the checkpoint.
        corpora: language -> split -> sentences.
        scheme: of the corpora's tags; inferred from them where `None`.

    Raises:
        RecipeError: if one has entities and the other plain tags, or they name no label alike.
    """
    found = label_inventory(corpora)
    own = TagScheme(tagger.labels, tagger.scheme)  # type: ignore[arg-type]
    gold = TagScheme(found, scheme or (own.name if found == ["O"] else None))  # type: ignore[arg-type]
    if "plain" in (own.name, gold.name) and own.name != gold.name:
        raise RecipeError(
            f"the checkpoint's tags are {own.name}, those of the corpora {gold.name}: nothing to compare"
        )

    def types(tags: Sequence[str]) -> list[str]:
        if gold.name == "plain":
            return list(tags)
        return list(dict.fromkeys(split_tag(tag)[1] for tag in tags if tag != "O"))

    known, wanted = types(own.tags), types(gold.tags)
    missing = [name for name in wanted if name not in known]
    if wanted and missing == wanted:
        raise RecipeError(
            f"the checkpoint knows {', '.join(known)}, and the corpora have {', '.join(wanted)}: nothing to compare. "
            "Where the same things have two names, run_evaluate.py takes a label_map"
        )
    if missing:
        print(f"not known to the checkpoint, and so always missed: {', '.join(missing)}\n")
    every = list(dict.fromkeys([*known, *wanted]))
    return TagScheme(every, "plain") if gold.name == "plain" else TagScheme.from_entity_types(every, gold.name)


def answer_labels(tagger: Teacher, scheme: TagScheme) -> list[str]:
    """What a checkpoint is asked to answer in: its own labels, or its types in the scheme of the corpora."""
    if TagScheme(tagger.labels, tagger.scheme).name == scheme.name:  # type: ignore[arg-type]
        return tagger.labels
    types = {split_tag(tag)[1] for tag in tagger.labels if tag != "O"}
    return [tag for tag in scheme.tags if tag == "O" or split_tag(tag)[1] in types]
