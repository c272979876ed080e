"""Danger: chains on which the fast pass, the compiled loops or the log-space reference lose what matters."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_structkd.modeling.crf_reference import NEG_INF, completions
from tests.fuzz.fuzzing import KINDS, ByReference, fuzz, hurtful
from tests.modeling.conftest import loops  # noqa: F401 (a fixture)
from tests.modeling.enumeration import EnumeratedCRF

pytestmark = pytest.mark.usefixtures("loops")  # torch and compiled
close = torch.testing.assert_close
DTYPES = st.sampled_from([torch.float64, torch.float64, torch.float32, torch.bfloat16])
SEEDS = st.integers(0, 2**31)
WORDS = st.one_of(st.integers(1, 3), st.integers(30, 36), st.integers(60, 68))
QUANTITIES = ("log_partition", "log_marginals", "marginals", "edge_counts", "edge_marginals")


def of(crf, name):
    value = getattr(crf, name)
    return value() if callable(value) else value


def agree(case, name, ours, truth, tolerance=None):
    """Same infinities, the rest within rounding: of the chain's sums, and of the type that results come back in."""
    loose = 2e-7 if ours.dtype == torch.float32 else 0.0
    close(
        ours.detach().double(),
        truth.detach(),
        rtol=loose,
        atol=(tolerance or case.rounding) + loose,
        msg=lambda text: f"{name}: {text}",
    )


def upstream(case, name, value, seed):
    """Weights of a sum over a quantity, 0 where it is infinite."""
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(value > NEG_INF, weights, 0.0)


def weighted(value, weights):
    return (torch.where(value > NEG_INF, value.double(), 0.0) * weights).sum()


def same_gradients(case, name, ours, truth, scale):
    """Of the scores, whatever type they are of."""
    for part, one, other in zip(case.scores._fields, ours, truth):
        assert bool(torch.isfinite(one).all()), f"gradient of {name} for {part} is not finite"
        loose = {torch.float64: 1e-12, torch.float32: 2e-7, torch.bfloat16: 1e-2}[one.dtype]
        real = case.real[..., None] if part == "emissions" else torch.tensor(True)
        one, other = one.double() * real, other * real
        bound = (1e-9 + loose) * (1 + scale)
        close(one, other, rtol=loose, atol=bound, msg=lambda text, p=part: f"gradient of {name} for {p}: {text}")


@fuzz(0.12)
@given(SEEDS, st.sampled_from(KINDS), WORDS, st.integers(2, 4), DTYPES)
def test_values_are_those_of_log_space(seed, kind, T, C, dtype):
    case = hurtful(seed, kind, T, C, 3, dtype)
    ours, truth = case.crf(), ByReference(case)
    exists, slack = truth.log_partition > NEG_INF, case.rounding
    for name in QUANTITIES:
        agree(case, name, of(ours, name), of(truth, name))
    one = ours.marginals.double().sum(2)
    close(one, (case.real & exists[:, None]).double(), rtol=0, atol=1e-6)
    for log in (ours.log_partition, ours.log_marginals):
        assert not bool(log.isnan().any())
    assert float(ours.log_marginals.amax()) <= slack

    best = ours.topk(4)
    assert bool((best.log_prob <= slack).all())
    scores = truth.best_scores(4)
    assert best.valid.sum(1).tolist() == [len(row) for row in scores]
    log_z = truth.log_partition
    for b, row in enumerate(scores):
        found = best.log_prob[b, : len(row)].double()
        close(found, torch.tensor(row, dtype=torch.float64) - log_z[b], rtol=2e-7, atol=slack + 2e-7)
    tags, score = ours.argmax()
    for b in exists.nonzero()[:, 0].tolist():
        close(float(score[b]), scores[b][0], rtol=2e-7, atol=slack + 2e-7)
    if bool(exists.any()):
        paths = torch.where(exists[:, None] & case.real, tags, 0)
        own = ours.log_prob(paths, allow_illegal=True)
        agree(case, "log_prob", own[exists], truth.log_prob(paths)[exists])
        determinate = best.valid.sum(1) == 1
        drawn = ours.sample(2, torch.Generator().manual_seed(seed))
        assert torch.equal(drawn[determinate], tags[determinate][:, None].expand(-1, 2, -1))
    assert bool((ours.sample(1)[~exists] == -100).all())

    generator = torch.Generator().manual_seed(seed + 1)
    mask = torch.rand(case.scores.emissions.shape, generator=generator) < 0.7
    inside = truth.on(mask)
    part = torch.where(inside > NEG_INF, inside - log_z, NEG_INF)
    agree(case, "log_prob_of_set", ours.log_prob_of_set(mask), part)
    agree(case, "restrict", ours.restrict(mask).log_partition, inside)
    agree(case, "entropy", ours.entropy(), truth.cross_entropy(truth), case.rounding_of_means)
    for b, n in enumerate(case.lengths.tolist()):
        if bool(exists[b]):  # up to a constant a word
            both = (ours.completions()[b, :n], completions(truth.scores, truth.lengths)[b, :n])
            close(*(part - part.amax(1, keepdim=True) for part in both), rtol=0, atol=slack)
    close(case.crf().with_temperature(1.0).log_partition, ours.log_partition)

    # A span of one or two words somewhere in every sentence: its tags here, and any elsewhere.
    starts = torch.tensor([seed % n for n in case.lengths.tolist()])
    ends = torch.minimum(starts + 2, case.lengths)
    spans = torch.randint(C, (3, 2), generator=generator)
    mask = torch.ones_like(mask)
    for b in range(3):
        for t in range(int(starts[b]), int(ends[b])):
            mask[b, t] = torch.arange(C) == spans[b, t - int(starts[b])]
    inside = truth.on(mask)
    part = torch.where(inside > NEG_INF, inside - log_z, NEG_INF)
    agree(case, "span_log_prob", ours.span_log_prob(torch.arange(3), starts, ends, spans), part)


