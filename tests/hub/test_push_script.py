"""Danger: run_distill.py works for hours and then pushes nothing, or pushes a card without its scores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.loopback_hub import ALICE
from tests.hub.loopback_server import serve

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SHAPE = "{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}"
RECIPE = f"""
corpus: demo
languages: [en]
max_train_sentences: 20
max_dev_sentences: 8
max_test_sentences: 8
model: scratch
model_config: {SHAPE}
vocab_size: 250
teacher_model: scratch
teacher_model_config: {SHAPE}
objective: posterior
max_steps: 2
save_strategy: steps
save_steps: 1
eval_strategy: "no"
per_device_train_batch_size: 8
use_cpu: true
report_to: none
disable_tqdm: true
push_to_hub: true
hub_model_id: alice/demo-tagger
hub_strategy: every_save
hub_always_push: true
"""


def run(folder: Path, address: str, token: str) -> subprocess.CompletedProcess:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own = {"HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token}
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "run_distill.py"), str(recipe), "--output_dir", str(folder / "out")],
        capture_output=True, text=True, timeout=280, env={**kept, **own, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_a_recipe_ends_on_the_hub(tmp_path):
    with serve() as hub:
        done = run(tmp_path, hub.address, ALICE)
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"pushed    {hub.address}/alice/demo-tagger" in done.stdout
        assert ALICE not in done.stdout + done.stderr
        commits = hub.repos["alice/demo-tagger"].commits
        assert any(commit.message.startswith("Training in progress") for commit in commits)
        for commit in commits[1:]:
            assert {"model.safetensors", "README.md", "results.json", "crf_head.py"} <= commit.files.keys()
            for name, data in commit.files.items():
                assert str(tmp_path).encode() not in data or name == "training_args.bin", name
        last = commits[-1].files
        assert "plots/language_gap.png" in last
        card = last["README.md"].decode()
        for part in ("| teachers |", "| baseline |", "split: test", '"alice/demo-tagger"'):
            assert part in card, part


def test_a_wrong_token_is_told_before_any_work(tmp_path):
    with serve() as hub:
        done = run(tmp_path, hub.address, "hf_" + "nobody" * 6)
    assert done.returncode != 0
    assert "error: could not push to alice/demo-tagger: the Hub does not accept the access token" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
