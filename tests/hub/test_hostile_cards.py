"""Danger: words of a stranger, in any member of `results.json`, that do more on the card than to be shown."""

import copy
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from hf_structkd.evaluation.markdown import code, escaped, fenced, table
from hf_structkd.evaluation.report import ComparisonReport
from hf_structkd.hub.describe import redescribe
from hf_structkd.hub.model_card import StudentCardData, minimal_card
from tests.hub.loopback_hub import card_errors
from tests.pages import FRONT_MATTER, Page

HOSTILE = [
    "x<script>alert(1)</script><img src=https://evil.example/a.png onerror=alert(1)>",
    "x\r\n---\r\n# Owned\r\n\r\n<script>alert(1)</script>",
    "x\r# Owned\r- item\r<script>alert(1)</script>",
    "x\n---\nlicense: mit\nbase_model: evil/model\n---\n",
    "x | y || <b>z</b> \\| `a|b` ``c`` \\",
    "```\n# Owned\n<script>alert(1)</script>\n```",
    "~~~\n````\n# Owned",
    "[x](https://evil.example) ![y](https://evil.example/b.png) <https://evil.example> https://evil.example/c "
    "www.evil.example me@evil.example [r]: https://evil.example",
    "&lt;script&gt; &#60;b&#62; <!-- x --> $x$ **b** __c__ ~~d~~ :tada:",
    "x\u2028# Owned\u2029\x85\x0b\x0c\x00\u202egnp.exe\ud800",
    "{{ 7*7 }} {% raw %} ${HOME}",
    "!!python/object/apply:os.system [ls] *a &b",
    "",
]
RESULTS: dict[str, Any] = {
    "schema_version": 1,
    "settings": {"corpus": "corpora", "nested": {"list": ["x"]}},
    "scores": {"test": {"top_wk": {"xx": {"f1": 0.5, "by_type": {"PER": {"f1": 0.5}}}, "avg": {"f1": 0.5}}}},
    "comparison": {
        "test": {
            "metric": "f1", "split": "test", "languages": ["xx"], "teachers": {"xx": 0.9}, "baseline": {"xx": 0.4},
            "students": {"top_wk": {"xx": 0.5}},
        }
    },
    "seed": 1,
    "train_sentences": {"xx": 10},
    "gold_sentences": {"xx": 5},
    "seconds": {"top_wk": 5.0},
    "versions": {"torch": "2"},
    "model": {
        "name": "tagger", "class_name": "XLMRobertaForTokenClassificationCRF", "labels": ["O", "B-PER"],
        "scheme": "BIO", "languages": ["xx"], "parameters": 3, "base_model": "org/base", "base_model_revision": "abc",
        "license": "mit", "model_id": "org/tagger", "dataset": "org/corpus", "tags": ["t"],
    },
    "teachers": [{"name": "org/t", "language": "xx", "revision": "f00d", "weight": 1.0, "score": 0.9}],
    "objective": {
        "name": "top_wk", "top_k": 3, "lambda_schedule": "linear",
        "parts": [{"name": "top_wk", "weight": 1.0, "temperature": 1.0, "temperature_mode": "local", "source": "s"}],
    },
    "hyperparameters": {"optim": "adamw", "sizes": {"a": [1]}},
    "history": [{"step": 1.0, "loss": 2.0}],
    "label_examples": {"B-PER": ["Mira"]},
    "memory": {"peak_rss_mib": 5.0, "peak_gpu_mib": 6.0},
    "energy": {"kwh": 1.0, "co2_kg": 0.1},
    "citations": ["@misc{a}"],
    "limitations": ["Not for use."],
}  # fmt: skip
Place = tuple[Any, ...]
METADATA = {
    *(
        "base_model",
        "co2_eq_emissions",
        "datasets",
        "language",
        "language_bcp47",
        "library_name",
        "license",
        "metrics",
    ),
    *("model-index", "model_name", "pipeline_tag", "tags"),
}


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every leaf, and every key as `("key", ...)` at its end, but for the version and the members' own names."""
    if isinstance(value, dict):
        for name, member in value.items():
            if name == "schema_version":
                continue
            if at:
                yield (*at, ("key", name))
            yield from places(member, (*at, name))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from places(member, (*at, index))
    else:
        yield at


def planted(place: Place, text: Any) -> dict[str, Any]:
    results = copy.deepcopy(RESULTS)
    *way, last = place
    target: Any = results
    for step in way:
        target = target[step]
    if isinstance(last, tuple):
        name = last[1]
        entries = [(text if key == name else key, member) for key, member in target.items()]
        target.clear()
        target.update(entries)
    else:
        target[last] = text
    return results


