"""Danger: a recipe of teachers and text trains on other data than it names, or its agreement passes for a score."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_structkd import load_corpora
from hf_structkd.data import hub_datasets
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.recipes.recipe import Recipe
from hf_structkd.recipes.run import DistillationRun

from ..conftest import draw_student

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
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
