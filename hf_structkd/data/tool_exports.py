"""Rows of JSON and of tables as annotation tools export them: texts or words with spans.

- doccano: `text`, and `label` or `labels` as `[[start, end, type], ...]`, or `entities` or `annotations` as objects
  with `start_offset`, `end_offset`, `label`.
- Prodigy: `text`, `spans` as objects with `start`, `end`, `label`; perhaps `tokens`; `answer`.
- Label Studio: `data` with the text, and `annotations` with `result` (JSON); or `text` and a list of objects with
  `start`, `end`, `labels` (JSON-MIN).
- GLiNER, NuNER: `tokenized_text`, and `ner` as `[[first word, last word, type], ...]`.
- Tables: `text`, and `spans` or `entities` as above, also as the text of such a list.
"""

import ast
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .columns import TOKEN_COLUMNS
from .offset_spans import AnnotatedText, SpanChoice, SpanCounts, TextSpan
from .source_text import CorpusError, RawSentence, is_text, setting

SPAN_COLUMNS = ("spans", "entities", "label", "labels", "annotations", "ner")
_STARTS, _ENDS = ("start", "start_offset", "begin"), ("end", "end_offset", "stop")
_TYPES = ("label", "labels", "type", "entity_group", "entity", "tag", "ner")
_REJECTED = ("reject", "ignore")


def is_word_span_row(row: Mapping[str, Any]) -> bool:
    """Whether a row is data for GLiNER or NuNER: words, and spans of words."""
    return isinstance(row.get("tokenized_text"), (list, tuple)) and isinstance(row.get("ner"), (list, tuple))


def is_export_row(row: Mapping[str, Any]) -> bool:
    """Whether a row is a text with spans of characters, as an annotation tool exports it."""
    if _is_label_studio(row):
        return True
    if any(_are_words(row.get(name)) for name in TOKEN_COLUMNS):
        return False
    return isinstance(row.get("text"), str) and _span_column(row) is not None


def _is_label_studio(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("data"), Mapping) and ("annotations" in row or "completions" in row)


def _are_words(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], str)


def _span_column(row: Mapping[str, Any]) -> str | None:
    for name in SPAN_COLUMNS:
        value = _parsed(row.get(name))
        if isinstance(value, (list, tuple)) and all(isinstance(span, (list, tuple, Mapping)) for span in value):
            return name
    return None


