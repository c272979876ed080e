"""Dangers: packed results that are not those of the runs, change when packed again, or are read half or twice."""

import io
import json
import re
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from experiments.grid import GridError
from experiments.grid_results import GridResults, keep
from experiments.run_plan import read_plan
from experiments.stored_runs import Run, grid_folders, is_packed, pack, read_runs, run_folders
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.evaluation import results as evaluation_results
from hf_structkd.evaluation.results import read_results
from hf_structkd.hub.describe import redescribe
from hf_structkd.hub.public import publishable
from tests.hub.loopback_hub import card_errors
from tests.test_experiments import grid_of
from tests.test_pages import WITH_FIGURES as DOCUMENTS

PACKED = {"runs.jsonl", "sentences.npz"}


def scores_of(value):
    return {language: {"f1": value} for language in ("en", "ru", "avg")}


def record_of(**own):
    return {
        "metric": "f1",
        "settings": {"model": "m"},
        "corpora": {"en": {"test": "aaaa-bbbb"}},
        "teacher_revisions": None,
        "note": "fenêtre \u2028 окно",  # a line for Python's splitlines, none for JSON lines
        **own,
    }


def write_run(folder, record, counts):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    np.savez_compressed(folder / "sentences.npz", **counts)


@pytest.fixture
def unpacked(tmp_path):
    """A grid's folder with a folder per run: two cells, one under two seeds and with a language more, and teachers."""
    random, folder = np.random.default_rng(3), tmp_path / "running"
    for name, seed in (("none", 1), ("K=2", 1), ("K=2", 10), ("K=2", 2)):
        counts = {"en": random.integers(0, 9, (3, 6), np.uint8), "ru": random.integers(0, 9, (3, 4), np.uint8)}
        if name == "none":
            counts["zero_shot/de"] = random.integers(0, 300, (3, 5), np.uint16)
        record = record_of(cell=name, seed=seed, model_revision="r", scores={"test": scores_of(seed / 100)})
        write_run(folder / "cells" / name / f"seed-{seed}", record, counts)
    counts = {"en": random.integers(0, 9, (3, 6), np.uint8), "ru": random.integers(0, 9, (3, 4), np.uint8)}
    write_run(folder / "teachers" / "lab", record_of(teacher_set="lab", scores={"test": scores_of(0.9)}), counts)
    return folder


def contents(runs):
    return {
        json.dumps(run.record): {language: counts.tolist() for language, counts in run.counts.items()} for run in runs
    }


def test_packed_results_are_those_of_the_folders(unpacked, tmp_path):
    grid = grid_of()
    kept = keep(grid, unpacked, tmp_path / "kept")
    assert {path.name for path in kept.iterdir()} == PACKED
    before, after = GridResults.read(grid, unpacked), GridResults.read(grid, kept)
    assert {name: list(own) for name, own in before.cells.items()} == {"none": [1], "K=2": [1, 2, 10]}
    assert {name: list(own) for name, own in after.cells.items()} == {"none": [1], "K=2": [1, 2, 10]}
    assert list(after.cells) == list(before.cells)
    assert contents(after.runs()) == contents(before.runs())
    assert contents(after.teachers.values()) == contents(before.teachers.values())
    assert after.reference_teachers.score() == 0.9
    for one, other in zip(before.runs(), after.runs()):
        assert list(other.counts) == list(one.counts)
        assert all(other.counts[name].dtype == own.dtype == np.int64 for name, own in one.counts.items())
        assert (other.right("en") == one.right("en")).all()
    assert (after.stacked("K=2", [1, 10])["ru"] == before.stacked("K=2", [1, 10])["ru"]).all()
    assert contents(read_runs(kept, seed=10)) == contents(read_runs(unpacked, seed=10))
    assert len(read_runs(kept, seed=1)) == len(read_runs(unpacked, seed=1)) == 2


def test_packing_again_makes_the_same_bytes(unpacked, tmp_path):
    runs = read_runs(unpacked)
    pack(runs, tmp_path / "one")
    time.sleep(2.1)  # a zip file counts time in steps of two seconds
    pack(reversed(read_runs(unpacked)), tmp_path / "two")
    pack(read_runs(tmp_path / "one"), tmp_path / "three")
    for name in PACKED:
        written = {(tmp_path / folder / name).read_bytes() for folder in ("one", "two", "three")}
        assert len(written) == 1, name
    with zipfile.ZipFile(tmp_path / "one" / "sentences.npz") as stored:
        assert {member.date_time[0] for member in stored.infolist()} == {1980}
    lines = (tmp_path / "one" / "runs.jsonl").read_text(encoding="utf-8").split("\n")
    named = [(line.get("cell"), line.get("seed")) for line in map(json.loads, lines[:-1])]
    assert named == [("K=2", 1), ("K=2", 2), ("K=2", 10), ("none", 1), (None, None)]
    with np.load(tmp_path / "one" / "sentences.npz") as arrays:
        assert arrays["zero_shot/de/counts"].shape == (1, 3, 5)
        assert arrays["zero_shot/de/runs"].tolist() == [3]


