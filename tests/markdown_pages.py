"""Pages as GitHub and the Hub show them: Markdown rendered, tables cell by cell."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from markdown_it import MarkdownIt

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def render(markdown: str) -> str:
    """HTML of a page without its front matter, with GitHub's tables, strikethrough and addresses made links."""
    return MarkdownIt("gfm-like").render(FRONT_MATTER.sub("", markdown))


@dataclass
class Page(HTMLParser):
    """What a reader sees.

    Attributes:
        text: everything shown.
        tables: of each table its rows, of each row the text of its cells, the header first.
        tags: (name, attributes) of all HTML elements.
    """

    markdown: str
    text: str = ""
    tables: list[list[list[str]]] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._cell = False
        self.feed(render(self.markdown))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data):
        self.text += data
        if self._cell:
            self.tables[-1][-1][-1] += data

    def links(self) -> list[str]:
        return [str(attributes.get("href", attributes.get("src"))) for tag, attributes in self.tags if tag in "a img"]


def source_tables(markdown: str) -> list[list[str]]:
    """The rows of every table as they stand in the source, comments too, but not those in blocks of code."""
    text = re.sub(r"^(`{3,}).*?^\1`*\s*$", "", FRONT_MATTER.sub("", markdown), flags=re.DOTALL | re.MULTILINE)
    tables: list[list[str]] = []
    above = ""
    for line in text.split("\n"):
        if line.startswith("|"):
            if not above.startswith("|"):
                tables.append([])
            tables[-1].append(line)
        above = line
    return tables


def cells_of(line: str) -> int:
    """How many cells a row has by GitHub's rule: pipes cut, those escaped by a backslash do not, in code either."""
    return len(re.split(r"(?<!\\)\|", line.strip())) - 2
