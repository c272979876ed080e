"""Dangers: a neighbour from another document, answers about a neighbour's words, answers kept for other neighbours."""

import itertools
import math

import pytest
import torch
from datasets import Dataset, concatenate_datasets

from hf_structkd import StructKDTrainer, StructKDTrainingArguments, Teacher, annotate, load_corpora, load_corpus
from hf_structkd.data.source_text import CorpusError
from hf_structkd.teachers.annotate import AnnotationError
from hf_structkd.teachers.base import TagTeacher
from hf_structkd.teachers.context import document_bounds
from hf_structkd.teachers.function import CallableTeacher
from hf_structkd.teachers.panel import Panel
from hf_structkd.teachers.spans import SpanTeacher

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


def asked(data, teacher, context, **options):
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
    annotated = asked(corpus(), teacher, context, batch_size=batch_size)
    assert sorted(heard) == sorted(expected)
    for row, wide in zip(annotated, expected):
        words = wide.split()
        start = words.index(row["tokens"][0])
        of_all = teacher.distribution([words]).marginals[0, start : start + len(row["tokens"])]
        torch.testing.assert_close(torch.tensor(row["teacher_marginals"]), of_all.float(), atol=1e-3, rtol=1e-3)


def test_neighbours_have_the_sentences_language_and_a_sentence_without_document_has_none():
    heard = []
    data = corpus(["1", "1", "1", None, None], language=["en", "en", "de", "de", "de"])
    asked(data, listening(heard), 1)
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
    asked(corpus(), panel, 1)
    assert sorted(heard) == sorted(other)
    assert "a b c d e f" in heard


def test_kept_answers_are_those_of_the_same_neighbours(tmp_path):
    kept = asked(corpus(), listening([]), 1, output_dir=tmp_path / "kept")
    heard = []
    assert asked(corpus(), listening(heard), 1, output_dir=tmp_path / "kept").to_dict() == kept.to_dict()
    assert not heard
    for other, context in ((corpus(), 0), (corpus(), 2), (corpus(["1", "1", "2", "2", "2"]), 1)):
        with pytest.raises(AnnotationError, match="context"):
            asked(other, listening([]), context, output_dir=tmp_path / "kept")
    renamed = corpus(["x", "x", "x", "y", "y"])  # the same bounds
    assert len(asked(renamed, listening(heard), 1, output_dir=tmp_path / "kept")) == 5
    assert not heard
    asked(corpus(), listening([]), 0, output_dir=tmp_path / "alone")
    with pytest.raises(AnnotationError, match="context"):
        asked(corpus(), listening([]), 1, output_dir=tmp_path / "alone")


def test_what_has_no_documents_is_refused():
    with pytest.raises(ValueError, match=r"no column 'document'.*documents='marked'"):
        asked(corpus().remove_columns("document"), listening([]), 1)
    with pytest.raises(ValueError, match="context is a number of sentences, 0 or more, not -1"):
        asked(corpus(), listening([]), -1)
    with pytest.raises(ValueError, match=r"document '1' begins at row 0 and again at row 4"):
        document_bounds(corpus(["1", "1", "2", "2", "1"]))

    class Alone(TagTeacher):
        revision = "1"

        def chain_scores(self, sentences):
            raise AssertionError

        def distribution(self, sentences, label_names=None):
            raise AssertionError

    with pytest.raises(ValueError, match=r"teacher X \(Alone\) reads sentences alone"):
        asked(corpus(), Alone(LABELS, name="X"), 1)


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
