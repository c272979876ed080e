"""Strict entity scores as an `evaluate.Metric` that needs no network.

`evaluate.load("seqeval")` downloads a script and, unless told otherwise, counts malformed entities as right. This
metric comes with the package, can be instantiated or loaded by the path of this file, and is always strict.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import datasets
import evaluate
from seqeval.scheme import IOB2, IOBES, Tokens

from .sentences import BY_TYPE, paired_sentences

_SCHEMES = {"BIO": IOB2, "BIOES": IOBES}

_DESCRIPTION = "Strict entity-level precision, recall and F1 (seqeval, mode='strict') and word accuracy, offline."
_CITATION = """\
@misc{seqeval,
  title = {{seqeval}: A {Python} framework for sequence labeling evaluation},
  author = {Hiroki Nakayama},
  year = {2018},
  url = {https://github.com/chakki-works/seqeval}
}"""
_INPUTS = """
Args:
    predictions: one list of tags per sentence.
    references: the gold tags, as many per sentence.
    scheme: "BIO" (IOB2) or "BIOES" (IOBES); the default is the one the metric was built with.
    zero_division: the score where nothing was predicted or nothing is gold.
Returns:
    precision, recall, f1, accuracy, number, predicted, correct; by_type: per entity type precision, recall, f1,
    number, predicted, correct.
"""


@lru_cache(maxsize=65536)
def entity_set(tags: tuple[str, ...], scheme: str) -> frozenset[tuple[int, int, str]]:
    """The entities of a sentence as seqeval reads them: (start, end, type)."""
    # Cached: short sentences share their tag sequences, and seqeval's reader is the slow part of an evaluation.
    entities = Tokens(list(tags), scheme=_SCHEMES[scheme]).entities
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
    if scheme not in _SCHEMES:
        raise ValueError(f"Unknown tag scheme {scheme!r}: entity scores exist for {sorted(_SCHEMES)}.")
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


class StrictSeqeval(evaluate.Metric):
    """[`strict_seqeval`] as an `evaluate.Metric`: offline, strict, plain floats.

    `evaluate.load(hf_structkd.evaluation.seqeval_metric.__file__, scheme="BIOES")` builds the same object.

    Args:
        scheme: `"BIO"` or `"BIOES"`.
        **kwargs: Whatever `evaluate.Metric` takes.

    Raises:
        ValueError: If the scheme is unknown.
    """

    def __init__(self, scheme: str = "BIO", **kwargs: Any):
        if scheme not in _SCHEMES:
            raise ValueError(f"Unknown tag scheme {scheme!r}: entity scores exist for {sorted(_SCHEMES)}.")
        self.scheme = scheme
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": tags, "references": tags}),
            reference_urls=["https://github.com/chakki-works/seqeval"],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[str]],
        references: Sequence[Sequence[str]],
        scheme: str | None = None,
        zero_division: float = 0.0,
    ) -> dict[str, Any]:
        return strict_seqeval(predictions, references, scheme or self.scheme, zero_division)
