"""Recipes: no value may be silently ignored, overwritten, or left a string."""

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import pytest
import yaml
from transformers import TrainingArguments

from hf_structkd.recipes import fields
from hf_structkd.recipes.parser import RecipeError, parse_recipe
from hf_structkd.recipes.recipe import Recipe
from hf_structkd.recipes.run import DistillationRun
from hf_structkd.settings import compare_settings, dump_settings


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class DataArguments:
    data: str | dict[str, Any] = field(default="demo", metadata={"help": "Where 100 % of the words come from."})
    languages: list[str] = field(default_factory=list)
    sizes: dict[str, int] | None = None
    teachers: dict[str, str | dict[str, Any]] | None = None
    baseline: bool = True
    lowercase: bool = False
    limit: int | None = None
    fraction: float = 1.0
    colour: Colour = Colour.RED
    mode: Literal["fast", "exact"] = "fast"
    level: int | str = "auto"
    api_token: str | None = None
    kind: str = field(default="crf", metadata={"choices": ["crf", "softmax"]})


@dataclass
class NeedyArguments:
    model: str


@dataclass
class TrainArguments(TrainingArguments):
    objective: str | dict[str, Any] = "posterior"


@pytest.fixture
def recipe(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def read(*argv: str) -> DataArguments:
    (arguments,) = parse_recipe((DataArguments,), list(argv))
    return arguments


def refusal(*argv: str, types: tuple[type, ...] = (DataArguments,)) -> str:
    with pytest.raises(RecipeError) as error:
        parse_recipe(types, list(argv))
    return str(error.value)


def test_a_recipe_with_training_arguments_is_typed(recipe, tmp_path):
    # YAML 1.1 reads 5e-5 and 1e-6 as strings: the first crashes the optimizer late, the second (untyped) never shows
    text = f"""
        output_dir: {tmp_path}
        languages: [en, de]
        learning_rate: 5e-5
        max_steps: 1e3
        lr_scheduler_type: cosine_with_min_lr
        lr_scheduler_kwargs: {{min_lr: 1e-6, num_cycles: 0.5}}
        report_to: none
        eval_strategy: epoch
        use_cpu: true
        objective: {{posterior: 1.0, top_wk: 0.5}}
    """
    data, train = parse_recipe((DataArguments, TrainArguments), [recipe(text), "--seed", "7", "--max_grad_norm=0.5"])
    assert (train.learning_rate, train.max_steps, train.seed, train.max_grad_norm) == (5e-5, 1000, 7, 0.5)
    assert train.lr_scheduler_kwargs == {"min_lr": 1e-6, "num_cycles": 0.5}
    assert train.report_to in (["none"], [])
    assert train.eval_strategy.value == "epoch"
    assert train.objective == {"posterior": 1.0, "top_wk": 0.5}
    assert data.languages == ["en", "de"]


def test_options_win_over_the_recipe_and_the_recipe_over_defaults(recipe):
    path = recipe("languages: [en]\nfraction: 0.5\nlimit: 10\nbaseline: false\n")
    arguments = read(path, "--limit", "null", "--languages", "de", "nl")
    # fraction and baseline guard against options' defaults hiding what the recipe says
    assert (arguments.fraction, arguments.baseline, arguments.limit) == (0.5, False, None)
    assert arguments.languages == ["de", "nl"]


def test_of_several_recipes_the_later_one_wins_and_each_is_named(recipe, tmp_path):
    corpora = tmp_path / "corpora.yaml"
    corpora.write_text("languages: [en, de]\nsizes: {en: 5}\nlimit: 10\n")
    student = recipe("sizes: {de: 1}\nfraction: 0.5\n")
    arguments = read(str(corpora), student, "--limit", "3")
    assert (arguments.languages, arguments.fraction, arguments.limit) == (["en", "de"], 0.5, 3)
    assert arguments.sizes == {"de": 1}  # as a whole: a mapping of two halves would be nobody's
    assert read(student, str(corpora)).sizes == {"en": 5}
    corpora.write_text("limit: many\n")
    assert "corpora.yaml" in refusal(str(corpora), student)
    assert "recipes first" in refusal(student, "--languages", "en", str(corpora))
    corpora.write_text("limit: 1\n")
    student = recipe("output_dir: x\nload_best_model_at_end: true\neval_strategy: 'no'\nsave_strategy: steps\n")
    assert f"{corpora}, {student}: " in refusal(str(corpora), student, types=(DataArguments, TrainArguments))


@pytest.mark.parametrize(
    ("argv", "name", "expected"),
    [
        (["--baseline", "false"], "baseline", False),
        (["--no_baseline"], "baseline", False),
        (["--no-baseline"], "baseline", False),
        (["--lowercase"], "lowercase", True),
        (["--lowercase=yes"], "lowercase", True),
        (["--no_lowercase"], "lowercase", False),
        (["--languages", '["en", "no"]'], "languages", ["en", "no"]),
        (["--languages=en"], "languages", ["en"]),
        (["--sizes", '{"en": 5}'], "sizes", {"en": 5}),
        (["--data", '{"en": "train.conll"}'], "data", {"en": "train.conll"}),
        (["--data", "corpora/train.conll"], "data", "corpora/train.conll"),
        (["--limit", "-1"], "limit", -1),
        (["--colour", "blue"], "colour", Colour.BLUE),
        (["--mode", "exact"], "mode", "exact"),
        (["--level", "3"], "level", 3),
        (["--level", "auto"], "level", "auto"),
        (["--fraction", "1e-1"], "fraction", 0.1),
    ],
)
def test_every_kind_of_field_can_be_overridden(recipe, argv, name, expected):
    value = getattr(read(recipe("limit: 3\n"), *argv), name)
    assert value == expected
    assert type(value) is type(expected)
    assert getattr(read(*argv), name) == expected  # the recipe is optional


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("languages: [en, no, on]", "languages", ["en", "no", "on"]),  # Norwegian is not False
        ("sizes: {no: 5}", "sizes", {"no": 5}),
        ("limit: '12'", "limit", 12),
        ("lowercase: yes", "lowercase", True),
        ("level: '3'", "level", "3"),
        ("data: 2024-01-01", "data", "2024-01-01"),
        ("data: {train: {fraction: 1e-1, at: 1:30}}", "data", {"train": {"fraction": 0.1, "at": "1:30"}}),
        ("teachers: {en: some/model, de: {path: other, revision: main}}", "teachers", None),
        ("limit: ~", "limit", None),
    ],
)
def test_yaml_means_what_it_looks_like(recipe, text, name, expected):
    value = getattr(read(recipe(text)), name)
    assert value == (yaml.safe_load(text)[name] if name == "teachers" else expected)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("leraning_rate: 1", ["'leraning_rate'", "recipe.yaml", "did you mean 'learning_rate'"]),
        ("languges: [en]", ["'languges'", "'languages'"]),  # codespell:ignore
        ("limit: 3\nlimit: 4", ["'limit' is given twice", "line 2"]),
        ("sizes: {en: 1, en: 2}", ["'en' is given twice"]),
        ("limit: many", ["'limit'", "int", "'many'"]),
        ("limit: 2.5", ["'limit'", "2.5"]),
        ("limit: true", ["'limit'", "True (bool)"]),
        ("fraction: [1]", ["'fraction'", "[1]"]),
        ("fraction: .nan", ["'fraction'", "nan"]),
        ("lowercase: 2", ["'lowercase'", "true or false", "2"]),
        ("languages: en", ["'languages'", "list of str", "'en'"]),
        ("languages: [en, 5]", ["'languages'", "[1] is 5", "quotes"]),
        ("sizes: {en: few}", ["'sizes'", ".en is 'few'"]),
        ("api_token: 123456", ["'api_token'", "123456 (int)", "quotes"]),
        ("colour: green", ["'colour'", "red, blue", "'green'"]),
        ("mode: slow", ["'mode'", "'fast' or 'exact'", "'slow'"]),
        ("kind: lstm", ["'kind'", "crf, softmax", "'lstm'"]),
        ("fraction: null", ["'fraction'", "nothing"]),
        ("eval_strategy: epochs", ["'eval_strategy'", "no, steps, epoch", "'epochs'"]),
        ("- a\n- b", ["must be a mapping"]),
        ("", ["must be a mapping"]),
        ("limit: [", ["not valid YAML", "recipe.yaml"]),
        ("data: !!python/object/apply:os.getcwd []", ["not valid YAML", "python/object"]),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(recipe, text, parts):
    message = refusal(recipe(text), types=(DataArguments, TrainArguments))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--limt", "3"], ["--limt", "'--limit'"]),
        (["--lim", "3"], ["--lim"]),  # argparse would take a prefix for the option
        (["--limit", "x"], ["--limit", "int or null", "'x'"]),
        (["--limit"], ["limit", "expected one argument"]),
        (["--limit", "3", "--limit", "4"], ["'limit' is given twice"]),
        (["--baseline", "--no_baseline"], ["'baseline' is given twice"]),
        (["--no_baseline", "true"], ["takes no value"]),
        (["--lowercase", "perhaps"], ["--lowercase", "'perhaps'"]),
        (["--sizes", "{en: 5}"], ["--sizes", "not JSON"]),
        (["--sizes", '{"en": 1, "en": 2}'], ["--sizes", "twice"]),
        (["--languages", "en", "recipe.yaml"], ["recipes first"]),
        (["--limit", "3", "recipe.yaml"], ["come first"]),
        (["absent.yaml"], ["absent.yaml", "there is no such file"]),
    ],
)
def test_a_wrong_option_is_refused_by_name(argv, parts):
    message = refusal(*argv)
    assert all(part in message for part in parts), message


