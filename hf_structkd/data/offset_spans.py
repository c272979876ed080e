"""Entities that are given as character offsets, placed on the words of their text.

Annotation tools store a text and spans of characters; a tagger needs one tag per word. A span is placed if it begins
where a word begins and ends where a word ends, after blanks at its ends are trimmed. What cannot be placed (it cuts a
word, overlaps another span, lies outside of the text, is empty) is refused with its place, or dropped and counted.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..modeling.glued_words import glued_flags
from ..modeling.segmenters import Offsets, Segmenter, SegmenterError
from .default_words import DefaultSegmenter
from .source_text import CorpusError, RawSentence, setting

logger = logging.getLogger(__name__)

SpanChoice = Literal["refuse", "drop"]
OffsetUnit = Literal["characters", "utf-16"]
SPAN_CHOICES, OFFSET_UNITS = ("refuse", "drop"), ("characters", "utf-16")
_EXAMPLES = 5  # places that a summary names per reason


@dataclass
class TextSpan:
    """An entity as a tool stores it.

    Attributes:
        start, end: its first character and one past the last, in the tool's unit.
        type: its type.
        text: its text as the tool has it, where the tool stores it.
    """

    start: int
    end: int
    type: str
    text: str | None = None


@dataclass
class AnnotatedText:
    """A text with entities, and its place in the source.

    Attributes:
        text: the text.
        spans: its entities; `None` where nobody annotated it.
        place: the place, such as `", row 12"`.
        words: the offsets of its words, if the tool stores words.
    """

    text: str
    spans: list[TextSpan] | None
    place: str
    words: Offsets | None = None


@dataclass
class SpanCounts:
    """What happened to the texts and spans of a source.

    Attributes:
        texts: texts that were read.
        left_out: reason -> texts that were left out, such as rejected ones.
        choices: what was chosen about a text -> how many texts.
        no_spans: kind of annotation that is no span of a text, such as a class of the whole text -> how many.
        fields: field of a task's data that was annotated -> how many texts.
        entities: type -> entities that were placed.
        trimmed: spans whose ends were blanks.
        dropped: reason -> spans that were dropped.
        places: reason -> the first places where spans were dropped.
    """

    texts: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    choices: Counter[str] = field(default_factory=Counter)
    no_spans: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    entities: Counter[str] = field(default_factory=Counter)
    trimmed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, place: str) -> None:
        self.dropped[reason] += 1
        places = self.places.setdefault(reason, [])
        if len(places) < _EXAMPLES:
            places.append(place)

    def log(self, source: str, content: str = "texts with character offsets") -> None:
        """Log what was read, and as a warning what was dropped.

        Args:
            source: the name of the source.
            content: what its rows are.
        """
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.entities.items())) or "none"
        logger.info("%s: %d %s; entities: %s.", source, self.texts, content, kinds)
        if self.trimmed:
            logger.info("%s: blanks trimmed from the ends of %d spans.", source, self.trimmed)
        for reason, count in self.left_out.items():
            logger.warning("%s: %d texts left out: %s.", source, count, reason)
        for choice, count in self.choices.items():
            logger.warning("%s: %d texts %s.", source, count, choice)
        for kind, count in self.no_spans.items():
            logger.warning("%s: %d annotations of type %s left out: no spans of the text.", source, count, kind)
        if len(self.fields) > 1:
            shown = ", ".join(f"{count} of {name}" for name, count in self.fields.items())
            logger.warning("%s: texts of several fields are read: %s. tokens_column chooses one.", source, shown)
        for reason, count in self.dropped.items():
            logger.warning("%s: %d spans dropped, each %s: %s.", source, count, reason, "; ".join(self.places[reason]))


def sentences_from_texts(
    source: str,
    texts: Iterable[AnnotatedText],
    segment: Segmenter,
    choice: SpanChoice,
    unit: OffsetUnit | None,
    counts: SpanCounts,
) -> Iterator[RawSentence]:
    """Place the entities of texts on their words; one sentence per text, in BIO.

    Args:
        source: the name of the source, for messages.
        texts: the texts.
        segment: finds the words of a text that has none of its own.
        choice: whether spans that cannot be placed are refused or dropped.
        unit: what offsets count; `None` to recognise it from the spans' own texts.
        counts: is filled.

    Yields:
        The sentences.

    Raises:
        CorpusError: for a span that cannot be placed, one whose own text is another, and where it matters in which
            unit offsets count and nothing tells; the message names the place.
    """
    for item in texts:
        counts.texts += 1
        where = f"{source}{item.place}"
        try:
            words = item.words if item.words is not None else segment(item.text)
        except SegmenterError as error:
            raise CorpusError(f"{where}: {error}") from error
        tokens = [item.text[start:end] for start, end in words]
        tags = None
        if item.spans is not None:
            spans = _in_characters(where, item, unit)
            tags = _tags(where, item, words, spans, choice, counts)
        yield RawSentence(
            tokens,
            tags,
            source,
            row=item.place,
            text=item.text,
            offsets=words,
            own_words=item.words is not None,
            glued=glued_flags(words),
        )
    counts.log(source)
    if isinstance(segment, DefaultSegmenter):
        segment.log(source)


def _tags(
    where: str, item: AnnotatedText, words: Offsets, spans: Sequence[TextSpan], choice: SpanChoice, counts: SpanCounts
) -> list[str]:
    """The BIO tags of a text's words."""
    starts = {start: index for index, (start, _) in enumerate(words)}
    ends = {end: index for index, (_, end) in enumerate(words)}
    tags = ["O"] * len(words)
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        start, end, problem = span.start, span.end, ""
        first = last = -1
        if start > end:
            problem = "reversed"
        elif not 0 <= start <= end <= len(item.text):
            problem = "outside of its text"
        else:
            covered = item.text[start:end]
            if start not in starts:  # (a word may begin with a blank: one that carries an accent)
                start += len(covered) - len(covered.lstrip())
            if end not in ends:
                end -= len(covered) - len(covered.rstrip())
            end = max(start, end)
            counts.trimmed += (start, end) != (span.start, span.end) and start < end
            first, last = starts.get(start, -1), ends.get(end, -1)
            if start == end:
                problem = "empty"
            elif first < 0 or last < first:
                problem = "cutting a word"
            elif any(tag != "O" for tag in tags[first : last + 1]):
                problem = "overlapping another span"
        if problem:
            _refuse_or_drop(where, item, span, problem, choice, counts, words)
            continue
        tags[first : last + 1] = [f"B-{span.type}"] + [f"I-{span.type}"] * (last - first)
        counts.entities[span.type] += 1
    return tags


