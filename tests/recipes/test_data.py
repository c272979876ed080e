"""Danger: a corpus that Python reads cannot be named in a recipe, or is read otherwise there."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from transformers import pipeline

from hf_structkd.cli import COMMANDS
from hf_structkd.data.foreign_formats import FORMATS
from hf_structkd.recipes.data import labels_of, load_data, load_unlabelled
from hf_structkd.recipes.fields import DataArguments
from hf_structkd.recipes.parser import RecipeError, parse_recipe
from hf_structkd.recipes.recipe import Recipe
from hf_structkd.recipes.run import DistillationRun

NUMBERED = "# text = Olu hums\n1\tOlu\tB-P\t-\tq\n2\thums\tO\t-\tq\n\n1\tKano\tB-L\n"
ANSWER = [(["Olu", "hums"], ["B-P", "O"]), (["Kano"], ["B-L"])]


@pytest.fixture
def read(tmp_path):
    """Reads a file by a recipe, and by the command line; both must give the same."""

    def read(content, name, split="train", **fields):
        for own in ("train", "dev"):
            (tmp_path / f"{own}{name}").write_text(content)
        fields = {"corpus": f"{tmp_path}/{{split}}{name}", "languages": ["ha"], **fields}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
        options = [part for key, value in fields.items()
                   for part in (f"--{key}", *map(str, value if isinstance(value, list) else [value]))]  # fmt: skip
        answers = []
        for argv in ([str(tmp_path / "recipe.yaml")], options):
            (args,) = parse_recipe([DataArguments], argv)
            data = load_data(args, splits=("train", "dev"))["ha"][split]
            answers.append((list(zip(data["tokens"], data["tags"])), args))
        assert answers[0][0] == answers[1][0]
        return answers[0]

    return read


def test_columns_by_number(read):
    assert read(NUMBERED, ".iob2", tokens_column=1, tags_column=2)[0] == ANSWER
    assert read(NUMBERED, ".iob2", tokens_column=1, column=2)[0] == ANSWER


def test_the_format_of_a_language_can_be_forced(read, tmp_path):
    """Danger: a corpus that Python reads cannot be named in a recipe."""
    assert read(NUMBERED, ".iob2", corpus_format="uner")[0] == ANSWER
    (tmp_path / "en.data").write_text("Olu B-P\nhums O\n\nKano B-L\n")
    (args,) = parse_recipe([DataArguments], ["--corpus", json.dumps({"ha": f"{tmp_path}/train.iob2",
                           "en": f"{tmp_path}/en.data"}), "--corpus_format", '{"ha": "uner"}'])  # fmt: skip
    for language, splits in load_data(args, splits=("train",)).items():
        assert list(zip(splits["train"]["tokens"], splits["train"]["tags"])) == ANSWER, language
    for wrong in ("unner", '{"ha": "unner"}'):
        with pytest.raises(RecipeError, match=r"not 'unner'. Did you mean 'uner'"):
            parse_recipe([DataArguments], ["--corpus", "x", "--corpus_format", wrong])
    with pytest.raises(ValueError, match="format names de, but the languages are ha, en"):
        load_data(replace(args, corpus_format={"de": "uner"}), splits=("train",))


def test_every_format_is_named_where_one_looks_for_it():
    """Danger: a format that can be forced, and that neither the page nor the help knows."""
    (corpus_format,) = (field for field in fields(DataArguments) if field.name == "corpus_format")
    page = (Path(__file__).parents[2] / "docs" / "corpora.md").read_text().partition("**The format of a file**")[2]
    table = page.partition("\n\n|")[2].partition("\n\n")[0]
    assert set(FORMATS) == set(re.findall(r"`([\w-]+)`", "".join(row.split("|")[1] for row in table.split("\n")[2:])))
    for text in (corpus_format.metadata["help"], COMMANDS["convert"].description):
        listed = text.partition("recognised: ")[2].partition("gliner")[0]
        assert {*re.findall("[a-z-]+", listed), "gliner"} - {"or"} == set(FORMATS)


def test_columns_by_name(read):
    table = "nr,word,tag\n0,Olu,B-P\n0,hums,O\n1,Kano,B-L\n"
    names = {"tokens_column": "word", "tags_column": "tag"}
    assert read(table, ".csv", sentence_column="nr", **names)[0] == ANSWER
    assert read(table, ".csv", sentence_column=0, **names)[0] == ANSWER


def test_tags_that_are_numbers_count_in_the_labels(read):
    rows = '{"tokens": ["Olu", "hums"], "ner_tags": [1, 0]}\n{"tokens": ["Kano"], "ner_tags": [2]}\n'
    found, args = read(rows, ".jsonl", labels=["O", "B-P", "B-L"])
    assert found == ANSWER
    assert labels_of(args, load_data(args, splits=["train"])) == ["O", "B-P", "B-L"]
    with pytest.raises(ValueError, match=r"tag 1 is a number.*\(in recipes: labels\)"):
        read(rows, ".jsonl")
    with pytest.raises(ValueError, match="tag 2, but there are only 2 label names"):
        read(rows, ".jsonl", labels=["O", "B-P"])


def test_sentences_without_tags_are_trained_on_and_not_scored(read):
    rows = '{"tokens": ["Olu", "hums"], "tags": ["B-P", "O"]}\n{"tokens": ["Kano"], "tags": null}\n'
    assert read(rows, ".jsonl")[0] == [ANSWER[0], (["Kano"], None)]
    assert read(rows, ".jsonl", split="dev")[0] == ANSWER[:1]


def test_text_has_no_columns(tmp_path):
    (tmp_path / "ha.txt").write_text("Olu hums\n")
    (tmp_path / "ha.iob2").write_text(NUMBERED)
    for name, words in (("ha.txt", [["Olu", "hums"]]), ("ha.iob2", [["Olu", "hums"], ["Kano"]])):
        args = DataArguments("demo", unlabelled_corpus=str(tmp_path / name), tokens_column=1)
        assert load_unlabelled(args, ["ha"])["ha"]["tokens"] == words
    with pytest.raises(RecipeError, match="would give every language the same"):
        load_unlabelled(args, ["ha", "yo"])


TEXTS = [
    {"text": "สมชายไปกรุงเทพ", "label": [[0, 5, "P"], [7, 14, "L"]]},
    {"text": "กรุงเทพ", "label": [[0, 7, "L"]]},
]


def task(text, *spans):
    """As Label Studio exports it: offsets count UTF-16 units."""
    values = [{"start": start, "end": end, "text": own, "labels": [kind]} for start, end, own, kind in spans]
    result = [{"type": "labels", "from_name": "label", "to_name": "text", "value": value} for value in values]
    return {"data": {"text": text}, "annotations": [{"was_cancelled": False, "result": result}]}


TASKS = [
    task("\U0001f600王小明住在上海。", (2, 5, "王小明", "P"), (7, 9, "上海", "L")),
    task("上海很大。", (0, 2, "上海", "L")),
]


@pytest.mark.slow
def test_a_recipe_over_exports_trains_a_tagger_of_raw_text(tmp_path):
    """Danger: a model is trained on other words than its pipeline finds, or its offsets are not those of the text."""
    for split in ("train", "dev", "test"):
        (tmp_path / f"th.{split}.jsonl").write_text(
            "\n".join(json.dumps(row, ensure_ascii=False) for row in TEXTS * 4)
        )
        (tmp_path / f"zh.{split}.json").write_text(json.dumps(TASKS * 4))
    (tmp_path / "more.txt").write_text("สมชาย\n")
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    recipe = {
        "corpus": {"th": f"{tmp_path}/th.{{split}}.jsonl", "zh": f"{tmp_path}/zh.{{split}}.json"},
        "words": "characters",
        "teacher_model": "scratch",
        "teacher_model_config": shape,
        "teacher_num_train_epochs": 1,
        "baseline": False,
        "model": "scratch",
        "vocab_size": 120,
        "model_config": shape,
        "objective": "none",
        "num_train_epochs": 40,
        "learning_rate": 1e-2,
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
        "report_to": "none",
    }
    DistillationRun(Recipe.from_mapping(recipe)).run()
    pipe = pipeline("crf-token-classification", model=str(tmp_path / "out" / "student"))
    for text, answer in {
        "สมชาย ไปกรุงเทพ": [("P", "สมชาย"), ("L", "กรุงเทพ")],
        " \U0001f600 王小明\u3000住在上海。\n": [
            ("P", "王小明"),
            ("L", "上海"),
        ],  # the words of training, other blanks
        "上海\n很大。": [("L", "上海")],
    }.items():
        entities = pipe(text)["entities"]
        assert [(entity["entity_group"], text[entity["start"] : entity["end"]]) for entity in entities] == answer
    assert load_unlabelled(DataArguments(corpus="demo", unlabelled_corpus={"th": str(tmp_path / "more.txt")},
                                         words="characters"), ["th"])["th"]["tokens"] == [list("สมชาย")]  # fmt: skip
    other = {**recipe, "model_config": {**shape, "words": "rules"}, "output_dir": str(tmp_path / "o")}
    run = DistillationRun(Recipe.from_mapping(other))
    with pytest.raises(RecipeError, match=r"words: 'characters', but model_config says words: 'rules'"):
        run.run()
    with pytest.raises(RecipeError, match="unknown segmenter 'thai'"):
        Recipe.from_mapping({**recipe, "words": "thai"})
