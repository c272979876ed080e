"""Dangers: a loss that is not its equation, a gradient that is not its loss's, padding that counts."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_structkd import LinearChainCRF
from hf_structkd.data.columns import TARGET_COLUMNS
from hf_structkd.distillation.comparisons import word_log_probs
from hf_structkd.distillation.objectives import OBJECTIVES
from hf_structkd.distillation.targets import Targets
from hf_structkd.distillation.weighted_objectives import (
    annotation_temperatures,
    describe_objectives,
    needed_columns,
    parse_objective,
    weighted_losses,
)
from hf_structkd.modeling.crf_reference import Scores
from hf_structkd.teachers.distribution import TagChain
from hf_structkd.teachers.label_map import read_labels
from hf_structkd.teachers.question import target_values
from hf_structkd.teachers.readings import read_chain

GLOBAL = [name for name in sorted(OBJECTIVES) if "global" in OBJECTIVES[name].temperature_modes]
B, T, C = 3, 4, 3
LENGTHS = torch.tensor([4, 1, 3])


def random_scores(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, T, C), (C, C), (C,), (C,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def targets_of(scores: list[torch.Tensor], names, top_k: int = 3, temperature: float = 1.0) -> Targets:
    """A teacher's answers for a batch, rounded as a dataset would store them."""
    teacher = TagChain(*scores, lengths=LENGTHS).with_temperature(temperature)
    batch = {}
    for name, values in target_values(teacher, names, top_k).items():
        column = TARGET_COLUMNS[name]
        batch[name] = torch.as_tensor(values.astype(column.stored)).to(column.dtype)
    return Targets.pop_from(batch)


def brute_force(name: str, student: list[torch.Tensor], teacher: list[torch.Tensor], k: int = 3) -> torch.Tensor:
    """Each objective from all C^n sequences, sentence by sentence."""
    emissions, transitions, start, end = student
    losses = []
    for b, n in enumerate(LENGTHS.tolist()):
        paths = list(itertools.product(range(C), repeat=n))

        def log_probs(scores, paths=paths, b=b):
            e, trans, s, f = scores
            total = [
                s[y[0]]
                + f[y[-1]]
                + sum(e[b, i, tag] for i, tag in enumerate(y))
                + sum(trans[p] for p in itertools.pairwise(y))
                for y in paths
            ]
            return torch.stack(total).log_softmax(dim=0)

        log_s, log_t = log_probs((emissions, transitions, start, end)), log_probs(teacher)
        best = log_t.argsort(descending=True)[:k]
        if name == "structural":
            losses.append(-(log_t.exp() * log_s).sum())
        elif name == "top_k":
            losses.append(-log_s[best].mean())
        elif name == "top_wk":
            losses.append(-(log_t[best].softmax(dim=0) * log_s[best]).sum())
        elif name == "posterior":
            member = torch.tensor([[[float(y[i] == c) for c in range(C)] for i in range(n)] for y in paths]).double()
            q_t = torch.einsum("p,pic->ic", log_t.exp(), member)
            q_s = torch.einsum("p,pic->ic", log_s.exp(), member)
            losses.append(-(q_t * q_s.log()).sum())
        elif name == "token":
            member = torch.tensor([[[float(y[i] == c) for c in range(C)] for i in range(n)] for y in paths]).double()
            q_t = torch.einsum("p,pic->ic", log_t.exp(), member)
            losses.append(-(q_t * emissions[b, :n].log_softmax(dim=-1)).sum())
        elif name == "emission":
            e_t, e_s = teacher[0][b, :n], emissions[b, :n]
            losses.append(-(e_t.softmax(dim=-1) * e_s.log_softmax(dim=-1)).sum())
        elif name == "fuzzy":
            sets = [{paths[p][i] for p in best} for i in range(n)]
            inside = [p for p, y in enumerate(paths) if all(tag in allowed for tag, allowed in zip(y, sets))]
            losses.append(-log_s[inside].logsumexp(dim=0))
        elif name.startswith("gate"):
            member = torch.tensor([[[float(y[i] == c) for c in range(C)] for i in range(n)] for y in paths]).double()
            q_t = torch.einsum("p,pic->ic", log_t.exp(), member)
            q_s = torch.einsum("p,pic->ic", log_s.exp(), member)
            gates = (q_t * q_t.log()).sum(dim=1).exp()
            if name == "gate_sentence":
                gates = ((log_t.exp() * log_t).sum() / n).exp().expand(n)
            total = -(gates[:, None] * q_t * q_s.log()).sum()
            for weight, p in zip(log_t[best].softmax(dim=0), best):
                before = torch.zeros(())
                for i in range(n):  # the probability of the beginning: of all that begin so
                    same = [z for z, y in enumerate(paths) if y[: i + 1] == paths[p][: i + 1]]
                    beginning = log_s[same].logsumexp(dim=0)
                    total = total - (1 - gates[i]) * weight * (beginning - before)
                    before = beginning
            losses.append(total)
        else:
            losses.append(sum(pair_variances((emissions, transitions, start, end), teacher, b, n)))
    return torch.stack(losses)


