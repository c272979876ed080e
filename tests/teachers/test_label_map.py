"""Dangers: probability lost or invented where labels are merged, converted or mixed; lists that are not the best."""

import itertools
import math

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_structkd import annotate
from hf_structkd.modeling.crf_reference import Scores
from hf_structkd.modeling.tag_scheme import TagScheme, convert_tags
from hf_structkd.teachers.distribution import BestPaths, best_candidates
from hf_structkd.teachers.function import CallableTeacher
from hf_structkd.teachers.label_map import mapped_labels, read_labels
from hf_structkd.teachers.panel import Panel
from hf_structkd.teachers.question import target_values
from hf_structkd.teachers.readings import Mixture

WORDS = ["one", "two", "three"]


def scores_of(labels, seed, words=3, scale=1.5):
    generator = torch.Generator().manual_seed(seed)
    count = len(labels)
    return [
        scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((words, count), (count, count), (count,), (count,))
    ]


def chain_teacher(labels, seed=0, words=3, **options):
    scores = scores_of(labels, seed, words)
    answer = lambda sentences: [(scores[0][: len(s)], *scores[1:]) for s in sentences]  # noqa: E731
    return CallableTeacher(answer, labels, name="T", revision="1", answers="scores", **options)


def enumerated(labels, seed, read, words=3, temperature=1.0):
    """The student's tag sequences and their probabilities, from all of the teacher's, each read by `read`."""
    e, trans, start, end = scores_of(labels, seed, words)
    paths = list(itertools.product(range(len(labels)), repeat=words))
    total = torch.stack([
        start[y[0]] + end[y[-1]] + sum(e[i, t] for i, t in enumerate(y)) + sum(trans[p] for p in itertools.pairwise(y))
        for y in paths
    ])  # fmt: skip
    merged: dict[tuple, float] = {}
    for y, p in zip(paths, (total / temperature).softmax(dim=0).tolist()):
        tags = tuple(read([labels[t] for t in y]))
        merged[tags] = merged.get(tags, 0.0) + p
    return merged


def agrees(distribution, expected, label_names, k=4, edges=True):
    words, count = len(next(iter(expected))), len(label_names)
    nodes, pairs = torch.zeros(words, count), torch.zeros(count, count)
    for tags, p in expected.items():
        ids = [label_names.index(tag) for tag in tags]
        for i, tag in enumerate(ids):
            nodes[i, tag] += p
        for pair in itertools.pairwise(ids):
            pairs[pair] += p
    torch.testing.assert_close(distribution.marginals[0].float(), nodes, atol=1e-5, rtol=1e-4)
    if edges:
        torch.testing.assert_close(distribution.edge_counts[0].float(), pairs, atol=1e-5, rtol=1e-4)
    best = sorted(expected.items(), key=lambda item: -item[1])[:k]
    found = distribution.topk(k)
    assert [tuple(label_names[t] for t in path) for path in found.tags[0].tolist()] == [tags for tags, _ in best]
    torch.testing.assert_close(found.log_prob[0].exp().float(), torch.tensor([p for _, p in best]))
    wanted = torch.tensor([[[label_names.index(tag) for tag in tags] for tags in expected]])
    torch.testing.assert_close(
        distribution.log_prob(wanted)[0].exp().float(), torch.tensor(list(expected.values())), atol=1e-6, rtol=1e-4
    )


BIO = ["O", "B-PER", "I-PER", "B-GPE", "I-GPE"]
BIOES = ["O", "B-PER", "I-PER", "E-PER", "S-PER"]


@pytest.mark.parametrize("seed", range(3))
def test_merged_and_dropped_labels_have_the_sums_of_their_probabilities(seed):
    student = ["I-PER", "B-PER", "O"]
    teacher = chain_teacher(BIO, seed, label_map={"GPE": "O"})
    read = {"B-GPE": "O", "I-GPE": "O"}
    expected = enumerated(BIO, seed, lambda tags: [read.get(tag, tag) for tag in tags])
    agrees(teacher.distribution([WORDS], student), expected, student)


