"""Figures in documents are written by the scripts that measured them, into marked places.

    <!-- results: GROUP -->            a table, say
    <!-- end -->

    Baseline: <!-- results: GROUP | CELL | score --><!-- end -->

What stands between a marker and the next `<!-- end -->` is replaced; all else in a document is left as it is.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

_MARK = re.compile(r"(<!-- results: ([^>]*?) -->)(.*?)(<!-- end -->)", re.DOTALL)


def fill(text: str, figures: Mapping[str, str], groups: set[str]) -> str:
    """A document with its marked places filled.

    Args:
        text: the document.
        figures: what stands at each marker.
        groups: those that are being reported; markers of others are left as they are.

    Raises:
        ValueError: for a marker of one of these groups that says nothing that is there.
    """

    def replace(match: re.Match) -> str:
        key = " | ".join(part.strip() for part in match[2].split("|"))
        if key.split(" | ")[0] not in groups:
            return match[0]
        if key not in figures:
            raise ValueError(f"nothing is called {key!r}; there are {', '.join(figures)}")
        content = f"\n{figures[key]}\n" if "\n" in figures[key] else figures[key]
        return f"{match[1]}{content}{match[4]}"

    return _MARK.sub(replace, text)


def fill_file(document: Path, group: str, figures: Mapping[str, str]) -> None:
    """Fill the places of one group in a document, all of whose figures must have a place there.

    Raises:
        ValueError: if a figure has no place, or a place no figure.
    """
    text = document.read_text(encoding="utf-8")
    for key in figures:
        if f"<!-- results: {key} -->" not in text:
            raise ValueError(f"{document} has no place for {key!r}: <!-- results: {key} --> and <!-- end -->")
    temporary = document.with_name(f".{document.name}.tmp")
    temporary.write_text(fill(text, figures, {group}), encoding="utf-8")
    os.replace(temporary, document)
