"""Dangers: answers that lie where they should not, belong to something else, or are read from an unchecked copy."""

import errno
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset

from hf_structkd import AnnotationError, StructKDTrainer, StructKDTrainingArguments, annotate
from hf_structkd.teachers import answer_store as shards
from hf_structkd.teachers.function import CallableTeacher

LABELS = ["O", "B-PER", "I-PER"]
OPTIONS = {"label_names": LABELS, "targets": ["teacher_marginals", "teacher_topk_tags"], "top_k": 3, "progress": False}


def town(count: int = 12) -> Dataset:
    """Sentences of 1 to 4 words."""
    return Dataset.from_dict({"tokens": [["Mara", "walks", "home", "now"][: 1 + row % 4] for row in range(count)]})


def teacher(name: str = "first", log: list | None = None, fail_after: int | None = None) -> CallableTeacher:
    row = {"first": [0.5, 0.3, 0.2], "second": [0.1, 0.1, 0.8]}[name]
    asked = log if log is not None else []

    def answer(sentences):
        if fail_after is not None and len(asked) >= fail_after:
            raise KeyboardInterrupt
        asked.extend(sentences)
        return [[row] * len(words) for words in sentences]

    return CallableTeacher(answer, LABELS, name=name, revision="1")


def ask(folder: Path, who: CallableTeacher, data: Dataset | None = None, **options):
    return annotate(data or town(), who, output_dir=folder, batch_size=4, shard_size=4, **OPTIONS, **options)


def begin(folder: Path, name: str = "first", data: Dataset | None = None, sentences: int = 8) -> Path:
    """Two of three shards are finished, then the user gives up."""
    with pytest.raises(KeyboardInterrupt):
        ask(folder, teacher(name, fail_after=sentences), data)
    return folder.with_name(f"{folder.name}.partial")


def move_shard(source: Path, number: int, target: Path, other: int) -> None:
    for ending in ("arrow", "json"):
        shutil.copy(source / f"shard-{number:05d}.{ending}", target / f"shard-{other:05d}.{ending}")


def test_shards_swapped_with_their_notes_are_asked_again(tmp_path, caplog):
    expected = ask(tmp_path / "whole", teacher()).to_dict()
    work = begin(tmp_path / "answers")
    move_shard(work, 0, tmp_path, 0)
    move_shard(work, 1, work, 0)
    move_shard(tmp_path, 0, work, 1)
    log: list = []
    assert ask(tmp_path / "answers", teacher(log=log)).to_dict() == expected
    assert len(log) == len(town())
    assert "belongs to another shard, question or corpus" in caplog.text


@pytest.mark.parametrize("change", ["teacher", "corpus"])
def test_shards_of_another_question_are_asked_again(tmp_path, change):
    expected = ask(tmp_path / "whole", teacher()).to_dict()
    work = begin(tmp_path / "answers")
    data = town().select([*range(4, 12), *range(4)]) if change == "corpus" else None
    strange = begin(tmp_path / "strange", "second" if change == "teacher" else "first", data)
    for number in (0, 1):
        move_shard(strange, number, work, number)
    assert ask(tmp_path / "answers", teacher()).to_dict() == expected


def test_answers_are_counted_against_words_before_they_are_put_together_and_when_read(tmp_path, monkeypatch):
    """Danger: whatever else goes wrong, answers of another length than their sentence are believed."""
    write = shards.PartialAnswers.write

    def other_rows(partial, number, rows, table, sums, gold):
        write(partial, number, rows, table.take(pa.array([3, 2, 1, 0])), sums, gold)

    monkeypatch.setattr(shards.PartialAnswers, "write", other_rows)
    mixed = town().select([0, 1, 2, 3])
    with pytest.raises(AnnotationError, match=r"shard-00000.arrow is damaged .*teacher_\w+ of row 0 has 1 words .* 4"):
        ask(tmp_path / "answers", teacher(), mixed)
    assert not (tmp_path / "answers").exists()
    monkeypatch.setattr(shards, "check_word_counts", lambda table, words: None)
    shutil.rmtree(tmp_path / "answers.partial")
    ask(tmp_path / "answers", teacher(), mixed)
    monkeypatch.undo()
    with pytest.raises(AnnotationError, match=r"answers.arrow is damaged .* words where the sentence has"):
        ask(tmp_path / "answers", teacher(), mixed)


