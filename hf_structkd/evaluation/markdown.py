"""Markdown: pages that show untrusted text and nothing else, and figures in marked places.

Names, labels, settings, versions and sentences come from corpora, checkpoints, recipes and `results.json` files of
strangers. They reach a page only through [`escaped`], or through [`code`] and [`table`], which use it.

The scripts that measure figures also write them, into places of documents:

    <!-- results: GROUP -->            for instance a table
    <!-- end -->

    Baseline: <!-- results: GROUP / CELL / score --><!-- end -->

The text between a marker and the next `<!-- end -->` is replaced; the rest of a document stays as it is. A marker has
no pipe: a place may be a cell of a table, and Markdown splits tables at every pipe, in comments too.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..files import write_atomically

# Control characters, line breaks of every kind, and marks that change the writing direction.
_UNSEEN = re.compile("[\\s\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_SURROGATE = re.compile("[\ud800-\udfff]")  # halves of characters, which UTF-8 cannot encode
_MARKS = re.compile(r"([\\`*\[\]~$]|(?<![^\W_])_|_(?![^\W_]))")  # `_` inside a word is text
_LINKS = re.compile(r"(?i):(?=[^\s:])|(?<=www)\.")  # of addresses and emoji; escaped, they make no link
_START = re.compile(r"^(\d*)([#+.)-]+(?=\s|$)|[-=]+$)")  # headings, lists, rules


def one_line(text: Any) -> str:
    """A text in one line: line breaks, control characters and runs of blanks become one space."""
    return _SURROGATE.sub("\ufffd", _UNSEEN.sub(" ", str(text)).strip())


def escaped(text: Any) -> str:
    """A text as Markdown that shows exactly its characters, in one line, inside and outside of tables.

    It makes no HTML, links, emphasis, code, headings, lists or table cells in CommonMark with GitHub's extensions.
    """
    line = _MARKS.sub(r"\\\1", escape(one_line(text), quote=False)).replace("|", "&#124;")
    line = _LINKS.sub(lambda match: f"\\{match[0]}", line)
    line = re.sub(r"!(?=\\\[)", r"\\!", line).replace("@", "&#64;")
    return _START.sub(r"\1\\\2", line)


def code(value: Any) -> str:
    """A name or a value as inline code, whatever it contains, inside and outside of tables."""
    line = one_line(value)
    # Backticks, pipes and backslashes have a special meaning in code or tables; `<` is always escaped.
    return f"`{line}`" if line and not re.search(r"[`|\\<&]", line) else f"<code>{escaped(line)}</code>"


def fenced(text: str, language: str = "") -> str:
    """A block of code, whatever it contains: the fence is longer than any run of backticks inside."""
    lines = [_SURROGATE.sub("\ufffd", re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", " ", line))
             for line in re.split("\r\n|[\n\r\v\f\x85\u2028\u2029]", text)]  # fmt: skip
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return "\n".join([f"{fence}{language}", *lines, fence])


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """A Markdown table.

    Args:
        header, rows: cells, Markdown without pipes, such as [`escaped`] and [`code`] return.
        numbers: columns behind the first hold numbers, and stand to the right; by default all stand to the left.

    Raises:
        ValueError: if a row has more or fewer cells than the header, or a cell has a pipe or a line break.
    """
    rule = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
    lines = [list(header), rule, *map(list, rows)]
    for line in lines:
        if len(line) != len(header) or any(re.search(r"[|\r\n]", cell) for cell in line):
            raise ValueError(f"{line} is no row of a table with the columns {list(header)}")
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
