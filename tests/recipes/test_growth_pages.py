"""Danger: a page that says how a tagger grows, and whose commands do not run."""

import pytest

from hf_structkd import load_corpora

from ..conftest import draw_student
from ..page_snippets import commands, programs, quickly, run_program

OLD = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer, labels):
    """What the pages take as given: taggers, and files of the demo corpus."""
    folder = tmp_path_factory.mktemp("pages")
    for language, splits in load_corpora("demo", ["de", "en", "es"], max_sentences=20).items():
        name = "fr" if language == "es" else language
        for split, rows in splits.items():
            for kind, keep in (("all", lambda tag: tag), ("new", lambda tag: tag if tag.endswith("ORG") else "O")):
                lines = [
                    "\n".join(f"{word} {keep(tag)}" for word, tag in zip(words, tags))
                    for words, tags in zip(rows["tokens"], rows["tags"])
                ]
                for target in (folder / kind / name, *([folder / name] if kind == "all" else [])):
                    target.mkdir(parents=True, exist_ok=True)
                    (target / f"{split}.conll").write_text("\n\n".join(lines) + "\n")
        (folder / "text").mkdir(exist_ok=True)
        text = "\n".join(" ".join(words) for words in splits["train"]["tokens"])
        for written in {name, language}:
            (folder / "text" / f"{written}.txt").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("page", "old", "candidate"),
    [
        ("docs/add_a_type.md", OLD, None),
        ("docs/add_a_language.md", None, None),
        ("docs/update_it.md", None, 3),
        ("docs/calibration.md", None, None),
    ],
)
def test_the_commands_of_a_page_run(page, old, candidate, place, tokenizer, labels, run_script, monkeypatch, tmp_path):
    for name in place.iterdir():
        (tmp_path / name.name).symlink_to(name)
    monkeypatch.chdir(tmp_path)
    for name, own, seed in (("old", old or labels, 1), ("candidate", labels, candidate or 2)):
        draw_student(tokenizer, own, seed=seed, languages=["de", "en"]).save_pretrained(f"runs/{name}")
        tokenizer.save_pretrained(f"runs/{name}")
    found = commands(page)
    assert found
    for command in found:
        assert command[0] == "structkd"
        printed = run_script(" ".join(command[:2]), *quickly(command))
        if command[1] == "evaluate":
            assert "Against the previous tagger" in printed
    for program in programs(page):
        run_program(program, {"__name__": "page"})
