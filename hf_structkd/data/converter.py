"""A corpus in another format: for annotation tools, for other programs, and to look at how a source was read.

Texts with character offsets keep the text that they were read from; other sentences become their words with single
spaces between them.
"""

import csv
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..modeling.tag_scheme import ANNOTATED_TYPES, Span, TagScheme, infer_scheme, split_tag
from .column_files import DOCUMENT_START
from .columns import DOCUMENT
from .source_text import CorpusError, RawSentence
from .sources import file_suffix

logger = logging.getLogger(__name__)

ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl", ".spacy": "spacy"}


@dataclass
class CorpusSummary:
    """What a corpus holds.

    Attributes:
        sentences, words, unlabelled: their numbers; `unlabelled` are sentences without tags.
        documents: their number; 0 where the source marks none.
        scheme: of the tags: BIO, BIOES or plain.
        entities: type -> number of entities; of plain tags, tag -> number of words.
    """

    sentences: int
    words: int
    unlabelled: int
    scheme: str
    entities: Mapping[str, int]
    documents: int = 0

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.entities.items())) or "none"
        name = "tags" if self.scheme == "plain" else "entities"
        unlabelled = f" ({self.unlabelled:,} without tags)" if self.unlabelled else ""
        documents = f"{self.documents:,} documents, " if self.documents else ""
        counts = f"{documents}{self.sentences:,} sentences{unlabelled}, {self.words:,} words"
        return f"{counts}, {self.scheme}; {name}: {kinds}"


def summarise(sentences: Sequence[RawSentence]) -> CorpusSummary:
    """Count what a corpus holds."""
    tags = {tag for sentence in sentences for tag in sentence.tags or ()}
    scheme = _scheme_of(tags)
    counts: Counter[str] = Counter()
    for sentence in sentences:
        if scheme.name == "plain":
            counts.update(sentence.tags or ())
        else:
            counts.update(span.type for span in scheme.spans(sentence.tags or ()))
    unlabelled = sum(sentence.tags is None for sentence in sentences)
    words = sum(len(sentence.tokens) for sentence in sentences)
    documents = len({sentence.document for sentence in sentences} - {None})
    return CorpusSummary(len(sentences), words, unlabelled, scheme.name, dict(counts), documents)


def format_of(path: Path, name: str | None) -> str:
    """The format to write: the name given, or what the ending says, or else `conll`.

    Raises:
        CorpusError: for an unknown name, or an ending that several formats share.
    """
    if name is not None:
        if name not in WRITERS:
            raise CorpusError(f"no format {name!r}; there are {', '.join(WRITERS)}.")
        return name
    suffix = file_suffix(path)
    if suffix.endswith(".json"):
        raise CorpusError(f"{path}: Label Studio, GLiNER and others write .json: choose with --to.")
    return next((kind for ending, kind in ENDINGS.items() if suffix.endswith(ending)), "conll")


def corpus_bytes(sentences: Sequence[RawSentence], name: str) -> bytes:
    """A corpus as the content of a file. What the format has no place for is logged as a warning.

    Args:
        sentences: the sentences; tags in BIO, BIOES or plain.
        name: the format, one of `WRITERS`.

    Raises:
        CorpusError: for what the format cannot hold: plain tags as spans, sentences without tags as columns, a word
            with a tab or a line break as a line; the message names the place.
    """
    content = WRITERS[name](sentences)
    for attribute, meaning, formats in _BESIDE_TAGS:
        if name not in formats and (count := sum(getattr(sentence, attribute) is not None for sentence in sentences)):
            logger.warning(
                "%s has no place for %s: left out of %d sentence(s). %s can hold it.",
                *(name, meaning, count, " and ".join(formats)),
            )
    return content


def _scheme_of(tags: Iterable[str]) -> TagScheme:
    names = sorted(tags)
    name = infer_scheme(names)
    if name == "plain":
        return TagScheme(names or ["O"], "plain")
    return TagScheme.from_entity_types(sorted({split_tag(tag)[1] for tag in names if split_tag(tag)[0]}), name)


# ---- words with tags ----


def _tagged(sentences: Iterable[RawSentence], kind: str) -> Iterator[tuple[RawSentence, list[str]]]:
    for sentence in sentences:
        if sentence.tags is None:
            raise CorpusError(
                f"{sentence.place(0)}: a sentence without tags, which {kind} cannot hold; jsonl, doccano, prodigy and "
                "label-studio can."
            )
        yield sentence, sentence.tags


def _conll(sentences: Sequence[RawSentence]) -> bytes:
    lines, document = [], None
    for sentence, tags in _tagged(sentences, "conll"):
        if sentence.document != document:
            document = sentence.document
            lines.append(f"{DOCUMENT_START}-\tO\n\n")
        for index, (word, tag) in enumerate(zip(sentence.tokens, tags)):
            if any(character in word + tag for character in "\t\n\r"):
                raise CorpusError(f"{sentence.place(index)}: {word!r} has a tab or a line break, which ends a column.")
            lines.append(f"{word}\t{tag}\n")
        lines.append("\n")
    return "".join(lines).encode()