def pair_variances(student, teacher, b: int, n: int):
    """The mean squared difference of centred potentials, word by word, from the whole words x tags x tags array."""

    def potentials(scores, i):
        e, trans, start, end = scores
        own = e[b, i] + (end if i == n - 1 else 0)
        return own + start if i == 0 else own + trans

    for i in range(n):
        yield (potentials(student, i) - potentials(teacher, i)).var(correction=0)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_loss_and_gradient_are_the_equations(name, seed):
    student, teacher = random_scores(seed), random_scores(seed + 1)
    objective = OBJECTIVES[name]()
    targets = targets_of(teacher, objective.needs)
    mine = [part.clone().requires_grad_() for part in student]
    theirs = [part.clone().requires_grad_() for part in student]
    loss = objective(LinearChainCRF(*mine, lengths=LENGTHS), targets)
    expected = brute_force(name, theirs, teacher)
    # Stored marginals are float16 and the rest float32: what is tested is the equation, not their rounding.
    torch.testing.assert_close(loss, expected, atol=2e-3, rtol=2e-3)
    loss.sum().backward()
    expected.sum().backward()
    for a, b in zip(mine, theirs):
        own, brute = (torch.zeros_like(part) if part.grad is None else part.grad for part in (a, b))
        torch.testing.assert_close(own, brute, atol=3e-3, rtol=3e-3)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(("structural", None), ("posterior", None), ("emission", None), ("substructure", None), ("token", None)),
        *(("posterior", "local"), ("emission", "local"), ("token", "local")),
        *(("structural", "global"), ("posterior", "global"), ("emission", "global")),
    ],
)
def test_the_minimum_is_at_the_teacher(name, mode):
    teacher = random_scores(3)
    if name == "token":  # a softmax teacher and student
        teacher = [teacher[0], *(torch.zeros_like(part) for part in teacher[1:])]
    objective = OBJECTIVES[name](2.25, mode) if mode else OBJECTIVES[name]()
    targets = targets_of(teacher, objective.needs, temperature=2.25 if mode == "global" else 1.0)
    student = [part.clone().requires_grad_() for part in teacher]
    objective(LinearChainCRF(*student, lengths=LENGTHS), targets).sum().backward()
    for part in student:
        if part.grad is not None:
            assert part.grad.abs().max() < 2e-2  # zero up to the rounding of float16 targets
    other = random_scores(4)
    at_teacher = objective(LinearChainCRF(*teacher, lengths=LENGTHS), targets)
    assert (objective(LinearChainCRF(*other, lengths=LENGTHS), targets) > at_teacher).all()


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_padding_and_unanswered_sentences_add_nothing(name):
    objective = OBJECTIVES[name]()
    teacher = targets_of(random_scores(1), objective.needs)
    student = random_scores(2)
    whole = objective(LinearChainCRF(*student, lengths=LENGTHS), teacher)
    student[0][1, 1:] = float("nan")
    torch.testing.assert_close(objective(LinearChainCRF(*student, lengths=LENGTHS), teacher), whole)
    for column in objective.needs:
        getattr(teacher, column)[0] = TARGET_COLUMNS[column].padding
    emissions = random_scores(2)
    emissions[0].requires_grad_()
    loss = objective(LinearChainCRF(*emissions, lengths=LENGTHS), teacher)
    assert loss[0] == 0
    torch.testing.assert_close(loss[1:], whole[1:])
    loss.sum().backward()
    assert (emissions[0].grad[0] == 0).all()


