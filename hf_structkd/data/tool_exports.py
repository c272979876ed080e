"""Rows of JSON and of tables as annotation tools export them: texts or words with spans.

- doccano: `text`, and `label` or `labels` as `[[start, end, type], ...]`, or `entities` or `annotations` as objects
  with `start_offset`, `end_offset`, `label`.
- Prodigy: `text`, `spans` as objects with `start`, `end`, `label`; perhaps `tokens`; `answer`.
- Label Studio: `data` with the text, and `annotations` with `result` (JSON); or `text` and a list of objects with
  `start`, `end`, `labels` (JSON-MIN). Of several fields of `data` the one is read that an annotation names.
- GLiNER, NuNER: `tokenized_text`, and `ner` as `[[first word, last word, type], ...]`.
- Tables: `text`, and `spans` or `entities` as above, also as the text of such a list.

Files of spaCy (`.spacy`, DocBin) are read by spaCy: `read_docbin`.
"""

import ast
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..modeling.glued_words import glued_flags
from .columns import TOKEN_COLUMNS
from .offset_spans import AnnotatedText, SpanChoice, SpanCounts, TextSpan
from .source_text import CorpusError, RawSentence, is_text, setting

SPAN_COLUMNS = ("spans", "entities", "label", "labels", "annotations", "ner")
_STARTS, _ENDS = ("start", "start_offset", "begin"), ("end", "end_offset", "stop")
_TYPES = ("label", "labels", "type", "entity_group", "entity", "tag", "ner")
_COLUMNS_OF = {"prodigy": ("spans",), "doccano": ("label", "labels", "entities", "annotations")}
_REJECTED = ("reject", "ignore")
# Label Studio's annotations of parts of a text that are not counted in its characters.
_OTHER_COUNTS = {
    "hypertextlabels": "of HTML, which counts in its tags: export the plain text",
    "paragraphlabels": "of a dialogue, which counts in its paragraphs: export every paragraph as a text of its own",
}


def is_word_span_row(row: Mapping[str, Any]) -> bool:
    """Whether a row is data for GLiNER or NuNER: words, and spans of words."""
    return isinstance(row.get("tokenized_text"), (list, tuple)) and isinstance(row.get("ner"), (list, tuple))


def row_format(row: Mapping[str, Any], text_column: str | None = None, span_column: str | None = None) -> str | None:
    """The format of an annotation tool's row, one of `ROW_FORMATS`; `None` for any other row.

    Args:
        row: the row.
        text_column, span_column: as for [`texts_of_rows`].
    """
    if text_column is None and span_column is None and is_word_span_row(row):
        return "gliner"
    if not is_export_row(row, text_column, span_column):
        return None
    if _is_label_studio(row):
        return "label-studio"
    column = _span_columns(row, span_column)[0]
    spans = _parsed(row[column])
    span = spans[0] if spans else None
    if isinstance(span, Mapping):
        if isinstance(span.get("labels"), (list, tuple)):
            return "label-studio"
        by_keys = "doccano" if "start_offset" in span else "prodigy"
        return by_keys if column in _COLUMNS_OF[by_keys] else "spans"
    by_column = (tool for tool, columns in _COLUMNS_OF.items() if column in columns)
    tool = next(by_column, "spans")
    return "spans" if tool == "prodigy" and span is not None else tool


def is_export_row(row: Mapping[str, Any], text_column: str | None = None, span_column: str | None = None) -> bool:
    """Whether a row is a text with spans of characters, as an annotation tool exports it.

    Args:
        row: the row.
        text_column, span_column: as for [`texts_of_rows`].
    """
    if _is_label_studio(row):
        return span_column is None and (text_column is None or isinstance(row["data"].get(text_column), str))
    if text_column is None and any(_are_words(row.get(name)) for name in TOKEN_COLUMNS):
        return False
    return isinstance(row.get(text_column or "text"), str) and bool(_span_columns(row, span_column))


def _is_label_studio(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("data"), Mapping) and ("annotations" in row or "completions" in row)


def _are_words(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], str)


