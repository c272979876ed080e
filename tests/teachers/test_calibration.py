"""Dangers: a calibration that makes a teacher worse, is off, or looks at tags that the teacher cannot have."""

import pytest
import torch
from datasets import Dataset
from transformers import XLMRobertaConfig, XLMRobertaForTokenClassification

from hf_structkd import Teacher
from hf_structkd.modeling.crf import LinearChainCRF
from hf_structkd.teachers.base import fit_temperature
from hf_structkd.teachers.function import CallableTeacher

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def scores_for(words, labels=LABELS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    table = 1.2 * torch.randn(50, len(labels), generator=generator)
    shared = [
        torch.randn(shape, generator=generator) for shape in ((len(labels),) * 2, (len(labels),), (len(labels),))
    ]
    return table[torch.tensor([int(word) for word in words])], shared


def sampled_corpus(sentences=400, labels=LABELS) -> Dataset:
    """Sentences whose gold tags are drawn from the teacher's own distribution: temperature 1 is right."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for _ in range(sentences):
        length = int(torch.randint(1, 9, (1,), generator=generator))
        words = [str(int(w)) for w in torch.randint(0, 50, (length,), generator=generator)]
        emissions, shared = scores_for(words, labels)
        tags = LinearChainCRF(emissions[None], *shared).sample(1, generator)[0, 0]
        rows.append({"tokens": words, "tags": [labels[tag] for tag in tags.tolist()]})
    return Dataset.from_list(rows)


def overconfident(factor, **options):
    def answer(sentences):
        return [
            (factor * emissions, *(factor * part for part in shared))
            for emissions, shared in (scores_for(words) for words in sentences)
        ]

    return CallableTeacher(answer, LABELS, name="T", revision="1", answers="scores", **options)


@pytest.fixture(scope="module")
def gold() -> Dataset:
    return sampled_corpus()


@pytest.mark.slow
@pytest.mark.parametrize("factor", [3.0, 1.0, 0.4])
def test_scores_times_three_are_divided_by_three(gold, factor):
    teacher = overconfident(factor)
    found = teacher.calibrate(gold)
    assert found.temperature == pytest.approx(factor, rel=0.12)
    assert teacher.temperature == found.temperature
    assert found.nll <= found.nll_before
    assert (found.sentences, found.left_out) == (len(gold), 0)
    # What it says is what the teacher's own distribution now says.
    nll = 0.0
    for row in gold:
        tags = torch.tensor([[LABELS.index(tag) for tag in row["tags"]]])
        nll -= float(teacher.distribution([row["tokens"]], LABELS).log_prob(tags))
    assert nll / len(gold) == pytest.approx(found.nll, rel=1e-5)


@pytest.mark.slow
def test_it_is_the_minimum_and_where_the_teacher_stood_before_does_not_matter(gold):
    found = overconfident(3.0).calibrate(gold)
    assert overconfident(3.0, temperature=5.0).calibrate(gold).temperature == found.temperature
    for other in (found.temperature - 0.05, found.temperature + 0.05):
        teacher = overconfident(3.0, temperature=other)
        tags = [torch.tensor([[LABELS.index(tag) for tag in row["tags"]]]) for row in gold]
        nll = -sum(
            float(teacher.distribution([row["tokens"]], LABELS).log_prob(path)) for row, path in zip(gold, tags)
        ) / len(gold)
        assert nll >= found.nll - 1e-6


@pytest.mark.parametrize(
    ("label_map", "student", "read"),
    [
        ({"LOC": "PER"}, LABELS[:3], lambda tag: tag.replace("LOC", "PER")),
        ({"LOC": "O"}, LABELS[:3], lambda tag: "O" if "LOC" in tag else tag),
        ({"LOC": ["LOC", "GPE"]}, [*LABELS, "B-GPE", "I-GPE"], lambda tag: tag.replace("LOC", "GPE")),
    ],
)
@pytest.mark.slow
def test_label_maps_are_honoured(gold, label_map, student, read):
    """Gold tags as the student has them: merged, dropped, or of a type the teacher cannot tell from another."""
    other = gold.map(lambda row: {"tags": [read(tag) for tag in row["tags"]]})
    found = overconfident(3.0, label_map=label_map).calibrate(other, student)
    assert found.temperature == pytest.approx(3.0, rel=0.15)
    assert found.left_out == 0


def test_sentences_that_cannot_be_judged_are_left_out_and_counted(gold):
    rows = [
        {"tokens": ["1", "2"], "tags": ["O", "B-MISC"]},  # a label the student has not
        {"tokens": ["1", "2"], "tags": None},  # no gold
        *gold.select(range(30)).to_list(),
    ]
    found = overconfident(1.0).calibrate(Dataset.from_list(rows), LABELS)
    assert (found.sentences, found.left_out) == (30, 2)
    listed = CallableTeacher(
        lambda sentences: [[(["O"] * len(words), 0.9), (["B-PER"] * len(words), 0.1)] for words in sentences],
        LABELS, name="T", revision="1", answers="paths",
    )  # fmt: skip
    half = Dataset.from_list([{"tokens": ["1"], "tags": [tag]} for tag in ("O", "B-PER", "I-LOC", "O", "B-PER")])
    found = listed.calibrate(half)  # half of those it thinks possible are O: from 9 to 1 to 1 to 1, as far as may be
    assert (found.sentences, found.left_out, found.temperature) == (4, 1, 10.0)
    with pytest.raises(ValueError, match="cannot be calibrated: of 1 sentences none"):
        listed.calibrate(half.select([2]))
    with pytest.raises(ValueError, match="calibrated on gold tags"):
        listed.calibrate(half.remove_columns("tags"))


@pytest.mark.parametrize("head", ["crf", "softmax"])
def test_checkpoints_of_both_heads_are_never_made_worse(head, make_student, tokenizer, corpus, labels):
    torch.manual_seed(0)
    if head == "crf":
        model = make_student(seed=1)
    else:
        config = XLMRobertaConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=60, pad_token_id=1, type_vocab_size=1,
            id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
        )  # fmt: skip
        model = XLMRobertaForTokenClassification(config)
        torch.nn.init.normal_(model.classifier.weight)
    teacher = Teacher(model, tokenizer)
    found = fit_temperature(teacher, corpus, list(reversed(labels)))
    assert teacher.temperature == 1.0
    assert found.nll < found.nll_before  # it was never trained, so flatter is better
    assert found.temperature > 1.0