@pytest.mark.parametrize("groups", [None, (0, 0, 2)], ids=["tags", "groups"])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_sentence_has_the_same_loss_and_gradient_alone_and_in_a_batch(name, groups):
    """A batch of one-word sentences has no transitions: `gate_word` lost its sequences there."""
    scores, objective = random_scores(31), OBJECTIVES[name]()
    answers = targets_of(random_scores(32), objective.needs)
    if groups and name not in ("structural", "substructure"):
        answers.teacher_groups = torch.tensor(groups).expand(B, -1)
        if answers.teacher_topk_tags is not None:
            tags = answers.teacher_topk_tags
            answers.teacher_topk_tags = torch.where(tags < 0, tags, torch.tensor(groups)[tags.clamp(min=0)])
    together = [part.clone().requires_grad_() for part in scores]
    losses = objective(LinearChainCRF(*together, lengths=LENGTHS), answers)
    losses.sum().backward()
    apart = [part.clone().requires_grad_() for part in scores]
    for row, length in enumerate(LENGTHS.tolist()):
        alone = Targets()
        for column, axes in ((name, TARGET_COLUMNS[name].axes) for name in (*objective.needs, "teacher_groups")):
            if (value := getattr(answers, column)) is not None:
                words = [slice(length if axis == "words" else None) for axis in axes]
                setattr(alone, column, value[(slice(row, row + 1), *words)])
        crf = LinearChainCRF(apart[0][row : row + 1, :length], *apart[1:], lengths=LENGTHS[row : row + 1])
        (loss,) = objective(crf, alone)
        torch.testing.assert_close(loss, losses[row])
        loss.backward()
    for one, other in zip(together, apart):
        torch.testing.assert_close(one.grad, other.grad)


def test_one_path_makes_top_k_and_top_wk_the_likelihood_of_the_best_sequence():
    teacher, student = LinearChainCRF(*random_scores(5), lengths=LENGTHS), random_scores(6)
    targets = targets_of(random_scores(5), ("teacher_topk_tags", "teacher_topk_log_probs"), top_k=1)
    expected = -LinearChainCRF(*student, lengths=LENGTHS).log_prob(teacher.argmax()[0])
    for name in ("top_k", "top_wk"):
        loss = OBJECTIVES[name]()(LinearChainCRF(*student, lengths=LENGTHS), targets)
        torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)


def test_all_paths_make_top_wk_the_exact_structural_loss():
    """So its minimum is at the teacher as k grows; that of `top_k`, which weighs them alike, is not."""
    needs = dict.fromkeys((*OBJECTIVES["top_wk"].needs, *OBJECTIVES["structural"].needs))
    targets, student = targets_of(random_scores(5), list(needs), top_k=C**T), random_scores(6)
    crf = LinearChainCRF(*student, lengths=LENGTHS)
    exact = OBJECTIVES["structural"]()(crf, targets)
    torch.testing.assert_close(OBJECTIVES["top_wk"]()(crf, targets), exact, atol=2e-3, rtol=2e-3)
    assert (OBJECTIVES["top_k"]()(crf, targets) - exact).abs().max() > 0.1


