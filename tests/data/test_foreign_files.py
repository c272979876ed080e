"""Danger: a file that is not what it was taken for becomes words and tags of nonsense, without a word."""

import gzip
import json
import logging
from typing import ClassVar

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_structkd.data import column_files, source_text
from hf_structkd.data.corpora import load_corpus
from hf_structkd.data.readers import CorpusError
from hf_structkd.data.unlabelled import load_sentences
from hf_structkd.modeling.tag_scheme import TagScheme


@pytest.fixture
def read(tmp_path):
    """Writes a file and reads it: the sentences as `word/tag word/tag`, `?` where there are no tags."""

    def read(content, name="corpus.conll", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        loaded = load_corpus(path, language="xx", **options)
        return [
            " ".join(f"{word}/{tag}" for word, tag in zip(row["tokens"], row["tags"] or ["?"] * len(row["tokens"])))
            for row in loaded
        ]

    return read


class TestColumns:
    @pytest.mark.parametrize(
        "comment", ["# id k7\tpart=test", "# sent_id = 9", "#doc 8 x y", "# newdoc id = 1", "#\tx"]
    )
    def test_comments_whatever_blanks_they_hold(self, read, comment):
        """One with as many blanks as the file has columns was read as a word, and its last part as a tag."""
        rows = f"{comment}\nolu _ _ O\nkano _ _ B-City\n\n{comment}\nhums _ _ O\n"
        assert read(rows) == ["olu/O kano/B-City", "hums/O"]
        tabs = rows.replace(" _ _ ", "\t_\t")
        assert read(tabs) == ["olu/O kano/B-City", "hums/O"]

    def test_comments_of_two_columns(self, read, caplog):
        text = "#doc 5\nolu O\n# B-City\n\n#\tx\nkano B-City\n\n#rain O\n# O\n"
        with caplog.at_level(logging.INFO):
            assert read(text) == ["olu/O #/B-City", "kano/B-City", "#rain/O #/O"]
        assert "skipped 2 comment(s)" in caplog.text
        assert "2 line(s) that begin with # have as many columns" in caplog.text
        assert "line 1" in caplog.text

    NUMBERED = "# text = Olu hums\n1\tOlu\tB-P\t-\tq\n2\thums\tO\t-\tq\n\n1\tKano\tB-L\t-\tq\n2\tis\tO\n"

    @pytest.mark.parametrize(
        "columns",
        [
            {"tokens_column": 1, "tags_column": 2},
            {"tokens_column": "1", "tags_column": "2"},
            {"tokens_column": 1, "column": 2},
        ],
    )
    def test_columns_by_number(self, read, columns):
        assert read(self.NUMBERED, "corpus.iob2", **columns) == ["Olu/B-P hums/O", "Kano/B-L is/O"]

    @pytest.mark.parametrize("rows", [NUMBERED, "1 Olu B-P\n2 hums O\n\n1 Kano B-L\n", "0 a O\n1 b O\n"])
    def test_words_that_count(self, read, tmp_path, rows):
        with pytest.raises(CorpusError, match=r"first column counts 1, 2, 3 .*tokens_column and tags_column"):
            read(rows, "corpus.iob2")
        with pytest.raises(CorpusError, match="counts 1, 2, 3"):
            load_sentences(tmp_path / "corpus.iob2", language="xx")

    def test_numbers_may_be_words(self, read):
        assert read("1 O\n\n2 O\n3 O\n\n1 O\n2 O\n") == ["1/O", "2/O 3/O", "1/O 2/O"]
        assert read("1 O\n2 O\n", tokens_column=0) == ["1/O 2/O"]

    @pytest.mark.parametrize("column", [{}, {"tags_column": 3}, {"column": -1}, {"tags_column": "3"}])
    def test_a_blank_inside_a_word(self, read, column):
        """The column that was asked for is there, but it is another one."""
        with pytest.raises(CorpusError, match=r"corpus.conll:3: 5 column\(s\) where the first line has 4: 'Port"):
            read("Olu _ O B-P\nleft _ O O\nPort Said _ O B-L\n", **column)
        with pytest.raises(CorpusError, match=r"corpus.conll:2: 3 column\(s\) where the first line has 4"):
            read("Olu _ O B-P\nleft O O\n", tags_column=2)

    @pytest.mark.parametrize(
        ("content", "advice"),
        [("Olu\nhums\n\nKano\n", "load_sentences"), ("Olu,B-P\nhums,O\n", r"\.csv"), ("Olu;B-P\nhums;O\n", r"\.csv"),
         ("Olu|B-P\nhums|O\n", "by tabs")],
    )  # fmt: skip
    @pytest.mark.parametrize("name", ["words.txt", "words.conll"])
    def test_one_column_is_no_corpus(self, read, name, content, advice):
        """The word was its own tag."""
        with pytest.raises(CorpusError, match=rf"{name}:1: only one column.*{advice}"):
            read(content, name)

    def test_one_column_is_a_corpus_of_words(self, tmp_path):
        (tmp_path / "a.conll").write_text("Olu\n#sun\n\n# a remark\n#\n")
        assert load_sentences(tmp_path / "a.conll", language="xx")["tokens"] == [["Olu", "#sun"], ["#"]]

    def test_the_same_column_twice(self, read):
        with pytest.raises(CorpusError, match="column 1 for both the words and the tags"):
            read("Olu B-P\n", tokens_column=1)


class TestTables:
    CSV = 'nr,word,tag\n0,Olu,B-P\n0,hums,O\n1,Kano,B-L\n1,"is, say,",O\n1,"""",O\n'

    @pytest.mark.parametrize(
        ("content", "options"),
        [
            (CSV.replace("nr", "sentence_id"), {}),
            (CSV, {"sentence_column": "nr"}),
            (CSV, {"sentence_column": 0, "tokens_column": "word", "tags_column": "tag"}),
            (CSV, {"sentence_column": "0", "tokens_column": 1, "tags_column": -1}),
            (CSV.replace("1,Kano", ",,\n1,Kano"), {"tokens_column": "word", "tags_column": "tag"}),
            (CSV.replace("1,Kano", "\n1,Kano"), {}),
            (CSV.replace("word,tag", "Surface,Class"),
             {"tokens_column": "Surface", "tags_column": "Class", "sentence_column": "nr"}),
            (CSV.replace("is, say,", "is! say!").replace(",", ";").replace("!", ","), {"sentence_column": "nr"}),
            ("\ufeff" + CSV.replace("\n", "\r\n"), {"sentence_column": "nr"}),
        ],
    )  # fmt: skip
    def test_csv(self, read, content, options):
        assert read(content, "corpus.CSV", **options) == ["Olu/B-P hums/O", 'Kano/B-L is, say,/O "/O']

    def test_a_sentence_number_that_stands_once(self, read):
        table = "Sentence #,Word,POS,Tag\nSentence: 1,Olu,X,B-P\n,hums,X,O\nSentence: 2,Kano,X,B-L\n"
        assert read(table, "corpus.csv", tags_column="Tag") == ["Olu/B-P hums/O", "Kano/B-L"]
        with pytest.raises(CorpusError, match=r"several tags columns \(POS, Tag\)"):
            read(table, "corpus.csv")

    @pytest.mark.parametrize("name", ["corpus.tsv", "corpus.conll", "corpus.txt"])
    @pytest.mark.parametrize("blank", ["\t", " "])
    def test_a_first_line_that_names_the_columns_is_no_word(self, read, caplog, name, blank):
        text = "Token Lemma Label\nOlu olu B-P\nhums hum O\n\nKano kano B-L\n".replace(" ", blank)
        with caplog.at_level(logging.INFO):
            assert read(text, name) == ["Olu/B-P hums/O", "Kano/B-L"]
        assert f"{name}: the first line names the columns: Token, Lemma, Label" in caplog.text
        assert read(text, name, tokens_column="Lemma")[1] == "kano/B-L"
        assert read(text, name, tokens_column=1, tags_column=2)[1] == "kano/B-L"

    @pytest.mark.parametrize(
        ("content", "options", "message"),
        [
            ("Olu,B-P\nhums,O\n", {}, r"csv:1: the first line does not name the columns: Olu, B-P.*tokens_column"),
            (CSV, {"tags_column": "ner"}, r"csv:1: no column 'ner' is named in the first line, which has nr, word"),
            (CSV, {"tags_column": 3}, r"3 column\(s\), so there is no column 3"),
            (CSV + "2,a,b,O\n", {}, r"csv:7: 4 column\(s\) where the first line has 3"),
            (CSV + '2,"a,O\n', {}, "csv:7: not CSV"),
            ("tokens,ner_tags\n\"['Olu', 'hums']\",\"[1, 0]\"\n", {}, "csv:2: a list of words .* JSON lines"),
            ("word;tag\n['Olu' 'hums'];['B-P' 'O']\n", {}, "csv:2: a list of words and a list of tags"),
            # two words that are quotation marks, unquoted: all between them was one word
            (CSV + '2,",O\n2,hums,O\n2,",O\n', {}, "csv:9: a cell of several lines, ',O.*2,hums,O.*has to be quoted"),
        ],
    )
    def test_what_is_wrong_with_csv(self, read, content, options, message):
        with pytest.raises(CorpusError, match=message):
            read(content, "corpus.csv", **options)

    def test_a_whole_file_as_one_sentence(self, read, caplog):
        assert len(read(self.CSV, "corpus.csv")) == 1
        assert "no blank lines and no column that numbers the sentences: all 5 words are one sentence" in caplog.text
        text = "word,tag\n" + "Olu,O\n" * 600
        with pytest.raises(CorpusError, match=r"all 600 words are one sentence.*sentence_column="):
            read(text, "corpus.csv")
        assert len(read(text + "\nKano,O\n", "corpus.csv")) == 2
        assert len(read(text.replace(",", " "))) == 1
        assert "corpus.conll: no blank lines" in caplog.text

    def test_words_of_csv(self, tmp_path):
        (tmp_path / "a.csv").write_text(self.CSV)
        loaded = load_sentences(tmp_path / "a.csv", language="xx", sentence_column="nr")
        assert loaded["tokens"] == [["Olu", "hums"], ["Kano", "is, say,", '"']]

    @pytest.mark.parametrize("name", ["a.ndjson", "a.jsonlines", "a.JSONL", "a.json", "a.NDJSON.gz"])
    def test_json_lines_under_every_name(self, read, name):
        text = '{"tokens": ["Olu", "hums"], "tags": ["B-P", "O"]}\n'
        assert read(gzip.compress(text.encode(), mtime=0) if "gz" in name else text, name) == ["Olu/B-P hums/O"]

    def test_a_sentence_without_tags(self, read):
        rows = '{"words": ["Olu"], "ner": ["B-P"]}\n{"words": ["Kano", "is"], "ner": null}\n'
        assert read(rows, "a.jsonl") == ["Olu/B-P", "Kano/? is/?"]
        with pytest.raises(CorpusError, match=r"none of the 1 sentences has tags.*unlabelled_corpus"):
            read('{"words": ["Kano", "is"], "ner": null}', "a.jsonl")

    @pytest.mark.parametrize("name", ["labels", "ner", "tag", "pos_tags", "label"])
    def test_tags_under_every_usual_name(self, read, name):
        assert read(json.dumps({"tokens": ["Olu"], name: ["B-P"]}), "a.jsonl") == ["Olu/B-P"]
        with_class = {"tokens": ["Olu"], "tags": ["B-P"], "label": 3}
        assert read(json.dumps(with_class), "a.jsonl") == ["Olu/B-P"]


class TestConllu:
    TEXT = (
        "# text = Olu hums\n"
        "1\tOlu\t_\tPROPN\t_\t_\t2\tx\t_\tent=B-P\n"
        "2\thums\t_\tVERB\t_\tA=b\t0\tx\t_\tGloss=y|ent=O\n"
    )

    @pytest.mark.parametrize("key", ["NER", "Ent", "name"])
    def test_a_key_that_no_word_has(self, read, key):
        """All words were O."""
        with pytest.raises(
            CorpusError, match=rf"no word has the key '{key}' in its misc; the keys there are Gloss, ent"
        ):
            read(self.TEXT, "a.conllu", tags_column=f"misc:{key}", max_sentences=1)
        assert read(self.TEXT, "a.conllu", tags_column="misc:ent") == ["Olu/B-P hums/O"]
        assert read(f"{self.TEXT}\n{self.TEXT}", "a.conllu", tags_column="feats:A")[1] == "Olu/_ hums/b"

    @pytest.mark.parametrize("name", ["a.conll", "a.tsv", "a.txt"])
    def test_conllu_under_another_name(self, read, name):
        with pytest.raises(CorpusError, match=f"{name}:2: this looks like CoNLL-U: give the file the ending .conllu"):
            read(self.TEXT, name)
        assert read(self.TEXT, name, tokens_column=1, tags_column=3) == ["Olu/PROPN hums/VERB"]

    def test_arguments_without_effect(self, read):
        for options in ({"tokens_column": 2}, {"column": 3}, {"sentence_column": 1}):
            with pytest.raises(CorpusError, match=f"{next(iter(options))} says nothing of CoNLL-U"):
                read(self.TEXT, "a.conllu", **options)
        with pytest.raises(CorpusError, match="column says nothing of tables"):
            read('{"tokens": ["a"], "tags": ["O"]}', "a.jsonl", column=1)
        with pytest.raises(CorpusError, match="column=1 and tags_column=2 are the same"):
            read("a O O\n", column=1, tags_column=2)


@pytest.mark.parametrize("name", ["a.conll", "a.jsonl", "a.json", "a.csv", "a.conllu", "a.parquet", "a.txt"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html>\n<html><body>x</body></html>\n", "web page"),
        (b'<html lang="en"><head></head></html>', "web page"),
        (b'<?xml version="1.0"?>\n<Reviews>\n', "XML"),
        (b"404: Not Found", "server's error message"),
        (b"Entry not found\n", "server's error message"),
        (b"PK\x03\x04\x14\0\0\0\x08\0garbage", "cannot be read|zip archive"),
        (b"BZh91AY&SYgarbage", "cannot be read|bzip2"),
        (b"%PDF-1.5\n", "PDF"),
    ],
)
def test_files_that_are_no_corpus(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    for load in (load_corpus, load_sentences):
        with pytest.raises(CorpusError, match=f"{name}.*{message}"):
            load(path, language="xx")
    if not name.endswith("parquet"):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(CorpusError, match=f"{name}.*{message}"):
            load_corpus(path, language="xx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1\x15\x04", "a Parquet file"),
        ('{"tokens": ["a"], "tags": ["O"]}\n', "JSON lines"),
        ("<corpus version='1'>\n<s>a</s>\n", "XML"),
        (gzip.compress(gzip.compress(b"a O\n", mtime=0), mtime=0), "a gzip file inside a gzip file"),
    ],
)
def test_other_formats_named_as_columns(read, content, message):
    with pytest.raises(CorpusError, match=f"corpus.conll.*{message}"):
        read(content)


