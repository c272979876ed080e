"""Dangers: other words than the model was trained with, words that are not those of the text, offsets elsewhere."""

import importlib.util
import pickle

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_structkd import CRFTokenClassificationPipeline, Teacher, XLMRobertaForTokenClassificationCRF, encode_corpus
from hf_structkd.data.tokenizer import train_tokenizer
from hf_structkd.modeling import segmenters, unspaced_scripts
from hf_structkd.modeling.glued_words import GLUED, GluedWords, join_words, sentences_of
from hf_structkd.modeling.segmenters import SegmenterError, get_segmenter
from hf_structkd.modeling.taggers import XLMRobertaCRFConfig
from hf_structkd.modeling.words import split_words, tokenize_words
from tests.conftest import draw_student
from tests.modeling import conftest

LIBRARIES = {
    "icu": "icu",
    "rules+icu": "icu",
    "jieba": "jieba",
    "pythainlp": "pythainlp",
    "spacy:xx": "spacy",
    "spacy:en": "spacy",
}
NAMES = ["rules", "whitespace", "characters", *LIBRARIES]
MIXED = st.text(
    st.sampled_from(
        "abX1 é’'\n\r\t\u3000\u00a0שלמابن北京カナ서울กรุงเ\u0e31\U0001f600\U0001f1e9\u200d\u200b\ufeff\u0301.,-#@"
    ),
    max_size=60,
)


@pytest.fixture(params=NAMES)
def segmenter(request):
    if package := LIBRARIES.get(request.param):
        pytest.importorskip(package, reason=f"needs {package}, an extra of the package")
    return get_segmenter(request.param)


def test_words_cover_every_visible_character_in_order(segmenter):
    """Danger: a library normalises, drops or reorders characters, or counts other units."""

    @settings(max_examples=80, deadline=None)
    @given(MIXED)
    def check(text):
        position = 0
        for start, end in segmenter(text):
            assert position <= start < end <= len(text)
            assert not segmenters._VISIBLE.search(text, position, start)
            position = end
        assert not segmenters._VISIBLE.search(text, position)

    check()


def test_what_each_built_in_segmenter_does():
    text = "Olu's e\u0301t\xe9 — ok"
    words = {name: [text[a:b] for a, b in get_segmenter(name)(text)] for name in ("rules", "whitespace", "characters")}
    assert words["rules"] == ["Olu", "'s", "e\u0301t\xe9", "—", "ok"]
    assert words["whitespace"] == ["Olu's", "e\u0301t\xe9", "—", "ok"]
    assert words["characters"] == ["O", "l", "u", "'", "s", "e\u0301", "t", "\xe9", "—", "o", "k"]
    assert get_segmenter("rules") is split_words


@pytest.mark.parametrize("name", ["rules", "whitespace", "characters", "icu", "rules+icu"])
def test_a_long_document_takes_linear_time(name):
    """Danger: 100,000 words take minutes. (The time itself is not compared; quadratic code would not end.)"""
    if name.endswith("icu"):
        pytest.importorskip("icu", reason="needs PyICU, the `icu` extra")
    text = "Kano \U0001f600 hums. " * 25_000 + "กรุงเทพ."
    words = get_segmenter(name)(text)
    assert len(words) >= 75_000
    assert text[slice(*words[-1])][-1] == "."


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda text: ["Olu"], r"lost the character 'h' at 4, in 'Olu hums'"),
        (
            lambda text: ["hums", "Olu"],
            "lost the character 'O' at 0|which does not stand in the text from character 8",
        ),
        (lambda text: ["Olu", "hum", "z"], "gave 'z', which does not stand"),
        (lambda text: [(0, 3), (2, 8)], "from character 2 to 8, after one that ends at 3"),
        (lambda text: [(0, 3), (4, 9)], "in a text of 8 characters"),
        (lambda text: [(0, 0), (0, 8)], "from character 0 to 0"),
        (lambda text: [0, 3], "gave 0 where a part"),
        (lambda text: ["", "Olu"], "gave ''"),
    ],
)
def test_a_function_whose_words_are_not_those_of_the_text(function, message):
    with pytest.raises(SegmenterError, match=message):
        get_segmenter(function)("Olu hums")


def test_functions_may_give_words_or_offsets():
    text = " Olu \u200b hums\n"
    assert get_segmenter(str.split)(text) == [(1, 4), (7, 11)]
    assert get_segmenter(lambda text: [(1, 4), (5, 6), (7, 11)])(text) == [(1, 4), (7, 11)]


