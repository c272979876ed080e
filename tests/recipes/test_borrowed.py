"""Dangers: a language that nobody tagged is taught by no one, by strangers as much as by neighbours, or by answers of
which nobody is sure."""

import json

import pytest

from hf_structkd import Teacher, load_corpora
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.recipes.recipe import Recipe
from hf_structkd.recipes.run import DistillationRun

from ..conftest import draw_student

LANGUAGES = ["de", "en", "es"]  # es has neither gold tags nor a teacher


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer, labels):
    folder = tmp_path_factory.mktemp("borrowed")
    for language, splits in load_corpora("demo", LANGUAGES, max_sentences=30).items():
        text = "\n".join(" ".join(words) for words in splits["train"]["tokens"])
        (folder / f"{language}.txt").write_text(text)
    for language, seed in (("de", 1), ("en", 2), ("start", 3)):
        draw_student(tokenizer, labels, seed=seed).save_pretrained(folder / language)
        tokenizer.save_pretrained(folder / language)
    return folder


def recipe_of(place, tmp_path, **changes):
    fields = {
        **{"languages": LANGUAGES, "unlabelled_corpus": str(place / "{language}.txt"), "objective": "posterior"},
        **{"teachers": {"de": str(place / "de"), "en": str(place / "en")}, "borrow_teachers": True},
        **{"teacher_confidence": 0.2, "confidence_weight": 1.0, "model": str(place / "start"), "report_to": "none"},
        **{"num_train_epochs": 1, "per_device_train_batch_size": 16, "use_cpu": True, "disable_tqdm": True},
        **{"output_dir": str(tmp_path / "run"), "max_dev_sentences": 5},
    }
    return Recipe.from_mapping({name: value for name, value in (fields | changes).items() if value is not None})


def test_the_teachers_of_other_languages_answer_by_likeness(place, tmp_path, capsys):
    run = DistillationRun(recipe_of(place, tmp_path))
    results = run.run()
    assert "es has no teacher of its own; likeness of those that answer: de " in capsys.readouterr().out
    panel = run.teachers()["es"]
    assert [teacher.name.rsplit("/", 1)[-1] for teacher, _ in panel.members] == ["de", "en"]
    assert sum(weight for _, weight in panel.members) == pytest.approx(1.0)
    assert panel.confidence == 0.2
    assert results.train_sentences == {"de": 25, "en": 25, "es": 25}
    assert "teacher_entropy" in run.annotate().column_names
    stored = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert stored["languages"] == LANGUAGES


def test_a_language_is_likest_itself(place, tmp_path):
    from hf_structkd.recipes.borrowed import likeness

    recipe = recipe_of(place, tmp_path)
    texts = {"en": [["Anna", "flew", "to", "Paris"]], "same": [["Anna", "flew", "to", "Paris"]], "de": [["."] * 30]}
    alike = likeness(["en", "de"], ["same"], texts, recipe)
    assert alike["en", "same"] == pytest.approx(1.0, abs=1e-5)
    assert 0.01 <= alike["de", "same"] < 0.999
    scratch = recipe_of(place, tmp_path, model="scratch")
    assert likeness(["en", "de"], ["same"], texts, scratch) == {("en", "same"): 1.0, ("de", "same"): 1.0}


def test_one_teacher_of_several_languages_is_asked_once(place, tmp_path):
    run = DistillationRun(recipe_of(place, tmp_path, teachers={"de": str(place / "de"), "en": str(place / "de")}))
    assert len(run.teachers()["es"].members) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": {"de": "de", "en": "en", "es": "de"}}, "every language has a teacher of its own"),
        ({"borrow_teachers": None}, "no teacher for language es"),
        ({"teacher_confidence": 0.0}, "teacher_confidence must be a number above 0"),
        ({"confidence_weight": -1.0}, "confidence_weight must be a number of at least 0"),
    ],
)
def test_what_cannot_be_borrowed_is_refused(place, tmp_path, changes, message):
    if "teachers" in changes:
        changes["teachers"] = {language: str(place / name) for language, name in changes["teachers"].items()}
    with pytest.raises(RecipeError, match=message):
        DistillationRun(recipe_of(place, tmp_path, **changes)).teachers()


def test_teachers_answer_about_a_language_that_they_do_not_know(place):
    assert Teacher.from_pretrained(str(place / "de")).tag([["Hola"]])