class TestTagSchemes:
    @pytest.mark.parametrize(
        ("rows", "tags", "name"),
        [
            ("a B-P\nb L-P\nc O\nd U-L\n", "B-P E-P O S-L", "BILOU"),
            ("a O\nd U-L\n", "O S-L", "BILOU"),
            ("a B-P\nb M-P\nc E-P\n\nd S-L\n", "B-P I-P E-P S-L", "BMES"),
            ("a B-P\nb M-P\nc E-P\n\nd W-L\n", "B-P I-P E-P S-L", "BMES"),
            ("a P-B\nb P-I\nc O\nd L-B\n", "B-P I-P O B-L", "suffixes"),
            ("a P-B\nb P-L\nc O\nd L-U\n", "B-P E-P O S-L", "BILOU, suffixes"),
            ("a B-P\nb o\nc B-P\n", "B-P O B-P", "'o' as outside"),
            ("a B-P\nb _\n", "B-P O", "'_' as outside"),
            ("a B-P\nb \u041e\n", "B-P O", "'\u041e' as outside"),
            ("a B_P\nb I_P\nc O\n", "B-P I-P O", "prefixes in another notation"),
            ("a b-p\nb i-p\nc o\n", "B-p I-p O", "prefixes in another notation, 'o' as outside"),
            ("a B-P\nb O\nc b-q\n", "B-P O B-q", "prefixes in another notation"),
            ("a (P*\nb *)\nc *\nd (L*)\n", "B-P I-P O B-L", "brackets"),
        ],
    )
    def test_other_schemes_are_rewritten_and_said(self, read, caplog, rows, tags, name):
        """They were plain tags, without a word."""
        written = " ".join(read(rows)).split()
        assert [word.partition("/")[2] for word in written] == tags.split()
        assert f"are read as {name}" in caplog.text
        assert read(rows, scheme="plain")[0].startswith("a/")
        assert [word.partition("/")[2] for word in " ".join(read(rows, scheme="plain")).split()] != tags.split()

    @pytest.mark.parametrize(
        ("rows", "options", "message"),
        [
            ("a B-P\nb M-P\nc L-P\n", {}, "letters of several schemes"),
            ("a (P*\nb (L*)\nc *)\n", {}, "corpus.conll:2: the bracket '.L..' is nested"),
            ("a (P*\nb *\n", {}, "corpus.conll:2: the bracket .P.* is not closed"),
            ("a *\nb *)\n", {}, "corpus.conll:2: the bracket .* closes none"),
            ("a B-P\nb L-P\n", {"scheme": "BMES"}, "are not those of BMES"),
            ("a B-P\nb I-P\n", {"scheme": "brackets"}, "are not those of brackets"),
            ("a NOUN\nb VERB\n", {"scheme": "BILOU"}, "are not those of BILOU"),
        ],
    )
    def test_tags_that_do_not_follow_their_scheme(self, read, rows, options, message):
        with pytest.raises(CorpusError, match=message):
            read(rows, **options)

    def test_a_label_set_that_has_the_tags_as_they_stand_keeps_them(self, read):
        """Danger: a user's own labels are renamed."""
        assert read("a B_P\nb 0\n", label_names=["0", "B_P", "I_P"]) == ["a/B_P b/0"]

    @pytest.mark.parametrize("scheme", ["IO", "IOB1"])
    def test_a_scheme_with_the_letters_of_bio_can_be_forced(self, read, scheme):
        assert read("a I-P\nb I-P\nc B-P\n\nd B-L\n", scheme=scheme) == ["a/B-P b/I-P c/B-P", "d/B-L"]
        with pytest.raises(ValueError, match="scheme must be one of BIO"):
            read("a O\n", scheme="IOB3")

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.lists(st.tuples(st.sampled_from("PLQ"), st.integers(0, 3)), max_size=5), min_size=1, max_size=6)
    )
    def test_entities_survive_every_scheme_there_and_back(self, tmp_path, drawn):
        """Danger: a boundary moves where two entities touch, or one has a single word."""
        sentences = []
        for pieces in drawn:  # (type, words) is an entity; 0 words is a word outside
            spans, word = [], 0
            for kind, length in pieces:
                spans += [(word, word + length, kind)] if length else []
                word += max(length, 1)
            sentences.append((max(word, 1), spans))
        if not any(spans for _, spans in sentences):
            return
        letters = {
            "BILOU": lambda n: "U" if n == 1 else "B" + "I" * (n - 2) + "L",
            "BMES": lambda n: "S" if n == 1 else "B" + "M" * (n - 2) + "E",
            "BIO": lambda n: "B" + "I" * (n - 1),
        }
        notations = {name: (lambda kind, letter: f"{letter}-{kind}") for name in letters}
        notations |= {"suffix": lambda kind, letter: f"{kind}-{letter}", "underscore": lambda k, x: f"{x}_{k}"}
        for name, notation in notations.items():
            rows = []
            for length, spans in sentences:
                tags = ["O"] * length
                for start, end, kind in spans:
                    scheme = letters.get(name, letters["BIO"])(end - start)
                    tags[start:end] = [notation(kind, letter) for letter in scheme]
                rows.append("".join(f"w {tag}\n" for tag in tags))
            path = tmp_path / f"{name}.conll"
            path.write_text("\n".join(rows))
            for to_scheme in ("BIO", "BIOES"):
                loaded = load_corpus(path, language="xx", to_scheme=to_scheme)
                scheme = TagScheme.from_entity_types(["P", "L", "Q"], to_scheme)
                assert [[tuple(span) for span in scheme.spans(tags)] for tags in loaded["tags"]] == [
                    spans for _, spans in sentences
                ], (name, to_scheme)

    @pytest.mark.parametrize("tags", ["NOUN X", "B I", "E S", "nn-M vb-F", "I O", "U M"])
    def test_plain_tags_stay_plain(self, read, tags):
        first, second = tags.split()
        assert read(f"a {first}\nb {second}\n") == [f"a/{first} b/{second}"]

    def test_entities_without_b_and_i_are_said_to_be_plain(self, read, caplog):
        rows = "a City\nb O\nc River\n"
        assert read(rows) == ["a/City b/O c/River"]
        assert "the tags City, River are read as plain ones" in caplog.text
        caplog.clear()
        read(rows, scheme="plain")
        read("a NOUN\nb VERB\n")
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class TestFormats:
    """Danger: nobody knows as what a file was read; a file of another kind becomes words of nonsense."""

    ROWS = '{"tokens": ["Olu", "hums"], "tags": ["B-P", "O"]}\n'
    CONLLU = "1\tOlu\t_\tX\t_\t_\t2\tx\t_\t_\n2\thums\t_\tY\t_\t_\t0\tx\t_\t_\n"
    EXPORT = '{"text": "Olu hums", "label": [[0, 3, "P"]]}\n'

    @pytest.mark.parametrize(
        ("content", "name"),
        [
            (ROWS, "jsonl"),
            (f"[\n{ROWS}]", "jsonl"),
            (CONLLU, "conllu"),
            (f"# text = Olu hums\n{CONLLU}", "conllu"),
            ("# global.columns = FORM UPOS\nOlu\tX\nhums\tY\n", "conllu"),
            ("word,tag\nOlu,B-P\nhums,O\n", "csv"),
            ('text;spans\nOlu hums;"[[0, 3, ""P""]]"\n', "spans"),
            (EXPORT, "doccano"),
            ("Olu B-P\nhums O\n", "conll"),
            ("# a, remark\nOlu\tB-P\nhums\tO\n", "conll"),
        ],
    )
    @pytest.mark.parametrize("file", ["export", "a.data", "a.ner.gz"])
    def test_the_content_tells_where_the_ending_says_nothing(self, read, tmp_path, caplog, content, name, file):
        packed = gzip.compress(content.encode(), mtime=0) if file.endswith("gz") else content
        with caplog.at_level(logging.INFO):
            (sentence,) = read(packed, file)
        assert sentence in ("Olu/B-P hums/O", "Olu/X hums/Y")
        lines = [record.getMessage() for record in caplog.records if ": format " in record.getMessage()]
        assert len(lines) == 1
        assert f"{file}: format {name} (" in lines[0]
        assert "by its content" in lines[0]
        assert load_sentences(tmp_path / file, language="xx")["tokens"] == [["Olu", "hums"]]

    def test_parquet_and_docbin_by_their_content(self, tmp_path, caplog):
        path = tmp_path / "export"
        datasets.Dataset.from_dict({"tokens": [["Olu"]], "tags": [["B-P"]]}).to_parquet(path)
        with caplog.at_level(logging.INFO):
            assert load_corpus(path, language="xx")["tags"] == [["B-P"]]
        assert "export: format parquet (Parquet), by its content and its columns: tokens, tags." in caplog.text
        tokens = pytest.importorskip("spacy.tokens", reason="needs spaCy, the `spacy` extra")
        doc = tokens.Doc(pytest.importorskip("spacy.vocab").Vocab(), words=["Olu"])
        doc.set_ents([tokens.Span(doc, 0, 1, label="P")])
        tokens.DocBin(attrs=["ENT_IOB", "ENT_TYPE"], docs=[doc]).to_disk(path)
        assert load_corpus(path, language="xx")["tags"] == [["B-P"]]

    @pytest.mark.parametrize(
        ("content", "name", "format"),
        [
            (ROWS, "a.conll", "jsonl"),
            (CONLLU, "a.conll", "conllu"),
            ("word,tag\nOlu,B-P\nhums,O\n", "a.txt", "csv"),
            ("Olu B-P\nhums O\n", "a.jsonl", "conll"),
            (EXPORT, "a.txt", "doccano"),
            (EXPORT, "a.txt", "spans"),
            ('text\tspans\nOlu hums\t"[[0, 3, ""P""]]"\n', "a.tsv", "spans"),
        ],
    )
    def test_a_format_can_be_forced(self, read, caplog, content, name, format):
        with caplog.at_level(logging.INFO):
            assert read(content, name, format=format)[0] in ("Olu/B-P hums/O", "Olu/X hums/Y")
        assert f"{name}: format {format} (" in caplog.text
        assert "), as you said." in caplog.text

    @pytest.mark.parametrize(
        ("content", "name", "format", "message"),
        [
            (
                EXPORT,
                "a.jsonl",
                "prodigy",
                "format='prodigy' (in recipes corpus_format: prodigy), but its rows look like doccano; their columns",
            ),
            (EXPORT, "a.jsonl", "gliner", "corpus_format: gliner), but its rows look like doccano"),
            (EXPORT, "a.jsonl", "jsonl", "no column 'tokens'; there are text, label"),
            (ROWS, "a.jsonl", "label-studio", "corpus_format: label-studio), but its rows are not like that"),
            (ROWS, "a.jsonl", "conll", "this looks like JSON lines"),
            (ROWS, "a.jsonl", "uner", "not uner, which has 3 columns or more, column 0"),
            ("Olu B-P\n", "a.conll", "doccano", "not JSON"),
            ("Olu B-P\n", "a.conll", "conllu", "1 tab-separated columns instead of 10"),
            ("Olu B-P\n", "a.conll", "csv", "the first line does not name the columns"),
            ("Olu B-P\n", "a.conll", "germeval", "not germeval, which has 4 columns or more"),
            ("Olu B-P\n", "a.conll", "ontonotes", "not ontonotes, which has 12 columns"),
            ("Olu B-P\n", "a.conll", "spacy", "not a DocBin"),
            ("Olu B-P\n", "a.conll", "parquet", "not a Parquet file"),
            ("word,tag\nOlu,B-P\n", "a.csv", "doccano", "corpus_format: doccano) is one of JSON and of tables with a"),
        ],
    )
    def test_a_file_that_does_not_fit_the_forced_format(self, read, content, name, format, message):
        with pytest.raises(CorpusError) as raised:
            read(content, name, format=format)
        assert message in str(raised.value)
        if format not in ("spacy", "parquet"):
            assert content.splitlines()[0] in str(raised.value)

    @pytest.mark.parametrize(
        ("content", "name"),
        [
            ('{"id": 1, "body": "Olu hums"}\n', "a.jsonl"),
            ('{"id": 1, "body": "Olu hums"}\n', "a"),
            ("Olu hums in Kano today.\nNobody listens to her.\n", "a"),
            ("Olu\nhums\n", "a"),
            ("<corpus id='1'>\n<s>Olu</s>\n", "a.conll"),
            ("# text = Olu\n1\tOlu\t_\n", "a.conllu"),
            ("name,age\nOlu,7\n", "a.csv"),
            ("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a.conll"),
        ],
    )
    def test_a_file_that_fits_none_shows_its_first_line(self, read, content, name):
        with pytest.raises(CorpusError) as raised:
            read(content, name)
        assert content.splitlines()[0] in str(raised.value)

    def test_an_unknown_format_gives_the_nearest(self, read):
        with pytest.raises(
            ValueError, match=r"format must be one of conll, uner, .*, not 'docano'. Did you mean 'docc"
        ):
            read(self.EXPORT, "a.jsonl", format="docano")

    def test_formats_of_tables_in_memory(self, read):
        table = datasets.Dataset.from_list([{"text": "Olu hums", "spans": [{"start": 0, "end": 3, "label": "P"}]}])
        assert load_corpus(table, language="xx", format="prodigy")["tags"] == [["B-P", "O"]]
        with pytest.raises(CorpusError, match=r"the Dataset: format='doccano' .*, but its rows look like prodigy"):
            load_corpus(table, language="xx", format="doccano")
        with pytest.raises(
            CorpusError, match=r"format='csv' .* is one of files; of tables there are doccano, prodigy"
        ):
            load_corpus(table, language="xx", format="csv")
        with pytest.raises(CorpusError, match=r"demo: format= .*corpus_format.* says nothing of this corpus"):
            load_corpus("demo", language="en", format="conll")