def check(markdown: str, clean: Page) -> None:
    """The page has the elements, links and headings of the clean one, or is the minimal card; its metadata is ours."""
    assert "\r" not in markdown
    assert not card_errors(markdown)
    front = FRONT_MATTER.match(markdown)
    metadata = yaml.safe_load(front[1])
    assert set(metadata) <= METADATA
    assert metadata["pipeline_tag"] == "token-classification"
    assert metadata.get("base_model") in (None, "org/base")
    page = Page(markdown)
    elements = {tag for tag, _ in page.tags}
    assert elements <= {tag for tag, _ in clean.tags} | {"code", "h1", "h2", "h3"}, elements
    assert all(not attributes for tag, attributes in page.tags if tag not in ("a", "img", "code", "th", "td")), (
        page.tags
    )
    assert set(page.links()) <= set(clean.links())
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    clean_headings = [tag for tag, _ in clean.tags if re.fullmatch("h[1-6]", tag)]
    assert headings == clean_headings or headings == ["h1"] or set(clean_headings) >= set(headings)
    assert headings.count("h1") == 1
    for rows in page.tables:
        assert {len(row) for row in rows} == {len(rows[0])}


# All at once, one that a line's beginning matters to, none; each alone is tried in all fields at once below.
@pytest.mark.slow
@pytest.mark.parametrize("text", ["\n".join(HOSTILE), HOSTILE[2], ""], ids=["all", "returns", "empty"])
def test_nothing_that_a_results_file_says_does_anything_on_its_card(text, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "hf_structkd.evaluation.plots", None)

    def card(results: dict[str, Any]) -> str:
        (tmp_path / "README.md").unlink(missing_ok=True)
        (tmp_path / "results.json").write_text(json.dumps(results))
        return redescribe(tmp_path).read_text(encoding="utf-8")

    clean = Page(card(RESULTS))
    assert len(clean.tables) >= 8
    described = 0
    for place in places(RESULTS):
        made = card(planted(place, text))
        try:
            check(made, clean)
        except AssertionError as error:
            raise AssertionError(f"{place}: {error}") from error
        described += "## Training" in made
    assert described >= 30  # a number that is text makes the minimal card, text makes a whole one
    assert all(c.isprintable() or c == "\n" for c in caplog.text)  # nor in the log, which a terminal shows


def test_the_same_words_in_every_field_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hf_structkd.evaluation.plots", None)
    for text in HOSTILE[:-1]:
        results = copy.deepcopy(RESULTS)
        for place in places(RESULTS):
            target: Any = results
            for step in place[:-1]:
                target = target[step]
            if not isinstance(place[-1], tuple) and isinstance(target[place[-1]], str) and place[-1] != "class_name":
                target[place[-1]] = text
        (tmp_path / "results.json").write_text(json.dumps(results))
        (tmp_path / "README.md").unlink(missing_ok=True)
        markdown = redescribe(tmp_path).read_text(encoding="utf-8")
        page = Page(markdown)
        assert not [tag for tag, _ in page.tags if tag in ("script", "img", "b", "strong", "del", "a")], text
        assert "Owned" not in "".join(re.findall(r"^#.*$", markdown, re.MULTILINE)[1:])


def test_a_class_that_is_none_makes_no_program():
    """Danger: the card's programs are copied and run."""
    from hf_structkd.hub.model_card import build_model_card

    for name in ("os\nimport subprocess", "X; import os", "lambda", "a b", ""):
        with pytest.raises(ValueError, match="not the name of a class"):
            build_model_card(StudentCardData("tagger", class_name=name))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_text_is_shown_as_it_is_and_nothing_else(text):
    shown = " ".join(re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202e]", " ", text).replace("\ud800", "\ufffd").split())
    for inside in ("{}", "- {}", "text {} text", "| a | b |\n| --- | --- |\n| {} | y |"):
        for made in (escaped, code):
            page = Page(inside.replace("{}", made(text)))
            assert shown in " ".join(page.text.split()), (inside, made)
            assert {tag for tag, _ in page.tags} <= {
                "p",
                "ul",
                "li",
                "code",
                "table",
                "thead",
                "tbody",
                "tr",
                "th",
                "td",
            }
    page = Page(fenced(text, "bibtex"))
    assert [tag for tag, _ in page.tags] == ["pre", "code"]


def test_what_is_no_table_is_refused():
    with pytest.raises(ValueError, match="is no row of a table"):
        table(["a", "b"], [["1"]])
    with pytest.raises(ValueError, match="is no row of a table"):
        table(["a"], [["x|y"]])


@pytest.mark.parametrize("text", HOSTILE[:-1], ids=range(len(HOSTILE) - 1))
def test_the_minimal_card_and_the_comparison_escape_too(text):
    assert [tag for tag, _ in Page(minimal_card(StudentCardData(text))).tags] == ["h1"]
    report = ComparisonReport("f1", {text: {text: 0.5}}, baseline={text: 0.4})
    page = Page(report.to_markdown())
    assert {len(row) for row in page.tables[0]} == {4}
    assert not [tag for tag, _ in page.tags if tag in ("script", "img", "a", "b", "h1")]
