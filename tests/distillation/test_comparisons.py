"""Danger: a teacher that knows only some types teaches the student that the others do not exist."""

import copy
import itertools
import json
import pickle

import pytest
import torch
from datasets import concatenate_datasets

from hf_structkd import LinearChainCRF, StructKDTrainer, StructKDTrainingArguments, Teacher, annotate
from hf_structkd.data.columns import EMISSIONS, MARGINALS
from hf_structkd.data.unlabelled import hide_gold
from hf_structkd.distillation.losses import focal_weights
from hf_structkd.distillation.objectives import OBJECTIVES
from hf_structkd.distillation.schedules import Progress, make_schedule
from hf_structkd.distillation.targets import Targets
from hf_structkd.distillation.weighted_objectives import parse_objective
from hf_structkd.hub.card_data import card_data
from hf_structkd.hub.model_card import build_model_card
from hf_structkd.recipes.parser import RecipeError, parse_recipe
from hf_structkd.teachers.distribution import TagChain
from hf_structkd.teachers.function import CallableTeacher
from hf_structkd.teachers.question import target_values
from hf_structkd.training import arguments
from hf_structkd.training.card import trainer_results

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


# Danger: a choice of objectives is lost on its way from a recipe to the loss, the log or the card.


OFFICIAL = {"posterior": {"weight": 1, "temperature": 2.25}, "top_wk": 1}


def parsed(*argv):
    return parse_recipe((StructKDTrainingArguments,), [str(part) for part in argv])[0]


def test_the_official_recipe_is_the_same_in_python_yaml_and_on_the_command_line(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"output_dir: {tmp_path}\nuse_cpu: true\n"
        "objective: {posterior: {weight: 1, temperature: 2.25}, top_wk: 1}\nobjective_combination: average\n"
    )
    python = StructKDTrainingArguments(
        str(tmp_path), use_cpu=True, objective=OFFICIAL, objective_combination="average"
    ).objectives
    common = ["--output_dir", tmp_path, "--use_cpu", "--objective_combination", "average"]
    assert parsed(recipe).objectives == python
    assert parsed("--objective", json.dumps(OFFICIAL), *common).objectives == python
    assert {name: (part.temperature, weight) for name, (part, weight) in python.items()} == {
        "posterior": (2.25, 0.5),
        "top_wk": (1.0, 0.5),
    }
    recipe.write_text(f"output_dir: {tmp_path}\nuse_cpu: true\nobjective: top_k\ntemperature: 3\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml.*temperature 3 has no effect"):
        parsed(recipe)
    with pytest.raises(RecipeError, match="combination of objectives must be one of"):
        parsed("--output_dir", tmp_path, "--use_cpu", "--objective_combination", "mean")


def test_objectives_are_parsed_once_and_again_when_a_field_changes(tmp_path, monkeypatch):
    parsed_specs = []

    def parse(spec, *rest):
        parsed_specs.append(copy.deepcopy(spec))
        return parse_objective(spec, *rest)

    monkeypatch.setattr(arguments, "parse_objective", parse)
    args = StructKDTrainingArguments(str(tmp_path), use_cpu=True, objective={"top_k": 1})
    assert args.objectives is args.objectives
    assert parsed_specs == [{"top_k": 1}]
    args.objective["posterior"] = 0.5  # as a search changes a mapping, in place
    assert {name: weight for name, (_, weight) in args.objectives.items()} == {"top_k": 1, "posterior": 0.5}
    args.objective, args.temperature = "posterior", 2.0
    assert args.objectives["posterior"][0].temperature == 2.0
    assert len(parsed_specs) == 3
    args.objective = {"posterior": True}  # equal to the number 1, and no weight
    with pytest.raises(ValueError, match="must be a number"):
        args.check()
    args.objective = "posterior"
    copied = pickle.loads(pickle.dumps(args))
    assert "_objectives" not in copied.__dict__
    assert copied.objectives == args.objectives


