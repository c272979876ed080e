"""Danger: a corpus of strange bytes that hangs the reader, ends in somebody else's traceback, or is read wrong."""

import gzip
import json
import warnings
from pathlib import Path
from tempfile import mkdtemp

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from hf_structkd.data.corpora import load_corpus
from hf_structkd.data.readers import CorpusError
from hf_structkd.data.unlabelled import load_sentences
from hf_structkd.modeling.tag_scheme import TagScheme, convert_tags, infer_scheme, split_tag
from tests.fuzz.fuzzing import AWKWARD, TEXT, fuzz, only_our_errors

FORMATS = ("conll", "tsv", "csv", "conllu", "jsonl", "ndjson", "json", "txt", "parquet")
TABLES = ("jsonl", "ndjson", "json", "parquet", "csv")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "shift_jis")
GOOD = {
    "conll": "Ada\tB-PER\nlives\tO\n\n# 1\nin\tO\nRome\tB-LOC\n",
    "tsv": "Ada NNP B-PER\nlives VBZ O\n\n-DOCSTART- -X- O\n\nin IN O\n",
    "csv": 'sent_id,word,tag\n0,Ada,B-PER\n0,lives,O\n1,"in, or at",O\n\n1,"Rome\n",B-LOC\n',
    "ndjson": '{"words": ["Ada"], "ner": ["B-PER"]}\n{"words": ["x"], "ner": null}\n',
    "conllu": "# text = Ada\n1-2\tAd\t_\t_\t_\t_\t_\t_\t_\t_\n1\tAda\t_\tNOUN\t_\t_\t_\t_\t_\tNER=O\n",
    "jsonl": '{"tokens": ["Ada", "é"], "tags": ["B-PER", "O"]}\n{"tokens": ["x"], "tags": ["O"]}\n',
    "json": '[{"words": ["Ada"], "labels": ["B-PER"]}]',
    "txt": "Ada lives in Rome\n\nand so on\n",
}
FOLDER = Path(mkdtemp())
PLAIN_WORDS = st.sampled_from(["a", "#", "é", "\u200b", "1\xa0000", "日本", "👩\u200d👧", "שלום"])


def table_of(rows: list[dict]) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


@st.composite
def changed(draw, data: bytes) -> bytes:
    """Bytes with some flipped, cut out, doubled or put in; cut short; packed, and then all of that again."""
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 20)))
        kind = draw(st.sampled_from(["flip", "remove", "double", "put", "cut", "pack"]))
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif kind == "remove":
            data = data[:at] + data[to:]
        elif kind == "double":
            data = data[:to] + data[at:]
        elif kind == "put":
            put = draw(st.one_of(st.binary(max_size=6), st.sampled_from(AWKWARD).map(encoded)))
            data = data[:at] + put + data[at:]
        elif kind == "cut":
            data = data[:at]
        elif kind == "pack":
            data = gzip.compress(data, mtime=0)
    return data


def encoded(text: str, encoding: str = "utf-8") -> bytes:
    try:
        return text.encode(encoding, "surrogatepass")
    except (UnicodeError, ValueError):
        return text.encode(encoding, "replace")


@st.composite
def corpora(draw) -> tuple[str, bytes]:
    """A format's name, and bytes that claim to be of it."""
    name = draw(st.sampled_from(FORMATS))
    if name == "parquet":
        words = st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=4)
        rows = draw(st.lists(st.fixed_dictionaries({"tokens": words, "tags": words}), min_size=1, max_size=3))
        return name, draw(changed(table_of(rows)))
    cells = st.lists(TEXT, min_size=1, max_size=4)
    text = draw(
        st.one_of(
            st.just(GOOD[name]),
            st.lists(cells.map("\t".join), max_size=8).map("\n".join),
            st.lists(cells.map(" ".join), max_size=8).map("\r\n".join),
            json_texts(),
        )
    )
    data = encoded(text, draw(st.sampled_from(ENCODINGS)))
    return name, draw(changed(data))


def json_texts() -> st.SearchStrategy[str]:
    scalars = st.one_of(TEXT, st.none(), st.booleans(), st.integers(), st.floats())
    values = st.one_of(scalars, st.lists(scalars, max_size=4), st.lists(st.lists(scalars, max_size=2), max_size=2))
    rows = st.dictionaries(st.sampled_from(["tokens", "words", "tags", "labels", "data", "x"]), values, max_size=4)
    whole = st.one_of(rows, st.lists(rows, max_size=4), rows.map(lambda row: {"data": [row]}))
    return st.one_of(whole.map(json.dumps), st.lists(rows, max_size=4).map(lambda r: "\n".join(map(json.dumps, r))))