def test_the_golden_example_of_the_paper():
    """SLKD table 1: Top-2 weights .57 and .43. Positions are written into the tags, as its edge scores differ."""
    psi = {(0, "FF"): 2, (0, "FT"): 0.5, (0, "TF"): 0.5, (0, "TT"): 2}
    psi |= {(1, "FF"): 1 / 3, (1, "FT"): 3, (1, "TF"): 4, (1, "TT"): 1 / 4}
    transitions = torch.zeros(6, 6, dtype=torch.float64)
    allowed = torch.zeros(6, 6, dtype=torch.bool)
    for (position, (a, b)), value in psi.items():
        i, j = 2 * position + "FT".index(a), 2 * position + 2 + "FT".index(b)
        transitions[i, j], allowed[i, j] = math.log(value), True
    crf = TagChain(
        torch.zeros(1, 3, 6, dtype=torch.float64),
        transitions,
        allowed=allowed,
        allowed_start=torch.tensor([True, True, False, False, False, False]),
        allowed_end=torch.tensor([False, False, False, False, True, True]),
    )
    answers = target_values(crf, ("teacher_topk_tags", "teacher_topk_log_probs"), 2)
    targets = Targets.pop_from({name: torch.as_tensor(values) for name, values in answers.items()})
    statistics = targets.path_statistics(6, targets.path_weights(weighted=True))
    weight_of_ttf = statistics.nodes[0, 0, 1]
    assert weight_of_ttf.item() == pytest.approx(0.57, abs=5e-3)
    assert statistics.nodes[0, 0, 0].item() == pytest.approx(0.43, abs=5e-3)


def test_names_are_combined_and_weighted():
    chosen = parse_objective("posterior+top_wk", temperature=2.0)
    assert {name: weight for name, (_, weight) in chosen.items()} == {"posterior": 1.0, "top_wk": 1.0}
    assert chosen["posterior"][0].temperature == 2.0
    assert needed_columns(chosen) == ("teacher_marginals", "teacher_topk_tags", "teacher_topk_log_probs")
    assert parse_objective("none") == {}
    assert parse_objective({"top_k": 0.5})["top_k"][1] == 0.5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("posteriro", "unknown objective 'posteriro'; there are none, "),
        ("posterior+topk", r"unknown objective 'topk'; .* Did you mean 'top_k'\?"),
        ({"top_k": {"wweight": 2}}, r"has no \['wweight'\]; .* Did you mean 'weight'\?"),
        ("posterior+posterior", "twice"),
        ({"posterior": 0}, "must be above 0"),
        ({"posterior": float("inf")}, "finite"),
        ({}, "empty"),
        ("none+posterior", "unknown objective 'none'"),
    ],
)
def test_bad_choices_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        parse_objective(spec)


@pytest.mark.parametrize(
    ("temperature", "mode", "message"),
    [
        *((0.0, "local", "above 0, not 0"), (-1.0, "global", "above 0"), (math.nan, "local", "above 0")),
        (1.0, "Local", "temperature_mode must be one of"),
    ],
)
def test_a_wrong_temperature_or_mode_is_named_even_where_nothing_is_chosen(temperature, mode, message):
    for make in (OBJECTIVES["posterior"], OBJECTIVES["structural"], lambda *given: parse_objective("none", *given)):
        with pytest.raises(ValueError, match=message):
            make(temperature, mode)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_targets_that_were_not_stored_are_named_with_the_call_that_makes_them(name):
    with pytest.raises(ValueError, match=r"'(teacher_\w+)'.*hf_structkd\.annotate\(.*targets=\['\1'\]"):
        OBJECTIVES[name]()(LinearChainCRF(*random_scores(1), lengths=LENGTHS), Targets())


@pytest.mark.parametrize("name", [name for name in GLOBAL if not name.startswith("gate")])
def test_a_global_temperature_is_the_objective_between_two_divided_chains(name):
    """T^2, or T where paths are compared, times the loss at T = 1 between CRFs whose every score is divided by T."""
    T = 2.0
    student, teacher = random_scores(7), random_scores(8)
    objective, plain = OBJECTIVES[name](T, "global"), OBJECTIVES[name]()
    targets = targets_of(teacher, objective.needs, temperature=T)
    divided = [part / T for part in student]
    factor = T if name in ("top_k", "top_wk", "fuzzy") else T**2
    expected = factor * plain(LinearChainCRF(*divided, lengths=LENGTHS), targets)
    crf = LinearChainCRF(*student, lengths=LENGTHS)
    torch.testing.assert_close(objective(crf, targets), expected)
    both = weighted_losses({name: (objective, 0.5)}, crf, targets)
    torch.testing.assert_close(both[name], 0.5 * expected)