class TestCorporaAsTheyCome:
    """Formats of well-known corpora, built to their descriptions; the danger is a column or a sign that is misread."""

    def test_wnut_2017(self, read):
        # Tabs; sentences end at a line with a tab alone; words are signs, addresses, quotation marks.
        text = (
            '@olu\tO\nvisits\tO\nKano\tB-location\nOld\tI-location\nTown\tI-location\n"\tO\n\t\n#sun\tO\n:)\tO\n\t\n'
        )
        assert read(text) == [
            '@olu/O visits/O Kano/B-location Old/I-location Town/I-location "/O',
            "#sun/O :)/O",
        ]

    def test_multiconer(self, read):
        text = (
            "# id 5239d808-f300-46ea-aa3b-5093040213a3\tdomain=en\nolu _ _ B-PER\nade _ _ I-PER\nhums _ _ O\n\n\n"
            "# id 8b5f2f44\tdomain=en\nkano _ _ B-LOC\n\n"
        )
        assert read(text) == ["olu/B-PER ade/I-PER hums/O", "kano/B-LOC"]

    def test_germeval_2014(self, read, caplog):
        text = (
            "#\thttp://example.org/wiki/Olu\t[2009-10-17]\t\n1\tOlu\tB-PER\tO\n2\tvom\tO\tO\n3\tKano\tB-ORG\tB-LOC\n"
            "4\tClub\tI-ORG\tO\n\n#\texample.org vom 27.10.2005\t[2009-10-17]\t\n1\tkanoisch\tB-LOCderiv\tO\n"
        )
        assert read(text, format="germeval") == ["Olu/B-PER vom/O Kano/B-ORG Club/I-ORG", "kanoisch/B-LOCderiv"]
        assert "the outer entities are read; inner ones of 1 word(s) are left out" in caplog.text
        with pytest.raises(CorpusError, match=r"first column counts 1, 2, 3 .*format='germeval'"):
            read(text, "a.tsv")
        with pytest.raises(CorpusError, match="tags_column says nothing of the format germeval"):
            read(text, format="germeval", tags_column=3)

    def test_masakhaner(self, read):
        text = "Olu B-PER\nAde I-PER\nhums O\non O\nMonday B-DATE\n, O\n2 I-DATE\nMay I-DATE\n\nKano B-LOC\n"
        assert read(text, "train.txt") == [
            "Olu/B-PER Ade/I-PER hums/O on/O Monday/B-DATE ,/O 2/I-DATE May/I-DATE",
            "Kano/B-LOC",
        ]

    def test_universal_ner(self, read, tmp_path, caplog):
        text = (
            "# sent_id = n01\n# text = Olu hums.\n1\tOlu\tB-PER\t-\tann1\n2\thums\tO\t-\tann1\n3\t.\tO\t-\tann1\n\n"
            "# sent_id = n02\n# text = Kano\n1\tKano\tB-LOC\tB-ORG#B-LOC\tann1\n"
        )
        assert read(text, "en-ud-train.iob2", format="uner") == ["Olu/B-PER hums/O ./O", "Kano/B-LOC"]
        glued = load_corpus(tmp_path / "en-ud-train.iob2", language="en", format="uner", glued=True)["glued"]
        assert glued == [[False, False, True], [False]]
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert read(text.replace("= Kano", "= Ibadan"), format="uner")[1] == "Kano/B-LOC"
        assert "the words of 1 sentence(s) are not those of their '# text' comment, first at" in caplog.text

    def test_label_studio_conll(self, read):
        text = (
            "-DOCSTART- -X- O\nOlu -X- _ B-PER\nAde -X- _ I-PER\nhums -X- _ O\n\n-DOCSTART- -X- O\nKano -X- _ B-LOC\n"
        )
        assert read(text) == ["Olu/B-PER Ade/I-PER hums/O", "Kano/B-LOC"]
        assert read(f"{text}\n", "a.txt", documents="marked") == ["Olu/B-PER Ade/I-PER hums/O", "Kano/B-LOC"]

    def test_ontonotes(self, read, tmp_path):
        # CoNLL-2012: as many columns more as a sentence has predicates; one word alone is (PER), not (PER*).
        text = (
            "#begin document (nw/x/00/x_0001); part 000\n"
            "nw/x/00/x_0001 0 0 Olu NNP (TOP(S(NP* - - - - (PERSON* (ARG0* (0\n"
            "nw/x/00/x_0001 0 1 Ade NNP *) - - - - *) *) 0)\n"
            "nw/x/00/x_0001 0 2 hums VBZ (VP*))) hum 01 1 - * (V*) -\n\n"
            "nw/x/00/x_0001 0 0 Kano NNP (TOP(NP*)) - - - - (GPE) -\n\n"
            "#end document\n#begin document (nw/x/00/x_0002); part 000\n"
            "nw/x/00/x_0002 0 0 # # (TOP* - - - - * -\nnw/x/00/x_0002 0 1 7 CD *) - - - - (CARDINAL) -\n"
            "#end document\n"  # without a blank line before it
        )
        right = ["Olu/B-PERSON Ade/I-PERSON hums/O", "Kano/B-GPE", "#/O 7/B-CARDINAL"]
        tabs = "\n".join(line if line[:1] == "#" else line.replace(" ", "\t") for line in text.split("\n"))
        assert read(tabs, "tabs.gold_conll", format="ontonotes") == right
        assert read(text, "x.v4_gold_conll", format="ontonotes") == right
        loaded = load_corpus(tmp_path / "x.v4_gold_conll", language="xx", format="ontonotes", documents="marked")
        assert loaded["document"] == ["xx/all/1", "xx/all/1", "xx/all/2"]
        assert read("Olu (PERSON*\nAde *)\nhums *\nKano (GPE)\n") == ["Olu/B-PERSON Ade/I-PERSON hums/O Kano/B-GPE"]

    def test_ontonotes_is_recognised(self, read, tmp_path):
        line = "nw/x/00/x_0001 0 {} {} NNP * - - - - {} -\n"
        text = line.format(0, "Olu", "(PERSON)") + line.format(1, "hums", "*")
        assert read(text, "a.v4_gold_conll") == ["Olu/B-PERSON hums/O"]
        assert load_sentences(tmp_path / "a.v4_gold_conll", language="xx")["tokens"][:] == [["Olu", "hums"]]
        with pytest.raises(CorpusError, match=r"looks like OntoNotes .*say the format ontonotes"):
            read(text)
        assert read(text, "b.gold_conll", tokens_column=3, tags_column=10) == ["Olu/B-PERSON hums/O"]

    def test_brackets_without_entity(self, read):
        line = "nw/x/00/x_0001 0 {} {} NNP * - - - - * -\n"
        assert read(line.format(0, "so") + line.format(1, "what"), "a.gold_conll") == ["so/O what/O"]
        assert read("so *\nwhat *\n", scheme="brackets") == ["so/O what/O"]

    def test_two_columns_of_tags_of_the_same_types(self, read):
        # DaN+: word, outer tag, inner tag; and the gold tags beside the predicted ones.
        nested = "Olu\tB-PER\tO\nKano\tB-ORG\tB-LOC\nClub\tI-ORG\tO\nin\tO\tO\nKano\tB-LOC\tO\n"
        for content in (nested, nested.replace("\t", " ")):
            with pytest.raises(CorpusError, match=r"columns 1 and 2 \(from 0\) both have tags of LOC.*tags_column"):
                read(content)
        assert read(nested, tags_column=1) == ["Olu/B-PER Kano/B-ORG Club/I-ORG in/O Kano/B-LOC"]
        assert read(nested, tags_column=-1) == ["Olu/O Kano/B-LOC Club/O in/O Kano/O"]
        assert read("Olu NNP B-NP B-PER\nhums VB B-VP O\n") == ["Olu/B-PER hums/O"]

    def test_conllu_plus(self, read):
        text = (
            "# global.columns = ID FORM UPOS MISC SRC:NE\n# newdoc id = a\n# text = Olu hums\n1\tOlu\tPROPN\t_\tB-P\n"
            "2\thums\tVERB\t_\tO\n\n1\tKano\tPROPN\t_\tB-L\n"
        )
        assert read(text, "a.conllup", tags_column="SRC:NE") == ["Olu/B-P hums/O", "Kano/B-L"]
        assert read(text, "a.conllup") == ["Olu/PROPN hums/VERB", "Kano/PROPN"]
        assert read(text, "a.txt", format="conllu", tags_column="src:ne") == ["Olu/B-P hums/O", "Kano/B-L"]


