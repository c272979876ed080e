"""Danger: an engine's batches get other answers than `annotate` gives, or an engine's worker has no teacher."""

import importlib
import pickle
import sys

import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, load_dataset, load_from_disk

from hf_structkd import CallableTeacher, Teacher, TeacherAnnotator, annotate
from hf_structkd.teachers import annotator as annotator_module

TARGETS = ["teacher_topk_tags", "teacher_marginals", "teacher_edge_counts"]
SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer, labels):
    from ..conftest import draw_student

    place = tmp_path_factory.mktemp("teacher")
    draw_student(tokenizer, labels, seed=1).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


@pytest.fixture
def settings(folder, labels):
    return {"teachers": {"en": folder, "ru": [[folder, 1.0]]}, "label_names": labels, "targets": TARGETS, "top_k": 3}


@pytest.fixture
def expected(corpus, folder, labels):
    """What `annotate` answers about the same batches."""
    rows = []
    for start in range(0, len(corpus), SIZE):
        batch = corpus.select(range(start, min(start + SIZE, len(corpus))))
        teachers = {"en": folder, "ru": folder}
        rows += annotate(batch, teachers, label_names=labels, targets=TARGETS, top_k=3, progress=False).to_list()
    return rows


def test_datasets_map_gives_the_same_answers_with_the_same_types(corpus, settings, expected, labels, folder):
    annotator = TeacherAnnotator(**settings)
    mapped = corpus.map(annotator, batched=True, batch_size=SIZE, features=annotator.features(corpus.features))
    assert mapped.to_list() == expected
    reference = annotate(corpus, folder, label_names=labels, targets=TARGETS, top_k=3, progress=False)
    assert mapped.features == reference.features


def test_tables_frames_and_mappings_are_answered_in_kind(corpus, settings, expected):
    annotator = pickle.loads(pickle.dumps(TeacherAnnotator(**settings)))
    batch = corpus.select(range(SIZE))
    table = annotator(pa.table(batch.data.table))
    assert isinstance(table, pa.Table)
    assert table.to_pylist() == expected[:SIZE]
    assert annotator(table).to_pylist() == expected[:SIZE], "old answers are replaced"
    frame = batch.to_pandas()
    frame.index = range(100, 100 + SIZE)
    (answered,) = annotator.map_frames([frame])
    assert isinstance(answered, pd.DataFrame)
    assert list(answered.index) == list(frame.index)
    assert list(answered["teacher_topk_tags"]) == [row["teacher_topk_tags"] for row in expected[:SIZE]]
    assert annotator(batch[:])["teacher_marginals"] == [row["teacher_marginals"] for row in expected[:SIZE]]


def test_a_batch_without_rows_has_the_columns(corpus, settings):
    annotator = TeacherAnnotator(**settings)
    empty = annotator(pa.table(corpus.data.table).slice(0, 0))
    full = annotator(pa.table(corpus.data.table).slice(0, 2))
    assert empty.schema.names == full.schema.names
    assert [field.type for field in empty.schema] == [field.type for field in full.schema]


def test_batches_of_any_languages_have_the_same_columns(corpus, folder, labels):
    """One language's teacher leaves labels open: its answers say so in a column that the others must have, too."""
    other = [label for label in labels if not label.endswith("ORG")]
    blind = CallableTeacher(
        lambda sentences: [[[1.0 / len(other)] * len(other)] * len(words) for words in sentences],
        other, name="blind", revision="1", label_map={"O": ["O", "ORG"]},
    )  # fmt: skip
    annotator = TeacherAnnotator(
        {"en": folder, "ru": blind}, label_names=labels, targets=["teacher_marginals"], top_k=3
    )
    english, russian, both = (corpus.select(rows) for rows in (range(5), range(30, 35), range(28, 33)))
    schemas = [annotator(pa.table(part.data.table.combine_chunks())).schema for part in (english, russian, both)]
    assert schemas[0].equals(schemas[1])
    assert schemas[0].equals(schemas[2])
    assert "teacher_groups" in schemas[0].names
    mapped = corpus.map(annotator, batched=True, batch_size=5, features=annotator.features(corpus.features))
    reference = annotate(
        corpus, {"en": folder, "ru": blind}, label_names=labels, targets=["teacher_marginals"], progress=False
    )
    assert mapped["teacher_groups"] == reference["teacher_groups"]


def test_teachers_are_loaded_once_per_process_and_not_sent(corpus, settings, monkeypatch):
    loaded, real = [], Teacher.from_pretrained
    monkeypatch.setattr(annotator_module, "_LOADED", {})
    monkeypatch.setattr(Teacher, "from_pretrained", lambda *a, **k: loaded.append(a) or real(*a, **k))
    sent = pickle.dumps(TeacherAnnotator(**settings))
    assert len(sent) < 2000
    for start in range(3):
        pickle.loads(sent)(corpus[start : start + 2])
    assert len(loaded) == 2, "one for each language"