def check_words(words: list[str], kind: str) -> None:
    assert words
    # Tables may have words with a line end in them, as some published ones do; between lines there can be none.
    forbidden = "\0" if kind in TABLES else "\0\n"
    assert not any(character in word for word in words for character in forbidden if word.strip())
    "".join(words).encode()


@fuzz(2)
@given(corpora(), st.sampled_from(["accept", "repair", "refuse"]), st.sampled_from([None, "BIO", "BIOES", "plain"]))
def test_corpora(corpus, orphans, scheme):
    name, data = corpus
    path = FOLDER / f"corpus.{name}"
    path.write_bytes(data)
    with only_our_errors(path):
        dataset = load_corpus(path, language="xx", orphans=orphans, scheme=scheme)
        assert len(dataset)
        for row in dataset:
            if row["tags"] is not None:
                assert len(row["tokens"]) == len(row["tags"])
                assert all(isinstance(tag, str) for tag in row["tags"])
            check_words(row["tokens"], name)


@fuzz()
@given(corpora())
def test_sentences_without_tags(corpus):
    name, data = corpus
    path = FOLDER / f"sentences.{name}"
    path.write_bytes(data)
    with only_our_errors(path):
        for words in load_sentences(path, language="xx")["tokens"]:
            check_words(words, name)


