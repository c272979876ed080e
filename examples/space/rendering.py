"""A tagger's answer as HTML. Whatever a user typed is escaped; text runs in its own direction."""

import unicodedata
from collections.abc import Sequence
from html import escape
from typing import Any

HUES = (210, 30, 130, 290, 0, 175, 55, 330, 95, 250)
HEAT_MAP_WORDS = 60

CSS = """
#text textarea {unicode-bidi: plaintext; text-align: start}
.tagger {font-size: 1rem; line-height: 1.5; color: var(--body-text-color)}
.tagger h4:first-child {margin-top: .2em}
.tagger h4 {margin: 1.4em 0 .5em; font-size: .8rem; font-weight: 600; letter-spacing: .04em; text-transform: uppercase;
  color: var(--body-text-color-subdued)}
.tagger .text {font-size: 1.1rem; line-height: 2.3; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 24em;
  overflow-y: auto}
.tagger mark {padding: .22em .4em; border-radius: .45em; color: inherit; background: hsl(var(--hue) 85% 55% / .2);
  box-shadow: inset 0 0 0 1px hsl(var(--hue) 65% 50% / .5); -webkit-box-decoration-break: clone;
  box-decoration-break: clone}
.tagger mark.new {box-shadow: inset 0 0 0 2px hsl(var(--hue) 75% 45%)}
.tagger mark small {margin-inline-start: .5em; font-size: .7rem; font-weight: 600; white-space: nowrap; opacity: .85}
.tagger table {border-collapse: collapse; width: 100%; font-size: .88rem; margin: 0}
.tagger .alternatives, .tagger .alternatives tr {border: 0 !important}
.tagger .alternatives td {padding: .4em .5em; border: 0 !important;
  border-top: 1px solid var(--border-color-primary) !important;
  vertical-align: middle; line-height: 2.1}
.tagger .alternatives td:first-child {width: 8.5em; white-space: nowrap; font-variant-numeric: tabular-nums}
.tagger .bar {display: inline-block; height: .55em; border-radius: .3em; background: hsl(210 70% 55% / .75);
  margin-inline-end: .5em; min-width: 2px}
.tagger .heat-map {max-height: 42em; overflow: auto}
.tagger .heat-map th, .tagger .heat-map td {border: 1px solid var(--border-color-primary); padding: .22em .4em;
  text-align: center; font-weight: 400; font-size: .78rem; min-width: 2.9em}
.tagger .heat-map thead th {position: sticky; top: 0; background: var(--background-fill-primary); font-weight: 600}
.tagger .heat-map th.word {text-align: start; font-size: .88rem; white-space: nowrap}
.tagger .heat-map td {font-variant-numeric: tabular-nums;
  background: color-mix(in srgb, hsl(210 80% 48%) calc(var(--p) * 75%), transparent)}
.tagger .note {padding: .6em .8em; border-radius: .5em; background: hsl(45 95% 55% / .16);
  border: 1px solid hsl(45 80% 45% / .4); margin: .4em 0}
.tagger .quiet {color: var(--body-text-color-subdued); font-size: .85rem}
"""


def probability(p: float) -> str:
    """A probability as people read it; a small one keeps its size."""
    if p >= 0.095:
        return f"{100 * p:.0f} %"
    return f"{100 * p:.2g} %" if p >= 0.001 else f"{p:.1e}"


def note(text: str) -> str:
    """Something to be told instead of, or beside, an answer."""
    return f'<div class="note" role="status">{escape(text)}</div>'


def page(*parts: str) -> str:
    """Parts of an answer under one roof."""
    return f'<div class="tagger">{"".join(parts)}</div>'


def hues(labels: Sequence[str]) -> dict[str, int]:
    """A colour for each type, the same for all checkpoints that have the same types."""
    types = sorted({label.split("-", 1)[-1] for label in labels} - {"O"})
    return {name: HUES[i % len(HUES)] for i, name in enumerate(types)}