def test_wrong_batches_are_named(settings, corpus):
    annotator = TeacherAnnotator(**settings)
    with pytest.raises(ValueError, match=r"needs a column 'tokens' with lists of words; this one has .'text'"):
        annotator({"text": ["a"]})
    for batch in (pa.table({"text": ["a"]}), pd.DataFrame({"text": ["a"]})):
        with pytest.raises(ValueError, match=r"needs a column 'tokens' with lists of words; this one has .'text'"):
            annotator(batch)
    with pytest.raises(TypeError, match="row 0: 'tokens' holds the text 'Anna sings' where lists of words are meant"):
        annotator({"tokens": ["Anna sings"], "language": ["en"]})
    with pytest.raises(TypeError, match="row 1: 'tokens' holds the value None where lists of words are meant"):
        annotator({"tokens": [["Anna"], None], "language": ["en", "en"]})
    rows = {"tokens": [["Anna"], ["sings"]], "language": ["en", None]}
    for batch in (rows, pd.DataFrame(rows), pa.table(rows)):
        with pytest.raises(ValueError, match="row 1 of the corpus has no language, and teachers are given by"):
            annotator(batch)
    with pytest.raises(ValueError, match="no teacher for language xx"):
        annotator({"tokens": [["a"]], "language": ["xx"]})
    with pytest.raises(TypeError, match=r"a mapping of columns, a pyarrow.Table or a pandas data frame"):
        annotator([1])


@pytest.mark.parametrize("word", [None, 7])
def test_what_is_no_word_is_not_made_one(folder, labels, word):
    """It became the word "None", or "7"."""
    annotator = TeacherAnnotator(folder, label_names=labels, targets=TARGETS)
    for kind in (dict, pd.DataFrame):
        with pytest.raises((TypeError, ValueError), match="word"):
            annotator(kind({"tokens": [[word]]}))


def test_a_teacher_that_was_trained_anew_answers_anew(corpus, tmp_path, tokenizer, labels, make_student):
    """Danger: answers of the old weights, kept in the process or by `datasets.map`, which stores what it computed."""
    corpus.save_to_disk(tmp_path / "corpus")
    stored = load_from_disk(tmp_path / "corpus")
    tokenizer.save_pretrained(tmp_path / "teacher")
    answers = []
    for seed in (1, 2):
        make_student(seed=seed).save_pretrained(tmp_path / "teacher")
        annotator = TeacherAnnotator(tmp_path / "teacher", label_names=labels, targets=["teacher_marginals"])
        for _ in range(2):  # the second is read from the store
            mapped = stored.map(annotator, batched=True, features=annotator.features(stored.features))
            answers.append(mapped["teacher_marginals"][:3])
    assert answers[0] == answers[1] != answers[2] == answers[3]


def test_a_worker_without_the_teachers_package_names_the_extra(corpus, labels, monkeypatch):
    annotator = pickle.loads(
        pickle.dumps(TeacherAnnotator("spacy:en_core_web_sm", label_names=labels, targets=["teacher_marginals"]))
    )
    real = importlib.import_module

    def absent(name, *more):
        if name == "spacy":
            raise ModuleNotFoundError("No module named 'spacy'", name="spacy")
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"this teacher needs spacy: pip install 'hf_structkd\[spacy\]'"):
        annotator({"tokens": [["Anna"]]})


def test_spark_can_hold_every_column(settings, corpus):
    types = pytest.importorskip("pyspark.sql.pandas.types", reason="pyspark is not installed")
    schema = TeacherAnnotator(**settings).spark_schema(corpus.features)
    assert types.from_arrow_schema(schema).names == schema.names


@pytest.mark.slow
def test_ray_asks_in_two_workers(corpus, settings, expected, tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'hf_structkd[ray]'")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        # Blocks of the size of a batch: where Ray cuts blocks decides which sentences share a forward pass.
        blocks = [pa.table(corpus.data.table).slice(start, SIZE) for start in range(0, len(corpus), SIZE)]
        rows = ray.data.from_arrow(blocks)
        answered = rows.map_batches(
            TeacherAnnotator, fn_constructor_kwargs=settings, batch_format="pyarrow", batch_size=None, concurrency=2
        )
        answered.write_parquet(tmp_path / "answers")
    finally:
        ray.shutdown()
    stored = load_dataset("parquet", data_dir=str(tmp_path / "answers"), split="train")
    assert stored.features["teacher_marginals"].feature.feature.dtype == "float16"
    by_words = {tuple(row["tokens"]): row for row in stored}
    assert by_words == {tuple(row["tokens"]): row for row in expected}


@pytest.mark.slow
def test_spark_maps_frames(corpus, settings, tmp_path, monkeypatch):
    pyspark = pytest.importorskip("pyspark", reason="pyspark is not installed")
    from pyspark.sql import SparkSession
    from pyspark.sql.pandas.types import from_arrow_schema

    assert pyspark.__version__
    annotator = TeacherAnnotator(**settings)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        small = Dataset.from_dict({name: corpus[:4][name] for name in ("tokens", "language")})
        schema = from_arrow_schema(annotator.spark_schema(small.features))
        frame = spark.createDataFrame(small.to_pandas()).coalesce(1).mapInPandas(annotator.map_frames, schema)
        frame.write.parquet(str(tmp_path / "answers"))
    finally:
        spark.stop()
    stored = load_dataset("parquet", data_files=str(tmp_path / "answers" / "*.parquet"), split="train")
    assert stored.to_list() == annotator(small.data.table).to_pylist()
