"""Danger: kept answers that are damaged, or somebody else's, and are believed or end in a traceback of Arrow's."""

import json
import shutil
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hf_structkd import AnnotationError, annotate
from hf_structkd.data.columns import MARGINALS, TOPK_TAGS
from hf_structkd.files import sealed
from hf_structkd.teachers.answer_store import ANSWERS_FILE, RECORD_FILE, SUMMARY_FILE, PartialAnswers
from hf_structkd.teachers.function import CallableTeacher
from tests.fuzz.fuzzing import fuzz, only_our_errors

LABELS = ["O", "B-X", "I-X"]
FOLDER = Path(mkdtemp())


def corpus(sentences: int) -> Dataset:
    return Dataset.from_dict({"tokens": [[f"w{row}-{i}" for i in range(1 + row % 4)] for row in range(sentences)]})


def ask(folder: Path, sentences: int = 12) -> Dataset:
    def answer(asked):
        return [np.full((len(words), 3), 1 / 3) for words in asked]

    teacher = CallableTeacher(answer, LABELS, name="even", revision="1")
    targets, quiet = [MARGINALS, TOPK_TAGS], {"progress": False, "shard_size": 5}
    return annotate(corpus(sentences), teacher, label_names=LABELS, targets=targets, output_dir=folder, **quiet)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished folder, one that was left half-way, and the answers."""
    done, left = tmp_path_factory.mktemp("whole") / "done", tmp_path_factory.mktemp("whole") / "left"
    answers = ask(done)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialAnswers, "finish", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ask(left)
    shutil.copytree(left.with_name("left.partial"), done.with_name("left.partial"))
    return done, done.with_name("left.partial"), answers[:]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)


def damage(draw, file: Path, resealed: bool) -> bool:
    """Change a file, and tell whether it is another one now. Resealed, its own checksum is right again."""
    before = data = file.read_bytes()
    if resealed and file.suffix == ".json":
        content = json.loads(data)
        name = draw(st.sampled_from([*content, "files", "sha256"]))
        content[name] = draw(JSON)
        content.pop("seal", None)
        file.write_text(json.dumps(sealed(content)))
        return True
    at = draw(st.integers(0, max(len(data) - 1, 0)))
    kind = draw(st.sampled_from(["flip", "cut", "put", "empty", "garbage"] if data else ["put", "garbage"]))
    if kind == "flip":
        data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
    elif kind == "cut":
        data = data[:at]
    elif kind == "put":
        data = data[:at] + draw(st.binary(max_size=8)) + data[at:]
    else:
        data = b"" if kind == "empty" else draw(st.binary(max_size=50))
    file.write_bytes(data)
    return data != before


@fuzz(0.05)
@given(st.data(), st.booleans(), st.integers(1, 2))
@pytest.mark.slow
def test_finished_answers(whole, data, resealed, times):
    """What is damaged is refused by name; what is read is what was written."""
    done, _, answers = whole
    folder = FOLDER / "done"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(done, folder)
    for _ in range(times):
        damage(data.draw, folder / data.draw(st.sampled_from([ANSWERS_FILE, SUMMARY_FILE, RECORD_FILE])), resealed)
    with only_our_errors(folder):
        assert ask(folder)[:] == answers


@fuzz(0.05)
@given(st.data(), st.booleans())
@pytest.mark.slow
def test_answers_left_half_way(whole, data, resealed):
    """A damaged shard is asked again, a damaged question is refused by name, and the end is the same."""
    _, left, answers = whole
    folder, work = FOLDER / "left", FOLDER / "left.partial"
    for path in (folder, work):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(left, work)
    damage(data.draw, work / data.draw(st.sampled_from(sorted(path.name for path in work.glob("[!_]*")))), resealed)
    with only_our_errors(work):
        assert ask(folder)[:] == answers


@pytest.mark.parametrize(("field", "value"), [("language", ""), ("language", None), ("sums", None), ("sums", {})])
def test_a_note_whose_seal_is_right_and_content_is_not(whole, field, value):
    _, left, answers = whole
    folder, work = FOLDER / "left", FOLDER / "left.partial"
    for path in (folder, work):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(left, work)
    note = work / "shard-00000.json"
    content = {**json.loads(note.read_bytes()), field: value}
    content.pop("seal")
    note.write_text(json.dumps(sealed(content)))
    assert ask(folder)[:] == answers


def test_answers_to_somebody_elses_corpus(whole, tmp_path):
    """Answers in a folder whose record was copied from another one."""
    folder = tmp_path / "foreign"
    ask(folder, 7)
    shutil.copy(whole[0] / RECORD_FILE, folder)
    with pytest.raises(AnnotationError, match=f"{ANSWERS_FILE} is damaged"):
        ask(folder)


@pytest.mark.parametrize("name", ["../../outside", "/dev/zero", "nested/../../x"])
def test_a_record_cannot_send_the_reader_elsewhere(whole, tmp_path, name):
    """A record that names /dev/zero would have its checksum computed for ever."""
    folder = tmp_path / "hostile"
    shutil.copytree(whole[0], folder)
    record = json.loads((folder / RECORD_FILE).read_text())
    record.pop("seal")
    record["files"][name] = {"sha256": "x", "bytes": 1}
    (folder / RECORD_FILE).write_text(json.dumps(sealed(record)))
    with pytest.raises(AnnotationError, match=f"{RECORD_FILE} is damaged"):
        ask(folder)
