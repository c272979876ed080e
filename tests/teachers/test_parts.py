"""Dangers: parts of two questions in one place, a torn part that is read, a sentence asked about twice or never."""

import json
import multiprocessing
import os
import shutil

import pytest
from accelerate import PartialState
from datasets import Dataset
from fsspec.implementations.memory import MemoryFileSystem

from hf_structkd import AnnotationError, CallableTeacher, Teacher, annotate, annotate_part, cli, load_parts
from hf_structkd.recipes.run import DistillationRun
from hf_structkd.teachers import part_store
from hf_structkd.teachers import parts as parts_module

from ..recipes.test_unlabelled import TINY

TARGETS = ["teacher_topk_tags", "teacher_marginals"]


@pytest.fixture
def teacher(make_student, tokenizer):
    return Teacher(make_student(seed=1), tokenizer)


@pytest.fixture(params=["folder", "memory"])
def address(request, tmp_path, monkeypatch):
    """A folder, and an object store that lives in memory."""
    monkeypatch.setattr(part_store.datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    MemoryFileSystem.store.clear()
    return str(tmp_path / "parts") if request.param == "folder" else "memory://bucket/parts"


def asked(corpus, teacher, address, part, **options):
    given = {"num_parts": 3, "targets": TARGETS, "top_k": 3, "progress": False, **options}
    return annotate_part(corpus, teacher, address, part=part, **given)


def test_parts_in_any_order_are_the_answers_of_annotate_part_by_part(corpus, teacher, labels, address):
    for part in (2, 0, 1):
        asked(corpus, teacher, address, part, label_names=labels)
    loaded = load_parts(address)
    expected = []
    for first, last in ((0, 20), (20, 40), (40, 60)):
        rows = corpus.select(range(first, last))
        expected += annotate(rows, teacher, label_names=labels, targets=TARGETS, top_k=3, progress=False).to_list()
    assert loaded.to_list() == expected
    assert loaded.features["teacher_marginals"].feature.feature.dtype == "float16"
    stream = load_parts(address, streaming=True)
    assert list(stream) == expected
    assert stream.num_shards == 3
    assert stream.features == loaded.features


def test_a_finished_part_is_not_asked_about_again_and_a_damaged_one_is(corpus, teacher, labels, tmp_path, monkeypatch):
    place, calls = tmp_path / "parts", []
    for part in range(3):
        asked(corpus, teacher, place, part, label_names=labels)
    before = {file.name: file.read_bytes() for file in place.iterdir()}
    real = parts_module.ask
    monkeypatch.setattr(parts_module, "ask", lambda *a, **k: calls.append(1) or real(*a, **k))
    asked(corpus, teacher, place, 1, label_names=labels)
    assert not calls
    name = "part-00001-of-00003.parquet"
    (place / name).write_bytes(before[name][:-7] + b"damaged")  # as long as before
    with pytest.raises(AnnotationError, match=r"of the 3 parts at .* 1 are missing or damaged: part-00001-of-00003;"):
        load_parts(place)
    asked(corpus, teacher, place, 1, label_names=labels)
    assert len(calls) == 1
    assert {file.name: file.read_bytes() for file in place.iterdir()} == before, "the same bytes"
    (place / "part-00002-of-00003.json").unlink()  # killed between the part and its note
    with pytest.raises(AnnotationError, match="part-00002-of-00003"):
        load_parts(place, verify=False)


def killed_while_writing(corpus, teacher, place, labels, name):
    real = part_store._Summed.write

    def write(summed, data):
        if name in summed.file.name:
            real(summed, data[: len(data) // 2])
            summed.file.flush()
            os._exit(9)
        return real(summed, data)

    part_store._Summed.write = write
    asked(corpus, teacher, place, 0, label_names=labels)


@pytest.mark.parametrize("name", ["part-00000-of-00003.parquet", "part-00000-of-00003.json"])
def test_a_killed_job_leaves_nothing_that_is_taken_for_a_part(corpus, teacher, labels, tmp_path, name):
    place = tmp_path / "parts"
    asked(corpus, teacher, place, 1, label_names=labels)
    process = multiprocessing.get_context("fork").Process(
        target=killed_while_writing, args=(corpus, teacher, place, labels, name)
    )
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert any(file.suffix == ".tmp" for file in place.iterdir())
    with pytest.raises(AnnotationError, match="2 are missing or damaged: part-00000-of-00003, part-00002"):
        load_parts(place)
    for part in (0, 2):
        asked(corpus, teacher, place, part, label_names=labels)
    assert len(load_parts(place)) == len(corpus)
    kept = [f"part-0000{part}-of-00003.{end}" for part in range(3) for end in ("json", "parquet")]
    assert sorted(file.name for file in place.iterdir()) == ["manifest.json", *kept], (
        "what was half written is removed"
    )


@pytest.mark.parametrize("changed", ["top_k", "num_parts", "corpus", "teacher"])
def test_parts_of_another_question_are_refused(corpus, teacher, labels, tmp_path, changed, make_student, tokenizer):
    place = tmp_path / "parts"
    asked(corpus, teacher, place, 0, label_names=labels)
    options = {"top_k": {"top_k": 4}, "num_parts": {"num_parts": 4}}.get(changed, {})
    data = corpus.select(range(59)) if changed == "corpus" else corpus
    other = Teacher(make_student(seed=2), tokenizer) if changed == "teacher" else teacher
    differing = {"top_k": "top_k: stored 3, asked 4", "num_parts": "parts: stored 3, asked 4"}.get(
        changed, {"corpus": "data: stored"}.get(changed, changed)
    )
    with pytest.raises(AnnotationError, match=f"holds parts of another question .*{differing}"):
        asked(data, other, place, 1, label_names=labels, **options)


def test_what_cannot_be_is_said(corpus, teacher, labels, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="numbered from 0 to 2; there is no part 3"):
        asked(corpus, teacher, tmp_path, 3, label_names=labels)
    with pytest.raises(ValueError, match="60 sentences cannot be cut into 61 parts"):
        asked(corpus, teacher, tmp_path, 3, label_names=labels, num_parts=61)
    with pytest.raises(AnnotationError, match=r"nowhere has no manifest: no part was annotated there"):
        load_parts(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(AnnotationError, match=r"could not be written .*check the address"):
        asked(corpus, teacher, tmp_path / "file" / "parts", 0, label_names=labels)
    with pytest.raises(AnnotationError, match=r"nosuch://x: .*nosuch"):
        asked(corpus, teacher, "nosuch://x", 0, label_names=labels)
    with pytest.raises(AnnotationError, match=r"zip://x::.*p.zip: .*No such file"):
        asked(corpus, teacher, f"zip://x::{tmp_path}/p.zip", 0, label_names=labels)
    monkeypatch.setattr(part_store, "url_to_fs", lambda address: (_ for _ in ()).throw(ImportError("Install s3fs")))
    with pytest.raises(AnnotationError, match=r"s3://b/x: its file system needs another package: pip .*\[s3\]"):
        asked(corpus, teacher, "s3://b/x", 0, label_names=labels)
    with pytest.raises(ValueError, match="must be a folder of this machine, not 's3://b/x'"):
        annotate(corpus, teacher, label_names=labels, targets=TARGETS, output_dir="s3://b/x")


def test_only_the_languages_of_a_part_are_asked(corpus, labels, tmp_path):
    def teacher(name):
        return CallableTeacher(
            lambda sentences: [[[1.0 / len(labels)] * len(labels)] * len(words) for words in sentences],
            labels, name=name, revision="1",
        )  # fmt: skip

    for part in range(3):  # the first 30 sentences are English, the others Russian
        asked(corpus, {"en": teacher("E"), "ru": teacher("R")}, tmp_path / "p", part, label_names=labels)
    assert len(load_parts(tmp_path / "p")) == 60


def test_a_recipe_is_annotated_by_an_array_of_jobs(tmp_path, tokenizer, labels, make_student, capsys):
    make_student(seed=1).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    fields = {
        **{"corpus": "demo", "languages": ["en"], "max_train_sentences": 20, "max_dev_sentences": 10},
        **{"max_test_sentences": 10, "teachers": str(tmp_path / "teacher"), "objective": "top_wk", "baseline": False},
        **{"model": "scratch", "model_config": TINY, "vocab_size": 300, "num_train_epochs": 1, "use_cpu": True},
        **{"annotation_parts": str(tmp_path / "parts"), "disable_tqdm": True},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({**fields, "output_dir": str(tmp_path / "run")}))
    with pytest.raises(SystemExit, match="annotation_parts is written part by part: say which one, with --part I/N"):
        cli.main(["annotate", str(recipe)])
    with pytest.raises(SystemExit, match="--part wants I/N, part I of N parts, I from 0 to N - 1, not '2/2'"):
        cli.main(["annotate", str(recipe), "--part", "2/2"])
    with pytest.raises(
        SystemExit, match="a part needs annotation_parts, the place from which `structkd distill` reads"
    ):
        cli.main(["annotate", str(recipe), "--part", "0/2", "--annotation_parts", "null"])
    with pytest.raises(SystemExit, match="--part is given twice"):
        cli.main(["annotate", str(recipe), "--part", "0/2", "--part=1/2"])
    for part in ("1/2", "0/2"):
        assert cli.main(["annotate", str(recipe), f"--part={part}"]) == 0
    assert "part-00000-of-00002.parquet" in capsys.readouterr().out
    results = DistillationRun.from_recipe(str(recipe)).run()
    assert results.train_sentences == {"en": 20}
    assert not (tmp_path / "run" / "annotations").exists()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(AnnotationError, match=r"parts of another question .*top_k: stored 5, asked 4"):
        DistillationRun.from_recipe(str(recipe), top_k=4).annotate()


# Dangers: a place that fails after the teachers were asked, a lost manifest that lets another question's parts go.


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
def documents():
    documents = ["a"] * 5 + ["b"] * 1 + ["c"] * 6
    tokens = [[chr(97 + row)] * (1 + row % 3) for row in range(12)]
    return Dataset.from_dict({"tokens": tokens, "document": documents, "language": ["en"] * 7 + ["ru"] * 5})


@pytest.fixture
def empty_bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(part_store.datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    MemoryFileSystem.store.clear()


def teacher_of(function, name="T"):
    return CallableTeacher(function, LABELS, name=name, revision="1")


def ask(documents, teacher, part=0, address=ADDRESS, **options):
    given = {"num_parts": 3, "label_names": LABELS, "targets": ["teacher_marginals"], "progress": False, **options}
    return annotate_part(documents, teacher, address, part=part, **given)


def files():
    return {name: file.getvalue() for name, file in MemoryFileSystem.store.items()}


@pytest.mark.usefixtures("empty_bucket")
def test_a_place_that_cannot_be_written_is_refused_before_a_teacher_is_asked(documents, counting, monkeypatch):
    ask(documents, teacher_of(read))  # another job could write the manifest
    real = MemoryFileSystem._open

    def refuse(self, path, mode="rb", **options):
        if "w" in mode:
            raise PermissionError("AccessDenied")
        return real(self, path, mode, **options)

    monkeypatch.setattr(MemoryFileSystem, "_open", refuse)
    with pytest.raises(AnnotationError, match=r"could not be written \(PermissionError: AccessDenied\): check"):
        ask(documents, teacher_of(counting), 1)
    assert counting.sentences == 0
    assert ask(documents, teacher_of(counting), 0).endswith("part-00000-of-00003.parquet"), "what is finished is read"


@pytest.mark.usefixtures("empty_bucket")
def test_several_processes_do_not_ask_about_the_same_part(documents, counting, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(PartialState()._shared_state, "num_processes", 2)
    with pytest.raises(ValueError, match="2 processes would each ask about the whole part: start a job"):
        ask(documents, teacher_of(counting))
    assert counting.sentences == 0
    assert not files()


@pytest.mark.usefixtures("empty_bucket")
def test_a_place_out_of_reach_is_refused_before_teachers_are_loaded(documents, monkeypatch):
    def unreachable(*_):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(MemoryFileSystem, "exists", unreachable)
    with pytest.raises(AnnotationError, match=r"could not be read \(ConnectionError: Name or service not known"):
        ask(documents, "no/such/teacher")


@pytest.mark.usefixtures("empty_bucket")
@pytest.mark.parametrize("content", [None, b'{"targets": ["teacher_m'], ids=["lost", "torn"])
def test_a_lost_manifest_is_written_anew_for_its_parts_and_no_others(documents, counting, content):
    for part in range(3):
        ask(documents, teacher_of(counting), part)
    assert counting.sentences == len(documents)
    before, manifest = files(), "/bucket/parts/manifest.json"
    if content is None:
        del MemoryFileSystem.store[manifest]
    else:
        MemoryFileSystem().pipe_file(manifest, content)
    with pytest.raises(AnnotationError, match="writes it anew"):
        load_parts(ADDRESS)
    with pytest.raises(AnnotationError, match=r"part-00000-of-00003.json belongs to another question"):
        ask(documents, teacher_of(read, "another"), 0)
    ask(documents, teacher_of(counting), 1)
    assert files() == before
    assert counting.sentences == len(documents), "no sentence is asked about twice"


@pytest.mark.usefixtures("empty_bucket")
@pytest.mark.parametrize("content", [{"name": "a web application"}, [1], {"parts": "3", "sentences": 12}])
def test_the_manifest_of_something_else_is_left_alone(documents, content):
    MemoryFileSystem().pipe_file("/bucket/parts/manifest.json", json.dumps(content).encode())
    before = files()
    for use in (lambda: ask(documents, teacher_of(read)), lambda: load_parts(ADDRESS)):
        with pytest.raises(AnnotationError, match=r"manifest.json is no manifest of annotated parts: use another"):
            use()
    assert files() == before


@pytest.mark.usefixtures("empty_bucket")
def test_of_two_questions_that_begin_together_one_stops(documents):
    """Its part would be stored beside those of the other, and never be read."""
    first = MemoryFileSystem()

    def overtaken(sentences):
        first.rm_file("/bucket/parts/manifest.json")
        ask(documents, teacher_of(read, "the other"), 2)
        return read(sentences)

    with pytest.raises(AnnotationError, match="holds parts of another question"):
        ask(documents, teacher_of(overtaken), 0)
    assert not first.exists("/bucket/parts/part-00000-of-00003.parquet")


@pytest.mark.usefixtures("empty_bucket")
@pytest.mark.parametrize("streaming", [False, True])
def test_a_part_that_changed_on_its_way_is_not_read(documents, streaming):
    for part in range(3):
        ask(documents, teacher_of(read), part)
    name = "/bucket/parts/part-00001-of-00003.parquet"
    content = MemoryFileSystem().cat_file(name)
    MemoryFileSystem().pipe_file(name, content[:-7] + b"damaged")
    with pytest.raises(AnnotationError, match=r"part-00001-of-00003"):
        load_parts(ADDRESS, streaming=streaming)
    MemoryFileSystem().pipe_file(name, content)
    assert len(list(load_parts(ADDRESS, streaming=streaming))) == len(documents)


@pytest.mark.usefixtures("empty_bucket")
@pytest.mark.parametrize("context", [1, 3])
def test_neighbours_are_read_across_the_bounds_of_parts(documents, counting, context):
    teachers = {"en": teacher_of(read), "ru": teacher_of(counting, "R")}
    for part in (1, 2, 0):
        ask(documents, teachers, part, context=context)
    question = {"label_names": LABELS, "targets": ["teacher_marginals"], "progress": False}
    whole = annotate(documents, teachers, context=context, **question)
    assert load_parts(ADDRESS).to_list() == whole.to_list()
    assert whole.to_list() != annotate(documents, teachers, **question).to_list()
    with pytest.raises(AnnotationError, match=r"holds parts of another question .*context: stored"):
        ask(documents, teachers, 0, context=0)
    with pytest.raises(ValueError, match="has no column 'document'"):
        ask(documents.remove_columns("document"), teachers, 0, context=context, address="memory://bucket/others")
