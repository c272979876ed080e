"""Dangers: answers that lie where they should not, belong to something else, or are read from an unchecked copy."""

import copy
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, concatenate_datasets

from hf_structkd import AnnotationError, StructKDTrainer, StructKDTrainingArguments, Teacher, annotate
from hf_structkd.data.collator import DataCollatorForStructKD
from hf_structkd.data.columns import TEMPERED_COLUMNS
from hf_structkd.data.words import encode_corpus
from hf_structkd.distillation.weighted_objectives import parse_objective
from hf_structkd.teachers import answer_store as shards
from hf_structkd.teachers.annotate import corpus_fingerprint
from hf_structkd.teachers.function import CallableTeacher
from hf_structkd.training.checks import check_answers

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


# Danger: answers of one teacher, of one setting or in one order of labels are taken for another's.


MARGINALS = ["teacher_marginals"]


def asked(corpus, teacher, labels, **options):
    return annotate(corpus, teacher, **{"label_names": labels, "targets": MARGINALS, "progress": False, **options})


def constant(labels, **options):
    """A function that is surest of its first label, whatever the label is called."""
    row = [0.6, *[0.4 / (len(labels) - 1)] * (len(labels) - 1)]
    kept = {"name": "constant", "revision": "1", "answers": "probabilities", **options}
    return CallableTeacher(lambda sentences: [[row] * len(words) for words in sentences], labels, **kept)


def as_scores(labels):
    zeros = np.zeros((len(labels), len(labels)))
    answer = lambda sentences: [(zeros[:1].repeat(len(words), axis=0), zeros) for words in sentences]  # noqa: E731
    return CallableTeacher(answer, labels, name="constant", revision="1", answers="scores")


@pytest.mark.parametrize(
    ("changed", "other"),
    [
        ("name", lambda labels: constant(labels, name="another")),
        ("revision", lambda labels: constant(labels, revision="2")),
        (r"labels\[0\]", lambda labels: constant([labels[1], labels[0], *labels[2:]])),
        ("answers", as_scores),
        ("temperature", lambda labels: constant(labels, temperature=1.5)),
        ("scheme", lambda labels: constant(labels, scheme="plain")),
        ("label_map", lambda labels: constant(labels, label_map={"B-PER": "B-PER"})),
    ],
)
def test_kept_answers_of_another_function_are_refused_and_the_difference_is_named(
    corpus, labels, tmp_path, changed, other
):
    asked(corpus, constant(labels), labels, output_dir=tmp_path / "a")
    asked(corpus, constant(labels), labels, output_dir=tmp_path / "a")
    with pytest.raises(
        AnnotationError, match=rf"another question \(.*teachers\.\*\[0\]\.{changed}: stored .*, asked "
    ):
        asked(corpus, other(labels), labels, output_dir=tmp_path / "a")


def test_kept_answers_of_a_changed_checkpoint_are_refused_and_the_difference_is_named(
    make_student, tokenizer, corpus, labels, tmp_path
):
    first = Teacher(make_student(seed=1), tokenizer, revision="a commit")
    asked(corpus, first, labels, output_dir=tmp_path / "a")
    elsewhere = Teacher(make_student(seed=1), tokenizer, revision="a commit", name="another folder")
    asked(corpus, elsewhere, labels, output_dir=tmp_path / "a")

    def refused(teacher, changed):
        with pytest.raises(AnnotationError, match=rf"another question \(.*{changed}: stored "):
            asked(corpus, teacher, labels, output_dir=tmp_path / "a")

    for field, value in (("crf_constraints", "none"), ("word_pooling", "mean")):
        model = make_student(seed=1, **{field: value})
        model.load_state_dict(first.model.state_dict())
        refused(Teacher(model, tokenizer, revision="a commit"), f"config.{field}")
    refused(Teacher(make_student(seed=1).double(), tokenizer, revision="a commit"), "dtype")
    before = first.revision, Teacher(first.model, tokenizer).revision
    with torch.no_grad():
        first.model.crf.transitions.data[0, 1] += 1.0  # trained on in this process, in a way that leaves no trace
    refused(first, "weights")
    assert first.revision == before[0]
    assert Teacher(first.model, tokenizer).revision != before[1]


def test_what_calls_leave_behind_in_a_tokenizer_makes_no_other_teacher(make_student, tokenizer):
    teacher = Teacher(make_student(seed=1), tokenizer)
    before = teacher.identity()
    tokenizer(["some words"], truncation=True, max_length=4, padding="max_length")
    assert teacher.identity() == before


