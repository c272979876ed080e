"""Strict entity scores and word accuracy of tagged sentences.

`seqeval_metric.py` and `accuracy.py` offer them as `evaluate.Metric`s. They are files of their own because the package
`evaluate` takes most of a second to import, and training needs the scores alone.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from seqeval.scheme import IOB2, IOBES, Tokens

from .sentences import BY_TYPE, paired_sentences

ENTITY_SCHEMES = {"BIO": IOB2, "BIOES": IOBES}


@lru_cache(maxsize=65536)
def entity_set(tags: tuple[str, ...], scheme: str) -> frozenset[tuple[int, int, str]]:
    """The entities of a sentence as seqeval reads them: (start, end, type)."""
    # Cached: short sentences share their tag sequences, and seqeval's reader is the slow part of an evaluation.
    entities = Tokens(list(tags), scheme=ENTITY_SCHEMES[scheme]).entities
    return frozenset((entity.start, entity.end, entity.tag) for entity in entities)


def _scores(correct: int, predicted: int, number: int, zero_division: float) -> dict[str, float]:
    precision = correct / predicted if predicted else zero_division
    recall = correct / number if number else zero_division
    if predicted or number:
        f1 = 2 * correct / (predicted + number)
    else:
        f1 = zero_division
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "number": float(number),
        "predicted": float(predicted),
        "correct": float(correct),
    }


def strict_seqeval(
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    scheme: str = "BIO",
    zero_division: float = 0.0,
) -> dict[str, Any]:
    """Strict entity scores of tagged sentences.

    An entity is right when its type and both its boundaries are. A malformed one (`I-X` after `O`, a BIOES entity
    that is never closed) is no entity, in the predictions and in the gold alike: an illegal gold sequence is scored
    as it stands, and whoever predicts the entity its annotator meant gets a false positive.

    Args:
        predictions: One list of tags per sentence.
        references: The gold tags, as many per sentence.
        scheme: `"BIO"` (IOB2) or `"BIOES"` (IOBES).
        zero_division: The value of a precision without predictions and of a recall without gold entities; also of an
            F1 and an accuracy when there is neither.

    Returns:
        `precision`, `recall`, `f1` over all entities (micro), `accuracy` over words, the counts `number`
        (gold), `predicted` and `correct`; under `by_type` one mapping per entity type found, with the same names
        except `accuracy`, so that a type may be called `f1`. All numbers are Python floats in [0, 1], the counts
        whole. A bare `B`/`I` has the type `_`.

    Raises:
        ValueError: If the scheme is unknown, the sentences differ in number or length or are no lists of tags,
            or a tag does not belong to the scheme; the message names which.

    Source: seqeval 1.2.2, `mode="strict"`; CoNLL-2000/2003 evaluation for the definition of a right entity.
    """
    if scheme not in ENTITY_SCHEMES:
        raise ValueError(f"Unknown tag scheme {scheme!r}: entity scores exist for {sorted(ENTITY_SCHEMES)}.")
    correct: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    number: Counter[str] = Counter()
    words = right_words = 0
    for index, predicted_tags, gold_tags in paired_sentences(predictions, references):
        try:
            predicted_entities, gold_entities = entity_set(predicted_tags, scheme), entity_set(gold_tags, scheme)
        except (KeyError, ValueError) as error:
            raise ValueError(f"Sentence {index} has a tag that is not {scheme}: {error}") from None
        predicted.update(entity[2] for entity in predicted_entities)
        number.update(entity[2] for entity in gold_entities)
        correct.update(entity[2] for entity in predicted_entities & gold_entities)
        words += len(gold_tags)
        right_words += sum(a == b for a, b in zip(predicted_tags, gold_tags))
    scores: dict[str, Any] = _scores(correct.total(), predicted.total(), number.total(), zero_division)
    scores["accuracy"] = right_words / words if words else float(zero_division)
    scores[BY_TYPE] = {
        name: _scores(correct[name], predicted[name], number[name], zero_division)
        for name in sorted(predicted.keys() | number.keys())
    }
    return scores


def word_accuracy(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], zero_division: float = 0.0
) -> dict[str, Any]:
    """Accuracy over all words; it is not the mean of the accuracies of sentences.

    Args:
        predictions: One list of tags per sentence.
        references: The gold tags, as many per sentence.
        zero_division: The score if there is nothing to divide by, for instance no words.

    Returns:
        `accuracy`, `number` (words) and `correct`; under `by_type` one mapping per tag found with
        `precision`, `recall`, `f1`, `number`, `predicted`, `correct`. Python floats, the counts whole.

    Raises:
        ValueError: If the sentences differ in number or length, or are no lists of tags.

    Source: the accuracy of the CoNLL 2018 shared task's evaluation for given words.
    """
    predicted: Counter[str] = Counter()
    number: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    for _, predicted_tags, gold_tags in paired_sentences(predictions, references):
        predicted.update(predicted_tags)
        number.update(gold_tags)
        correct.update(a for a, b in zip(predicted_tags, gold_tags) if a == b)
    words = number.total()
    return {
        "accuracy": correct.total() / words if words else float(zero_division),
        "number": float(words),
        "correct": float(correct.total()),
        BY_TYPE: {
            tag: {
                "precision": correct[tag] / predicted[tag] if predicted[tag] else float(zero_division),
                "recall": correct[tag] / number[tag] if number[tag] else float(zero_division),
                "f1": 2 * correct[tag] / (predicted[tag] + number[tag]),
                "number": float(number[tag]),
                "predicted": float(predicted[tag]),
                "correct": float(correct[tag]),
            }
            for tag in sorted(predicted.keys() | number.keys())
        },
    }
