"""Dangers: a stream teaches or scores something else than the same corpus, fails after hours, or fills the memory."""

import pytest
import torch
from datasets import IterableDataset
from fsspec.implementations.memory import MemoryFileSystem

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher, annotate, annotate_part, load_parts
from hf_structkd.data.streams import SENTENCES_CHECKED
from hf_structkd.data.words import encode_corpus
from hf_structkd.teachers import part_store

from ..conftest import draw_student
from ..teachers.test_voices import LABELS, three_teachers


@pytest.fixture
def train(tokenizer, labels, tmp_path):
    def make(data, dev=None, **fields):
        options = {"objective": "none", "max_steps": 4, "logging_steps": 1, "annotation_dir": tmp_path / "answers"}
        args = StructKDTrainingArguments(
            str(tmp_path / "run"), train_sampling_strategy="sequential", per_device_train_batch_size=4, use_cpu=True,
            report_to="none", save_strategy="no", disable_tqdm=True, top_k=3, **{**options, **fields},
        )  # fmt: skip
        model = draw_student(tokenizer, labels, hidden_dropout_prob=0.0)
        given = {"teachers": Teacher(draw_student(tokenizer, labels, seed=1), tokenizer)} if args.objectives else {}
        return StructKDTrainer(
            model, args, train_dataset=data, eval_dataset=dev, processing_class=tokenizer, **given
        )  # fmt: skip

    return make


def learnt(trainer):
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line], trainer.model.state_dict()


def same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    for name, weight in one[1].items():
        torch.testing.assert_close(weight, other[1][name])


def without_types(corpus) -> IterableDataset:
    """As most streams are: nothing but rows, read anew by each pass."""
    return IterableDataset.from_generator(lambda: iter(corpus.to_list()))


@pytest.mark.parametrize("kind", ["words", "rows", "subwords", "other order"])
def test_a_stream_teaches_what_the_corpus_does(corpus, tokenizer, labels, train, kind):
    corpus = corpus.select(range(30))
    tokenised = encode_corpus(corpus, tokenizer, labels[::-1] if kind == "other order" else labels)
    stream = {
        "words": lambda: corpus.to_iterable_dataset(),
        "rows": lambda: without_types(corpus),
        "subwords": lambda: tokenised.to_iterable_dataset(),
        "other order": lambda: tokenised.to_iterable_dataset(),
    }[kind]()
    same(learnt(train(stream)), learnt(train(corpus)))


@pytest.mark.parametrize("answered", [True, False])
def test_answers_come_with_a_stream_or_are_asked_for(corpus, tokenizer, labels, train, answered, tmp_path):
    corpus, objective = corpus.select(range(30)), "posterior+top_wk"
    expected = learnt(train(corpus, objective=objective, annotation_dir=tmp_path / "whole"))
    stream = corpus.to_iterable_dataset()
    if answered:
        teacher = Teacher(draw_student(tokenizer, labels, seed=1), tokenizer)
        targets = ["teacher_marginals", "teacher_topk_tags"]
        stream = annotate(corpus, teacher, label_names=labels, targets=targets, top_k=3).to_iterable_dataset()
    trainer = train(stream, objective=objective)
    assert isinstance(trainer.train_dataset, IterableDataset) == answered  # a stream that was annotated is a file
    same(learnt(trainer), expected)


def test_a_stream_is_scored_and_tagged_like_the_corpus(corpus, train):
    corpus = corpus.select(range(21))
    expected, trainer = train(None, corpus), train(None, {"a": corpus.to_iterable_dataset(), "b": corpus})
    whole, streamed = expected.evaluate(), trainer.evaluate()
    for name in ("loss", "f1", "precision"):
        for corpus_name in "ab":
            assert streamed[f"eval_{corpus_name}_{name}"] == pytest.approx(whole[f"eval_{name}"], rel=1e-6)
    assert trainer.evaluate(without_types(corpus))["eval_f1"] == pytest.approx(whole["eval_f1"])
    bare = corpus.remove_columns("tags")
    tagged, same_tagged = trainer.predict(bare.to_iterable_dataset()), trainer.predict(bare)
    assert "test_f1" not in tagged.metrics
    assert (tagged.predictions != -100).sum() == (same_tagged.predictions != -100).sum()
    assert [row[row >= 0].tolist() for row in tagged.predictions] == [
        row[row >= 0].tolist() for row in same_tagged.predictions
    ]