def _span_columns(row: Mapping[str, Any], wanted: str | None = None) -> list[str]:
    """The columns of a row that hold lists of spans; empty lists count only where no other is filled."""
    columns = {}
    for name in SPAN_COLUMNS if wanted is None else (wanted,):
        value = _parsed(row.get(name))
        if isinstance(value, (list, tuple)) and all(isinstance(span, (list, tuple, Mapping)) for span in value):
            columns[name] = bool(value)
    return [name for name, filled in columns.items() if filled] or list(columns)[:1]


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
    source: str,
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    counts: SpanCounts,
    choice: SpanChoice,
    text_column: str | None = None,
    span_column: str | None = None,
) -> Iterator[AnnotatedText]:
    """The annotated texts of a tool's rows.

    Args:
        source: the name of the source, for messages.
        rows: pairs of place and row.
        counts: rejected and cancelled rows, and what is no span of a text, are counted here.
        choice: whether annotations that are not counted in the characters of a text are refused or dropped.
        text_column: the column of the text, of Label Studio the field of `data`; by default `text`, of Label Studio
            the field that an annotation names.
        span_column: the column of the spans, by default the one with a usual name (`SPAN_COLUMNS`).

    Yields:
        One text per row, of Label Studio one for each field that was annotated.

    Raises:
        CorpusError: for a row that is not as the tool writes it; the message names the place.
    """
    for place, row in rows:
        where = f"{source}{place}"
        if row.get("answer") in _REJECTED:
            counts.left_out[f"answer {row['answer']!r}"] += 1
            continue
        if row.get("_is_binary"):
            if choice == "refuse":
                raise CorpusError(
                    f"{where}: somebody was asked whether one span is right ('_is_binary'), not for all entities of "
                    f"the text: as gold, its other words would count as no entities. Leave such rows out: "
                    f"{setting('spans', 'drop')}."
                )
            counts.left_out["of which one span was judged, not all ('_is_binary')"] += 1
            continue
        if _is_label_studio(row):
            yield from _label_studio_texts(where, place, row, counts, choice, text_column)
            continue
        columns = _span_columns(row, span_column)
        text: Any = row.get(text_column or "text")
        if not is_text(text):
            raise CorpusError(f"{where}: {text_column or 'text'!r} must be a text, not {text!r:.60}.")
        if len(columns) > 1:
            raise CorpusError(
                f"{where}: several columns of spans ({', '.join(columns)}). Choose with {setting('tags_column')}."
            )
        if not columns:
            names = SPAN_COLUMNS if span_column is None else (span_column,)
            present = [name for name in names if name in row]
            if present and all(row[name] not in (None, "") for name in present):  # a table's empty cell is no list
                raise CorpusError(f"{where}: no list of spans in {', '.join(present)}.")
            if not present:
                counts.choices[f"lack a column of spans ({', '.join(names)}), and count as not annotated"] += 1
            yield AnnotatedText(text, None, place, _words(where, text, row.get("tokens")))
            continue
        spans = [_span(where, span) for span in _parsed(row[columns[0]])]
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
    is_finite = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return is_finite and value == int(value)


def _label_studio_texts(
    where: str, place: str, row: Mapping[str, Any], counts: SpanCounts, choice: SpanChoice, text_column: str | None
) -> Iterator[AnnotatedText]:
    data, annotations = row["data"], row.get("annotations", row.get("completions")) or []
    texts = {
        name: value
        for name, value in data.items()
        if isinstance(value, str) and (text_column is None or name == text_column)
    }
    valid = [a for a in annotations if not a.get("was_cancelled")]
    if annotations and not valid:
        counts.left_out["cancelled by the annotator"] += 1
        return
    if not valid:
        yield AnnotatedText(texts[_text_field(where, data, texts, [])], None, place)
        return
    chosen = next((a for a in valid if a.get("ground_truth")), valid[0])
    if len(valid) > 1:
        counts.choices["annotated several times: the one marked as ground truth is read, else the first"] += 1
    fields: dict[str, list[TextSpan]] = {}
    unnamed = []  # spans of a part of the screen that no field of the data is named for
    for result in chosen.get("result") or ():
        value, kind, field = result.get("value"), result.get("type"), result.get("to_name")
        if kind in _OTHER_COUNTS:
            if choice == "refuse":
                raise CorpusError(
                    f"{where}: an annotation of type {kind!r} {_OTHER_COUNTS[kind]}; or drop such annotations: "
                    f"{setting('spans', 'drop')}."
                )
            counts.drop(f"of type {kind!r}, {_OTHER_COUNTS[kind].partition(':')[0]}", where)
        elif kind not in (None, "labels") or not isinstance(value, Mapping):
            counts.no_spans[str(kind)] += 1
        elif field in texts:
            fields.setdefault(field, []).append(_span(where, value))
        elif field in data:
            counts.no_spans[f"labels of the field {field!r}"] += 1
        else:
            unnamed.append(_span(where, value))
    if unnamed or not fields:
        field = next(iter(fields)) if len(fields) == 1 else _text_field(where, data, texts, unnamed)
        fields[field] = [*fields.get(field, ()), *unnamed]
    for field, spans in fields.items():
        counts.fields[field] += 1
        yield AnnotatedText(texts[field], spans, place if len(fields) == 1 else f"{place}, field {field!r}")


