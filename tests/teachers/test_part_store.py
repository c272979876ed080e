"""Dangers: a place that fails after the teachers were asked, a lost manifest that lets another question's parts go."""

import json

import pytest
from accelerate import PartialState
from datasets import Dataset
from fsspec.implementations.memory import MemoryFileSystem

from hf_structkd import AnnotationError, CallableTeacher, annotate, annotate_part, load_parts
from hf_structkd.teachers import part_store

LABELS = ["O", "B-PER", "I-PER"]
ADDRESS = "memory://bucket/parts"


def read(sentences):
    """Answers that depend on the whole of what is read, and on the word."""
    rows = []
    for words in sentences:
        total = sum(map(ord, "".join(words)))
        rows.append([[0.2 + (x := 0.5 * ((total + ord(w[0])) % 7) / 7), 0.1, 0.7 - x] for w in words])
    return rows


class Counting:
    """A teacher's function that counts the sentences it is asked about."""

    def __init__(self):
        self.sentences = 0

    def __call__(self, sentences):
        self.sentences += len(sentences)
        return read(sentences)


@pytest.fixture
def counting():
    return Counting()


@pytest.fixture
def corpus():
    documents = ["a"] * 5 + ["b"] * 1 + ["c"] * 6
    tokens = [[chr(97 + row)] * (1 + row % 3) for row in range(12)]
    return Dataset.from_dict({"tokens": tokens, "document": documents, "language": ["en"] * 7 + ["ru"] * 5})


@pytest.fixture(autouse=True)
def empty_bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(part_store.datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    MemoryFileSystem.store.clear()


def teacher_of(function, name="T"):
    return CallableTeacher(function, LABELS, name=name, revision="1")


def asked(corpus, teacher, part=0, address=ADDRESS, **options):
    given = {"num_parts": 3, "label_names": LABELS, "targets": ["teacher_marginals"], "progress": False, **options}
    return annotate_part(corpus, teacher, address, part=part, **given)


def files():
    return {name: file.getvalue() for name, file in MemoryFileSystem.store.items()}


def test_a_place_that_cannot_be_written_is_refused_before_a_teacher_is_asked(corpus, counting, monkeypatch):
    asked(corpus, teacher_of(read))  # another job could write the manifest
    real = MemoryFileSystem._open

    def refuse(self, path, mode="rb", **options):
        if "w" in mode:
            raise PermissionError("AccessDenied")
        return real(self, path, mode, **options)

    monkeypatch.setattr(MemoryFileSystem, "_open", refuse)
    with pytest.raises(AnnotationError, match=r"could not be written \(PermissionError: AccessDenied\): check"):
        asked(corpus, teacher_of(counting), 1)
    assert counting.sentences == 0
    assert asked(corpus, teacher_of(counting), 0).endswith("part-00000-of-00003.parquet"), "what is finished is read"


def test_several_processes_do_not_ask_about_the_same_part(corpus, counting, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(PartialState()._shared_state, "num_processes", 2)
    with pytest.raises(ValueError, match="2 processes would each ask about the whole part: start a job"):
        asked(corpus, teacher_of(counting))
    assert counting.sentences == 0
    assert not files()


def test_a_place_out_of_reach_is_refused_before_teachers_are_loaded(corpus, monkeypatch):
    def unreachable(*_):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(MemoryFileSystem, "exists", unreachable)
    with pytest.raises(AnnotationError, match=r"could not be read \(ConnectionError: Name or service not known"):
        asked(corpus, "no/such/teacher")


@pytest.mark.parametrize("content", [None, b'{"targets": ["teacher_m'], ids=["lost", "torn"])
def test_a_lost_manifest_is_written_anew_for_its_parts_and_no_others(corpus, counting, content):
    for part in range(3):
        asked(corpus, teacher_of(counting), part)
    assert counting.sentences == len(corpus)
    before, manifest = files(), "/bucket/parts/manifest.json"
    if content is None:
        del MemoryFileSystem.store[manifest]
    else:
        MemoryFileSystem().pipe_file(manifest, content)
    with pytest.raises(AnnotationError, match="writes it anew"):
        load_parts(ADDRESS)
    with pytest.raises(AnnotationError, match=r"part-00000-of-00003.json belongs to another question"):
        asked(corpus, teacher_of(read, "another"), 0)
    asked(corpus, teacher_of(counting), 1)
    assert files() == before
    assert counting.sentences == len(corpus), "no sentence is asked about twice"


@pytest.mark.parametrize("content", [{"name": "a web application"}, [1], {"parts": "3", "sentences": 12}])
def test_the_manifest_of_something_else_is_left_alone(corpus, content):
    MemoryFileSystem().pipe_file("/bucket/parts/manifest.json", json.dumps(content).encode())
    before = files()
    for use in (lambda: asked(corpus, teacher_of(read)), lambda: load_parts(ADDRESS)):
        with pytest.raises(AnnotationError, match=r"manifest.json is no manifest of annotated parts: use another"):
            use()
    assert files() == before


def test_of_two_questions_that_begin_together_one_stops(corpus):
    """Its part would be stored beside those of the other, and never be read."""
    first = MemoryFileSystem()

    def overtaken(sentences):
        first.rm_file("/bucket/parts/manifest.json")
        asked(corpus, teacher_of(read, "the other"), 2)
        return read(sentences)

    with pytest.raises(AnnotationError, match="holds parts of another question"):
        asked(corpus, teacher_of(overtaken), 0)
    assert not first.exists("/bucket/parts/part-00000-of-00003.parquet")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_part_that_changed_on_its_way_is_not_read(corpus, streaming):
    for part in range(3):
        asked(corpus, teacher_of(read), part)
    name = "/bucket/parts/part-00001-of-00003.parquet"
    content = MemoryFileSystem().cat_file(name)
    MemoryFileSystem().pipe_file(name, content[:-7] + b"damaged")
    with pytest.raises(AnnotationError, match=r"part-00001-of-00003"):
        load_parts(ADDRESS, streaming=streaming)
    MemoryFileSystem().pipe_file(name, content)
    assert len(list(load_parts(ADDRESS, streaming=streaming))) == len(corpus)


@pytest.mark.parametrize("context", [1, 3])
def test_neighbours_are_read_across_the_bounds_of_parts(corpus, counting, context):
    teachers = {"en": teacher_of(read), "ru": teacher_of(counting, "R")}
    for part in (1, 2, 0):
        asked(corpus, teachers, part, context=context)
    question = {"label_names": LABELS, "targets": ["teacher_marginals"], "progress": False}
    whole = annotate(corpus, teachers, context=context, **question)
    assert load_parts(ADDRESS).to_list() == whole.to_list()
    assert whole.to_list() != annotate(corpus, teachers, **question).to_list()
    with pytest.raises(AnnotationError, match=r"holds parts of another question .*context: stored"):
        asked(corpus, teachers, 0, context=0)
    with pytest.raises(ValueError, match="has no column 'document'"):
        asked(corpus.remove_columns("document"), teachers, 0, context=context, address="memory://bucket/others")
