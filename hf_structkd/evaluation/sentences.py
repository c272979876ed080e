"""Pairs of predicted and gold sentences, and the scores of single entity types in a report."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

BY_TYPE = "by_type"  # the member of a report that holds one mapping per entity type (plain tags: per tag)


def paired_sentences(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> Iterator[tuple[int, tuple[str, ...], tuple[str, ...]]]:
    """Iterate over predicted and gold tags together.

    Args:
        predictions: One sequence of tags per sentence.
        references: The gold tags, as many per sentence.

    Yields:
        Index of the sentence, its predicted tags, its gold tags.

    Raises:
        ValueError: If the sentences differ in number or length, if tags stand where sentences are meant (a string is
            not a sentence of one-letter tags), or if a tag is not a string. The message names the sentence.
    """
    predicted, gold = _sentences(predictions, "predictions"), _sentences(references, "references")
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} predicted sentences, but {len(gold)} gold sentences.")
    for index, (predicted_tags, gold_tags) in enumerate(zip(predicted, gold)):
        if len(predicted_tags) != len(gold_tags):
            raise ValueError(
                f"Sentence {index} has {len(predicted_tags)} predicted tags, but {len(gold_tags)} gold tags."
            )
        yield index, predicted_tags, gold_tags


def type_reports(report: Any) -> dict[str, Mapping[str, Any]]:
    """Entity type (plain tags: tag) -> its scores in a report.

    Args:
        report: What `TaggingMetrics.report` returns, or such a report of an earlier version, which held the types
            beside the overall scores. Anything else has no types.
    """
    if not isinstance(report, Mapping):
        return {}
    types = report.get(BY_TYPE)
    if isinstance(types, Mapping) and all(isinstance(scores, Mapping) for scores in types.values()):
        return dict(types)
    return {name: scores for name, scores in report.items() if isinstance(scores, Mapping)}


def _sentences(value: Any, name: str) -> list[tuple[str, ...]]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ValueError(f"{name} is {value!r}, but must be one list of tags per sentence, as in [['B-PER', 'O']].")
    sentences = []
    for index, tags in enumerate(value):
        if isinstance(tags, (str, bytes)) or not isinstance(tags, Iterable):
            raise ValueError(
                f"{name}[{index}] is {tags!r}, but must be the list of the tags of one sentence: {name} is a list of "
                "such lists, as in [['B-PER', 'O']], for a single sentence too."
            )
        sentence = tuple(tags)
        if wrong := [tag for tag in sentence if not isinstance(tag, str)]:
            raise ValueError(f"{name}[{index}] holds {wrong[0]!r}, but tags are strings, as in ['B-PER', 'O'].")
        sentences.append(sentence)
    return sentences
