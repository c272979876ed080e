"""Dangers: answers kept for another question, asked twice, given to the wrong sentence, or left half-written."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, IterableDataset, List, concatenate_datasets

from hf_structkd import (
    AnnotationError,
    StructKDTrainer,
    StructKDTrainingArguments,
    Teacher,
    annotate,
    load_corpora,
    load_corpus,
)
from hf_structkd.data.columns import AUTOMATIC_COLUMNS, TARGET_COLUMNS
from hf_structkd.data.source_text import CorpusError
from hf_structkd.distillation.weighted_objectives import parse_objective
from hf_structkd.teachers.annotate import corpus_fingerprint
from hf_structkd.teachers.base import TagTeacher
from hf_structkd.teachers.context import document_bounds
from hf_structkd.teachers.function import CallableTeacher
from hf_structkd.teachers.panel import Panel
from hf_structkd.teachers.spans import SpanTeacher
from hf_structkd.training.checks import check_answers

from ..conftest import draw_student

QUIET = {"progress": False}
COLUMNS = [name for name in TARGET_COLUMNS if name not in AUTOMATIC_COLUMNS]


@pytest.fixture
def teachers(make_student, tokenizer):
    return {"en": Teacher(make_student(seed=1), tokenizer), "ru": Teacher(make_student(seed=2), tokenizer)}


def asked(corpus, teachers, labels, **options):
    return annotate(corpus, teachers, **{"label_names": labels, "targets": COLUMNS, "top_k": 4, **QUIET, **options})


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


@pytest.mark.parametrize("changed", ["top_k", "labels", "teacher", "data", "temperature", "format"])
def test_a_kept_answer_to_another_question_is_an_error_that_names_it(
    corpus, teachers, labels, make_student, tokenizer, tmp_path, monkeypatch, changed
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
    elif changed == "format":
        monkeypatch.setattr("hf_structkd.teachers.annotate.ANSWER_FORMAT", 99)
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
    assert record["teachers"] == {
        language: [{**teacher.identity(), "weight": 1.0}] for language, teacher in teachers.items()
    }
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


def test_a_sentence_without_words_is_named_before_anybody_is_asked(corpus, teachers, labels, monkeypatch):
    monkeypatch.setattr(Teacher, "distribution", lambda *a, **k: pytest.fail("asked"))
    emptied = corpus.map(lambda row, i: {"tokens": [] if i == 7 else row["tokens"]}, with_indices=True)
    with pytest.raises(ValueError, match="row 7 of the corpus has no words"):
        asked(emptied, teachers, labels)


def test_a_summary_lies_beside_the_answers(corpus, teachers, labels, tmp_path, caplog):
    caplog.set_level("INFO", logger="hf_structkd.teachers.annotate")
    annotated = asked(corpus, teachers, labels, output_dir=tmp_path / "answers")
    summary = json.loads((tmp_path / "answers" / "summary.json").read_text())
    russian = [row for row in annotated if row["language"] == "ru"]
    words = sum(len(row["tokens"]) for row in russian)
    best = teachers["ru"].tag([row["tokens"] for row in russian], labels)
    right = sum(a == b for row, tags in zip(russian, best) for a, b in zip(row["tags"], tags))
    assert summary["ru"]["sentences"] == len(russian)
    assert summary["ru"]["words"] == words
    assert summary["ru"]["accuracy"] == pytest.approx(right / words)
    assert summary["ru"]["entropy"] == pytest.approx(np.mean([row["teacher_entropy"] for row in russian]), rel=1e-5)
    mass = np.mean([np.exp(row["teacher_topk_log_probs"]).sum() for row in russian])
    assert summary["ru"]["mass"] == pytest.approx(mass, rel=1e-5)
    assert f"accuracy {right / words:.4f}" in caplog.text
    assert "sentences/s" in caplog.text
    assert "bytes per sentence" in caplog.text


@pytest.mark.parametrize("tag", ["no column", None, -100, 1])
def test_without_gold_or_k_best_the_summary_says_so_and_not_zero(corpus, teachers, labels, tmp_path, tag):
    """Numbers that nothing names are no gold either: they were taken for the student's labels by their place."""
    bare = corpus.remove_columns("tags")
    if tag != "no column":
        bare = bare.add_column("tags", [[tag] * len(words) for words in bare["tokens"]])
    targets = ["teacher_marginals"]
    annotate(bare, teachers, label_names=labels, targets=targets, output_dir=tmp_path / "a", progress=False)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["en"]["accuracy"] is None
    assert summary["en"]["mass"] is None
    assert summary["en"]["entropy"] > 0