def test_a_type_is_merged_into_another_with_its_prefixes():
    student = ["O", "B-LOC", "I-LOC"]
    teacher = chain_teacher(BIO, 4, label_map={"GPE": "LOC", "PER": "LOC"})
    expected = enumerated(BIO, 4, lambda tags: [tag.replace("GPE", "LOC").replace("PER", "LOC") for tag in tags])
    agrees(teacher.distribution([WORDS], student), expected, student)


def as_other(tags, labels, source, target):
    return convert_tags(TagScheme(labels, source).repair(tags), source, target)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("words", [1, 2, 4])
def test_a_bio_teacher_is_read_exactly_in_bioes(seed, words):
    """Oracle: repair and convert every one of the teacher's sequences."""
    labels = ["O", "B-PER", "I-PER"]
    teacher = chain_teacher(labels, seed, words)
    expected = enumerated(labels, seed, lambda tags: as_other(tags, labels, "BIO", "BIOES"), words)
    agrees(teacher.distribution([["w"] * words], BIOES), expected, BIOES, k=min(4, len(expected)))


@pytest.mark.parametrize("seed", range(3))
def test_a_bio_teacher_of_two_types_and_another_name_is_read_exactly_in_bioes(seed):
    student = TagScheme.from_entity_types(["PER", "LOC"], "BIOES").tags
    teacher = chain_teacher(BIO, seed, label_map={"GPE": "LOC"})
    read = lambda tags: as_other([t.replace("GPE", "LOC") for t in tags], list(renamed), "BIO", "BIOES")  # noqa: E731
    renamed = [label.replace("GPE", "LOC") for label in BIO]
    agrees(teacher.distribution([WORDS], student), enumerated(BIO, seed, read), list(student))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("words", [1, 2, 3])
def test_a_bioes_teacher_is_read_exactly_in_bio(seed, words):
    student = ["O", "B-PER", "I-PER"]
    teacher = chain_teacher(BIOES, seed, words)
    expected = enumerated(BIOES, seed, lambda tags: as_other(tags, BIOES, "BIOES", "BIO"), words)
    agrees(teacher.distribution([["w"] * words], student), expected, student, k=min(4, len(expected)))


def test_a_calibrated_teacher_is_softened_before_its_labels_are_merged():
    student = ["O", "B-PER", "I-PER"]
    teacher = chain_teacher(BIO, 5, label_map={"GPE": "O"}, temperature=2.0)
    expected = enumerated(BIO, 5, lambda tags: ["O" if "GPE" in t else t for t in tags], temperature=6.0)
    agrees(teacher.distribution([WORDS], student).with_temperature(3.0), expected, student)


@pytest.mark.parametrize("seed", range(3))
def test_several_teachers_are_one_mixture(seed):
    student = ["O", "B-PER", "I-PER"]
    first, second = chain_teacher(student, seed), chain_teacher(BIOES, seed + 10)
    one = enumerated(student, seed, list)
    two = enumerated(BIOES, seed + 10, lambda tags: as_other(tags, BIOES, "BIOES", "BIO"))
    expected = {tags: 0.75 * p + 0.25 * two.get(tags, 0.0) for tags, p in one.items()}
    panel = Panel([(first, 3.0), (second, 1.0)])
    panel.check(student)
    agrees(panel.distribution([WORDS], student), expected, student)
    members = [first.distribution([WORDS], student), second.distribution([WORDS], student)]
    mean = 0.75 * members[0].entropy() + 0.25 * members[1].entropy()
    torch.testing.assert_close(panel.distribution([WORDS], student).entropy(), mean)


def test_mixed_and_merged_emissions_are_the_logs_of_mixed_and_merged_local_distributions():
    student = ["O", "B-PER", "I-PER"]
    first, second = chain_teacher(student, 1), chain_teacher(BIO, 2, label_map={"GPE": "O"})
    local = scores_of(BIO, 2)[0].softmax(dim=-1)
    merged = torch.stack((local[:, [0, 3, 4]].sum(dim=1), local[:, 1], local[:, 2]), dim=1)
    expected = 0.5 * scores_of(student, 1)[0].softmax(dim=-1) + 0.5 * merged
    answers = target_values(Panel([first, second]).distribution([WORDS], student), ["teacher_emissions"], 1)
    got = torch.as_tensor(answers["teacher_emissions"])[0].softmax(dim=-1)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("labels", [["O", "B-PER", "I-PER"], BIOES])
