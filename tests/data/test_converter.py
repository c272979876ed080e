"""Dangers: a corpus that changes on its way to another format; a format that cannot hold it and drops the rest."""

import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_structkd import cli
from hf_structkd.data.converter import WRITERS, corpus_bytes, format_of, summarise
from hf_structkd.data.corpora import load_corpus, read_sentences
from hf_structkd.data.source_text import CorpusError, RawSentence
from hf_structkd.data.sources import ReadingOptions
from hf_structkd.modeling.tag_scheme import TagScheme

SPANS = ("doccano", "prodigy", "label-studio", "gliner", "spacy")
ENDINGS = {"conll": ".conll", "csv": ".csv", "jsonl": ".jsonl", "doccano": ".jsonl", "prodigy": ".jsonl",
           "label-studio": ".json", "gliner": ".json", "spacy": ".spacy"}  # fmt: skip
WORDS = st.text(st.sampled_from("abéשמ京ก\u0e31\U0001f600\u0301.-'"), min_size=1, max_size=4)


def need(name):
    if name == "spacy":
        pytest.importorskip("spacy", reason="needs spaCy, the `spacy` extra")


def entities(sentences, scheme):
    reader = TagScheme.from_entity_types(["P", "L"], scheme)
    return [None if tags is None else [tuple(span) for span in reader.spans(tags)] for tags in sentences]


@pytest.mark.parametrize("name", WRITERS)
def test_words_and_entities_survive_every_format(tmp_path, name):
    need(name)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.lists(st.tuples(WORDS, st.sampled_from(["O", "B-P", "B-L", "I"])), min_size=1), min_size=1),
        st.sampled_from(["BIO", "BIOES"]),
    )
    def check(drawn, scheme):
        sentences = []
        for row in drawn:
            tags, before = [], ""
            for _, tag in row:
                tags.append((f"I-{before}" if before else "O") if tag == "I" else tag)
                before = tags[-1][2:]
            sentences.append(RawSentence([word for word, _ in row], tags, "drawn"))
        if not any(tag != "O" for sentence in sentences for tag in sentence.tags or ()):
            return
        if any(
            not word.strip(".-'\u0301") and word.startswith("#") for sentence in sentences for word in sentence.tokens
        ):
            return
        path = tmp_path / f"a{ENDINGS[name]}"
        path.write_bytes(corpus_bytes(sentences, name))
        # Words of a text with spans are cut anew: at the blanks that the writer put between them.
        unit = "characters" if name == "doccano" else None  # all others tell it by themselves
        loaded = load_corpus(path, language="xx", words="whitespace", to_scheme=scheme, offset_unit=unit)
        assert loaded["tokens"] == [sentence.tokens for sentence in sentences]
        assert entities(loaded["tags"], scheme) == entities([sentence.tags for sentence in sentences], "BIO")

    check()


@pytest.mark.parametrize("name", [kind for kind in SPANS if kind != "gliner"])
def test_a_text_with_offsets_stays_as_it_was(tmp_path, name):
    """Danger: blanks, emoji and line breaks of the original are replaced by the words and single spaces."""
    need(name)
    text = "\U0001f600  Olu\u00a0Ade,\nKano."
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"text": text, "label": [[3, 10, "P"], [12, 16, "L"]]}))
    options = ReadingOptions(offset_unit="characters")
    sentences = read_sentences(source, "xx", None, options)
    path = tmp_path / f"out{ENDINGS[name]}"
    path.write_bytes(corpus_bytes(sentences, name))
    if name != "spacy":  # whose texts are words with or without a space behind
        content = path.read_text()
        row = json.loads(content)[0]["data"] if name == "label-studio" else json.loads(content)
        assert row["text"] == text
    again = read_sentences(path, "xx", None, options if name == "doccano" else ReadingOptions())
    assert [(s.tokens, s.tags) for s in again] == [(s.tokens, s.tags) for s in sentences]


def test_sentences_without_tags(tmp_path):
    sentences = [RawSentence(["Olu"], ["B-P"], "a", row=":1"), RawSentence(["Kano", "is"], None, "a", row=":2")]
    for name in ("jsonl", "doccano", "prodigy", "label-studio"):
        path = tmp_path / f"a{ENDINGS[name]}"
        path.write_bytes(corpus_bytes(sentences, name))
        assert load_corpus(path, language="xx")["tags"] == [["B-P"], None], name
    for name in ("conll", "csv", "gliner"):
        with pytest.raises(CorpusError, match=f"a:2, word 1: a sentence without tags, which {name} cannot hold"):
            corpus_bytes(sentences, name)


@pytest.mark.parametrize("name", SPANS)
def test_plain_tags_are_no_spans(name):
    need(name)
    with pytest.raises(CorpusError, match="the tags NOUN, VERB are plain ones"):
        corpus_bytes([RawSentence(["a", "b"], ["NOUN", "VERB"], "x")], name)


def test_a_word_that_a_line_cannot_hold():
    with pytest.raises(CorpusError, match=r"x, word 1: 'a\\tb' has a tab"):
        corpus_bytes([RawSentence(["a\tb"], ["O"], "x")], "conll")