def test_answers_are_small(corpus, teachers, labels):
    """A byte a tag, two bytes a probability, four an offset: what ragged Arrow needs and no more."""
    annotated = asked(corpus, teachers, labels)
    words, sentences, count = sum(map(len, corpus["tokens"])), len(corpus), len(labels)
    paths = sum(map(len, annotated["teacher_topk_log_probs"]))
    # table.nbytes, as the summary reports it: values, then one offset a list and one more a column and level
    columns = annotated.select_columns(["teacher_topk_tags", "teacher_marginals"]).data
    expected = 4 * words + 4 * paths + 4 * sentences + 2 * words * count + 4 * words + 4 * sentences
    assert annotated.features["teacher_topk_tags"].feature.feature.dtype == "int8"
    assert columns.nbytes <= 1.02 * expected


def test_several_teachers_a_callable_and_a_student_as_teacher_are_asked_alike(corpus, teachers, labels, tmp_path):
    uniform = CallableTeacher(
        lambda sentences: [np.full((len(words), len(labels)), 1 / len(labels)) for words in sentences],
        labels,
        name="uniform",
        revision="1",
    )
    panels = {"en": [(teachers["en"], 3.0), (uniform, 1.0)], "ru": uniform}
    annotated = asked(
        corpus, panels, labels, output_dir=tmp_path / "a", targets=["teacher_marginals", "teacher_topk_tags"]
    )
    row = annotated[0]
    own = teachers["en"].distribution([row["tokens"]], labels).marginals[0]
    np.testing.assert_allclose(row["teacher_marginals"], 0.75 * own + 0.25 / len(labels), atol=1e-3)
    record = json.loads((tmp_path / "a" / "annotation.json").read_text())
    found = {
        language: [(own["revision"], own["weight"]) for own in panel] for language, panel in record["teachers"].items()
    }
    assert found == {"en": [(teachers["en"].revision, 0.75), ("1", 0.25)], "ru": [("1", 1.0)]}
    with pytest.raises(AnnotationError, match=r"another question .*teachers"):
        asked(
            corpus, {**panels, "en": teachers["en"]}, labels, output_dir=tmp_path / "a", targets=["teacher_marginals"]
        )


def test_a_label_map_or_a_calibration_is_part_of_the_question(corpus, labels, tmp_path):
    def uniform(**options):
        return CallableTeacher(
            lambda sentences: [np.full((len(words), 3), 1 / 3) for words in sentences],
            ["O", "B-PER", "I-PER"],
            name="T",
            revision="1",
            **options,
        )

    others = sorted({label.split("-")[1] for label in labels if label != "O"} - {"PER"})
    hidden = {"label_map": {"O": ["O", *others]}}
    options = {
        "label_names": labels,
        "targets": ["teacher_topk_tags"],
        "output_dir": tmp_path / "a",
        "progress": False,
    }
    annotated = annotate(corpus, uniform(**hidden), **options)
    assert annotated["teacher_groups"][0] == [
        i if "PER" in label or label == "O" else labels.index("O") for i, label in enumerate(labels)
    ]
    with pytest.raises(AnnotationError, match=r"another question .*\[0\].temperature: stored None, asked 2.0"):
        annotate(corpus, uniform(**hidden, temperature=2.0), **options)
    with pytest.raises(ValueError, match=r"cannot tell .* apart"):
        annotate(corpus, uniform(**hidden), label_names=labels, targets=["teacher_edge_counts"])