class TestMoreThanMemory:
    def test_only_what_is_asked_for_is_unpacked(self, tmp_path, monkeypatch):
        """A few kilobytes may unpack to more than memory."""
        columns = b"Olu\tB-P\nhums\tO\n\n" * 500_000
        rows = b'{"tokens": ["Olu", "hums"], "tags": ["B-P", "O"]}\n' * 200_000
        unpacked = []
        real = gzip.GzipFile

        class Counting(real):
            def readline(self, size=-1):
                unpacked.append(1)
                return super().readline(size)

        monkeypatch.setattr(source_text.gzip, "GzipFile", Counting)
        for name, content in (("a.conll.gz", columns), ("a.jsonl.gz", rows)):
            path = tmp_path / name
            path.write_bytes(gzip.compress(content, 1))
            unpacked.clear()
            loaded = load_corpus(path, language="xx", max_sentences=5)
            assert loaded["tokens"] == [["Olu", "hums"]] * 5
            assert len(unpacked) < 20_000

    def test_a_line_without_end(self, tmp_path, monkeypatch):
        monkeypatch.setattr("hf_structkd.data.source_text.LONGEST_LINE", 1000)
        path = tmp_path / "a.conll.gz"
        for byte, message in ((b"\0", "a NUL character"), (b"a", "a line of more than")):
            path.write_bytes(gzip.compress(byte * 100_000, 1))
            with pytest.raises(CorpusError, match=f"gz:1: {message}"):
                load_corpus(path, language="xx", max_sentences=5)

    def test_too_little_memory_is_said(self, tmp_path, monkeypatch):
        def exhausted(*_, **__):
            raise MemoryError
            yield

        path = tmp_path / "a.conll"
        path.write_text("a O\n")
        monkeypatch.setattr("hf_structkd.data.sources.read_columns", exhausted)
        monkeypatch.setattr("hf_structkd.data.unlabelled.read_columns", exhausted)
        for load in (load_corpus, load_sentences):
            with pytest.raises(CorpusError, match=r"does not fit into memory.*max_sentences="):
                load(path, language="xx")


