"""Reading corpora: every format gives the same rows, and every broken file says where it is broken."""

import gzip
import json
import logging
import re
from pathlib import Path

import datasets
import pytest

from hf_structkd.data import corpora
from hf_structkd.data.corpora import label_inventory, load_corpora, load_corpus
from hf_structkd.data.readers import CorpusError
from hf_structkd.data.unlabelled import load_sentences

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
TOKENS = [["Ada", "Lovelace", "lives", "in", "London"], ["#", "is", "a", "sign"]]
TAGS = [["B-PER", "I-PER", "O", "O", "B-LOC"], ["O", "O", "O", "O"]]
NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
CONLL = "\n".join("".join(f"{w}\t{t}\n" for w, t in zip(ws, ts)) for ws, ts in zip(TOKENS, TAGS))
# Without the time of day: the bytes are part of a test's name, and two workers must collect the same names.
GZIPPED = gzip.compress(CONLL.encode(), mtime=0)


@pytest.fixture
def write(tmp_path):
    def write(content, name="corpus.conll"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def load(path, **kwargs):
    return load_corpus(path, language="en", **kwargs)


def assert_is_the_corpus(dataset):
    assert dataset.column_names == ["tokens", "tags", "language"]
    assert dataset[:] == {"tokens": TOKENS, "tags": TAGS, "language": ["en", "en"]}


class TestConll:
    @pytest.mark.parametrize(
        "content",
        [
            CONLL,
            CONLL.replace("\t", " "),
            CONLL.replace("\t", "  "),
            CONLL.replace("\n", "\r\n"),
            "\ufeff" + CONLL,
            CONLL.rstrip("\n"),
            "\n\n" + CONLL.replace("\n\n", "\n \t\n\n"),
            "# sent_id = 1\n# text = Ada\n" + CONLL,
            "# id 7\tdomain=en\n" + CONLL,
            "-DOCSTART-\tO\n\n" + CONLL,
            CONLL.replace("\n\n", "\n-DOCSTART- -X- O\n"),
            GZIPPED,
        ],
        ids=[
            "tab",
            "space",
            "spaces",
            "crlf",
            "bom",
            "no-end",
            "blank",
            "comments",
            "id-line",
            "doc",
            "doc-end",
            "gz",
        ],
    )
    def test_variants_read_alike(self, write, content):
        assert_is_the_corpus(load(write(content)))

    def test_any_column(self, write):
        path = write("0 Ada NNP B-PER x\n1 . . O x\n")
        assert load(path, column=3, tokens_column=1)[0]["tags"] == ["B-PER", "O"]
        assert load(path, column=-2, tokens_column=1)[0]["tokens"] == ["Ada", "."]

    def test_unicode_blanks_stay_inside_words(self, write):
        """str.split() and str.splitlines() would tear these words, and with them the columns, apart."""
        words = ["10\u00a0000", "a\u2028b", "c\u0085d", "e\u3000f"]
        assert load(write("".join(f"{w} O\n" for w in words)))[0]["tokens"] == words

    def test_hash_words_are_no_comments(self, write):
        assert load(write("#nowplaying\tO\n#\tO\na\tO\n"))[0]["tokens"] == ["#nowplaying", "#", "a"]
        assert load(write("a O\n\n# O\nb O\n"))[1]["tokens"] == ["#", "b"]

    def test_skipped_lines_are_counted(self, write, caplog):
        with caplog.at_level(logging.INFO):
            load(write("# 1\n# 2\n-DOCSTART-\tO\n\n" + CONLL))
        assert "corpus.conll: skipped 2 comment(s) and 1 -DOCSTART- line(s)" in caplog.text

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("a\tO\nb\nc\tO\n", r"corpus.conll:2: 1 column\(s\)"),
            ("a X O\nb O\n", r"corpus.conll:2: 2 column\(s\)"),  # the last column would be another one
            ("New York B-LOC\nin O\n", r"corpus.conll:2: 2 column\(s\)"),
            ("in O\nNew York B-LOC\n", r"corpus.conll:2: 3 column\(s\)"),
            ("a\tO\n# late comment\n", r"corpus.conll:2: 1 column\(s\)"),
            ("a\tO\n\tO\n", "corpus.conll:2: an empty word"),
            ("", "no sentences"),
            ("\n\n# only a comment\n-DOCSTART- O\n", "no sentences"),
            (b"a\tO\nM\xfcller\tO\n", r"corpus.conll:2: byte 5 \(0xfc\) is not UTF-8"),
            ("a\tO\n".encode("utf-16"), "corpus.conll:1: byte 0"),
            (b"a\tO\nb\0\tO\n", "corpus.conll:2: a NUL"),
            (GZIPPED[:-9], "corpus.conll: cannot be read.*complete"),
        ],
    )
    def test_broken_files_say_where(self, write, content, message):
        with pytest.raises(CorpusError, match=message):
            load(write(content))

    def test_columns_that_do_not_exist(self, write):
        with pytest.raises(CorpusError, match="no column 5"):
            load(write(CONLL), column=5)
        with pytest.raises(CorpusError, match="column="):
            load(write(CONLL), tags_column="ner")

    def test_missing_file(self, tmp_path):
        with pytest.raises(CorpusError, match=r"none.conll: no such file"):
            load(tmp_path / "none.conll")
        with pytest.raises(CorpusError, match="no such file or folder, nor a Hub id"):
            load("nothing")


