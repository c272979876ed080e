"""Dangers: a page that GitHub shows otherwise than it was meant, and a table whose cells are not the results' own."""

from __future__ import annotations

import importlib
import json
import os
import re
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

import hf_structkd
from hf_structkd.cli import COMMANDS
from tests.pages import COMMENT, FRONT_MATTER, Page, cells_of, render, source_tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(
            path
            for folder in ("docs", "examples", "experiments", "benchmarks", "model_cards")
            for path in (ROOT / folder).rglob("*.md")
        ),
    ]
)
pages = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
MARK = re.compile(r"<!-- results: (.*?) -->(.*?)<!-- end -->", re.DOTALL)


def outside_code(markdown: str) -> Page:
    """A page whose code, in blocks and in lines, shows nothing: there a comment or a pipe may be meant."""
    page = Page(markdown)
    shown = re.sub(r"<(pre|code)\b.*?</\1>", "", render(markdown), flags=re.DOTALL)
    page.text = re.sub(r"<[^>]*>", "", COMMENT.sub("", shown))
    return page


@pages
def test_a_page_shows_no_comment_and_no_stray_pipe(path):
    text = path.read_text(encoding="utf-8")
    page = outside_code(text)
    for stray in ("&lt;!--", "--&gt;", "results:", "|"):
        assert stray not in page.text, f"{stray!r} is shown: {page.text[max(0, page.text.find(stray) - 80) :][:200]}"
    # A line that begins with a comment is HTML to its end: Markdown behind it is shown as it was typed.
    for line in FRONT_MATTER.sub("", text).split("\n"):
        if line.startswith("<!--"):
            assert not COMMENT.sub("", line).strip(), line


@pages
def test_every_table_of_a_page_is_shown_with_all_its_cells(path):
    """GitHub shows no table whose rule has other cells than its header, and drops cells that a row has too many."""
    text = path.read_text(encoding="utf-8")
    written, shown = source_tables(text), Page(text).tables
    assert len(shown) == len(written), "a table is shown as text"
    for lines, rows in zip(written, shown):
        for line in lines:
            assert cells_of(line) == len(rows[0]), f"{line} has {cells_of(line)} cells, its table {len(rows[0])}"
        assert len(rows) == len(lines) - 1


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


@cache
def runs(grid: str) -> dict[str, dict[int, dict]]:
    """cell -> seed -> record, as committed."""
    found: dict[str, dict[int, dict]] = {}
    for record in lines_of(RESULTS / grid / "runs.jsonl"):
        if "cell" in record:
            found.setdefault(record["cell"], {})[record["seed"]] = record
    return found


@cache
def summary(grid: str) -> dict:
    return json.loads((RESULTS / "summary.json").read_text(encoding="utf-8"))[grid]


def scores(grid: str, cell: str, language: str = "avg", split: str = "test") -> list[float]:
    return [
        record["scores"][split][language][record["metric"]]
        for record in (own for _, own in sorted(runs(grid)[cell].items()))
    ]