def test_answers_at_another_temperature_are_not_taken_for_what_the_objectives_want(corpus, teachers, labels):
    targets = ["teacher_marginals", "teacher_edge_counts"]
    softened = asked(corpus, teachers, labels, targets=targets, temperature=2.0)
    check_answers(softened, parse_objective("structural", 2.0, "global"), labels, 5)
    with pytest.raises(
        ValueError, match="annotated at temperature 2 for teacher_marginals, but the objectives want 1"
    ):
        check_answers(softened, parse_objective("structural"), labels, 5)
    plain = asked(corpus, teachers, labels, targets=targets)
    assert "teacher_temperature" not in plain.column_names
    with pytest.raises(
        ValueError, match="annotated at temperature 1 for teacher_marginals, but the objectives want 2"
    ):
        check_answers(plain, parse_objective("posterior", 2.0, "global"), labels, 5)
    hot = teachers["en"].distribution([corpus[0]["tokens"]], labels).with_temperature(2.0)
    np.testing.assert_allclose(softened[0]["teacher_marginals"], hot.marginals[0], atol=1e-3)


def test_a_teacher_that_answers_nan_is_named_with_the_sentence(corpus, teachers, labels):
    torch.nn.init.constant_(teachers["ru"].model.classifier.bias, float("nan"))
    with pytest.raises(ValueError, match=r"asking .* about rows \[\d+.*NaN"):
        asked(corpus, teachers, labels)


def test_tags_as_ids_of_the_datasets_own_order_are_compared_by_name(teachers, labels, corpus, tmp_path):
    names = sorted(labels, reverse=True)
    features = Features({**corpus.features, "tags": List(ClassLabel(names=names))})
    numbered = corpus.map(lambda row: {"tags": [names.index(tag) for tag in row["tags"]]}, features=features)
    accuracies = []
    for number, data in enumerate((corpus, numbered)):
        asked(data, teachers, labels, output_dir=tmp_path / str(number), targets=["teacher_topk_tags"])
        accuracies.append(json.loads((tmp_path / str(number) / "summary.json").read_text())["en"]["accuracy"])
    assert accuracies[0] == accuracies[1] > 0


def test_a_corpus_without_sentences_has_the_columns(corpus, teachers, labels):
    annotated = asked(corpus.select([]), teachers["en"], labels)
    assert set(COLUMNS) <= set(annotated.column_names)
    assert len(annotated) == 0


class TestFingerprint:
    def test_kept_results_hold_it(self):
        """Results that lie in the repository, and answers of users, are found again by it."""
        data = Dataset.from_dict({"tokens": [["Olu", "hums"], ["Kano"]], "language": ["ha", "ha"]})
        assert corpus_fingerprint(data) == "7690eed1a4844122"

    def test_words_may_hold_any_character(self):
        """Words were joined with one that they may hold."""

        def of(*sentences):
            return corpus_fingerprint(Dataset.from_dict({"tokens": sentences}))

        same = [
            of(["a", "b"]), of(["a\0b"]), of(["a\2nb"]), of(["a\2", "b"]), of(["a\2\2nb"]),
            of(["a"], ["b"]), of(["a\1\0b"]), of(["a\2o\0b"]), of(["a", "", "b"]), of(["ab"]),
        ]  # fmt: skip
        assert len(set(same)) == len(same)


# Dangers: answers to a stream differ from those to its sentences, or a stream that breaks leaves half of them.


@pytest.fixture
def ask(tokenizer, labels):
    teacher = Teacher(draw_student(tokenizer, labels, seed=1), tokenizer)

    def ask(data, **options):
        given = {"label_names": labels, "targets": ["teacher_topk_tags"], "top_k": 2, "progress": False, **options}
        return annotate(data, teacher, **given)

    return ask


