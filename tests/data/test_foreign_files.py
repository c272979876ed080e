"""Danger: a file that is not what it was taken for becomes words and tags of nonsense, without a word."""

import gzip
import json
import logging
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_structkd.data import source_text
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
        assert not caplog.text


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
