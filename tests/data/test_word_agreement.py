"""Dangers: a tagger learns other words than its pipeline makes of the same text, and nothing says so; words that are
placed elsewhere in their text; words that count as glued where a blank stands."""

import json
import logging

import pytest

from hf_structkd import load_corpora, load_corpus
from hf_structkd.data.conllu import read_conllu
from hf_structkd.data.word_agreement import compare_words
from hf_structkd.modeling.words import split_words

SENTENCE = """\
# text = Va al mar, can't!
1\tVa\t_\tV\t_\t_\t_\t_\t_\t_
2-3\tal\t_\t_\t_\t_\t_\t_\t_\t_
2\ta\t_\tP\t_\t_\t_\t_\t_\t_
3\tel\t_\tD\t_\t_\t_\t_\t_\t_
4\tmar\t_\tN\t_\t_\t_\t_\t_\tSpaceAfter=No
5\t,\t_\tX\t_\t_\t_\t_\t_\t_
6-7\tcan't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
6\tca\t_\tV\t_\t_\t_\t_\t_\t_
7\tn't\t_\tX\t_\t_\t_\t_\t_\t_
8\t!\t_\tX\t_\t_\t_\t_\t_\t_
"""


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "a.conllu"
        path.write_text(content)
        return next(read_conllu(path))

    return read


class TestConlluTexts:
    def test_words_are_placed_in_their_text(self, read):
        sentence = read(SENTENCE)
        assert sentence.text == "Va al mar, can't!"
        placed = [place and sentence.text[slice(*place)] for place in sentence.offsets]
        assert placed == ["Va", None, None, "mar", ",", "ca", "n't", "!"]
        assert [word for word, glued in zip(sentence.tokens, sentence.glued) if glued] == [",", "n't", "!"]

    def test_blanks_that_misc_tells(self, read):
        """Without a text, SpaceAfter=No makes one; a file without either says nothing."""
        sentence = read(SENTENCE.partition("\n")[2])
        assert sentence.text == "Va al mar, can't!"
        assert [word for word, glued in zip(sentence.tokens, sentence.glued) if glued] == [",", "n't", "!"]
        silent = read(SENTENCE.partition("\n")[2].replace("SpaceAfter=No", "_"))
        assert (silent.text, silent.glued) == (None, None)

    def test_a_text_of_other_words(self, read, caplog):
        sentence = read(SENTENCE.replace("mar,", "marx,"))
        assert (sentence.text, sentence.glued) == (None, None)

    def test_it_is_said(self, tmp_path, caplog):
        path = tmp_path / "a.conllu"
        path.write_text(SENTENCE.replace("mar,", "marx,"))
        load_corpus(path, language="es")
        assert f"the words of 1 sentence(s) are not those of their '# text' comment, first at {path}:2" in caplog.text


class TestAgreement:
    def test_the_share_and_examples(self, read):
        agreement = compare_words([read(SENTENCE)], split_words)
        assert (agreement.sentences, agreement.words, agreement.same) == (1, 8, 6)
        assert agreement.examples == [("a", "not in the text")]

    def test_it_is_logged_once_per_language(self, tmp_path, caplog):
        for split in ("train", "dev"):
            (tmp_path / f"{split}.conllu").write_text(SENTENCE)
        measured: dict = {}
        sources = {"es": {s: tmp_path / f"{s}.conllu" for s in ("train", "dev")}}
        load_corpora(sources, splits=["train", "dev"], measure_words=measured)
        summary = {"segmenter": "rules", "share": 0.75, "words": 8, "sentences": 1}
        assert measured["es"].summary() == summary
        assert caplog.text.count("the words 'rules' find 75.0 % of 8 words ('a' is 'not in the text')") == 1
        caplog.clear()
        load_corpus(tmp_path / "dev.conllu", language="es", measure_words=False)
        assert "75.0 %" not in caplog.text

    def test_words_of_a_tool(self, tmp_path, caplog):
        tokens = [{"text": "Olu-Ade", "start": 0, "end": 7}, {"text": ".", "start": 7, "end": 8}]
        row = {"text": "Olu-Ade.", "spans": [], "tokens": tokens}
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps(row))
        with caplog.at_level(logging.INFO):
            load_corpus(path, language="xx")
        assert "the words 'rules' find 100.0 % of 2 words" in caplog.text
        load_corpus(path, language="xx", words="characters")
        assert "the words 'characters' find 50.0 % of 2 words ('Olu-Ade' is 'O l u - A d e')" in caplog.text
        assert "WARNING" in caplog.text

    def test_words_of_the_segmenter_itself_say_nothing(self, tmp_path, caplog):
        (tmp_path / "a.jsonl").write_text(json.dumps({"text": "Olu.", "spans": []}))
        with caplog.at_level(logging.INFO):
            load_corpus(tmp_path / "a.jsonl", language="xx")
        assert " find " not in caplog.text