class TestHeadersOfColumnsGivenByNumber:
    NUMBERS: ClassVar = {"tokens_column": 1, "tags_column": 3}
    ROWS = "1,Aino,X,B-PER\n1,asuu,X,O\n\n2,Oulu,X,B-LOC\n"

    @pytest.mark.parametrize("header", ["nro,sana,luokka,tag", "a,nimi,b,NER"])
    def test_a_line_that_names_the_tags_is_no_word(self, read, header, caplog):
        with caplog.at_level(logging.INFO):
            assert read(f"{header}\n{self.ROWS}", "c.csv", **self.NUMBERS) == ["Aino/B-PER asuu/O", "Oulu/B-LOC"]
        assert f"the first line names the columns, and is no word: {header}" in caplog.text
        tabs = f"{header}\n{self.ROWS}".replace(",", "\t")
        assert read(tabs, "c.tsv", **self.NUMBERS) == ["Aino/B-PER asuu/O", "Oulu/B-LOC"]

    def test_a_first_line_with_a_tag_unlike_all_others_is_refused(self, read):
        with pytest.raises(
            CorpusError, match=r"c.csv:1: 'merkki' where all other words have tags of entities .*names"
        ):
            read(f"nro,sana,luokka,merkki\n{self.ROWS}", "c.csv", **self.NUMBERS)

    def test_words_stay_words(self, read):
        assert read("label,X\na,VERB\nb,NOUN\n", "c.csv", tokens_column=0, tags_column=1) == ["label/X a/VERB b/NOUN"]
        assert read("a,O\nb,B-tag\n", "c.csv", tokens_column=0, tags_column=1) == ["a/O b/B-tag"]
        assert read("a,tag\nb,tag\n", "c.csv", tokens_column=0, tags_column=1) == ["a/tag b/tag"]