CONLLU = """# text = Vámonos al mar
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\tV\tMood=Imp\t0\troot\t_\tNER=O
2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t_
2.1\tgo\t_\tVERB\t_\t_\t_\t_\t_\t_
3\t#\t#\tSYM\tS\t_\t1\tdep\t_\tSpaceAfter=No|NER=B-LOC
"""


class TestConllu:
    def test_words_not_ranges_nor_empty_nodes(self, write):
        row = load(write(CONLLU, "a.conllu"))[0]
        assert row["tokens"] == ["Vamos", "nos", "#"]
        assert row["tags"] == ["VERB", "PRON", "SYM"]

    def test_other_fields(self, write):
        path = write(gzip.compress(CONLLU.encode()), "a.conllu.gz")
        assert load(path, tags_column="deprel")[0]["tags"] == ["root", "obj", "dep"]
        assert load(path, tags_column="misc:NER")[0]["tags"] == ["O", "O", "B-LOC"]
        assert load(path, tags_column="feats:Mood")[0]["tags"] == ["Imp", "_", "_"]

    def test_broken(self, write):
        with pytest.raises(CorpusError, match=r"a.conllu:3: 2 tab-separated"):
            load(write(CONLLU.replace("\tir\tVERB\tV\tMood=Imp\t0\troot\t_\tNER=O", ""), "a.conllu"))
        with pytest.raises(CorpusError, match=r"a.conllu:4: word 'nos' has no UPOS"):
            load(write(CONLLU.replace("PRON", "_"), "a.conllu"))
        with pytest.raises(CorpusError, match=r"no CoNLL-U field 'ner'.*misc:KEY"):
            load(write(CONLLU, "a.conllu"), tags_column="ner")


