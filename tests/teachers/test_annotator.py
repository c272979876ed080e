"""Danger: an engine's batches get other answers than `annotate` gives, or an engine's worker has no teacher."""

import pickle
import sys

import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset

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
    with pytest.raises(TypeError, match="holds the text 'Anna sings' where lists of words are meant"):
        annotator({"tokens": ["Anna sings"], "language": ["en"]})
    with pytest.raises(ValueError, match="no teacher for language xx"):
        annotator({"tokens": [["a"]], "language": ["xx"]})
    with pytest.raises(TypeError, match=r"a mapping of columns, a pyarrow.Table or a pandas data frame"):
        annotator([1])


@pytest.mark.slow
def test_ray_asks_in_two_workers(corpus, settings, expected):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'hf_structkd[ray]'")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        rows = ray.data.from_arrow(pa.table(corpus.data.table)).repartition(2)
        answered = rows.map_batches(
            TeacherAnnotator, fn_constructor_kwargs=settings, batch_format="pyarrow", batch_size=SIZE, concurrency=2
        )
        by_words = {tuple(row["tokens"]): row for row in answered.take_all()}
    finally:
        ray.shutdown()
    assert len(by_words) == len({tuple(row["tokens"]) for row in expected})
    for row in expected:
        assert list(by_words[tuple(row["tokens"])]["teacher_topk_tags"][0]) == row["teacher_topk_tags"][0]


@pytest.mark.slow
def test_spark_maps_frames(corpus, settings, expected, monkeypatch):
    pyspark = pytest.importorskip("pyspark", reason="pyspark is not installed")
    from pyspark.sql import SparkSession
    from pyspark.sql.pandas.types import from_arrow_schema

    annotator = TeacherAnnotator(**{**settings, "targets": ["teacher_topk_tags"]})
    assert pyspark.__version__
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        small = Dataset.from_dict({name: corpus[:4][name] for name in ("tokens", "language")})
        schema = from_arrow_schema(annotator.features(small.features).arrow_schema)
        frame = spark.createDataFrame(small.to_pandas()).mapInPandas(annotator.map_frames, schema)
        found = {tuple(row["tokens"]): row["teacher_topk_tags"][0] for row in frame.collect()}
    finally:
        spark.stop()
    for row in expected[:4]:
        assert found[tuple(row["tokens"])] == row["teacher_topk_tags"][0]