# What is wrong with a span, and what can be done but to drop it: sentences without their full stop.
_REMEDIES = {
    "cutting a word": "Correct its offsets",
    "overlapping another span": "A tagger needs entities that do not overlap: leave one of them",
    "outside of its text": "Correct its offsets: its text has {length} characters",
    "reversed": "Its end comes before its start: swap them",
    "empty": "It holds no visible character: correct its offsets",
}


def _refuse_or_drop(
    where: str,
    item: AnnotatedText,
    span: TextSpan,
    problem: str,
    choice: SpanChoice,
    counts: SpanCounts,
    words: Offsets,
) -> None:
    first, last = sorted((max(0, span.start), max(0, span.end)))
    shown = f"{span.type} {item.text[first:last]!r:.60} [{span.start}, {span.end}]"
    if choice == "drop":
        counts.drop(problem, f"{where}: {shown}")
        return
    advice = _REMEDIES[problem].format(length=len(item.text))
    if problem in ("cutting a word", "empty"):
        advice = _intended_span(item.text, span, words) + advice
    if problem == "cutting a word":
        near = [item.text[a:b] for a, b in words if a < span.end and b > span.start]
        advice = f"The words there are {near[:6]}. {advice}; or let each character be a word: "
        advice += setting("words", "characters")
    raise CorpusError(
        f"{where}: the span {shown} is {problem}. {advice}; or drop such spans: {setting('spans', 'drop')}."
    )