class TestRulesAndIcu:
    """Dangers: ICU's words where the rules know better, or the rules' where only a dictionary does."""

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("Olu's U.S. \U0001f600 한국어", ["Olu", "'s", "U.S.", "\U0001f600", "한국어"]),
            ("我爱北京。", ["我", "爱", "北", "京", "。"]),
            ("\U0001f600日本のカナで don't", ["\U0001f600", "日本", "の", "カナ", "で", "do", "n't"]),
            ("กรุงเทพ และ AB", ["กรุงเทพ", "และ", "AB"]),
            ("ລາວ ខ្ញុំស្រលាញ់ភ្នំពេញ", ["ລາວ", "ខ្ញុំ", "ស្រលាញ់", "ភ្នំពេញ"]),
        ],
    )
    def test_each_script_has_its_words(self, text, words):
        pytest.importorskip("icu", reason="needs PyICU, the `icu` extra")
        assert [text[a:b] for a, b in get_segmenter("rules+icu")(text)] == words

    def test_only_texts_of_such_scripts_need_icu(self, monkeypatch):
        def missing(name):
            raise ModuleNotFoundError(f"No module named {name!r}")

        monkeypatch.setattr(unspaced_scripts, "import_module", missing)
        unspaced_scripts._breaker.cache_clear()
        assert get_segmenter("rules+icu")("Olu's") == [(0, 3), (3, 5)]
        with pytest.raises(SegmenterError, match=r"'rules\+icu' need PyICU: pip install 'hf_structkd\[icu\]'"):
            get_segmenter("rules+icu")("กรุงเทพ")


def test_unknown_and_missing_segmenters_are_named(monkeypatch):
    with pytest.raises(SegmenterError, match=r"unknown segmenter 'rulse'. Did you mean 'rules'\?"):
        get_segmenter("rulse")
    for name in ("icu:th", "spacy", "rules:x", ""):
        with pytest.raises(SegmenterError, match="unknown segmenter"):
            get_segmenter(name)
    with pytest.raises(SegmenterError, match="must be the name of a segmenter or a function, not int"):
        get_segmenter(3)

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(segmenters, "import_module", missing)
    monkeypatch.setattr(unspaced_scripts, "import_module", missing)
    segmenters._named.cache_clear()
    for name, extra in {"icu": "icu", "jieba": "chinese", "pythainlp": "thai", "spacy:de": "spacy"}.items():
        with pytest.raises(SegmenterError, match=rf"pip install 'hf_structkd\[{extra}\]'"):
            get_segmenter(name)
    segmenters._named.cache_clear()


