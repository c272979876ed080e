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

import pytest
from transformers import pipeline

from tests.conftest import space_module

pytest.importorskip("gradio", reason="needs gradio, the extra 'space'")

SPACE = Path(__file__).parents[1] / "examples" / "space"
TASK = "crf-token-classification"
TEXT = "Anna flew from Boston to Paris, said Maria Lopez."
ARABIC = "وصلت ليلى حداد من بيروت."
OPTIONS = {"language": "any language", "top_k": 3, "threshold": 0.0}


@pytest.fixture(scope="module")
def app():
    return space_module("app")


@pytest.fixture
def checkpoints(make_student, tokenizer, tmp_path) -> list[str]:
    for number, name in enumerate(("one", "two"), start=1):
        make_student(number, languages=["en", "ru"]).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return [str(tmp_path / "one"), str(tmp_path / "two")]


@pytest.fixture
def taggers(app, checkpoints):
    return app.Taggers(checkpoints)


def told(html: str) -> str:
    """What a reader sees."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def test_the_page_says_what_the_pipeline_says(taggers, checkpoints):
    html = taggers.answer(checkpoints[0], TEXT, **OPTIONS)
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
def test_what_cannot_be_tagged_is_told(taggers, checkpoints, text, answer):
    assert told(taggers.answer(checkpoints[0], text, **OPTIONS)).startswith(answer)


def test_a_long_text_is_tagged_whole_and_its_heat_map_says_where_it_ends(taggers, checkpoints):
    seen = told(taggers.answer(checkpoints[0], "Anna flew to Paris. " * 80 + "Lopez", **OPTIONS))
    assert "The first 60 of 401 words" in seen
    assert "401 words; entropy" in seen


def test_an_unknown_language_is_warned_of_where_the_tagger_names_its_own(taggers, checkpoints):
    warning = "trained on en, ru, not on xx"
    assert warning in told(taggers.answer(checkpoints[0], TEXT, **{**OPTIONS, "language": "xx"}))
    for known in ("ru", "", None, "any language"):
        assert "trained on" not in told(taggers.answer(checkpoints[0], TEXT, **{**OPTIONS, "language": known}))


def test_what_a_visitor_types_stays_text(taggers, checkpoints):
    attack = '<script>alert(1)</script> "Anna" <img src=x onerror=alert(2)>'
    html = taggers.answer(checkpoints[0], attack, **OPTIONS)
    assert "<script" not in html
    assert "<img" not in html
    assert taggers.answer(attack, TEXT, **OPTIONS).count("<script") == 0  # a name that the list has not


def test_hidden_entities_are_counted(taggers, checkpoints):
    seen = told(taggers.answer(checkpoints[0], TEXT, **{**OPTIONS, "threshold": 1.0}))
    assert re.search(r"[1-9]\d* below the threshold of 1 not marked", seen)


def test_a_checkpoint_that_is_not_there_is_named(app, tmp_path):
    missing = str(tmp_path / "nothing")
    assert "nothing could not be loaded" in told(app.Taggers([missing]).answer(missing, TEXT, **OPTIONS))


@pytest.mark.slow
def test_code_of_a_checkpoint_runs_only_when_it_is_allowed(app, checkpoints, tmp_path):
    # The danger: a page set up with a stranger's checkpoint runs the stranger's code.
    trace = tmp_path / "trace"
    code = Path(checkpoints[0]) / "configuration.py"
    code.write_text(f"open({str(trace)!r}, 'w').close()\n" + code.read_text(encoding="utf-8"), encoding="utf-8")
    assert "Probability of every tag" in app.Taggers(checkpoints).answer(checkpoints[0], TEXT, **OPTIONS)
    assert not trace.exists()

    program = (  # in a process that has not the package's own code yet
        "import sys, app\n"
        f"print(app.Taggers([{checkpoints[0]!r}], True).answer({checkpoints[0]!r}, {TEXT!r}, '', 2, 0.0))\n"
        "print('imported', 'hf_structkd' in sys.modules)"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
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


@pytest.fixture
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


@pytest.fixture
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


@pytest.mark.slow
def test_in_a_browser(browser, address, checkpoints):
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address, wait_until="domcontentloaded")
    left, right = page.locator("#left-answer"), page.locator("#right-answer")

    # It opens with an answer, of both taggers.
    left.locator(".heat-map").wait_for(timeout=60_000)
    right.locator(".heat-map").wait_for(timeout=60_000)

    def tag(text: str) -> None:
        page.locator("#text textarea").fill(text)
        page.locator("#tag").click()

    tag(TEXT)
    left.get_by_text("Boston").first.wait_for()
    for name, column in zip(checkpoints, (left, right)):
        expected = pipeline(TASK, model=name)(TEXT, top_k=4)
        column.get_by_text("Lopez").first.wait_for()
        marks = column.locator(".text mark")
        assert marks.locator("bdi").all_inner_texts() == [e["word"] for e in expected["entities"]]
        assert marks.evaluate_all("all => all.map(one => one.title)") == [
            f"probability {e['score']:.4f}" for e in expected["entities"]
        ]
        assert column.locator(".alternatives tr").count() == 4
    assert left.locator(".text").inner_text() != right.locator(".text").inner_text()
    # the darker the likelier
    shades = left.locator(".heat-map tbody tr").first.locator("td").evaluate_all(
        "all => all.map(one => [parseFloat(one.title.split(': ').pop()),"
        " getComputedStyle(one).backgroundColor.match(/[\\d.]+(?=\\))/)[0] * 1])"
    )  # fmt: skip
    ordered = sorted(shades)
    assert [shade for _, shade in ordered] == sorted(shade for _, shade in ordered)
    assert ordered[0][1] < ordered[-1][1]

    tag(ARABIC)
    left.get_by_text("بيروت").first.wait_for()
    assert left.locator(".text").evaluate("one => getComputedStyle(one).direction") == "rtl"
    assert page.locator("#text textarea").evaluate("one => getComputedStyle(one).unicodeBidi") == "plaintext"

    tag("   ")
    left.get_by_text("There is no text yet").wait_for()
    tag("Anna " * 6000)
    left.get_by_text("6,000 words").wait_for()

    page.locator("#right input").click()
    page.get_by_role("option", name="none").click()
    tag(TEXT)
    left.get_by_text("Boston").first.wait_for()
    right.wait_for(state="hidden")
    assert errors == []
    assert page.get_by_text("Error", exact=True).count() == 0
