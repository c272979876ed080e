"""Danger: the README shows code or commands that do not run."""

import gzip
import re
from pathlib import Path

import torch

from hf_structkd import XLMRobertaForTokenClassificationCRF
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