def test_listed_sequences_are_converted_merged_and_renormalised(labels):
    listed = [([*labels[:2], "O"], 0.3), (["O", "B-PER", "I-PER"], 0.1), (["O", "I-PER", "I-PER"], 0.15)]
    teacher = CallableTeacher(lambda s: [listed], labels, name="T", revision="1", answers="paths")
    source, target = ("BIO", "BIOES") if len(labels) == 3 else ("BIOES", "BIO")
    student = list(TagScheme.from_entity_types(["PER"], target).tags)
    expected: dict[tuple, float] = {}
    for tags, p in listed:
        read = tuple(as_other(tags, labels, source, target))
        expected[read] = expected.get(read, 0.0) + p / 0.55
    agrees(teacher.distribution([WORDS], student), expected, student, k=len(expected))
    entropy = -sum(p * math.log(p) for p in expected.values())
    assert teacher.distribution([WORDS], student).entropy().item() == pytest.approx(entropy)


def test_groups_name_the_tags_that_a_teacher_cannot_tell_apart():
    student = ["O", "B-PER", "I-PER", "B-GPE", "I-GPE"]
    reading = read_labels(mapped_labels(student[:3], {"O": ["O", "GPE"]}, "T"), student, "T")
    assert reading.groups == (0, 1, 2, 0, 0)
    reading = read_labels(mapped_labels(["O", "B-X", "I-X"], {"X": ["PER", "GPE"]}, "T"), student, "T")
    assert reading.groups == (0, 1, 2, 1, 2)
    bioes = ["O", *(f"{p}-{t}" for t in ("PER", "GPE") for p in "BIES")]
    reading = read_labels(mapped_labels(["O", "B-X", "I-X"], {"X": ["PER", "GPE"]}, "T"), bioes, "T")
    assert reading.groups == (0, 1, 2, 3, 4, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("label_map", "student", "message"),
    [
        ({"LOC": "GPE"}, BIO, r"no label \['LOC'\]"),
        ({"GPE": "O"}, BIO, r"lacks \['B-GPE', 'I-GPE'\], and has none"),
        ({"GPE": []}, BIO, "read as nothing"),
        ({"O": ["O", "GPE"]}, BIO, "overlap"),
        ({"O": ["O", "MISC"]}, BIO, r"has \['MISC'\] beyond"),
    ],
)
def test_maps_that_do_not_fit_are_errors_that_name_the_labels(label_map, student, message):
    with pytest.raises(ValueError, match=message):
        chain_teacher(BIO, label_map=label_map).check(student)


def test_what_a_reading_cannot_give_is_refused_before_anyone_is_asked():
    blind = chain_teacher(["O", "B-PER", "I-PER"], label_map={"O": ["O", "GPE"]})
    with pytest.raises(ValueError, match=r"cannot tell .* apart.*structural"):
        blind.check(BIO, ["teacher_edge_counts"])
    with pytest.raises(ValueError, match="BIO and BIOES"):
        chain_teacher(["O", "B-PER", "I-PER"]).check(BIOES, ["teacher_emissions"])
    with pytest.raises(ValueError, match="no transition scores"):
        chain_teacher(BIO, label_map={"GPE": "O"}).check(BIO[:3], ["teacher_transitions"])
    with pytest.raises(ValueError, match="no transition scores in common"):
        Panel([chain_teacher(BIO), chain_teacher(BIO)]).check(BIO, ["teacher_transitions"])
    with pytest.raises(ValueError, match="leave different labels open"):
        Panel([chain_teacher(BIO), blind]).distribution([WORDS], BIO)
    with pytest.raises(ValueError, match="weight of teacher T must be above 0"):
        Panel([(chain_teacher(BIO), 0.0)])


