"""Danger: a card that names a local folder, or a stranger's model, as the model that the student was made from."""

import json

import pytest

from hf_structkd.training.card import base_model
from hf_structkd.training.origins import Origin, encoder_origin

ID = "FacebookAI/xlm-roberta-base"


def encoder(folder, config=None, card=None):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {}))
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    return str(folder)


def test_an_id_is_its_own_origin(tmp_path, monkeypatch):
    assert encoder_origin(ID, "v1") == Origin(ID, "v1")
    assert encoder_origin("encoder").name is None  # a folder that was there once
    monkeypatch.chdir(tmp_path)
    encoder(tmp_path / "FacebookAI" / "xlm-roberta-base")
    assert encoder_origin(ID).name is None


def test_a_snapshot_of_the_cache_has_id_and_commit(tmp_path):
    folder = encoder(tmp_path / "hub" / "models--FacebookAI--xlm-roberta-base" / "snapshots" / "abc123")
    assert encoder_origin(folder) == Origin(ID, "abc123")


@pytest.mark.parametrize(
    ("config", "card", "name"),
    [
        ({"_name_or_path": ID}, None, ID),  # as transformers 4 wrote it
        ({}, f"---\nbase_model: {ID}\n---\n# mine", ID),
        ({"_name_or_path": "/data/me"}, f"---\nbase_model: [{ID}]\n---\n# mine", ID),
        ({"_name_or_path": "other/encoder"}, f"---\nbase_model: {ID}\n---\n# mine", ID),  # what somebody stated counts
        ({"_name_or_path": "/home/me/encoder"}, None, None),
        ({"_name_or_path": "runs/encoder"}, None, None),
        ({"_name_or_path": "../me/encoder"}, None, None),
        ({"_name_or_path": "encoder"}, None, None),
        ({"_name_or_path": 3}, None, None),
        ([], None, None),
        ({}, f"---\nbase_model: [{ID}, a/b]\n---\n# merged", None),
        ({}, "---\n: [\n---\n# broken", None),
        ({}, "# no metadata", None),
    ],
)
def test_a_local_encoder_says_what_it_was_made_from_or_nothing(tmp_path, config, card, name):
    assert encoder_origin(encoder(tmp_path / "encoder", config, card)).name == name


def test_a_result_has_the_encoder_as_it_was_given_and_what_the_hub_knows_of_it(tmp_path):
    folder = encoder(tmp_path / "encoder", {"_name_or_path": ID})
    assert base_model(folder) == {"base_model": folder, "base_model_revision": None, "base_model_id": ID}
    assert base_model(ID, "v1") == {"base_model": ID, "base_model_revision": "v1", "base_model_id": ID}
    assert base_model(None) == {}
