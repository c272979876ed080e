"""The real huggingface_hub client against a Hub on this machine.

Dangers: repositories that lack code, card or tokenizer, half-made commits, lost training results, somebody's files
overwritten, access tokens shown.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_structkd import TagScheme
from tests.conftest import WITHOUT_COMPILED_LOOPS
from tests.hub.loopback_hub import ALICE, BOB, LoopbackHub, serve

WORKER = Path(__file__).with_name("push_worker.py")
ROOT = WORKER.parents[2]
WRONG = "hf_" + "nobodysaccesstoken" * 2
# what somebody needs who has the repository and transformers
NEEDED = {
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "results.json",
    "plots/training_curves.png", "taggers.py", "crf.py", "crf_head.py", "configuration.py",
}  # fmt: skip


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with serve() as running:
        yield running


@pytest.fixture
def own_hub() -> Iterator[LoopbackHub]:
    with serve() as running:
        yield running


def environment(hub_address: str, home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": hub_address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    return {**kept, **own, **WITHOUT_COMPILED_LOOPS, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT), **more}


def work(hub_address: str, home: Path, what: str, **arguments):
    """The worker's answer; fails with what it said if it failed."""
    more = arguments.pop("env", {})
    done = subprocess.run(
        [sys.executable, str(WORKER), what, json.dumps(arguments)], capture_output=True, text=True, timeout=250,
        env=environment(hub_address, home, **more),
    )  # fmt: skip
    assert ALICE not in done.stdout + done.stderr, "an access token was printed"
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory) -> Path:
    """Four trainings, each with another hub_strategy, pushed; one into a repository with somebody's files."""
    folder = tmp_path_factory.mktemp("pushed")
    foreign = {"NOTES.md": b"mine", "data/table.csv": b"1,2", "adapter_model.safetensors": b"weights of another"}
    hub.create("alice", {"name": "end"})
    hub.repos["alice/end"].commit("by hand", {**hub.repos["alice/end"].files, **foreign})
    work(hub.address, folder / "home", "strategies", folder=str(folder / "out"), token=ALICE)
    return folder


STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_push_is_complete_those_during_training_too(hub, pushed, strategy):
    repo = hub.repos[f"alice/{strategy}"]
    own = [commit for commit in repo.commits if commit.message not in ("initial commit", "by hand")]
    during = [commit for commit in own if commit.message.startswith("Training in progress")]
    assert bool(during) == (strategy != "end")
    assert own[-1].message == "End of training"
    for commit in own:
        assert commit.files.keys() >= NEEDED, (commit.message, NEEDED - commit.files.keys())
        card = commit.files["README.md"].decode()
        assert "![Loss" in card
        assert "pipeline(" in card
        weights = {name for name in commit.files if re.search(r"pytorch_model|\.(bin|pt|pth|h5|msgpack)$", name)}
        # a checkpoint to resume from has its optimizer's state; of the model itself there is safetensors alone
        assert {n for n in weights if "/" not in n} <= {"training_args.bin"}
    assert "license: apache-2.0" in repo.files["README.md"].decode()
    assert "| posterior+top_wk |" in repo.files["README.md"].decode()
    assert repo.private == (strategy == "checkpoint")
    folders = {name.split("/")[0] for name in repo.files if "/" in name} - {"plots", "data"}
    expected = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-1", "checkpoint-2"}}
    assert folders == expected.get(strategy, set())


@pytest.mark.slow
def test_files_of_others_are_left_alone(hub, pushed):
    files = hub.repos["alice/end"].files
    assert (files["NOTES.md"], files["data/table.csv"]) == (b"mine", b"1,2")
    assert files["adapter_model.safetensors"] == b"weights of another"


@pytest.mark.slow
def test_nothing_pushed_shows_the_token_or_this_machine(hub, pushed):
    for repo in hub.repos.values():
        for commit in repo.commits:
            for name, data in commit.files.items():
                assert ALICE.encode() not in data, name
                if name.endswith((".md", ".json", ".py", ".txt")) and "/" not in name:
                    assert str(pushed.parent).encode() not in data, name


@pytest.mark.slow
def test_what_was_pushed_runs_anywhere_and_then_offline(hub, pushed, tmp_path):
    """By repository id: the model, the stock pipeline, and our own, which no package has registered."""
    arguments = {"repo_ids": ["alice/end", "alice/every_save", "alice/checkpoint"], "token": ALICE}  # one is private
    online = work(hub.address, tmp_path, "download", **arguments)
    for answer in online.values():
        assert answer["class"] == "XLMRobertaForTokenClassificationCRF"
        ours = answer["by its task"]
        assert ours == answer["by its name alone"]
        best = TagScheme(list(ours["marginals"][0]["scores"])).spans(answer["tags"])
        assert [(e["start_word"], e["end_word"], e["entity_group"]) for e in ours["entities"]] == best
        assert answer["stock"] == [[e["entity_group"], e["end"]] for e in ours["entities"]]
        assert len(ours["marginals"]) == len(answer["tags"]) == 4
    assert work("http://127.0.0.1:9", tmp_path, "download", **arguments, env={"HF_HUB_OFFLINE": "1"}) == online


@pytest.fixture(scope="module")
def refused(tmp_path_factory) -> tuple[dict, LoopbackHub, Path]:
    """What is said where nothing can be pushed or fetched, one thing after the other; the network goes last."""
    folder = tmp_path_factory.mktemp("refused")
    with serve() as hub:
        hub.create("alice", {"name": "hers"})
        hub.create("alice", {"name": "secret", "private": True})
        hub.create("bob", {"name": "diffusion"})
        repo = hub.repos["bob/diffusion"]
        repo.commit("a model of another kind", {**repo.files, "model_index.json": b"{}"})
        tokens = {"wrong": WRONG, "somebody else's": BOB, "broken": ALICE + "\nx"}  # copied with more than the line
        answer = work(
            hub.address, folder / "home", "refusals", folder=str(folder / "out"), repo_id="alice/hers", tokens=tokens,
            absent=["alice/nothing", "bob/diffusion", "alice/secret"], env={"HF_TOKEN": BOB},
        )  # fmt: skip
    return answer, hub, folder / "out"


