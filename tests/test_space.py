"""Dangers: a page that shows a traceback, other numbers than the pipeline's, or a visitor's HTML; one that runs code
from the Hub that nobody allowed. The page itself is looked at in a real browser."""

import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import torch
from transformers import pipeline

from hf_structkd import Teacher
from hf_structkd.evaluation.flips import flips
from tests.conftest import WITHOUT_COMPILED_LOOPS, draw_student, space_module

pytest.importorskip("gradio", reason="needs gradio, the extra 'space'")

SPACE = Path(__file__).parents[1] / "examples" / "space"
TASK = "crf-token-classification"
TEXT = "Anna flew from Boston to Paris, said Maria Lopez."
ARABIC = "وصلت ليلى حداد من بيروت."
NAMES = ["one", "two"]
GOLD = "Anna\tB-PER\nflew\tO\nto\tO\nParis\tB-LOC\n.\tO\n\nMaria\tB-PER\nLopez\tI-PER\nsaid\tO\n"


@pytest.fixture(scope="module")
def app():
    return space_module("app")


@pytest.fixture(scope="module")
def checkpoints(labels, tokenizer, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("taggers")
    for number, name in enumerate(NAMES, start=1):
        draw_student(tokenizer, labels, number, languages=["en", "ru"]).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return [str(folder / name) for name in NAMES]


@pytest.fixture(scope="module")
def taggers(app, checkpoints):
    return app.Taggers(checkpoints)


@pytest.fixture
def tag(app, taggers):
    """What the page shows of one tagger, as HTML."""

    def answer(text=TEXT, language="any language", top_k=3, threshold=0.0, name="one") -> str:
        return app.tag(taggers, [name], text, language, top_k, threshold)[0][0]

    return answer


def told(html: str) -> str:
    """What a reader sees."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def test_the_page_says_what_the_pipeline_says(tag, checkpoints):
    html = tag()
    expected = pipeline(TASK, model=checkpoints[0])(TEXT, top_k=3, marginals=True)
    entities = html[: html.index("analyses</h4>")]
    shown = re.findall(r'title="probability ([\d.]+)"><bdi>(.*?)</bdi><small>(\S+) ', entities)
    assert [(w, t, float(p)) for p, w, t in shown] == [
        (e["word"], e["entity_group"], round(e["score"], 4)) for e in expected["entities"]
    ]
    assert len(shown) > 0
    assert re.sub(r"<small>.*?</small>|<[^>]+>", "", entities[entities.index('dir="ltr">') + 10 :]).startswith(TEXT)
    cells = [float(p) for p in re.findall(r'title="[^"]+: ([\d.]+)"', html)]
    assert cells == [round(p, 4) for word in expected["marginals"] for p in word["scores"].values()]
    assert html.count("<tr><td>") == 3


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "There is no text yet"),
        (" \n\t ", "There is no text yet"),
        ("\u200b\x07", "There is no word in this text"),
        ("a " * 5001, "This text has 5,001 words; this page tags up to 5,000"),
    ],
    ids=["empty", "spaces", "control characters", "too long"],
)
def test_what_cannot_be_tagged_is_told(tag, text, answer):
    assert told(tag(text)).startswith(answer)


def test_a_long_text_is_tagged_whole_and_its_tables_unfold(tag):
    html = tag("Anna flew to Paris. " * 160 + "Lopez")
    seen = told(html)
    assert re.findall(r"Words from (\d+) on", seen) == [str(60 * i + 1) for i in range(1, 10)]
    assert "The last 201 words are not shown here." in seen
    assert "801 words; entropy" in seen
    # the other analyses by what differs: few of hundreds of entities
    others = html[html.index('class="alternatives"') : html.index("Probability of every tag")]
    assert "entities above" in others
    assert 2 <= others.count("<mark") <= 30
    assert {"new", "gone"} & set(re.findall(r'<mark class="(\w+)"', others))


def test_an_unknown_language_is_warned_of_where_the_tagger_names_its_own(tag):
    assert "trained on en, ru, not on xx" in told(tag(language="xx"))
    for known in ("ru", "", None, "any language"):
        assert "trained on" not in told(tag(language=known))


def test_sentences_to_try_are_in_the_languages_of_the_taggers(app, taggers):
    assert taggers.languages() == ["en", "ru"]
    assert taggers.facts("one") == "trained on en, ru; finds LOC, ORG, PER"
    texts = app.examples(["ru", "pt-BR", "xx"])
    assert texts == [app.SENTENCES["pt"], app.SENTENCES["ru"]]
    assert app.examples(["xx"]) == [app.SENTENCES["en"]]


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["/a/one/student", "/b/two/student"], ["one/student", "two/student"]),
        (["/home/me/tagger"], ["tagger"]),
        (["org/tagger", "runs/x/student"], ["org/tagger", "student"]),
    ],
)
def test_no_tagger_is_called_by_its_path(app, places, names):
    assert app.Taggers(places).names == names


def test_what_a_visitor_types_stays_text(app, taggers, tag):
    attack = '<script>alert(1)</script> "Anna" <img src=x onerror=alert(2)>'
    for html in (tag(attack), tag(name=attack), app.compared(taggers, "one", "two", f"{attack}\tO\nAnna\tB-PER")):
        assert "<script" not in html
        assert "<img" not in html


def test_hidden_entities_are_counted(tag):
    assert re.search(r"[1-9]\d* below the threshold of 1 not marked", told(tag(threshold=1.0)))


def test_a_checkpoint_that_is_not_there_is_named_without_its_path(app, tmp_path):
    missing = app.Taggers([str(tmp_path / "a" / "nothing")])
    (said,), _ = app.tag(missing, missing.names, TEXT, None, 1, 0.0)
    assert "nothing could not be loaded" in told(said)
    assert str(tmp_path) not in said


def test_where_two_taggers_differ_is_listed(app, taggers, checkpoints):
    shown, differences = app.tag(taggers, NAMES, TEXT, None, 2, 0.0)
    found = [
        {(e["entity_group"], e["word"], round(e["score"], 4)) for e in pipeline(TASK, model=name)(TEXT)["entities"]}
        for name in checkpoints
    ]
    places = [{entity[:2] for entity in own} for own in found]
    listed = re.findall(r'title="probability ([\d.]+)"><bdi>(.*?)</bdi><small>(\S+) ', differences)
    expected = {entity for own, other in zip(found, places[::-1]) for entity in own if entity[:2] not in other}
    assert {(kind, word, float(p)) for p, word, kind in listed} == expected
    assert expected
    assert "find the same" in app.tag(taggers, ["one", "one"], TEXT, None, 2, 0.0)[1]
    assert len(shown) == 2


def test_the_table_of_flips_counts_what_the_package_counts(app, taggers, checkpoints):
    """Danger: the page says that an update loses nothing."""
    sentences = [["Anna", "flew", "to", "Paris", "."], ["Maria", "Lopez", "said"]]
    teachers = [Teacher.from_pretrained(place) for place in checkpoints]
    old, new = (teacher.tag(sentences) for teacher in teachers)
    for gold in (old, new):  # one tagger has all of it right
        text = "\n\n".join("\n".join(f"{w}\t{t}" for w, t in zip(*row)) for row in zip(sentences, gold))
        whole, expected = flips(old, new, gold).values()
        seen = told(app.compared(taggers, "one", "two", text))
        for row in ("number", "right_before", "right_now"):
            assert f"{row.replace('_', ' ')} {whole[row]} {expected[row]} " in seen
        shares = [f"{count['lost']} of {count['right_before']}" for count in (whole, expected)]
        assert re.search(rf"lost {shares[0]}( \([\d.]+ %\))? {shares[1]} ", seen)
        assert seen.count(" gold ") == (expected["lost"] > 0) + (expected["gained"] > 0)
    assert expected["gained"]


def test_gold_tags_without_prefixes_are_compared_word_by_word(app, labels, tokenizer, checkpoints, tmp_path):
    """Danger: an entity of two words becomes one tag, and the page ends in a traceback; or lists other words."""
    long = draw_student(tokenizer, labels, 1)
    with torch.no_grad():
        long.classifier.bias[labels.index("I-PER")] += 20  # finds entities of several words
    long.save_pretrained(tmp_path / "long")
    tokenizer.save_pretrained(tmp_path / "long")
    places = [str(tmp_path / "long"), checkpoints[1]]
    taggers = app.Taggers(places)
    sentences = [["Anna", "flew", "to", "Paris", "."], ["Maria", "Lopez", "said"]]
    tagged = [Teacher.from_pretrained(place).tag(sentences) for place in places]
    assert any(tag.startswith("I-") for rows in tagged for row in rows for tag in row), "no entity of two words"
    answers = [[[tag.split("-", 1)[-1] for tag in row] for row in rows] for rows in tagged]
    for gold in answers:
        text = "\n\n".join("\n".join(f"{w}\t{t}" for w, t in zip(*row)) for row in zip(sentences, gold))
        seen = told(app.compared(taggers, "long", "two", text))
        expected = flips(*answers, gold, "plain")["words"]
        before, now = (f"{expected[name]:,}" for name in ("right_before", "right_now"))
        assert re.search(rf"right before [\d,]+ {before} right now [\d,]+ {now} ", seen)
        assert seen.count(" gold ") == (expected["lost"] > 0) + (expected["gained"] > 0)
    html = app.compared(taggers, "long", "two", text)
    assert len(re.findall(r"<tr><td dir", html)) == expected["lost"] + expected["gained"] > 0


@pytest.mark.parametrize("gold", ["NOUN", "O", "PER", "I-PER", "S-PER", "U-PER", "B-PER"])
def test_gold_tags_of_any_scheme_are_compared(app, taggers, gold):
    assert told(app.compared(taggers, "one", "two", f"Anna\t{gold}\nflew\tO")).startswith("From one to two")


def test_what_the_threshold_hides_is_no_difference(app, taggers):
    """Danger: the table of differences holds entities that neither text has marked."""
    (left, right), differences = app.tag(taggers, NAMES, TEXT, None, 2, 0.5)
    marks = [set(re.findall(r"<mark style.*?</mark>", html[: html.index("analyses</h4>")])) for html in (left, right)]
    listed = set(re.findall(r"<mark style.*?</mark>", differences))
    assert listed <= marks[0] | marks[1]
    hidden = sum(int(re.search(r"(\d+) below the threshold", told(html))[1]) for html in (left, right))
    assert f"{hidden} below the threshold of 0.5 count as not found" in told(differences)
    _, differences = app.tag(taggers, NAMES, TEXT, None, 2, 1.0)
    assert "find the same" in differences


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "There are no sentences yet"),
        ("Anna\tB-PER\nflew", "the sentences.conll:2: 1 column(s)"),
        ("word\tO\n" * 20001, "These sentences have 20,001 words"),
    ],
    ids=["empty", "broken", "too long"],
)
def test_what_cannot_be_compared_is_told(app, taggers, text, answer):
    seen = told(app.compared(taggers, "one", "two", text))
    assert seen.startswith(answer)
    assert "/tmp" not in seen


def test_a_type_has_one_colour_and_plain_tags_are_not_called_entities(app, tmp_path, checkpoints, tokenizer):
    """Danger: a reader takes the two taggers' colours for the same types, or words' tags for entities."""
    for name, labels in (("types", ["O", "B-AGE", "I-AGE", "B-PER", "I-PER"]), ("pos", ["NOUN", "VERB"])):
        draw_student(tokenizer, labels, 1).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    both = app.Taggers([str(tmp_path / "types"), checkpoints[0]])
    shown, differences = app.tag(both, both.names, "Anna flew to Paris. " * 3, None, 4, 0.0)
    pattern = r'--hue: (\d+)" title="[^"]*"><bdi>.*?</bdi><small>(\S+) '
    colours = {pair[::-1] for html in (*shown, differences) for pair in re.findall(pattern, html)}
    assert len(colours) == len({kind for kind, _ in colours}) > 2
    plain = app.Taggers([str(tmp_path / "pos")])
    (html,), _ = app.tag(plain, plain.names, "Anna flew to Paris. " * 5, None, 4, 0.0)
    assert "probability that the word has this tag" in told(html)
    assert not re.search("entit", told(html), re.IGNORECASE)


@pytest.mark.slow
def test_code_of_a_checkpoint_runs_only_when_it_is_allowed(app, checkpoints, tmp_path):
    # The danger: a page set up with a stranger's checkpoint runs the stranger's code.
    trace = tmp_path / "trace"
    place = str(shutil.copytree(checkpoints[0], tmp_path / "mine"))
    code = Path(place) / "configuration.py"
    code.write_text(f"open({str(trace)!r}, 'w').close()\n" + code.read_text(encoding="utf-8"), encoding="utf-8")
    assert "Probability of every tag" in app.tag(app.Taggers([place]), ["mine"], TEXT, None, 2, 0.0)[0][0]
    assert not trace.exists()

    program = (  # in a process that has not the package's own code yet
        "import sys, app\n"
        f"print(app.tag(app.Taggers([{place!r}], True), ['mine'], {TEXT!r}, '', 2, 0.0)[0][0])\n"
        "print('imported', 'hf_structkd' in sys.modules)"
    )
    env = {**os.environ, **WITHOUT_COMPILED_LOOPS, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    env["HF_HOME"] = str(tmp_path / "home")
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=SPACE, capture_output=True, text=True, timeout=120
    )
    assert "Probability of every tag" in done.stdout, done.stdout + done.stderr[-2000:]
    assert trace.exists()
    assert done.stdout.endswith("imported False\n")


@pytest.mark.parametrize("score", [1.0, 0.99951, 0.9949, 0.5, 0.0949, 0.0005, 3e-9])
def test_a_probability_is_never_shown_as_another(app, score):
    shown = importlib.import_module("rendering").probability(score)
    value = float(shown.removesuffix(" %")) / (100 if shown.endswith("%") else 1)
    assert value == pytest.approx(score, rel=0.06, abs=0)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, the extra 'dev'")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(names)} is installed")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize(("setting", "trusted"), [("", False), ("0", False), ("1", True), ("false", None)])
def test_code_of_strangers_runs_only_where_the_variable_says_so(app, monkeypatch, capsys, setting, trusted):
    """Danger: TRUST_REMOTE_CODE=false, as every other program reads it, and a stranger's code is run."""
    asked = []

    def taggers(names, trust):
        asked.append(trust)
        raise SystemExit(0)

    monkeypatch.setattr(app, "Taggers", taggers)
    monkeypatch.setattr(sys, "argv", ["app.py", "some/tagger"])
    monkeypatch.setenv("TRUST_REMOTE_CODE", setting)
    with pytest.raises(SystemExit):
        app.main()
    assert asked == ([] if trusted is None else [trusted])
    assert ("TRUST_REMOTE_CODE is 1 or 0, not 'false'" in capsys.readouterr().err) == (trusted is None)


@pytest.fixture(scope="module")
def address(checkpoints):
    """A running page with two taggers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TAGGERS": ",".join(checkpoints),
        "TRUST_REMOTE_CODE": "0", "GRADIO_SERVER_PORT": str(port),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(SPACE / "app.py")], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "Running on local URL" in line:
            break
    else:
        raise AssertionError("".join(lines))
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)


def overlapping(page) -> list[str]:
    """Pairs of shown labels, fields and buttons that lie over each other: a label over an arrow, a number cut off."""
    return page.evaluate(
        """() => {
          const shown = [...document.querySelectorAll("label > span, input, textarea, button, .icon-wrap, .icon")]
            .filter(one => one.checkVisibility() && one.getBoundingClientRect().width > 1);
          const bad = [];
          for (const [i, one] of shown.entries()) for (const other of shown.slice(i + 1)) {
            if (one.contains(other) || other.contains(one)) continue;
            const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
            const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            const pad = one.matches("input") ? parseFloat(getComputedStyle(one).paddingRight) : 0;
            const arrow = other.matches(".icon, .icon-wrap") && b.left >= a.right - pad - 1;
            if (wide > 2 && high > 2 && !arrow)
              bad.push(`${one.tagName}.${one.className} ${one.textContent} / ${other.tagName}.${other.className}`);
          }
          for (const one of shown) if (one.matches("input") && one.scrollWidth > one.clientWidth + 1)
            bad.push(`cut: ${one.value}`);
          // Text is cut where its block ends. Names in fields and long tables scroll; they are no spans of a slider.
          for (const block of document.querySelectorAll(".block")) for (const one of block.querySelectorAll("span")) {
            const [outer, inner] = [block.getBoundingClientRect(), one.getBoundingClientRect()];
            if (one.checkVisibility() && inner.width > 1 && inner.right > outer.right + 1)
              bad.push(`over the edge: ${one.textContent}`);
          }
          return bad;
        }"""
    )


@pytest.mark.slow
@pytest.mark.parametrize("width", [1300, 390], ids=["wide", "narrow"])
def test_in_a_browser(browser, address, checkpoints, width):
    """Opened by a link; then tagged, shared, compared."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    query = urlencode({"text": TEXT, "left": "two", "right": "one"})
    page.goto(f"{address}/?{query}", wait_until="domcontentloaded")
    left, right = page.locator("#left-answer"), page.locator("#right-answer")
    for name, column in zip(reversed(checkpoints), (left, right)):
        column.locator(".heat-map").wait_for(timeout=60_000)
        expected = pipeline(TASK, model=name)(TEXT, top_k=4)
        marks = column.locator(".text mark")
        assert marks.locator("bdi").all_inner_texts() == [e["word"] for e in expected["entities"]]
        assert marks.evaluate_all("all => all.map(one => one.title)") == [
            f"probability {e['score']:.4f}" for e in expected["entities"]
        ]
        assert column.locator(".alternatives tr").count() == 4
    assert left.locator(".text").inner_text() != right.locator(".text").inner_text()
    assert page.locator("#differences mark").count() > 0
    # the darker the likelier
    shades = left.locator(".heat-map tbody tr").first.locator("td").evaluate_all(
        "all => all.map(one => [parseFloat(one.title.split(': ').pop()),"
        " getComputedStyle(one).backgroundColor.match(/[\\d.]+(?=\\))/)[0] * 1])"
    )  # fmt: skip
    ordered = sorted(shades)
    assert [shade for _, shade in ordered] == sorted(shade for _, shade in ordered)
    assert ordered[0][1] < ordered[-1][1]

    page.locator("#options button").first.click()
    page.locator("#options input[type=number]").first.wait_for()
    assert overlapping(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert not any(place in page.content() for place in checkpoints)

    def tag(text: str) -> None:
        page.locator("#text textarea").fill(text)
        page.locator("#tag").click()

    tag(ARABIC)
    left.get_by_text("بيروت").first.wait_for()
    assert left.locator(".text").evaluate("one => getComputedStyle(one).direction") == "rtl"
    assert page.locator("#text textarea").evaluate("one => getComputedStyle(one).unicodeBidi") == "plaintext"
    page.locator("#share").click()
    link = page.locator("#link textarea")
    link.wait_for()
    carried = {"text": [ARABIC], "left": ["two"], "right": ["one"]}
    assert parse_qs(urlsplit(link.input_value()).query) == parse_qs(urlsplit(page.url).query) == carried
    page.locator("#text textarea").fill("é" * 1400)
    page.locator("#share").click()
    page.get_by_text("The text is too long for a link").first.wait_for()

    tag("   ")
    left.get_by_text("There is no text yet").wait_for()
    page.locator("#right input").click()
    page.get_by_role("option", name="none", exact=True).click()
    tag(TEXT)
    left.get_by_text("Boston").first.wait_for()
    right.wait_for(state="hidden")

    page.get_by_role("tab", name="Compare on gold tags").click()
    page.locator("#gold textarea").fill(GOLD)
    page.locator("#right input").click()
    page.get_by_role("option", name="one", exact=True).click()
    page.locator("#compare").click()
    page.locator("#flips").get_by_text("From two to one").wait_for()
    assert page.locator("#flips .flips").first.locator("tbody tr").count() == 5
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert errors == []
    assert page.get_by_text("Error", exact=True).count() == 0
    page.close()