class TestTables:
    rows = tuple({"tokens": tokens, "ner_tags": tags} for tokens, tags in zip(TOKENS, TAGS))

    def jsonl(self, rows):
        return "".join(json.dumps(row) + "\n" for row in rows)

    def test_json(self, write):
        assert_is_the_corpus(load(write(self.jsonl(self.rows), "a.jsonl")))
        assert_is_the_corpus(load(write(gzip.compress(self.jsonl(self.rows).encode()), "a.json.gz")))
        assert_is_the_corpus(load(write(json.dumps(self.rows), "a.json")))
        assert_is_the_corpus(load(write(json.dumps({"data": self.rows}), "a.json")))

    def classes(self):
        features = datasets.Features(
            {
                "tokens": datasets.List(datasets.Value("string")),
                "ner_tags": datasets.List(datasets.ClassLabel(names=NAMES)),
            }
        )
        return datasets.Dataset.from_list(list(self.rows), features=features)

    def test_parquet_keeps_class_names(self, tmp_path):
        self.classes().to_parquet(tmp_path / "a.parquet")
        assert_is_the_corpus(load(tmp_path / "a.parquet"))

    def test_saved(self, tmp_path):
        self.classes().save_to_disk(tmp_path / "one")
        assert_is_the_corpus(load(tmp_path / "one"))
        both = datasets.DatasetDict(train=self.classes().select([0]), validation=self.classes())
        both.save_to_disk(tmp_path / "more")
        assert_is_the_corpus(load(tmp_path / "more", split="dev"))
        with pytest.raises(CorpusError, match=r"choose a split.*train, validation"):
            load(tmp_path / "more")
        with pytest.raises(CorpusError, match="save_to_disk"):
            load(tmp_path)

    def test_hub(self, monkeypatch):
        asked = []

        def load_dataset(name, config):
            asked.append((name, config))
            return datasets.DatasetDict(validation=self.classes())

        monkeypatch.setattr(corpora.datasets, "load_dataset", load_dataset)
        assert_is_the_corpus(load("someone/wikiann:en", split="dev"))
        assert_is_the_corpus(load("someone/set", split="validation"))
        assert asked == [("someone/wikiann", "en"), ("someone/set", None)]

    def test_hub_revisions(self, monkeypatch):
        asked = []

        def load_dataset(name, config, **which):
            asked.append((name, config, which))
            return datasets.DatasetDict(train=self.classes())

        monkeypatch.setattr(corpora.datasets, "load_dataset", load_dataset)
        for source in ("ud/ud:en_ewt@2.15", "a/b@v1.0", "a/b:es@refs/convert/parquet", "a/b@refs/convert/parquet"):
            assert_is_the_corpus(load(source, split="train"))
        converted = {"revision": "refs/convert/parquet"}
        assert asked == [
            ("ud/ud", "en_ewt", {"revision": "2.15"}),
            ("a/b", None, {"revision": "v1.0"}),
            ("a/b", None, converted | {"data_dir": "es"}),
            ("a/b", None, converted | {"data_dir": None}),
        ]

    def test_a_converted_branch_is_read_as_the_hub_lays_it_out(self, tmp_path, monkeypatch):
        # One folder a configuration, and no card that names them: asking for a configuration by name fails there.
        for config, count in (("es", 1), ("nl", 2)):
            (tmp_path / config / "train").mkdir(parents=True)
            self.classes().select(range(count)).to_parquet(tmp_path / config / "train" / "0000.parquet")
        real = datasets.load_dataset

        def load_dataset(name, config, revision, data_dir):
            return real(str(tmp_path), config, data_dir=data_dir, cache_dir=str(tmp_path / "cache"))

        monkeypatch.setattr(corpora.datasets, "load_dataset", load_dataset)
        assert len(load("a/b:es@refs/convert/parquet", split="train")) == 1
        assert_is_the_corpus(load("a/b:nl@refs/convert/parquet", split="train"))

    def test_hub_failure_is_explained(self, monkeypatch):
        def load_dataset(name, config):
            raise ConnectionError("offline")

        monkeypatch.setattr(corpora.datasets, "load_dataset", load_dataset)
        with pytest.raises(CorpusError, match=r"someone/set: neither a file.*offline"):
            load("someone/set", split="train")

    def test_empty_sentences_are_counted(self, write, caplog):
        path = write(self.jsonl([self.rows[0], {"tokens": [], "ner_tags": []}, self.rows[1]]), "a.jsonl")
        with caplog.at_level(logging.WARNING):
            assert_is_the_corpus(load(path))
        assert "1 sentence(s) without words left out" in caplog.text

    def test_class_indices(self, write):
        rows = [{"words": TOKENS[0], "labels": [1, 2, 0, 0, 3]}]
        path = write(self.jsonl(rows), "a.jsonl")
        assert load(path, label_names=NAMES)[0]["tags"] == TAGS[0]
        with pytest.raises(CorpusError, match=r"a.jsonl:1, word 1: tag 1 is a number.*label_names="):
            load(path)
        with pytest.raises(CorpusError, match=r"a.jsonl:1, word 2: tag 2, but there are only 2"):
            load(path, label_names=["O", "B-PER"])

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"tokens": ["a", "b"], "tags": ["O"]}, "a.jsonl:2: 2 tokens but 1 tags"),
            ({"tokens": ["a"]}, "a.jsonl:2: no column 'tags'; there are tokens.*tags_column="),
            ({"tokens": ["a"], "tags": ["O"], "upos": ["X"]}, r"several tags columns \(tags, upos\)"),
            ({"tokens": "a b", "tags": ["O"]}, "'tokens' must be a list"),
            ({"tokens": ["a", None], "tags": ["O", "O"]}, "a.jsonl:2, word 2: None is not a word"),
            ({"tokens": ["a"], "tags": [None]}, "a.jsonl:2, word 1: None is not a tag"),
            ({"tokens": ["a\0"], "tags": ["O"]}, "not a word"),
            ([1], "an object"),
        ],
    )
    def test_broken_rows_are_named(self, write, row, message):
        with pytest.raises(CorpusError, match=message):
            load(write(self.jsonl([{"tokens": ["a"], "tags": ["O"]}, row]), "a.jsonl"))

    def test_broken_json(self, write):
        with pytest.raises(CorpusError, match=r"a.jsonl:2: not JSON"):
            load(write('{"tokens": ["a"], "tags": ["O"]}\n{"tokens": \n', "a.jsonl"))
        with pytest.raises(CorpusError, match=r"a.parquet: not a Parquet file"):
            load(write("nonsense", "a.parquet"))