@fuzz()
@given(
    st.lists(st.lists(st.tuples(PLAIN_WORDS, st.sampled_from(["O", "B-X"])), min_size=1, max_size=5), max_size=4),
    st.sampled_from(["\n", "\r\n", "\r\r\n"]),
    st.sampled_from(["\t", " ", "  "]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
    st.booleans(),
)  # fmt: skip
def test_what_was_written_is_read(sentences, end, blank, encoding, packed):
    """Line ends, byte order marks, blanks and packing change nothing of a corpus."""
    sentences = [[("first", "O")], *sentences]  # lines that begin with # do not tell how many columns there are
    blocks = [end.join(f"{word}{blank}{tag}" for word, tag in sentence) for sentence in sentences]
    data = (end + end).join([*blocks, ""]).encode(encoding)
    path = FOLDER / "round.conll"
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    dataset = load_corpus(path, language="xx")
    assert [list(zip(row["tokens"], row["tags"])) for row in dataset] == sentences


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.conll", "a\tO\n".encode("utf-16"), "iconv -f UTF-16"),
        ("a.conll", b"a\tO\rb\tO\r", "corpus_file:1: a carriage return"),
        ("a.txt", b"a b\rc d\n", "corpus_file:1: a carriage return"),
        ("a.conll", b"\x1f\x8b\x08garbage", "cannot be read"),
        ("a.conll", b"a\tO\nb\0\tO\n", "corpus_file:2: a NUL"),
        ("a.jsonl", rb'{"tokens": ["\ud800"], "tags": ["O"]}', "corpus_file:1, word 1"),
        ("a.jsonl", rb'{"tokens": ["a"], "tags": ["\udc00"]}', "corpus_file:1, word 1"),
        ("a.jsonl", b"[" * 100_000, "corpus_file:1: JSON that cannot be read"),
        ("a.jsonl", b'{"tokens": ["a"], "tags": [' + b"9" * 5000 + b"]}", "corpus_file:1: JSON that cannot be read"),
        ("a.conllu", b"1\t\t_\tNOUN\t_\t_\t_\t_\t_\t_\n", "corpus_file:1: an empty word"),
        ("a.parquet", b"PAR1" + b"\0" * 20 + b"PAR1", "not a Parquet file"),
    ],
    ids=["utf-16", "old-mac", "old-mac-txt", "gzip", "nul", "surrogate", "surrogate-tag", "nested", "digits", "empty",
         "parquet"],
)  # fmt: skip
def test_named_kinds_of_damage(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    load = load_sentences if name.endswith(".txt") else load_corpus
    with pytest.raises(CorpusError, match=message.replace("corpus_file", str(path)).replace("(", r"\(")):
        load(path, language="xx")


def test_bytes_in_parquet_that_are_not_text(tmp_path):
    """Arrow believes a column that says it is UTF-8; the error then came when a row was read."""
    words = pa.ListArray.from_arrays([0, 1], pa.array([b"\xff\xfe"]).view(pa.string()))
    parquet.write_table(pa.table({"tokens": words, "tags": [["O"]]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a.parquet, row 1: cannot be decoded"):
        load_corpus(tmp_path / "a.parquet", language="xx")


@pytest.mark.parametrize("column", [-7, 7])
def test_word_columns_that_do_not_exist(tmp_path, column):
    (tmp_path / "a.conll").write_text("a O\n")
    with pytest.raises(CorpusError, match=f"no column {column}"):
        load_corpus(tmp_path / "a.conll", language="xx", tokens_column=column)


def test_a_name_too_long_for_a_file():
    with pytest.raises(CorpusError, match="name too long"):
        load_corpus("x" * 5000 + ".conll", language="xx")


def test_a_table_may_have_words_with_line_ends(tmp_path):
    path = tmp_path / "corpus.parquet"
    path.write_bytes(table_of([{"tokens": ["Ada", "a\nb", "0\n"], "tags": ["B-PER", "O", "O"]}]))
    assert load_corpus(path, language="xx")[0]["tokens"] == ["Ada", "a\nb", "0\n"]
    assert load_sentences(path, language="xx")[0]["tokens"] == ["Ada", "a\nb", "0\n"]


# Danger: tag sequences that are read, repaired or converted into something that they do not say.


TAGS = st.one_of(
    st.builds("{}-{}".format, st.sampled_from("BIES"), st.sampled_from(["X", "Y", "a-b", "-", "é", "\u200b", " "])),
    st.sampled_from(["O", "O", "B", "I", "E", "S", "B-", "b-x", "L-X", "U-X", ""]),
    TEXT,
)
SCHEMES = st.sampled_from([None, "BIO", "BIOES", "plain", "IOB1", ""])


def quietly(*args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TagScheme(*args)


@fuzz()
@given(st.lists(TAGS, max_size=9, unique=True), SCHEMES, st.data())
def test_any_label_set(labels, name, data):
    with only_our_errors():
        scheme = quietly(labels, name)
        assert scheme.name == (name or infer_scheme(labels))
        assert scheme.allowed.shape == (len(labels), len(labels))
        # Every tag can stand in some legal sentence: masking must not make gold tags impossible.
        reachable = scheme.allowed_start.clone()
        for _ in labels:
            reachable = reachable | (scheme.allowed & reachable[:, None]).any(0)
        assert reachable.all()
        assert len(scheme.continuation) == len(scheme.bio_reading) == len(labels)
        sequence = data.draw(st.lists(st.sampled_from(labels), max_size=7))
        ids = [labels.index(tag) for tag in sequence]
        legal = not ids or bool(scheme.allowed_start[ids[0]] & scheme.allowed[ids[:-1], ids[1:]].all())
        legal = legal and (not ids or bool(scheme.allowed_end[ids[-1]]))
        assert legal == (not scheme.violations(sequence))
        for span in scheme.spans(sequence):
            assert 0 <= span.start < span.end <= len(sequence)
        repaired = scheme.repair(sequence)
        assert len(repaired) == len(sequence)
        assert not scheme.violations(repaired)
        assert repaired == sequence or not legal
        assert scheme.repair(repaired) == repaired


@fuzz()
@given(st.lists(TAGS, max_size=9), st.sampled_from(["BIO", "BIOES", "plain", ""]), st.sampled_from(["BIO", "BIOES"]))
def test_conversion(tags, one, other):
    with only_our_errors():
        there = convert_tags(tags, one, other)
        types = dict.fromkeys(split_tag(tag)[1] for tag in tags if tag != "O")
        spans = TagScheme.from_entity_types(types, one).spans(tags)
        assert TagScheme.from_entity_types(types, other).spans(there) == spans
        assert convert_tags(there, other, one) == tags


@fuzz()
@given(
    st.lists(TAGS, max_size=6, unique=True),
    SCHEMES,
    st.lists(st.tuples(st.integers(-2, 8), st.integers(-2, 9), TAGS), max_size=4),
    st.integers(0, 8),
)
def test_spans_are_written_or_refused(labels, name, spans, length):
    with only_our_errors():
        scheme = quietly(labels, name)
        tags = scheme.tags_from_spans(spans, length)
        assert len(tags) == length
        assert not scheme.violations(tags)
        assert sorted(tuple(span) for span in scheme.spans(tags)) == sorted(spans)