def shown_score(values: list[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(set(values)) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread}"


def teachers_score(grid: str, name: str | None = None) -> float:
    """Of a set of teachers; by default of the grid's first."""
    sets = yaml.safe_load((RESULTS.parent / "grids" / f"{grid}.yaml").read_text(encoding="utf-8"))["teacher_sets"]
    name = name or next(iter(sets))
    (record,) = (own for own in lines_of(RESULTS / grid / "runs.jsonl") if own.get("teacher_set") == name)
    return record["scores"]["test"]["avg"][record["metric"]]


def baseline(grid: str) -> str:
    """The one that no difference is given for."""
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    block = re.search(rf"<!-- results: {grid} -->(.*?)<!-- end -->", text, re.DOTALL)[1]
    return re.search(r"^\| `([^`]*)` \(baseline\)", block, re.MULTILINE)[1]


def shown_gap(grid: str, cell: str) -> str:
    own, base = runs(grid)[cell], runs(grid)[baseline(grid)]
    seeds = [seed for seed in own if seed in base]
    mean = {
        name: statistics.fmean(r[seed]["scores"]["test"]["avg"][r[seed]["metric"]] for seed in seeds)
        for name, r in (("own", own), ("base", base))
    }
    share = (mean["own"] - mean["base"]) / (teachers_score(grid) - mean["base"])
    interval = summary(grid)[cell]["gap"]
    assert interval["estimate"] == pytest.approx(share, abs=1e-4)  # scores are kept to 7 digits, counts exactly
    if interval["low"] is None:
        return f"{100 * share:.0f} %"
    assert interval["low"] < share < interval["high"]
    return f"{100 * share:.0f} % [{100 * interval['low']:.0f}, {100 * interval['high']:.0f}]"


def claimed(mark: str) -> str:
    """What stands at a mark, computed anew from the committed results of single runs."""
    grid, *rest = mark.split(" / ")
    cell, what = (rest[0], rest[-1]) if len(rest) > 1 else (rest[0], "name")
    if cell.startswith("teachers"):
        return f"{100 * teachers_score(grid, cell.removeprefix('teachers').strip() or None):.2f}"
    cell = baseline(grid) if cell == "baseline" else cell
    if what == "name":
        return cell
    return {
        "score": lambda: shown_score(scores(grid, cell)),
        "dev": lambda: shown_score(scores(grid, cell, split="dev")),
        "gap": lambda: shown_gap(grid, cell),
        "seeds": lambda: str(len(runs(grid)[cell])),
    }[what]()


def marks_of_grids(document: Path) -> list[tuple[str, str]]:
    """Marked places outside of code that are filled from the committed results of grids, and what stands there."""
    text = re.sub(r"^```.*?^```|`<!--[^`\n]*`", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    grids = {folder.name for folder in RESULTS.glob("*/")}
    return [(mark, content) for mark, content in MARK.findall(text) if mark.split(" / ")[0] in grids]


WITH_FIGURES = [path.relative_to(ROOT).as_posix() for path in PAGES if marks_of_grids(path)]


def test_the_command_that_fills_the_pages_names_all_of_them():
    """Danger: a page is left out when results are made anew, and its figures grow old in silence."""
    assert {"README.md", "RESULTS.md", "docs/evidence.md", "docs/objectives.md"} <= set(WITH_FIGURES)
    for page in ("RESULTS.md", "docs/experiments.md"):
        commands = re.findall(r"--update ((?:[\w/.]+\.md ?)+)", (ROOT / page).read_text(encoding="utf-8"))
        assert [set(command.split()) for command in commands] == [set(WITH_FIGURES)], page


@pytest.mark.parametrize("document", WITH_FIGURES)
def test_the_cells_of_marked_tables_are_the_results_own(document):
    """Compared in what is shown, not in the source: a pipe inside a marker moved every cell to its right."""
    text = (ROOT / document).read_text(encoding="utf-8")
    shown = Page(text).tables
    compared = 0
    number, row, above = -1, 0, ""
    for line in text.split("\n"):
        if line.startswith("|"):
            begins = not above.startswith("|")
            number, row = (number + 1, 0) if begins else (number, row + 1)
            marks = MARK.findall(line)
            if marks:
                cells = re.split(r"(?<!\\)\|", re.sub(r"<!-- results: (.*?) -->.*?<!-- end -->", r"{\1}", line))[1:-1]
                for column, cell in enumerate(cells):
                    # the rule below the header is no row that is shown
                    if mark := re.fullmatch(r"\s*\{(.*)\}\s*", cell):
                        assert shown[number][row - 1][column] == claimed(mark[1]), mark[1]
                        compared += 1
                assert sum("{" in cell for cell in cells) == len(marks)
        above = line
    for mark, content in MARK.findall(re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)):
        if " / " in mark and mark.split(" / ")[0] in {folder.name for folder in RESULTS.glob("*/")}:
            assert content.strip("`") == claimed(mark), mark
            compared += 1
    assert compared == sum(" / " in mark for mark, _ in marks_of_grids(ROOT / document)) >= 10


@pytest.mark.parametrize("grid", sorted(folder.name for folder in RESULTS.glob("*/")))
def test_the_table_of_a_grid_shows_every_cell_as_its_runs_have_it(grid):
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    block = re.search(rf"<!-- results: {grid} -->(.*?)<!-- end -->", text, re.DOTALL)[1]
    header, *rows = Page(block).tables[0]
    languages = header[2 : header.index("difference")]
    by_name = {row[0].removesuffix(" (baseline)"): dict(zip(header, row)) for row in rows}
    assert set(runs(grid)) == {name for name in by_name if not name.startswith("teachers ")}
    for name, own in runs(grid).items():
        row = by_name[name]
        assert row["seeds"] == str(len(own))
        for language in languages:
            assert row[language] == shown_score(scores(grid, name, language)), (name, language)
        if row["gap closed"]:
            assert row["gap closed"] == shown_gap(grid, name)
            assert ("[" in row["gap closed"]) == (len(own) > 1), "an interval out of one seed"
    for name in by_name:
        if name.startswith("teachers "):
            assert by_name[name]["avg"] == f"{100 * teachers_score(grid, name.removeprefix('teachers ')):.2f}"


def test_the_tables_of_plans_are_those_of_their_kept_scores():
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    shown = {mark.removeprefix("plan "): content for mark, content in MARK.findall(text) if mark.startswith("plan ")}
    kept = {
        file.stem: json.loads(file.read_text("utf-8")) for file in RESULTS.glob("*.json") if file.stem != "summary"
    }
    assert shown.keys() == kept.keys()
    for plan, content in shown.items():
        header, *rows = Page(content).tables[0]
        assert header[1:] == list(kept[plan]["steps"])
        for what, *cells in rows:
            for cell, values in zip(cells, kept[plan]["steps"].values()):
                own = values.get(what, [])
                spread = f" ± {statistics.stdev(own):.2f}" if len(own) > 1 else ""
                assert cell == (f"{statistics.fmean(own):.2f}{spread}" if own else "")


@pytest.mark.parametrize("folder", sorted((ROOT / "model_cards").iterdir()), ids=lambda folder: folder.name)
def test_the_cells_of_a_card_are_its_results_own(folder):
    page = Page((folder / "README.md").read_text(encoding="utf-8"))
    read = [json.loads((folder / "results.json").read_text(encoding="utf-8")), *lines_of(folder / "runs.jsonl")]
    table = next(rows for rows in page.tables if rows[0][-1] == "gap closed")
    languages = table[0][1:-2]
    assert [row[0] for row in table[1:]] == ["teachers", "baseline", read[0]["objective"]["name"]]
    for row in table[1:]:
        compared = [run["comparison"]["test"] for run in read]
        own = [report.get(row[0]) or report["students"][row[0]] for report in compared]
        for language, cell in zip(languages, row[1:]):
            assert cell == shown_score([scores[language] for scores in own]), (row[0], language)
        averages = [statistics.fmean(scores[language] for language in languages) for scores in own]
        assert row[-2] == shown_score(averages)
    facts = dict(next(rows for rows in page.tables if rows[1][0] == "base model")[1:])
    assert facts["training sentences"] == ", ".join(f"{k} {n:,}" for k, n in read[0]["train_sentences"].items())
    labels = next(rows for rows in page.tables if rows[0] == ["id", "label"])
    assert [row[1] for row in labels[1:]] == read[0]["model"]["labels"]


def test_a_marker_with_a_pipe_is_refused(monkeypatch):
    from hf_structkd.evaluation.markdown import fill, key

    with pytest.raises(ValueError, match=r"breaks tables at its pipes"):
        fill("<!-- results: tiny | none | score --><!-- end -->", {}, {"tiny"})
    assert key("tiny", "top_k, K = 1", "score") == "tiny / top_k, K = 1 / score"
    for name in ("a|b", "a -->", "a / b", "a\nb", " a"):
        with pytest.raises(ValueError, match="cannot be the name of results"):
            key("tiny", name, "score")
    # a place at the beginning of a line is one of HTML, and what it holds must not stand on it
    assert fill("<!-- results: t --><!-- end -->", {"t": "**b**"}, {"t"}).split("\n")[1] == "**b**"


# Danger: a link of a page or a notebook that leads nowhere; `make docs` checks those of the site.


LINKED_PAGES = [
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


@pytest.mark.parametrize("path", LINKED_PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
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


@pytest.mark.parametrize("path", LINKED_PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
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
    assert {ROOT / name for name in listed} <= set(LINKED_PAGES)
    assert len(LINKED_PAGES) > 20


# Danger: a page names a file, a module or a command that has moved, and a reader's first try fails.


TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
if not TRACKED[0]:  # a copy without its history
    TRACKED = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.*") if "build" not in path.parts]
OF_THE_PAST = "CHANGELOG.md"  # its glossary names what was there before
SUFFIXES = (".md", ".yaml", ".py", "Makefile", ".toml", ".cfg")
FOLDERS = r"(?:hf_structkd|examples|experiments|benchmarks|docs|model_cards|tests)"


def is_page(path: str) -> bool:
    """Pages, recipes with their comments, measuring scripts with their docstrings, settings of tools."""
    if path == OF_THE_PAST or path.startswith(("model_cards/", "tests/", "hf_structkd/", "experiments/results/")):
        return False
    return path.endswith(SUFFIXES)


ENTRY_POINT_GROUPS = {
    name
    for path in TRACKED
    if path.startswith("hf_structkd/") and path.endswith(".py")
    for name in re.findall(r'^ENTRY_POINT_GROUP = "(.*)"', (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
}


NAMING_PAGES = [path for path in TRACKED if is_page(path)]


@pytest.fixture(params=NAMING_PAGES)
def text(request) -> str:
    return (ROOT / request.param).read_text(encoding="utf-8")


def test_the_pages_are_found():
    assert {"README.md", "docs/testing.md", "examples/recipes/paper/README.md", "pyproject.toml"} <= set(NAMING_PAGES)


def test_files_that_a_page_names_are_there(text):
    for path in re.findall(rf"(?<![\w./:-]){FOLDERS}/[\w/.-]+\.\w+", text):
        placeholder = re.search(r"[A-Z]{3,}[\w-]*\.(yaml|json|npz)$|/results\b", path)
        assert placeholder or (ROOT / path).exists(), path
    names = {Path(path).name for path in TRACKED}
    for name in re.findall(r"(?<![\w./*{}-])([a-z]\w*\.py)\b", text):
        assert name in names, f"no file is called {name}"


def test_modules_that_a_page_names_can_be_imported(text):
    for name in set(re.findall(r"\bhf_structkd(?:\.[a-z_]+)+\b", text)) - ENTRY_POINT_GROUPS:
        module, found = name.split("."), None
        while found is None and module:
            try:
                found = importlib.import_module(".".join(module))
            except ModuleNotFoundError:
                module.pop()
        for attribute in name.split(".")[len(module) :]:
            assert hasattr(found, attribute), name
            found = getattr(found, attribute)


def test_commands_that_a_page_names_are_there(text):
    for module in re.findall(r"python -m ((?:experiments|benchmarks|tests|hf_structkd)\b[\w.]*)", text):
        path = ROOT / module.rstrip(".").replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for verb in re.findall(r"(?:^|`|-m hf_|/)structkd +([a-z_]+)", text, re.MULTILINE):
        assert verb in COMMANDS, f"structkd {verb}"


def test_what_mutation_testing_is_told_is_there():
    told = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.mutmut]")[2]
    for path in re.findall(r'"(?:--deselect=)?((?:hf_structkd|tests)/[\w/]+\.py)', told):
        assert (ROOT / path).exists(), path
    for path, test in re.findall(r"--deselect=([\w/.]+)::(\w+)", told):
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Danger: a site that does not build, lacks a public name, loads from elsewhere, or cannot be searched."""
    for library in ("material", "mkdocstrings"):
        pytest.importorskip(library, reason="the site needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    # without -q, which would keep warnings from counting as errors
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_every_public_name_is_in_the_reference_with_its_docstring(site):
    pages = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    for name in set(hf_structkd.__all__) - {"__version__"}:
        identifier = f"hf_structkd.{hf_structkd._MODULES[name]}.{name}"
        assert f'id="{identifier}"' in pages, f"{name} has no place in the reference"
        assert getattr(hf_structkd, name).__doc__, f"{name} has no docstring"
        summary = getattr(hf_structkd, name).__doc__.split("\n")[0].split("`")[0].split("[")[0].strip()
        assert summary[:40].replace("'", "&#39;") in pages or summary[:40] in pages, name


@pytest.mark.slow
def test_links_and_pictures_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.findall(r'(?:<script[^>]*src|<link[^>]*href|<img[^>]*src)="https?:', html), page
        if page.name == "404.html":
            continue  # it is served for any address, so its links are absolute
        for link in re.findall(r'(?:href|src)="(?!https?:|mailto:|data:|javascript:|#)([^"#?]+)', html):
            assert (page.parent / link).exists(), f"{page.relative_to(site)}: {link}"
    assert (site / "search" / "search_index.json").exists()


@pytest.mark.slow
def test_formulas_are_shown_and_their_paragraphs_stay_whole(site):
    html = (site / "structure.html").read_text(encoding="utf-8")
    assert html.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') == 9
    assert "$" not in re.sub(
        r"<(code|script|style)\b.*?</\1>", "", html[html.index("<article") : html.index("</article>")], flags=re.DOTALL
    )
    # a formula at the start of a line was taken for a block, and cut its paragraph in two
    assert re.search(r"<p><span><math[^>]*>.*?</math></span> sums over exponentially many", html, re.DOTALL)