def _intended_span(text: str, span: TextSpan, words: Offsets) -> str:
    """A question about the span that was meant, if the ends of one miss those of words by a single character."""
    if not _is_basic(text):  # the file's offsets may count other units than those that a message would give
        return ""
    starts, ends = {start for start, _ in words}, {end for _, end in words}
    shifts = {
        (0, 1): " (the end is one past the last character)",
        (0, -1): "",
        (-1, -1): " (the first character is 0)",
        (-1, 0): "",
        (1, 0): "",
    }
    for (of_start, of_end), rule in shifts.items():
        start, end = span.start + of_start, span.end + of_end
        if start < end and start in starts and end in ends:
            return f"Is {text[start:end]!r:.60} [{start}, {end}] meant{rule}? "
    return ""


def _in_characters(where: str, item: AnnotatedText, unit: OffsetUnit | None) -> list[TextSpan]:
    """The spans of a text with offsets that count characters."""
    spans = item.spans or []
    if _is_basic(item.text):
        _check_own_texts(where, item, spans)
        return spans
    converted = _from_utf16(item.text, spans)
    differ = [_trimmed(item.text, span) for span in spans] != [_trimmed(item.text, span) for span in converted]
    fits, converted_fits = _fit_own_texts(item, spans), _fit_own_texts(item, converted)
    if unit is None and item.words is not None:
        unit = "characters"  # a tool's own words are checked: they count characters, and then its spans do too
    elif unit is None and (fits or converted_fits) and not (fits and converted_fits and differ):
        unit = "characters" if fits else "utf-16"
    if unit is not None:
        chosen = spans if unit == "characters" else converted
        _check_own_texts(where, item, chosen)
        return chosen
    if any(span.text is not None for span in spans):
        _check_own_texts(where, item, spans)
    if differ:
        reason = "the spans' own texts stand in both places" if fits else "no span holds its own text"
        raise CorpusError(
            f"{where}: the text has characters beyond U+FFFF (such as emoji), which some tools count as two, and "
            f"{reason}. Say what offsets count, characters or utf-16: {setting('offset_unit')}."
        )
    return spans


def _is_basic(text: str) -> bool:
    """Whether all characters are at most U+FFFF, so that characters and UTF-16 units are the same."""
    return all(character <= "\uffff" for character in text)


def _fit_own_texts(item: AnnotatedText, spans: Sequence[TextSpan]) -> bool:
    """Whether there are spans with their own text, and all of these stand where the offsets say."""
    known = [span for span in spans if span.text is not None]
    return bool(known) and all(
        0 <= span.start <= span.end <= len(item.text) and item.text[span.start : span.end] == span.text
        for span in known
    )


def _check_own_texts(where: str, item: AnnotatedText, spans: Sequence[TextSpan]) -> None:
    for span in spans:
        if span.text is not None and item.text[max(0, span.start) : max(0, span.end)].strip() != span.text.strip():
            stripped = span.text.strip()
            places = [match.start() for match in re.finditer(re.escape(stripped), item.text)] if stripped else []
            nearest = min(places, key=lambda start: abs(start - span.start), default=None)
            advice = "Are the offsets those of this text?"
            if nearest is not None and _is_basic(item.text):
                advice = f"It stands at [{nearest}, {nearest + len(stripped)}]: correct the offsets."
            raise CorpusError(
                f"{where}: the span {span.type} [{span.start}, {span.end}] has the text {span.text!r:.60}, but there "
                f"the text reads {item.text[max(0, span.start) : max(0, span.end)]!r:.60}. {advice}"
            )


def _trimmed(text: str, span: TextSpan) -> tuple[int, str, bool]:
    """A span's first visible character, its text without blanks at its ends, and whether it is inside of the text."""
    covered = text[max(0, span.start) : max(0, span.end)]
    is_inside = 0 <= span.start <= span.end <= len(text)
    return span.start + len(covered) - len(covered.lstrip()), covered.strip(), is_inside


def _from_utf16(text: str, spans: Sequence[TextSpan]) -> list[TextSpan]:
    """Spans whose offsets count UTF-16 units, with offsets that count characters; -1 inside of a character."""
    positions, units = {0: 0}, 0
    for index, character in enumerate(text, 1):
        units += 2 if character > "\uffff" else 1
        positions[units] = index

    def position(offset: int) -> int:
        return positions.get(offset, -1 if offset <= units else len(text) + 1)

    return [TextSpan(position(span.start), position(span.end), span.type, span.text) for span in spans]