@fuzz(0.1)
@given(SEEDS, st.sampled_from(KINDS), WORDS, st.integers(2, 4), DTYPES)
def test_gradients_are_those_of_log_space(seed, kind, T, C, dtype):
    case = hurtful(seed, kind, T, C, 3, dtype)
    for name in QUANTITIES:
        exact = case.leaves(torch.float64)
        truth = of(ByReference(case, exact), name)
        weights = upstream(case, name, truth, seed)
        known = torch.autograd.grad(weighted(truth, weights), exact, materialize_grads=True) if T > 1 else None
        leaves = case.leaves()
        found = torch.autograd.grad(weighted(of(case.crf(leaves), name), weights), leaves, materialize_grads=True)
        if known is not None:
            same_gradients(case, name, found, known, float(weights.abs().sum()))
        else:
            assert all(bool(torch.isfinite(part).all()) for part in found)
    exact, leaves = case.leaves(torch.float64), case.leaves()
    truth, ours = ByReference(case, exact), case.crf(leaves)
    entropy, own = truth.cross_entropy(truth), ours.entropy()
    agree(case, "entropy", own, entropy, case.rounding_of_means)
    known, found = (torch.autograd.grad(v.double().sum(), s) for v, s in ((entropy, exact), (own, leaves)))
    same_gradients(case, "entropy", found, known, case.largest + case.rounding_of_means * 1e9)


@fuzz(0.06)
@given(SEEDS, st.sampled_from(KINDS), WORDS, st.integers(2, 4))
def test_comparisons_are_those_of_log_space(seed, kind, T, C):
    """Two chains over the same words; where one takes what the other excludes, infinite and without gradient."""
    one, two = (hurtful(s, kind, T, C, 3, torch.float64) for s in (seed, seed + 1))
    two.lengths = one.lengths
    emissions = torch.where(one.real[..., None], two.scores.emissions, 0.0)
    emissions = torch.where(emissions.isnan() | (emissions == math.inf), 0.0, emissions)
    two.scores = two.scores._replace(emissions=emissions)
    slack, results = one.rounding_of_means + two.rounding_of_means, []
    for make in (lambda case, s: case.crf(s), ByReference):
        leaves = [case.leaves() for case in (one, two)]
        p, q = (make(case, own) for case, own in zip((one, two), leaves))
        value = q.cross_entropy(p)
        inputs = [*leaves[0], *leaves[1]]
        finite = value.isfinite()
        total = torch.where(finite, value, 0.0).sum()
        results.append((value.detach(), torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)))
        if make is not ByReference:
            difference = torch.where(finite, p.kl(q).detach() - (value - p.entropy()).detach(), 0.0)
            close(difference, torch.zeros_like(difference), rtol=0, atol=slack)
    (value, found), (known_value, known) = results
    agree(two, "cross_entropy", value, known_value, slack)
    scale = 1 + 1e9 * slack
    for case, own, other in ((one, found[:4], known[:4]), (two, found[4:], known[4:])):
        if bool(known_value.isfinite().all()):
            same_gradients(case, "cross_entropy", own, other, scale)
        else:
            assert all(bool(torch.isfinite(part).all()) for part in own)


@fuzz(0.12)
@given(SEEDS, st.sampled_from(KINDS), st.integers(1, 4), st.integers(2, 3), DTYPES)
def test_short_chains_are_those_of_enumeration(seed, kind, T, C, dtype):
    """The reference itself is held to the list of all paths, its first and second derivatives too."""
    case = hurtful(seed, kind, T, C, 2, dtype)
    ours, truth = case.crf(), EnumeratedCRF(*case.scores, lengths=case.lengths)
    for name in QUANTITIES:
        agree(case, name, of(ours, name), of(truth, name))
    agree(case, "entropy", ours.entropy(), truth.entropy(), case.rounding_of_means)
    agree(case, "topk", ours.topk(5).log_prob, truth.topk(5).log_prob)
    mask = torch.rand(case.scores.emissions.shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    agree(case, "log_prob_of_set", ours.log_prob_of_set(mask), truth.log_prob_of_set(mask))
    for name in ("log_partition", "log_marginals", "edge_counts"):
        results = []
        for make in (lambda s: case.crf(s), lambda s: EnumeratedCRF(*s, lengths=case.lengths)):
            leaves = case.leaves(torch.float64)
            value = of(make(leaves), name)
            total = weighted(value, upstream(case, name, value, seed))
            if not total.requires_grad:  # the list of all transitions is empty
                results.append(None)
                continue
            first = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True)
            again = sum(
                weighted(part * case.real[..., None] if part.dim() == 3 else part, upstream(case, name, part, 1))
                for part in first
            )
            second = [torch.zeros_like(part) for part in leaves]
            if again.requires_grad:
                second = torch.autograd.grad(again, leaves, materialize_grads=True)
            results.append((first, second))
        if None in results:
            continue
        for order in (0, 1):
            ours_, truth_ = ([part.detach().double() for part in result[order]] for result in results)
            same_gradients(case, f"{name}, order {order + 1}", ours_, truth_, 100.0)