class TestTags:
    IOB1 = "Ada I-PER\nin O\nNew I-LOC\nYork I-LOC\nRome B-LOC\n"
    ORPHANS = "Ada I-PER\nin O\nNew I-LOC\nYork I-LOC\nand O\nRome B-LOC\n"  # B- after O: not IOB1

    def test_another_scheme(self, write):
        path = write(CONLL)
        bioes = [["B-PER", "E-PER", "O", "O", "S-LOC"], ["O"] * 4]
        assert load(path, to_scheme="BIOES")["tags"] == bioes
        assert_is_the_corpus(load(path, to_scheme="BIO"))
        rewritten = write("\n".join("".join(f"{w}\t{t}\n" for w, t in zip(*row)) for row in zip(TOKENS, bioes)))
        assert_is_the_corpus(load(rewritten, to_scheme="BIO"))

    def test_orphans(self, write, caplog):
        path = write(self.ORPHANS)
        with caplog.at_level(logging.WARNING):
            assert load(path)[0]["tags"] == ["I-PER", "O", "I-LOC", "I-LOC", "O", "B-LOC"]
        assert "2 illegal BIO tag(s) in 1 of 1 sentences accepted" in caplog.text
        repaired = load(path, orphans="repair")
        assert repaired[0]["tags"] == ["B-PER", "O", "B-LOC", "I-LOC", "O", "B-LOC"]
        with pytest.raises(CorpusError, match=r"corpus.conll:1: 'I-PER' after 'O'.*orphans='repair'"):
            load(path, orphans="refuse")
        assert load(path, orphans="refuse", scheme="plain").num_rows == 1
        with pytest.raises(CorpusError, match=r"corpus.conll:1: Illegal BIO tag 'I-PER' at word 0.*orphans='repair'"):
            load(path, to_scheme="BIOES")
        assert load(path, to_scheme="BIOES", orphans="repair").num_rows == 1
        with pytest.raises(CorpusError, match="plain tags cannot be rewritten as BIOES"):
            load(path, scheme="plain", to_scheme="BIOES")

    @pytest.mark.parametrize("scheme", [None, "BIO"])
    def test_iob1_is_read_as_what_it_is(self, write, caplog, scheme):
        """By default most of its entities did not count: an I- that begins one is no entity of BIO."""
        path = write(self.IOB1 + "\nOslo I-LOC\nBergen B-LOC\n")
        with caplog.at_level(logging.WARNING):
            loaded = load(path, scheme=scheme)
        assert loaded["tags"] == [["B-PER", "O", "B-LOC", "I-LOC", "B-LOC"], ["B-LOC", "B-LOC"]]
        assert "corpus.conll: read as IOB1" in caplog.text
        assert load(path, to_scheme="BIOES")["tags"][1] == ["S-LOC", "S-LOC"]
        with pytest.raises(CorpusError, match=r"'I-PER' after 'O' is not legal BIO. The corpus reads as IOB1"):
            load(path, orphans="refuse")
        assert load(write("a I-X\nb I-X\nc O\nd I-Y\n"))["tags"] == [["B-X", "I-X", "O", "B-Y"]]  # IO

    def test_label_set(self, write):
        path = write(CONLL)
        assert_is_the_corpus(load(path, label_names=NAMES))
        with pytest.raises(CorpusError, match=r"corpus.conll:5: tag 'B-LOC' of 'London'.*mean 'B-LOCATION'"):
            load(path, label_names=["O", "B-PER", "I-PER", "B-LOCATION"])
        with pytest.raises(CorpusError, match=r"corpus.conll:1: the repair needs \['B-PER'\]"):
            load(write(self.IOB1), label_names=["O", "I-PER", "B-LOC", "I-LOC"], orphans="repair")

    def test_a_tag_that_the_scheme_cannot_read(self, write):
        with pytest.raises(CorpusError, match=r"corpus.conll:2: 'PER' is not a BIO tag"):
            load(write("a B-PER\nb PER\n"), scheme="BIO")

    def test_one_mistyped_tag_does_not_silently_undo_the_scheme(self, write, caplog):
        load(write("a B-PER\nb PER\nc O\n"))
        assert "read as plain tags because of ['PER']" in caplog.text

    def test_languages_with_other_labels_concatenate(self, write):
        one = load_corpus(write("a B-PER\n"), language="en")
        other = load_corpus(write("b B-TIME\nc O\n", "b.conll"), language="de")
        both = datasets.concatenate_datasets([one, other])
        assert both["tags"][:] == [["B-PER"], ["B-TIME", "O"]]
        assert label_inventory(both) == ["O", "B-PER", "B-TIME"]

    def test_inventory_does_not_depend_on_order(self):
        def corpus(*tags):
            return datasets.Dataset.from_dict({"tags": [list(tags)]})

        bioes = {"en": {"train": corpus("S-a-b", "I-a-b", "O")}, "de": {"train": corpus("E-a-b", "B-a-b", "S-Z")}}
        expected = ["O", "S-Z", "B-a-b", "I-a-b", "E-a-b", "S-a-b"]
        assert label_inventory(bioes) == label_inventory(dict(reversed(bioes.items()))) == expected
        assert label_inventory([corpus("X", "ADJ", "NOUN")]) == ["ADJ", "NOUN", "X"]

    def test_first_sentences(self, write):
        path = write(CONLL)
        assert load(path, max_sentences=1)["tokens"][:] == TOKENS[:1]
        with pytest.raises(ValueError, match="max_sentences"):
            load(path, max_sentences=0)
        with pytest.raises(ValueError, match="orphans"):
            load(path, orphans="ignore")


