"""Dangers: teachers with different blind spots are mixed as if they knew the same, one is lost, or counts wrongly."""

import itertools
import json
import math

import pytest
import torch
from datasets import Dataset, concatenate_datasets

from hf_structkd import LinearChainCRF, StructKDTrainer, StructKDTrainingArguments, Teacher, annotate
from hf_structkd.data.collator import DataCollatorForStructKD
from hf_structkd.data.columns import TARGET_COLUMNS, target_of, voice_column
from hf_structkd.distillation.losses import sentence_confidence
from hf_structkd.distillation.targets import Targets
from hf_structkd.distillation.weighted_objectives import parse_objective, weighted_losses
from hf_structkd.teachers.annotate import AnnotationError
from hf_structkd.teachers.distribution import TagChain
from hf_structkd.teachers.function import CallableTeacher
from hf_structkd.teachers.panel import ConfidentMixture, Panel, pooled_marginals
from hf_structkd.training.checks import check_answers

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
SENTENCES = [["Mara", "flew", "to", "Oslo"], ["Rain"], ["Dr", "Okoye"]]
OF_GROUPS = ("posterior", "top_k", "top_wk", "token", "emission", "fuzzy", "gate_word", "gate_sentence")


def teacher(name, types, hidden=(), seed=0):
    """Scores that depend on the words; it knows `types`, and what is `hidden` is O to it."""
    labels = ["O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]
    generator = torch.Generator().manual_seed(seed)
    shapes = [(len(labels), len(labels)), (len(labels),), (len(labels),)]
    shared = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]

    def answer(sentences):
        emissions = []
        for words in sentences:
            of_words = [torch.Generator().manual_seed(seed + sum(map(ord, word))) for word in words]
            emissions.append(torch.stack([torch.randn(len(labels), generator=own).double() for own in of_words]))
        return [(one, *shared) for one in emissions]

    label_map = {"O": ["O", *hidden]} if hidden else None
    return CallableTeacher(answer, labels, name=name, revision="1", answers="scores", label_map=label_map)


def three_teachers():
    return [
        (teacher("all", ["PER", "LOC", "ORG"], seed=1), 2.0),
        (teacher("persons and places", ["PER", "LOC"], ["ORG"], seed=2), 1.0),
        (teacher("organisations", ["ORG"], ["PER", "LOC"], seed=3), 5.0),
    ]


def asked(teachers, targets, **options):
    corpus = options.pop("corpus", None) or Dataset.from_dict({"tokens": SENTENCES})
    return annotate(corpus, teachers, label_names=LABELS, targets=targets, progress=False, **options)


def batch_of(annotated):
    """The answers as a batch: the collator's, without the subwords."""

    class NoTokenizer:
        pad_token_id, padding_side = 0, "right"

    rows = [
        {"input_ids": row["tokens"], "attention_mask": [1], "word_mask": [1] * len(row["tokens"]), **row}
        for row in annotated.to_list()
    ]
    for row in rows:
        row["input_ids"] = row["attention_mask"] = row["word_mask"]
    return DataCollatorForStructKD(NoTokenizer(), len(LABELS), label_names=LABELS)(rows)


