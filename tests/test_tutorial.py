"""Danger: the first page that a newcomer follows (docs/tutorial.md) stops in the middle, or ends without a tagger."""

import subprocess
from pathlib import Path

import pytest
from transformers import XLMRobertaConfig, XLMRobertaModel

from tests.hub.loopback_server import serve
from tests.hub.test_push import ALICE, work

from .page_snippets import programs, quickly, run_program, snippets, words_of

PAGE = "docs/tutorial.md"
ENCODER = "intfloat/multilingual-e5-small"
SHORT = ("--teacher_num_train_epochs", "1")
pytestmark = pytest.mark.slow


def test_the_tutorial_from_an_export_to_a_push(tmp_path, monkeypatch, tokenizer, run_script, capsys):
    """All of it in its order, with fewer sentences and a tiny encoder."""
    monkeypatch.chdir(tmp_path)
    shape = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 32}
    fields = {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": tokenizer.pad_token_id}
    XLMRobertaModel(XLMRobertaConfig(vocab_size=len(tokenizer), **shape, **fields)).save_pretrained("encoder")
    tokenizer.save_pretrained("encoder")
    ran = []
    for snippet in snippets(PAGE, "bash", "yaml"):
        if snippet.language == "yaml":
            assert snippet.text.count(ENCODER) == 2
            Path("tagger.yaml").write_text(snippet.text.replace(ENCODER, "encoder"), encoding="utf-8")
            continue
        for command in words_of(snippet):
            if command[0] != "structkd":
                assert subprocess.run(command, check=True, capture_output=True, text=True).stdout, snippet
                continue
            fewer = [{"600": "80"}.get(word, word) for word in command]
            ran.append((command[1], run_script(" ".join(command[:2]), *quickly(fewer, *SHORT))))
    verbs = [verb for verb, _ in ran]
    assert verbs == ["--version", *["convert"] * 4, "distill", "evaluate", "calibrate"]
    assert "Where everything is" in dict(ran)["distill"]

    tag, look, push = programs(PAGE)
    answers = run_program(tag, {})
    assert isinstance(answers["tagger"](answers["text"])["entities"], list)
    capsys.readouterr()
    run_program(look, {})
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("model.safetensors", "README.md", "results.json", "taggers.py", ".png"))
    card = Path("runs/tagger/student/README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0" in card
    with serve() as hub:
        hub.create("alice", {"name": "tagger"})
        work(
            hub.address, tmp_path / "home", "program", code=push.text.replace("me/tagger", "alice/tagger"), token=ALICE
        )
        sent = set(hub.repos["alice/tagger"].files) - {".gitattributes"}
    assert sent == {line.split(None, 1)[1] for line in listed.splitlines()}