def test_no_more_of_a_stream_is_read_than_is_checked_and_used(corpus, train):
    read, rows = [], corpus.to_list() * (3 * SENTENCES_CHECKED // len(corpus))

    def counted():
        for row in rows:
            read.append(1)
            yield row

    trainer = train(IterableDataset.from_generator(counted))
    del read[:]
    trainer.train()
    assert 0 < len(read) < SENTENCES_CHECKED


def changed(corpus, row, **values):
    return IterableDataset.from_generator(
        lambda: ({**each, **values} if number == row else each for number, each in enumerate(corpus.to_list()))
    )


def test_what_is_wrong_with_a_stream_is_said_before_training(corpus, train):
    stream, bare = corpus.to_iterable_dataset(), corpus.remove_columns("tags").to_iterable_dataset()
    for refused, options, message in (
        (stream, {"max_steps": -1}, "a stream, whose length nobody knows"),
        (bare, {}, "none of the first 240 sentences of the stream has any"),
        (stream.filter(lambda row: False), {}, "the stream has no sentences"),
        (changed(corpus, 7, tags=["B-NO"] * len(corpus[7]["tags"])), {}, "row 7: tag 'B-NO' is not among"),
        (changed(corpus, 7, tokens=[]), {}, "row 7 has no words"),
        (stream, {"objective": "posterior", "annotation_dir": None}, "a stream is annotated into a folder"),
        (stream.remove_columns("tokens"), {}, "a corpus needs a column 'tokens'"),
    ):
        with pytest.raises(ValueError, match=message.replace("240", str(len(corpus)))):
            train(refused, **options)
    with pytest.raises(ValueError, match="the corpus 'x' cannot be evaluated: none of the first"):
        train(stream, {"x": bare})


def test_what_is_wrong_later_is_said_when_it_comes(corpus, train, monkeypatch):
    monkeypatch.setattr("hf_structkd.data.streams.first_rows.__defaults__", (5,))
    trainer = train(changed(corpus, 9, tags=["B-NO"] * len(corpus[9]["tags"])))
    with pytest.raises(ValueError, match="row 9: tag 'B-NO' is not among the model's labels"):
        trainer.train()


# Dangers: streamed parts teach something else than parts in memory, or hold answers that do not fit.


OBJECTIVE = "posterior+top_wk"
ADDRESSES = ("folder", "file", "memory")


@pytest.fixture
def student(tokenizer, make_student):
    from ..conftest import draw_student

    return lambda labels=LABELS: draw_student(tokenizer, labels, hidden_dropout_prob=0.0)


@pytest.fixture
def address(request, tmp_path, monkeypatch):
    monkeypatch.setattr(part_store.datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    MemoryFileSystem.store.clear()
    folder = tmp_path / "parts"
    return {"folder": folder, "file": f"file://{folder}", "memory": "memory://bucket/parts"}[request.param]


def annotated(corpus, tokenizer, address, **options):
    """Two parts; the teachers of one language are three voices, those of the other are one."""
    data = encode_corpus(corpus.select(range(20, 40)), tokenizer, LABELS)
    given = {"label_names": LABELS, "top_k": 3, "progress": False, **options}
    for part in (1, 0):
        annotate_part(
            data, {"en": three_teachers(), "ru": three_teachers()[:1]}, address, part=part, num_parts=2,
            targets=["teacher_marginals", "teacher_topk_tags"], **given,
        )  # fmt: skip


def trainer_of(data, model, tokenizer, folder):
    args = StructKDTrainingArguments(
        str(folder), objective=OBJECTIVE, top_k=3, train_sampling_strategy="sequential", max_steps=5, logging_steps=1,
        per_device_train_batch_size=4, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    return StructKDTrainer(model, args, train_dataset=data, processing_class=tokenizer)


@pytest.mark.parametrize("address", ADDRESSES, indirect=True)
def test_streamed_and_mapped_parts_teach_the_same(corpus, tokenizer, address, student, tmp_path):
    annotated(corpus, tokenizer, address)
    runs = []
    for streaming in (False, True):
        model = student()
        trainer = trainer_of(load_parts(address, streaming=streaming), model, tokenizer, tmp_path / "run")
        trainer.train()
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        runs.append((losses, model.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert len(set(runs[0][0])) == 5
    for name, values in runs[0][1].items():
        assert torch.equal(values, runs[1][1][name]), name


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("address", ["folder"], indirect=True)
def test_answers_that_do_not_fit_are_refused_before_training(corpus, tokenizer, address, student, tmp_path, streaming):
    annotated(corpus, tokenizer, address, temperature=2.0)
    data = load_parts(address, streaming=streaming)
    with pytest.raises(ValueError, match=r"annotated at temperature 2 for teacher_marginals, but .* want 1"):
        trainer_of(data, student(), tokenizer, tmp_path / "run")
    with pytest.raises(ValueError, match="number other labels than the student's, or the same in another order"):
        trainer_of(data, student(["O", *LABELS[:0:-1]]), tokenizer, tmp_path / "run")