@pytest.mark.parametrize("combination", ["sum", "average"])
def test_log_results_and_card_say_how_parts_are_combined(
    combination, make_student, tokenizer, corpus, labels, tmp_path, caplog
):
    caplog.set_level("INFO", logger="hf_structkd.training.trainer")
    args = StructKDTrainingArguments(
        str(tmp_path), objective=OFFICIAL, objective_combination=combination, use_cpu=True, report_to="none",
        max_steps=1, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    teacher = Teacher(make_student(seed=1), tokenizer)
    few = corpus.select(range(8))
    trainer = StructKDTrainer(make_student(), args, None, few, processing_class=tokenizer, teachers=teacher)
    weight, how = {"sum": ("1", "added up"), "average": ("0.5", "averaged")}[combination]
    described = f"posterior (weight {weight}, local temperature 2.25) + top_wk (weight {weight}), {how}"
    assert f"objective: {described}" in caplog.text
    results = trainer_results(trainer, teacher)
    assert results.objective["combination"] == combination
    assert [part["weight"] for part in results.objective["parts"]] == [float(weight)] * 2
    assert f"| parts of the objective | {how} by weight |" in str(build_model_card(card_data(results)))


def test_teachers_are_asked_at_each_temperature_that_an_objective_wants(
    make_student, tokenizer, corpus, labels, tmp_path
):
    objective = {"posterior": {"temperature": 3, "temperature_mode": "global"}, "top_wk": 1}
    args = StructKDTrainingArguments(
        str(tmp_path), objective=objective, top_k=3, use_cpu=True, report_to="none", lambda_schedule="constant"
    )
    teacher, student = Teacher(make_student(seed=1), tokenizer), make_student(seed=2, crf_constraints="none")
    few = corpus.select(range(3))
    trainer = StructKDTrainer(student, args, None, few, processing_class=tokenizer, teachers=teacher)
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.compute_loss(student.eval(), batch, num_items_in_batch=1)
    expected = torch.zeros(())
    with torch.no_grad():
        for words in few["tokens"]:
            mine = Teacher(student, tokenizer).distribution([words], labels)
            theirs = teacher.distribution([words], labels)
            hot = mine.with_temperature(3.0).log_marginals
            expected = expected - 9 * (theirs.with_temperature(3.0).marginals * hot).sum()
            paths = theirs.topk(3)
            weights = paths.log_prob[0].softmax(dim=0)
            expected = expected - (weights * mine.log_prob(paths.tags)[0]).sum()
    torch.testing.assert_close(loss.detach(), expected, atol=2e-2, rtol=2e-3)


# Danger: lambda starts or ends elsewhere than asked, so gold or teachers never count.


def over_a_run(name, steps=40, epochs=4, **options):
    schedule = make_schedule(name, **options)
    return [schedule(Progress(step, steps, step * epochs / steps, epochs)) for step in range(steps)]


@pytest.mark.parametrize("name", ["linear", "cosine", "linear_per_epoch"])
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.2, 0.9)])
def test_schedules_go_from_start_to_end_and_never_back(name, start, end):
    values = over_a_run(name, start=start, end=end)
    assert values[0] == pytest.approx(start)
    assert values[-1] == pytest.approx(end)
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert all(step * (end - start) >= -1e-12 for step in steps)


def test_linear_moves_every_update_and_per_epoch_only_between_epochs():
    assert len(set(over_a_run("linear"))) == 40
    assert over_a_run("linear_per_epoch") == pytest.approx([1.0] * 10 + [2 / 3] * 10 + [1 / 3] * 10 + [0.0] * 10)


def test_the_papers_rate_is_an_amount_an_epoch():
    assert over_a_run("linear_per_epoch", rate=0.01)[-1] == pytest.approx(0.97)
    assert over_a_run("linear_per_epoch", rate=0.5)[-1] == 0.0