def test_the_ending_tells_the_format(tmp_path):
    for name, kind in {
        "a.conll": "conll",
        "a.CSV": "csv",
        "a.jsonl": "jsonl",
        "a.spacy": "spacy",
        "a": "conll",
    }.items():
        assert format_of(tmp_path / name, None) == kind
    with pytest.raises(CorpusError, match="choose with --to"):
        format_of(tmp_path / "a.json", None)
    with pytest.raises(CorpusError, match="no format 'xml'; there are conll"):
        format_of(tmp_path / "a.json", "xml")


def test_the_summary_counts_entities_and_words():
    sentences = [RawSentence(["a", "b"], ["B-P", "I-P"], "x"), RawSentence(["c"], None, "x")]
    assert str(summarise(sentences)) == "2 sentences (1 without tags), 3 words, BIO; entities: 1 P"
    assert str(summarise([RawSentence(["a", "b"], ["N", "N"], "x")])).endswith("plain; tags: 2 N")


def test_documents_and_annotated_types_are_kept_or_said_to_be_lost(tmp_path, caplog):
    """Danger: a corpus comes back without its documents, or as if all types had been looked for."""
    source = tmp_path / "in.jsonl"
    rows = [{"tokens": ["Olu"], "tags": ["B-P"], "annotated_types": ["P"], "document": "a"},
            {"tokens": ["hums"], "tags": ["O"], "annotated_types": None, "document": "a"},
            {"tokens": ["Kano"], "tags": ["O"], "annotated_types": ["P"], "document": "b"}]  # fmt: skip
    source.write_text("\n".join(map(json.dumps, rows)))
    sentences = read_sentences(source, "xx", None, ReadingOptions())
    assert str(summarise(sentences)) == "2 documents, 3 sentences, 3 words, BIO; entities: 1 P"
    lost = "{} has no place for {}: left out of {} sentence(s)"
    for name, ending in ENDINGS.items():
        need(name)
        caplog.clear()
        path = tmp_path / f"out{ending}"
        path.write_bytes(corpus_bytes(sentences, name))
        again = read_sentences(path, "xx", None, ReadingOptions())
        documents = [sentence.document for sentence in again]
        types = [sentence.annotated_types for sentence in again]
        kept = types == [["P"], None, ["P"]]
        assert kept == (lost.format(name, "the types that annotators looked for", 2) not in caplog.text), name
        kept = None not in documents and documents[0] == documents[1] != documents[2]
        assert kept == (lost.format(name, "documents", 3) not in caplog.text), name
        if name in ("jsonl", "conll"):
            assert kept, name
    assert [row["document"] for row in map(json.loads, corpus_bytes(sentences, "jsonl").splitlines())] == [*"aab"]
    conllu = tmp_path / "in.conllu"
    word = "# newdoc\n1\tOlu\t_\tX\t_\t_\t0\tx\t_\tNER=B-P\n\n"
    conllu.write_text(word + word)
    table = read_sentences(conllu, "xx", None, ReadingOptions(tags_column="misc:NER"))
    written = [json.loads(row)["document"] for row in corpus_bytes(table, "jsonl").splitlines()]
    assert written == ["1", "4"]  # not the path of somebody's machine


def test_the_command(tmp_path, capsys):
    source, target, before = tmp_path / "in.conll", tmp_path / "out.json", logging_state()
    source.write_text("Olu B-P\nAde L-P\nhums O\n\nKano U-L\n")
    assert cli.main(["convert", str(source), str(target), "--to", "gliner"]) == 0
    assert "2 sentences, 4 words, BIOES; entities: 1 L, 1 P" in capsys.readouterr().out
    assert json.loads(target.read_text())[0] == {"tokenized_text": ["Olu", "Ade", "hums"], "ner": [[0, 1, "P"]]}
    target.write_text("old")
    for arguments, message in (
        (["--to", "gliner", "--scheme", "brackets"], "are not those of brackets"),
        ([], "choose with --to"),
        (["--to", "gliner", "--words", "rulse"], "unknown segmenter 'rulse'"),
        (["--to", "gliner", "--format", "docano"], "not 'docano'. Did you mean 'doccano'?"),
        (
            ["--to", "gliner", "--format", "doccano"],
            "not JSON (Expecting value, column 1). --format doccano was asked for, and the file begins 'Olu B-P'.",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["convert", str(source), str(target), *arguments])
        assert message in f"{stopped.value.code}{capsys.readouterr().err}"
        assert target.read_text() == "old"
    with pytest.raises(SystemExit, match="source and target are the same file"):
        cli.main(["convert", str(source), str(source)])
    numbered = tmp_path / "in.iob2"
    numbered.write_text("# text = Olu hums\n1\tOlu\tB-P\t-\tq\n2\thums\tO\t-\tq\n")
    assert cli.main(["convert", str(numbered), str(tmp_path / "o.conll"), "--format", "uner"]) == 0
    assert (tmp_path / "o.conll").read_text() == "Olu\tB-P\nhums\tO\n\n"
    assert cli.main(["convert", str(source), str(tmp_path / "new.conll")]) == 0
    # Danger: whoever runs a command from Python, a test for instance, finds other logs than before.
    assert logging_state() == before


def logging_state() -> list:
    return [(log.level, list(log.handlers)) for log in (logging.getLogger(), logging.getLogger("hf_structkd"))]