def test_answers_to_a_stream_are_those_to_its_sentences(corpus, ask, tmp_path):
    corpus = corpus.select(range(50))
    # Asked in the same shards: an encoder's rounding depends on the sentences that are read together.
    expected = ask(corpus, output_dir=tmp_path / "expected", shard_size=20).to_list()
    rows = corpus.to_list()
    for stream in (corpus.to_iterable_dataset(), IterableDataset.from_generator(lambda: iter(rows))):
        for _ in range(2):  # the second time answers are read
            found = ask(stream, output_dir=tmp_path / "answers", shard_size=20)
            assert found.to_list() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers", "answers.sentences.arrow", "expected"]


def test_another_stream_does_not_get_the_answers(corpus, ask, tmp_path):
    ask(corpus.select(range(5)).to_iterable_dataset(), output_dir=tmp_path / "answers")
    with pytest.raises(AnnotationError, match=r"another question.*data"):
        ask(corpus.select(range(6)).to_iterable_dataset(), output_dir=tmp_path / "answers")


def test_a_stream_that_breaks_leaves_nothing(corpus, ask, tmp_path):
    def rows():
        yield from corpus.to_list() * 10
        raise ConnectionError("the line is dead")

    with pytest.raises(ConnectionError, match="the line is dead"):
        ask(IterableDataset.from_generator(rows), output_dir=tmp_path / "answers")
    assert not list(tmp_path.iterdir())


def test_what_is_no_corpus_is_refused_before_it_is_written(corpus, ask, tmp_path):
    with pytest.raises(ValueError, match="a stream is annotated into a folder"):
        ask(corpus.to_iterable_dataset())
    texts = IterableDataset.from_generator(lambda: iter([{"tokens": "a text"}]))
    with pytest.raises(ValueError, match="holds texts where lists of words are meant"):
        ask(texts, output_dir=tmp_path / "answers")
    nothing = IterableDataset.from_generator(lambda: iter([{"tokens": ["a"], "tags": None}]))
    with pytest.raises(ValueError, match="have nothing in the columns tags"):
        ask(nothing, output_dir=tmp_path / "answers")
    assert not list(tmp_path.iterdir())


# Dangers: a neighbour from another document, answers about a neighbour's words, answers kept for other neighbours.


LABELS = ["O", "B-PER", "I-PER"]
ROWS = [["a", "b"], ["c"], ["d", "e", "f"], ["g"], ["h", "i"]]
DOCUMENTS = ["1", "1", "1", "2", "2"]


def corpus(documents=DOCUMENTS, rows=ROWS, **columns):
    return Dataset.from_dict({"tokens": rows, "document": documents, **columns})


def listening(heard, answers="probabilities"):
    """A teacher that notes what it is asked, and whose answer depends on a word and on the words around it."""

    def answer(sentences):
        heard.extend(" ".join(words) for words in sentences)
        rows = []
        for words in sentences:
            total = sum(map(ord, "".join(words)))
            rows.append(
                [[0.2 + 0.5 * ((total + ord(w)) % 7) / 7, 0.1, 0.7 - 0.5 * ((total + ord(w)) % 7) / 7] for w in words]
            )
        return rows

    return CallableTeacher(answer, LABELS, name="T", revision="1", answers=answers)


def asked_in_context(data, teacher, context, **options):
    return annotate(
        data, teacher, label_names=LABELS, targets=["teacher_marginals"], progress=False, context=context, **options
    )


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (0, ["a b", "c", "d e f", "g", "h i"]),
        (1, ["a b c", "a b c d e f", "c d e f", "g h i", "g h i"]),
        (2, ["a b c d e f", "a b c d e f", "a b c d e f", "g h i", "g h i"]),
        (9, ["a b c d e f", "a b c d e f", "a b c d e f", "g h i", "g h i"]),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 64])
def test_a_teacher_reads_the_neighbours_of_its_document_and_answers_about_the_sentence(context, expected, batch_size):
    heard = []
    teacher = listening(heard)
    annotated = asked_in_context(corpus(), teacher, context, batch_size=batch_size)
    assert sorted(heard) == sorted(expected)
    for row, wide in zip(annotated, expected):
        words = wide.split()
        start = words.index(row["tokens"][0])
        of_all = teacher.distribution([words]).marginals[0, start : start + len(row["tokens"])]
        torch.testing.assert_close(torch.tensor(row["teacher_marginals"]), of_all.float(), atol=1e-3, rtol=1e-3)


