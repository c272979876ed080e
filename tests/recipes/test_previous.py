"""Dangers: a tagger is compared with the one that it replaces on other labels, or on answers that are not its own; a
card that hides what an update breaks."""

import json

import pytest

from hf_structkd import Teacher, load_corpora
from hf_structkd.evaluation import read_results
from hf_structkd.evaluation.flips import flips
from hf_structkd.recipes.folder import SETTINGS_FILE
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.recipes.recipe import Recipe
from hf_structkd.recipes.run import DistillationRun

from ..conftest import draw_student

OLD = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]  # in another order than the corpora's, and without ORG


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer, labels):
    folder = tmp_path_factory.mktemp("previous")
    for name, seed, own in (("old", 1, OLD), ("same", 1, labels[::-1]), ("new", 2, labels)):
        draw_student(tokenizer, own, seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def test_evaluate_counts_what_an_update_loses(place, run_script, tmp_path):
    printed = run_script(
        "structkd evaluate",
        *("--checkpoint", place / "new", "--previous", place / "old", "--corpus", "demo", "--languages", "de", "en"),
        *("--splits", "test", "--max_test_sentences", 30, "--output_file", tmp_path / "scores.json"),
    )
    results = read_results(tmp_path / "scores.json")
    assert set(results.scores["test"]) == {"previous", "new"}
    old, new = (Teacher.from_pretrained(str(place / name)) for name in ("old", "new"))
    rows = load_corpora("demo", ["de"], ["test"], max_sentences=30)["de"]["test"]
    words = list(rows["tokens"])
    assert results.flips["test"]["new"]["de"] == flips(old.tag(words), new.tag(words), list(rows["tags"]))
    assert set(results.flips["test"]["new"]) == {"de", "en", "all"}
    assert "Against the previous tagger, on test" in printed


def test_evaluate_scores_the_two_decoded_together(place, run_script, tmp_path, refusal):
    common = ("--corpus", "demo", "--languages", "de", "--splits", "test", "--max_test_sentences", 30)
    lost = {}
    for congruence in (0.0, 0.5, 1.0):
        run_script(
            "structkd evaluate",
            *("--checkpoint", place / "new", "--previous", place / "same", "--congruence", congruence, *common),
            *("--output_file", tmp_path / "scores.json"),
        )
        row = f"new, congruence {congruence:g}"
        lost[congruence] = read_results(tmp_path / "scores.json").flips["test"][row]["de"]["entities"]["lost"]
    reference = read_results(tmp_path / "scores.json").flips["test"]["new"]["de"]["entities"]["lost"]
    assert lost[0.0] == reference
    assert lost[1.0] == 0
    message = refusal(
        "structkd evaluate",
        *("--checkpoint", place / "new", "--previous", place / "old", "--congruence", 0.5, *common),
    )
    assert "one of them lacks B-ORG, I-ORG" in message
    assert "there is no previous tagger" in refusal(
        "structkd evaluate", "--checkpoint", place / "new", "--congruence", 0.5, *common
    )


def recipe_of(place, tmp_path, **changes):
    fields = {
        **{"corpus": "demo", "languages": ["de", "en"], "max_train_sentences": 20, "max_dev_sentences": 10},
        **{"max_test_sentences": 20, "model": str(place / "new"), "baseline": False, "objective": "posterior"},
        **{"previous": str(place / "same"), "teachers": "{previous}", "report_to": "none"},
        **{"num_train_epochs": 1, "per_device_train_batch_size": 16, "use_cpu": True, "disable_tqdm": True},
        **{"output_dir": str(tmp_path / "run")},
    }
    return Recipe.from_mapping({name: value for name, value in (fields | changes).items() if value is not None})


def test_a_student_is_compared_with_the_tagger_that_it_replaces(place, tmp_path, capsys):
    run = DistillationRun(recipe_of(place, tmp_path))
    results = run.run()
    assert run.teachers()["de"].name.endswith("same"), "the previous tagger teaches"
    assert set(results.flips) == {"test"}
    assert set(results.flips["test"]) == {"posterior"}
    assert list(results.scores["test"]) == ["previous", "teachers", "posterior"]
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert stored["flips"] == results.flips
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "### Against the previous tagger" in card
    assert "entities lost" in (tmp_path / "run" / "table.md").read_text()
    assert "Against the previous tagger, on test" in capsys.readouterr().out


def test_the_recipe_replace_weighs_what_the_old_tagger_has_right(place, tmp_path):
    recipe = Recipe.from_files(
        "replace",
        **{"previous": str(place / "same"), "model": str(place / "new"), "corpus": "demo", "languages": ["de"]},
        **{"max_train_sentences": 20, "max_dev_sentences": 10, "max_test_sentences": 10, "num_train_epochs": 1},
        **{"output_dir": str(tmp_path / "run"), "use_cpu": True, "disable_tqdm": True},
    )
    run = DistillationRun(recipe)
    results = run.run()
    assert set(results.flips["test"]) == {"baseline", "posterior"}
    seen = json.loads((run.folders["posterior"] / SETTINGS_FILE).read_text())["settings"]
    assert seen["focal_weights"] == [1, 5]
    assert recipe.training.objectives["posterior"][0].weighs_words


def test_a_previous_tagger_may_know_fewer_types_and_not_others(place, tmp_path, tokenizer):
    run = DistillationRun(recipe_of(place, tmp_path, previous=str(place / "old"), teachers=str(place / "same")))
    assert run.previous.labels == OLD
    draw_student(tokenizer, [*OLD, "B-GPE", "I-GPE"]).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    common = {"previous": str(tmp_path / "other"), "teachers": str(place / "same")}
    with pytest.raises(RecipeError, match="has GPE, which the student lacks"):
        DistillationRun(recipe_of(place, tmp_path, **common)).teachers()
    mapped = DistillationRun(recipe_of(place, tmp_path, **common, previous_label_map={"GPE": "LOC"}))
    assert mapped.previous is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"previous": None}, "name it in `previous`"),
        ({"previous": "no/such/folder", "teachers": None, "teacher_model": "scratch"}, "previous 'no/such/folder'"),
    ],
)
def test_a_previous_tagger_that_is_not_there_is_an_error(place, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        DistillationRun(recipe_of(place, tmp_path, **changes)).teachers()