def test_autocast_around_an_annotation_changes_nothing_that_is_merged_mixed_or_listed():
    """Danger: sums over merged tags are products of matrices, which bfloat16 rounds to two digits."""
    student = ["O", "B-PER", "I-PER"]

    class Single(CallableTeacher):
        def chain_scores(self, sentences):
            found = super().chain_scores(sentences)
            return found._replace(scores=Scores(*(part.float() for part in found.scores)))

    def asked():
        scores = scores_of(BIO, 2)
        merging = Single(
            lambda sentences: [scores] * len(sentences), BIO, name="T", revision="1", answers="scores",
            label_map={"GPE": "O"},
        )  # fmt: skip
        wanted = ["teacher_marginals", "teacher_edge_counts", "teacher_topk_tags", "teacher_topk_log_probs"]
        return [
            target_values(panel.distribution([WORDS], student), wanted, 3)
            for panel in (Panel(merging), Panel([merging, chain_teacher(BIOES, 3)]))
        ]

    plain = asked()
    with torch.autocast("cpu", torch.bfloat16):
        cast = asked()
    for one, other in zip(plain, cast):
        for name in one:
            torch.testing.assert_close(torch.tensor(one[name]), torch.tensor(other[name]), atol=1e-6, rtol=1e-5)


# Dangers: a list called the k best that is not, or one that is and is not trusted.


LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def chain(seed, lengths, scale, labels=LABELS, **options):
    generator = torch.Generator().manual_seed(seed)
    count = len(labels)
    shared = [scale * torch.randn(shape, generator=generator) for shape in ((count, count), (count,), (count,))]
    emissions = [scale * torch.randn(words, count, generator=generator) for words in lengths]
    teacher = CallableTeacher(
        lambda sentences: [(e, *shared) for e in emissions],
        labels,
        name="T",
        revision="1",
        answers="scores",
        **options,
    )
    return teacher.distribution([["w"] * words for words in lengths], ["O", "B-PER", "I-PER"] if options else labels)


def all_of(distribution, row, words, num_tags):
    """Every sequence of a sentence, with its probability, best first."""
    width = int(distribution.lengths.max())
    tags = torch.full((1, num_tags**words, width), -100)
    tags[0, :, :words] = torch.tensor(list(itertools.product(range(num_tags), repeat=words)))
    one = distribution.select(torch.tensor([row]))
    return one.log_prob(tags)[0].exp().sort(descending=True).values


def listed(lengths):
    """A teacher that gives three sequences, which may end alike."""
    rows = [[(["O"] * n, 0.5), (["B-PER"] * n, 0.3), (["O"] * (n - 1) + ["B-PER"], 0.2)] for n in lengths]
    teacher = CallableTeacher(lambda sentences: rows, LABELS[:3], name="L", revision="1", answers="paths")
    return teacher.distribution([["w"] * words for words in lengths], LABELS[:3])


def of_kind(kind, seed, lengths, scale):
    merged = [chain(seed + i, lengths, scale, label_map={"LOC": "PER"}) for i in range(2)]
    if kind == "merged":
        return merged[0], 3
    if kind == "mixed":
        return Mixture([chain(seed + i, lengths, scale) for i in range(2)], [3.0, 1.0]), 5
    plain = chain(seed, lengths, scale, LABELS[:3])
    return Mixture([Mixture(merged, [1.0, 2.0]), plain, listed(lengths)], [1.0, 2.0, 0.5]), 3


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.1, 1.0, 3.0, 30.0]),
    st.integers(1, 6),
    st.sampled_from(["merged", "mixed", "everything"]),
)
def test_what_is_called_proven_is_what_enumeration_finds(seed, scale, k, kind):
    lengths = [1, 4, 3]
    distribution, num_tags = of_kind(kind, seed, lengths, scale)
    found = distribution.topk(k)
    assert isinstance(found, BestPaths)
    assert found.proven.all()  # sentences as short as these leave nothing open
    torch.testing.assert_close(found.log_prob, distribution.log_prob(found.tags), atol=1e-4, rtol=1e-5)
    for row, words in enumerate(lengths):
        best = all_of(distribution, row, words, num_tags)
        mine = found.log_prob[row].exp()[found.valid[row]]
        assert len(mine) == min(k, len(best)) or float(best[len(mine)]) < 1e-12
        torch.testing.assert_close(mine.double(), best[: len(mine)].double(), atol=2e-6, rtol=1e-4)
        assert len(set(map(tuple, found.tags[row, : len(mine)].tolist()))) == len(mine)


