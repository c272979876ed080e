"""Danger: a page about the CRF whose example does not run, or whose tables nobody measured."""

import re
import sys
from pathlib import Path

import pytest

from hf_structkd import LinearChainCRF

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "crf.md"
sys.path.insert(0, str(ROOT / "examples"))
from generated_block import write_block  # noqa: E402


def test_the_example_runs_and_the_members_exist():
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    assert names["emissions"].grad is not None
    table = text[text.index("| member |") : text.index("**Exact**")]
    members = re.findall(r"`(\w+)[(`]", "".join(line.split("|")[1] for line in table.splitlines() if "`" in line))
    assert len(members) >= 14
    assert [name for name in members if not hasattr(LinearChainCRF, name)] == []


def test_generated_blocks_are_replaced_and_missing_ones_named(tmp_path):
    """Danger: a figure written beside its marks, or over the text after them."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- begin x: by y -->\nold\n<!-- end x -->\nb\n<!-- begin x2 -->\n<!-- end x2 -->\n")
    for _ in range(2):
        write_block(page, "x", "new \\1\n")
    assert page.read_text().startswith(
        "a\n<!-- begin x: by y -->\nnew \\1\n<!-- end x -->\nb\n<!-- begin x2 -->\n<!--"
    )
    with pytest.raises(ValueError, match="begin z"):
        write_block(page, "z", "")
