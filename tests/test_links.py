"""Danger: a link of a page or a notebook that leads nowhere; `make docs` checks those of the site."""

import json
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "examples/**/*.md",
        "examples/**/*.ipynb",
        ".github/**/*.yml",
        "CITATION.cff",
    )
    for path in sorted(ROOT.glob(pattern))
]
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return CODE.sub("", text)


def headings(path: Path) -> set[str]:
    """The anchors that the repository's host gives to the headings of a page."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(path):
    for link in LINK.findall(text_of(path)):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{link}: no such file"
        assert target.is_relative_to(ROOT), f"{link}: outside of the repository"
        if anchor:
            assert anchor in headings(target), f"{link}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_addresses_are_whole(path):
    # Those that nobody can ask offline: at least they are encrypted, and name a paper as arXiv does.
    for address in re.findall(r"\bhttps?://[^\s)>\"'}\],]+", text_of(path)):
        parts = urlsplit(address)
        if parts.hostname in ("localhost", "127.0.0.1"):
            continue
        assert parts.scheme == "https", address
        assert "." in (parts.hostname or ""), address
        if parts.hostname == "arxiv.org":
            assert re.fullmatch(r"/(abs|pdf)/\d{4}\.\d{4,5}", parts.path), address


def test_every_page_is_checked():
    listed = subprocess.run(["git", "ls-files", "docs/*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert {ROOT / name for name in listed} <= set(PAGES)
    assert len(PAGES) > 20
