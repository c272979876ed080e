"""Dangers: code that runs without consent, files read or written outside their folder, memory eaten by a stranger's
configuration, text that breaks out of a card, and access tokens where others read them."""

import ast
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import pipeline

from hf_structkd import StructKDTrainingArguments, Teacher, XLMRobertaForTokenClassificationCRF
from hf_structkd.evaluation.results import RunResults, read_results, write_results
from hf_structkd.hub.describe import describe_student, redescribe
from hf_structkd.recipes.parser import RecipeError, parse_recipe
from tests.conftest import label_fields, space_module

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("hf_structkd", "examples", "experiments", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
]
UNPICKLING = re.compile(
    r"import (pickle|cPickle|dill|joblib|cloudpickle|shelve|marshal)|from (pickle|dill|joblib|cloudpickle|marshal) "
    r"|weights_only ?= ?False|allow_pickle ?= ?True|pickle\.loads?\(|torch\.load\((?!.*weights_only ?= ?True)"
    r"|yaml\.(unsafe_load|full_load|Loader|UnsafeLoader|FullLoader)|\bexec\("
)
TOKEN = "hf_" + "PlantedSecret" * 3


def test_nothing_is_unpickled():
    """A pickle runs what its author wrote."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        if UNPICKLING.search(line)
    ]
    assert found == []


def test_trust_is_given_by_users_alone():
    """Every default is off, and nothing but the cards' programs and the page's own switch says True."""
    said = [
        (path.name, line.strip())
        for path in SOURCES
        for line in path.read_text(encoding="utf-8").split("\n")
        if re.search(r"trust_remote_code\"?\s*[:=]\s*(bool( \| None)?\s*=\s*)?(field\(default=)?True", line)
        and "`" not in line
    ]
    assert {name for name, _ in said} <= {"snippets.py", "taggers.py"}, said
    for recipe in (ROOT / "examples" / "recipes").rglob("*.yaml"):
        assert "trust_remote_code" not in recipe.read_text(encoding="utf-8"), recipe


@pytest.fixture
def hostile(make_student, tokenizer, tmp_path):
    """A folder with a tagger, and a way to change its configuration."""
    folder = tmp_path / "tagger"
    make_student().save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def change(**fields):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))
        return folder

    return change


def test_code_of_a_teachers_repository_is_not_run(hostile, tmp_path):
    """Without consent neither a model's code, nor a tokenizer's, nor a pipeline's; not even imported."""
    owned = tmp_path / "owned"
    auto_map = {
        "AutoConfig": "evil.Config",
        "AutoModelForTokenClassification": "evil.Model",
        "AutoTokenizer": [None, "evil.Tok"],
    }
    folder = hostile(model_type="xlm-roberta-evil", auto_map=auto_map)
    (folder / "evil.py").write_text(f"open({str(owned)!r}, 'w').close()\nclass Config: ...\nclass Model: ...\n")
    with pytest.raises(ValueError, match=r"trust_remote_code"):
        Teacher.from_pretrained(str(folder))
    assert not owned.exists()


def test_code_beside_a_known_model_is_not_run(hostile, tmp_path):
    owned = tmp_path / "owned"
    folder = hostile(auto_map={"AutoModelForTokenClassification": "evil.Model"})
    (folder / "evil.py").write_text(f"open({str(owned)!r}, 'w').close()\nclass Model: ...\n")
    teacher = Teacher.from_pretrained(str(folder))
    assert isinstance(teacher.model, XLMRobertaForTokenClassificationCRF)
    assert not owned.exists()


def test_every_call_that_could_ask_says_whether_code_is_trusted():
    """transformers asks on standard input where `trust_remote_code` is left out."""
    silent = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called == "pipeline" or re.fullmatch(r"(Auto\w+|cls)\.from_pretrained", called):
                given = {keyword.arg for keyword in node.keywords}
                if not given & {"trust_remote_code", None}:  # None: **common, which holds it
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert silent == []


STRANGERS = {
    "a model": {"config.json": {"model_type": "evil", "auto_map": {
        "AutoConfig": "evil.Config", "AutoModelForTokenClassification": "evil.Model",
    }}},
    "a tokenizer": {"tokenizer_config.json": {"tokenizer_class": "EvilTokenizer", "auto_map": {
        "AutoTokenizer": [None, "evil.Tokenizer"],
    }}},
}  # fmt: skip