class TestManyLanguages:
    @pytest.fixture
    def folder(self, tmp_path):
        for language in ("en", "de"):
            for split in ("train", "dev"):
                path = tmp_path / language / f"{split}.conll"
                path.parent.mkdir(exist_ok=True)
                path.write_text(f"{language}\tO\n{split}\tO\n\nmore\tO\n")
        return tmp_path

    def test_template(self, folder):
        loaded = load_corpora(f"{folder}/{{language}}/{{split}}.conll", ["en", "de"], ("train", "dev"))
        assert list(loaded) == ["en", "de"]
        assert loaded["de"]["dev"][0] == {"tokens": ["de", "dev"], "tags": ["O", "O"], "language": "de"}
        fewer = load_corpora(
            f"{folder}/{{language}}/{{split}}.conll", ["en"], ("train", "dev"), max_sentences={"train": 1}
        )
        assert (fewer["en"]["train"].num_rows, fewer["en"]["dev"].num_rows) == (1, 2)

    def test_mappings(self, folder):
        corpus = {"xx": f"{folder}/en/{{split}}.conll", "yy": {"train": folder / "de" / "dev.conll", "dev": "demo"}}
        with pytest.raises(CorpusError, match=r"language 'yy', split 'dev': The demo corpus has no language 'yy'"):
            load_corpora(corpus, splits=("train", "dev"))
        loaded = load_corpora(corpus, splits=("train",))
        assert loaded["yy"]["train"][0]["tokens"] == ["de", "dev"]
        with pytest.raises(CorpusError, match=r"language 'yy': no 'test' split; there are train, dev"):
            load_corpora(corpus, splits=("test",))
        with pytest.raises(CorpusError, match="No corpus for language 'zz'; there are xx, yy"):
            load_corpora(corpus, ["zz"])

    def test_missing_file_names_language_split_and_path(self, folder):
        expected = re.escape(f"language 'en', split 'test': no such file: {folder}/en/test.conll")
        with pytest.raises(CorpusError, match=expected):
            load_corpora(f"{folder}/{{language}}/{{split}}.conll", ["en"])

    def test_errors_inside_name_language_and_split(self, folder):
        (folder / "de" / "dev.conll").write_text("a\tO\nbroken\n")
        with pytest.raises(CorpusError, match=r"language 'de', split 'dev': .*dev.conll:2"):
            load_corpora(f"{folder}/{{language}}/{{split}}.conll", ["en", "de"], ("train", "dev"))

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("{folder}/en/{split}.conll", "every language would read the same"),
            ("{folder}/{language}/train.conll", "would be the same sentences"),
            ("{folder}/{lang}/{split}.conll", "unknown placeholder"),
        ],
    )
    def test_templates_that_would_read_a_file_twice(self, folder, template, message):
        """Testing on the training file, or five languages out of one file, must not happen silently."""
        with pytest.raises(CorpusError, match=message):
            load_corpora(template.replace("{folder}", str(folder)), ["en", "de"], ("train", "dev"))

    def test_demo(self):
        loaded = load_corpora("demo", splits=("test",), max_sentences=5)
        assert {language: corpus["test"].num_rows for language, corpus in loaded.items()} == dict.fromkeys(
            corpora.DEMO_LANGUAGES, 5
        )