def test_neighbours_have_the_sentences_language_and_a_sentence_without_document_has_none():
    heard = []
    data = corpus(["1", "1", "1", None, None], language=["en", "en", "de", "de", "de"])
    asked_in_context(data, listening(heard), 1)
    assert sorted(heard) == sorted(["a b c", "a b c", "d e f", "g", "h i"])


def test_a_checkpoints_chain_is_that_of_the_sentence_with_the_words_scores_in_context(make_student, tokenizer, labels):
    """By enumeration: emissions of the long text, transitions within the sentence, its own start and end scores."""
    teacher = Teacher(make_student(seed=3), tokenizer)
    sentences, context = [["Anna", "sang"], ["Oslo"]], [(["In", "May"], ["."]), ([], ["is", "big", "."])]
    with torch.inference_mode():
        found = teacher.distribution(sentences, labels, context)
    for row, (words, (before, after)) in enumerate(zip(sentences, context)):
        with torch.inference_mode():
            scores, _, masks = teacher.chain_scores([[*before, *words, *after]])
        emissions = scores.emissions[0, len(before) : len(before) + len(words)]
        weights = {}
        for path in itertools.product(range(len(labels)), repeat=len(words)):
            legal = masks["allowed_start"][path[0]] and masks["allowed_end"][path[-1]]
            if not legal or not all(masks["allowed"][pair] for pair in itertools.pairwise(path)):
                continue
            score = scores.start[path[0]] + scores.end[path[-1]] + sum(emissions[i, t] for i, t in enumerate(path))
            weights[path] = math.exp(score + sum(scores.transitions[pair] for pair in itertools.pairwise(path)))
        total = sum(weights.values())
        for tag in range(len(labels)):
            expected = sum(weight for path, weight in weights.items() if path[0] == tag) / total
            assert found.marginals[row, 0, tag].item() == pytest.approx(expected, abs=1e-4)
        alone = teacher.distribution([words], labels).marginals[0, 0]
        assert (alone.log() - found.marginals[row, 0].log()).nan_to_num(0).abs().max() > 1e-3  # it read its neighbours


def test_listed_sequences_are_cut_at_the_bounds_and_added():
    paths = [(["B-PER", "I-PER", "I-PER", "O"], 0.5), (["O", "B-PER", "I-PER", "I-PER"], 0.3), (["O"] * 4, 0.2)]
    teacher = CallableTeacher(lambda s: [paths for _ in s], LABELS, name="T", revision="1", answers="paths")
    found = teacher.distribution([["x", "y"]], LABELS, [(["before"], ["after"])])
    assert found.topk(3).tags[0].tolist() == [[1, 2], [0, 0]]
    assert found.topk(3).log_prob[0].exp().tolist() == pytest.approx([0.8, 0.2])


@pytest.mark.parametrize("bounds", [(1, 2), (0, 4)])
def test_spans_that_cross_the_bounds_are_left_out(bounds):
    spans = [(1, 2, "PER", 0.9), (0, 2, "PER", 0.8), (2, 4, "PER", 0.7)]
    teacher = SpanTeacher(lambda s: [spans for _ in s], ["PER"], name="T", revision="1")
    words = ["p", "q", "r", "s"]
    start, end = bounds
    found = teacher.distribution([words[start:end]], LABELS, [(words[:start], words[end:])])
    inside = [(s - start, e - start, *rest) for s, e, *rest in spans if start <= s and e <= end]
    alone = SpanTeacher(lambda s: [inside for _ in s], ["PER"], name="T", revision="1")
    torch.testing.assert_close(found.marginals, alone.distribution([words[start:end]], LABELS).marginals)


