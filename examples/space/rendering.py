"""A tagger's answer as HTML. Whatever a user typed is escaped; text runs in its own direction."""

import unicodedata
from collections.abc import Sequence
from html import escape
from typing import Any

HUES = (210, 30, 130, 290, 0, 175, 55, 330, 95, 250)
HEAT_MAP_WORDS = 60  # of one table
HEAT_MAP_TABLES = 10  # of a long text the beginning: more would make a page slow
MANY_ENTITIES = 12  # of a text with more, the other analyses are shown by what differs

CSS = """
#text textarea {unicode-bidi: plaintext; text-align: start}
/* long names end before the arrow; numbers beside sliders are as wide as they need to be */
#left input, #right input, #language input {padding-inline-end: 2.2em !important; text-overflow: ellipsis}
#options input[type=number] {min-width: 5.5em}
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
.tagger mark.gone {text-decoration: line-through; opacity: .7; box-shadow: none}
@media (max-width: 640px) {
  .tagger .alternatives td {display: block; padding: .1em 0}
  .tagger .alternatives td:first-child {width: auto; padding-top: .6em}
  .tagger .alternatives td:last-child {border-top: 0 !important; padding-bottom: .6em}
}
.tagger .bar {display: inline-block; height: .55em; border-radius: .3em; background: hsl(210 70% 55% / .75);
  margin-inline-end: .5em; min-width: 2px}
.tagger .heat-map {max-height: 42em; overflow: auto}
.tagger .scroll {max-height: 20em; overflow-y: auto}
.tagger summary {cursor: pointer; font-size: .88rem; padding: .3em 0}
.tagger .legend {display: flex; flex-wrap: wrap; gap: .3em .6em; align-items: center; font-size: .8rem;
  color: var(--body-text-color-subdued); margin: .2em 0 .5em}
.tagger .scale {display: inline-block; width: 9em; height: .9em; border: 1px solid var(--border-color-primary);
  background: linear-gradient(to right, transparent, color-mix(in srgb, hsl(210 80% 48%) 75%, transparent))}
.tagger .alternatives mark, .tagger .flips mark {display: inline-block; line-height: 1.5; margin: .1em 0}
.tagger .sides, .tagger .listed {table-layout: fixed}
.tagger .sides th, .tagger .sides td, .tagger .listed th, .tagger .listed td {overflow-wrap: anywhere}
.tagger .listed th:first-child {width: 50%}
.tagger .listed th:nth-child(2) {width: 16%}
.tagger .flips th, .tagger .flips td {border: 1px solid var(--border-color-primary); padding: .3em .5em;
  text-align: start; vertical-align: top; font-weight: 400}
.tagger .flips thead th {font-weight: 600}
.tagger small {opacity: .85; font-weight: 600}
.tagger .heat-map th, .tagger .heat-map td {border: 1px solid var(--border-color-primary); padding: .22em .4em;
  text-align: center; font-weight: 400; font-size: .78rem; min-width: 2.9em}
.tagger .heat-map thead th {position: sticky; top: 0; background: var(--background-fill-primary); font-weight: 600}
.tagger .heat-map th.word {text-align: start; font-size: .88rem; min-width: 7em; overflow-wrap: break-word;
  position: sticky; inset-inline-start: 0; background: var(--background-fill-primary)}
.tagger .heat-map thead th:first-child {inset-inline-start: 0; z-index: 1}
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
    entities = answer.get("entities", answer.get("tags", []))
    return [{**span, "type": span.get("entity_group", span.get("tag"))} for span in entities]


def marked(span: dict[str, Any], colours: dict[str, int], kind: str = "") -> str:
    """One entity, with its type and probability; of a kind: `"new"` or `"gone"` against the best analysis."""
    css = f' class="{kind}"' if kind else ""
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
    title, meaning = "Entities", "an entity of this type begins and ends here"
    if "tags" in answer:
        title, meaning = "Tags", "the word has this tag"
    return (
        f'<h4>{title}</h4><div class="text" dir="{direction(text)}">{"".join(parts)}</div>'
        f'<p class="legend">The number is the exact probability that {meaning}.</p>'
    )


def alternatives(text: str, answer: dict[str, Any], colours: dict[str, int]) -> str:
    """The k best analyses, of a long text by their differences; what the best one has not is framed."""
    best = {_place(span): span for span in spans(answer["top_k"][0])}
    differences = len(best) > MANY_ENTITIES
    things = "tags" if "tags" in answer else "entities"
    rows = []
    for number, analysis in enumerate(answer["top_k"]):
        by_place = {_place(span): span for span in spans(analysis)}
        chips = [marked(span, colours, "" if place in best else "new") for place, span in by_place.items()]
        if differences and number:
            new = [marked(span, colours, "new") for place, span in by_place.items() if place not in best]
            chips = [*new, *(marked(span, colours, "gone") for place, span in best.items() if place not in by_place)]
        elif differences:
            chips = [f'<span class="quiet">the {len(best)} {things} above</span>']
        bar = f'<span class="bar" style="width: {3.5 * analysis["score"]:.2f}em"></span>'
        shown = " ".join(chips) or '<span class="quiet">no entity</span>'
        rows.append(f'<tr><td>{bar}{probability(analysis["score"])}</td><td dir="{direction(text)}">{shown}</td></tr>')
    return (
        f"<h4>The {len(rows)} most probable analyses</h4>"
        '<p class="legend">The bar is the probability of the whole analysis. A frame: not in the most probable one'
        f"{'; struck through: in that one alone' if differences else ''}.</p>"
        f'<table class="alternatives"><tbody>{"".join(rows)}</tbody></table>'
    )


def heat_map(answer: dict[str, Any]) -> str:
    """Each word's probability of every tag; of a long text in parts to unfold, of a very long one the beginning."""
    words = answer["marginals"]
    starts = range(0, min(len(words), HEAT_MAP_WORDS * HEAT_MAP_TABLES), HEAT_MAP_WORDS)
    tables = [_heat_table(words[start : start + HEAT_MAP_WORDS]) for start in starts]
    folded = "".join(
        f"<details><summary>Words from {start + 1:,} on</summary>{table}</details>"
        for start, table in zip(starts[1:], tables[1:])
    )
    left_out = len(words) - HEAT_MAP_WORDS * HEAT_MAP_TABLES
    rest = f'<p class="quiet">The last {left_out:,} words are not shown here.</p>' if left_out > 0 else ""
    legend = '<p class="legend">0 <span class="scale"></span> 1; empty: below 0.005</p>'
    return f"<h4>Probability of every tag</h4>{legend}{tables[0]}{folded}{rest}"


