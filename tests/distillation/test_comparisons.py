"""Danger: a teacher that knows only some types teaches the student that the others do not exist."""

import itertools

import pytest
import torch
from datasets import concatenate_datasets

from hf_structkd import LinearChainCRF, StructKDTrainer, StructKDTrainingArguments, annotate
from hf_structkd.data.unlabelled import hide_gold
from hf_structkd.distillation.objectives import OBJECTIVES
from hf_structkd.distillation.targets import Targets
from hf_structkd.teachers.distribution import TagChain
from hf_structkd.teachers.function import CallableTeacher
from hf_structkd.teachers.question import target_values

LABELS = ["O", "B-PER", "B-LOC", "I-LOC"]
KNOWN = ["O", "B-PER"]
GROUPS = [0, 1, 0, 0]  # O, B-LOC and I-LOC are one to this teacher
LENGTHS = torch.tensor([3, 1])


def random_scores(seed, count, words=3):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, words, count), (count, count), (count,), (count,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def targets_from(teacher_scores, k=3):
    e, *rest = teacher_scores
    teacher = CallableTeacher(
        lambda sentences: [(e[row, : len(words)], *rest) for row, words in enumerate(sentences)],
        KNOWN,
        name="T",
        revision="1",
        answers="scores",
        label_map={"O": ["O", "LOC"]},
    )
    distribution = teacher.distribution([["w"] * n for n in LENGTHS.tolist()], LABELS)
    names = ["teacher_topk_tags", "teacher_topk_log_probs", "teacher_marginals", "teacher_emissions"]
    names.append("teacher_entropy")
    batch = {name: torch.as_tensor(values) for name, values in target_values(distribution, names, k).items()}
    groups = torch.tensor(teacher.reading(LABELS).groups)
    assert groups.tolist() == GROUPS
    return Targets.pop_from({**batch, "teacher_groups": groups.expand(2, -1)})


def paths_and_log_probs(scores, b, n):
    e, trans, start, end = scores
    paths = list(itertools.product(range(e.shape[-1]), repeat=n))
    total = [
        start[y[0]]
        + end[y[-1]]
        + sum(e[b, i, t] for i, t in enumerate(y))
        + sum(trans[p] for p in itertools.pairwise(y))
        for y in paths
    ]
    return paths, torch.stack(total).log_softmax(dim=0)


def brute_force(name, student, teacher, k=3):
    """Every path of the student is read as the teacher would see it; the teacher's own formula follows."""
    losses = []
    for b, n in enumerate(LENGTHS.tolist()):
        paths, log_s = paths_and_log_probs(student, b, n)
        seen, log_t = paths_and_log_probs(teacher, b, n)
        log_read = torch.stack([
            log_s[[i for i, y in enumerate(paths) if tuple(GROUPS[t] for t in y) == z]].logsumexp(dim=0) for z in seen
        ])  # fmt: skip
        best = log_t.argsort(descending=True)[:k]
        if name == "top_k":
            losses.append(-log_read[best].mean())
        elif name == "top_wk":
            losses.append(-(log_t[best].softmax(dim=0) * log_read[best]).sum())
        elif name == "fuzzy":
            sets = [{seen[p][i] for p in best} for i in range(n)]
            inside = [i for i, z in enumerate(seen) if all(t in s for t, s in zip(z, sets))]
            losses.append(-log_read[inside].logsumexp(dim=0))
        elif name.startswith("gate"):
            loss, gates = 0.0, []
            for i in range(n):
                at = [[p for p, z in enumerate(seen) if z[i] == c] for c in range(2)]
                q_t = torch.stack([log_t[one].logsumexp(dim=0).exp() for one in at])
                gates.append(torch.exp((log_t.exp() * log_t).sum() / n if "sent" in name else (q_t * q_t.log()).sum()))
                loss = loss - gates[i] * sum(q * log_read[one].logsumexp(dim=0) for q, one in zip(q_t, at))
            for weight, p in zip(log_t[best].softmax(dim=0), best):
                before = torch.zeros(())
                for i in range(n):
                    same = [z for z, y in enumerate(seen) if y[: i + 1] == seen[p][: i + 1]]
                    beginning = log_read[same].logsumexp(dim=0)
                    loss, before = loss - (1 - gates[i]) * weight * (beginning - before), beginning
            losses.append(loss)
        elif name == "posterior":
            loss = 0.0
            for i, c in itertools.product(range(n), range(2)):
                at = [p for p, z in enumerate(seen) if z[i] == c]
                loss = loss - log_t[at].logsumexp(dim=0).exp() * log_read[at].logsumexp(dim=0)
            losses.append(loss)
        else:
            e_s = student[0][b, :n].log_softmax(dim=-1)
            grouped = torch.stack((e_s[:, [0, 2, 3]].logsumexp(dim=-1), e_s[:, 1]), dim=1)
            if name == "emission":
                e_t = teacher[0][b, :n].softmax(dim=-1)
            else:
                index = [[[p for p, z in enumerate(seen) if z[i] == c] for c in range(2)] for i in range(n)]
                e_t = torch.stack([torch.stack([log_t[at].logsumexp(dim=0).exp() for at in row]) for row in index])
            losses.append(-(e_t * grouped).sum())
    return torch.stack(losses)


@pytest.mark.parametrize(
    "name", ["top_k", "top_wk", "fuzzy", "posterior", "token", "emission", "gate_word", "gate_sentence"]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_student_is_compared_by_its_probability_of_what_the_teacher_sees(name, seed):
    student, teacher = random_scores(seed, len(LABELS)), random_scores(seed + 50, len(KNOWN))
    mine = [part.clone().requires_grad_() for part in student]
    theirs = [part.clone().requires_grad_() for part in student]
    loss = OBJECTIVES[name]()(LinearChainCRF(*mine, lengths=LENGTHS), targets_from(teacher))
    expected = brute_force(name, theirs, teacher)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    expected.sum().backward()
    for a, b in zip(mine, theirs):
        own, brute = (torch.zeros_like(part) if part.grad is None else part.grad for part in (a, b))
        torch.testing.assert_close(own, brute)


def test_how_a_student_splits_what_the_teacher_cannot_see_costs_nothing():
    """A student that says B-LOC where another says O has the same loss, at the teacher's own minimum."""
    teacher = random_scores(3, len(KNOWN))
    targets = targets_from(teacher)
    one, other = [random_scores(3, len(LABELS)) for _ in range(2)]
    for scores, taken in ((one, 0), (other, 2)):
        free = [c for c in (0, 2, 3) if c != taken]
        scores[0][..., taken], scores[0][..., 1] = teacher[0][..., 0], teacher[0][..., 1]
        scores[0][..., free] = -torch.inf
        for a, b in itertools.product(range(2), range(2)):
            scores[1][(taken, 1)[a], (taken, 1)[b]] = teacher[1][a, b]
        for part in (2, 3):
            scores[part][taken], scores[part][1] = teacher[part][0], teacher[part][1]
    for name in ("posterior", "top_wk", "top_k", "fuzzy"):
        losses = [OBJECTIVES[name]()(LinearChainCRF(*scores, lengths=LENGTHS), targets) for scores in (one, other)]
        torch.testing.assert_close(*losses)
    entropy = -(targets["teacher_marginals"] * targets["teacher_marginals"].clamp(min=1e-30).log()).sum(dim=(1, 2))
    loss = OBJECTIVES["posterior"]()(LinearChainCRF(*other, lengths=LENGTHS), targets)
    torch.testing.assert_close(loss, entropy.to(loss.dtype))


def test_groups_of_one_tag_each_change_nothing():
    student, teacher = random_scores(1, 4), random_scores(2, 4)
    names = ["teacher_topk_tags", "teacher_topk_log_probs", "teacher_marginals"]
    answers = target_values(TagChain(*teacher, lengths=LENGTHS), names, 3)
    alone = {name: torch.as_tensor(values) for name, values in answers.items()}
    grouped = Targets(**alone, teacher_groups=torch.arange(4).expand(2, -1))
    for name in ("posterior", "top_wk", "top_k", "fuzzy"):
        crf = LinearChainCRF(*student, lengths=LENGTHS)
        torch.testing.assert_close(OBJECTIVES[name]()(crf, grouped), OBJECTIVES[name]()(crf, Targets(**alone)))


def test_teachers_with_different_blind_spots_teach_copies(corpus, labels, make_student, tokenizer, tmp_path):
    """Danger: the way that docs/teachers.md shows for them does not train, or reads one's groups for the other's."""
    kinds = sorted({label.split("-")[1] for label in labels if label != "O"})

    def knows(kind):
        own = ["O", f"B-{kind}", f"I-{kind}"]
        others = {"O": ["O", *(other for other in kinds if other != kind)]}
        uniform = lambda sentences: [[[1 / 3] * 3] * len(words) for words in sentences]  # noqa: E731
        return CallableTeacher(uniform, own, name=kind, revision="1", label_map=others)

    few = corpus.select(range(6))
    options = {"label_names": labels, "targets": ["teacher_marginals"], "progress": False}
    parts = [annotate(few, knows(kinds[0]), **options), annotate(hide_gold(few), knows(kinds[1]), **options)]
    train = concatenate_datasets(parts)
    assert train[0]["teacher_groups"] != train[6]["teacher_groups"]
    args = StructKDTrainingArguments(
        str(tmp_path), objective="posterior", per_device_train_batch_size=12, max_steps=1, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = StructKDTrainer(make_student(), args, train_dataset=train, processing_class=tokenizer)
    assert torch.isfinite(torch.tensor(trainer.train().training_loss))