@pytest.fixture(params=STRANGERS)
def stranger(request, make_student, tokenizer, tmp_path, monkeypatch):
    """A tagger's folder that wants its own code run, and standard input that says yes to everything."""
    folder, owned = tmp_path / "stranger", tmp_path / "owned"
    make_student().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "evil.py").write_text(
        f"open({str(owned)!r}, 'w').close()\n"
        "from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast\n"
        "class Config(PreTrainedConfig):\n    model_type = 'evil'\n"
        "class Model(PreTrainedModel): ...\nclass Tokenizer(PreTrainedTokenizerFast): ...\n"
    )
    for name, fields in STRANGERS[request.param].items():
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **fields}))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 99))
    yield str(folder)
    assert not owned.exists(), "the stranger's code was run"
    assert sys.stdin.tell() == 0, "somebody was asked"


def test_a_teacher_runs_no_strangers_code(stranger):
    with pytest.raises(ValueError, match="trust_remote_code"):
        Teacher.from_pretrained(stranger)


@pytest.mark.parametrize("task", ["crf-token-classification", "token-classification"])
def test_a_pipeline_runs_no_strangers_code_as_the_pages_write_it(stranger, task):
    with pytest.raises(ValueError, match="trust_remote_code"):
        pipeline(task, model=stranger, trust_remote_code=False)


def test_the_space_runs_no_strangers_code(stranger, monkeypatch):
    pytest.importorskip("gradio", reason="needs gradio, the extra 'space'")
    app = space_module("app")
    taggers = app.Taggers([stranger])
    said = app.tag(taggers, taggers.names, "Nadia sailed to Oslo.", None, 1, 0.0)[0][0]
    assert "could not be loaded" in said
    assert "trust_remote_code" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("run_evaluate.py", "--corpus", "demo", "--languages", "en", "--checkpoint"),
        ("structkd calibrate", "--corpus", "demo", "--languages", "en", "--output_dir", "{out}", "--checkpoint"),
        ("run_distill.py", "--corpus", "demo", "--languages", "en", "--output_dir", "{out}", "--model"),
        ("run_teacher.py", "--corpus", "demo", "--languages", "en", "--output_dir", "{out}", "--model"),
        (
            "run_distill.py",
            "--corpus",
            "demo",
            "--languages",
            "en",
            "--output_dir",
            "{out}",
            "--model",
            "scratch",
            "--teacher_model",
        ),
        (
            "run_distill.py",
            "--corpus",
            "demo",
            "--languages",
            "en",
            "--output_dir",
            "{out}",
            "--model",
            "scratch",
            "--teachers",
        ),
    ],
    ids=lambda options: f"{options[0]} {options[-1]}",
)
def test_scripts_run_no_strangers_code(stranger, refusal, tmp_path, options):
    given = [option.replace("{out}", str(tmp_path / "out")) for option in options]
    assert "trust_remote_code" in refusal(*given, stranger)