@pytest.mark.parametrize("mode", ["local", "global"])
@pytest.mark.parametrize("name", ["gate_word", "gate_sentence"])
def test_a_gates_parts_are_softened_as_each_alone(name, mode, monkeypatch):
    """With every gate 1 or 0 it is `posterior` or `top_wk`, at each temperature."""
    student, temperature = LinearChainCRF(*random_scores(7), lengths=LENGTHS), 2.0
    of_teacher = temperature if mode == "global" else 1.0
    targets = targets_of(random_scores(8), OBJECTIVES[name].needs, temperature=of_teacher)
    parts = [OBJECTIVES[part](temperature, mode)(student, targets) for part in ("posterior", "top_wk")]
    if name == "gate_sentence":
        gates = (-targets.teacher_entropy / LENGTHS).exp()
        expected = gates * parts[0] + (1 - gates) * parts[1]
        torch.testing.assert_close(
            OBJECTIVES[name](temperature, mode)(student, targets), expected, rtol=1e-5, atol=1e-5
        )
    shape = (B,) if name == "gate_sentence" else (B, T)
    for part, everywhere in zip(parts, (1.0, 0.0)):
        gates = torch.full(shape, everywhere)
        function = "sentence_gates" if name == "gate_sentence" else "word_gates"
        monkeypatch.setattr(f"hf_structkd.distillation.objectives.{function}", lambda *given, gates=gates: gates)
        torch.testing.assert_close(OBJECTIVES[name](temperature, mode)(student, targets), part, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gate_word", "gate_sentence"])
def test_the_minimum_of_a_gate_over_all_sequences_is_at_the_teacher(name):
    teacher = random_scores(3)
    targets = targets_of(teacher, OBJECTIVES[name].needs, top_k=C**T)
    student = [part.clone().requires_grad_() for part in teacher]
    OBJECTIVES[name]()(LinearChainCRF(*student, lengths=LENGTHS), targets).sum().backward()
    assert all(part.grad.abs().max() < 2e-2 for part in student)


def test_the_words_of_a_path_that_the_student_excludes():
    """-inf where it becomes impossible, no NaN, and no gradient but of what is possible."""
    scores = [part.requires_grad_() for part in random_scores(2)]
    allowed = torch.ones(C, C, dtype=torch.bool)
    allowed[0, 1] = False
    crf = LinearChainCRF(*scores, lengths=LENGTHS, allowed=allowed)
    tags = torch.full((B, 2, T), -100)
    tags[0] = torch.tensor([[0, 0, 1, 2], [2, 2, 0, 0]])
    tags[1, 0, 0], tags[2, 0, :3] = 1, torch.tensor([0, 1, 1])
    alone = torch.arange(C).expand(B, -1)
    for groups in (None, alone):
        found = word_log_probs(crf, tags, groups)
        assert (found[0, 0] == -torch.inf).tolist() == [False, False, True, False]
        assert (found[2, 0] == -torch.inf).tolist() == [False, True, False, False]
        assert found[0, 1].sum().item() == pytest.approx(crf.log_prob(tags[0:1, 1].expand(B, -1))[0].item())
        assert (found[1, 1] == 0).all()  # no such path
        gradients = torch.autograd.grad(found[found > -torch.inf].sum(), scores, retain_graph=True)
        assert all(part.isfinite().all() for part in gradients)
    torch.testing.assert_close(word_log_probs(crf, tags, None), word_log_probs(crf, tags, alone))


@pytest.mark.parametrize("name", ["top_wk", "emission"])
def test_where_the_two_temperatures_are_documented_as_the_same_they_are(name):
    student, teacher = LinearChainCRF(*random_scores(7), lengths=LENGTHS), random_scores(8)
    needs = OBJECTIVES[name].needs
    local = OBJECTIVES[name](3.0, "local")(student, targets_of(teacher, needs))
    everywhere = OBJECTIVES[name](3.0, "global")(student, targets_of(teacher, needs, temperature=3.0))
    torch.testing.assert_close(local, everywhere, atol=1e-5, rtol=1e-5)


def test_of_merged_tags_the_two_temperatures_of_emission_differ_as_it_says():
    """The local one acts on the sums over what was merged, the global one on what is summed."""
    reading = read_labels([["A"], ["B"], ["B"]], ["A", "B"], "T")
    own, lengths = torch.tensor([[[0.0, 1.0, 2.0]]]), torch.tensor([1])
    teacher = read_chain(Scores(own, torch.zeros(3, 3), torch.zeros(3), torch.zeros(3)), lengths, reading)
    student = LinearChainCRF(torch.tensor([[[0.5, 0.0]]]), torch.zeros(2, 2), lengths=lengths)
    for mode, emissions in (
        ("local", torch.stack([own[..., 0], own[..., 1:].logsumexp(-1)], -1) / 3.0),
        ("global", torch.stack([own[..., 0] / 3.0, (own[..., 1:] / 3.0).logsumexp(-1)], -1)),
    ):
        asked = teacher if mode == "local" else teacher.with_temperature(3.0)
        targets = Targets(
            teacher_emissions=torch.as_tensor(target_values(asked, ["teacher_emissions"], 1)["teacher_emissions"])
        )
        expected = -9 * (emissions.softmax(-1) * (student.scores.emissions / 3.0).log_softmax(-1)).sum(dim=(1, 2))
        torch.testing.assert_close(OBJECTIVES["emission"](3.0, mode)(student, targets), expected.float())


@pytest.mark.parametrize("name", ["top_k", "structural", "fuzzy"])
def test_an_objective_without_a_local_temperature_says_so_and_a_choice_leaves_it_at_one(name):
    with pytest.raises(ValueError, match=f"{name} objective has no local temperature; use temperature_mode='global'"):
        OBJECTIVES[name](2.0)
    with pytest.raises(ValueError, match=f"temperature 2 has no effect: of {name} none has a local temperature"):
        parse_objective(name, 2.0)
    both = parse_objective(f"{name}+posterior", 2.0)
    assert (both[name][0].temperature, both["posterior"][0].temperature) == (1.0, 2.0)
    assert parse_objective(name, 2.0, "global")[name][0].temperature == 2.0
    assert annotation_temperatures(both) == {}


def gradient_norm(name: str, mode: str, temperature: float, strengths: tuple[float, float]) -> float:
    """The gradient of an objective with respect to all of a student's scores: its norm, a mean over chains."""
    norms = []
    for seed in range(4):
        parts = [random_scores(seed), random_scores(seed + 40)]
        for emissions, *others in parts:
            emissions *= strengths[0]
            for part in others:
                part *= strengths[1]
        teacher, student = parts
        objective = OBJECTIVES[name](temperature, mode)
        targets = targets_of(teacher, objective.needs, temperature=temperature if mode == "global" else 1.0)
        student = [part.requires_grad_() for part in student]
        loss = objective(LinearChainCRF(*student, lengths=LENGTHS), targets).sum()
        gradients = torch.autograd.grad(loss, student, allow_unused=True)
        norms.append(torch.cat([part.flatten() for part in gradients if part is not None]).norm().item())
    return sum(norms) / len(norms)


@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name in sorted(OBJECTIVES) for mode in OBJECTIVES[name].temperature_modes]
)
def test_a_temperature_keeps_the_scale_of_the_gradient(name, mode):
    """Danger: at temperature 4 one part of a combination is nearly all of it."""
    for strengths in ((1.0, 1.0), (2.0, 1.0), (1.5, 1.5)):  # of emissions, and of transitions, start and end
        at_one = gradient_norm(name, mode, 1.0, strengths)
        for temperature in (1.5, 2.25, 4.0):
            assert 0.5 <= gradient_norm(name, mode, temperature, strengths) / at_one <= 2.0