class TestDatasetsInMemory:
    @pytest.fixture
    def splits(self):
        rows = [{"words": ws, "ner": ts} for ws, ts in zip(TOKENS, TAGS)]
        both = datasets.Dataset.from_list(rows)
        return datasets.DatasetDict(train=both, validation=both.select([1]), test=both.select([0]))

    def test_with_splits(self, splits):
        loaded = load_corpora({"en": splits, "de": splits})
        assert {split: len(data) for split, data in loaded["de"].items()} == {"train": 2, "dev": 1, "test": 1}
        assert loaded["en"]["dev"][0] == {"tokens": TOKENS[1], "tags": TAGS[1], "language": "en"}
        assert list(load_corpora(splits, ["en"])) == ["en"]
        assert load_corpora({"en": dict(splits)}, splits=["test"])["en"]["test"]["tokens"] == TOKENS[:1]
        assert_is_the_corpus(load(splits, split="train"))
        assert_is_the_corpus(load(splits["train"].with_format("numpy")))
        assert load_sentences(splits, language="en", split="dev")["tokens"] == TOKENS[1:]

    def test_what_would_be_the_same_sentences(self, splits):
        with pytest.raises(CorpusError, match="the Dataset: train, dev, test would be the same sentences; give a"):
            load_corpora({"en": splits["train"]})
        with pytest.raises(CorpusError, match="the DatasetDict: every language would read the same sentences"):
            load_corpora(splits, ["en", "de"])
        with pytest.raises(ValueError, match="which languages"):
            load_corpora(splits)

    @pytest.mark.parametrize("place", [lambda x: x, lambda x: {"en": x}, lambda x: {"en": {"train": x}}])
    def test_streams_are_read_as_datasets_are(self, splits, place):
        streams = {name: data.to_iterable_dataset() for name, data in splits.items()}
        for stream in (streams["train"], datasets.IterableDatasetDict(streams)):
            loaded = load_corpora(place(stream), ["en"], ["train"])["en"]["train"]
            assert_is_the_corpus(loaded)
            assert_is_the_corpus(load(stream, split="train"))
            assert load_sentences(stream, language="en")["tokens"] == TOKENS
        assert load(datasets.IterableDatasetDict(streams), split="dev")["tokens"] == TOKENS[1:]
        with pytest.raises(CorpusError, match="the IterableDataset: train, dev, test would be the same sentences"):
            load_corpora({"en": streams["train"]})
        with pytest.raises(CorpusError, match="a Dataset or a DatasetDict, not list"):
            load_corpora(place([1]), ["en"], ["train"])

    def test_a_stream_without_end_is_read_as_far_as_asked(self):
        """Danger: a stream that knows neither its columns nor its end is read for ever."""

        def rows():
            while True:
                yield {"tokens": ["Olu", "hums"], "tags": ["B-P", "O"]}

        stream = datasets.IterableDataset.from_generator(rows)
        assert stream.features is None
        assert load(stream, max_sentences=3)["tags"] == [["B-P", "O"]] * 3
        texts = datasets.IterableDataset.from_generator(lambda: iter([{"text": "Olu hums", "spans": [[0, 3, "P"]]}]))
        assert load(texts)["tags"] == [["B-P", "O"]]

    def test_sentences_that_are_none(self, splits):
        rows = [{"tokens": ["a"], "tags": ["O"]}, {"tokens": None, "tags": ["O"]}]
        with pytest.raises(CorpusError, match="the Dataset, row 2: 'tokens' must be a list, not NoneType"):
            load(datasets.Dataset.from_list(rows))
        with pytest.raises(CorpusError, match="row 2: 'tokens' must be a list of words, not None"):
            load_sentences(datasets.Dataset.from_list(rows), language="en")

    def test_several_columns_of_tags(self, splits):
        data = splits["train"].add_column("pos", [["X"] * len(tags) for tags in TAGS])
        with pytest.raises(CorpusError, match=r"the Dataset: several tags columns \(ner, pos\).*tags_column="):
            load(data)
        assert_is_the_corpus(load(data, tags_column="ner"))


