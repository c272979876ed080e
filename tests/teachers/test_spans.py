"""Danger: a distribution over spans is not the one that its scores define, or a wrong candidate is believed."""

import itertools
import math
import random

import pytest
import torch
from datasets import Dataset

from hf_structkd import annotate
from hf_structkd.teachers.spans import SpanTeacher

TYPES = ["LOC", "PER"]
BIO = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
BIOES = ["O", *(f"{prefix}-{kind}" for kind in TYPES for prefix in "BIES")]


def teacher_of(answers, **options):
    """A teacher that answers (sentence) -> candidates out of a mapping."""
    options = {"name": "S", "revision": "1", "scores": "log_odds"} | options
    return SpanTeacher(lambda sentences: [answers[tuple(words)] for words in sentences], TYPES, **options)


def random_case(seed):
    """Three sentences of one to six words with some candidates each."""
    draw = random.Random(seed)
    answers = {}
    for row in range(3):
        words = draw.randint(1, 6)
        every = [(s, e, kind) for s in range(words) for e in range(s + 1, min(words, s + 4) + 1) for kind in TYPES]
        chosen = draw.sample(every, min(len(every), draw.randint(0, 9)))
        sentence = tuple(f"w{row}.{i}" for i in range(words))
        answers[sentence] = [(*candidate, draw.gauss(0, 1.5)) for candidate in chosen]
    return answers


def enumerate_tags(words, candidates, temperature, scheme):
    """Tag sequence -> probability, by going through all sets of candidates."""
    weights = {}
    for size in range(len(candidates) + 1):
        for chosen in itertools.combinations(sorted(candidates), size):
            if any(one[1] > two[0] for one, two in itertools.pairwise(chosen)):
                continue
            tags = ["O"] * words
            for start, end, kind, _ in chosen:
                marks = ["B", *"I" * (end - start - 1)]
                if scheme == "BIOES":
                    marks = ["S"] if end - start == 1 else [*marks[:-1], "E"]
                tags[start:end] = [f"{mark}-{kind}" for mark in marks]
            weights[tuple(tags)] = math.exp(sum(span[3] for span in chosen) / temperature)
    total = sum(weights.values())
    return {tags: weight / total for tags, weight in weights.items()}


@pytest.mark.parametrize("labels", [BIO, BIOES], ids=["BIO", "BIOES"])
@pytest.mark.parametrize("seed", range(12))
def test_everything_equals_enumeration(seed, labels):
    answers, temperature = random_case(seed), (1.0, 0.5, 2.0)[seed % 3]
    distribution = teacher_of(answers, temperature=temperature).distribution(list(answers), labels)
    best = distribution.topk(5)
    for row, (sentence, candidates) in enumerate(answers.items()):
        scheme = "BIO" if labels is BIO else "BIOES"
        expected = enumerate_tags(len(sentence), candidates, temperature, scheme)
        marginals = torch.zeros(len(sentence), len(labels), dtype=torch.float64)
        edges = torch.zeros(len(labels), len(labels), dtype=torch.float64)
        for tags, probability in expected.items():
            ids = [labels.index(tag) for tag in tags]
            for word, tag in enumerate(ids):
                marginals[word, tag] += probability
            for one, two in itertools.pairwise(ids):
                edges[one, two] += probability
        exact = {"rtol": 0, "atol": 1e-12}
        torch.testing.assert_close(distribution.marginals[row, : len(sentence)], marginals, **exact)
        torch.testing.assert_close(distribution.edge_counts[row], edges, **exact)
        entropy = -sum(p * math.log(p) for p in expected.values())
        assert float(distribution.entropy()[row]) == pytest.approx(entropy, abs=1e-12)
        ranked = sorted(expected.values(), reverse=True)[:5]
        assert best.log_prob[row][best.valid[row]].exp().tolist() == pytest.approx(ranked, abs=1e-12)
        asked = torch.full((len(answers), 2, distribution.marginals.shape[1]), -100)
        most_probable = max(expected, key=expected.get)
        impossible = ["O"] * (len(sentence) - 1) + [labels[2]]  # I- after O, or at the start
        asked[row, :, : len(sentence)] = torch.tensor(
            [[labels.index(tag) for tag in tags] for tags in (most_probable, impossible)]
        )
        found = distribution.log_prob(asked)[row].tolist()
        assert found == [pytest.approx(math.log(expected[most_probable]), abs=1e-12), -math.inf]