def test_each_objective_may_have_its_own_temperature():
    official = parse_objective({"posterior": {"weight": 1, "temperature": 2.25}, "top_wk": 1})
    found = {name: (part.temperature, part.temperature_mode, weight) for name, (part, weight) in official.items()}
    assert found == {"posterior": (2.25, "local", 1.0), "top_wk": (1.0, "local", 1.0)}
    assert annotation_temperatures(official) == {}
    mixed = parse_objective(
        {"structural": {"temperature": 3, "temperature_mode": "global"}, "top_wk": {"weight": 0.5}, "emission": 2},
        2.0,
    )
    found = {name: (part.temperature, part.temperature_mode, weight) for name, (part, weight) in mixed.items()}
    assert found == {
        "structural": (3.0, "global", 1.0), "top_wk": (2.0, "local", 0.5), "emission": (2.0, "local", 2.0)
    }  # fmt: skip
    assert annotation_temperatures(mixed) == {"teacher_marginals": 3.0, "teacher_edge_counts": 3.0}
    student, scores = LinearChainCRF(*random_scores(7), lengths=LENGTHS), random_scores(8)
    columns = needed_columns(mixed)
    cold, hot = targets_of(scores, columns), targets_of(scores, columns, temperature=3.0)
    targets = Targets(
        **{name: getattr(hot if name in annotation_temperatures(mixed) else cold, name) for name in columns}
    )
    losses = weighted_losses(mixed, student, targets)
    for name, (objective, weight) in mixed.items():
        torch.testing.assert_close(losses[name], weight * objective(student, targets))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ({"posterior": {"weigth": 1}}, {}, r"'posterior' has no \['weigth'\]"),  # codespell:ignore
        ({"posterior": {"weight": "1"}}, {}, "weight of objective 'posterior' must be a number"),
        ({"posterior": {"temperature": 0}}, {}, "above 0"),
        ({"top_k": {"temperature": 2}}, {}, "top_k objective has no local temperature"),
        ("substructure", {"temperature": 2.0, "temperature_mode": "global"}, "temperature 2 has no effect"),
        ({"substructure": {"temperature": 2}}, {}, "substructure objective has no temperature"),
        ({"posterior": {"temperature": 3}, "top_k": 1}, {"temperature": 2.0}, "temperature 2 has no effect"),
        ("none", {"temperature": 2.0}, "temperature 2 has no effect: objective 'none' asks no teacher"),
        ("posterior", {"combination": "mean"}, "combination of objectives must be one of"),
        (
            {"posterior": {"temperature": 2, "temperature_mode": "global"}, "token": 1},
            {},
            "posterior and token both read teacher_marginals, at global temperatures 2 and 1",
        ),
    ],
)
def test_what_an_objective_cannot_use_is_refused_by_name(spec, options, message):
    with pytest.raises(ValueError, match=message):
        parse_objective(spec, **options)