def test_a_folder_that_is_a_link_is_followed(tmp_path):
    """Danger: after everything has been asked, a folder cannot take the place of a link, at every restart."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").mkdir()
    for name, target in (("empty", tmp_path / "disk" / "there"), ("dangling", tmp_path / "disk" / "not yet")):
        if name == "empty":
            target.mkdir()
        (tmp_path / "run" / name).symlink_to(target)
        answers = ask(tmp_path / "run" / name, teacher())
        assert (target / "annotation.json").exists()
        assert (tmp_path / "run" / name).is_symlink()
        assert ask(tmp_path / "run" / name, teacher()).to_dict() == answers.to_dict()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["not yet", "there"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["dangling", "empty"]


def test_a_mount_point_is_refused_before_anybody_is_asked(tmp_path, monkeypatch):
    volume, replace = tmp_path / "volume", os.replace
    volume.mkdir()

    def busy(source, target):
        if Path(target) == volume:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    log: list = []
    with pytest.raises(AnnotationError, match=r"volume cannot be replaced .*give a folder inside it, .*annotations"):
        ask(volume, teacher(log=log))
    assert not log
    assert [path.name for path in tmp_path.iterdir()] == ["volume"]
    assert ask(volume / "annotations", teacher(log=log)).num_rows == len(log) == 12


def test_what_is_made_of_answers_lies_in_no_file_beside_them(tmp_path, make_student, tokenizer, labels):
    """Danger: `datasets` keeps tokenised answers in the folder, and the next run takes them unchecked."""
    kept, folder = tmp_path / "words", tmp_path / "answers"
    town().save_to_disk(str(kept))
    data = Dataset.load_from_disk(str(kept))
    for _ in range(2):
        answers = ask(folder, teacher(), data)
        args = StructKDTrainingArguments(str(tmp_path / "run"), objective="posterior", use_cpu=True, report_to="none")
        small = make_student(id2label=dict(enumerate(LABELS)), label2id={tag: i for i, tag in enumerate(LABELS)})
        turned = answers.select(list(reversed(range(12))))
        for given in (turned, answers):
            trainer = StructKDTrainer(small, args, train_dataset=given, processing_class=tokenizer)
        cached = list(kept.rglob("cache-*.arrow"))  # of the tokenised words, which are the user's own corpus
        assert not any("teacher_marginals" in Dataset.from_file(str(path)).column_names for path in cached)
        assert sorted(path.name for path in folder.iterdir()) == ["annotation.json", "answers.arrow", "summary.json"]
        assert trainer.train_dataset["teacher_marginals"] == answers["teacher_marginals"]
    answers.map(lambda row: {"more": 1})
    assert sorted(path.name for path in folder.iterdir()) == ["annotation.json", "answers.arrow", "summary.json"]


def graded_town(wrong: int = 0, count: int = 12) -> Dataset:
    """Sentences whose gold tags the teacher `first` knows but for the first word of some."""
    data = town(count)
    tags = [["O"] * len(words) for words in data["tokens"]]
    for row in range(wrong):
        tags[row][0] = "B-PER"
    return data.add_column("tags", tags)


def accuracy(folder: Path) -> float | None:
    return shards.load_summary(folder)["*"]["accuracy"]


def test_the_summary_speaks_of_the_gold_tags_there_are_now(tmp_path):
    """Danger: gold tags are corrected, the sentences stay, and the accuracy on the old ones is reported."""
    folder, log = tmp_path / "answers", []
    ask(folder, teacher(), graded_town(wrong=0))
    assert accuracy(folder) == 1.0
    before = (folder / "answers.arrow").read_bytes()
    ask(folder, teacher(log=log), graded_town(wrong=6))
    assert accuracy(folder) == pytest.approx(1 - 6 / 30)
    ask(folder, teacher(log=log), town())
    assert accuracy(folder) is None
    record = (folder / "annotation.json").read_bytes()
    ask(folder, teacher(log=log), town())
    assert (folder / "annotation.json").read_bytes() == record
    assert not log
    assert (folder / "answers.arrow").read_bytes() == before


def test_a_resumed_annotation_does_not_mix_old_and_new_gold_tags(tmp_path):
    folder, log = tmp_path / "answers", []
    begin(folder, data=graded_town(wrong=12))
    ask(folder, teacher(log=log), graded_town(wrong=0))
    assert accuracy(folder) == 1.0
    assert len(log) == 4, "finished shards are not asked again"


def test_accuracy_on_other_gold_tags_is_left_out_where_no_tags_are_kept(tmp_path):
    folder = tmp_path / "answers"
    options = {**OPTIONS, "targets": ["teacher_entropy"]}
    annotate(graded_town(wrong=0), teacher(), output_dir=folder, **options)
    assert accuracy(folder) == 1.0
    annotate(graded_town(wrong=3), teacher(), output_dir=folder, **options)
    assert accuracy(folder) is None


@pytest.mark.parametrize("writes", [1, 2])
def test_a_process_that_is_killed_while_it_updates_a_summary_leaves_whole_answers(tmp_path, monkeypatch, writes):
    folder = tmp_path / "answers"
    ask(folder, teacher(), graded_town(wrong=0))
    write, left = shards._write, [writes]

    def killed(file, data):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(file, data)

    monkeypatch.setattr(shards, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        ask(folder, teacher(), graded_town(wrong=6))
    monkeypatch.undo()
    ask(folder, teacher(log=(log := [])), graded_town(wrong=6))
    assert accuracy(folder) == pytest.approx(1 - 6 / 30)
    assert not log


def test_a_question_that_nobody_was_asked_yet_stands_in_nobodys_way(tmp_path):
    folder = tmp_path / "answers"
    with pytest.raises(KeyboardInterrupt):
        ask(folder, teacher("first", fail_after=0))
    ask(folder, teacher("second"))