def _csv(sentences: Sequence[RawSentence]) -> bytes:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["sentence_id", "word", "tag"])
    for number, (sentence, tags) in enumerate(_tagged(sentences, "csv"), 1):
        writer.writerows((number, word, tag) for word, tag in zip(sentence.tokens, tags))
    return content.getvalue().encode()


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _json_list(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return (json.dumps(list(rows), ensure_ascii=False, indent=1) + "\n").encode()


def _jsonl(sentences: Sequence[RawSentence]) -> bytes:
    with_types = any(sentence.annotated_types is not None for sentence in sentences)
    with_documents = any(sentence.document is not None for sentence in sentences)
    rows = []
    for sentence in sentences:
        row: dict[str, Any] = {"tokens": sentence.tokens, "tags": sentence.tags}
        if with_types:
            row[ANNOTATED_TYPES] = sentence.annotated_types
        if with_documents:
            # A reader names documents by the place where they begin: the file's name is no part of the corpus.
            name = sentence.document
            row[DOCUMENT] = None if name is None else name.removeprefix(f"{sentence.source}:")
        rows.append(row)
    return _json_lines(rows)


# ---- texts with spans ----


@dataclass
class _Text:
    """A sentence as a text: its words' offsets in it, and its entities; `None` where it has no tags."""

    text: str
    offsets: Sequence[tuple[int, int]]
    entities: list[Span] | None

    def bounds(self, entity: Span) -> tuple[int, int]:
        """First character of an entity and one past the last."""
        return self.offsets[entity.start][0], self.offsets[entity.end - 1][1]


def _texts(sentences: Sequence[RawSentence]) -> Iterator[_Text]:
    scheme = _scheme_of({tag for sentence in sentences for tag in sentence.tags or ()})
    if scheme.name == "plain":
        shown = ", ".join(scheme.tags[:6])
        raise CorpusError(
            f"the tags {shown} are plain ones, and only entities are spans; conll, csv and jsonl hold tags."
        )
    for sentence in sentences:
        text, offsets = sentence.text, [place for place in sentence.offsets if place is not None]
        if text is None or len(offsets) < len(sentence.tokens):
            text, offsets, position = " ".join(sentence.tokens), [], 0
            for word in sentence.tokens:
                offsets.append((position, position + len(word)))
                position += len(word) + 1
        yield _Text(text, offsets, None if sentence.tags is None else scheme.spans(sentence.tags))


def _doccano(sentences: Sequence[RawSentence]) -> bytes:
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(_texts(sentences), 1):
        label = None if item.entities is None else [[*item.bounds(e), e.type] for e in item.entities]
        rows.append({"id": number, "text": item.text, "label": label})
    return _json_lines(rows)


def _prodigy(sentences: Sequence[RawSentence]) -> bytes:
    rows = []
    for item in _texts(sentences):
        row: dict[str, Any] = {"text": item.text}
        row["tokens"] = [
            {"text": item.text[start:end], "start": start, "end": end, "id": index}
            for index, (start, end) in enumerate(item.offsets)
        ]
        if item.entities is not None:
            row["spans"] = []
            for entity in item.entities:
                start, end = item.bounds(entity)
                span = {"start": start, "end": end, "token_start": entity.start, "token_end": entity.end - 1}
                row["spans"].append({**span, "label": entity.type})
            row["answer"] = "accept"
        rows.append(row)
    return _json_lines(rows)


def _label_studio(sentences: Sequence[RawSentence]) -> bytes:
    rows = []
    for number, item in enumerate(_texts(sentences), 1):
        row: dict[str, Any] = {"id": number, "data": {"text": item.text}, "annotations": []}
        if item.entities is not None:
            # JavaScript counts UTF-16 units.
            units = _utf16_positions(item.text)
            results = []
            for entity in item.entities:
                start, end = item.bounds(entity)
                value = {"start": units[start], "end": units[end], "text": item.text[start:end]}
                value["labels"] = [entity.type]
                results.append({"type": "labels", "from_name": "label", "to_name": "text", "value": value})
            row["annotations"].append({"id": number, "was_cancelled": False, "result": results})
        rows.append(row)
    return _json_list(rows)


def _utf16_positions(text: str) -> list[int]:
    positions = [0]
    for character in text:
        positions.append(positions[-1] + (2 if character > "\uffff" else 1))
    return positions


def _gliner(sentences: Sequence[RawSentence]) -> bytes:
    rows = []
    for sentence, item in zip(sentences, _texts(sentences)):
        if item.entities is None:
            raise CorpusError(f"{sentence.place(0)}: a sentence without tags, which gliner cannot hold.")
        spans = [[entity.start, entity.end - 1, entity.type] for entity in item.entities]
        rows.append({"tokenized_text": sentence.tokens, "ner": spans})
    return _json_list(rows)


def _docbin(sentences: Sequence[RawSentence]) -> bytes:
    try:
        from spacy.tokens import Doc, DocBin
        from spacy.tokens import Span as DocSpan
        from spacy.vocab import Vocab
    except ImportError as error:
        raise CorpusError(f"spaCy writes this format: pip install 'hf_structkd[spacy]' ({error}).") from error
    vocabulary, documents = Vocab(), []
    for sentence, item in zip(sentences, _texts(sentences)):
        next_starts = [start for start, _ in item.offsets[1:]] + [len(item.text)]
        spaces = [start > end for (_, end), start in zip(item.offsets, next_starts)]
        document = Doc(vocabulary, words=sentence.tokens, spaces=spaces)
        if item.entities is not None:
            document.set_ents([DocSpan(document, e.start, e.end, label=e.type) for e in item.entities])
        documents.append(document)
    return DocBin(attrs=["ENT_IOB", "ENT_TYPE", "SPACY"], docs=documents).to_bytes()


WRITERS: dict[str, Callable[[Sequence[RawSentence]], bytes]] = {
    "conll": _conll,
    "csv": _csv,
    "jsonl": _jsonl,
    "doccano": _doccano,
    "prodigy": _prodigy,
    "label-studio": _label_studio,
    "gliner": _gliner,
    "spacy": _docbin,
}
# Attributes of sentences that stand beside their tags, what they say, and the formats that hold them.
_BESIDE_TAGS = (
    (ANNOTATED_TYPES, "the types that annotators looked for", ("jsonl",)),
    (DOCUMENT, "documents", ("jsonl", "conll")),
)