@pytest.mark.parametrize("word", ["", " ", "\u00a0"])
def test_an_empty_word_of_a_table_is_refused_as_in_column_files(read, word):
    row = json.dumps({"tokens": ["Oulu", word], "tags": ["B-LOC", "O"]})
    with pytest.raises(CorpusError, match=r"c\.jsonl:1.*an empty word: .* in 'tokens'"):
        read(row, "c.jsonl")


class TestBlanksAroundCells:
    """Danger: `B-PER ` is another label than `B-PER`, and `O ` one more entity."""

    @pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.conll"])
    @pytest.mark.parametrize("look_ahead", [1, 10_000])  # the second part of a file is read as columns
    def test_of_column_files(self, read, monkeypatch, name, look_ahead):
        monkeypatch.setattr(column_files, "_LOOK_AHEAD", look_ahead)
        rows = "x, word, tag, y\n1, Aino, B-PER, a\n1, asuu, O, b\n\n2, New Oulu , B-LOC , c\n\n3, on, O, d\n"
        content = rows if name == "c.csv" else rows.replace(", ", " \t")
        assert read(content, name, tokens_column="word", tags_column="tag") == [
            "Aino/B-PER asuu/O", "New Oulu/B-LOC", "on/O",
        ]  # fmt: skip

    def test_a_blank_that_carries_an_accent_is_a_word(self, read):
        assert read("a\tO\n  \u0301\tB-X \n") == ["a/O  \u0301/B-X"]

    @pytest.mark.parametrize("others", [0, 2])  # rows with one unlike the others are read one by one
    def test_of_tables(self, read, others):
        rows = [{"tokens": ["Aino", "on"], "tags": ["B-PER ", " O"]}] * 2
        rows += [{"tokens": ["Oulu"], "tags": None}] * others
        expected = ["Aino/B-PER on/O"] * 2 + ["Oulu/?"] * others
        assert read("\n".join(map(json.dumps, rows)), "c.jsonl") == expected

    @pytest.mark.parametrize("tag", ["", " "])
    def test_an_empty_tag_is_refused_as_in_column_files(self, read, tag):
        row = json.dumps({"tokens": ["Oulu", "on"], "tags": ["B-LOC", tag]})
        with pytest.raises(CorpusError, match=r"c\.jsonl:1, word 2: an empty tag"):
            read(row, "c.jsonl")