def test_several_teachers_read_the_neighbours_too():
    heard, other = [], []
    panel = Panel([(listening(heard), 1.0), (listening(other), 3.0)])
    asked_in_context(corpus(), panel, 1)
    assert sorted(heard) == sorted(other)
    assert "a b c d e f" in heard


def test_kept_answers_are_those_of_the_same_neighbours(tmp_path):
    kept = asked_in_context(corpus(), listening([]), 1, output_dir=tmp_path / "kept")
    heard = []
    assert asked_in_context(corpus(), listening(heard), 1, output_dir=tmp_path / "kept").to_dict() == kept.to_dict()
    assert not heard
    for other, context in ((corpus(), 0), (corpus(), 2), (corpus(["1", "1", "2", "2", "2"]), 1)):
        with pytest.raises(AnnotationError, match="context"):
            asked_in_context(other, listening([]), context, output_dir=tmp_path / "kept")
    renamed = corpus(["x", "x", "x", "y", "y"])  # the same bounds
    assert len(asked_in_context(renamed, listening(heard), 1, output_dir=tmp_path / "kept")) == 5
    assert not heard
    asked_in_context(corpus(), listening([]), 0, output_dir=tmp_path / "alone")
    with pytest.raises(AnnotationError, match="context"):
        asked_in_context(corpus(), listening([]), 1, output_dir=tmp_path / "alone")


def test_what_has_no_documents_is_refused():
    with pytest.raises(ValueError, match=r"no column 'document'.*documents='marked'"):
        asked_in_context(corpus().remove_columns("document"), listening([]), 1)
    with pytest.raises(ValueError, match="context is a number of sentences, 0 or more, not -1"):
        asked_in_context(corpus(), listening([]), -1)
    with pytest.raises(ValueError, match=r"document '1' begins at row 0 and again at row 4"):
        document_bounds(corpus(["1", "1", "2", "2", "1"]))

    class Alone(TagTeacher):
        revision = "1"

        def chain_scores(self, sentences):
            raise AssertionError

        def distribution(self, sentences, label_names=None):
            raise AssertionError

    with pytest.raises(ValueError, match=r"teacher X \(Alone\) reads sentences alone"):
        asked_in_context(corpus(), Alone(LABELS, name="X"), 1)


MARKED = {
    "train.conll": "-DOCSTART- O\n\nMara B-PER\nsang O\n\nShe O\nleft O\n\n-DOCSTART- O\n\nRain O\nfell O\n",
    "train.conllu": "# newdoc id = a\n# sent_id = 1\n1\tMara\t_\tPROPN\t_\t_\t0\troot\t_\t_\n\n"
    "1\tShe\t_\tPRON\t_\t_\t0\troot\t_\t_\n\n# newdoc\n1\tRain\t_\tNOUN\t_\t_\t0\troot\t_\t_\n",
    "train.jsonl": '{"tokens": ["Mara"], "tags": ["B-PER"], "document": 7}\n{"tokens": ["She"], "tags": ["O"], '
    '"document": 7}\n{"tokens": ["Rain"], "tags": ["O"], "document": 8}\n',
}


@pytest.mark.parametrize("name", MARKED)
def test_corpora_say_where_documents_begin(name, tmp_path):
    (tmp_path / name).write_text(MARKED[name])
    data = load_corpus(tmp_path / name, language="en", split="train", documents="marked")
    firsts, ends = document_bounds(data)
    assert (firsts.tolist(), ends.tolist()) == ([0, 0, 2], [2, 2, 3])
    assert len(set(load_corpus(tmp_path / name, language="en", documents="source")["document"])) == 1
    assert "document" not in load_corpus(tmp_path / name, language="en").column_names
    with pytest.raises(ValueError, match="documents must be one of marked, source, not 'file'"):
        load_corpus(tmp_path / name, language="en", documents="file")


