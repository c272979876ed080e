"""Figures in Markdown files are written by the scripts that measured them, between two marks."""

import re
from pathlib import Path


def write_block(file: Path, name: str, text: str) -> None:
    """Put text between ``<!-- begin NAME ... -->`` and ``<!-- end NAME -->``, in place of what stands there.

    Raises:
        ValueError: if the marks are not there, once each and in this order.
    """
    content = file.read_text(encoding="utf-8")
    marks = re.compile(rf"(<!-- begin {re.escape(name)}\b[^>]*-->\n).*?(<!-- end {re.escape(name)} -->)", re.DOTALL)
    if len(marks.findall(content)) != 1:
        raise ValueError(f"{file} must hold <!-- begin {name} --> and, after it, <!-- end {name} -->, once each")
    file.write_text(marks.sub(lambda found: f"{found[1]}{text.strip()}\n{found[2]}", content), encoding="utf-8")
