"""Teachers that score spans: a function, or a model of another library."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch

from ..data.columns import EMISSIONS, START_END, TRANSITIONS
from ..modeling.words import as_sentences
from .base import TagTeacher, TeacherScores
from .context import Context, with_context
from .distribution import TagDistribution
from .label_map import LabelMap
from .span_sets import Span, SpanSets, log_odds

SpanScores = Literal["probabilities", "log_odds"]


class SpanTeacher(TagTeacher):
    """A teacher made of a function that scores spans; see [`~.span_sets.SpanSets`] for the distribution.

    Args:
        function: a list of sentences (lists of words) -> for each, in order, its candidates
            `(start, end, type, score)`: words, the end exclusive, an entity type, a score. Candidates may overlap.
            What is not listed is impossible.
        types: the entity types.
        name: for messages, the record and the card.
        revision: the version of the teacher: change it whenever the function would answer differently.
        scores: `"probabilities"`: of each candidate by itself, between 0 and 1, as span models give them; an entity
            list with confidences is the same. `"log_odds"`: nats.
        label_map, scheme, temperature: as for [`TagTeacher`]; the temperature divides the log-odds.

    Raises:
        ValueError: for types given twice or an empty revision; and, when the teacher is asked, for a candidate that
            is listed twice, lies outside of its sentence, has an unknown type, or a score that is none.
    """

    def __init__(
        self,
        function: Callable[[list[list[str]]], Iterable[Sequence[tuple[int, int, str, float]]]],
        types: Sequence[str],
        *,
        name: str,
        revision: str,
        scores: SpanScores = "probabilities",
        label_map: LabelMap | None = None,
        scheme: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        if isinstance(types, str) or len(set(types)) < len(types) or not types:
            raise ValueError(f"teacher {name}: types must be a list of different names, not {types!r}")
        if scores not in ("probabilities", "log_odds"):
            raise ValueError(f"teacher {name}: scores must be probabilities or log_odds, not {scores!r}")
        if not revision:
            raise ValueError(f"teacher {name} needs a revision, under which its answers are kept")
        labels = ["O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]
        super().__init__(labels, name=name, label_map=label_map, scheme=scheme, temperature=temperature)
        self.function, self.types, self.span_scores = function, list(types), scores
        self._revision = revision

    @property
    def revision(self) -> str:
        return self._revision

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "scores": self.span_scores}

    def chain_scores(self, sentences: Sequence[Sequence[str]]) -> TeacherScores:
        raise ValueError(f"teacher {self.name} scores spans and has no scores of single words")

    def check(self, label_names: Sequence[str], targets: Sequence[str] = ()) -> None:
        super().check(label_names, targets)
        if wrong := [column for column in targets if column in (EMISSIONS, TRANSITIONS, START_END)]:
            raise ValueError(
                f"teacher {self.name} scores spans and has no {', '.join(wrong)}: use top_k, top_wk, posterior or "
                "structural instead of emission or substructure"
            )

    @torch.inference_mode()
    def distribution(
        self,
        sentences: Sequence[Sequence[str]],
        label_names: Sequence[str] | None = None,
        context: Context | None = None,
    ) -> TagDistribution:
        """As in [`TagTeacher`]; candidates that cross a sentence's bounds are left out."""
        sentences = as_sentences(sentences)
        reading = self.reading(label_names)
        read = with_context(sentences, context)
        answers = list(self.function([list(words) for words in read]))
        if len(answers) != len(sentences):
            raise ValueError(f"teacher {self.name} gave {len(answers)} answers to {len(sentences)} sentences")
        spans = [self._candidates(words, answer) for words, answer in zip(read, answers)]
        if context is not None:
            bounds = [(len(before), len(before) + len(words)) for words, (before, _) in zip(sentences, context)]
            spans = [
                [
                    span._replace(start=span.start - first, end=span.end - first)
                    for span in of_sentence
                    if first <= span.start and span.end <= last
                ]
                for of_sentence, (first, last) in zip(spans, bounds)
            ]
        lengths = torch.tensor([len(words) for words in sentences])
        sets = SpanSets(spans, lengths, self.unmapped_labels, reading)
        return sets if self.temperature == 1.0 else sets.with_temperature(self.temperature)

    def _candidates(self, words: Sequence[str], answer: Iterable[tuple[int, int, str, float]]) -> list[Span]:
        placed: dict[tuple[int, int, str], Span] = {}
        for start, end, kind, score in answer:
            problem = ""
            if not 0 <= start < end <= len(words):
                problem = f"lies outside of the {len(words)} words"
            elif kind not in self.types:
                problem = f"has a type that is not among {', '.join(self.types)}"
            elif (start, end, kind) in placed:
                problem = "is listed twice"
            elif self.span_scores == "probabilities" and not 0 <= score <= 1:
                problem = "has a score that is no probability"
            elif not -float("inf") < score < float("inf"):
                problem = "has a score that is not finite"
            if problem:
                raise ValueError(
                    f"teacher {self.name}, sentence {' '.join(words)[:80]!r}: the span {(start, end, kind, score)} "
                    f"{problem}"
                )
            value = log_odds(score) if self.span_scores == "probabilities" else float(score)
            placed[start, end, kind] = Span(start, end, kind, value)
        return list(placed.values())
