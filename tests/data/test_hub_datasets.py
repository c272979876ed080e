"""Danger: a card that names a file as a dataset on the Hub, or that does not name one that was trained on."""

import pytest
from datasets import Dataset, DatasetInfo, concatenate_datasets, load_dataset

from hf_structkd import load_corpora
from hf_structkd.data.corpora import FEATURES
from hf_structkd.data.hub_datasets import hub_dataset, hub_datasets_of, hub_datasets_of_field, source_info
from hf_structkd.recipes.fields import DistillationData
from hf_structkd.recipes.publishing import dataset_ids

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