def test_objectives_are_added_up_or_averaged_and_a_description_says_which():
    added, averaged = (parse_objective("posterior+top_wk", combination=how) for how in ("sum", "average"))
    assert [weight for _, weight in added.values()] == [1.0, 1.0]
    assert averaged == parse_objective({"posterior": 0.5, "top_wk": 0.5})
    assert describe_objectives(added) == "posterior (weight 1) + top_wk (weight 1), added up"
    assert describe_objectives(averaged, "average").endswith("top_wk (weight 0.5), averaged")
    warm = parse_objective({"posterior": {"weight": 3, "temperature": 2.25}})
    assert describe_objectives(warm) == "posterior (weight 3, local temperature 2.25)"
    assert describe_objectives({}) == "none: gold tags alone"


def test_a_tag_the_student_forbids_and_the_teacher_never_gives_costs_nothing_at_any_temperature():
    """Danger: a tiny made-up probability at high temperature times -inf makes the loss infinite."""
    scores = random_scores(1)
    for part in (scores[0], scores[2], scores[3]):
        part[..., 2] = float("-inf")
    crf = LinearChainCRF(*scores, lengths=LENGTHS)
    for name in ("posterior", "token", "emission"):
        loss = OBJECTIVES[name](4.0)(crf, targets_of(scores, OBJECTIVES[name].needs))
        assert torch.isfinite(loss).all()