def _text_field(where: str, data: Mapping[str, Any], texts: Mapping[str, str], spans: Sequence[TextSpan]) -> str:
    """The field of a task's data that its spans are of: the one that has their texts, else `text`, else the only one.

    Raises:
        CorpusError: if nothing tells.
    """
    known = [span for span in spans if span.text is not None]
    fitting = [name for name, text in texts.items() if all(_stands_in(text, span) for span in known)]
    if known and len(fitting) == 1:
        return fitting[0]
    if "text" in texts or len(texts) == 1:
        return "text" if "text" in texts else next(iter(texts))
    raise CorpusError(
        f"{where}: which of the data is the text? There are {', '.join(data) or 'none'}. Choose with "
        f"{setting('tokens_column')}."
    )


def _stands_in(text: str, span: TextSpan) -> bool:
    """Whether a span's own text stands where its offsets say, in characters or in UTF-16 units."""
    units = text.encode("utf-16-le")[2 * max(0, span.start) : 2 * max(0, span.end)].decode("utf-16-le", "replace")
    return span.text in (text[max(0, span.start) : max(0, span.end)], units)


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
    counts.log(source, "sentences with spans of words")


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


def read_docbin(path: Path, words_only: bool = False) -> Iterator[RawSentence]:
    """Read the documents of a DocBin file, in BIO: one sentence each, or several where their beginnings are marked.

    Tokens of blanks alone are no words. A document whose entities nobody annotated has no tags.

    Args:
        path: the file.
        words_only: Read the words and ignore the entities.

    Raises:
        CorpusError: if spaCy is not installed, the file is no DocBin, or a sentence is annotated in part.
    """
    try:
        from spacy.tokens import DocBin
        from spacy.vocab import Vocab
    except ImportError as error:
        raise CorpusError(f"{path}: spaCy reads this file: pip install 'hf_structkd[spacy]' ({error}).") from error
    try:
        documents = list(DocBin().from_disk(path).get_docs(Vocab()))
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file.") from None
    except Exception as error:  # zlib's, msgpack's and spaCy's own errors
        raise CorpusError(f"{path}: not a DocBin file of spaCy, or a damaged one ({error}).") from error
    for number, document in enumerate(documents, 1):
        parts = document.sents if document.has_annotation("SENT_START") else [document[:]]
        for part in parts:
            words = [token for token in part if token.text.strip()]
            if words:
                tags = None if words_only else _tags_of_tokens(f"{path}, doc {number}", part)
                offsets = [(t.idx - part.start_char, t.idx - part.start_char + len(t)) for t in words]
                yield RawSentence(
                    [t.text for t in words],
                    tags,
                    str(path),
                    document=f"{path}:{number}" if document.has_annotation("SENT_START") else None,
                    row=f", doc {number}",
                    text=part.text,
                    offsets=offsets,
                    glued=glued_flags(offsets),
                )


def _tags_of_tokens(where: str, tokens: Iterable[Any]) -> list[str] | None:
    """The BIO tags of a sentence's tokens that are words; `None` where nobody annotated any."""
    tags: list[str] = []
    missing: list[str] = []
    begins = False  # an entity, whose tokens so far are blanks
    for token in tokens:
        is_entity = bool(token.ent_type_) and token.ent_iob_ in ("B", "I")
        begins = is_entity and (begins or token.ent_iob_ == "B")
        if not token.text.strip():
            continue
        tags.append(f"{'B' if begins else 'I'}-{token.ent_type_}" if is_entity else "O")
        missing += [] if token.ent_iob_ else [token.text]
        begins = False
    if len(missing) == len(tags):
        return None
    if missing:
        raise CorpusError(
            f"{where}: nobody annotated {missing[0]!r} and {len(missing) - 1} other words of a sentence that has "
            "entities (spaCy's 'missing'), and a tagger needs the tags of all: annotate them, or write them with "
            "document.set_ents(..., default='outside') if none of them is in an entity."
        )
    return tags
