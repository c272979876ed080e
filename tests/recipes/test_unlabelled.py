"""Dangers: a recipe's unlabelled sentences are ones that a teacher or the student saw tags of, or none at all."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard
from transformers import AutoModelForTokenClassification, AutoTokenizer

from hf_structkd import StructKDTrainingArguments, Teacher, load_corpora
from hf_structkd.data import hub_datasets
from hf_structkd.data.augmentation import Augmentation
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.recipes.borrowed import borrow
from hf_structkd.recipes.data import unlabelled_part
from hf_structkd.recipes.fields import DistillationData, ModelArguments, TeacherArguments
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.recipes.recipe import Recipe
from hf_structkd.recipes.run import DistillationRun
from hf_structkd.recipes.teachers import calibrate_teachers, given_teachers

from ..conftest import draw_student

ROOT = Path(__file__).parents[2]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def part(data=None, teachers=None, **args):
    train = Dataset.from_dict({"tokens": [[str(i)] for i in range(10)], "tags": [["O"]] * 10})
    whole = {language: DatasetDict({"train": train}) for language in ("en", "ru")}
    arguments = StructKDTrainingArguments(output_dir="x", use_cpu=True, report_to="none", **args)
    teacher_args = TeacherArguments(teacher_model="x", **(teachers or {}))
    return unlabelled_part(
        whole, Recipe(DistillationData("demo", **(data or {})), ModelArguments(), teacher_args, arguments)
    )


def words(dataset):
    return [tokens[0] for tokens in dataset["tokens"]]


def test_they_come_after_all_sentences_whose_tags_somebody_saw():
    asked = {"max_train_sentences": 2, "unlabelled_sentences": 3}
    found = part(asked, {"teacher_max_train_sentences": 5})
    assert [words(found[language]) for language in ("en", "ru")] == [["5", "6", "7"]] * 2
    given = {"teachers": {"en": "path"}, "teacher_max_train_sentences": 8}
    found = part(asked, given)  # the teacher for en is not trained here
    assert {language: words(data) for language, data in found.items()} == {"en": ["2", "3", "4"], "ru": ["8", "9"]}
    assert part() == {}


@pytest.mark.parametrize(
    ("data", "teachers", "args", "message"),
    [
        ({"unlabelled_sentences": 3}, {}, {}, "give both"),
        ({"unlabelled_sentences": 3, "max_train_sentences": 2}, {}, {}, "give both"),
        (
            {"unlabelled_sentences": 3, "max_train_sentences": 2},
            {"teacher_max_train_sentences": 10},
            {},
            "en has 10 training sentences, none after the first 10",
        ),
        ({"unlabelled_sentences": 3}, {}, {"objective": "none"}, "asks no teacher"),
        ({"augmentation": Augmentation()}, {}, {"objective": "none"}, "asks no teacher"),
        ({}, {}, {"unlabelled_rate": 0.5}, "needs unlabelled_sentences"),
    ],
)
def test_what_cannot_be_is_said(data, teachers, args, message):
    with pytest.raises(RecipeError, match=message):
        part(data, teachers, **args)


@pytest.mark.slow
def test_a_recipe_with_unlabelled_sentences_trains_on_them(tmp_path, run_script):
    for split, count in {"train": 60, "dev": 8, "test": 12}.items():
        rows = load_demo_corpus("en", split, num_sentences=count)
        lines = ["".join(f"{w}\t{t}\n" for w, t in zip(row["tokens"], row["tags"])) for row in rows]
        (tmp_path / f"en.{split}.conll").write_text("\n".join(lines), encoding="utf-8")
    fields = yaml.safe_load((ROOT / "examples" / "recipes" / "wikiann_unlabelled.yaml").read_text())
    fields |= {
        **{"corpus": f"{tmp_path}/{{language}}.{{split}}.conll", "languages": ["en"], "model": "scratch"},
        **{"model_config": TINY, "teacher_model_config": TINY, "teacher_model": "scratch", "vocab_size": 250},
        **{"max_train_sentences": 8, "teacher_max_train_sentences": 30, "unlabelled_sentences": 20},
        **{
            "num_train_epochs": 2,
            "teacher_num_train_epochs": 1,
            "per_device_train_batch_size": 4,
            "use_cpu": True,
        },
        **{"output_dir": str(tmp_path / "run"), "disable_tqdm": True, "learning_rate": 5e-3},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
    on_top = ROOT / "examples" / "recipes" / "past_the_paper.yaml"
    printed = run_script("run_distill.py", tmp_path / "recipe.yaml", on_top, "--output_dir", tmp_path / "run")
    assert "8 train, 8 dev, 12 test, 20 unlabelled" in printed
    assert "84 sentences rewritten" in printed
    steps = {
        row: json.loads((tmp_path / "run" / row / "trainer_state.json").read_text())["max_steps"]
        for row in ("baseline", "student")
    }
    assert steps == {"baseline": 2 * 8 // 4, "student": 2 * 32 // 4}  # unlabelled_rate: 3 to 1
    settings = {
        row: json.loads((tmp_path / "run" / row / "settings.json").read_text())["settings"]
        for row in ("baseline", "student")
    }
    assert settings["student"]["teacher_embeddings"] == 0.5  # another share is another student
    assert "teacher_embeddings" not in settings["baseline"]  # gold tags alone
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "| `teacher_embeddings` | `0.5` |" in card
    assert "| `augmentation` | `Augmentation(copies=3" in card
    rows = {
        row: AutoModelForTokenClassification.from_pretrained(tmp_path / "run" / row).get_input_embeddings().weight
        for row in ("baseline", "student")
    }
    # both began alike, and learnt nothing of pieces that no sentence has
    alike = (rows["student"] == rows["baseline"]).all(dim=1).nonzero()[:, 0].tolist()
    assert set(alike) <= set(AutoTokenizer.from_pretrained(tmp_path / "run" / "student").all_special_ids), "no start"


@pytest.mark.slow
def test_embeddings_from_teachers_are_refused_under_a_frozen_encoder(refusal, tmp_path):
    recipe = ROOT / "examples" / "recipes" / "past_the_paper.yaml"
    frozen = ("--corpus", "demo", "--model_config", '{"freeze_encoder": true}', "--output_dir", tmp_path / "run")
    assert "cannot get used to teacher_embeddings: leave one out" in refusal("run_distill.py", recipe, *frozen)
    assert not (tmp_path / "run").exists()


# Danger: a recipe of teachers and text trains on other data than it names, or its agreement passes for a score.


LANGUAGES = ["de", "en"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer, labels):
    """Text of two languages, gold tags of one, and a teacher."""
    folder = tmp_path_factory.mktemp("no_gold")
    corpora = load_corpora("demo", LANGUAGES, max_sentences=60)
    for language, splits in corpora.items():
        text = "\n".join(" ".join(words) for words in splits["train"]["tokens"])
        (folder / f"{language}.txt").write_text(text)
        lines = [
            "\n".join(f"{word} {tag}" for word, tag in zip(words, tags))
            for words, tags in zip(splits["test"]["tokens"], splits["test"]["tags"])
        ]
        (folder / f"{language}.conll").write_text("\n\n".join(lines) + "\n")
    draw_student(tokenizer, labels).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    return folder


def recipe_of(place, **changes):
    fields = {
        **{"languages": LANGUAGES, "unlabelled_corpus": str(place / "{language}.txt"), "objective": "top_wk"},
        **{"teachers": str(place / "teacher"), "model": "scratch", "model_config": TINY, "vocab_size": 300},
        **{"num_train_epochs": 1, "per_device_train_batch_size": 16, "use_cpu": True, "disable_tqdm": True},
    }
    return Recipe.from_mapping({name: value for name, value in (fields | changes).items() if value is not None})


def test_teachers_and_text_alone_make_a_student(place, tmp_path, capsys, labels):
    recipe = recipe_of(place, output_dir=str(tmp_path / "run"))
    results = DistillationRun(recipe).run()
    assert "6 to compare with the teachers, 54 unlabelled" in capsys.readouterr().out
    assert results.gold_sentences == {"de": 0, "en": 0}
    assert results.train_sentences == {"de": 54, "en": 54}
    assert set(results.scores) == {"agreement"}
    assert set(results.scores["agreement"]) == {"top_wk"}
    stored = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert set(stored["label2id"]) == set(labels), "the labels are the teacher's"
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "It learnt from their answers about text alone, without gold tags." in card
    assert "agreement with the teachers, on text that nobody tagged" in card
    assert "model-index" not in card, "agreement is no score against gold tags"
    again = DistillationRun(recipe).run()  # everything is found again
    assert again.scores == results.scores


def test_gold_tags_that_there_are_serve_for_scores_alone(place, tmp_path, monkeypatch):
    # every file passes for a dataset on the Hub
    monkeypatch.setattr(hub_datasets, "hub_dataset", lambda source: f"owner/{Path(source).name}")
    gold = {"en": {"test": str(place / "en.conll")}, "de": {"dev": str(place / "de.conll")}}
    run = DistillationRun(recipe_of(place, corpus=gold, output_dir=str(tmp_path / "run")))
    results = run.run()
    assert run.data.agreement == ("en",)
    assert not len(run.data.train)
    assert {split: set(rows) for split, rows in results.scores.items()} == {
        "dev": {"teachers", "top_wk"},
        "test": {"teachers", "top_wk"},
        "agreement": {"top_wk"},
    }
    assert set(results.comparison["test"]["students"]["top_wk"]) == {"en"}
    assert set(results.comparison["dev"]["students"]["top_wk"]) == {"de"}
    card = ModelCard.load(tmp_path / "run" / "student" / "README.md").data
    # Danger: the scores are said to be on the text that was learnt from, or on another language's corpus
    assert [(result.dataset_config, result.dataset_type) for result in card.eval_results] == [("en", "owner/en.conll")]
    assert {"owner/en.txt", "owner/de.txt"} <= set(card.datasets)


def test_held_out_sentences_are_not_learnt_from(place, tmp_path):
    run = DistillationRun(recipe_of(place, max_dev_sentences=20, output_dir=str(tmp_path / "run")))
    for language, dev in run.data.dev.items():
        learnt = {tuple(words) for words in run.data.unlabelled[language]["tokens"]}
        text = [tuple(line.split()) for line in (place / f"{language}.txt").read_text().splitlines()]
        assert [tuple(words) for words in dev["tokens"]] == text[:20]
        assert len(dev) == 20
        assert len(run.data.unlabelled[language]) == 40
        assert learnt == set(text[20:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unlabelled_corpus": None}, "To learn from teachers alone, it needs no corpus, but unlabelled_corpus"),
        ({"teachers": None, "languages": None}, "needs no corpus, but languages, teachers"),
        ({"max_dev_sentences": 60}, "has 60 sentences without tags: too few to hold out 60"),
        ({"teacher_temperature": "auto"}, "temperature auto is fitted to gold tags, and de has no dev corpus"),
        ({"lambda_start": 0.5}, "without gold tags there is nothing to weigh distillation against"),
        ({"objective": "none"}, "objective 'none' asks no teacher"),
        ({"teachers": {"de": "x"}}, "no teacher for language en"),
    ],
)
def test_what_is_missing_is_said(place, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        DistillationRun(recipe_of(place, output_dir=str(tmp_path / "run"), **changes)).teachers()


# Dangers: a language that nobody tagged is taught by no one, by strangers as much as by neighbours, or by answers of
# which nobody is sure.


BORROWED_LANGUAGES = ["de", "en", "es"]  # es has neither gold tags nor a teacher


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory, tokenizer, labels):
    folder = tmp_path_factory.mktemp("borrowed")
    for language, splits in load_corpora("demo", BORROWED_LANGUAGES, max_sentences=30).items():
        text = "\n".join(" ".join(words) for words in splits["train"]["tokens"])
        (folder / f"{language}.txt").write_text(text)
    for language, seed in (("de", 1), ("en", 2), ("start", 3)):
        draw_student(tokenizer, labels, seed=seed).save_pretrained(folder / language)
        tokenizer.save_pretrained(folder / language)
    return folder


def borrowed_recipe(neighbours, tmp_path, **changes):
    fields = {
        **{
            "languages": BORROWED_LANGUAGES,
            "unlabelled_corpus": str(neighbours / "{language}.txt"),
            "objective": "posterior",
        },
        **{"teachers": {"de": str(neighbours / "de"), "en": str(neighbours / "en")}, "borrow_teachers": True},
        **{
            "teacher_confidence": 0.2,
            "confidence_weight": 1.0,
            "model": str(neighbours / "start"),
            "report_to": "none",
        },
        **{"num_train_epochs": 1, "per_device_train_batch_size": 16, "use_cpu": True, "disable_tqdm": True},
        **{"output_dir": str(tmp_path / "run"), "max_dev_sentences": 5},
    }
    return Recipe.from_mapping({name: value for name, value in (fields | changes).items() if value is not None})


def test_the_teachers_of_other_languages_answer_by_likeness(neighbours, tmp_path, capsys):
    run = DistillationRun(borrowed_recipe(neighbours, tmp_path))
    results = run.run()
    assert "es has no teacher of its own; likeness of those that answer: de " in capsys.readouterr().out
    panel = run.teachers()["es"]
    assert [teacher.name.rsplit("/", 1)[-1] for teacher, _ in panel.members] == ["de", "en"]
    assert sum(weight for _, weight in panel.members) == pytest.approx(1.0)
    assert panel.confidence == 0.2
    assert results.train_sentences == {"de": 25, "en": 25, "es": 25}
    assert "teacher_entropy" in run.annotate().column_names
    stored = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    assert stored["languages"] == BORROWED_LANGUAGES


def test_a_language_is_likest_itself(neighbours, tmp_path):
    from hf_structkd.recipes.borrowed import likeness

    recipe = borrowed_recipe(neighbours, tmp_path)
    texts = {"en": [["Anna", "flew", "to", "Paris"]], "same": [["Anna", "flew", "to", "Paris"]], "de": [["."] * 30]}
    alike = likeness(["en", "de"], ["same"], texts, recipe)
    assert alike["en", "same"] == pytest.approx(1.0, abs=1e-5)
    assert 0.01 <= alike["de", "same"] < 0.999
    scratch = borrowed_recipe(neighbours, tmp_path, model="scratch")
    assert likeness(["en", "de"], ["same"], texts, scratch) == {("en", "same"): 1.0, ("de", "same"): 1.0}


@pytest.mark.parametrize("without_gold", [(), ("es",)])
def test_a_lent_teacher_keeps_the_temperature_of_its_own_language(neighbours, tmp_path, labels, without_gold):
    """It was fitted again to the language that borrows it, for both; without gold tags there, that was an error."""
    corpora = load_corpora("demo", BORROWED_LANGUAGES, max_sentences=30)
    temperatures = []
    for language in ("de", "en"):
        teacher = Teacher.from_pretrained(str(neighbours / language))
        with torch.no_grad():
            teacher.model.classifier.bias[labels.index("O")] += 10.0  # too sure, by how much depends on the language
        teacher.model.save_pretrained(tmp_path / language)
        teacher.tokenizer.save_pretrained(tmp_path / language)
        temperatures.append(teacher.calibrate(corpora[language]["dev"], labels).temperature)
    teachers = {language: str(tmp_path / language) for language in ("de", "en")}
    recipe = borrowed_recipe(neighbours, tmp_path, teachers=teachers, teacher_temperature="auto")
    texts = {language: list(splits["train"]["tokens"]) for language, splits in corpora.items()}
    panels = borrow(given_teachers(BORROWED_LANGUAGES, recipe), BORROWED_LANGUAGES, texts, recipe)
    calibrate_teachers(panels, corpora, labels, recipe.teachers, without_gold)
    assert [panels[language].members[0][0].temperature for language in ("de", "en")] == temperatures
    assert [teacher.temperature for teacher, _ in panels["es"].members] == temperatures


def test_one_teacher_of_several_languages_is_asked_once(neighbours, tmp_path):
    run = DistillationRun(
        borrowed_recipe(neighbours, tmp_path, teachers={"de": str(neighbours / "de"), "en": str(neighbours / "de")})
    )
    assert len(run.teachers()["es"].members) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": {"de": "de", "en": "en", "es": "de"}}, "every language has a teacher of its own"),
        ({"borrow_teachers": None, "teacher_confidence": None}, "no teacher for language es"),
        ({"teacher_confidence": 0.0}, "teacher_confidence must be a number above 0"),
        ({"confidence_weight": -1.0}, "confidence_weight must be a number of at least 0"),
    ],
)
def test_what_cannot_be_borrowed_is_refused(neighbours, tmp_path, changes, message):
    if "teachers" in changes:
        changes["teachers"] = {language: str(neighbours / name) for language, name in changes["teachers"].items()}
    with pytest.raises(RecipeError, match=message):
        DistillationRun(borrowed_recipe(neighbours, tmp_path, **changes)).teachers()


def test_teachers_answer_about_a_language_that_they_do_not_know(neighbours):
    assert Teacher.from_pretrained(str(neighbours / "de")).tag([["Hola"]])
