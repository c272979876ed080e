"""Dangers: a recipe's unlabelled sentences are ones that a teacher or the student saw tags of, or none at all."""

import json
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, DatasetDict
from transformers import AutoModelForTokenClassification, AutoTokenizer

from hf_structkd import StructKDTrainingArguments
from hf_structkd.data.augmentation import Augmentation
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.recipes.data import unlabelled_part
from hf_structkd.recipes.fields import DistillationData, ModelArguments, TeacherArguments
from hf_structkd.recipes.parser import RecipeError
from hf_structkd.recipes.recipe import Recipe

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
