"""Danger: a plan of steps that cannot be carried out is noticed after hours."""

import json
from pathlib import Path

import pytest

from experiments.run_plan import read_plan
from hf_structkd.data.demo_corpus import load_demo_corpus

PLANS = sorted((Path(__file__).parents[1] / "experiments" / "plans").glob("*.yaml"))
PLACES = {"DATA": "data", "ENCODERS": "encoders"}


@pytest.mark.parametrize("file", PLANS, ids=lambda file: file.stem)
def test_committed_plans_are_read(file):
    assert read_plan(file, PLACES)["steps"]


def test_a_step_builds_on_earlier_steps_alone(tmp_path):
    text = PLANS[0].read_text(encoding="utf-8").replace("step:old", "step:grown")
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="which is no earlier step"):
        read_plan(tmp_path / "plan.yaml", PLACES)


@pytest.mark.slow
def test_taggers_that_exist_are_scored_once_and_beside_those_that_are_trained(
    tmp_path, run_script, make_student, tokenizer
):
    """Danger: a pipeline's scores under a student's name, or in languages that it was not made for."""
    checkpoint = str(tmp_path / "student")
    make_student(languages=["en", "ru"], max_position_embeddings=130).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    for language in ("en", "ru"):
        for split in ("train", "dev", "test"):
            rows = load_demo_corpus(language, split, num_sentences=6)
            blocks = [
                "".join(f"{word}\t{tag}\n" for word, tag in zip(*pair)) for pair in zip(rows["tokens"], rows["tags"])
            ]
            (tmp_path / f"{language}.{split}.conll").write_text("\n".join(blocks), encoding="utf-8")
    corpus = {"source": str(tmp_path / "{language}.{split}.conll"), "languages": ["en", "ru"]}
    scored = {"corpus": "{demo}/{language}.{split}.conll", "splits": ["test"]}
    student = {
        "model": checkpoint,
        "max_steps": 1,
        "languages": ["en", "ru"],
        "use_cpu": True,
        "report_to": "none",
    }
    plan = {
        **{"description": "", "seeds": 2, "corpora": {"demo": corpus}, "fields": student},
        "steps": {
            "there": {"command": "evaluate", "checkpoint": checkpoint, "languages": ["en"]},
            "trained": {"command": "teacher", "corpus": "{demo}/{language}.{split}.conll"},
        },
        "scored": {"both": {**scored, "languages": ["en", "ru"]}, "other": {**scored, "languages": ["ru"]}},
    }
    (tmp_path / "plan.yaml").write_text(json.dumps(plan), encoding="utf-8")
    run_script("experiments.run_plan", tmp_path / "plan.yaml", "--output_dir", tmp_path / "out", "--keep", tmp_path)
    (tmp_path / "page.md").write_text("<!-- results: plan plan -->stale<!-- end -->", encoding="utf-8")
    kept = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["steps"]
    assert {what: len(values) for what, values in kept["there"].items()} == {"both, en": 1}, "not made for Russian"
    trained = {what: len(values) for what, values in kept["trained"].items()}
    assert trained == dict.fromkeys(["both, en", "both, ru", "both, mean", "other, ru"], 2), "one score per seed"
    run_script("experiments.run_plan", tmp_path / "plan.yaml", "--from", tmp_path, "--write", tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert f"| both, en | {kept['there']['both, en'][0]:.2f} |" in page
    assert "stale" not in page
