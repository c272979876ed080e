"""What changes when a tagger is replaced: what the old one has right and the new one wrong, and the reverse.

Source: the negative-flip rate of Yan et al. 2021, "Positive-Congruent Training", for structures as in Caciolai et al.
2023; here over what the old tagger has right, so that it does not shrink where the old tagger is bad.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .markdown import escaped, table
from .report import MISSING, percent
from .scores import ENTITY_SCHEMES, entity_set
from .sentences import paired_sentences

ALL = "all"  # all languages together
UNITS = ("sentences", "entities", "words")


def flips(
    previous: Sequence[Sequence[str]],
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    scheme: str = "BIO",
) -> dict[str, dict[str, Any]]:
    """Count flips between two taggers.

    A sentence is right if all its entities are, and no others are found (plain tags: if all tags are). An entity of
    the gold tags is right if it is found, with its type and boundaries.

    Args:
        previous: The tags of the old tagger, one list per sentence.
        predictions: Those of the new one.
        references: The gold tags.
        scheme: `"BIO"`, `"BIOES"` or `"plain"`.

    Returns:
        For `sentences`, and for `entities` (plain tags: `words`): `number`, `right_before`, `right_now`, `lost`
        (right before, wrong now), `gained` (wrong before, right now), `negative_flip_rate` (lost of those that were
        right) and `gain_rate` (gained of those that were wrong), rates in [0, 1], `None` where there is nothing to
        lose or to gain.

    Raises:
        ValueError: If the sentences differ in number or length, or a tag does not follow the scheme.
    """
    if scheme != "plain" and scheme not in ENTITY_SCHEMES:
        raise ValueError(f"Unknown tag scheme {scheme!r}: choose 'BIO', 'BIOES' or 'plain'.")
    unit = "words" if scheme == "plain" else "entities"
    counts = {name: dict.fromkeys(("number", "right_before", "right_now", "lost", "gained"), 0) for name in
              ("sentences", unit)}  # fmt: skip
    old_pairs, new_pairs = paired_sentences(previous, references), paired_sentences(predictions, references)
    for (index, old, gold), (_, new, _) in zip(old_pairs, new_pairs):
        try:
            gold_answers, old_answers, new_answers = (_answers(tags, scheme) for tags in (gold, old, new))
        except (KeyError, ValueError) as error:
            raise ValueError(f"Sentence {index} has a tag that is not {scheme}: {error}") from None
        old_right = {0} if old_answers == gold_answers else set()
        new_right = {0} if new_answers == gold_answers else set()
        _count(counts["sentences"], {0}, old_right, new_right)
        _count(counts[unit], gold_answers, old_answers & gold_answers, new_answers & gold_answers)
    return {name: _with_rates(part) for name, part in counts.items()}


def pooled_flips(by_language: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The flips of all languages together, from those of each."""
    pooled: dict[str, dict[str, Any]] = {}
    for report in by_language.values():
        for unit, counts in report.items():
            total = pooled.setdefault(unit, {})
            for name, count in counts.items():
                if not name.endswith("_rate"):
                    total[name] = total.get(name, 0) + count
    return {unit: _with_rates(counts) for unit, counts in pooled.items()}


def flip_table(by_row: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> str | None:
    """A Markdown table of flips: the rates in percent for each tagger and language; `None` if there are none.

    Args:
        by_row: Row -> language -> what [`flips`] returned.
    """
    units = [unit for unit in UNITS if any(unit in report for by in by_row.values() for report in by.values())]
    if not units:
        return None
    header = ["", "language", *(f"{unit} {what}" for unit in units for what in ("lost", "gained"))]
    rows = [
        [escaped(row), escaped(language), *(cell for unit in units for cell in _cells(report.get(unit, {})))]
        for row, by_language in by_row.items()
        for language, report in by_language.items()
    ]
    return table(header, rows, numbers=True)


def _answers(tags: tuple[str, ...], scheme: str) -> frozenset[Any]:
    return frozenset(enumerate(tags)) if scheme == "plain" else entity_set(tags, scheme)


def _count(counts: dict[str, int], gold_answers: Any, old_right: Any, new_right: Any) -> None:
    counts["number"] += len(gold_answers)
    counts["right_before"] += len(old_right)
    counts["right_now"] += len(new_right)
    counts["lost"] += len(old_right - new_right)
    counts["gained"] += len(new_right - old_right)


def _with_rates(counts: Mapping[str, Any]) -> dict[str, Any]:
    wrong_before = counts["number"] - counts["right_before"]
    return {
        **counts,
        "negative_flip_rate": counts["lost"] / counts["right_before"] if counts["right_before"] else None,
        "gain_rate": counts["gained"] / wrong_before if wrong_before else None,
    }


def _cells(counts: Mapping[str, Any]) -> list[str]:
    """`2.50 % (5 of 200)` for what is lost, and for what is gained."""
    if not counts:
        return [MISSING, MISSING]
    wrong_before = counts["number"] - counts["right_before"]
    parts = (("negative_flip_rate", "lost", counts["right_before"]), ("gain_rate", "gained", wrong_before))
    return [
        MISSING if counts[rate] is None else f"{percent(counts[rate])} % ({counts[name]:,} of {whole:,})"
        for rate, name, whole in parts
    ]