def student_scores(seed=9):
    generator = torch.Generator().manual_seed(seed)
    count = len(LABELS)
    shapes = [(len(SENTENCES), 4, count), (count, count), (count,), (count,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def student_of(scores):
    return LinearChainCRF(*scores, lengths=torch.tensor([len(words) for words in SENTENCES]))


def losses_of(annotated, spec, scores):
    objectives = parse_objective(spec)
    return weighted_losses(objectives, student_of(scores), Targets.pop_from(batch_of(annotated)))


@pytest.mark.parametrize("name", OF_GROUPS)
def test_the_loss_is_the_weighted_sum_of_each_teachers_own(name):
    needs = parse_objective(name)[name][0].needs
    scores = student_scores()
    together = losses_of(asked(three_teachers(), needs, top_k=4), name, scores)[name]
    alone = [losses_of(asked(member, needs, top_k=4), name, scores)[name] for member, _ in three_teachers()]
    expected = sum(weight / 8 * loss for (_, weight), loss in zip(three_teachers(), alone))
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(loss.sum(), scores[0])[0] for loss in (together, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_posterior_and_paths_agree_with_enumeration():
    """Every tag sequence of the student, read as each teacher reads it, one by one."""
    scores = student_scores()
    annotated = asked(three_teachers(), ["teacher_marginals", "teacher_topk_tags"], top_k=3)
    losses = losses_of(annotated, "posterior+top_wk", scores)
    emissions, transitions, start, end = scores
    for row, words in enumerate(SENTENCES):
        paths = list(itertools.product(range(len(LABELS)), repeat=len(words)))
        log_p = torch.stack([
            start[y[0]] + end[y[-1]] + sum(emissions[row, i, tag] for i, tag in enumerate(y))
            + sum(transitions[pair] for pair in itertools.pairwise(y)) for y in paths
        ]).log_softmax(0).tolist()  # fmt: skip
        posterior = top_wk = 0.0
        for member, weight in three_teachers():
            leader = member.reading(LABELS).groups or tuple(range(len(LABELS)))
            distribution = member.distribution([words], LABELS)
            for i, tag in itertools.product(range(len(words)), range(len(LABELS))):
                q = distribution.marginals[0, i, tag].item()
                p = sum(math.exp(v) for v, y in zip(log_p, paths) if leader[y[i]] == tag)
                posterior -= weight / 8 * (q * math.log(p) if q else 0.0)
            best = distribution.topk(3)
            shares = best.log_prob[0].softmax(0).tolist()
            for path, share in zip(best.tags[0].tolist(), shares):
                p = sum(math.exp(v) for v, y in zip(log_p, paths) if [leader[tag] for tag in y] == path)
                top_wk -= weight / 8 * share * (math.log(p) if share else 0.0)
        assert losses["posterior"][row].item() == pytest.approx(posterior, rel=2e-3)  # stored in half precision
        assert losses["top_wk"][row].item() == pytest.approx(top_wk, rel=1e-5)


def test_teachers_with_the_same_blind_spots_are_mixed_within_their_voice():
    known, first, second = (
        (teacher("all", ["PER", "LOC", "ORG"], seed=1), 1.0),
        (teacher("a", ["PER"], ["LOC", "ORG"], seed=2), 1.0),
        (teacher("b", ["PER"], ["LOC", "ORG"], seed=3), 3.0),
    )
    voices = Panel([first, known, second]).voices(LABELS)
    assert [voice.panel.name for voice in voices] == ["a + b", "all"]
    assert [voice.weight for voice in voices] == pytest.approx([0.8, 0.2])
    row = asked([first, known, second], ["teacher_marginals"])[0]
    alone = [member.distribution([SENTENCES[0]], LABELS).marginals[0] for member in (first[0], second[0])]
    expected = 0.25 * alone[0] + 0.75 * alone[1]
    torch.testing.assert_close(torch.tensor(row["teacher_marginals"]), expected.float(), atol=1e-3, rtol=1e-3)
    assert row["teacher_weight"] == pytest.approx(0.8)
    assert row["teacher_weight_2"] == pytest.approx(0.2)
    assert row["teacher_groups"] == [0, 1, 2, 0, 0, 0, 0]
    assert row["teacher_groups_2"] == list(range(7))


def test_a_language_with_one_voice_beside_one_with_two(tmp_path):
    """Danger: padding of the voice that a language lacks is learnt, or its share of the weight is lost."""
    corpus = Dataset.from_dict({"tokens": SENTENCES, "language": ["xx", "yy", "xx"]})
    single, *pair = three_teachers()
    teachers = {"xx": pair, "yy": single[0]}
    annotated = asked(teachers, ["teacher_marginals"], corpus=corpus)
    assert annotated["teacher_marginals_2"][1] is None
    assert annotated["teacher_weight"][1] == 1.0
    scores = student_scores()
    losses = losses_of(annotated, "posterior", scores)["posterior"]
    alone = losses_of(asked(single[0], ["teacher_marginals"]), "posterior", scores)["posterior"]
    assert losses[1].item() == pytest.approx(alone[1].item(), rel=1e-6)

    stored = asked(teachers, ["teacher_marginals"], corpus=corpus, output_dir=tmp_path / "answers", shard_size=1)
    assert stored.to_dict() == annotated.to_dict()
    again = asked(teachers, ["teacher_marginals"], corpus=corpus, output_dir=tmp_path / "answers", shard_size=1)
    assert again.to_dict() == annotated.to_dict()
    heavier = {"xx": [pair[0], (pair[1][0], 6.0)], "yy": single[0]}
    with pytest.raises(AnnotationError, match=r"teachers\.xx\[1\]\.weight"):
        asked(heavier, ["teacher_marginals"], corpus=corpus, output_dir=tmp_path / "answers")
    twice = asked(three_teachers()[0][0], ["teacher_entropy"], corpus=annotated)
    assert not [name for name in twice.column_names if name.endswith("_2")]  # stale answers are replaced as a whole


def test_the_summary_weighs_the_voices(tmp_path):
    gold = [["B-PER", "O", "O", "B-LOC"], ["O"], ["O", "B-PER"]]
    corpus = Dataset.from_dict({"tokens": SENTENCES, "tags": gold})
    asked(three_teachers(), ["teacher_topk_tags"], corpus=corpus, output_dir=tmp_path / "all", top_k=2)
    summary = lambda name: json.loads((tmp_path / name / "summary.json").read_text())["*"]  # noqa: E731
    parts = []
    for number, (member, _) in enumerate(three_teachers()):
        asked(member, ["teacher_topk_tags"], corpus=corpus, output_dir=tmp_path / str(number), top_k=2)
        parts.append(summary(str(number)))
    for name in ("accuracy", "entropy", "mass"):
        expected = sum(weight / 8 * part[name] for (_, weight), part in zip(three_teachers(), parts))
        assert summary("all")[name] == pytest.approx(expected, rel=1e-5), name
    assert summary("all")["words"] == 7
    # The gold tags change: the accuracy is computed again, for each voice by what it can tell apart.
    other = Dataset.from_dict({"tokens": SENTENCES, "tags": [["O"] * len(words) for words in SENTENCES]})
    asked(three_teachers(), ["teacher_topk_tags"], corpus=other, output_dir=tmp_path / "all", top_k=2)
    asked(three_teachers(), ["teacher_topk_tags"], corpus=other, output_dir=tmp_path / "new", top_k=2)
    assert summary("all")["accuracy"] == pytest.approx(summary("new")["accuracy"])


@pytest.mark.parametrize("seed", range(3))
def test_pooled_marginals_are_the_minimum_of_the_voices_losses(seed):
    groups = [torch.tensor(group) for group in ([0, 1, 0, 3], [0, 0, 2, 0], [0, 1, 2, 0])]
    generator = torch.Generator().manual_seed(seed)
    answers = []
    for group in groups:
        values = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64) ** 3
        answers.append(torch.zeros_like(values).scatter_add(-1, group.expand_as(values), values))
        answers[-1] /= answers[-1].sum(dim=-1, keepdim=True)
    weights = [0.5, 0.3, 0.2]

    def loss(p):
        total = 0.0
        for answer, group, weight in zip(answers, groups, weights):
            of_groups = torch.zeros_like(p).scatter_add(-1, group.expand_as(p), p)
            total = total - weight * (answer * of_groups.clamp(min=1e-300).log()).sum(dim=-1)
        return total

    pooled = pooled_marginals(answers, groups, weights)
    torch.testing.assert_close(pooled.sum(dim=-1), torch.ones(2, 3, dtype=torch.float64))
    for _ in range(200):
        other = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
        nearby = 0.95 * pooled + 0.05 * other / other.sum(dim=-1, keepdim=True)
        assert (loss(pooled) <= loss(nearby) + 1e-6).all()


def test_the_tags_of_several_voices_are_legal_and_each_knows_its_own():
    persons = CallableTeacher(
        lambda sentences: [[[0.1, 0.85, 0.05] if w == "Mara" else [0.9, 0.05, 0.05] for w in s] for s in sentences],
        ["O", "B-PER", "I-PER"], name="P", revision="1", label_map={"O": ["O", "LOC", "ORG"]},
    )  # fmt: skip
    places = CallableTeacher(
        lambda sentences: [[[0.1, 0.85, 0.05] if w == "Oslo" else [0.9, 0.05, 0.05] for w in s] for s in sentences],
        ["O", "B-LOC", "I-LOC"], name="L", revision="1", label_map={"O": ["O", "PER", "ORG"]},
    )  # fmt: skip
    assert Panel([persons, places]).tag(SENTENCES, LABELS)[0] == ["B-PER", "O", "O", "B-LOC"]
    assert Panel([persons, places]).tag(SENTENCES, LABELS)[1] == ["O"]


def test_answers_of_some_teachers_alone_are_refused():
    annotated = asked(three_teachers(), ["teacher_marginals"])
    objectives = parse_objective("posterior")
    check_answers(annotated, objectives, LABELS, 10)
    lost = [name for name in annotated.column_names if name.endswith("_3")]
    with pytest.raises(ValueError, match=r"row 0 of the training data add up to 0\.375"):
        check_answers(annotated.remove_columns(lost), objectives, LABELS, 10)
    with pytest.raises(ValueError, match="lack teacher_marginals_2"):
        check_answers(annotated.remove_columns(["teacher_marginals_2"]), objectives, LABELS, 10)
    with pytest.raises(ValueError, match="cannot tell some of the student's tags apart"):
        asked(three_teachers(), ["teacher_edge_counts", "teacher_marginals"])


def test_names_of_columns():
    for name in TARGET_COLUMNS:
        assert [target_of(voice_column(name, voice)) for voice in (0, 1, 11)] == [name] * 3
    assert [target_of(name) for name in ("tokens", "teacher_marginals_", "teacher_marginals_x2", "labels_2")] == [
        None
    ] * 4


def test_a_student_learns_what_no_single_teacher_knows(make_student, tokenizer, tmp_path):
    """Corpora annotated by one and by several teachers, joined, accumulated, in bfloat16."""
    texts = [["Mara", "flew", "to", "Oslo"], ["Oslo", "rains"], ["Mara", "sang"], ["Rain", "in", "Oslo"]] * 4

    def knows(word, labels, hidden):
        answer = lambda s: [[[0.02, 0.96, 0.02] if w == word else [0.96, 0.02, 0.02] for w in ws] for ws in s]  # noqa: E731
        return CallableTeacher(answer, labels, name=word, revision="1", label_map={"O": ["O", *hidden]})

    labels = LABELS[:5]
    pair = [knows("Mara", ["O", "B-PER", "I-PER"], ["LOC"]), knows("Oslo", ["O", "B-LOC", "I-LOC"], ["PER"])]
    ask = lambda rows, panel: annotate(  # noqa: E731
        Dataset.from_dict({"tokens": rows}), panel, label_names=labels, targets=["teacher_marginals"], progress=False
    )
    train = concatenate_datasets([ask(texts, pair), ask(texts[:2], pair[0])])
    from .. import conftest

    student = conftest.draw_student(tokenizer, labels)
    args = StructKDTrainingArguments(
        output_dir=str(tmp_path), objective="posterior", num_train_epochs=30, learning_rate=2e-2,
        per_device_train_batch_size=4, gradient_accumulation_steps=2, bf16=True, report_to=[], disable_tqdm=True,
        use_cpu=True, save_strategy="no",
    )  # fmt: skip
    StructKDTrainer(student, args, train_dataset=train, processing_class=tokenizer).train()
    from hf_structkd import Teacher

    assert Teacher(student, tokenizer).tag([texts[0]]) == [["B-PER", "O", "O", "B-LOC"]]


# Dangers: a sentence listens to the teacher that is lost, weights that do not add up to 1, or answers that are stored
# as those of other weights.


LENGTHS = [3, 2]


def chain(seed, sharpness):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return TagChain(
        sharpness[:, None, None] * draw(2, 3, 3), draw(3, 3), draw(3), draw(3), lengths=torch.tensor(LENGTHS)
    )


@pytest.fixture
def mixture():
    """The first member is sure of the first sentence, the second of the second."""
    sure = torch.tensor([8.0, 0.2], dtype=torch.float64)
    return ConfidentMixture([chain(0, sure), chain(1, sure.flip(0))], [1.0, 3.0], 0.5)


def test_each_sentence_weighs_its_teachers_by_their_entropy(mixture):
    for row, length in enumerate(LENGTHS):
        entropies = torch.stack([member.entropy()[row] for member in mixture.members])
        expected = torch.tensor([0.25, 0.75]) * torch.exp(-entropies / (length * 0.5))
        torch.testing.assert_close(mixture.sentence_weights[:, row], expected / expected.sum())
    assert mixture.sentence_weights[0, 0] > mixture.sentence_weights[0, 1]
    sharper = ConfidentMixture(mixture.members, [1.0, 3.0], 0.01)
    assert sharper.sentence_weights[0, 0] > 0.999


def test_marginals_paths_and_probabilities_are_those_of_the_mixture(mixture):
    for row, length in enumerate(LENGTHS):
        paths = torch.zeros(3**length, 3, dtype=torch.long)
        paths[:, :length] = torch.tensor(list(itertools.product(range(3), repeat=length)))
        both = paths.expand(2, -1, -1)
        parts = [member.log_prob(both)[row].exp() for member in mixture.members]
        weights = mixture.sentence_weights[:, row]
        expected = weights[0] * parts[0] + weights[1] * parts[1]
        torch.testing.assert_close(expected.sum(), torch.tensor(1.0, dtype=torch.float64))
        torch.testing.assert_close(mixture.log_prob(both)[row].exp(), expected)
        marginals = torch.zeros(length, 3, dtype=torch.float64)
        for word in range(length):
            marginals[word].index_add_(0, paths[:, word], expected)
        torch.testing.assert_close(mixture.marginals[row, :length], marginals)
        best = expected.topk(4)
        found = mixture.topk(4)
        torch.testing.assert_close(found.log_prob[row].exp(), best.values)
        assert found.tags[row, :, :length].tolist() == paths[best.indices, :length].tolist()
    swapped = mixture.select(torch.tensor([1, 0]))
    torch.testing.assert_close(swapped.marginals[0], mixture.marginals[1])
    assert torch.equal(mixture.with_temperature(2.0).sentence_weights, mixture.sentence_weights)


def test_a_panel_records_how_it_weighs(make_student, tokenizer):
    teachers = [Teacher(make_student(seed=seed), tokenizer) for seed in (1, 2)]
    plain, sure = Panel(teachers), Panel(teachers, 0.1)
    assert plain.record() != sure.record()
    assert Panel(sure).record() == sure.record()
    assert Panel(teachers[:1], 0.1).record() == Panel(teachers[:1]).record(), "one teacher answers alone"
    sentences = [["Anna", "flew"], ["to"]]
    labels = teachers[0].labels
    assert not torch.equal(
        plain.distribution(sentences, labels).marginals, sure.distribution(sentences, labels).marginals
    )
    with pytest.raises(ValueError, match="nats per word above 0"):
        Panel(teachers, 0.0)


def test_the_weight_of_a_sentence_falls_with_the_entropy_per_word():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    targets = Targets(teacher_entropy=torch.tensor([1.0, 1.0]))
    weights = sentence_confidence(targets, mask, 2.0)
    torch.testing.assert_close(weights, torch.exp(torch.tensor([-1.0, -2.0])))
    assert sentence_confidence(targets, mask, 0.0).tolist() == [1.0, 1.0]
