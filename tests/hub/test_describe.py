"""Dangers: cards that say what results.json does not, paths that leave this machine, a mean taken for one run."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from datasets import Dataset

from hf_structkd.evaluation.report import ComparisonReport
from hf_structkd.evaluation.results import RunResults, read_results, read_runs, write_results
from hf_structkd.hub import describe
from hf_structkd.hub.card_data import card_data
from hf_structkd.hub.describe import describe_student, redescribe
from hf_structkd.hub.model_card import is_edited
from hf_structkd.hub.public import publishable
from hf_structkd.settings import without_tokens
from hf_structkd.training.card import gold_by_language, sentences_by_language

ROOT = Path(__file__).parents[2]

PATH = "/home/somebody/models"


def run(seed: int, english: float) -> RunResults:
    scores = {"en": {"f1": english, "PER": {"f1": english}, "LOC": {"f1": 0.5}}, "avg": {"f1": english}}
    table = ComparisonReport("f1", {"posterior": {"en": english}}, {"en": 0.9}, {"en": 0.6}, "test")
    return RunResults(
        settings={"model": f"{PATH}/encoder", "teachers": {"en": f"{PATH}/en"}, "objective": "posterior"},
        scores={"test": {"posterior": scores}},
        comparison={"test": table.to_dict()},
        seed=seed,
        train_sentences={"en": 10},
        seconds={"posterior": 12.0},
        versions={"torch": "2.13.0"},
        model={"name": "tagger", "labels": ["O", "B-PER"], "base_model": f"{PATH}/encoder", "languages": ["en"]},
        teachers=[{"name": f"{PATH}/en", "language": "en", "revision": "f00d", "weight": 1.0, "score": 0.9}],
        objective={
            "name": "posterior", "top_k": 3, "lambda_schedule": "linear, 1 to 0",
            "parts": [{"name": "posterior", "weight": 1.0, "temperature": 1.0, "source": "2004.03846"}],
        },
        history=[{"step": 1, "loss": 2.0, "kd_lambda": 1.0}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_en_f1": 0.5}],
        label_examples={"B-PER": ["Clara"]},
        citations=["@misc{a, url = {https://arxiv.org/abs/2004.03846}}"],
    )  # fmt: skip


def test_a_folder_is_described_and_described_again_the_same(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")
    card = describe_student(tmp_path, run(1, 0.8), [run(2, 0.7)])
    written = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    assert {path.name for path in written} == {
        "README.md", "results.json", "runs.jsonl", "training_curves.png", "language_gap.png"
    }  # fmt: skip
    assert all(data.startswith(b"\x89PNG") for path, data in written.items() if path.suffix == ".png")
    text = card.read_text()
    for part in (
        "| posterior | 75.00 ± 7.07 | 75.00 ± 7.07 | 50.0 % |",
        "| `PER` | 75.00 ± 7.07 |",
        "| `LOC` | 50.00 |",
        "| en | `en` | f00d | 90.00 |",
        "seeds 1, 2; these weights are of seed 1",
        "value: 0.8",
        "![Loss, lambda",
        "![Scores of teachers",
        "https://arxiv.org/abs/2004.03846",
    ):
        assert part in text, f"{part!r} is missing"
    assert PATH.encode() not in b"".join(written.values())
    redescribe(tmp_path)
    assert {path: path.read_bytes() for path in written} == written


def test_what_is_written_can_be_read_and_is_what_was_measured(tmp_path):
    original = run(1, 0.8)
    describe_student(tmp_path, original)
    again = read_results(tmp_path)
    assert again == publishable(original)
    assert (again.scores, again.history, again.citations) == (original.scores, original.history, original.citations)
    assert again.settings == {"model": "encoder", "teachers": {"en": "en"}, "objective": "posterior"}
    assert original.settings["model"] == f"{PATH}/encoder"


def test_results_of_earlier_versions_make_a_card(tmp_path):
    """Danger: files written before a member was added are not read any more."""
    old = {"schema_version": 1, "settings": {}, "scores": {}, "comparison": {}, "seed": 1, "versions": {"a": "1"}}
    (tmp_path / "results.json").write_text(json.dumps(old))
    assert "# tagger" in redescribe(tmp_path).read_text()


def test_without_matplotlib_the_card_has_no_pictures(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hf_structkd.evaluation.plots", None)
    text = describe_student(tmp_path, run(1, 0.8)).read_text()
    assert "![" not in text
    assert "| posterior | 80.00 |" in text


def test_results_that_make_no_card_leave_a_minimal_one(tmp_path, caplog):
    broken = replace(run(1, 0.8), comparison={"test": {"no": "metric"}})
    assert "# tagger" in describe_student(tmp_path, broken).read_text()
    assert "KeyError" in caplog.text


def test_pictures_that_fail_cost_the_pictures_alone(tmp_path, monkeypatch, caplog):
    plots = pytest.importorskip("hf_structkd.evaluation.plots")
    monkeypatch.setattr(plots, "training_curves", lambda *args: 1 / 0)
    assert "| posterior | 80.00 |" in describe_student(tmp_path, run(1, 0.8)).read_text()
    assert "could not be drawn" in caplog.text


def test_a_folder_that_cannot_be_written_does_not_raise(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    assert describe.describe_student(tmp_path / "file", run(1, 0.8)) is None
    assert "could not be written" in caplog.text


def test_runs_that_cannot_be_compared_are_refused():
    other = replace(run(2, 0.7), objective={"name": "top_k"})
    with pytest.raises(ValueError, match=r"objective\.name 'top_k'"):
        card_data(run(1, 0.8), [other])
    other = run(2, 0.7)
    del other.comparison["test"]["students"]["posterior"]
    with pytest.raises(ValueError, match=r"differ in rows or languages.*posterior"):
        card_data(run(1, 0.8), [other])


def test_tokens_are_blanked_wherever_they_stand():
    token = "hf_" + "x" * 30
    assert token not in json.dumps(asdict(publishable(RunResults(settings={"a": [f"a {token}"]}))))
    assert without_tokens(f"Bearer {token}") == "Bearer <token>"
    assert without_tokens("Bearer odd", "odd\n") == "Bearer <token>"


@pytest.mark.parametrize(
    "text",
    [
        "Not for commercial/medical purposes.",
        "Labels are PER/LOC/ORG and/or O.",
        "Terms: https://example.org/home/mira/terms, 5 km/h, 1/2.",
        "linear, 1/2 to 0",
        "O/B-PER/I-PER",
        "s3://bucket/data/x",
        "a/b/c",
        "see ./ or ../ for more",
        "~5 sentences/s",
        "Only ~1/3 of the words and ~2.5/10 of the sentences were checked.",
    ],
)
def test_sentences_and_settings_with_a_slash_keep_their_meaning(text):
    """Danger: "not for commercial/medical purposes" became "medical purposes." on the card."""
    given = RunResults(
        settings={"note": text, "nested": [{"x": text}]}, hyperparameters={"note": text}, limitations=[text],
        citations=[f"@misc{{a, note = {{{text}}}}}"], objective={"lambda_schedule": text}, model={"scheme": text},
    )  # fmt: skip
    assert asdict(publishable(given)) == asdict(given)


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("/home/mira/corpora/ner", "ner"),
        ("/home/mira/{language}/{split}.conll", "{split}.conll"),
        ("/home/mira", "~"),
        ("/Users/mira/", "~"),
        ("~/corpora/ner.conll", "ner.conll"),
        ("../mira/ner", "ner"),
        ("C:\\Users\\mira\\ner.conll", "ner.conll"),
        ("file:///data/mira/ner", "ner"),
        ("/scratch/mira/x/ner", "ner"),
    ],
)
def test_paths_lose_their_place_wherever_they_stand(path, left):
    sentence = f'Trained on {path}, and on "{path}".'
    public = publishable(
        RunResults(
            settings={"corpus": path, "teachers": {path: [path]}}, hyperparameters={"x": f"x={path}"},
            limitations=[sentence], model={"name": path, "base_model": path, "dataset": path},
            teachers=[{"name": path, "language": "xx"}],
        )
    )  # fmt: skip
    assert public.settings == {"corpus": left, "teachers": {left: [left]}}
    assert "mira" not in json.dumps(asdict(public))
    assert (public.model["name"], public.model["dataset"], public.teachers[0]["name"]) == (left, left, left)
    assert public.limitations == [f'Trained on {left}, and on "{left}".']


def test_a_users_name_does_not_become_that_of_the_corpus(monkeypatch):
    from hf_structkd.recipes.publishing import corpus_name

    monkeypatch.setenv("LOGNAME", "mira")
    for corpus in ("/home/mira/{language}/{split}.conll", "/data/mira/{language}", "/Users/otto/{split}.conll", "{x}"):
        assert corpus_name(corpus) is None, corpus
    assert corpus_name("/home/mira/wikiann/{language}/{split}.conll") == "wikiann"
    assert corpus_name("unimelb-nlp/wikiann:{language}") == "unimelb-nlp/wikiann"


@pytest.fixture
def no_pictures(monkeypatch):
    """Half a second each, and not what is tested."""
    monkeypatch.setitem(sys.modules, "hf_structkd.evaluation.plots", None)


@pytest.mark.usefixtures("no_pictures")
def test_an_earlier_descriptions_runs_are_not_averaged_in(tmp_path):
    describe_student(tmp_path, run(1, 0.8), [run(2, 0.7), run(3, 0.6)])
    describe_student(tmp_path, run(1, 0.8), [run(4, 0.7)])
    assert [run.seed for run in read_runs(tmp_path / "runs.jsonl")] == [4]
    text = describe_student(tmp_path, run(5, 0.8)).read_text()
    assert "| posterior | 80.00 | 80.00 |" in text
    assert not (tmp_path / "runs.jsonl").exists()
    assert redescribe(tmp_path).read_text() == text


@pytest.mark.usefixtures("no_pictures")
def test_runs_in_a_file_each_as_earlier_versions_wrote_them_make_the_same_card(tmp_path):
    text = describe_student(tmp_path, run(1, 0.8), [run(2, 0.7), run(3, 0.6)]).read_text()
    others = read_runs(tmp_path / "runs.jsonl")
    for number, other in enumerate(others, start=2):
        write_results(other, tmp_path / "runs" / f"{number}.json")
    with pytest.raises(ValueError, match=r"further runs in runs\.jsonl and in runs/: remove"):
        redescribe(tmp_path)
    (tmp_path / "runs.jsonl").unlink()
    assert redescribe(tmp_path).read_text() == text
    describe_student(tmp_path, run(1, 0.8), others)
    assert not list((tmp_path / "runs").iterdir())
    assert redescribe(tmp_path).read_text() == text


def test_a_file_of_runs_that_was_cut_short_is_refused_by_its_line(tmp_path):
    describe_student(tmp_path, run(1, 0.8), [run(2, 0.7), run(3, 0.6)])
    file = tmp_path / "runs.jsonl"
    whole = file.read_bytes()
    for cut, told in ((whole[:-1], "line 2, has no end"), (whole[20:], "line 1, is not JSON")):
        file.write_bytes(cut)
        with pytest.raises(ValueError, match=rf"runs\.jsonl, {told}"):
            redescribe(tmp_path)


def changed(member: str, value: object) -> RunResults:
    return replace(run(2, 0.7), **{member: value})


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (run(1, 0.7), r"seeds \[1, 1\]"),
        (changed("seed", None), r"seeds \[1, None\]"),
        (changed("hyperparameters", {"learning_rate": 0.1}), r"hyperparameters\.learning_rate 0\.1.*seed 1 None"),
        (changed("settings", {**run(2, 0.7).settings, "objective": "top_k"}), r"settings\.objective 'top_k'"),
        (changed("train_sentences", {"en": 20}), r"train_sentences\.en 20"),
        (changed("gold_sentences", {"en": 5}), r"gold_sentences\.en 5"),
        (changed("versions", {"torch": "2.14.0"}), r"versions\.torch '2\.14\.0'"),
        (changed("model", {**run(2, 0.7).model, "labels": ["O", "B-LOC"]}), r"model\.labels"),
        (changed("teachers", [{**run(2, 0.7).teachers[0], "revision": "beef"}]), r"teachers .*beef"),
        (changed("objective", {**run(2, 0.7).objective, "top_k": 5}), r"objective\.top_k 5"),
    ],
)
@pytest.mark.usefixtures("no_pictures")
def test_a_card_averages_runs_that_differ_in_nothing_but_their_seeds(other, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        describe_student(tmp_path / "new", run(1, 0.8), [other])
    assert not (tmp_path / "new").exists()
    describe_student(tmp_path, run(1, 0.8))
    write_results(other, tmp_path / "runs" / "2.json")
    with pytest.raises(ValueError, match=told):
        redescribe(tmp_path)
    (tmp_path / "runs" / "2.json").rename(tmp_path / "runs" / "notes.json")
    with pytest.raises(ValueError, match=r"notes\.json is not a run of this card"):
        redescribe(tmp_path)


def test_places_and_teachers_of_their_own_do_not_keep_runs_apart():
    first, other = run(1, 0.8), run(2, 0.7)
    for own, name in ((first, "one"), (other, "two")):
        own.settings |= {"output_dir": name, "run_name": name, "teacher_model": "org/encoder"}
        own.teachers[0] |= {"name": name, "revision": name}
    assert card_data(first, [other]).seeds == [1, 2]


@pytest.mark.usefixtures("no_pictures")
def test_a_card_that_was_edited_is_kept(tmp_path, caplog):
    """Danger: what somebody added to a card by hand is gone after the next run."""
    card = describe_student(tmp_path, run(1, 0.8))
    before = card.read_bytes()
    assert not is_edited(card)
    card.write_bytes(before.replace(b"\n", b"\r\n"))  # a checkout that turns line ends is no edit
    assert describe_student(tmp_path, run(1, 0.9)).read_bytes() != before
    assert not caplog.records
    edited = card.read_text().replace("## Limitations\n", "## Limitations\n\n- Mira says: not for poetry.\n")
    card.write_text(edited)
    assert is_edited(card)
    assert describe_student(tmp_path, run(1, 0.5), rewritten=True) == card
    assert card.read_text() == edited
    assert "was edited" in caplog.text
    assert read_results(tmp_path).comparison["test"]["students"]["posterior"]["en"] == 0.5
    card.write_text("# Somebody's own\n")
    redescribe(tmp_path)
    assert card.read_text() == "# Somebody's own\n"
    card.unlink()
    assert "50.00" in redescribe(tmp_path).read_text()


@pytest.mark.usefixtures("no_pictures")
def test_sentences_of_all_kinds_are_counted(tmp_path):
    text = describe_student(
        tmp_path, replace(run(1, 0.8), train_sentences={"en": 12, "de": 7}, gold_sentences={"en": 2, "de": 7})
    ).read_text()
    assert "| training sentences | en 12, de 7 |\n| of these with gold tags | en 2, de 7 |\n" in text
    assert "of these with gold" not in describe_student(tmp_path, run(1, 0.8)).read_text()
    corpus = Dataset.from_dict(
        {"tokens": [["a"], ["b"], ["c"]], "tags": [["O"], None, ["O"]], "language": ["en", "en", "de"]}
    )
    assert (sentences_by_language(corpus), gold_by_language(corpus)) == ({"en": 2, "de": 1}, {"en": 1, "de": 1})
    assert gold_by_language(corpus.select([0, 2])) == {}


def test_a_results_file_whose_members_are_of_another_kind_is_refused(tmp_path):
    """Danger: limitations that are one string become a list of letters."""
    content = {"schema_version": 1, "limitations": "Not for use."}
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"results\.json: limitations is 'Not for use\.', but must be a JSON list"):
        redescribe(tmp_path)


@pytest.mark.usefixtures("no_pictures")
def test_half_a_character_costs_no_card(tmp_path):
    half = replace(run(1, 0.8), label_examples={"B-PER": ["x\ud800"]}, limitations=["y\udfff"])
    assert "| posterior | 80.00 |" in describe_student(tmp_path, half).read_text(encoding="utf-8")
    assert read_results(tmp_path).label_examples == {"B-PER": ["x?"]}
