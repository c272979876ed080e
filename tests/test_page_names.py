"""Danger: a page names a file, a module or a command that has moved, and a reader's first try fails."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path

import pytest

from hf_structkd.cli import COMMANDS

ROOT = Path(__file__).parents[1]
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
PAGES = [path for path in TRACKED if is_page(path)]


@pytest.fixture(params=PAGES)
def text(request) -> str:
    return (ROOT / request.param).read_text(encoding="utf-8")


def test_the_pages_are_found():
    assert {"README.md", "docs/testing.md", "examples/recipes/paper/README.md", "pyproject.toml"} <= set(PAGES)


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
