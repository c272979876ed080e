"""Dangers: a killed run that must start again, asks twice, ends otherwise, or leaves half a file that is believed."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from hf_structkd import AnnotationError
from hf_structkd.teachers.answer_store import PartialAnswers
from tests.teachers import annotation_worker as worker

FORK = multiprocessing.get_context("fork")  # a process of its own, without importing torch again


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "answers"
    worker.run(folder)
    return bytes_of(folder)


def first_words(dataset) -> list[str]:
    return [words[0] for words in dataset["tokens"]]


def finished_words(work: Path) -> set[str]:
    """The first words of the sentences whose shards were finished when the process died."""
    data = worker.corpus()
    shards = []
    for language in ("en", "ru"):
        rows = [row for row in range(len(data)) if data[row]["language"] == language]
        rows.sort(key=lambda row: (-len(data[row]["tokens"]), row))
        shards += [rows[start : start + 8] for start in range(0, len(rows), 8)]
    done = [int(path.stem.split("-")[1]) for path in work.glob("shard-*.json")]
    return {data[row]["tokens"][0] for number in done for row in shards[number]}


def run_and_die_at(folder: Path, log: Path, step: int, before: bool) -> None:
    """Annotate, and be killed at the `step`-th time that a file or folder takes its name."""
    replace, count = os.replace, iter(range(1_000_000))

    def deadly(*args):
        now = next(count) == step
        if now and before:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*args)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = deadly
    worker.run(folder, log)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.slow
def test_killed_at_every_single_step_it_ends_with_the_same_bytes_and_asks_nothing_finished_twice(
    tmp_path, whole, before
):
    step, killed = 0, 0
    while True:
        folder, log, again = tmp_path / f"{step}" / "answers", tmp_path / f"{step}.txt", tmp_path / f"{step}-again.txt"
        process = FORK.Process(target=run_and_die_at, args=(folder, log, step, before))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
        done = finished_words(folder.with_name("answers.partial")) if not folder.exists() else None
        annotated = worker.run(folder, again)
        asked_again = set(again.read_text().split()) if again.exists() else set()
        if done is None:
            assert not asked_again
        else:
            assert not asked_again & done
            assert asked_again | done == set(first_words(annotated))
        assert bytes_of(folder) == whole
        assert [path.name for path in folder.parent.iterdir()] == ["answers"]
        step += 1
    assert killed == 2 * 8 + 4  # eight shards with a file and a note each; question, summary, record, folder


@pytest.mark.slow
def test_killed_at_random_moments_until_it_is_done(tmp_path, whole):
    folder, log, draw = tmp_path / "answers", tmp_path / "asked.txt", random.Random(0)
    kills = 0
    while not folder.exists() and kills < 40:
        process = FORK.Process(target=worker.run, args=(folder, log, 0.004))
        process.start()
        time.sleep(draw.uniform(0.02, 0.15))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    annotated = worker.run(folder, log)
    assert kills > 1
    asked = log.read_text().split()
    assert set(asked) == set(first_words(annotated))
    # Only what was in an unfinished shard is asked again: at most one shard a kill.
    assert len(asked) - len(set(asked)) <= 8 * kills
    assert bytes_of(folder) == whole


def test_a_truncated_shard_is_asked_again(tmp_path, whole, caplog):
    folder, log = tmp_path / "answers", tmp_path / "asked.txt"
    process = FORK.Process(target=run_and_die_at, args=(folder, log, 6, False))  # after two shards and their notes
    process.start()
    process.join()
    shard = tmp_path / "answers.partial" / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-10])
    worker.run(folder)
    assert "shard-00000.arrow does not match its checksum" in caplog.text
    assert bytes_of(folder) == whole


def test_a_truncated_answer_is_an_error_that_says_what_was_there(tmp_path):
    worker.run(tmp_path / "answers")
    file = tmp_path / "answers" / "answers.arrow"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(AnnotationError, match=f"damaged: {size:,} bytes were written.*there is {size - 100:,} bytes"):
        worker.run(tmp_path / "answers")


def test_unfinished_answers_to_another_question_are_an_error_that_says_what_differs(tmp_path, monkeypatch):
    process = FORK.Process(target=run_and_die_at, args=(tmp_path / "answers", tmp_path / "log", 4, False))
    process.start()
    process.join()
    monkeypatch.setattr(worker, "TARGETS", ["teacher_entropy"])
    with pytest.raises(AnnotationError, match=r"unfinished answers to another question .targets: stored .*asked"):
        worker.run(tmp_path / "answers")
    assert (tmp_path / "answers.partial" / "shard-00000.json").exists()


def test_a_work_folder_of_someone_else_is_not_touched(tmp_path):
    work = tmp_path / "answers.partial"
    work.mkdir()
    (work / "thesis.tex").write_text("dear")
    with pytest.raises(AnnotationError, match="no annotation's work folder"):
        worker.run(tmp_path / "answers")
    assert [path.name for path in work.iterdir()] == ["thesis.tex"]


def test_a_second_job_is_told_that_another_one_is_asking_and_a_killed_one_holds_nobody_up(tmp_path, whole):
    """Danger: two jobs on one folder write into each other's shards, or a dead one's lock stays for ever."""
    folder, log = tmp_path / "answers", tmp_path / "asked.txt"
    first = FORK.Process(target=worker.run, args=(folder, log, 0.2))
    first.start()
    while not log.exists():
        time.sleep(0.01)
    with pytest.raises(AnnotationError, match=r"another process is asking teachers for .*answers.*wait until"):
        worker.run(folder)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    worker.run(folder)
    assert bytes_of(folder) == whole


def test_a_job_that_comes_when_the_other_has_just_finished_takes_its_answers(tmp_path, whole, monkeypatch):
    """Danger: it looked before the end, got the lock after it, and asks everything again."""
    enter = PartialAnswers.exclusive_lock

    def late(partial):
        monkeypatch.undo()
        worker.run(tmp_path / "answers")  # the other job
        return enter(partial)

    monkeypatch.setattr(PartialAnswers, "exclusive_lock", late)
    worker.run(tmp_path / "answers", tmp_path / "asked.txt")
    assert not (tmp_path / "asked.txt").exists()
    assert bytes_of(tmp_path / "answers") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["answers"]


def test_answers_on_disk_and_in_memory_are_those_of_each_sentence_alone(tmp_path):
    kept, data = worker.run(tmp_path / "answers"), worker.corpus()
    memory = worker.annotate(
        data,
        {language: worker.teacher(language) for language in ("en", "ru")},
        label_names=worker.LABELS,
        targets=worker.TARGETS,
        top_k=3,
        progress=False,
    )
    assert memory.to_dict() == kept.to_dict()
    for row in kept.select(range(0, 60, 7)):
        alone = worker.teacher(row["language"]).distribution([row["tokens"]], worker.LABELS)
        np.testing.assert_allclose(row["teacher_marginals"], alone.marginals[0], atol=1e-3)
        assert row["teacher_topk_tags"] == alone.topk(3).tags[0].tolist()[: len(row["teacher_topk_tags"])]


def flipped(data: bytes, place: float) -> bytes:
    at = int(place * (len(data) - 1))
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


@pytest.mark.parametrize("place", [0.0, *(pytest.param(p, marks=pytest.mark.slow) for p in (0.31, 0.5, 0.77, 1.0))])
def test_a_bit_flipped_anywhere_is_told_or_asked_again_and_never_believed(tmp_path, whole, place):
    finished, partial = tmp_path / "finished", tmp_path / "answers.partial"
    worker.run(finished)
    for name, data in whole.items():
        (finished / name).write_bytes(flipped(data, place))
        with pytest.raises(AnnotationError, match=rf"{name} is damaged"):
            worker.run(finished)
        (finished / name).write_bytes(data)
    process = FORK.Process(target=run_and_die_at, args=(tmp_path / "answers", tmp_path / "log", 6, False))
    process.start()
    process.join()
    begun = {path.name: path.read_bytes() for path in partial.iterdir() if path.name != "_lock"}
    assert len(begun) >= 5
    for name in begun:
        partial.mkdir(exist_ok=True)
        for other, content in begun.items():
            (partial / other).write_bytes(flipped(content, place) if other == name else content)
        if name == "question.json":
            with pytest.raises(AnnotationError, match=r"question.json is damaged"):
                worker.run(tmp_path / "answers")
            continue
        worker.run(tmp_path / "answers")
        assert bytes_of(tmp_path / "answers") == whole
        shutil.rmtree(tmp_path / "answers")
