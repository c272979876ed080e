"""The fast path is exact where it is used, hands over where it would not be, and its gradients are the true ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_structkd.modeling import crf_reference as log_space
from hf_structkd.modeling.crf import LinearChainCRF, SufficientStatistics
from hf_structkd.modeling.crf_autograd import PathSums
from hf_structkd.modeling.crf_batch import Chain, Packing
from hf_structkd.modeling.crf_reference import Scores

close = torch.testing.assert_close


def chain(B, T, C, scale=1.0, seed=0, dtype=torch.float64, density=1.0):
    """Scores (with -inf for forbidden transitions) and ragged lengths."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((B, T, C), (C, C), (C,), (C,))
    ]
    parts[0] = parts[0].clamp(-1, 1) * scale
    parts[1][torch.rand(C, C, generator=generator) > density] = -math.inf
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    lengths[0] = T
    return Scores(*(part.to(dtype) for part in parts)), lengths


def reference(quantity, scores, lengths):
    return log_space.REFERENCE[quantity](Scores(*(part.double() for part in scores)), lengths)


@pytest.mark.usefixtures("loops")  # torch and compiled
@given(st.integers(0, 2**31), st.sampled_from([0.4, 1.0]), st.sampled_from([1.0, 50.0, 1000.0]))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_first_gradients_are_those_of_automatic_differentiation(seed, density, scale):
    """Danger: an analytic gradient that is wrong under constraints, raggedness or rescaling."""
    scores, lengths = chain(3, 20, 4, scale, seed, density=density)
    weights = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    for quantity in ("log_partition", "log_marginals", "marginals", "edge_counts"):
        results = []
        for fast in (True, False):
            leaves = Scores(*(part.clone().requires_grad_() for part in scores))
            value = (
                PathSums(Chain(leaves, lengths)).evaluate(quantity) if fast else reference(quantity, leaves, lengths)
            )
            weight = {"log_partition": weights[:, 0, 0], "edge_counts": weights[:, :4]}.get(quantity, weights)
            torch.where(value > -math.inf, weight * value, 0.0).sum().backward()
            results.append([value.detach(), *(part.grad for part in leaves)])
        real = torch.arange(20) < lengths[:, None]
        results[0][1], results[1][1] = results[0][1] * real[..., None], results[1][1] * real[..., None]
        for name, ours, truth in zip(("value", *Scores._fields), *results):
            close(ours, truth, rtol=1e-7, atol=1e-7, msg=lambda text, n=name, q=quantity: f"{q}, {n}: {text}")


@pytest.mark.usefixtures("loops")  # torch and compiled
@pytest.mark.parametrize("quantity", ["log_partition", "log_marginals", "marginals", "edge_counts"])
def test_gradcheck(quantity):
    """Danger: first or second derivatives that differ from finite differences."""
    scores, lengths = chain(2, 3, 2, seed=3)
    allowed = torch.tensor([[True, True], [False, True]])

    def function(*parts):
        crf = LinearChainCRF(*parts, lengths=lengths, allowed=allowed)
        return getattr(crf, quantity).clamp(min=-100.0)

    leaves = tuple(part.clone().requires_grad_() for part in scores)
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.usefixtures("loops")  # torch and compiled
@pytest.mark.slow
def test_gradcheck_of_comparisons():
    """Danger: KL or entropy that are right as values and wrong as losses, on either side."""
    own, lengths = chain(2, 3, 2, seed=4)
    other, _ = chain(2, 3, 2, seed=5)

    def function(*parts):
        ours = LinearChainCRF(*parts[:4], lengths=lengths)
        return ours.kl(LinearChainCRF(*parts[4:], lengths=lengths)), ours.entropy()

    leaves = tuple(part.clone().requires_grad_() for part in (*own, *other))
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_gradients_of_paths_and_spans():
    """Danger: log_prob or span_log_prob cut off from the scores."""
    scores, lengths = chain(2, 3, 2, seed=6)
    tags = torch.tensor([[[0, 1, 1], [1, 0, 0]], [[1, 0, 0], [0, 1, 1]]])
    spans = [torch.tensor(part) for part in ([0, 1, 0], [0, 0, 1], [1, 1, 3])]

    def function(*parts):
        crf = LinearChainCRF(*parts, lengths=lengths)
        return crf.log_prob(tags), crf.span_log_prob(*spans, torch.tensor([[1, -100], [0, -100], [1, 0]]))

    assert torch.autograd.gradcheck(function, tuple(part.clone().requires_grad_() for part in scores))


