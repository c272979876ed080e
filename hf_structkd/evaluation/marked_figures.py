"""Fills figures into marked places of documents, so that the scripts that measure them also write them.

    <!-- results: GROUP -->            for instance a table
    <!-- end -->

    Baseline: <!-- results: GROUP / CELL / score --><!-- end -->

The text between a marker and the next `<!-- end -->` is replaced; the rest of a document stays as it is. A marker has
no pipe: a place may be a cell of a table, and Markdown splits tables at every pipe, in comments too.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from ..files import write_atomically

SEPARATOR = " / "
MARK = re.compile(r"(<!-- results: (.*?) -->)(.*?)(<!-- end -->)", re.DOTALL)


def key(*parts: str) -> str:
    """The name of a place: a group and the position in the group.

    Raises:
        ValueError: For a part that a marker cannot hold.
    """
    for part in parts:
        if re.search(r"[|\r\n]|--|>|(^| )/( |$)", part) or part != part.strip():
            raise ValueError(
                f"{part!r} cannot be the name of results: documents mark their places by it, in comments inside of "
                f"tables, so it has no '|', '--', '>', line break or {SEPARATOR!r}, and no blank at either end"
            )
    return SEPARATOR.join(parts)


def fill(text: str, figures: Mapping[str, str], groups: set[str]) -> str:
    """Fill the marked places of a document.

    Args:
        text: The document.
        figures: Name of a place -> its text.
        groups: The groups to fill; markers of other groups stay as they are.

    Returns:
        The new document.

    Raises:
        ValueError: For a marker of these groups without a figure, and for any marker with a pipe.
    """

    def replace(match: re.Match) -> str:
        name = match[2].strip()
        if "|" in name:
            raise ValueError(f"the marker {match[1]} breaks tables at its pipes: write {SEPARATOR!r} for {' | '!r}")
        if name.split(SEPARATOR)[0] not in groups:
            return match[0]
        if name not in figures:
            raise ValueError(f"nothing is called {name!r}; there are {', '.join(figures)}")
        # A line that begins with a comment is HTML to its end, so Markdown goes onto lines of its own.
        begins_line = match.start() == 0 or text[match.start() - 1] == "\n"
        content = f"\n{figures[name]}\n" if "\n" in figures[name] or begins_line else figures[name]
        return f"{match[1]}{content}{match[4]}"

    return MARK.sub(replace, text)


def fill_file(document: Path, group: str, figures: Mapping[str, str]) -> None:
    """Fill the places of one group in a file; every figure must have a place.

    Args:
        document: The Markdown file.
        group: The group.
        figures: Name of a place -> its text.

    Raises:
        ValueError: If a figure has no place, or a place has no figure.
    """
    text = document.read_text(encoding="utf-8")
    for name in figures:
        if f"<!-- results: {name} -->" not in text:
            raise ValueError(f"{document} has no place for {name!r}: <!-- results: {name} --> and <!-- end -->")
    write_atomically(document, fill(text, figures, {group}))