def test_entry_points_add_segmenters(monkeypatch):
    class Point:
        name = "halves"

        def load(self):
            return lambda text: [text[: len(text) // 2], text[len(text) // 2 :]]

    monkeypatch.setattr(segmenters, "entry_points", lambda group: [Point()] if group.endswith("segmenters") else [])
    segmenters._named.cache_clear()
    assert get_segmenter("halves")("abcd") == [(0, 2), (2, 4)]
    segmenters._named.cache_clear()


def test_spacy_without_such_a_language():
    if importlib.util.find_spec("spacy") is None:
        pytest.skip("needs spaCy, the `spacy` extra")
    with pytest.raises(SegmenterError, match="spaCy has no language 'zz'"):
        get_segmenter("spacy:zz")


def test_a_configuration_stores_names_alone():
    assert XLMRobertaCRFConfig().words == "rules"
    assert XLMRobertaCRFConfig.from_dict(XLMRobertaCRFConfig(words="icu").to_dict()).words == "icu"
    with pytest.raises(ValueError, match="words must be the name of a segmenter, not function"):
        XLMRobertaCRFConfig(words=str.split and (lambda text: []))


# Dangers: words without a blank before them have other pieces in the pipeline than in training, or in models that
# never asked for it; a tag without a place; offsets beside the entity.


MAKERS = {
    "metaspace": conftest.unigram,
    "as trained here": lambda sentences: train_tokenizer(sentences, 200),
    "byte-level": conftest.byte_level,
    "byte-level, prefix": lambda sentences: conftest.byte_level(sentences, add_prefix_space=True),
    "spaces as pieces": conftest.spaces_as_pieces,
}
TEXT = "Anna (Lopez) flew, to 北京市!"


MIXED_SCRIPTS = st.text(st.sampled_from("Anlopez (),.!é北京市กรุง\U0001f600\u200d\u200b\u0301\n "), max_size=40)


def words_of(text):
    return GluedWords.of_text(text, get_segmenter("rules")(text))


@pytest.fixture(scope="module", params=MAKERS)
def kind(request, corpus):
    return request.param, MAKERS[request.param](list(corpus["tokens"]))


def pieces(tokenizer, words, glued_words):
    encoded = tokenize_words([words], tokenizer, glued_words)
    return tokenizer.convert_ids_to_tokens(encoded["input_ids"][0]), encoded["word_mask"][0]


class TestPieces:
    def test_words_between_blanks_stay_as_they_are(self, kind, corpus):
        _, tokenizer = kind
        sentences = list(corpus["tokens"])
        assert tokenize_words(sentences, tokenizer, glued_words=True) == tokenize_words(sentences, tokenizer)

    def test_only_models_that_ask_for_it_read_blanks(self, kind):
        _, tokenizer = kind
        assert tokenize_words([words_of(TEXT)], tokenizer) == tokenize_words([list(words_of(TEXT))], tokenizer)

    def test_glued_words_carry_no_mark(self, kind):
        name, tokenizer = kind
        words = words_of(TEXT)
        tokens, mask = pieces(tokenizer, words, glued_words=True)
        starts = [token for token, first in zip(tokens, mask) if first]
        assert len(starts) == len(words)
        marked = [token.startswith(("▁", "Ġ")) for token in starts]
        assert marked[1:] == [not glued for glued in words.glued[1:]]
        assert marked[0] == (name in ("metaspace", "as trained here", "byte-level, prefix"))

    def test_they_are_the_pieces_of_running_text(self, kind):
        """Where no piece of running text spans two words, both are the same: here each word is a character."""
        _, tokenizer = kind
        text = "a (b) c, d!"
        words = GluedWords.of_text(text, get_segmenter("characters")(text))
        assert tokenize_words([words], tokenizer, glued_words=True)["input_ids"] == [tokenizer(text)["input_ids"]]

    @settings(max_examples=60, deadline=None)
    @given(MIXED_SCRIPTS)
    def test_every_word_keeps_a_place(self, kind, text):
        if words := words_of(text):
            encoded = tokenize_words([words, ["a"]], kind[1], glued_words=True)
            assert sum(encoded["word_mask"][0]) == len(words)
            assert sum(encoded["word_mask"][1]) == 1

    def test_pieces_that_are_added_later_are_known(self, corpus):
        tokenizer = conftest.unigram(list(corpus["tokens"]))
        tokenize_words([words_of(TEXT)], tokenizer, glued_words=True)
        tokenizer.add_tokens(["北京市"])
        words = GluedWords(["a", "北京市"], [False, True])
        assert "北京市" in pieces(tokenizer, words, glued_words=True)[0]

    def test_a_tokenizer_without_such_pieces_is_refused(self, corpus):
        with pytest.raises(ValueError, match=r"does not mark the blank before a word .*: leave glued_words out"):
            tokenize_words([["a"]], conftest.wordpiece(list(corpus["tokens"])), glued_words=True)


class TestGluedWords:
    def test_they_are_a_list_that_survives_copies(self):
        words = words_of("a,b c")
        assert words == ["a", ",", "b", "c"]
        assert words.glued == [False, True, True, False]
        again = pickle.loads(pickle.dumps(words))
        assert (again, again.glued) == (words, words.glued)
        with pytest.raises(ValueError, match="there are 2 words, and 1 flags"):
            GluedWords(["a", "b"], [True])

    def test_sentences_of_a_document_stand_between_blanks(self):
        joined = join_words([words_of("a,"), words_of("b,"), ["c", "d"]])
        assert (joined, joined.glued) == (["a", ",", "b", ",", "c", "d"], [False, True, False, True, False, False])
        assert type(join_words([["a"], ["b"]])) is list

    def test_rows_of_a_corpus(self):
        rows = {"tokens": [["a", ","], ["b"]], GLUED: [[False, True], None]}
        first, second = sentences_of(rows)
        assert (first.glued, type(second)) == ([False, True], list)
        with pytest.raises(ValueError, match="row 7: there are 2 words, and 1 flags"):
            sentences_of({"tokens": [["a", "b"]], GLUED: [[True]]}, [7])


class TestModel:
    def test_the_option_is_stored_and_off_in_old_checkpoints(self):
        old = XLMRobertaCRFConfig().to_dict()
        del old["glued_words"]
        assert XLMRobertaCRFConfig.from_dict(old).glued_words is False
        assert XLMRobertaCRFConfig.from_dict(XLMRobertaCRFConfig(glued_words=True).to_dict()).glued_words is True
        with pytest.raises(ValueError, match="glued_words must be True or False, not 'yes'"):
            XLMRobertaCRFConfig(glued_words="yes")

    def test_pieces_do_not_tell_its_words(self, tokenizer, labels):
        model = draw_student(tokenizer, labels)
        model.config.glued_words = True  # its pieces are stored already: they must not be used
        encoded = tokenize_words([words_of(TEXT)], tokenizer, glued_words=True)
        batch = {name: torch.tensor(values) for name, values in encoded.items()}
        mask = batch.pop("word_mask")
        with pytest.raises(ValueError, match=r"glued_words: pieces do not tell where its words start.*word_mask"):
            model(**batch)
        with pytest.raises(ValueError, match="glued_words: pieces do not tell"):
            model.set_word_starts(tokenizer)
        with_mask = model(**batch, word_mask=mask)
        # Training gives labels: they tell the words, too.
        assert model(**batch, labels=torch.where(mask.bool(), 0, -100)).lengths.tolist() == with_mask.lengths.tolist()


@pytest.fixture(scope="module")
def glued(tokenizer, labels):
    """A tagger whose answers depend on every piece."""
    model = draw_student(tokenizer, labels, max_position_embeddings=130)
    model.config.glued_words = True
    return model


class TestPipeline:
    def test_raw_text_is_tokenised_as_in_training(self, glued, tokenizer, labels):
        words = words_of(TEXT)
        corpus = Dataset.from_dict({"tokens": [words], GLUED: [words.glued], "tags": [["O"] * len(words)]})
        trained_on = encode_corpus(corpus, tokenizer, labels, glued_words=True)
        pipe = CRFTokenClassificationPipeline(model=glued, tokenizer=tokenizer)
        (sentence,) = [pipe.preprocess(TEXT)]
        assert pipe.padded([sentence.words])["input_ids"].tolist() == list(trained_on["input_ids"])
        assert pipe.padded([list(words)])["input_ids"].tolist() != list(trained_on["input_ids"])

    def test_text_words_and_teacher_agree(self, glued, tokenizer, tmp_path):
        """Saved and loaded; words that know their blanks have the answers of the text."""
        glued.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        loaded = XLMRobertaForTokenClassificationCRF.from_pretrained(tmp_path)
        assert loaded.config.glued_words
        pipe = CRFTokenClassificationPipeline(model=loaded, tokenizer=tokenizer)
        words = words_of(TEXT)
        of_text, of_words = pipe(TEXT, top_k=2), pipe(words, is_split_into_words=True, top_k=2)
        assert of_text == of_words
        assert pipe(list(words), is_split_into_words=True, top_k=2)["top_k"] != of_text["top_k"]
        spans = loaded.tag_scheme.spans(Teacher.from_pretrained(str(tmp_path)).tag([words])[0])
        found = [(e["start_word"], e["end_word"], e["entity_group"]) for e in of_text["entities"]]
        assert found == [tuple(span) for span in spans]

    @settings(max_examples=40, deadline=None)
    @given(st.lists(MIXED_SCRIPTS, min_size=1, max_size=3))
    def test_offsets_count_in_the_text(self, glued, tokenizer, texts):
        pipe = CRFTokenClassificationPipeline(model=glued, tokenizer=tokenizer)
        for text, answer in zip(texts, pipe(texts, marginals=True)):
            offsets = [(part["start"], part["end"]) for part in answer["marginals"]]
            assert offsets == get_segmenter("rules")(text)
            for part in [*answer["entities"], *answer["marginals"]]:
                assert text[part["start"] : part["end"]] == part["word"]

    def test_models_without_the_option_answer_as_before(self, tokenizer, labels):
        pipe = CRFTokenClassificationPipeline(model=draw_student(tokenizer, labels), tokenizer=tokenizer)
        words = words_of("Anna (Lopez)!")
        of_list = pipe(list(words), is_split_into_words=True, marginals=True)["marginals"]
        of_text = pipe("Anna (Lopez)!", marginals=True)["marginals"]
        assert [part["scores"] for part in of_text] == [part["scores"] for part in of_list]