def test_a_narrow_beam_that_drops_something_better_is_not_believed(monkeypatch):
    """Danger: what fell off is forgotten. A beam of one finds what it finds; proven only where it is the best."""
    monkeypatch.setattr("hf_structkd.teachers.k_best_search._WIDTHS", (1,))
    lengths, told = [4] * 60, set()
    distribution = chain(0, lengths, 0.4, label_map={"LOC": "PER"})
    found = distribution.topk(1)
    for row in range(len(lengths)):
        right = abs(float(found.log_prob[row, 0].exp() - all_of(distribution, row, 4, 3)[0])) < 1e-6
        assert right or not found.proven[row]
        told.add((right, bool(found.proven[row])))
    assert {(True, True), (False, False)} <= told


def test_long_sentences_of_flat_and_of_sure_teachers_are_proven_in_probabilities_that_no_float_holds():
    """Danger: underflow. 400 words, each tag equally likely: probabilities of e^-440."""
    flat = chain(0, [400, 1], 0.0, label_map={"LOC": "PER"}).topk(3)
    assert flat.proven.tolist() == [True, True]
    assert flat.log_prob[0].tolist() == pytest.approx([400 * math.log(2 / 5)] * 3, rel=1e-5)
    assert int(flat.valid[1].sum()) == 3
    sure = Mixture([chain(seed, [400], 30.0) for seed in (1, 2)], [1.0, 1.0])
    found = sure.topk(3)
    assert found.proven.all()
    torch.testing.assert_close(found.log_prob, sure.log_prob(found.tags), rtol=1e-4, atol=1e-4)


def test_unproven_sentences_are_counted_in_the_summary(caplog):
    """Sixty words, every tag nearly as likely as any other: more good sequences than any search keeps."""

    def nearly_flat(sentences):
        generator = torch.Generator().manual_seed(0)
        return [(0.05 * torch.randn(len(s), 5, generator=generator), transitions) for s in sentences]

    transitions = 0.05 * torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    flat = CallableTeacher(nearly_flat, LABELS, name="flat", revision="1", answers="scores", label_map={"LOC": "PER"})
    corpus = Dataset.from_dict({"tokens": [["w"] * 60, ["w"], ["w"] * 2]})
    annotate(corpus, flat, label_names=LABELS[:3], targets=["teacher_topk_tags"], top_k=4, progress=False)
    assert "for 1 of 3 sentences a sequence outside the k best may be more probable" in caplog.text


def test_the_pool_knows_equal_sequences_and_only_those():
    tags = torch.tensor([[[1, 2, -100], [1, 2, -100], [2, 1, -100], [-100, -100, -100]]])
    best = best_candidates(tags, torch.tensor([[0.5, 0.5, 0.25, 1.0]]).log(), 3)
    assert best.tags[0].tolist() == [[1, 2, -100], [2, 1, -100], [-100] * 3]
    assert best.valid[0].tolist() == [True, True, False]


@pytest.mark.parametrize("rows", [[0], [2, 1]])
def test_some_sentences_of_any_distribution_are_those_sentences(rows):
    lengths = [4, 2, 3]
    listed = CallableTeacher(
        lambda sentences: [[(["O"] * len(words), 0.6), (["B-LOC"] * len(words), 0.4)] for words in sentences],
        LABELS, name="T", revision="1", answers="paths",
    )  # fmt: skip
    words = [["w"] * n for n in lengths]
    one = CallableTeacher(
        lambda s: [[[0.2] * 5] * len(w) for w in s], LABELS, name="U", revision="1", label_map={"LOC": "PER"}
    )
    for distribution in (
        listed.distribution(words, LABELS),
        Panel([listed, listed]).distribution(words, LABELS),
        one.distribution(words, LABELS[:3]),
    ):
        part = distribution.select(torch.tensor(rows))
        torch.testing.assert_close(part.marginals, distribution.marginals[rows])
        assert part.lengths.tolist() == [lengths[row] for row in rows]
