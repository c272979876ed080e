"""Danger: a page about the CRF whose example does not run, or whose tables nobody measured."""

import re

import pytest

from hf_structkd import LinearChainCRF
from hf_structkd.evaluation.marked_figures import fill_file

from ..page_snippets import ROOT, programs, run_program

PAGE = "docs/crf.md"


def test_the_example_runs_and_the_members_exist():
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    (program,) = programs(PAGE)
    names = run_program(program, {})
    assert names["emissions"].grad is not None
    table = text[text.index("| member |") : text.index("**Exact**")]
    members = re.findall(r"`(\w+)[(`]", "".join(line.split("|")[1] for line in table.splitlines() if "`" in line))
    assert len(members) >= 14
    assert [name for name in members if not hasattr(LinearChainCRF, name)] == []


def test_figures_go_into_their_places_and_missing_places_are_named(tmp_path):
    """Danger: a figure written beside its marks, or over the text after them."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- results: x / y -->\nold\n<!-- end -->\nb <!-- results: z --><!-- end -->\n")
    for _ in range(2):
        fill_file(page, "x", {"x / y": "\\1 new\nlines"})
    assert page.read_text() == (
        "a\n<!-- results: x / y -->\n\\1 new\nlines\n<!-- end -->\nb <!-- results: z --><!-- end -->\n"
    )
    with pytest.raises(ValueError, match="no place for 'x'"):
        fill_file(page, "x", {"x": ""})
    with pytest.raises(ValueError, match="nothing is called 'z'"):
        fill_file(page, "z", {})
