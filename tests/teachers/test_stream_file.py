"""Dangers: answers to a stream differ from those to its sentences, or a stream that breaks leaves half of them."""

import pytest
from datasets import IterableDataset

from hf_structkd import AnnotationError, Teacher, annotate

from ..conftest import draw_student


@pytest.fixture
def ask(tokenizer, labels):
    teacher = Teacher(draw_student(tokenizer, labels, seed=1), tokenizer)

    def ask(data, **options):
        given = {"label_names": labels, "targets": ["teacher_topk_tags"], "top_k": 2, "progress": False, **options}
        return annotate(data, teacher, **given)

    return ask


def test_answers_to_a_stream_are_those_to_its_sentences(corpus, ask, tmp_path):
    corpus = corpus.select(range(50))
    expected = ask(corpus).to_list()
    rows = corpus.to_list()
    for stream in (corpus.to_iterable_dataset(), IterableDataset.from_generator(lambda: iter(rows))):
        for _ in range(2):  # the second time answers are read
            found = ask(stream, output_dir=tmp_path / "answers", shard_size=20)
            assert found.to_list() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers", "answers.sentences.arrow"]


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
