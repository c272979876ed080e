"""Danger: the first page shows code or commands that do not run, or links that lead nowhere, here or on the index."""

import gzip
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from hf_structkd import XLMRobertaForTokenClassificationCRF, cli
from hf_structkd.data.demo_corpus import load_demo_corpus
from hf_structkd.recipes.recipe import Recipe
from tests.hub.loopback_hub import serve
from tests.hub.test_push import ALICE, work

from .pages import programs, quickly, run_program, snippets, words_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
RELATIVE_LINK = re.compile(r"\]\(((?!https?:)[^)]+)\)")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands(verb: str) -> list[list[str]]:
    """The README's commands of `structkd`, or `make`, without comments."""
    lines = "\n".join(blocks(README, "bash")).splitlines()
    return [line.partition("#")[0].split()[1:] for line in lines if line.startswith(f"{verb} ")]


@pytest.mark.slow
def test_the_program_with_the_trainer_runs(tmp_path, monkeypatch, make_student, tokenizer):
    # The page's names: corpora under path/, teachers under teachers/; a tiny encoder stands for the published one.
    for language in ("en", "de"):
        for split in ("train", "dev"):
            file = tmp_path / "path" / language / f"{split}.conll.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            with gzip.open(file, "wt", encoding="utf-8") as out:
                for row in load_demo_corpus(language, split, num_sentences=40):
                    out.writelines(f"{word}\t{tag}\n" for word, tag in zip(row["tokens"], row["tags"]))
                    out.write("\n")
        (tmp_path / "path" / language / "test.conll.gz").write_bytes(file.read_bytes())
        make_student(seed=3).save_pretrained(tmp_path / "teachers" / language)
        tokenizer.save_pretrained(tmp_path / "teachers" / language)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=140, type_vocab_size=1, **shape)
    XLMRobertaModel(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    (code,) = [block for block in blocks(RECIPES, "python") if "StructKDTrainer(" in block]
    assert '"FacebookAI/xlm-roberta-base"' in code
    names = {}
    exec(compile(code.replace('"FacebookAI/xlm-roberta-base"', '"encoder"'), "recipes.md", "exec"), names)
    again = XLMRobertaForTokenClassificationCRF.from_pretrained("student")
    assert torch.equal(again.crf.transitions, names["model"].crf.transitions)
    assert again.config.languages == ["de", "en"]
    assert (tmp_path / "student" / "README.md").exists()


@pytest.mark.slow
def test_a_recipe_runs_from_python(tmp_path, monkeypatch):
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    recipe = {
        **{"corpus": "demo", "languages": ["en"], "max_train_sentences": 20, "max_dev_sentences": 10},
        **{"max_test_sentences": 10, "model": "scratch", "model_config": tiny, "vocab_size": 300, "use_cpu": True},
        **{"teacher_model": "scratch", "teacher_model_config": tiny, "teacher_num_train_epochs": 1},
        "num_train_epochs": 1,
    }
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    (code,) = [block for block in blocks(RECIPES, "python") if "DistillationRun" in block]
    exec(compile(code, "recipes.md", "exec"), {})
    assert Path("runs/first/student/README.md").exists()


@pytest.mark.parametrize("page", ["README.md", "docs/recipes.md"])
def test_every_name_in_a_program_is_defined(page):
    for program in blocks((ROOT / page).read_text(encoding="utf-8"), "python"):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"],
            input=program,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


def test_files_and_commands_that_the_readme_names_exist():
    for link in RELATIVE_LINK.findall(README) + re.findall(r"examples/[\w/]+\.py", README):
        path, _, heading = link.partition("#")
        assert (ROOT / path).exists(), path
        if heading:
            headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [h.lower().replace(" ", "-") for h in headings], link
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {target for (target,) in commands("make")} == {"demo", "test"}
    for (target,) in commands("make"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for extra in re.findall(r"pip install '\.\[(\w+)\]'", README):
        assert re.search(rf"^{extra} =$", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE), extra


def test_the_package_index_gets_no_link_into_the_repository():
    """There, `docs/recipes.md` and the picture are not."""
    spec = importlib.util.spec_from_file_location("setup_of_hf_structkd", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    text = setup.description(README)
    assert RELATIVE_LINK.search(README)
    assert not RELATIVE_LINK.search(text)
    assert "![" not in text
    assert "<!--" not in text
    assert "Recipes, and the same in Python (docs/recipes.md)" in text
    assert "\nRESULTS.md has the results" in text
    assert re.sub(r"```.*?```", "", text, flags=re.DOTALL) != text
    for language in ("bash", "python", "yaml"):
        assert blocks(text, language) == blocks(README, language)


def test_the_first_screen_is_one_screen():
    """From the title to the last command of one's own distillation; no line of a program is cut."""
    first = README[: README.index("\n## ")].rstrip().splitlines()
    assert len(first) <= 50
    for language in ("bash", "python", "yaml"):
        assert max(len(line) for block in blocks(README, language) for line in block.splitlines()) <= 100


@pytest.mark.slow
def test_the_commands_run(tmp_path, monkeypatch, capsys):
    """With one pipeline for all languages, the demo corpus for text, and a tiny model."""
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed")
    if not spacy.util.is_package("fr_core_news_sm"):
        pytest.skip("the pipeline fr_core_news_sm is not installed")
    (recipe,), (program,) = blocks(README, "yaml"), blocks(README, "python")
    demo, own = commands("structkd")
    downloaded = re.search(r"for language in (.*?); do python -m spacy download \$\{language\}(\w+);", README)
    names = [f"{language}{downloaded[2]}" for language in downloaded[1].split()]
    assert re.findall(r"spacy:(\w+)", recipe) == names
    assert len(recipe.splitlines()) == 1 + 5
    recipe = re.sub(r"spacy:\w+", "spacy:fr_core_news_sm", recipe)
    monkeypatch.chdir(tmp_path)
    Path("text").mkdir()
    for language, source in (("de", "de"), ("fr", "en"), ("es", "es")):
        sentences = load_demo_corpus(source, "train", num_sentences=40)["tokens"]
        Path("text", f"{language}.txt").write_text("\n".join(map(" ".join, sentences)), encoding="utf-8")
    Path("tagger.yaml").write_text(recipe, encoding="utf-8")
    tiny = json.dumps({"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32})
    small = [
        "--model",
        "scratch",
        "--model_config",
        tiny,
        "--vocab_size",
        "300",
        "--num_train_epochs",
        "1",
        "--use_cpu",
    ]
    assert cli.main([*own, *small]) == 0
    # `make demo` and other tests run the demo; here, that its student lies where the program looks for it
    assert demo[0] == "distill"
    folder = f"{Recipe.from_command_line(demo[1:], 'structkd distill').training.output_dir}/student"
    assert folder in program
    capsys.readouterr()
    exec(compile(program.replace(folder, "runs/tagger/student"), "README.md", "exec"), {})
    for line in capsys.readouterr().out.splitlines():
        assert 0 < float(line.split()[-1]) <= 1


# Danger: the first page that a newcomer follows (docs/tutorial.md) stops in the middle, or ends without a tagger.


PAGE = "docs/tutorial.md"
ENCODER = "intfloat/multilingual-e5-small"
SHORT = ("--teacher_num_train_epochs", "1")


@pytest.mark.slow
def test_the_tutorial_from_an_export_to_a_push(tmp_path, monkeypatch, tokenizer, run_script, capsys):
    """All of it in its order, with fewer sentences and a tiny encoder."""
    monkeypatch.chdir(tmp_path)
    shape = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 32}
    fields = {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": tokenizer.pad_token_id}
    XLMRobertaModel(XLMRobertaConfig(vocab_size=len(tokenizer), **shape, **fields)).save_pretrained("encoder")
    tokenizer.save_pretrained("encoder")
    ran = []
    for snippet in snippets(PAGE, "bash", "yaml"):
        if snippet.language == "yaml":
            assert snippet.text.count(ENCODER) == 2
            Path("tagger.yaml").write_text(snippet.text.replace(ENCODER, "encoder"), encoding="utf-8")
            continue
        for command in words_of(snippet):
            if command[0] != "structkd":
                assert subprocess.run(command, check=True, capture_output=True, text=True).stdout, snippet
                continue
            fewer = [{"600": "80"}.get(word, word) for word in command]
            ran.append((command[1], run_script(" ".join(command[:2]), *quickly(fewer, *SHORT))))
    verbs = [verb for verb, _ in ran]
    assert verbs == ["--version", *["convert"] * 4, "distill", "evaluate", "calibrate"]
    assert "Where everything is" in dict(ran)["distill"]

    tag, look, push = programs(PAGE)
    answers = run_program(tag, {})
    assert isinstance(answers["tagger"](answers["text"])["entities"], list)
    capsys.readouterr()
    run_program(look, {})
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("model.safetensors", "README.md", "results.json", "taggers.py", ".png"))
    card = Path("runs/tagger/student/README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0" in card
    with serve() as hub:
        hub.create("alice", {"name": "tagger"})
        work(
            hub.address, tmp_path / "home", "program", code=push.text.replace("me/tagger", "alice/tagger"), token=ALICE
        )
        sent = set(hub.repos["alice/tagger"].files) - {".gitattributes"}
    assert sent == {line.split(None, 1)[1] for line in listed.splitlines()}