@pytest.mark.usefixtures("loops")  # torch and compiled
@pytest.mark.parametrize(("scale", "T"), [(50.0, 512), (1000.0, 64)])
@pytest.mark.parametrize("density", [1.0, 0.5])
def test_long_and_steep_chains_in_float32(scale, T, density):
    """Danger: underflow that accumulates over many words; gradients that lose precision with length."""
    scores, lengths = chain(3, T, 5, scale, seed=7, dtype=torch.float32, density=density)
    leaves = Scores(*(part.clone().requires_grad_() for part in scores))
    exact = Scores(*(part.double().requires_grad_() for part in scores))
    crf = LinearChainCRF(*leaves, lengths=lengths)
    close(crf.log_partition.double(), reference("log_partition", exact, lengths), rtol=1e-6, atol=1e-6)
    log_marginals = reference("log_marginals", exact, lengths)
    close(crf.log_marginals.double(), log_marginals, rtol=1e-6, atol=1e-6)
    close(crf.marginals.double(), reference("marginals", exact, lengths), rtol=0, atol=1e-6)
    target = torch.rand(3, T, 5, generator=torch.Generator().manual_seed(8))
    target = torch.where(log_marginals > -math.inf, target, 0.0)
    for value in (crf.log_marginals, log_marginals):
        torch.where(value > -math.inf, target * value, 0.0).sum().backward()
    for ours, truth in zip(leaves, exact):
        scale = truth.grad.abs().max()
        close(ours.grad.double() / scale, truth.grad / scale, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_the_fast_path_serves_ordinary_scores_and_only_those():
    """Danger: a check that always falls back (slow), or one that accepts lost paths (wrong)."""
    for scale, density in ((10.0, 1.0), (50.0, 1.0), (10.0, 0.5), (100.0, 1.0)):
        scores, lengths = chain(4, 100, 6, scale, seed=9, density=density)
        assert PathSums(Chain(scores, lengths)).messages.ok, (scale, density)
    scores, lengths = chain(4, 100, 6, 2000.0, seed=9)
    assert not PathSums(Chain(scores, lengths)).messages.ok


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_two_islands_of_very_different_score():
    """Danger: the weaker of two disconnected groups of paths vanishes by underflow and passes for impossible."""
    islands = torch.tensor([[True, False], [False, True]])
    emissions = torch.zeros(1, 200, 2)
    emissions[..., 1] = -10.0
    crf = LinearChainCRF(emissions, torch.zeros(2, 2), allowed=islands)
    close(crf.log_marginals[0, :, 1], torch.full((200,), -2000.0))
    assert crf.topk(3).valid[0].tolist() == [True, True, False]
    close(crf.topk(2).log_prob[0], torch.tensor([0.0, -2000.0]))


def only_path(T: int, drops: dict[int, float], transition: float = 0.0):
    """Two tags; the one path that exists keeps to tag 1 and falls by ``drops`` (nats) at some words."""
    emissions = torch.zeros(1, T, 2, dtype=torch.float64)
    for word, drop in drops.items():
        emissions[0, word, 1] = -drop
    transitions = torch.tensor([[-math.inf, -math.inf], [-math.inf, transition]], dtype=torch.float64)
    return emissions, transitions


@pytest.mark.usefixtures("loops")  # torch and compiled
@pytest.mark.parametrize("place", [*range(5), 31, 32, 33, 63, 64, 65, 68, 69])
@pytest.mark.parametrize("drop", [358.2, 373.6, 700.5, 743.9, 746.0])
def test_what_rescaling_would_hide_is_seen_before(place, drop):
    """Danger: a denormal number, divided by a denormal maximum, passes for an ordinary one with all its digits."""
    T = 70
    for second in (place - 1, place + 1):
        drops = {place: drop / 2, second % T: drop / 2 + 0.3}
        crf = LinearChainCRF(*only_path(T, drops))
        close(crf.log_partition, torch.tensor([-drop - 0.3], dtype=torch.float64))
        close(crf.log_prob(torch.ones(1, T).long()), torch.zeros(1).double(), rtol=0, atol=1e-9)
        close(crf.log_marginals[0, :, 1], torch.zeros(T).double(), rtol=0, atol=1e-9)
    short = LinearChainCRF(*only_path(3, {0: drop / 2, 1: drop / 2 + 0.3}))
    close(short.log_partition, torch.tensor([-drop - 0.3], dtype=torch.float64))


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_the_gradient_of_a_probability_far_below_the_others():
    """Danger: a factor that underflows before another one makes up for it: the gradient is 0 where 1 is right."""
    for drop, step in ((448.0, 437.0), (537.0, 311.0)):  # in the fast pass, and beyond what it takes
        emissions, transitions = only_path(2, {0: drop})
        transitions[0, 1] = -step
        for rows in (1, 2):
            leaves = [emissions.repeat(rows, 1, 1).requires_grad_(), transitions.clone().requires_grad_()]
            crf = LinearChainCRF(*leaves)
            one, two = torch.autograd.grad(crf.log_marginals[0, 0, 1], leaves)
            share = math.exp(step - drop)  # of the path through tag 1
            expected = torch.zeros(rows, 2, 2, dtype=torch.float64)
            expected[0, 0] = torch.tensor([share - 1, 1 - share])
            close(one, expected)
            close(two, torch.tensor([[0.0, share - 1], [0.0, 1 - share]]).double())


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_sources_do_not_grow_at_tags_that_no_path_passes():
    """Danger: rescaling that holds what paths pass, while a dead end's share of a gradient grows to infinity."""
    T = 700
    emissions = torch.zeros(1, T, 2, dtype=torch.float64)
    emissions[..., 1] = -3.0
    allowed = torch.tensor([[True, False], [True, True]])  # tag 0 can be entered from tag 1, and is not left
    for ends in ((False, True), (True, False)):  # one way the dead end is ahead, the other way it is behind
        for turned in (allowed, allowed.T):
            leaf = emissions.clone().requires_grad_()
            crf = LinearChainCRF(
                leaf,
                torch.zeros(2, 2, dtype=torch.float64),
                allowed=turned,
                allowed_start=torch.tensor([ends[1], ends[0]]) if turned is allowed else torch.tensor(ends),
                allowed_end=torch.tensor(ends) if turned is allowed else torch.tensor([ends[1], ends[0]]),
            )
            value = crf.log_marginals
            (gradient,) = torch.autograd.grad(torch.where(value > -math.inf, value, 0.0)[0, ::5].sum(), leaf)
            assert bool(torch.isfinite(gradient).all())


@pytest.mark.usefixtures("loops")  # torch and compiled
@pytest.mark.parametrize("words", [1, 3])
def test_a_batch_of_single_words_has_gradients(words):
    """Danger: entropy, KL and transitions of sentences of one word fail in the backward pass."""
    scores, _ = chain(2, words, 3, seed=21)
    lengths = torch.ones(2).long()
    for name in ("entropy", "kl", "edge_counts", "edge_marginals"):
        leaves = Scores(*(part.clone().requires_grad_() for part in scores))
        crf = LinearChainCRF(*leaves, lengths=lengths)
        other = LinearChainCRF(*(part.flip(-1) for part in scores), lengths=lengths)
        value = crf.kl(other) if name == "kl" else getattr(crf, name)
        value = value() if callable(value) else value
        gradients = torch.autograd.grad(value.sum(), leaves, create_graph=True, materialize_grads=True)
        logits = leaves.emissions[:, 0] + leaves.start + leaves.end
        p = logits.log_softmax(-1)
        own = torch.stack([part.flip(-1) for part in (scores.emissions[0, 0], scores.emissions[1, 0])])
        q = (own + scores.start.flip(-1) + scores.end.flip(-1)).log_softmax(-1)
        truth = {"entropy": -(p.exp() * p).sum(), "kl": (p.exp() * (p - q)).sum()}.get(name, logits.sum() * 0)
        known = torch.autograd.grad(truth, leaves.emissions, create_graph=True)[0]
        close(gradients[0], known)
        assert bool((gradients[1] == 0).all())
        if name in ("entropy", "kl"):
            twice = [torch.autograd.grad(g.square().sum(), leaves.emissions)[0] for g in (gradients[0], known)]
            close(*twice)


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_an_infinite_comparison_leaves_the_others_their_gradients():
    """Danger: one sentence's `inf` becomes NaN in the gradients of the scores that all sentences share."""
    emissions, transitions = torch.randn(2, 4, 3).double(), torch.zeros(3, 3).double().requires_grad_()
    excluded = torch.zeros(2, 4, 3).double()
    excluded[0, 1, 2] = -math.inf
    ours = LinearChainCRF(emissions.clone().requires_grad_(), transitions)
    values = ours.kl(LinearChainCRF(excluded, torch.zeros(3, 3).double()))
    assert values.isinf().tolist() == [True, False]
    (found,) = torch.autograd.grad(torch.where(values.isfinite(), values, 0.0).sum(), transitions)
    alone = LinearChainCRF(emissions[1:], transitions)
    (known,) = torch.autograd.grad(
        alone.kl(LinearChainCRF(excluded[1:], torch.zeros(3, 3).double())).sum(), transitions
    )
    close(found, known)


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_the_least_float32_is_a_mask_and_not_the_end_of_paths():
    """Danger: a path through a finite mask, the only one there is, passes for impossible in half of the members."""
    least = torch.finfo(torch.float32).min
    emissions = torch.zeros(2, 3, 2)
    emissions[0, 1] = least
    emissions[1, :, 0] = least
    crf = LinearChainCRF(emissions, torch.tensor([[0.0, -1.0], [-1.0, 0.5]]))
    tags, score = crf.argmax()
    assert tags[1].tolist() == [1, 1, 1]
    assert bool((tags != -100).all())
    close(score, torch.tensor([least, 1.0]))
    close(crf.log_partition, torch.tensor([least, 1.0]))
    assert crf.topk(9).valid.sum(1).tolist() == [8, 8]
    close(crf.marginals[1], torch.tensor([[0.0, 1.0]] * 3))


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_constrained_score_that_an_unconstrained_bound_would_miss():
    """Danger: rescaling by a maximum that belongs to dead ends, while the living paths underflow."""
    T = 100
    emissions = torch.zeros(1, T, 3)
    emissions[..., 1] = 20.0  # tag 1 is a trap: it can be entered and kept, but a sentence may not end in it
    allowed = torch.tensor([[True, True, True], [False, True, False], [False, False, True]])
    ends = torch.tensor([True, False, True])
    crf = LinearChainCRF(emissions, torch.zeros(3, 3), allowed=allowed, allowed_end=ends)
    # Paths that can end: 0...0 2...2 with the change anywhere, or none of it, or only 2: T + 1 of them.
    close(crf.log_partition, torch.tensor([math.log(T + 1)]))
    assert bool((crf.marginals[..., 1] == 0).all())
    assert crf.topk(200).valid.sum() == T + 1


@pytest.mark.usefixtures("loops")  # torch and compiled
@pytest.mark.parametrize("C", [40, 7])
def test_wide_and_narrow_tag_sets_agree_with_log_space(C):
    """Danger: the two ways of multiplying (one block matrix, two matrices) differ."""
    scores, lengths = chain(4, 30, C, 5.0, seed=10)
    for quantity in log_space.REFERENCE:
        ours = PathSums(Chain(scores, lengths)).evaluate(quantity)
        close(ours, reference(quantity, scores, lengths), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_one_pass_serves_everything():
    """Danger: posterior distillation and gold loss of the same sentence paying twice."""
    scores, lengths = chain(3, 6, 4, seed=11)
    leaves = Scores(*(part.clone().requires_grad_() for part in scores))
    crf = LinearChainCRF(*leaves, lengths=lengths)
    first = crf._sums.messages
    (crf.log_marginals.sum() + crf.log_partition.sum() + crf.log_prob(torch.zeros(3, 6).long()).sum()).backward()
    assert crf._sums.messages is first
    assert crf.log_partition.grad_fn is not None


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_shared_parameters_are_counted_once():
    """Danger: second derivatives that follow a dependence between two scores twice."""
    scores, lengths = chain(2, 3, 2, seed=12)

    def function(transitions):
        start = transitions.sum(0)
        return LinearChainCRF(scores[0], transitions, start, transitions[0] * start, lengths=lengths).log_partition

    leaf = scores[1].clone().requires_grad_()
    assert torch.autograd.gradcheck(function, (leaf,))
    assert torch.autograd.gradgradcheck(function, (leaf,))


@pytest.mark.usefixtures("loops")  # torch and compiled
@pytest.mark.slow
def test_inside_a_compiled_module():
    """Danger: torch.compile that traces into the loop, or fails on it."""

    def loss(emissions, transitions):
        crf = LinearChainCRF(emissions * 2, transitions)
        gold = torch.zeros(2, 5, dtype=torch.long)
        supervised = crf.log_prob(gold) - crf.cross_entropy(SufficientStatistics.from_tags(gold, 3))
        return (crf.log_marginals.exp() ** 2).sum() + crf.log_partition.sum() + supervised.sum()

    scores, _ = chain(2, 5, 3, seed=13, dtype=torch.float32)
    gradients = []
    for function in (loss, torch.compile(loss, backend="eager")):
        leaves = [part.clone().requires_grad_() for part in scores[:2]]
        function(*leaves).backward()
        gradients.append([part.grad for part in leaves])
    torch._dynamo.reset()
    for eager, compiled in zip(*gradients):
        close(eager, compiled)


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_packing_is_a_relabelling_of_the_words():
    """Danger: an index plan that mixes sentences or reads padding."""
    lengths = torch.tensor([3, 1, 4, 4])
    packing = Packing(lengths, 5, torch.device("cpu"))
    assert packing.batch_sizes == [4, 3, 3, 2]
    padded = torch.arange(20.0).view(4, 5)
    real = torch.arange(5) < lengths[:, None]
    rows = packing.pack(padded)
    assert sorted(rows.tolist()) == sorted(padded[real].tolist())
    close(packing.unpack(rows, 5), torch.where(real, padded, 0.0).double())
    close(packing.mirror[packing.mirror], torch.arange(12))
    for b, length in enumerate(lengths.tolist()):
        own = packing.sentence == b
        close(rows[own], padded[b, :length])
        close(rows[packing.mirror][own], padded[b, :length].flip(0))
    close(rows[packing.previous], rows[4:] - 1)
    close(rows[packing.last], padded[packing.order, lengths[packing.order] - 1])


# Best paths beyond what enumeration can reach: long, wide, tied.


def plain_k_best(emissions, transitions, start, end, length, k):
    """Textbook k-best Viterbi for one sentence, in Python: every state keeps its k best prefixes."""
    C = len(start)
    best = [[(float(start[c] + emissions[0, c]), (c,))] for c in range(C)]
    for t in range(1, length):
        step = []
        for c in range(C):
            options = [
                (s + float(transitions[p[-1], c]) + float(emissions[t, c]), (*p, c)) for q in best for s, p in q
            ]
            step.append(sorted(options, key=lambda option: -option[0])[:k])
        best = step
    final = [(score + float(end[path[-1]]), path) for options in best for score, path in options]
    return sorted(final, key=lambda option: -option[0])[:k]


def random_chain(B, T, C, seed, rounded=False):
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((B, T, C), (C, C), (C,), (C,))
    ]
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    lengths[0] = T
    return [part.round() if rounded else part for part in parts], lengths


@pytest.mark.usefixtures("loops")  # torch and compiled
@pytest.mark.parametrize(("T", "C", "k"), [(40, 4, 10), (12, 26, 5), (25, 3, 30)])
@pytest.mark.parametrize("rounded", [False, True])
def test_long_chains_agree_with_textbook_k_best(T, C, k, rounded):
    """Danger: a beam that loses a path after many steps; a wrong path when scores tie."""
    parts, lengths = random_chain(3, T, C, seed=T + C, rounded=rounded)
    crf = LinearChainCRF(*parts, lengths=lengths)
    found = crf.topk(k)
    tags, score = crf.argmax()
    close(tags, found.tags[:, 0])
    for b, length in enumerate(lengths.tolist()):
        truth = plain_k_best(parts[0][b], *parts[1:], length, k)
        n = len(truth)
        assert int(found.valid[b].sum()) == n
        close(found.log_prob[b, :n] + crf.log_partition[b], torch.tensor([s for s, _ in truth]).double())
        close(score[b], torch.tensor(truth[0][0]).double())
        paths = [tuple(path) for path in found.tags[b, :n, :length].tolist()]
        assert len(set(paths)) == n
        if not rounded:
            assert paths == [path for _, path in truth]


@pytest.mark.usefixtures("loops")  # torch and compiled
@pytest.mark.parametrize("C", [3, 40])
def test_all_paths_tied(C):
    """Danger: the shortcut without back-pointers mixing two of the equally good paths into a third, worse one."""
    # Any constant path is best: score 0. Changing tags costs 1.
    crf = LinearChainCRF(torch.zeros(2, 9, C), torch.eye(C) - 1, lengths=torch.tensor([9, 4]))
    tags, score = crf.argmax()
    close(score, torch.zeros(2))
    close(tags[0], torch.zeros(9, dtype=torch.long))
    best = crf.topk(C + 1)
    close(best.tags[0, :C], torch.arange(C)[:, None].expand(C, 9))
    close((best.log_prob + crf.log_partition[:, None])[:, -1], torch.tensor([-1.0, -1.0]))


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_nearly_tied_paths():
    """Danger: a tie decided word by word by rounding errors."""
    for seed in range(20):
        parts, lengths = random_chain(2, 30, 3, seed, rounded=True)
        parts[0] = parts[0] * 0.1  # sums of tenths differ in the last bit with the order of summation
        crf = LinearChainCRF(*(part * 0.1 for part in parts), lengths=lengths)
        tags, score = crf.argmax()
        close(crf.log_prob(tags), score - crf.log_partition)
        close(crf.topk(1).log_prob[:, 0], crf.log_prob(tags))
        close(crf.topk(1).tags[:, 0], tags)


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_more_paths_than_there_are():
    """Danger: phantom paths for one-word sentences, K beyond the tag set (both in the paper's code)."""
    crf = LinearChainCRF(torch.tensor([[[2.0, 1.0, 0.0]]]), torch.zeros(3, 3))
    best = crf.topk(7)
    assert best.tags[0, :, 0].tolist() == [0, 1, 2, -100, -100, -100, -100]
    assert best.valid[0].tolist() == [True] * 3 + [False] * 4
    close(best.log_prob[0, :3], torch.tensor([2.0, 1.0, 0.0]).log_softmax(0))
    assert bool((best.log_prob[0, 3:] == -torch.inf).all())


@pytest.mark.usefixtures("loops")  # torch and compiled
def test_a_path_scored_like_a_constraint_is_still_a_path():
    """Danger: confusing a very low score with a structural zero."""
    emissions = torch.tensor([[[0.0, -1e6], [-1e6, 0.0]]])
    best = LinearChainCRF(emissions, torch.zeros(2, 2)).topk(5)
    assert best.valid[0].tolist() == [True] * 4 + [False]
    close(best.log_prob[0, :4], torch.tensor([0.0, -1e6, -1e6, -2e6]))
