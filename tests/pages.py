"""Pages as GitHub and the Hub show them: Markdown rendered, tables cell by cell."""

import ast
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

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


# The snippets of README and docs, and how they are run: the one place for it.
#
# A comment on the line before a snippet, `<!-- snippet: WHY -->`, says why it is not run as it stands. It is shown
# neither in the repository nor on the site.


ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- snippet: (?P<why>.*?) -->\n)?(?P<indent> *)```(?P<info>.*)\n(?P<text>(?:.*\n)*?) *```$", re.MULTILINE
)
QUICK = ("--num_train_epochs", "1", "--use_cpu", "--disable_tqdm")  # for `structkd distill` and `structkd teacher`
TINY = '{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}'


class Snippet(NamedTuple):
    """A block of code on a page.

    Args:
        page: its path from the top of the repository.
        line: of the page, from 1.
        language: as the fence says, `python`, `bash`, `yaml` and so on.
        text: the code.
        why: the reason that it is not run; empty if it is.
    """

    page: str
    line: int
    language: str
    text: str
    why: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(page: str, *languages: str) -> list[Snippet]:
    """The snippets of a page in order; of some languages alone, if these are named, and then only those to run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [
        Snippet(page, text.count("\n", 0, match.start("text")) + 1, match["info"], match["text"], match["why"] or "")
        for match in FENCE.finditer(text)
    ]
    return [s for s in found if not languages or (s.language in languages and not s.why)]


def programs(page: str) -> list[Snippet]:
    """The Python of a page that is run."""
    return snippets(page, "python")


def run_program(snippet: Snippet, names: dict[str, Any], replaced: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a program with names that the page takes as given; returns all names that it leaves.

    Args:
        snippet: The program.
        names: Given names; they are changed as the program changes them.
        replaced: Text of the page -> what stands in for it.
    """
    text = snippet.text
    for old, new in (replaced or {}).items():
        assert old in text, f"{snippet}: nothing reads {old!r}"
        text = text.replace(old, new)
    # so that an error shows the line of the page
    exec(compile("\n" * (snippet.line - 1) + text, snippet.page, "exec"), names)
    return names


def check_prints(snippet: Snippet, printed: str) -> int:
    """Compare what a program printed with what its comments promise (`print(x)  # what: VALUE`); returns how many."""
    promised = re.findall(r"^print\(.*\)  # .*?: (\[.*\])$", snippet.text, flags=re.MULTILINE)
    assert [ast.literal_eval(line) for line in printed.strip().splitlines()[: len(promised)]] == [
        ast.literal_eval(each) for each in promised
    ], str(snippet)
    return len(promised)


def commands(page: str) -> list[list[str]]:
    """The commands of a page that are run, in order, each as a list of words."""
    return [command for snippet in snippets(page, "bash") for command in words_of(snippet)]


def words_of(snippet: Snippet) -> list[list[str]]:
    """The commands of one snippet; a line that ends with a backslash goes on, and what follows # is a comment."""
    lines = snippet.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def quickly(command: Sequence[str], *options: str) -> list[str]:
    """The arguments of a `structkd` command after its verb, with what makes trainings short."""
    trains = command[1] in ("distill", "teacher")
    return [*command[2:], *((*QUICK, *options) if trains else ())]
