"""Danger: a site that does not build, lacks a public name, loads something from elsewhere, or cannot be searched."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_structkd

pytest.importorskip("material", reason="the site needs the extra `docs`")
pytest.importorskip("mkdocstrings", reason="the site needs the extra `docs`")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
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