def test_words_with_odd_characters_are_told_apart():
    one, other = ({"tokens": [words]} for words in (["a\0b"], ["a", "b"]))
    assert corpus_fingerprint(Dataset.from_dict(one)) != corpus_fingerprint(Dataset.from_dict(other))
    lone = Dataset.from_dict({"tokens": [["Ana\ud7ff"], ["B"]]})
    assert corpus_fingerprint(lone) != corpus_fingerprint(lone.select([1, 0]))


def test_the_record_says_what_wrote_it(corpus, labels, tmp_path):
    asked(corpus, constant(labels), labels, output_dir=tmp_path / "a")
    record = json.loads((tmp_path / "a" / "annotation.json").read_text())
    assert record["version"]
    assert record["format"] >= 2
    assert record["teachers"]["*"][0]["name"] == "constant"


def arguments(folder, **fields):
    common = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_steps": 1}
    return StructKDTrainingArguments(str(folder), **{"objective": "posterior", **common, **fields})


def test_answers_in_another_order_of_labels_teach_nobody(corpus, labels, make_student, tokenizer, tmp_path):
    """Danger: tags are indices, and a permuted student learns every one of them wrong."""
    turned = [labels[0], *reversed(labels[1:])]
    answers = asked(corpus, constant(labels), turned)
    with pytest.raises(ValueError, match=r"number other labels than the student's.*another order.*Ask the teachers"):
        StructKDTrainer(make_student(), arguments(tmp_path), train_dataset=answers, processing_class=tokenizer)
    right = asked(corpus, constant(labels), labels)
    with pytest.raises(ValueError, match="answers at row 3 of the training data number other labels"):
        check_answers(concatenate_datasets([right.select(range(3)), answers]), parse_objective("posterior"), labels, 5)
    collate = DataCollatorForStructKD(tokenizer, len(labels), label_names=labels)
    rows = encode_corpus(answers.select(range(2)), tokenizer, labels)
    with pytest.raises(ValueError, match="row 0 of the batch number other labels"):
        collate(list(rows))
    rows = encode_corpus(right.select(range(2)), tokenizer, labels)
    assert collate(list(rows))["teacher_marginals"].shape[-1] == len(labels)


def test_a_students_own_truncation_is_told_from_answers_about_whole_sentences(corpus, labels, tokenizer):
    """Danger: another sentence of the batch is long enough, and the cut one is compared with words it has not."""
    answers = asked(corpus, constant(labels), labels, targets=[*MARGINALS, "teacher_topk_tags"])
    rows = list(encode_corpus(answers, tokenizer, labels))
    rows.sort(key=lambda row: len(row["tokens"]))
    short, long = rows[-2], rows[-1]
    second_word = [place for place, first in enumerate(short["word_mask"]) if first][1]
    for name in ("input_ids", "attention_mask", "word_mask", "labels"):
        short[name] = short[name][:second_word]
    words = len(short["tokens"])
    with pytest.raises(ValueError, match=f"of row 0 of the batch is for {words} words where the sentence has 1"):
        DataCollatorForStructKD(tokenizer)([short, long])


def test_rows_without_answers_and_parts_at_other_temperatures_are_told_apart(corpus, labels):
    teacher = constant(labels)
    hot = asked(corpus, teacher, labels, temperature={"teacher_marginals": 2.0})
    cold = asked(corpus, teacher, labels)
    bare = corpus.select(range(5))
    wanted = parse_objective({"posterior": {"temperature": 2.0, "temperature_mode": "global"}})
    check_answers(concatenate_datasets([bare, hot]), wanted, labels, 5)
    check_answers(concatenate_datasets([bare, cold]), parse_objective("posterior"), labels, 5)
    for parts in ([hot, cold], [cold]):
        with pytest.raises(ValueError, match=r"annotated at temperature 1.* but the objectives want 2"):
            check_answers(concatenate_datasets(parts), wanted, labels, 5)
    half = concatenate_datasets([cold, asked(corpus, teacher, labels, targets=["teacher_topk_tags"])])
    with pytest.raises(ValueError, match=r"row 0 of the training data has some .* lacks \['teacher_topk_tags'"):
        check_answers(half, parse_objective("posterior+top_wk"), labels, 5)