def test_an_exported_model_runs_no_strangers_code(stranger, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the onnx extra: onnx, onnxruntime, onnxscript")
    from hf_structkd.export.exported_files import write_export
    from hf_structkd.export.onnx import OnnxTagger

    settings = {"labels": ["O"], "window": None, "pad_token_id": 0}
    with write_export(tmp_path / "exported", settings) as work:
        for file in Path(stranger).iterdir():
            (work / file.name).write_bytes(file.read_bytes())
        (work / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(Exception, match=r"model\.onnx"):
        OnnxTagger(tmp_path / "exported")


@pytest.mark.parametrize("outside", ["../outside.safetensors", "/{tmp}/outside.safetensors"])
def test_weights_come_from_their_own_folder(hostile, tmp_path, outside):
    """An index that names files outside of its folder."""
    folder = hostile()
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    name = outside.format(tmp=str(tmp_path).lstrip("/"))
    index = {"metadata": {}, "weight_map": {"classifier.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    try:
        teacher = Teacher.from_pretrained(str(folder))
    except (OSError, ValueError):
        return
    # transformers may read it: safetensors hold numbers alone, and nothing of it is shown or written anywhere
    assert isinstance(teacher.model, XLMRobertaForTokenClassificationCRF)


def test_pickled_weights_are_not_run(hostile, tmp_path):
    """A repository without safetensors: its pickle is read as numbers or not at all."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    folder = hostile()
    (folder / "model.safetensors").unlink()
    torch.save({"classifier.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only|unpickl|safetensors|no file named"):
        Teacher.from_pretrained(str(folder))
    assert not (tmp_path / "owned").exists()


MARKUP = "B-a/b <script>alert(1)</script>|`<script>`\n---\n# Owned\n{{ 7*7 }}"


def test_labels_do_not_break_out_of_a_card(tmp_path):
    """Labels and words come out of corpora and checkpoints; on a card they are code, or escaped text, in one line."""
    results = RunResults(
        model={"name": "tagger", "labels": ["O", MARKUP], "languages": ["en"], "scheme": "BIO"},
        label_examples={MARKUP: ["<img src=x onerror=alert(1)>", "[a](b)", "a|b"]},
        versions={"torch": "1"},
    )
    card = ModelCard.load(describe_student(tmp_path, results))
    row = next(line for line in str(card).split("\n") if line.startswith("| 1 |"))
    assert row.startswith("| 1 | <code>B-a/b &lt;script&gt;alert(1)&lt;/script&gt;&#124;")
    assert row.endswith(" | &lt;img src=x onerror=alert(1)&gt;, \\[a\\](b), a&#124;b |")
    assert "<script>" not in str(card)
    assert card.data.to_dict()["pipeline_tag"] == "token-classification"


def test_yaml_of_a_card_builds_no_objects(tmp_path):
    (tmp_path / "README.md").write_text("---\ntags: !!python/object/apply:os.mkdir [owned]\n---\n")
    with pytest.raises(yaml.YAMLError):
        ModelCard.load(tmp_path / "README.md")
    assert not (tmp_path / "owned").exists()


def test_results_of_strangers_name_no_pictures(tmp_path):
    """Pictures on a card are those drawn beside it; results.json cannot name others, nor other members."""
    write_results(RunResults(model={"name": "../../etc/passwd"}, versions={"a": "1"}), tmp_path)
    assert "../" not in redescribe(tmp_path).read_text()
    content = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({**content, "images": {"gap": "../../../secret.png"}}))
    with pytest.raises(ValueError, match="unknown members"):
        read_results(tmp_path)


def test_a_token_in_the_wrong_place_is_not_repeated(tmp_path):
    """People paste tokens into recipes and options; an error would send them to a log that others read."""
    (tmp_path / "recipe.yaml").write_text(f"output_dir: x\nhub_token: [{TOKEN}]\n")
    for argv in (
        [str(tmp_path / "recipe.yaml")],
        ["--output_dir", "x", f"--hub_tokn={TOKEN}"],
        ["--output_dir", "x", "--seed", TOKEN],
        [f"{TOKEN}.yaml"],
    ):
        with pytest.raises(RecipeError) as error:
            parse_recipe([StructKDTrainingArguments], argv)
        assert TOKEN not in str(error.value)


def test_a_token_in_settings_reaches_no_file(tmp_path):
    results = RunResults(
        settings={"run_name": TOKEN, "nested": {"list": [f"x {TOKEN}"]}},
        hyperparameters={"note": TOKEN},
        model={"name": "tagger", "base_model": f"someone/{TOKEN}"},
        versions={"torch": TOKEN},
    )
    describe_student(tmp_path, results)
    for path in tmp_path.rglob("*.*"):
        assert TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_a_configuration_of_hundreds_of_thousands_of_labels_is_refused(hostile):
    """A table of labels by labels would need 160 GB."""
    many = label_fields([f"B-{i}" for i in range(200_000)])
    with pytest.raises(ValueError, match="labels"):
        Teacher.from_pretrained(str(hostile(**many)))


def test_a_configuration_of_a_billion_layers_is_refused(hostile):
    with pytest.raises(ValueError, match="num_hidden_layers"):
        Teacher.from_pretrained(str(hostile(num_hidden_layers=10**9)))