def test_what_was_kept_before_is_replaced_whatever_its_form(unpacked, tmp_path):
    grid, kept = grid_of(), tmp_path / "kept"
    write_run(kept / "cells" / "gone" / "seed-1", record_of(cell="gone", seed=1), {})
    write_run(kept / "teachers" / "lab", record_of(teacher_set="lab"), {})
    (kept / "figures").mkdir()
    keep(grid, unpacked, kept)
    assert {path.name for path in kept.iterdir()} == {*PACKED, "figures"}
    assert len(run_folders(unpacked)) == 5  # nothing happens to these
    for folder in (unpacked, kept):
        with pytest.raises(GridError, match="holds the results already; name another folder"):
            keep(grid, folder, folder)
    again = keep(grid, kept, tmp_path / "again")  # of packed ones the same
    assert (again / "runs.jsonl").read_bytes() == (kept / "runs.jsonl").read_bytes()


def test_a_folder_with_both_forms_is_refused(unpacked, tmp_path):
    pack(read_runs(unpacked), unpacked)
    for seed in (None, 7):
        with pytest.raises(GridError, match=r"running holds packed runs .* and folders of single runs .*seed-1"):
            read_runs(unpacked, seed)


def spoiled(data):
    """A zip file whose contents were changed on their way: its list of members is as it was."""
    return data[:200] + bytes(byte ^ 0xFF for byte in data[200:260]) + data[260:]


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("runs.jsonl", None, r"holds sentences\.npz without runs\.jsonl"),
        ("runs.jsonl", lambda data: data[:-40], r"runs\.jsonl, line 5, has no end"),
        ("runs.jsonl", lambda data: data[40:], r"runs\.jsonl, line 1 is not JSON"),
        ("runs.jsonl", lambda data: data + b"[]\n", r"runs\.jsonl, line 6 holds no results of a cell"),
        (
            "runs.jsonl",
            lambda data: data[: data.rindex(b"\n", 0, -1) + 1],
            r"runs\.jsonl is not what .*sentences\.npz",
        ),
        ("runs.jsonl", lambda data: data.replace(b"0.01", b"0.99"), r"runs\.jsonl is not what .* was packed with"),
        ("runs.jsonl", lambda data: b"", r"runs\.jsonl is not what .* was packed with"),
        ("sentences.npz", None, r"sentences\.npz is missing"),
        ("sentences.npz", lambda data: data[:-100], r"sentences\.npz is not what was written"),
        ("sentences.npz", lambda data: b"", r"sentences\.npz is not what was written"),
        ("sentences.npz", lambda data: b"version https://git-lfs", r"sentences\.npz is not what was written"),
        ("sentences.npz", spoiled, r"sentences\.npz is not what was written"),
    ],
)
def test_a_torn_file_is_refused_by_its_name(unpacked, tmp_path, name, change, told):
    folder = tmp_path / "kept"
    pack(read_runs(unpacked), folder)
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    if change is not None:
        (folder / name).write_bytes(change(data))
    with pytest.raises(GridError, match=told):
        GridResults.read(grid_of(), folder)


def test_contents_that_were_spoiled_are_refused_when_they_are_read(unpacked, tmp_path):
    pack(read_runs(unpacked), tmp_path)
    file = tmp_path / "sentences.npz"
    data = file.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as stored:
        at = stored.getinfo("ru/counts.npy").header_offset + 60
    file.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
    run = read_runs(tmp_path)[0]
    with pytest.raises(GridError, match=r"sentences\.npz is not what was written .*get both files anew"):
        _ = run.counts


def test_line_ends_of_another_system_change_nothing(unpacked, tmp_path):
    pack(read_runs(unpacked), tmp_path / "kept")
    file = tmp_path / "kept" / "runs.jsonl"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert contents(read_runs(tmp_path / "kept")) == contents(read_runs(unpacked))