class TestTheSameSentencesTwice:
    """Danger: trained, chosen and tested on one and the same file."""

    @pytest.mark.parametrize("ending", [".ner", ".data", ".csv", "", ".conllup", ".ndjson"])
    def test_whatever_a_file_is_called(self, tmp_path, ending):
        content = {
            ".csv": "word,tag\na,O\n",
            ".ndjson": '{"tokens": ["a"], "tags": ["O"]}',
            ".conllup": "# global.columns = FORM UPOS\na\tO\n",
        }.get(ending, "a\tO\n")
        path = tmp_path / f"en{ending}"
        path.write_text(content)
        for corpus in (str(path), path, {"en": path}, f"{tmp_path}/{{language}}{ending}"):
            with pytest.raises(CorpusError, match=r"train, dev would be the same sentences; write \{split\} into it"):
                load_corpora(corpus, ["en"], ("train", "dev"))
            assert len(load_corpora(corpus, ["en"], ["train"])["en"]["train"]) == 1

    def test_a_saved_dataset(self, tmp_path):
        data = datasets.Dataset.from_dict({"tokens": [["a"]], "tags": [["O"]]})
        data.save_to_disk(tmp_path / "one")
        with pytest.raises(CorpusError, match="one: train, dev, test would be the same sentences"):
            load_corpora(str(tmp_path / "one"), ["en"])
        datasets.DatasetDict(train=data, dev=data, test=data).save_to_disk(tmp_path / "three")
        assert list(load_corpora(str(tmp_path / "three"), ["en"])["en"]) == ["train", "dev", "test"]
        with pytest.raises(CorpusError, match="one: train, dev, test would be the same sentences"):
            load_corpora({"en": tmp_path / "one"})
        # A format is stored with it; rows unlike the others are read one by one.
        mixed = datasets.Dataset.from_dict({"tokens": [["a"], ["b"]], "tags": [["O"], None]})
        mixed.with_format("numpy").save_to_disk(tmp_path / "arrays")
        assert list(load_corpus(tmp_path / "arrays", language="en")["tokens"]) == [["a"], ["b"]]

    def test_where_it_is_written_out_it_is_said(self, tmp_path, caplog):
        (tmp_path / "a.conll").write_text("a O\n")
        path = str(tmp_path / "a.conll")
        load_corpora({"en": {"train": path, "dev": path}}, splits=("train", "dev"))
        assert f"en train and en dev are the same sentences: {path}" in caplog.text


@pytest.mark.parametrize(
    ("folder", "language", "sentences", "labels"),
    [
        ("ner/uner", "hr", 1136, 7),
        ("ner/conll2002", "nl", 5195, 9),
        ("absa/semeval2016", "ru", 1209, 3),
        ("pos/ud", "fr", 456, 15),
    ],
)
def test_real_corpora(folder, language, sentences, labels):
    path = SHARED / folder / language / "test.conll.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    dataset = load_corpus(path, language=language, orphans="refuse")
    assert dataset.num_rows == sentences
    assert len(label_inventory(dataset)) == labels


def test_a_text_where_a_list_is_meant_is_not_cut_into_letters():
    with pytest.raises(ValueError, match=r"languages is the text 'en', but must be a list, as in \['en'\]"):
        load_corpora("demo", languages="en")
    with pytest.raises(ValueError, match="splits is the text 'train', but must be a list"):
        load_corpora("demo", languages=["en"], splits="train")
    with pytest.raises(ValueError, match="label_names is the text 'O', but must be a list"):
        load_corpus("demo", language="en", label_names="O")


def test_languages_must_be_named():
    with pytest.raises(CorpusError, match=r"data/\{language\}/\{split\}.conll: say which languages to load"):
        load_corpora("data/{language}/{split}.conll")