def test_corpora_without_marks_are_refused_and_languages_may_differ(tmp_path):
    (tmp_path / "en.train.conll").write_text(MARKED["train.conll"])
    plain = MARKED["train.conll"].replace("-DOCSTART- O\n\n", "")
    (tmp_path / "de.train.conll").write_text(plain)
    template = str(tmp_path / "{language}.{split}.conll")
    with pytest.raises(CorpusError, match=r"nothing marks documents.*documents='source'"):
        load_corpora(template, ["en", "de"], ["train"], documents="marked")
    with pytest.raises(CorpusError, match="documents names fr"):
        load_corpora(template, ["en", "de"], ["train"], documents={"fr": "marked"})
    loaded = load_corpora(template, ["en", "de"], ["train"], documents={"en": "marked"})
    both = concatenate_datasets([loaded[language]["train"] for language in ("en", "de")])
    firsts, ends = document_bounds(both)
    assert (firsts.tolist(), ends.tolist()) == ([0, 0, 2, 3, 4, 5], [2, 2, 3, 4, 5, 6])


def test_a_trainer_asks_with_context_and_trains_without(make_student, tokenizer, labels, tmp_path):
    heard = []
    rows = [["Anna", "sang"], ["She", "left"], ["Rain"]]

    def answer(sentences):
        heard.extend(map(" ".join, sentences))
        return [[[1 / len(labels)] * len(labels) for _ in words] for words in sentences]

    teacher = CallableTeacher(answer, labels, name="T", revision="1")
    args = StructKDTrainingArguments(
        str(tmp_path), objective="posterior", annotation_context=1, max_steps=1, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    train = Dataset.from_dict({"tokens": rows, "document": ["1", "1", "2"]})
    trainer = StructKDTrainer(make_student(), args, None, train, processing_class=tokenizer, teachers=teacher)
    trainer.train()
    assert sorted(heard) == ["Anna sang She left", "Anna sang She left", "Rain"]
    assert [sum(row["word_mask"]) for row in trainer.train_dataset] == [2, 2, 1]


@pytest.mark.parametrize("target", ["teacher_marginals", "teacher_topk_tags"])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_teacher_that_excludes_all_sequences_of_a_sentence_is_an_error(target, mixed):
    """Its answer was all zero, which passes for none: the student learnt nothing from the sentence."""
    labels = ["O", "B-PER", "I-PER"]

    def answer(sentences, worst=-math.inf):
        emissions = [np.zeros((len(words), 3)) for words in sentences]
        for words, scores in zip(sentences, emissions):
            scores[[word == "b" for word in words]] = worst
        return [(scores, np.zeros((3, 3))) for scores in emissions]

    options = {"labels": labels, "revision": "1", "answers": "scores"}
    strict = CallableTeacher(answer, name="strict", **options)
    fair = CallableTeacher(lambda sentences: answer(sentences, 0.0), name="fair", **options)
    corpus = Dataset.from_dict({"tokens": [["c"], ["a", "b"]]})
    teachers = [strict, fair] if mixed and target == "teacher_marginals" else strict
    with pytest.raises(ValueError, match=r"strict.* excludes all tag sequences of row 1, 'a b'"):
        annotate(corpus, teachers, label_names=labels, targets=[target], progress=False)
    assert len(annotate(corpus, fair, label_names=labels, targets=[target], progress=False)) == 2


def test_a_sentence_without_words_has_no_tags_and_calibrates_nothing():
    labels = ["O", "B-PER", "I-PER"]
    spans = SpanTeacher(lambda read: [[(0, 1, "PER", 0.9)] for _ in read], ["PER"], name="S", revision="1")
    words = CallableTeacher(lambda read: [[[0.1, 0.8, 0.1]] * len(w) for w in read], labels, name="W", revision="1")
    for teacher in (spans, words):
        assert teacher.tag([["a"], [], ["b"]], labels) == [["B-PER"], [], ["B-PER"]]
        assert teacher.tag([[]]) == [[]]
        gold = Dataset.from_dict({"tokens": [["a"], [], ["c", "d"]], "tags": [["B-PER"], [], ["B-PER", "O"]]})
        fitted = teacher.calibrate(gold, labels)
        assert (fitted.sentences, fitted.left_out) == (2, 1)
