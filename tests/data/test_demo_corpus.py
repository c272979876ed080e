"""The built-in corpus: what the demo and the tests of other parts rely on."""

import unicodedata

import pytest
from datasets import Dataset, DatasetInfo, concatenate_datasets, load_dataset

from hf_structkd import load_corpora
from hf_structkd.data.corpora import FEATURES, label_inventory
from hf_structkd.data.demo_corpus import DEMO_LANGUAGES, DEMO_SIZES, load_demo_corpus
from hf_structkd.data.hub_datasets import hub_dataset, hub_datasets_of, hub_datasets_of_field, source_info
from hf_structkd.data.readers import CorpusError
from hf_structkd.modeling.tag_scheme import TagScheme
from hf_structkd.recipes.fields import DistillationData
from hf_structkd.recipes.publishing import dataset_ids

LABELS = ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
SCHEME = TagScheme(LABELS)


@pytest.fixture(scope="module")
def corpora():
    return {lang: {split: load_demo_corpus(lang, split) for split in DEMO_SIZES} for lang in DEMO_LANGUAGES}


def entities(dataset):
    for tokens, tags in zip(dataset["tokens"], dataset["tags"]):
        for start, end, entity_type in SCHEME.spans(tags):
            yield " ".join(tokens[start:end]), entity_type


@pytest.mark.slow
def test_at_least_six_languages_and_three_scripts(corpora):
    assert len(corpora) >= 6
    letters = {
        character for c in corpora.values() for tokens in c["train"]["tokens"] for t in tokens for character in t
    }
    scripts = {unicodedata.name(letter).split()[0] for letter in letters if letter.isalpha()}
    assert scripts >= {"LATIN", "CYRILLIC", "DEVANAGARI"}


@pytest.mark.parametrize("language", DEMO_LANGUAGES)
def test_tags_are_legal_and_every_placeholder_is_filled(corpora, language):
    for split, size in DEMO_SIZES.items():
        dataset = corpora[language][split]
        assert dataset.num_rows == size
        assert set(dataset["language"]) == {language}
        for tokens, tags in zip(dataset["tokens"], dataset["tags"]):
            assert len(tokens) == len(tags)
            assert not SCHEME.violations(tags)
            assert all((token and not set(token) & set("{}|/ ")) for token in tokens), tokens
    assert label_inventory(corpora[language]) == LABELS


@pytest.mark.parametrize("language", DEMO_LANGUAGES)
def test_no_test_sentence_is_in_train(corpora, language):
    """Scores on sentences already trained on would flatter the teachers."""
    texts = {s: [" ".join(t).casefold() for t in corpora[language][s]["tokens"]] for s in DEMO_SIZES}
    assert not set(texts["train"]) & (set(texts["dev"]) | set(texts["test"]))
    assert not set(texts["dev"]) & set(texts["test"])
    other_seed = load_demo_corpus(language, "train", 300, seed=99)
    assert not {" ".join(t).casefold() for t in other_seed["tokens"]} & set(texts["test"])
    assert all(len(set(split)) == len(split) for split in texts.values())


@pytest.mark.parametrize("language", DEMO_LANGUAGES)
def test_is_not_trivial(corpora, language):
    """A corpus that a name list solves would show no gap between teachers and students."""
    train, test = corpora[language]["train"], corpora[language]["test"]
    types = {}
    for name, entity_type in entities(train):
        types.setdefault(name, set()).add(entity_type)
    names = list(entities(test))
    assert sum(len(types.get(name, ())) > 1 for name, _ in names) > 0.04 * len(names)
    assert sum(entity_type not in types.get(name, ()) for name, entity_type in names) > 0.2 * len(names)
    assert any(not any(tag != "O" for tag in tags) for tags in train["tags"])
    assert max(map(len, train["tokens"])) > 40
    lengths = {end - start for tags in train["tags"] for start, end, _ in SCHEME.spans(tags)}
    assert lengths >= {1, 2, 3}
    if language != "hi":
        assert any(" ".join(t).islower() and any(x != "O" for x in g) for t, g in zip(train["tokens"], train["tags"]))


def test_is_always_the_same(corpora):
    again = load_demo_corpus("ru", "dev", 50)
    assert again[:] == corpora["ru"]["dev"].select(range(50)).to_dict()
    assert load_demo_corpus("ru", "dev", 50, seed=1)[:] != again[:]
    assert again[0] == load_demo_corpus("ru", "validation", 1)[0]


def test_refuses_what_it_has_not():
    with pytest.raises(CorpusError, match=r"'xx'.*en, de"):
        load_demo_corpus("xx")
    with pytest.raises(CorpusError, match=r"'eval'.*train, dev"):
        load_demo_corpus("en", "eval")
    with pytest.raises(ValueError, match="at least 1"):
        load_demo_corpus("en", "train", 0)


# Danger: a card that names a file as a dataset on the Hub, or that does not name one that was trained on.


ROWS = {"tokens": [["Anna"]], "tags": [["B-PER"]], "language": ["en"]}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("unimelb-nlp/wikiann:en", "unimelb-nlp/wikiann"),
        ("eriktks/conll2002:es@refs/convert/parquet", "eriktks/conll2002"),
        ("data/train.conll.gz", None),
        ("./data/train", None),
        ("demo", None),
        (None, None),
    ],
)
def test_ids_are_told_from_files(source, name):
    assert hub_dataset(source) == name


def test_a_folder_that_is_here_is_no_id(tmp_path, monkeypatch):
    (tmp_path / "data" / "en").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_datasets_of_field("data/{language}", ["en"]) == []


def test_the_corpora_of_a_recipe(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "eng.train").touch()
    monkeypatch.chdir(tmp_path)
    corpus = {
        "en": {"train": "data/eng.train", "dev": "data/eng.conll", "test": "owner/tests:{language}"},
        "es": "eriktks/conll2002:{language}",
        "nl": "eriktks/conll2002:{language}",
    }
    assert hub_datasets_of_field(corpus, ["en", "es", "nl"]) == ["owner/tests", "eriktks/conll2002"]
    assert hub_datasets_of_field(None, ["en"]) == []


def test_a_corpus_remembers_where_it_came_from(tmp_path):
    ours = [Dataset.from_dict(ROWS, info=source_info(f"owner/{name}", FEATURES)) for name in ("one", "two")]
    merged = concatenate_datasets([*ours, Dataset.from_dict(ROWS)]).select([0, 1])
    assert hub_datasets_of(merged) == ["owner/one", "owner/two"]
    loaded = load_corpora({"en": {"train": merged}}, splits=["train"])["en"]["train"]
    assert hub_datasets_of(loaded) == ["owner/one", "owner/two"]
    downloaded = Dataset.from_dict(
        ROWS, info=DatasetInfo(download_checksums={"hf://datasets/owner/three@a1/x.parquet": {}})
    )
    assert hub_datasets_of(downloaded) == ["owner/three"]
    (tmp_path / "rows.jsonl").write_text('{"tokens": ["Anna"]}\n')
    of_file = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path / "cache"))["train"]
    assert hub_datasets_of(of_file) == hub_datasets_of([1]) == []


def test_the_text_of_a_recipe_counts_too():
    data = DistillationData(corpus="unimelb-nlp/wikiann:{language}", unlabelled_corpus="owner/text:{language}")
    assert dataset_ids(data, ["en", "de"]) == ["unimelb-nlp/wikiann", "owner/text"]
    assert dataset_ids(DistillationData(corpus="demo"), ["en"]) == []