@pytest.mark.parametrize("name", ["results.json", "sentences.npz"])
def test_a_torn_folder_is_refused_by_its_name_and_nothing_is_packed(unpacked, tmp_path, name):
    file = unpacked / "cells" / "K=2" / "seed-2" / name
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(GridError, match=re.escape(str(file))):
        keep(grid_of(), unpacked, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_counts_of_other_sentences_and_the_same_run_twice_are_refused(unpacked, tmp_path):
    own = unpacked / "cells" / "K=2"
    np.savez_compressed(own / "seed-2" / "sentences.npz", en=np.zeros((3, 7), np.uint8))
    with pytest.raises(GridError, match=r"seed-2 has counts of other en sentences than .*seed-1"):
        pack(read_runs(unpacked), tmp_path / "kept")
    (own / "seed-2").rename(own / "seed-3")
    assert len(read_runs(unpacked)) == 5  # what counts is what the results say
    (own / "seed-3" / "results.json").write_text((own / "seed-1" / "results.json").read_text())
    with pytest.raises(GridError, match=r"seed-1 and .*seed-3 hold results of the same run"):
        read_runs(unpacked)


def test_three_hundred_runs_are_read_in_seconds(tmp_path):
    """As large as the largest grid's: 15 KB of results and 2500 test sentences in each of four languages."""
    random, filling = np.random.default_rng(4), {"curve": [{"step": n, "loss": n / 7} for n in range(400)]}
    scores = {"test": scores_of(0.5)}
    counts = {language: random.integers(0, 3, (2500, 3)) for language in ("en", "de", "es", "nl")}
    runs = [
        Run("", record_of(cell=name, seed=seed, model_revision="r", scores=scores, **filling), lambda: counts)
        for name in ("none", "K=2", "K=5")
        for seed in range(100)
    ]
    pack(runs, tmp_path)
    started = time.process_time()
    results = GridResults.read(grid_of(), tmp_path)
    assert len([run.counts for run in results.runs()]) == 300
    assert time.process_time() - started < 5  # 0.5 on one core


def test_a_grid_is_not_run_beside_packed_results_nor_takes_over_torn_ones(unpacked, tmp_path, refusal):
    import yaml

    from tests.test_experiments import CONTENT

    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(CONTENT))
    pack(read_runs(unpacked), tmp_path / "kept" / "tiny")
    assert is_packed(tmp_path / "kept" / "tiny")
    (tmp_path / "kept" / "cache" / "teachers").mkdir(parents=True)
    assert grid_folders(tmp_path / "kept") == [tmp_path / "kept" / "tiny"]
    said = refusal("experiments.run_grid", tmp_path / "tiny.yaml", "--output_dir", tmp_path / "kept", "--dry_run")
    assert re.search(r"tiny holds packed results.*choose another --output_dir; with --reuse .*kept the finished", said)
    (tmp_path / "kept" / "tiny" / "runs.jsonl").unlink()
    options = ("--output_dir", tmp_path / "new", "--reuse", tmp_path / "kept", "--dry_run")
    said = refusal("experiments.run_grid", tmp_path / "tiny.yaml", *options)
    assert "holds sentences.npz without runs.jsonl" in said


# Danger: a figure in RESULTS.md, the README or a page that no committed result makes, or that is out of date.


ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"


@pytest.mark.slow
@pytest.mark.filterwarnings("error:constrained_layout")  # forty cells left a plot no room beside its legend
def test_documents_say_what_the_committed_results_make(tmp_path, run_script):
    pytest.importorskip("matplotlib", reason="plots need the extra `plots`")
    for document in DOCUMENTS:
        (tmp_path / document).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / document, tmp_path / document)
    grids = [RESULTS.parent / "grids" / f"{folder.name}.yaml" for folder in sorted(RESULTS.glob("*/"))]
    kept = tmp_path / "experiments" / "results"
    options = ("--keep", kept)
    run_script("experiments.report", *grids, *options, "--update", *(tmp_path / d for d in DOCUMENTS))
    for document in DOCUMENTS:
        assert (tmp_path / document).read_text() == (ROOT / document).read_text(), f"run report.py on {document}"
    for file in (*RESULTS.glob("*/runs.jsonl"), RESULTS / "summary.json"):
        assert (kept / file.relative_to(RESULTS)).read_text() == file.read_text(), file


def test_results_are_packed():
    for folder in RESULTS.glob("*/"):
        assert {path.name for path in folder.iterdir()} == {
            "runs.jsonl",
            "sentences.npz",
            "figures.png",
        }


def test_results_show_no_machine_and_no_text_of_a_corpus():
    for file in (*RESULTS.rglob("*.json"), *RESULTS.rglob("*.jsonl")):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w/:.<}])/(home|tmp|root|work|usr|mnt|Users|data)/", text), file
        assert "tokens" not in text, file


# Dangers: committed cards typed by hand, out of date, or with what must not be published.


CARDS = sorted((Path(__file__).parents[1] / "model_cards").glob("*/results.json"))
cards = pytest.mark.parametrize("results", CARDS, ids=lambda path: path.parent.name)


def test_there_are_cards():
    assert CARDS