def test_probabilities_count_as_odds_and_the_extremes_are_finite():
    answers = {("a", "b"): [(0, 1, "PER", 0.75), (1, 2, "LOC", 1.0)], ("c",): [(0, 1, "PER", 0.0)]}
    marginals = teacher_of(answers, scores="probabilities").distribution(list(answers), BIO).marginals
    assert marginals[0, 0, 3].item() == pytest.approx(0.75)
    assert marginals[0, 1, 1].item() == pytest.approx(1.0, abs=1e-6)
    assert marginals[1, 0, 0].item() == pytest.approx(1.0, abs=1e-6)


def test_types_are_merged_and_left_open():
    answers = {("a", "b"): [(0, 2, "PER", 0.0), (0, 1, "LOC", 1.0)]}
    merged = teacher_of(answers, label_map={"LOC": "PER"})
    found = merged.distribution(list(answers), ["O", "B-PER", "I-PER"])
    total = 1 + 1 + math.e
    assert found.marginals[0, 0].tolist() == pytest.approx([1 / total, 1 - 1 / total, 0])
    assert found.topk(3).log_prob[0].exp().tolist() == pytest.approx([math.e / total, 1 / total, 1 / total])
    blind = teacher_of(answers, label_map={"O": ["O", "ORG"]})
    labels = [*BIO, "B-ORG", "I-ORG"]
    assert blind.reading(labels).groups is not None
    assert blind.distribution(list(answers), labels).marginals[0, 1].sum().item() == pytest.approx(1)


def test_answers_are_kept_for_every_objective_but_those_of_single_words(tmp_path):
    answers = random_case(3)
    data = Dataset.from_dict({"tokens": [list(words) for words in answers]})
    columns = ["teacher_topk_tags", "teacher_topk_log_probs", "teacher_marginals", "teacher_edge_counts"]
    made = annotate(data, teacher_of(answers), label_names=BIO, targets=columns, top_k=3, output_dir=tmp_path / "a")
    assert {*columns} <= {*made.column_names}
    with pytest.raises(ValueError, match="scores spans and has no teacher_emissions: use top_k"):
        annotate(data, teacher_of(answers), label_names=BIO, targets=["teacher_emissions"])


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((0, 3, "PER", 0.5), "lies outside of the 2 words"),
        ((1, 1, "PER", 0.5), "lies outside"),
        ((0, 1, "DATE", 0.5), "not among LOC, PER"),
        ((0, 1, "PER", 1.5), "no probability"),
        ((0, 1, "PER", math.nan), "no probability"),
    ],
)
def test_a_wrong_candidate_is_named_with_its_sentence(span, message):
    with pytest.raises(ValueError, match=f"teacher S, sentence 'a b': the span .*{message}"):
        teacher_of({("a", "b"): [span]}, scores="probabilities").tag([["a", "b"]])


def test_candidates_are_listed_once_and_finite_and_no_sentence_is_forgotten():
    with pytest.raises(ValueError, match="is listed twice"):
        teacher_of({("a",): [(0, 1, "PER", 0.5), (0, 1, "PER", 0.25)]}).tag([["a"]])
    with pytest.raises(ValueError, match="is not finite"):
        teacher_of({("a",): [(0, 1, "PER", math.inf)]}).tag([["a"]])
    with pytest.raises(ValueError, match="gave 0 answers to 1 sentences"):
        SpanTeacher(lambda sentences: [], TYPES, name="S", revision="1").tag([["a"]])