def _parsed(value: Any) -> Any:
    """A list that a table holds as text: of JSON, or as Python prints it."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except ValueError:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value


def texts_of_rows(
    source: str, rows: Iterable[tuple[str, Mapping[str, Any]]], counts: SpanCounts
) -> Iterator[AnnotatedText]:
    """The annotated texts of a tool's rows.

    Args:
        source: the name of the source, for messages.
        rows: pairs of place and row.
        counts: rejected and cancelled rows are counted here.

    Yields:
        One text per row.

    Raises:
        CorpusError: for a row that is not as the tool writes it; the message names the place.
    """
    for place, row in rows:
        where = f"{source}{place}"
        if row.get("answer") in _REJECTED:
            counts.left_out[f"answer {row['answer']!r}"] += 1
            continue
        if _is_label_studio(row):
            yield from _label_studio_text(where, place, row, counts)
            continue
        column = _span_column(row)
        text: Any = row.get("text")
        if not is_text(text):
            raise CorpusError(f"{where}: 'text' must be a text, not {text!r:.60}.")
        if column is None:
            missing = [name for name in SPAN_COLUMNS if name in row and row[name] is None]
            if missing or not any(name in row for name in SPAN_COLUMNS):
                yield AnnotatedText(text, None, place, _words(where, text, row.get("tokens")))
                continue
            raise CorpusError(f"{where}: no list of spans in {', '.join(n for n in SPAN_COLUMNS if n in row)}.")
        spans = [_span(where, span) for span in _parsed(row[column])]
        yield AnnotatedText(text, spans, place, _words(where, text, row.get("tokens")))


def _words(where: str, text: str, tokens: Any) -> list[tuple[int, int]] | None:
    """The words that a tool stores: objects with `start` and `end`, blanks left out."""
    if not tokens or not isinstance(tokens, (list, tuple)) or not isinstance(tokens[0], Mapping):
        return None
    words, position = [], 0
    for token in tokens:
        start, end = token.get("start"), token.get("end")
        if start is None and is_text(token.get("text")):  # spaCy's own tokens, where a tool did not place them
            start = text.find(token["text"], position)
            end = start + len(token["text"])
        fits = isinstance(start, int) and isinstance(end, int) and position <= start <= end <= len(text)
        if not fits or token.get("text", text[start:end]).strip() != text[start:end].strip():
            raise CorpusError(f"{where}: the token {dict(token)!r:.80} does not fit its text.")
        if text[start:end].strip():
            words.append((start, end))
        position = end
    return words


def _span(where: str, span: Any) -> TextSpan:
    start: Any
    end: Any
    kind: Any
    if isinstance(span, Mapping):
        start, end, kind = (next((span[n] for n in names if n in span), None) for names in (_STARTS, _ENDS, _TYPES))
        text = span.get("text")
    elif len(span) == 3:
        (start, end, kind), text = span, None
    else:
        start = end = kind = text = None
    if isinstance(kind, (list, tuple)):
        if len(kind) != 1:
            raise CorpusError(f"{where}: the span {span!r:.80} has {len(kind)} labels, and a tagger gives one.")
        kind = kind[0]
    if isinstance(kind, int) and not isinstance(kind, bool):
        raise CorpusError(
            f"{where}: the label {kind} of the span {span!r:.80} is a number: export it with the names of the labels."
        )
    if not (_is_number(start) and _is_number(end) and is_text(kind) and kind.strip()):
        raise CorpusError(f"{where}: {span!r:.80} is no span with a start, an end and a label.")
    return TextSpan(int(start), int(end), kind.strip(), text if isinstance(text, str) else None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)


def _label_studio_text(where: str, place: str, row: Mapping[str, Any], counts: SpanCounts) -> Iterator[AnnotatedText]:
    data, annotations = row["data"], row.get("annotations", row.get("completions")) or []
    texts = {name: value for name, value in data.items() if isinstance(value, str)}
    name = "text" if "text" in texts else next(iter(texts), None)
    if name is None or (name != "text" and len(texts) > 1):
        raise CorpusError(f"{where}: which of the data is the text? There are {', '.join(data) or 'none'}.")
    valid = [a for a in annotations if not a.get("was_cancelled")]
    if annotations and not valid:
        counts.left_out["cancelled by the annotator"] += 1
        return
    if not valid:
        yield AnnotatedText(texts[name], None, place)
        return
    chosen = next((a for a in valid if a.get("ground_truth")), valid[0])
    if len(valid) > 1:
        counts.choices["annotated several times: the one marked as ground truth is read, else the first"] += 1
    spans = []
    for result in chosen.get("result") or ():
        value, kind = result.get("value"), result.get("type")
        if kind not in (None, "labels") or not isinstance(value, Mapping):
            if kind == "hypertextlabels":
                raise CorpusError(f"{where}: annotations of HTML count in its tags: export the plain text.")
            continue  # choices, relations and the like say nothing about spans
        spans.append(_span(where, value))
    yield AnnotatedText(texts[name], spans, place)


def sentences_of_word_spans(
    source: str, rows: Iterable[tuple[str, Mapping[str, Any]]], choice: SpanChoice, counts: SpanCounts
) -> Iterator[RawSentence]:
    """The sentences of data for GLiNER or NuNER, in BIO.

    Args:
        source: the name of the source, for messages.
        rows: pairs of place and row.
        choice: whether spans that overlap or lie outside of their sentence are refused or dropped.
        counts: is filled.

    Raises:
        CorpusError: for a row that is no such data, or a span that cannot be placed; the message names the place.
    """
    for place, row in rows:
        where = f"{source}{place}"
        if not is_word_span_row(row):
            raise CorpusError(f"{where}: 'tokenized_text' and 'ner' were expected; there are {', '.join(row)}.")
        tokens = _checked_words(where, row["tokenized_text"])
        counts.texts += 1
        tags = ["O"] * len(tokens)
        for span in row["ner"]:
            first, last, kind = _word_span(where, span)
            problem = ""
            if first > last:
                problem = "reversed (its last word comes before its first)"
            elif not 0 <= first <= last < len(tokens):
                problem = "outside of its sentence"
            elif any(tag != "O" for tag in tags[first : last + 1]):
                problem = "overlapping another span"
            if problem and choice == "drop":
                counts.drop(problem, f"{where}: {kind} [{first}, {last}]")
            elif problem:
                raise CorpusError(
                    f"{where}: the span {kind} [{first}, {last}] of words is {problem}. Correct it; or drop such "
                    f"spans: {setting('spans', 'drop')}."
                )
            else:
                tags[first : last + 1] = [f"B-{kind}"] + [f"I-{kind}"] * (last - first)
                counts.entities[kind] += 1
        yield RawSentence(tokens, tags, source, row=place)
    counts.log(source)


def _checked_words(where: str, words: Sequence[Any]) -> list[str]:
    for index, word in enumerate(words):
        if not is_text(word) or not word.strip():
            raise CorpusError(f"{where}, word {index + 1}: {word!r:.80} is not a word.")
    return list(words)


def _word_span(where: str, span: Any) -> tuple[int, int, str]:
    if isinstance(span, (list, tuple)) and len(span) == 3:
        first, last, kind = span
        if _is_number(first) and _is_number(last) and is_text(kind) and kind.strip():
            return int(first), int(last), kind.strip()
    raise CorpusError(f"{where}: {span!r:.80} is no span with a first word, a last word and a label.")