def test_a_missing_required_field_is_named():
    assert "'model'" in refusal("--limit", "3", types=(DataArguments, NeedyArguments))


def test_what_a_dataclass_refuses_is_a_recipe_error(recipe):
    path = recipe("output_dir: x\nload_best_model_at_end: true\neval_strategy: 'no'\nsave_strategy: steps\n")
    assert "recipe.yaml: " in refusal(path, types=(TrainArguments,))
    # the recipe alone may be in order
    assert "recipe.yaml with --seed: " in refusal(path, "--seed", "3", types=(DataArguments, TrainArguments))


def test_help_is_complete_and_needs_no_recipe(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_recipe((DataArguments, TrainArguments, NeedyArguments), ["--help"])
    shown = capsys.readouterr().out
    assert leaving.value.code == 0
    for option in ("--languages", "--no_baseline", "--learning_rate", "--objective", "--model", "100 % of the words"):
        assert option in shown


def test_scripts_leave_with_a_message_and_no_traceback(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse_recipe((DataArguments,), ["--limit", "x"], exit_on_error=True)
    assert leaving.value.code == 2
    assert "--limit" in capsys.readouterr().err


def test_settings_make_the_same_run_again_and_hold_no_token(recipe, tmp_path):
    types = (DataArguments, TrainArguments)
    text = f"output_dir: {tmp_path}\nuse_cpu: true\nlearning_rate: 3e-4\neval_strategy: epoch\nlanguages: [en, 'no']\n"
    secret = "hf_" + "a" * 30
    options = ["--hub_token", secret, "--api_token", secret, "--data", json.dumps({"token": secret, "note": secret})]
    settings = dump_settings(*parse_recipe(types, [recipe(text), *options]))
    assert secret not in json.dumps(settings)
    assert settings["data"] == {"note": "<token>"}
    assert not {"hub_token", "api_token"} & settings.keys()
    assert (settings["learning_rate"], settings["eval_strategy"], settings["colour"]) == (3e-4, "epoch", "red")
    again = dump_settings(*parse_recipe(types, [recipe(yaml.safe_dump(settings))]))
    assert compare_settings(settings, again) == {}


def test_differing_settings_are_named():
    old = {"seed": 1, "data": {"en": "a", "de": "b"}, "output_dir": "x", "gone": 0}
    new = {"seed": 2, "data": {"en": "a", "de": "c"}, "output_dir": "y", "new": 0}
    assert compare_settings(old, new, ignore=["output_dir"]) == {
        "seed": (1, 2),
        "data.de": ("b", "c"),
        "gone": (0, "<absent>"),
        "new": ("<absent>", 0),
    }


def test_a_path_that_begins_with_a_placeholder_is_text_on_the_command_line_too():
    """Danger: `--corpus {language}/{split}.conll` is taken for broken JSON."""
    (data,) = parse_recipe((fields.DataArguments,), ["--corpus", "{language}/{split}.conll", "--languages", "cs"])
    assert data.corpus == "{language}/{split}.conll"
    (data,) = parse_recipe((fields.DataArguments,), ["--corpus", '{"cs": "{split}.conll"}'])
    assert data.corpus == {"cs": "{split}.conll"}
    with pytest.raises(RecipeError, match="not JSON"):
        parse_recipe((fields.DataArguments,), ["--corpus", "{cs: x}"])


def test_recipes_are_named_by_paths_of_every_kind_and_no_folder_hides_one(tmp_path, monkeypatch):
    """Danger: a Path ends in an AttributeError; a folder `demo` makes the recipe of that name unreadable."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    file = tmp_path / "mine.yaml"
    file.write_text("top_k: 3\n")
    recipe = Recipe.from_files("demo", file, output_dir="run")
    assert recipe.data.corpus == "demo"
    assert recipe.training.top_k == 3
    assert DistillationRun.from_recipe("demo", file, output_dir="run").recipe.training.top_k == 3


@pytest.mark.parametrize("fields", [["top_k"], "top_k: 3", None])
def test_fields_that_are_no_mapping_are_an_error_of_recipes(fields):
    with pytest.raises(RecipeError, match="a recipe must be a mapping of fields to values"):
        Recipe.from_mapping(fields)