def direction(text: str) -> str:
    """Which way a text runs: as its first letter does. (dir="auto" does not look into marks that are isolated.)"""
    for character in text:
        if (kind := unicodedata.bidirectional(character)) in ("L", "R", "AL"):
            return "ltr" if kind == "L" else "rtl"
    return "ltr"


def spans(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Entities, or for plain tags every word, as dicts of `type`, `score`, `word`, `start`, `end`."""
    found = answer.get("entities", answer.get("tags", []))
    return [{**span, "type": span.get("entity_group", span.get("tag"))} for span in found]


def marked(span: dict[str, Any], colours: dict[str, int], new: bool = False) -> str:
    """One entity, with its type and probability."""
    css = ' class="new"' if new else ""
    return (
        f'<mark{css} style="--hue: {colours.get(span["type"], 0)}" title="probability {span["score"]:.4f}">'
        f"<bdi>{escape(span['word'])}</bdi>"
        f"<small>{escape(span['type'])} {probability(span['score'])}</small></mark>"
    )


def highlighted(text: str, answer: dict[str, Any], colours: dict[str, int]) -> str:
    """The text with its entities marked."""
    parts, position = [], 0
    for span in spans(answer):
        parts += [escape(text[position : span["start"]]), marked(span, colours)]
        position = span["end"]
    parts.append(escape(text[position:]))
    return f'<h4>Entities</h4><div class="text" dir="{direction(text)}">{"".join(parts)}</div>'


def alternatives(text: str, answer: dict[str, Any], colours: dict[str, int]) -> str:
    """The k best analyses; entities that the best one has not are framed."""
    known = {(s["type"], s["start"], s["end"]) for s in spans(answer)}
    rows = []
    for analysis in answer["top_k"]:
        found = spans(analysis)
        chips = " ".join(marked(s, colours, (s["type"], s["start"], s["end"]) not in known) for s in found)
        bar = f'<span class="bar" style="width: {3.5 * analysis["score"]:.2f}em"></span>'
        shown = chips or '<span class="quiet">no entity</span>'
        rows.append(f'<tr><td>{bar}{probability(analysis["score"])}</td><td dir="{direction(text)}">{shown}</td></tr>')
    return (
        f"<h4>The {len(rows)} most probable analyses</h4>"
        f'<table class="alternatives"><tbody>{"".join(rows)}</tbody></table>'
    )


def heat_map(answer: dict[str, Any]) -> str:
    """Each word's probability of every tag; of a long text the beginning, which is said."""
    words = answer["marginals"]
    shown = words[:HEAT_MAP_WORDS]
    tags = list(shown[0]["scores"])
    head = "".join(f"<th>{escape(tag)}</th>" for tag in tags)
    body = "".join(
        f'<tr><th class="word"><bdi>{escape(word["word"])}</bdi></th>'
        + "".join(
            f'<td style="--p: {p:.3f}" title="{escape(tag)}: {p:.4f}">{f"{p:.2f}" if p >= 0.005 else ""}</td>'
            for tag, p in word["scores"].items()
        )
        + "</tr>"
        for word in shown
    )
    rest = f'<p class="quiet">The first {len(shown)} of {len(words):,} words.</p>' if len(words) > len(shown) else ""
    return (
        f'<h4>Probability of every tag</h4><div class="heat-map"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{rest}"
    )


def footer(answer: dict[str, Any]) -> str:
    """How sure the tagger is of the sentence as a whole."""
    return (
        f'<p class="quiet">{len(answer["marginals"]):,} words; entropy over all tag sequences '
        f"{answer['entropy']:.2f} nats, as many as {_amount(answer['entropy'])} equally likely ones have.</p>"
    )


def _amount(entropy: float) -> str:
    if entropy > 16:
        return f"10^{entropy / 2.302585:.0f}"
    return f"{2.718281828**entropy:,.1f}"