@pytest.mark.slow
def test_refused_pushes_say_why_and_lose_nothing(refused):
    answer, hub, folder = refused
    said = answer["said"]
    assert set(said) == {"wrong", "somebody else's", "broken", "before training", "no network"}
    for text in said.values():
        assert "could not push to alice/hers" in text
        assert WRONG not in text
        assert BOB not in text
    assert "does not accept the access token" in said["wrong"]
    assert "hf auth login" in said["before training"]
    assert "may not write there" in said["somebody else's"]
    assert f"Everything is in {folder}" in said["somebody else's"]
    assert "the Hub cannot be reached" in said["no network"]
    assert {name for name in NEEDED if "/" not in name} <= set(answer["left"])
    assert len(hub.repos["alice/hers"].commits) == 1, "a refused push left something behind"


@pytest.mark.slow
def test_what_is_not_there_private_or_not_ours_is_named(refused):
    missing = refused[0]["missing"]
    assert set(missing) == {"alice/nothing", "bob/diffusion", "alice/secret"}
    for name, text in missing.items():
        assert name in text
    assert "is not a valid model identifier" in missing["alice/nothing"]
    assert "Unrecognized model in bob/diffusion" in missing["bob/diffusion"]


def finished_folder(folder: Path) -> Path:
    """A folder to push: two large files and some small ones."""
    (folder / "plots").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# a card\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 8000)
    (folder / "plots" / "curves.png").write_bytes(b"picture" * 1000)
    for name in ("settings.json", "trainer_state.json"):
        (folder / name).write_text('{"output_dir": "/home/somebody/runs"}')
    return folder


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_an_interrupted_push_leaves_no_half_and_resumes(own_hub, tmp_path):
    """The process is killed while the weights are on their way."""
    folder = finished_folder(tmp_path / "student")
    weights, picture = sha(folder / "model.safetensors"), sha(folder / "plots" / "curves.png")
    own_hub.cut_off[weights] = 1000
    arguments = {"folder": str(folder), "repo_id": "alice/student", "token": ALICE}
    worker = subprocess.Popen(
        [sys.executable, str(WORKER), "upload_twice", json.dumps(arguments)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(own_hub.address, tmp_path),
    )  # fmt: skip
    assert worker.stdout is not None
    try:
        pushing = int(worker.stdout.readline())
        deadline = time.monotonic() + 120
        while not (weights in own_hub.sent and picture in own_hub.lfs):
            assert time.monotonic() < deadline, own_hub.requests
            time.sleep(0.05)
        os.kill(pushing, signal.SIGKILL)
        assert len(own_hub.repos["alice/student"].commits) == 1, "something half-written is to be seen"
        own_hub.cut_off[weights] = 1  # one more dropped connection, which the client takes up again by itself
        tries = own_hub.sent.count(weights)
        said, _ = worker.communicate("on\n", timeout=120)
    finally:
        worker.kill()
        worker.wait()
    assert json.loads(said.splitlines()[-1]).endswith("/alice/student")
    repo = own_hub.repos["alice/student"]
    assert repo.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert own_hub.sent.count(weights) == tries + 2
    assert own_hub.sent.count(picture) == 1, "what had arrived was sent again"
    assert len(repo.commits) == 2
    assert not {"settings.json", "trainer_state.json"} & repo.files.keys(), "they name places on this machine"


@pytest.mark.slow
def test_the_clients_validator_takes_cards_and_finds_faults(hub, pushed, tmp_path):
    good, bad = pushed / "out" / "end" / "README.md", tmp_path / "bad.md"
    bad.write_text("---\nlicense: 5\n---\n# x\n")
    fine, wrong = work(hub.address, tmp_path, "validate", cards=[str(good), str(bad)])
    assert fine is None
    assert "license" in wrong


@pytest.mark.slow
def test_the_list_of_files_to_push_is_what_a_push_sends(hub, tmp_path):
    # Danger: somebody looks at a list, and the push sends something else: a checkpoint, a path of this machine.
    from hf_structkd.hub import files_to_push

    for name in ("config.json", "README.md", "plots/a.png", "settings.json", "checkpoint-2/config.json",
                 "training_args.bin", "_old/x", ".cache/huggingface/x"):  # fmt: skip
        (tmp_path / "student" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "student" / name).write_text("{}")
    listed = files_to_push(tmp_path / "student")
    assert listed == {"config.json": 2, "README.md": 2, "plots/a.png": 2}
    code = f"from hf_structkd.hub import push_folder\npush_folder({str(tmp_path / 'student')!r}, 'alice/listed')"
    work(hub.address, tmp_path / "home", "program", code=code, token=ALICE)
    assert set(hub.repos["alice/listed"].files) - {".gitattributes"} == set(listed)
    with pytest.raises(FileNotFoundError, match="holds no model"):
        files_to_push(tmp_path / "nothing")


# Danger: run_distill.py works for hours and then pushes nothing, or pushes a card without its scores.


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_wrong_token_is_told_before_any_work(tmp_path):
    with serve() as hub:
        done = run(tmp_path, hub.address, "hf_" + "nobody" * 6)
    assert done.returncode != 0
    assert "error: could not push to alice/demo-tagger: the Hub does not accept the access token" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
