"""Dangers: answers kept for another question, asked twice, given to the wrong sentence, or left half-written."""

import json

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets

from hf_structkd import AnnotationError, Teacher, annotate
from hf_structkd.data.columns import AUTOMATIC_COLUMNS, TARGET_COLUMNS

COLUMNS = [name for name in TARGET_COLUMNS if name not in AUTOMATIC_COLUMNS]


@pytest.fixture
def teachers(make_student, tokenizer):
    return {"en": Teacher(make_student(seed=1), tokenizer), "ru": Teacher(make_student(seed=2), tokenizer)}


def asked(corpus, teachers, labels, **options):
    return annotate(corpus, teachers, label_names=labels, targets=COLUMNS, top_k=4, progress=False, **options)


def test_every_sentence_gets_its_own_teachers_answer(corpus, teachers, labels):
    mixed = concatenate_datasets([corpus]).shuffle(seed=1)
    annotated = asked(mixed, teachers, labels, batch_size=7)
    for row in annotated.select(range(0, len(annotated), 9)):
        own = teachers[row["language"]].distribution([row["tokens"]], labels)
        np.testing.assert_allclose(row["teacher_marginals"], own.marginals[0], atol=1e-3)
        np.testing.assert_allclose(row["teacher_edge_counts"], own.edge_counts[0], atol=1e-4)
        np.testing.assert_allclose(row["teacher_entropy"], own.entropy()[0], rtol=1e-3)
        paths = own.topk(4)
        assert row["teacher_topk_tags"][0] == paths.tags[0, 0].tolist()
        np.testing.assert_allclose(row["teacher_topk_log_probs"], paths.log_prob[0], atol=1e-4)


def test_a_one_word_sentence_has_no_phantom_paths(corpus, teachers, labels):
    one = corpus.select([0]).map(lambda row: {"tokens": ["Anna"], "tags": ["B-PER"]})
    row = annotate(one, teachers, label_names=labels, targets=["teacher_topk_tags"], top_k=50, progress=False)[0]
    assert len(row["teacher_topk_tags"]) == len(row["teacher_topk_log_probs"]) < 50
    assert len({tuple(path) for path in row["teacher_topk_tags"]}) == len(row["teacher_topk_tags"])


def test_answers_are_kept_and_teachers_not_asked_again(corpus, teachers, labels, tmp_path, monkeypatch):
    first = asked(corpus, teachers, labels, output_dir=tmp_path / "answers")
    monkeypatch.setattr(Teacher, "distribution", lambda *a, **k: pytest.fail("asked again"))
    second = asked(corpus, teachers, labels, output_dir=tmp_path / "answers")
    assert first.to_dict() == second.to_dict()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers"]


@pytest.mark.parametrize("changed", ["top_k", "labels", "teacher", "data", "temperature"])
def test_a_kept_answer_to_another_question_is_an_error_that_names_it(
    corpus, teachers, labels, make_student, tokenizer, tmp_path, changed
):
    annotate(corpus, teachers, label_names=labels, targets=["teacher_topk_tags"], output_dir=tmp_path / "a")
    options = {"label_names": labels, "targets": ["teacher_topk_tags"], "output_dir": tmp_path / "a"}
    if changed == "top_k":
        options["top_k"] = 3
    elif changed == "labels":
        options["label_names"] = list(reversed(labels))
    elif changed == "teacher":
        teachers = {**teachers, "ru": Teacher(make_student(seed=9), tokenizer)}
    elif changed == "data":
        corpus = corpus.select(range(10))
    else:
        options["temperature"] = 2.0
    with pytest.raises(AnnotationError, match=f"another question .*{changed}"):
        annotate(corpus, teachers, **options)


def test_a_crash_while_asking_leaves_nothing_that_looks_finished(corpus, teachers, labels, tmp_path, monkeypatch):
    monkeypatch.setattr(teachers["ru"], "distribution", lambda *a: (_ for _ in ()).throw(RuntimeError("power cut")))
    with pytest.raises(RuntimeError, match="power cut"):
        asked(corpus, teachers, labels, output_dir=tmp_path / "answers")
    assert not (tmp_path / "answers").exists()


def test_a_folder_with_other_things_is_not_touched(corpus, teachers, labels, tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(AnnotationError, match=r"holds no annotation.json"):
        asked(corpus, teachers, labels, output_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_record_names_what_was_asked(corpus, teachers, labels, tmp_path):
    asked(corpus, teachers, labels, output_dir=tmp_path / "answers")
    record = json.loads((tmp_path / "answers" / "annotation.json").read_text())
    assert record["teachers"] == {language: teacher.revision for language, teacher in teachers.items()}
    assert record["labels"] == labels
    assert record["top_k"] == 4
    assert record["version"]


def test_one_teacher_may_answer_for_all_and_needs_no_language(corpus, teachers, labels):
    plain = corpus.remove_columns("language")
    annotated = annotate(plain, teachers["en"], label_names=labels, targets=["teacher_entropy"], progress=False)
    assert torch.isfinite(torch.tensor(annotated["teacher_entropy"])).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"targets": ["teacher_marginal"]}, "unknown targets"),
        ({"teachers": {}}, "no teacher for language en, ru"),
    ],
)
def test_bad_questions_are_named(corpus, teachers, labels, options, message):
    arguments = {"teachers": teachers, "label_names": labels, "targets": ["teacher_marginals"], **options}
    with pytest.raises(ValueError, match=message):
        annotate(corpus, **arguments)
