"""What the site has besides the pages of this folder (a hook of mkdocs, see mkdocs.yml).

The README is the first page; the results, the changelog and others come from the top of the repository. Reference
pages list the public names with their docstrings. So no text stands in two places, and links read the same on the site
and in the repository.
"""

import re
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from hf_structkd import _MODULES

ROOT = Path(__file__).parents[1]
TOP_PAGES = {"README.md": "index.md"} | {name: name for name in (
    "RESULTS.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}  # fmt: skip
# Reference page -> its title, and the rooms whose public names it has.
REFERENCE = {
    "models": ("Models, pipeline, CRF", ("modeling",)),
    "corpora": ("Corpora", ("data",)),
    "teachers": ("Teachers", ("teachers",)),
    "training": ("Training", ("training",)),
    "evaluation": ("Evaluation", ("evaluation",)),
    "recipes": ("Recipes", ("recipes",)),
}
CODE_REFERENCE = re.compile(r"\[<code>([\w.~]+)</code>\]")  # [`name`], as docstrings refer to other names
MATH = re.compile(r"```.*?```|`[^`\n]*`|\$\$(.+?)\$\$|(?<![\\$\w])\$(?! )([^$\n]+?)(?<! )\$(?![\w$])", re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)\s]+)\)")


def reference_page(title: str, rooms: tuple[str, ...]) -> str:
    """The page of some rooms' public names, in alphabetical order, for mkdocstrings."""
    names = sorted((name for name, module in _MODULES.items() if module.split(".")[0] in rooms), key=str.lower)
    return f"# {title}\n\n" + "\n\n".join(f"::: hf_structkd.{_MODULES[name]}.{name}" for name in names) + "\n"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and the files that pages link to."""
    for source, page in TOP_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for name, (title, rooms) in REFERENCE.items():
        files.append(File.generated(config, f"reference/{name}.md", content=reference_page(title, rooms)))
    for file in list(files.documentation_pages()):
        if not file.src_uri.startswith("reference/"):
            for _, _, link in LINK.findall(file.content_string):
                target = _repository_path(file, link)
                if _is_extra(target) and files.get_file_from_path(f"files/{target}") is None:
                    files.append(File.generated(config, f"files/{target}", abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to their targets on the site, and show formulas. Folders are not on it: their names stay."""
    return LINK.sub(lambda match: _site_link(page.file, *match.groups()), MATH.sub(_formula, markdown))


def on_page_content(html: str, **_: Any) -> str:
    """Let docstrings' references to public names lead there; others become plain code."""
    return CODE_REFERENCE.sub(lambda match: _code_link(match[1]), html)


def _formula(match: re.Match[str]) -> str:
    """A formula as MathML, which browsers show without a script; code stays as it is."""
    block, inline = match.groups()
    if not block and not inline:
        return match[0]
    formula = convert(block or inline, display="block" if block else "inline")
    if block:  # a formula that is wider than a phone scrolls by itself, not with the page
        return f'<div style="overflow-x: auto">{formula}</div>'
    return f"<span>{formula}</span>"  # at the start of a line Markdown takes math for a block


def _code_link(reference: str) -> str:
    name, _, member = reference.rsplit("~", 1)[-1].removeprefix(".").partition(".")
    name, member = (name, member) if name in _MODULES else (reference.rpartition(".")[2], "")
    shown = f"<code>{name}{'.' if member else ''}{member}</code>"
    if name not in _MODULES:
        return shown
    full = f"hf_structkd.{_MODULES[name]}.{name}{'.' if member else ''}{member}"
    return f'<autoref optional identifier="{full}">{shown}</autoref>'


def _site_link(file: File, image: str, text: str, link: str) -> str:
    target, anchor = _repository_path(file, link), "".join(link.partition("#")[1:])
    if not (ROOT / target).exists():  # no link but code, or a broken link, of which mkdocs warns
        return f"{image}[{text}]({link})"
    if (ROOT / target).is_dir():
        return text
    on_site = f"files/{target}" if _is_extra(target) else TOP_PAGES.get(target, target.removeprefix("docs/"))
    return f"{image}[{text}]({relpath(on_site, str(Path(file.src_uri).parent))}{anchor})"


def _repository_path(file: File, link: str) -> str:
    """The path from the top of the repository to what a page links to."""
    folder = "." if file.src_uri in TOP_PAGES.values() else "docs"
    return normpath(f"{folder}/{link.partition('#')[0]}")


def _is_extra(target: str) -> bool:
    """Whether it is a file of the repository that is not a page of the site."""
    return (ROOT / target).is_file() and target not in TOP_PAGES and not target.startswith("docs/")
