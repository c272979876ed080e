"""Two taggers on sentences with gold tags: what the second has wrong that the first has right, and the reverse."""

import importlib
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from rendering import note, page
from taggers import NoAnswerError, Taggers

MAX_WORDS = 20000
SHOWN = 50  # flips that are listed; all are counted
Span = tuple[str, int, int]  # type, first word, word behind the last


def compared(taggers: Taggers, old: str, new: str, text: str) -> str:
    """Flips from one tagger to another as HTML; what cannot be compared is said there.

    Args:
        taggers: those of the page.
        old, new: their names.
        text: sentences with gold tags, a word and its tag per line, an empty line between sentences.
    """
    try:
        sentences, gold, plain = read_gold(text)
        if old == new:
            raise NoAnswerError("Choose two different taggers.")
        answers = [[found_spans(answer) for answer in ask(taggers, name, sentences)] for name in (old, new)]
    except NoAnswerError as error:
        return page(note(str(error)))
    tags = [[tags_of(words, spans, plain) for words, spans in zip(sentences, rows)] for rows in (*answers, gold)]
    if plain:  # what is listed are the words that are counted, also where an entity tagger answered with spans
        *answers, gold = [[word_spans(row) for row in rows] for rows in tags]
    counted = importlib.import_module("hf_structkd.evaluation.flips").flips(*tags, "plain" if plain else "BIO")
    return page(flip_counts(old, new, counted), *listed(old, new, sentences, gold, *answers))


def read_gold(text: str) -> tuple[list[list[str]], list[set[Span]], bool]:
    """Words and gold spans of column text, and whether its tags are plain: parts of speech, for instance.

    Raises:
        NoAnswerError: if there are no sentences, or they cannot be read; it names the line.
    """
    if not text or not text.strip():
        raise NoAnswerError("There are no sentences yet: paste a word and its tag per line, an empty line in between.")
    try:
        data = importlib.import_module("hf_structkd")
        tag_scheme = importlib.import_module("hf_structkd.modeling.tag_scheme")
    except ImportError:
        raise NoAnswerError("This table needs the package hf_structkd, which this page runs without.") from None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "the sentences.conll"
        file.write_text(text.strip() + "\n", encoding="utf-8")
        try:
            corpus = data.load_corpus(file, language="und", measure_words=False)
        except ValueError as error:
            raise NoAnswerError(str(error).replace(f"{folder}/", "")) from error
    sentences, tags = list(corpus["tokens"]), list(corpus["tags"])
    if (words := sum(map(len, sentences))) > MAX_WORDS:
        raise NoAnswerError(f"These sentences have {words:,} words; this page compares up to {MAX_WORDS:,} at once.")
    scheme = tag_scheme.TagScheme(sorted({tag for row in tags for tag in row}))
    if scheme.name == "plain":
        return sentences, [word_spans(row) for row in tags], True
    return sentences, [{(kind, start, end) for start, end, kind in scheme.spans(row)} for row in tags], False


def ask(taggers: Taggers, name: str, sentences: Sequence[list[str]]) -> list[dict[str, Any]]:
    """A tagger's answers about sentences of words."""
    tagger = taggers.get(name)
    return [tagger(words, is_split_into_words=True) for words in sentences]


def found_spans(answer: dict[str, Any]) -> set[Span]:
    """The entities of an answer, or for plain tags its words, as spans of words."""
    if "tags" in answer:
        return {(word["tag"], word["index"], word["index"] + 1) for word in answer["tags"]}
    return {(entity["entity_group"], entity["start_word"], entity["end_word"]) for entity in answer["entities"]}


def word_spans(tags: Sequence[str]) -> set[Span]:
    """Plain tags as spans of one word each."""
    return {(tag, index, index + 1) for index, tag in enumerate(tags)}


def tags_of(words: list[str], spans: set[Span], plain: bool) -> list[str]:
    """Spans as one tag for each word: BIO, or plain."""
    tags = ["O"] * len(words)
    for kind, start, end in spans:
        tags[start:end] = [kind] * (end - start) if plain else [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


def flip_counts(old: str, new: str, flips: dict[str, dict[str, Any]]) -> str:
    """The table of what `hf_structkd.evaluation.flips.flips` counts."""
    counts = list(flips.values())
    rows = {
        "number": [f"{count['number']:,}" for count in counts],
        "right before": [f"{count['right_before']:,}" for count in counts],
        "right now": [f"{count['right_now']:,}" for count in counts],
        "lost": [_share(count["lost"], count["right_before"]) for count in counts],
        "gained": [_share(count["gained"], count["number"] - count["right_before"]) for count in counts],
    }
    head = "".join(f"<th>{name}</th>" for name in flips)
    body = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, cells in rows.items()
    )
    return (
        f'<h4>From {escape(old)} to {escape(new)}</h4><table class="flips"><thead><tr><th></th>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table><p class="quiet">Lost (negative flips): right before and wrong now, of those '
        "that were right. Gained: wrong before and right now, of those that were wrong. An entity is right if its "
        "type and both of its ends are; a sentence if all its entities are and no others are found.</p>"
    )


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}" + (f" ({100 * part / whole:.1f} %)" if whole else "")


def listed(
    old: str,
    new: str,
    sentences: list[list[str]],
    gold: list[set[Span]],
    before: list[set[Span]],
    now: list[set[Span]],
) -> list[str]:
    """The entities that are lost and those that are gained, each with what the other tagger says there."""
    tables = []
    for title, had, others, wrong in (
        ("Lost", before, now, new),
        ("Gained", now, before, old),
    ):
        flips = [
            (words, span, other)
            for words, right, first, other in zip(sentences, gold, had, others)
            for span in sorted((first & right) - other, key=lambda span: span[1:])
        ]
        if not flips:
            tables.append(f'<h4>{title}</h4><p class="quiet">None.</p>')
            continue
        rows = "".join(
            f'<tr><td dir="auto">{in_context(words, span)}</td><td>{escape(span[0])}</td>'
            f"<td>{instead(words, span, other)}</td></tr>"
            for words, span, other in flips[:SHOWN]
        )
        rest = f'<p class="quiet">The first {SHOWN} of {len(flips):,}.</p>' if len(flips) > SHOWN else ""
        tables.append(
            f'<h4>{title}</h4><table class="flips listed"><thead><tr><th>entity</th><th>gold</th>'
            f"<th>{escape(wrong)}</th></tr></thead><tbody>{rows}</tbody></table>{rest}"
        )
    return tables


def in_context(words: list[str], span: Span, around: int = 6) -> str:
    """An entity in bold with the words around it."""
    _, start, end = span
    left, right = words[max(0, start - around) : start], words[end : end + around]
    dots = ("… " if start > around else "", " …" if end + around < len(words) else "")
    middle = f"<b>{escape(' '.join(words[start:end]))}</b>"
    return f"{dots[0]}{escape(' '.join(left))} {middle} {escape(' '.join(right))}{dots[1]}"


def instead(words: list[str], span: Span, other: set[Span]) -> str:
    """What the other tagger finds where an entity is."""
    _, start, end = span
    others = sorted((s for s in other if s[1] < end and s[2] > start), key=lambda s: s[1:])
    return (
        ", ".join(f"{escape(' '.join(words[s:e]))} <small>{escape(kind)}</small>" for kind, s, e in others)
        or "nothing"
    )
