"""Dangers: sentences of training that are scored on too; sentences that change sides when the file grows; half a
corpus, or an option that is taken and does nothing."""

from pathlib import Path

import pytest

from hf_structkd import cli, load_corpus
from hf_structkd.data.division import divide
from hf_structkd.data.source_text import CorpusError, RawSentence

SHARES = {"train": 8, "dev": 1, "test": 1}


def made(words) -> list[RawSentence]:
    return [RawSentence([str(word), "sang"], ["B-PER", "O"], "made") for word in words]


def test_every_sentence_is_in_one_split_and_stays_there_when_the_file_grows():
    small, large = divide(made(range(1000)), SHARES), divide(made(range(-500, 2000)), SHARES)
    assert sum(map(len, small.values())) == 1000
    for split, share in SHARES.items():
        assert {s.tokens[0] for s in small[split]} <= {s.tokens[0] for s in large[split]}
        assert abs(len(small[split]) - share * 100) < 40
        assert [int(s.tokens[0]) for s in small[split]] == sorted(int(s.tokens[0]) for s in small[split])


def test_equal_sentences_are_never_on_two_sides():
    parts = divide(made([*range(200), *range(200)]), SHARES)
    words = [{s.tokens[0] for s in part} for part in parts.values()]
    assert sum(map(len, words)) == 200


def test_too_few_sentences_and_shares_of_nothing_are_refused():
    with pytest.raises(CorpusError, match=r"2 sentences are too few .* would be empty"):
        divide(made(range(2)), SHARES)
    with pytest.raises(ValueError, match="above 0"):
        divide(made(range(9)), {**SHARES, "dev": 0})


def test_an_export_becomes_three_files_that_a_recipe_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["convert", "demo", "export/en.jsonl", "--to", "doccano", "--language", "en", "--max_sentences", "90"]
    assert cli.main(command) == 0
    target = "data/en/{split}.jsonl"
    assert cli.main(["convert", "export/en.jsonl", target, "--to", "doccano", "--shares", "0.8", "0.1", "0.1"]) == 0
    assert capsys.readouterr().out.count(" sentences, ") == 4
    whole = load_corpus("export/en.jsonl", language="en")
    parts = [load_corpus(target.format(split=split), language="en") for split in SHARES]
    assert sum(map(len, parts)) == len(whole) == 90
    percent = "percent/{split}.jsonl"
    assert cli.main(["convert", "export/en.jsonl", percent, "--to", "doccano", "--shares", "80", "10", "10"]) == 0
    assert "read as percent" in capsys.readouterr().out
    for split in SHARES:
        assert Path(percent.format(split=split)).read_bytes() == Path(target.format(split=split)).read_bytes()
    assert sorted(map(str, whole["tags"])) == sorted(str(tags) for part in parts for tags in part["tags"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["demo", "a.conll"], "--language chooses a language of the built-in corpus"),
        (["a.jsonl", "a.conll", "--language", "en"], "other sources have no use for it"),
        (["a.jsonl", "a.conll", "--shares", "8", "1", "1"], "write {split} in the name of the target"),
        (["a.jsonl", "{split}.conll"], "{split} stands for the parts of a divided corpus: add --shares 0.8 0.1 0.1"),
        (["a.jsonl", "{split}.conll", "--shares", "8", "1", "1"], "add up to 10: give parts of 1 (0.8 0.1 0.1) or"),
        (["a.jsonl", "{split}.conll", "--shares", "0.8", "0.1", "0.2"], "--shares 0.8 0.1 0.2 add up to 1.1"),
        (["a.jsonl", "{split}.conll", "--shares", "1", "0", "1"], "must be above 0"),
    ],
)
def test_options_without_effect_are_refused(arguments, reason, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["convert", *arguments])
    assert reason in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