def test_every_column_is_asked_at_its_own_temperature(make_student, tokenizer, corpus, labels):
    teacher = Teacher(make_student(seed=1), tokenizer)
    targets = ["teacher_marginals", "teacher_edge_counts", "teacher_topk_tags"]
    few = corpus.select(range(4))
    answers = asked(few, teacher, labels, targets=targets, top_k=3, temperature={"teacher_marginals": 3.0})
    for row in answers:
        cold = teacher.distribution([row["tokens"]], labels)
        np.testing.assert_allclose(row["teacher_marginals"], cold.with_temperature(3.0).marginals[0], atol=1e-3)
        np.testing.assert_allclose(row["teacher_edge_counts"], cold.edge_counts[0], atol=1e-4)
        np.testing.assert_allclose(row["teacher_topk_log_probs"], cold.topk(3).log_prob[0], atol=1e-4)
        assert dict(zip(TEMPERED_COLUMNS, row["teacher_temperature"]))["teacher_marginals"] == 3.0
    for wrong, message in (({"teacher_emissions": 2.0}, "has no effect"), ({"teacher_marginals": 0}, "above 0")):
        with pytest.raises(ValueError, match=message):
            asked(few, teacher, labels, targets=targets, temperature=wrong)


def test_top_k_of_the_arguments_is_what_is_learnt_from(corpus, labels, make_student, tokenizer, tmp_path, caplog):
    """Danger: answers with ten sequences are learnt from whole, and the card says three."""
    teacher = Teacher(make_student(seed=1), tokenizer)
    answers = asked(corpus, teacher, labels, targets=["teacher_topk_tags"], top_k=10)
    three = asked(corpus, teacher, labels, targets=["teacher_topk_tags"], top_k=3)
    losses = []
    for data, top_k in ((answers, 3), (three, 3), (answers, 10)):
        args = arguments(tmp_path, objective="top_k+top_wk+fuzzy", top_k=top_k)
        trainer = StructKDTrainer(make_student(seed=2), args, train_dataset=data, processing_class=tokenizer)
        batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
        losses.append(trainer.compute_loss(trainer.model.eval(), batch).item())
    assert losses[0] == losses[1] != losses[2]
    StructKDTrainer(
        make_student(), arguments(tmp_path, objective="top_k"), train_dataset=three, processing_class=tokenizer
    )
    assert "top_k is 5, and no sentence has more than 3 tag sequences" in caplog.text


def test_groups_of_one_part_leave_the_tags_of_another_alone(corpus, labels, tokenizer, make_student, tmp_path):
    """Danger: padding says that all tags are one group, and losses are infinite or 0."""
    kinds = sorted({label.split("-")[1] for label in labels if label != "O"})
    own = ["O", f"B-{kinds[0]}", f"I-{kinds[0]}"]
    blind = constant(own, label_map={"O": ["O", *kinds[1:]]})
    seeing, grouped = asked(corpus, constant(labels), labels), asked(corpus, blind, labels)
    data = concatenate_datasets([seeing.select(range(3)), grouped.select(range(3)), corpus.select(range(2))])
    rows = list(encode_corpus(data, tokenizer, labels))
    batch = DataCollatorForStructKD(tokenizer, len(labels))(rows)
    everyone = list(range(len(labels)))
    assert batch["teacher_groups"][:3].tolist() == [everyone] * 3
    assert batch["teacher_groups"][3].tolist() == grouped[0]["teacher_groups"] != everyone
    assert batch["teacher_groups"][6].tolist() == everyone
    trainer = StructKDTrainer(make_student(), arguments(tmp_path), train_dataset=data, processing_class=tokenizer)
    alone = StructKDTrainer(
        make_student(), arguments(tmp_path), train_dataset=seeing.select(range(3)), processing_class=tokenizer
    )
    mixed = trainer.compute_loss(trainer.model.eval(), batch, num_items_in_batch=1)
    first = alone.compute_loss(alone.model.eval(), alone.data_collator(rows[:3]), num_items_in_batch=1)
    others = trainer.data_collator(rows[3:])
    rest = trainer.compute_loss(trainer.model.eval(), others, num_items_in_batch=1)
    torch.testing.assert_close(mixed, first + rest)


def test_what_was_changed_after_a_teacher_was_made_makes_another_one(make_student, tokenizer, labels):
    """Danger: labels say which tag sequences are legal, and a tokenizer's unknown token stands for odd words."""
    teacher = Teacher(make_student(seed=1), copy.deepcopy(tokenizer))
    first = teacher.identity()
    turned = [labels[0], *reversed(labels[1:])]
    teacher.model.config.id2label = dict(enumerate(turned))
    assert teacher.identity() == {**first, "config.id2label": turned}
    teacher.model.config.id2label = dict(enumerate(labels))
    assert teacher.identity() == first
    assert "unk_token" not in first, "answers that were kept before stay good"
    teacher.tokenizer.unk_token = "<pad>"
    assert teacher.identity() == {**first, "unk_token": "<pad>"}
