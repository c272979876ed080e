"""Danger: a list of checksums that says nothing, or of something else, passes for a whole checkpoint."""

import hashlib
import json

import pytest

from hf_structkd.training.checkpoints import (
    CHECKSUMS_FILE,
    CheckpointError,
    check_checkpoint,
    last_whole_checkpoint,
    seal_checkpoint,
)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "notes.md"):
        (folder / name).write_text(name)
    seal_checkpoint(folder)
    return folder


def described(text: str) -> dict:
    return {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def test_a_sealed_checkpoint_is_whole(checkpoint):
    check_checkpoint(checkpoint)
    (checkpoint / "README.md").write_text("written later, and not read by training")
    assert last_whole_checkpoint(checkpoint.parent) == checkpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda sums: sums.clear(),
            "no checksum of model.safetensors, optimizer.pt, scheduler.pt, trainer_state.json",
        ),
        (lambda sums: sums.pop("optimizer.pt"), "no checksum of optimizer.pt"),
        (lambda sums: sums.pop("trainer_state.json"), "no checksum of trainer_state.json"),
        (lambda sums: sums.update({"../outside": described("outside")}), "names '../outside', which is outside"),
        (lambda sums: sums.update({"/etc/hostname": described("x")}), "names '/etc/hostname', which is outside"),
        (lambda sums: sums.update({"a/../../outside": described("outside")}), "outside the checkpoint"),
    ],
)
def test_a_list_that_says_nothing_or_of_something_else_is_refused(checkpoint, change, message):
    (checkpoint.parent / "outside").write_text("outside")
    sums = json.loads((checkpoint / CHECKSUMS_FILE).read_text())
    change(sums)
    (checkpoint / CHECKSUMS_FILE).write_text(json.dumps(sums))
    with pytest.raises(CheckpointError, match=message):
        check_checkpoint(checkpoint)
    assert last_whole_checkpoint(checkpoint.parent) is None