def test_constant_is_constant_and_one_step_is_enough():
    assert set(over_a_run("constant", start=0.3)) == {0.3}
    assert over_a_run("linear", steps=1, epochs=1) == [1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "liner"}, r"unknown lambda schedule 'liner'; there are constant.* Did you mean 'linear'\?"),
        ({"name": "linear", "start": 1.5}, "lambda_start must lie in"),
        ({"name": "linear", "rate": 0.1}, "linear_per_epoch only"),
        ({"name": "linear_per_epoch", "rate": 0.0}, "above 0"),
    ],
)
def test_bad_schedules_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(**arguments)


# Dangers: focal weights on the wrong words, on padding, or silently without effect.


IGNORED = -100


@pytest.fixture
def parts():
    """Two sentences of 3 and 2 words in 4 and 3 subwords; the teacher is right about words 0 and 2, and word 1."""
    torch.manual_seed(0)
    student = LinearChainCRF(
        torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True),
        torch.randn(3, 3, dtype=torch.float64),
        lengths=torch.tensor([3, 2]),
    )
    best = torch.tensor([[1, 0, 2], [0, 1, 0]])
    marginals = 0.1 + 0.7 * torch.nn.functional.one_hot(best, 3).double()
    marginals[1, 2] = 0.0
    labels = torch.tensor([[1, IGNORED, 2, 2], [2, 1, IGNORED, IGNORED]])
    word_mask = torch.tensor([[True, False, True, True], [True, True, False, False]])
    return student, marginals, labels, word_mask


def test_words_that_the_teacher_has_right_weigh_more(parts):
    _, marginals, labels, word_mask = parts
    weights = focal_weights(Targets(teacher_marginals=marginals), labels, word_mask, 1.0, 5.0)
    assert weights[0].tolist() == [6.0, 1.0, 6.0]
    assert weights[1, :2].tolist() == [1.0, 6.0]
    unlabelled = torch.stack([labels[0], torch.full((4,), IGNORED)])
    assert focal_weights(Targets(teacher_marginals=marginals), unlabelled, word_mask)[1].tolist() == [1.0, 1.0, 1.0]
    assert focal_weights(Targets(teacher_marginals=marginals), None, word_mask, 2.0).tolist() == [[2.0] * 3] * 2


def test_a_group_that_holds_the_gold_tag_is_right(parts):
    _, marginals, labels, word_mask = parts
    groups = torch.tensor([[0, 1, 0]] * 2)  # the teacher cannot tell tag 2 from tag 0
    targets = Targets(teacher_marginals=marginals, teacher_groups=groups)
    assert focal_weights(targets, labels, word_mask)[0].tolist() == [6.0, 6.0, 6.0]


@pytest.mark.parametrize("name", ["posterior", "token", "emission"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_is_the_weighted_sum_over_words(parts, name, temperature):
    student, marginals, _, _ = parts
    weights = torch.tensor([[6.0, 1.0, 3.0], [2.0, 0.5, 9.0]], dtype=torch.float64)
    answers = {MARGINALS: marginals, EMISSIONS: (marginals + 1e-9).log()}
    objective = OBJECTIVES[name](temperature)

    def loss(chosen):
        return objective(student, Targets(**answers, word_weights=chosen))

    torch.testing.assert_close(loss(torch.ones_like(weights)), objective(student, Targets(**answers)))
    by_word = torch.stack([loss(torch.eye(3, dtype=torch.float64)[word].expand(2, 3)) for word in range(3)], dim=1)
    inside = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(loss(weights), (weights * by_word * inside).sum(dim=1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "posterior+top_wk"}, "objective top_wk is no sum over words"),
        ({"objective": "none"}, "objective none is no sum over words"),
        ({"focal_weights": [1.0]}, "two numbers"),
        ({"focal_weights": [1.0, -1.0]}, "two numbers"),
        ({"focal_weights": [0.0, 0.0]}, "two numbers"),
    ],
)
def test_weights_without_effect_are_refused(tmp_path, fields, message):
    defaults = {"objective": "posterior", "focal_weights": [1.0, 5.0], "output_dir": str(tmp_path), "use_cpu": True}
    with pytest.raises(ValueError, match=message):
        StructKDTrainingArguments(**(defaults | fields))