def test_substructure_ignores_constants_and_what_the_teacher_excludes():
    student, teacher = random_scores(1), random_scores(1)
    teacher[0] += torch.randn(B, T, 1)
    teacher[1][0, 1] = float("-inf")
    objective = OBJECTIVES["substructure"]()
    loss = objective(LinearChainCRF(*student, lengths=LENGTHS), targets_of(teacher, objective.needs))
    torch.testing.assert_close(loss, torch.zeros(B, dtype=loss.dtype), atol=1e-5, rtol=0)


def test_substructure_leaves_out_every_pair_that_one_of_the_two_excludes():
    """Danger: an excluded end tag or emission counts as a difference of 0, and pulls the mean towards it."""
    teacher, student = random_scores(1), random_scores(2)
    teacher[3][0] = student[2][1] = -torch.inf  # an end tag of the teacher's, a start tag of the student's
    teacher[0][0, 2, 1] = student[0][2, 1, 2] = teacher[0][1, 0, 2] = -torch.inf  # emissions
    student[1][2, 0] = -torch.inf

    def potentials(scores, b, i):
        emissions, transitions, start, end = scores
        own = emissions[b, i] + (end if i == LENGTHS[b] - 1 else 0)
        return (own + start if i == 0 else own + transitions).flatten()

    expected = []
    for b, n in enumerate(LENGTHS.tolist()):
        loss = torch.zeros((), dtype=torch.float64)
        for i in range(n):
            mine, theirs = potentials(student, b, i), potentials(teacher, b, i)
            both = mine.isfinite() & theirs.isfinite()
            loss = loss + ((mine - theirs)[both].var(correction=0) if both.any() else 0.0)
        expected.append(loss)
    answers = (teacher[0], teacher[1].expand(B, -1, -1), torch.stack(teacher[2:]).expand(B, -1, -1))
    targets = Targets(**dict(zip(OBJECTIVES["substructure"].needs, answers)))
    student = [part.requires_grad_() for part in student]
    loss = OBJECTIVES["substructure"]()(LinearChainCRF(*student, lengths=LENGTHS), targets)
    torch.testing.assert_close(loss, torch.stack(expected))
    loss.sum().backward()
    assert all(part.grad.isfinite().all() for part in student)


@pytest.mark.parametrize("name", ["emission", "substructure"])
def test_scores_that_are_all_zero_are_an_answer(name):
    teacher = [torch.zeros_like(part) for part in random_scores(1)]
    targets = targets_of(teacher, OBJECTIVES[name].needs)
    assert targets.answered().tolist() == [1.0] * B
    assert (OBJECTIVES[name]()(LinearChainCRF(*random_scores(2), lengths=LENGTHS), targets) > 0).all()


def test_the_structural_loss_builds_no_array_over_words_and_pairs_of_tags():
    """Danger: memory of words x tags x tags: 512 words of 64 tags would be 16 MB a sentence."""
    words, tags = 512, 64
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            seen.extend(part.numel() for part in torch.utils._pytree.tree_leaves(result) if torch.is_tensor(part))
            return result

    emissions = torch.randn(1, words, tags, requires_grad=True)
    targets = Targets(
        teacher_marginals=torch.full((1, words, tags), 1 / tags),
        teacher_edge_counts=torch.full((1, tags, tags), (words - 1) / tags**2),
        teacher_emissions=torch.randn(1, words, tags),
        teacher_transitions=torch.randn(1, tags, tags),
        teacher_start_end=torch.randn(1, 2, tags),
    )
    for name in ("structural", "substructure"):
        with Watch():
            OBJECTIVES[name]()(LinearChainCRF(emissions, torch.randn(tags, tags)), targets).sum().backward()
    assert max(seen) < words * tags**2 / 8


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_says_what_it_is_for_the_card(name):
    temperature = 2.0 if name in GLOBAL else 1.0
    objective = OBJECTIVES[name](temperature, "global")
    config = objective.config()
    expected = {"name": name, "temperature": temperature, "temperature_mode": "global", "source": objective.source}
    assert config == expected
    assert objective.citation.startswith("@")
    assert config["source"] in objective.citation
    assert "=" in (type(objective).__doc__ or "") or "sum" in (type(objective).__doc__ or "")
