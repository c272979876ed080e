"""Danger: a checkpoint works only where it was made, because its code is incomplete or reaches for the package."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import pipeline

from hf_structkd import TagScheme, XLMRobertaForTokenClassificationCRF
from tests.conftest import WITHOUT_COMPILED_LOOPS, label_fields

WORKER = Path(__file__).with_name("standalone_worker.py")
TEXT = "Anna flew from Boston to Paris , said Maria Lopez of the Helsinki Tram Museum ."
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def close(one, other, tolerance=1e-5) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(close(a, b) for a, b in zip(one, other))
    return abs(one - other) < tolerance if isinstance(one, float) else one == other


@pytest.mark.slow
def test_a_checkpoint_stands_alone(python_without_the_package, make_student, tokenizer, labels, tmp_path):
    bioes = TagScheme.from_entity_types(dict.fromkeys(label.partition("-")[2] for label in labels[1:]), "BIOES").tags
    repos = {"bio": labels, "bioes": bioes}
    for name, tags in repos.items():
        make_student(**label_fields(tags)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    cached = tmp_path / "home" / "hub" / "models--someone--tagger"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT)
    shutil.copytree(tmp_path / "bioes", cached / "snapshots" / COMMIT)

    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    ran = subprocess.run(
        [str(python_without_the_package), str(WORKER), str(tmp_path), TEXT, *repos, "someone/tagger"],
        env={**environment, **WITHOUT_COMPILED_LOOPS, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert seen["someone/tagger"]["first"] == seen["bioes"]["first"]
    for name in repos:
        stages = seen[name]
        assert all(close(stage, stages["first"]) for stage in stages.values()), name
        here = pipeline("crf-token-classification", model=str(tmp_path / name))(TEXT, top_k=2)
        assert close(stages["first"]["ours"], here)
        # Stock entities are the Viterbi path's: the same places (this tokenizer's pieces hold the space before them),
        # the same types.
        stock = [(e["entity_group"], TEXT[e["start"] : e["end"]].strip(), e["end"]) for e in stages["first"]["stock"]]
        assert stock == [(e["entity_group"], e["word"], e["end"]) for e in here["entities"]]
        assert stock
        assert all(0 < e["score"] <= 1 for e in stages["first"]["stock"])


def test_a_checkpoint_holds_safetensors_code_and_nothing_that_unpickles(make_student, tmp_path):
    make_student().save_pretrained(tmp_path)
    kinds = {path.suffix for path in tmp_path.iterdir()}
    assert kinds == {".json", ".py", ".safetensors"}
    assert (tmp_path / "pipeline.py").exists()
    pipelines = json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]
    (info,) = pipelines.values()
    module, name = info["impl"].split(".")
    assert f"class {name}" in (tmp_path / f"{module}.py").read_text()


def test_missing_and_extra_crf_weights_are_named_and_never_garbage(make_student, tmp_path):
    make_student().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    transitions = weights.pop("crf.transitions")
    save_file({**weights, "crf.other": torch.zeros(3)}, file, metadata={"format": "pt"})
    model, report = XLMRobertaForTokenClassificationCRF.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == {"crf.transitions"}
    assert report["unexpected_keys"] == {"crf.other"}
    assert (model.crf.transitions == 0).all()
    save_file({**weights, "crf.transitions": transitions[1:]}, file, metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        XLMRobertaForTokenClassificationCRF.from_pretrained(tmp_path)
