"""Dangers: a grid that trains something else than it says, loses or repeats work, or compares what cannot be."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hf_structkd import StructKDTrainingArguments, Teacher
from hf_structkd.data.words import encode_corpus

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CONTENT = {
    "description": "A tiny grid.", "limitations": ["Not for use at all."],
    "recipe": {
        "corpus": "demo", "languages": ["en", "ru"], "max_train_sentences": 40, "max_dev_sentences": 10,
        "max_test_sentences": 20, "model": "scratch", "model_config": TINY, "vocab_size": 250, "use_cpu": True,
        "num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 0.02, "crf_learning_rate": 0.02,
    },
    "pool_sentences": 80,
    "seeds": 2,
    "teacher_sets": {"lab": {"model": "scratch", "model_config": TINY, "num_train_epochs": 4, "seeds": [1, 2]}},
    "baseline": "none",
    "zero_shot": {"corpus": "demo", "languages": ["de"], "max_test_sentences": 10},
    "cells": {
        "none": {"objective": "none"},
        "K={top_k}": {"objective": "top_wk", "matrix": {"top_k": [2, 5]}},
        "text": {
            "objective": "posterior", "max_train_sentences": 0, "text_sentences": 30, "augmentation": {"copies": 1},
            "teacher_embeddings": 0.5,
        },
    },
    "curves": [{"title": "paths", "x": "top_k", "cells": ["K=*"]}, {"title": "dev", "kind": "epochs"}],
}  # fmt: skip


def grid_of(**changes):
    from experiments.grid import Grid

    return Grid({**CONTENT, **changes}, "tiny")


def run(script, *arguments, check=True):
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{script.removesuffix('.py')}", *map(str, arguments)],
        **{"capture_output": True, "text": True, "timeout": 280, "cwd": ROOT},
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


# ---- grids ----


def test_cells_come_seed_by_seed_and_matrices_are_combined():
    cells = grid_of().all_cells()
    assert [str(cell) for cell in cells[:5]] == [
        "none, seed 1", "K=2, seed 1", "K=5, seed 1", "text, seed 1", "none, seed 2",
    ]  # fmt: skip
    assert cells[1].args.top_k == 2
    assert cells[1].args.seed == 1
    assert [cell.name for cell in grid_of().all_cells(["K=*"], [7])] == ["K=2", "K=5"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": {"a": {"objective": "none", "leraning_rate": 1}}}, "cell 'a': .*did you mean 'learning_rate'"),
        ({"cells": {"a": {"objective": "posterior", "teacher_set": "b"}}}, "cell 'a' wants teacher set 'b'"),
        ({"cells": {"none": {"objective": "none", "max_train_sentences": 0}}}, "neither gold tags nor teachers"),
        ({"cells": {"none": {"objective": "none", "text_sentences": 10}}}, "fewer than max_train_sentences 40"),
        ({"cells": {"none": {"objective": "none", "unlabelled_sentences": 10}}}, "a grid says text_sentences"),
        (
            {"cells": {"none": {"objective": "none", "augmentation": {}}}},
            "rewritten sentences are learnt from teachers",
        ),
        ({"cells": {"none": {"objective": "top_k", "top_k": 11}}}, "above annotation_top_k"),
        ({"cells": {"a": {"matrix": {"top_k": [1]}}}, "baseline": "a"}, "needs {top_k} in its name"),
        ({"baseline": "nobody"}, "baseline names cells that it does not have"),
        ({"cell": {}}, "unknown members"),
        ({"teacher_sets": {"lab": {"model": "scratch", "folds": 1}}}, "folds are parts .* 2 or more, not 1"),
        ({"teacher_sets": {"lab": {"checkpoints": {"en": "x", "ru": "x"}, "folds": 2}}}, "folds are parts"),
        (
            {"teacher_sets": {"lab": {"model": "scratch", "folds": 2}, "both": {"ensemble": ["lab"]}}},
            "'both': an ensemble would answer about sentences whose tags",
        ),
        ({"teacher_sets": {"lab": {"model": "scratch", "folds": 2}}}, "'text': rewritten sentences are made of"),
        ({"cells": {"none": {"objective": "none", "gold_pool": 39}}}, "max_train_sentences 40 are more than the 39"),
        ({"teacher_sets": {"lab": {"seeds": [1]}}}, "needs checkpoints, an ensemble or training fields"),
    ],
)
def test_wrong_grids_are_one_clear_error(changes, message):
    from experiments.grid import GridError

    changes = {"baseline": next(iter(changes.get("cells", ["none"]))), **changes}
    with pytest.raises(GridError, match=message):
        grid_of(**changes).all_cells()


def test_placeholders_are_filled_but_not_recorded():
    from experiments.grid import Grid, GridError

    content = {**CONTENT, "recipe": {**CONTENT["recipe"], "model": "${MODELS}/small"}}
    cell = Grid(content, "tiny", {"MODELS": "/somewhere"}).cell("none", 1)
    assert cell.model.model == "/somewhere/small"
    assert "/somewhere" not in json.dumps(cell.settings)
    with pytest.raises(GridError, match="needs --define MODELS=VALUE"):
        Grid(content, "tiny").cell("none", 1)


@pytest.mark.parametrize("file", sorted((EXPERIMENTS / "grids").glob("*.yaml")), ids=lambda file: file.stem)
def test_committed_grids_are_read(file):
    from experiments.grid import Grid

    grid = Grid.read(file, {"DATA": "/data", "ENCODERS": "/encoders"})
    assert len(grid.all_cells(seeds=[1])) == len(grid.cells)
    assert set(grid.baselines) <= set(grid.cells)


# ---- what cells see ----


def test_seeds_draw_subsets_and_text_contains_gold(tmp_path):
    from experiments.grid_corpora import GridCorpora

    text = {"objective": "posterior", "max_train_sentences": 0, "text_sentences": 60}
    grid = grid_of(cells={"none": {"objective": "none"}, "text": text})
    corpora = GridCorpora(grid)
    first, second, text = (grid.cell(*which) for which in (("none", 1), ("none", 2), ("text", 1)))
    gold, rest = corpora.rows("en", first)
    assert len(gold) == 40
    assert len(rest) == 0
    assert set(gold) != set(corpora.rows("en", second)[0])
    assert set(gold) != set(corpora.rows("ru", first)[0])
    none, seen = corpora.rows("en", text)
    assert len(none) == 0
    assert len(seen) == 60
    assert set(gold) <= set(seen)  # more text of the same seed is the same text and more


def test_trimming_embeddings_changes_nothing(corpus, tokenizer, labels, make_student):
    """Danger: the fast way of training gives another student."""
    from experiments.trimming import TrimmedEmbeddings

    data = encode_corpus(corpus.select(range(6)), tokenizer, labels)
    kinds = {"input_ids": torch.long, "attention_mask": torch.long, "labels": torch.long, "word_mask": torch.bool}

    def train(model, sentences):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
        for row in sentences:
            batch = {name: torch.tensor([row[name]], dtype=kind) for name, kind in kinds.items()}
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    whole, other = make_student(3), make_student(3)
    train(whole, data)
    trimmed = TrimmedEmbeddings(other, [data.select([0, 1, 2]), data.select([3, 4, 5])])
    assert len(trimmed.kept) < whole.get_input_embeddings().num_embeddings
    train(other, trimmed.renumber(data))
    trimmed.restore()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, msg=name)


def test_what_trimming_would_change_is_not_trimmed(make_student):
    from experiments.trimming import can_trim

    def args(**changed):
        return StructKDTrainingArguments("x", use_cpu=True, report_to="none", **changed)

    student = make_student()
    assert can_trim(student, args())
    assert not can_trim(student, args(weight_decay=0.01))
    assert not can_trim(student, args(optim="adafactor"))  # scales by the whole matrix
    student.config.pad_token_id = 250  # as ModernBERT's, which would get another number
    assert not can_trim(student, args())


def test_wrong_paths_are_those_of_transposed_transitions(tokenizer, make_student, corpus):
    from experiments.teacher_sets import WrongPathsTeacher

    model, sentences = make_student(1), list(corpus["tokens"][:4])
    right, wrong = Teacher(model, tokenizer), WrongPathsTeacher(model, tokenizer)
    a, b = right.chain_scores(sentences).scores, wrong.chain_scores(sentences).scores
    assert torch.equal(a.emissions, b.emissions)
    assert torch.equal(a.transitions.T, b.transitions)
    assert not b.start.any()
    assert right.revision != wrong.revision


def test_first_paths_are_the_first_asked_for():
    from datasets import Dataset

    from experiments.teacher_sets import first_paths

    data = Dataset.from_dict(
        {"teacher_topk_tags": [[[0, 1], [1, 1], [0, 0]]], "teacher_topk_log_probs": [[-0.1, -1.0, -2.0]]}
    )
    cut = first_paths(data, 2)
    assert cut[0] == {"teacher_topk_tags": [[0, 1], [1, 1]], "teacher_topk_log_probs": [-0.1, -1.0]}
    assert cut.features == data.features


# ---- sharing ----


def test_shared_jobs_are_done_once_and_failures_do_not_stop_the_rest(tmp_path):
    from filelock import FileLock

    from experiments.shared_work import Job, do_shared

    done, failed = [], []

    def work(name):
        if name == "b":
            raise RuntimeError("no")
        done.append(name)

    jobs = [Job(n, tmp_path / n, lambda n=n: n in done, lambda n=n: work(n)) for n in "abcd"]
    with FileLock(tmp_path / "d"):  # another process is at it
        do_shared(jobs, lambda job, error: failed.append(job.name), wait=False)
    assert done == ["a", "c"]
    assert failed == ["b"]


# ---- the whole way ----


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished grid: its file and its folder."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONTENT))
    printed = run("run_grid.py", folder / "tiny.yaml", "--output_dir", folder / "out", "--processes", "2").stdout
    assert "8 of 8 cells finished" in printed
    return folder


@pytest.mark.slow
def test_cells_leave_their_results_and_nothing_else(finished):
    cell = finished / "out" / "tiny" / "cells" / "text" / "seed-1"
    assert {file.name for file in cell.iterdir()} == {"results.json", "sentences.npz", ".lock"}
    results = json.loads((cell / "results.json").read_text())
    assert results["gold_sentences"] == {"en": 0, "ru": 0}
    assert results["text_sentences"] == {"en": 30, "ru": 30}
    assert results["updates"] == 2 * 15  # as many again are rewritten ones
    assert [point["epoch"] for point in results["curve"]] == [1.0, 2.0]
    assert set(results["curve"][0]["f1"]) == {"en", "ru", "macro"}
    assert all(entry["loss_nll"] == 0.0 for entry in results["losses"])
    assert set(results["scores"]["zero_shot"]) == {"de", "avg"}
    assert results["peak_memory_bytes"] > 2**20
    assert str(finished) not in (cell / "results.json").read_text()
    with np.load(cell / "sentences.npz") as counts:
        assert counts["ru"].shape == (3, 20)
    # two seeds for each of two languages, whatever the number of cells
    assert len(list((finished / "out" / "cache" / "teachers").glob("*/model.safetensors"))) == 4
    # and two pools, asked about once, beside each seed's rewritten sentences
    assert len(list((finished / "out" / "cache" / "answers").glob("*/answers.arrow"))) == 2 + 2 * 2


@pytest.mark.slow
def test_started_again_it_does_what_is_missing_and_refuses_what_has_changed(finished, refusal):
    cells = finished / "out" / "tiny" / "cells"
    times = {file: file.stat().st_mtime_ns for file in cells.glob("*/*/results.json")}
    lost = cells / "none" / "seed-2" / "results.json"
    before = json.loads(lost.read_text())
    lost.unlink()
    (lost.parent / "work").mkdir()  # of a cell that was killed
    again = run("run_grid.py", finished / "tiny.yaml", "--output_dir", finished / "out").stdout
    assert "8 cells, 7 finished before" in again
    assert json.loads(lost.read_text())["scores"] == before["scores"]  # a cell is what its seed makes it
    assert not (lost.parent / "work").exists()
    assert {file for file, at in times.items() if file.stat().st_mtime_ns != at} == {lost}
    other = {**CONTENT, "recipe": {**CONTENT["recipe"], "learning_rate": 0.01}}
    (finished / "changed").mkdir()
    (finished / "changed" / "tiny.yaml").write_text(yaml.safe_dump(other))
    said = refusal("experiments.run_grid", finished / "changed" / "tiny.yaml", "--output_dir", finished / "out")
    assert "learning_rate: there 0.02, asked 0.01" in said


@pytest.mark.slow
def test_a_cell_that_fails_says_so_and_the_rest_goes_on(finished):
    own = {"none": {"objective": "none"}, "broken": {"objective": "none", "learning_rate": 0.01, "keep_layers": 9}}
    (finished / "broken.yaml").write_text(yaml.safe_dump({**CONTENT, "cells": own, "seeds": 1, "curves": []}))
    options = ("--output_dir", finished / "out")
    done = run("run_grid.py", finished / "broken.yaml", *options, check=False)
    assert done.returncode == 1
    assert "1 of 2 cells finished" in done.stdout
    assert "without results: broken, seed 1" in done.stderr
    failure = finished / "out" / "broken" / "cells" / "broken" / "seed-1" / "failure.txt"
    assert "keep_layers must be from 1 to 1" in failure.read_text()


@pytest.mark.slow
def test_what_another_grid_has_finished_is_taken_from_there_if_nothing_differs(finished, tmp_path):
    own = {
        "same": {"objective": "none"},
        "same K": {"objective": "top_wk", "top_k": 2},
        "other rate": {"objective": "none", "learning_rate": 0.01},
    }
    changed = {"cells": own, "baseline": "same", "seeds": [2], "curves": [], "zero_shot": {}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({**CONTENT, **changed}))
    options = ("--output_dir", tmp_path / "out", "--cache_dir", finished / "out" / "cache")
    run("run_grid.py", tmp_path / "other.yaml", *options, "--reuse", finished / "out")
    read = lambda folder, cell: json.loads((folder / "cells" / cell / "seed-2" / "results.json").read_text())  # noqa: E731
    taken = read(tmp_path / "out" / "other", "same_K")
    assert taken["taken_from"] == {"grid": "tiny", "cell": "K=2"}
    assert (taken["grid"], taken["cell"]) == ("other", "same K")
    original = read(finished / "out" / "tiny", "K=2")
    assert (taken["finished"], taken["curve"]) == (original["finished"], original["curve"])
    assert set(taken["scores"]) == {"dev", "test"}  # this grid asks for no other languages
    assert "taken_from" not in read(tmp_path / "out" / "other", "other_rate")
    assert read(tmp_path / "out" / "other", "same")["taken_from"]["cell"] == "none"


@pytest.mark.slow
def test_what_was_done_with_other_sentences_or_teachers_is_not_taken(finished, tmp_path):
    from experiments.grid import Grid
    from experiments.grid_results import keep
    from experiments.pool import Pool
    from experiments.run_grid import take_over

    grid = Grid.read(finished / "tiny.yaml", {})
    cell, pool = grid.cell("K=2", 2), Pool(grid, finished / "out" / "cache")
    there = finished / "out" / "tiny" / cell.path
    kept = tmp_path / "kept" / "tiny" / cell.path
    shutil.copytree(there, kept)
    record = json.loads((there / "results.json").read_text())
    other = {
        "schema_version": 0,
        "corpora": {**record["corpora"], "en": {**record["corpora"]["en"], "train": "other"}},
        "model_revision": "other",
        "teacher_revisions": {**record["teacher_revisions"], "ru": "other"},
        "scores": {**record["scores"], "zero_shot": {"avg": record["scores"]["zero_shot"]["avg"]}},
    }
    for name, value in other.items():
        (kept / "results.json").write_text(json.dumps(record | {name: value}))
        assert not take_over(cell, grid, pool, tmp_path / "new", [tmp_path / "kept"]), name
    (kept / "results.json").write_text(json.dumps(record))
    assert take_over(cell, grid, pool, tmp_path / "new", [tmp_path / "kept"])
    # from packed results the same is taken
    keep(grid, finished / "out" / "tiny", tmp_path / "packed" / "tiny")
    assert take_over(cell, grid, pool, tmp_path / "newer", [tmp_path / "packed"])
    for name in ("results.json", "sentences.npz"):
        assert (tmp_path / "newer" / name).read_bytes() == (tmp_path / "new" / name).read_bytes()
        assert (tmp_path / "newer" / name).read_bytes() == (there / name).read_bytes()
    assert not take_over(grid.cell("text", 3), grid, pool, tmp_path / "none", [tmp_path / "packed"])


@pytest.mark.slow
def test_results_become_tables_plots_and_marked_places(finished, run_script):
    document = finished / "RESULTS.md"
    document.write_text(
        "Typed. <!-- results: tiny / none / score -->stale<!-- end --> <!-- results: other -->kept<!-- end -->\n"
        "<!-- results: tiny --><!-- end -->\n"
    )
    options = ("--results_dir", finished / "out", "--keep", finished / "kept", "--update", document)
    printed = run_script("experiments.report", finished / "tiny.yaml", *options, "--resamples", "50")
    assert "`none` (baseline)" in printed
    text = document.read_text()
    assert text.startswith("Typed. ")
    assert "stale" not in text
    assert "<!-- results: other -->kept<!-- end -->" in text
    assert "Zero-shot:" in text
    assert "whose p is corrected for 3 comparisons (Holm)" in text  # K=2, K=5 and text, two seeds each
    plots = "Test score by language; Gap closed; Score against training time; paths; dev"
    assert f"![{plots}](kept/tiny/figures.png)" in text
    assert (finished / "kept" / "tiny" / "figures.png").stat().st_size > 4000
    assert not list((finished / "kept").rglob("*.safetensors"))
    rows = json.loads((finished / "kept" / "summary.json").read_text())["tiny"]
    scores = {
        (run["cell"], run["seed"]): run["scores"]["test"]["avg"]["f1"]
        for run in map(json.loads, (finished / "kept" / "tiny" / "runs.jsonl").read_text().splitlines())
        if "cell" in run
    }
    assert not list((finished / "kept").rglob("results.json"))
    expected = [scores["K=5", seed] - scores["none", seed] for seed in (1, 2)]
    assert rows["K=5"]["difference"]["estimate"] == pytest.approx(sum(expected) / 2, abs=1e-6)
    run_script("experiments.report", finished / "tiny.yaml", *options, "--resamples", "50")
    assert document.read_text() == text  # again the same


def test_a_p_value_that_is_not_there_or_alone_is_not_called_corrected():
    from experiments.result_blocks import correction_of

    assert correction_of(0) == "needs several seeds"
    assert "not corrected" in correction_of(1)
    assert correction_of(2) == "is corrected for 2 comparisons (Holm)"


@pytest.mark.slow
def test_a_cell_has_a_card_of_all_its_seeds(finished, run_script, tmp_path):
    from hf_structkd.evaluation.results import read_results

    folder = tmp_path / "tiny-text"
    options = ("--results_dir", finished / "out")
    placed = {**CONTENT, "recipe": {**CONTENT["recipe"], "corpus": "${DATA}/{language}"}}  # as committed grids have it
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(placed))
    run_script("experiments.card", tmp_path / "tiny.yaml", "text", folder, *options)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "over 2 runs with seeds 1, 2" in card
    assert "- Not for use at all.\n- Tags follow" in card
    assert "| training sentences | en 30, ru 30 |\n| of these with gold tags | en 0, ru 0 |" in card
    results = read_results(folder)
    record = json.loads((finished / "out" / "tiny" / "cells" / "text" / "seed-1" / "results.json").read_text())
    assert results.comparison["test"]["students"]["posterior"]["ru"] == record["scores"]["test"]["ru"]["f1"]
    assert results.model["labels"][0] == "O"
    assert [(t["name"], t["weight"], t["score"]) for t in results.teachers][:2] == [
        ("lab, en, 1", 0.5, None),
        ("lab, en, 2", 0.5, None),
    ]
    assert results.hyperparameters["teacher_embeddings"] == "0.5"
    assert {point["epoch"] for point in results.history if "eval_macro_f1" in point} == {1.0, 2.0}


@pytest.mark.slow
def test_a_report_refuses_results_of_other_corpora_and_unknown_marks(finished):
    from experiments.grid import Grid, GridError
    from experiments.grid_results import GridResults
    from hf_structkd.evaluation.markdown import fill

    grid = Grid.read(finished / "tiny.yaml")
    with pytest.raises(GridError, match="holds no results"):
        GridResults.read(grid, finished / "nowhere")
    with pytest.raises(ValueError, match=r"nothing is called 'tiny / nobody / score'"):
        fill("<!-- results: tiny / nobody / score --><!-- end -->", {}, {"tiny"})
    file = finished / "out" / "tiny" / "cells" / "none" / "seed-1" / "results.json"
    text = file.read_text()
    results = json.loads(text)
    results["corpora"]["en"]["test"] = "another"
    file.write_text(json.dumps(results))
    try:
        with pytest.raises(GridError, match="run on other corpora"):
            GridResults.read(grid, finished / "out" / "tiny")
    finally:
        file.write_text(text)


# ---- what results are made of ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells": {"a": {"objective": "none", "corpus": "elsewhere"}}}, "cell 'a' .*corpus: a grid's cells share"),
        ({"cells": {"a": {"objective": "none", "unlabelled_corpus": "x"}}}, "unlabelled_corpus: a grid's text comes"),
        ({"cells": {"a": {"objective": "none", "max_test_sentences": 5}}}, "max_test_sentences: a grid's cells share"),
        ({"cells": {"a": {"objective": "none", "seed": 3}}}, "seed: a grid says seeds"),
        ({"cells": {"a": {"objective": "none", "label_names": ["x"]}}}, "label_names"),
        ({"recipe": {**CONTENT["recipe"], "annotation_dir": "x"}}, "the recipe .*annotation_dir: run_grid.py keeps"),
        ({"recipe": {**CONTENT["recipe"], "hidden_first": 0.2}}, "the recipe .*hidden_first: a grid's students"),
        ({"recipe": {**CONTENT["recipe"], "trim_vocabulary": 1}}, "the recipe .*trim_vocabulary: a grid trains"),
        ({"recipe": {**CONTENT["recipe"], "add_types": ["X"]}}, "the recipe .*add_types: a grid's label set"),
        ({"recipe": {**CONTENT["recipe"], "output_dir": "x"}}, "output_dir: run_grid.py has an option"),
        ({"teacher_sets": {"lab": {"model": "x", "top_k": 3}}}, "teacher set 'lab' .*top_k: teachers are trained on"),
        ({"teacher_sets": {"lab": {"model": "x", "languages": ["en"]}}}, "languages: it is the grid's where"),
        ({"teacher_sets": {"lab": {"checkpoints": {"en": "x"}, "together": True}}}, "together: its teachers are not"),
        (
            {"teacher_sets": {"a": {"model": "x"}, "b": {"ensemble": ["a"], "label_map": {"PER": "O"}}}},
            "teacher set 'b' .*label_map: the sets that it names",
        ),
    ],
)
def test_what_has_no_effect_in_a_grid_is_refused_where_it_stands(changes, message):
    from experiments.grid import GridError

    changes = {"baseline": next(iter(changes.get("cells", ["none"]))), **changes}
    with pytest.raises(GridError, match=message):
        grid_of(**changes)


def teacher_folder(tmp_path, language="all", **fields):
    """Where a grid keeps a teacher that is trained so; folders differ where teachers do."""
    from experiments.grid_corpora import GridCorpora
    from experiments.teacher_sets import TeacherSets

    spec = {**CONTENT["teacher_sets"]["lab"], "together": language == "all", **fields}
    grid = grid_of(teacher_sets={"lab": spec})
    sets = TeacherSets(grid, GridCorpora(grid), tmp_path)
    return sets._training("lab", grid.teacher_sets["lab"], language, 1, None)[0]


def test_teachers_that_differ_in_language_sampling_or_scheme_are_two(tmp_path):
    folders = [
        teacher_folder(tmp_path),
        teacher_folder(tmp_path, language_sampling_temperature=3.0),
        teacher_folder(tmp_path, tag_scheme="plain"),
        teacher_folder(tmp_path, normalization="sentence"),
    ]
    assert len(set(folders)) == 4
    assert teacher_folder(tmp_path, tag_scheme="BIO") == folders[0]  # what is found by default


def test_text_beside_a_gold_pool_is_none_that_teachers_learnt(tmp_path):
    """Danger: 'text that nobody tagged' whose tags the teachers have seen."""
    from experiments.grid_corpora import GridCorpora

    grid = grid_of(cells={"none": {"objective": "posterior", "max_train_sentences": 20, "text_sentences": 50,
                                   "gold_pool": 40}})  # fmt: skip
    corpora = GridCorpora(grid)
    drawn = [corpora.rows("en", grid.cell("none", seed)) for seed in (1, 2)]
    for gold, text in drawn:
        assert len(set(gold)) == 20
        assert max(gold) < 40
        assert len(set(text)) == 30
        assert set(text) <= set(range(40, 80))
    assert not np.array_equal(drawn[0][0], drawn[1][0])


def test_cross_fitted_teachers_answer_about_sentences_that_they_have_not_learnt(tmp_path):
    """Danger: answers of the wrong half, or of the right half in another order."""
    from experiments.pool import Pool
    from hf_structkd import annotate
    from hf_structkd.training.provenance import data_fingerprint

    lab = {"model": "scratch", "model_config": TINY, "num_train_epochs": 1, "folds": 2, "max_train_sentences": 31}
    recipe = {**CONTENT["recipe"], "languages": ["en"]}
    cells = {"none": {"objective": "posterior"}}
    grid = grid_of(recipe=recipe, teacher_sets={"lab": lab}, cells=cells, pool_sentences=50, annotation_top_k=2)
    pool = Pool(grid, tmp_path)
    sets, sentences = pool.teacher_sets, pool.corpora.splits["en"]["train"]
    for job in sets.teacher_jobs("lab"):
        job.work()
    teachers = sets.teachers("lab")["en"]
    for part, teacher in enumerate(teachers):
        record = json.loads((Path(teacher.name) / "settings.json").read_text())
        others = sentences.select([row for row in range(31) if row % 2 != part])
        assert record["settings"]["train"] == data_fingerprint(others)
    answers = sets.answers("en", grid.cell("none", 1))
    assert len(answers) == 50
    by_part = {}
    for row in range(50):
        teachers = sets.teachers("lab")["en"]
        asked = (
            teachers if row >= 31 else [teachers[row % 2]]
        )  # the teacher of part p has not learnt rows p, p + 2, ...
        by_part.setdefault(len(asked), set()).add(row)
        alone = annotate(sentences.select([row]), {"en": asked}, label_names=pool.corpora.labels,
                         targets=["teacher_marginals"], progress=False)  # fmt: skip
        np.testing.assert_allclose(
            np.array(answers[row]["teacher_marginals"]), np.array(alone[0]["teacher_marginals"]), atol=2e-3
        )
    assert {number: len(rows) for number, rows in by_part.items()} == {1: 31, 2: 19}


def test_rewriting_knows_no_mention_of_a_sentence_without_gold_tags(monkeypatch, tmp_path):
    """Danger: hidden gold tags reach the student by way of the rewritten sentences."""
    from experiments import pool as pool_module
    from experiments.pool import Pool

    cell = grid_of().cell("text", 1)
    cell.data.max_train_sentences, cell.own.text_sentences = 5, 30
    seen = []

    def spy(data, *args):
        seen.append(data)
        raise StopIteration

    monkeypatch.setattr(pool_module, "augment", spy)
    with pytest.raises(StopIteration):
        Pool(grid_of(), tmp_path).rewritten("en", cell, None, [])
    assert [tags is not None for tags in seen[0]["tags"]] == [True] * 5 + [False] * 25


def record_of(**changes):
    teacher_set = {"lab": {"model": "x"}}
    return {
        "cell": "none",
        "seed": 1,
        "metric": "f1",
        "settings": {"model": "m", "teacher_set": teacher_set, "seed": 1},
        "corpora": {"en": {"test": "aaaa-bbbb"}},
        "model_revision": "r1",
        "teacher_revisions": {"en": "t1"},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpora": {"en": {"test": "aaaa-cccc"}}}, "on other corpora .*corpora.en.test: there 'aaaa-bbbb'"),
        ({"model_revision": "r2"}, "began with another encoder .*model_revision: there 'r1', asked 'r2'"),
        ({"teacher_revisions": {"en": "t2"}}, "has other teachers 'lab' .*teacher_revisions.en"),
        (
            {"settings": {**record_of()["settings"], "learning_rate": 0.5, "seed": 2}},
            "of cell 'none' has other settings .*learning_rate",
        ),
        ({}, None),
        ({"corpora": {"en": {"test": "aaaa"}}}, None),  # of the first versions, which knew nothing of tags
    ],
)
def test_runs_of_unlike_data_encoders_or_teachers_are_not_compared(tmp_path, changes, message):
    from experiments.grid_results import GridError, GridResults

    for seed, record in ((1, record_of()), (2, record_of(seed=2, **changes))):
        folder = tmp_path / "cells" / "none" / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(record))
    if message is None:
        assert len(GridResults.read(grid_of(), tmp_path).runs()) == 2
    else:
        with pytest.raises(GridError, match=message):
            GridResults.read(grid_of(), tmp_path)


@pytest.mark.parametrize("folder", sorted((EXPERIMENTS / "results").glob("*/")), ids=lambda folder: folder.name)
def test_committed_results_stay_readable(folder):
    from experiments.grid import Grid
    from experiments.grid_results import GridResults

    grid = Grid.read(EXPERIMENTS / "grids" / f"{folder.name}.yaml")
    assert GridResults.read(grid, folder).runs()


@pytest.mark.slow
def test_a_finished_cell_whose_corpus_or_teachers_changed_is_refused(finished, tmp_path, refusal):
    """Danger: under the same path and settings, results of other gold tags count as finished."""
    copy = tmp_path / "out"
    shutil.copytree(finished / "out" / "tiny", copy / "tiny")
    file = copy / "tiny" / "cells" / "K=2" / "seed-1" / "results.json"
    record = json.loads(file.read_text())
    for changes, message in (
        (
            {"corpora": {**record["corpora"], "ru": {**record["corpora"]["ru"], "dev": "a-b"}}},
            r"corpora\.ru\.dev: there",
        ),
        ({"student": {**record["student"], "labels": ["O"]}}, r"labels: there \['O'\], asked"),
    ):
        file.write_text(json.dumps(record | changes))
        said = refusal("experiments.run_grid", finished / "tiny.yaml", "--output_dir", copy, "--dry_run")
        assert re.search(f"holds results of other data or models .*{message}", said)
    file.write_text(json.dumps(record | {"teacher_revisions": {**record["teacher_revisions"], "ru": "other"}}))
    lost = copy / "tiny" / "cells" / "none" / "seed-1" / "results.json"
    lost.unlink()
    options = ("--output_dir", copy, "--cache_dir", finished / "out" / "cache")
    done = run("run_grid.py", finished / "tiny.yaml", *options, check=False)
    assert done.returncode == 1
    assert "holds results of other data or models (teacher_revisions.ru: there 'other'" in done.stderr


@pytest.mark.slow
def test_teachers_are_scored_anew_where_their_definition_changed(finished, tmp_path):
    from experiments.cell_run import scores_are_those_of
    from experiments.grid import Grid
    from experiments.pool import Pool

    there = finished / "out" / "tiny" / "teachers" / "lab"
    sets = Pool(Grid.read(finished / "tiny.yaml"), finished / "out" / "cache").teacher_sets
    assert scores_are_those_of(there, "lab", sets)
    record = json.loads((there / "results.json").read_text())
    for changes in (
        {"settings": {**record["settings"], "label_map": {"PER": "O"}}},
        {"teacher_revisions": {"en": "other"}},
        {"corpora": {**record["corpora"], "en": {**record["corpora"]["en"], "test": "other-tags"}}},
    ):
        (tmp_path / "results.json").write_text(json.dumps(record | changes))
        assert not scores_are_those_of(tmp_path, "lab", sets), changes
    assert not scores_are_those_of(tmp_path / "nowhere", "lab", sets)
