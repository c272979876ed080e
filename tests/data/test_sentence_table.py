"""Dangers: columns hold other sentences than a reader gave, equal files make unequal datasets, memory runs full."""

import gzip
import random

import pytest
from datasets.fingerprint import Hasher

from hf_structkd.data import sentence_table
from hf_structkd.data.corpora import load_corpus, read_sentences
from hf_structkd.data.sentence_table import SentenceTable
from hf_structkd.data.source_text import RawSentence
from hf_structkd.data.sources import ReadingOptions
from hf_structkd.data.unlabelled import load_sentences


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(sentence_table, "BATCH", 3)


def drawn(count: int) -> list[RawSentence]:
    """Sentences with all that a reader can know, or only some of it."""
    draw = random.Random(0)
    sentences = []
    for number in range(count):
        words = [draw.choice(["Olu", "ສະບາຍ", "木", "a b"]) for _ in range(draw.randint(1, 4))]
        tags = None if draw.random() < 0.3 else [draw.choice(["O", "B-P", "I-P"]) for _ in words]
        sentence = RawSentence(words, tags, "made")
        kind = draw.randrange(4)
        if kind == 0:
            sentence.lines = list(range(number * 10, number * 10 + len(words)))
        elif kind == 1:
            sentence.lines = [number * 10 + 2 * i for i in range(len(words))]
        else:
            sentence.row = f":{number}"
        if draw.random() < 0.5:
            sentence.text = "".join(words)
            sentence.offsets = [(0, 1) if draw.random() < 0.7 else None for _ in words]
            sentence.glued = [draw.random() < 0.5 for _ in words]
            sentence.own_words = draw.random() < 0.5
        sentence.annotated_types = draw.choice([None, [], ["P"]])
        sentence.document = draw.choice([None, "1"])
        sentences.append(sentence)
    return sentences


def comparable(sentence: RawSentence) -> RawSentence:
    sentence.lines, sentence.offsets = list(sentence.lines), list(sentence.offsets)
    return sentence


def test_a_table_gives_the_sentences_that_it_was_given(small_batches):
    given = drawn(40)
    table = SentenceTable(iter(given))
    assert [comparable(sentence) for sentence in table] == list(map(comparable, given))
    assert [comparable(table[row]) for row in range(-40, 40)] == given + given
    assert list(table.tags()) == [sentence.tags for sentence in given]
    assert table.num_tagged == sum(sentence.tags is not None for sentence in given)
    with pytest.raises(IndexError):
        table[40]


def test_only_so_many_texts_are_kept(small_batches):
    given = drawn(40)
    kept = list(SentenceTable(given, texts=4).with_texts())
    assert [s.text for s in kept] == [s.text for s in given if s.text is not None][:4]
    assert not list(SentenceTable(given, texts=0).with_texts())


def test_tags_are_renamed_and_rewritten_in_their_places(small_batches):
    given = drawn(40)
    table = SentenceTable(given)
    table.rename_tags({"O": "O", "B-P": "B-Q", "I-P": "B-Q"})  # two become one
    assert table.tag_set == {"O", "B-Q"}
    table.rewrite_tags(lambda row, tags: [f"{row}:{tag}" for tag in tags])
    read = {"O": "O", "B-P": "B-Q", "I-P": "B-Q"}
    wanted = [s.tags and [f"{row}:{read[tag]}" for tag in s.tags] for row, s in enumerate(given)]
    assert list(table.tags()) == wanted
    assert [sentence.tags for sentence in table] == wanted
    assert [row for batch in table.arrow_batches() for row in batch["tags"].to_pylist()] == wanted


def test_a_rewriting_that_fails_changes_nothing(small_batches):
    table = SentenceTable(drawn(10))
    before = list(table.tags())
    with pytest.raises(ZeroDivisionError):
        table.rewrite_tags(lambda row, tags: tags if row < 5 else 1 / 0)
    assert list(table.tags()) == before


@pytest.mark.parametrize("other", ["Olu\tB-P\n\nthe\tO\nend\tO\n\n", None])
def test_fingerprints_tell_contents_apart_and_nothing_else(tmp_path, other):
    """`datasets.map` finds stored results by it: equal contents must be found, others never."""
    text = "Olu\tB-P\nsings\tO\n\nthe\tO\nend\tO\n\n"
    (tmp_path / "a.conll").write_text(text)
    (tmp_path / "b.conll").write_text(other or text)
    one, two = (load_corpus(tmp_path / f"{name}.conll", language="en") for name in "ab")
    assert (one._fingerprint == two._fingerprint) == (other is None)
    assert (Hasher.hash(one) == Hasher.hash(two)) == (other is None)
    assert load_corpus(tmp_path / "a.conll", language="fr")._fingerprint != one._fingerprint


def test_texts_that_nobody_compares_are_not_read_into_memory(tmp_path, small_batches):
    (tmp_path / "a.jsonl").write_text('{"text": "Olu sings", "label": [[0, 3, "P"]]}\n' * 9)
    without = read_sentences(tmp_path / "a.jsonl", "en", None, ReadingOptions(), texts=0)
    whole = read_sentences(tmp_path / "a.jsonl", "en", None, ReadingOptions())
    assert not without.any_value("text")
    assert all(sentence.text == "Olu sings" for sentence in whole)


@pytest.mark.parametrize("load", [load_corpus, load_sentences])
def test_max_sentences_stops_before_the_rest_of_a_packed_file(tmp_path, load):
    """The rest is damaged: who reads it fails. (Column files are read some lines ahead.)"""
    lines = "".join(f"w{random.Random(i).random()}\tO\n\n" for i in range(60_000))
    packed = gzip.compress(lines.encode())
    (tmp_path / "a.conll.gz").write_bytes(packed[: len(packed) * 2 // 3])
    assert len(load(tmp_path / "a.conll.gz", language="en", max_sentences=50)) == 50
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "a.conll.gz", language="en")