@cards
def test_a_card_is_what_its_results_make(results, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")
    folder = results.parent
    shutil.copy(results, tmp_path / "results.json")
    shutil.copy(folder / "runs.jsonl", tmp_path / "runs.jsonl")
    assert redescribe(tmp_path).read_bytes() == (folder / "README.md").read_bytes(), "run structkd card FOLDER"
    # the bytes of pictures depend on the versions that drew them
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {p.name for p in (folder / "plots").iterdir()}


@cards
def test_a_card_shows_seeds_and_deviations_of_student_and_baseline(results):
    text = (results.parent / "README.md").read_text(encoding="utf-8")
    assert int(re.search(r"over (\d+) runs with seeds 1, 2, 3", text)[1]) >= 3
    table = text[text.index("\n## Scores\n") :].split("\n![")[0]
    read = read_results(results)
    for row in ("baseline", read.objective["name"]):
        line = re.search(rf"^\| {re.escape(row)} \|.*$", table, re.MULTILINE)[0]
        assert len(re.findall(r"\d ± \d", line)) == len(read.model["languages"]) + 1, row  # and the macro average


@cards
def test_a_card_is_valid_and_shows_no_machine(results):
    folder = results.parent
    assert not card_errors((folder / "README.md").read_text(encoding="utf-8"))
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results
    for path in (folder / "README.md", results, folder / "runs.jsonl"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w/:.<])/(home|tmp|root|work|usr|mnt|Users|data)/", text), path.name
        assert not re.search(r"hf_[a-zA-Z]{20,}", text), path.name
    runs = [read_results(results), *evaluation_results.read_runs(folder / "runs.jsonl")]
    assert len(runs) > 1
    for read in runs:
        assert publishable(read) == read
        assert not read.label_examples, "words of a corpus"


# Danger: a plan of steps that cannot be carried out is noticed after hours.


PLANS = sorted((Path(__file__).parents[1] / "experiments" / "plans").glob("*.yaml"))
PLACES = {"DATA": "data", "ENCODERS": "encoders"}


@pytest.mark.parametrize("file", PLANS, ids=lambda file: file.stem)
def test_committed_plans_are_read(file):
    assert read_plan(file, PLACES)["steps"]


def test_a_step_builds_on_earlier_steps_alone(tmp_path):
    text = PLANS[0].read_text(encoding="utf-8").replace("step:old", "step:grown")
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="which is no earlier step"):
        read_plan(tmp_path / "plan.yaml", PLACES)


@pytest.mark.slow
def test_taggers_that_exist_are_scored_once_and_beside_those_that_are_trained(
    tmp_path, run_script, make_student, tokenizer
):
    """Danger: a pipeline's scores under a student's name, or in languages that it was not made for."""
    checkpoint = str(tmp_path / "student")
    make_student(languages=["en", "ru"], max_position_embeddings=130).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    for language in ("en", "ru"):
        for split in ("train", "dev", "test"):
            rows = load_demo_corpus(language, split, num_sentences=6)
            blocks = [
                "".join(f"{word}\t{tag}\n" for word, tag in zip(*pair)) for pair in zip(rows["tokens"], rows["tags"])
            ]
            (tmp_path / f"{language}.{split}.conll").write_text("\n".join(blocks), encoding="utf-8")
    corpus = {"source": str(tmp_path / "{language}.{split}.conll"), "languages": ["en", "ru"]}
    scored = {"corpus": "{demo}/{language}.{split}.conll", "splits": ["test"]}
    student = {
        "model": checkpoint,
        "max_steps": 1,
        "languages": ["en", "ru"],
        "use_cpu": True,
        "report_to": "none",
    }
    plan = {
        **{"description": "", "seeds": 2, "corpora": {"demo": corpus}, "fields": student},
        "steps": {
            "there": {"command": "evaluate", "checkpoint": checkpoint, "languages": ["en"]},
            "trained": {"command": "teacher", "corpus": "{demo}/{language}.{split}.conll"},
        },
        "scored": {"both": {**scored, "languages": ["en", "ru"]}, "other": {**scored, "languages": ["ru"]}},
    }
    (tmp_path / "plan.yaml").write_text(json.dumps(plan), encoding="utf-8")
    run_script("experiments.run_plan", tmp_path / "plan.yaml", "--output_dir", tmp_path / "out", "--keep", tmp_path)
    (tmp_path / "page.md").write_text("<!-- results: plan plan -->stale<!-- end -->", encoding="utf-8")
    kept = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["steps"]
    assert {what: len(values) for what, values in kept["there"].items()} == {"both, en": 1}, "not made for Russian"
    trained = {what: len(values) for what, values in kept["trained"].items()}
    assert trained == dict.fromkeys(["both, en", "both, ru", "both, mean", "other, ru"], 2), "one score per seed"
    run_script("experiments.run_plan", tmp_path / "plan.yaml", "--from", tmp_path, "--write", tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert f"| both, en | {kept['there']['both, en'][0]:.2f} |" in page
    assert "stale" not in page
