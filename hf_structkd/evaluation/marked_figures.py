"""Figures in documents are written by the scripts that measured them, into marked places.

    <!-- results: GROUP -->            a table, say
    <!-- end -->

    Baseline: <!-- results: GROUP / CELL / score --><!-- end -->

What stands between a marker and the next `<!-- end -->` is replaced; all else in a document is left as it is. A marker
has no pipe: a place may be a cell of a table, and Markdown cuts tables into cells at every pipe, in comments too.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from ..files import write_atomically

SEPARATOR = " / "
MARK = re.compile(r"(<!-- results: (.*?) -->)(.*?)(<!-- end -->)", re.DOTALL)


def key(*parts: str) -> str:
    """The name of a place, of a group and what it is of the group.

    Raises:
        ValueError: for a part that markers cannot hold.
    """
    for part in parts:
        if re.search(r"[|\r\n]|--|>|(^| )/( |$)", part) or part != part.strip():
            raise ValueError(
                f"{part!r} cannot be the name of results: documents mark their places by it, in comments inside of "
                f"tables, so it has no '|', '--', '>', line break or {SEPARATOR!r}, and no blank at either end"
            )
    return SEPARATOR.join(parts)


def fill(text: str, figures: Mapping[str, str], groups: set[str]) -> str:
    """A document with its marked places filled.

    Args:
        text: the document.
        figures: what stands at each marker.
        groups: those that are being reported; markers of others are left as they are.

    Raises:
        ValueError: for a marker of one of these groups that says nothing that is there, or any with a pipe.
    """

    def replace(match: re.Match) -> str:
        name = match[2].strip()
        if "|" in name:
            raise ValueError(f"the marker {match[1]} breaks tables at its pipes: write {SEPARATOR!r} for {' | '!r}")
        if name.split(SEPARATOR)[0] not in groups:
            return match[0]
        if name not in figures:
            raise ValueError(f"nothing is called {name!r}; there are {', '.join(figures)}")
        # A line that begins with a comment is one of HTML to its end: what is Markdown goes onto lines of its own.
        begins_line = match.start() == 0 or text[match.start() - 1] == "\n"
        content = f"\n{figures[name]}\n" if "\n" in figures[name] or begins_line else figures[name]
        return f"{match[1]}{content}{match[4]}"

    return MARK.sub(replace, text)


def fill_file(document: Path, group: str, figures: Mapping[str, str]) -> None:
    """Fill the places of one group in a document, all of whose figures must have a place there.

    Raises:
        ValueError: if a figure has no place, or a place no figure.
    """
    text = document.read_text(encoding="utf-8")
    for name in figures:
        if f"<!-- results: {name} -->" not in text:
            raise ValueError(f"{document} has no place for {name!r}: <!-- results: {name} --> and <!-- end -->")
    write_atomically(document, fill(text, figures, {group}))