def _heat_table(shown: Sequence[dict[str, Any]]) -> str:
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
    return f'<div class="heat-map"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def differing(names: Sequence[str], answers: Sequence[dict[str, Any]], colours: dict[str, int]) -> str:
    """The entities that one of two taggers finds and the other does not, with what the other finds there."""
    by_place = [{_place(span): span for span in spans(answer)} for answer in answers]
    pairs = (by_place, by_place[::-1])
    only = [{place: span for place, span in first.items() if place not in other} for first, other in pairs]
    rows = []
    for place in sorted({*only[0], *only[1]}, key=lambda place: place[1:]):
        if any(place[1] < end and start < place[2] for _, start, end in only[0]) and place not in only[0]:
            continue  # beside the first tagger's entity, which it overlaps
        first = [only[0][place]] if place in only[0] else []
        other = [s for p, s in only[1].items() if (p[1] < place[2] and place[1] < p[2])]
        cells = (" ".join(marked(span, colours) for span in part) or "nothing" for part in (first, other))
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    if not rows:
        return '<p class="quiet">Both taggers find the same.</p>'
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    return (
        f'<h4>Where they differ</h4><div class="scroll"><table class="flips sides"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _place(span: dict[str, Any]) -> tuple[str, int, int]:
    return span["type"], span["start"], span["end"]


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
