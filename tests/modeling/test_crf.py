"""`LinearChainCRF` is the distribution that the enumeration of all paths says it is, in every corner we could name."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_structkd.modeling.crf import LinearChainCRF, SufficientStatistics
from tests.modeling.enumeration import EnumeratedCRF

close = torch.testing.assert_close
pytestmark = pytest.mark.usefixtures("loops")  # torch and compiled
examples = settings(max_examples=25, deadline=None, derandomize=True)


@st.composite
def chains(draw, dtypes=(torch.float64, torch.float32)):
    """Arguments of a small random chain: ragged, constrained or not, tied, tame or extreme, NaN behind the words."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    C = draw(st.integers(2, 5))
    T = draw(st.integers(1, {2: 6, 3: 5, 4: 4, 5: 4}[C]))
    B = draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(dtypes))
    kind = draw(st.sampled_from(["tame", "tied", "steep", "extreme", "zero"]))

    def scores(*shape):
        value = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return {
            "tame": value,
            "tied": value.round(),
            "steep": value * 50,
            "extreme": value.clamp(-1, 1) * 1000,
            "zero": value * 0,
        }[kind].to(dtype)

    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    emissions = scores(B, T, C)
    emissions[torch.arange(T) >= lengths[:, None]] = draw(st.sampled_from([math.nan, math.inf, -math.inf, 0.0]))
    args = [emissions, scores(C, C)]
    args += [scores(C), scores(C)] if draw(st.booleans()) else []
    options = {"lengths": lengths}
    if draw(st.booleans()):
        density = draw(st.sampled_from([0.3, 0.7]))
        for name, shape in (("allowed", (C, C)), ("allowed_start", (C,)), ("allowed_end", (C,))):
            options[name] = torch.rand(shape, generator=generator) < density
    return tuple(args), options


def both(chain):
    args, options = chain
    return LinearChainCRF(*args, **options), EnumeratedCRF(*args, **options)


def same_log(ours, truth):
    """Log scores: within 1e-6 relative (absolute near zero) in float32, far closer in float64; same infinities."""
    tolerance = 1e-6 if ours.dtype == torch.float32 else 1e-10
    close(ours.double(), truth, rtol=tolerance, atol=tolerance)


def same_probability(ours, truth):
    close(ours.double(), truth, rtol=0, atol=1e-6 if ours.dtype == torch.float32 else 1e-9)


@given(chains())
@examples
def test_sums_agree_with_enumeration(chain):
    """Danger: a wrong recursion, a wrong scale, a leak from padding, underflow or overflow at large scores."""
    ours, truth = both(chain)
    same_log(ours.log_partition, truth.log_partition)
    same_log(ours.log_marginals, truth.log_marginals)
    same_probability(ours.marginals, truth.marginals)
    same_probability(ours.edge_counts, truth.edge_counts)
    same_probability(ours.edge_marginals(), truth.edge_marginals())
    close(ours.entropy().double(), truth.entropy(), rtol=1e-6, atol=1e-6)
    real = torch.arange(chain[0][0].shape[1]) < ours.lengths[:, None]
    one = ours.marginals.double().sum(2)
    exists = (truth.log_partition > -math.inf)[:, None]
    close(one, (real & exists).double(), rtol=0, atol=1e-6)


def test_the_oracle_knows_every_member():
    """Danger: a member that nobody checks against enumeration."""
    members = [name for name in dir(LinearChainCRF) if not name.startswith("_")]
    assert [name for name in members if not hasattr(EnumeratedCRF, name)] == []


@given(chains(), st.integers(0, 2**31))
@examples
def test_fewer_paths_and_completions_agree_with_enumeration(chain, seed):
    """Danger: a restricted chain with another scale, completions off by more than a constant per word."""
    ours, truth = both(chain)
    allowed = torch.rand(chain[0][0].shape, generator=torch.Generator().manual_seed(seed)) < 0.7
    same_log(ours.restrict(allowed).log_partition, truth.restrict(allowed).log_partition)
    same_log(ours.restrict(allowed).log_marginals, truth.restrict(allowed).log_marginals)
    found, expected = ours.completions(), truth.completions()
    for b, length in enumerate(ours.lengths.tolist()):
        if truth.log_partition[b] > -math.inf:
            rows = [part[b, :length] - part[b, :length].amax(1, keepdim=True) for part in (found, expected)]
            close(rows[0], rows[1], rtol=1e-6, atol=1e-6)


@given(chains(), st.sampled_from([1, 2, 3, 7, 40]))
@examples
def test_best_paths_agree_with_enumeration(chain, k):
    """Danger: a path lost or invented, duplicates, wrong order, forbidden transitions, K above the number of paths."""
    ours, truth = both(chain)
    found, expected = ours.topk(k), truth.topk(k)
    close(found.valid, expected.valid)
    same_log(found.log_prob, expected.log_prob)
    assert bool((found.log_prob.diff(dim=1)[found.valid[:, 1:]] <= 0).all())
    # What is reported for a path is that path's own probability, by enumeration: legal paths only.
    same_log(found.log_prob, truth.log_prob(found.tags))
    for tags, valid in zip(found.tags, found.valid):
        assert len({tuple(path) for path in tags[valid].tolist()}) == int(valid.sum())
        assert bool((tags[~valid] == -100).all())
    smaller = ours.topk(max(1, k // 2))
    close(smaller.tags, found.tags[:, : max(1, k // 2)])
    close(smaller.log_prob, found.log_prob[:, : max(1, k // 2)])
    tags, score = ours.argmax()
    assert torch.equal(ours.decode(), tags)
    close(tags, found.tags[:, 0])
    same_log(score, truth.argmax()[1])


@given(chains(dtypes=(torch.float64,)), st.integers(0, 2**31))
@examples
def test_comparisons_agree_with_enumeration(chain, seed):
    """Danger: cross-entropy or KL in the wrong direction, start or end terms forgotten, 0 * -inf."""
    args, options = chain
    generator = torch.Generator().manual_seed(seed)
    other = [torch.nan_to_num(part, posinf=0, neginf=0) for part in args]
    other = [part + torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in other]
    free = {"lengths": options["lengths"]}
    ours, truth = both(chain)
    wide, wide_truth = both((other, free))
    close(wide.cross_entropy(ours), wide_truth.cross_entropy(truth), rtol=1e-8, atol=1e-8)
    close(ours.kl(wide), truth.kl(wide_truth), rtol=1e-8, atol=1e-8)
    assert ours.kl(ours).abs().max() == 0
    # The other way round the constrained chain may exclude what the wide one takes: then both are infinite.
    close(ours.cross_entropy(wide), ours.cross_entropy(wide_truth.statistics), rtol=1e-8, atol=1e-8)
    exists = truth.log_partition > -math.inf
    reverse = wide_truth.kl(truth)
    close(wide.kl(ours)[exists], reverse[exists], rtol=1e-8, atol=1e-7)
    flat, flat_truth = ours.with_temperature(2.5), truth.with_temperature(2.5)
    same_log(flat.log_marginals, flat_truth.log_marginals)


@given(chains(dtypes=(torch.float64,)), st.integers(0, 2**31))
@examples
def test_spans_and_sets_agree_with_enumeration(chain, seed):
    """Danger: a span probability that forgets that the span must begin, or end, where it does."""
    ours, truth = both(chain)
    B, T, C = truth.shape
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high: torch.randint(0, high, (1,), generator=generator).item()  # noqa: E731
    spans = []
    for _ in range(6):
        b = draw(B)
        start = draw(truth.lengths[b])
        spans.append((b, start, start + 1 + draw(truth.lengths[b] - start)))
    sentences, starts, ends = torch.tensor(spans).T
    tags = torch.randint(0, C, (len(spans), T), generator=generator)
    tags[torch.arange(T) >= (ends - starts)[:, None]] = -100
    continuing = torch.rand(len(spans), C, generator=generator) < 0.5
    for extra in ((), (continuing,)):
        same_log(
            ours.span_log_prob(sentences, starts, ends, tags, *extra),
            truth.span_log_prob(sentences, starts, ends, tags, *extra),
        )
    none = torch.zeros(0, dtype=torch.long)
    assert ours.span_log_prob(none, none, none, none.view(0, 0)).shape == (0,)
    mask = torch.rand(B, T, C, generator=generator) < 0.7
    same_log(ours.log_prob_of_set(mask), truth.log_prob_of_set(mask))


@given(chains(dtypes=(torch.float64,)), st.integers(1, 6), st.booleans())
@examples
def test_one_formula_for_gold_and_k_best(chain, k, weighted):
    """Danger: gold, Top-K and Top-WK losses that differ from the sum over their paths."""
    ours, truth = both(chain)
    best = truth.topk(k)
    C = truth.shape[2]
    weights = best.log_prob.softmax(1).nan_to_num(0.0) if weighted else None
    statistics = SufficientStatistics.from_tags(best.tags, C, weights)
    if weights is None:
        weights = best.valid.double() / best.valid.sum(1, keepdim=True).clamp(min=1)
    expected = -(weights * truth.log_prob(best.tags).masked_fill(~best.valid, 0.0)).sum(1)
    same_log(ours.cross_entropy(statistics), expected)
    same_log(ours.log_prob(best.tags), best.log_prob)
    gold = best.tags[:, 0]
    expected = torch.where(best.valid[:, 0], -best.log_prob[:, 0], 0.0)
    same_log(ours.cross_entropy(SufficientStatistics.from_tags(gold, C)), expected)
    same_log(ours.log_prob(gold), best.log_prob[:, 0])


@given(chains(), st.integers(0, 2**31))
@examples
def test_padding_and_company_do_not_matter(chain, seed):
    """Danger: results that change with the batch's order, its longest member, or what stands in the padding."""
    args, options = chain
    (emissions, *rest), lengths = args, options["lengths"]
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed))
    alone = LinearChainCRF(*args, **options)
    junk = torch.full((len(order), 3, emissions.shape[2]), math.nan, dtype=emissions.dtype)
    shuffled = LinearChainCRF(torch.cat([emissions[order], junk], 1), *rest, **{**options, "lengths": lengths[order]})
    T = emissions.shape[1]
    close(shuffled.log_partition, alone.log_partition[order])
    close(shuffled.marginals[:, :T], alone.marginals[order])
    close(shuffled.topk(4).tags[..., :T], alone.topk(4).tags[order])
    assert bool((shuffled.marginals[:, T:] == 0).all())
    assert bool((shuffled.topk(4).tags[..., T:] == -100).all())


def test_no_allowed_path_is_minus_infinity_without_gradient():
    """Danger: NaN losses and NaN gradients from one impossible sentence in a batch."""
    allowed = torch.zeros(3, 3, dtype=torch.bool)
    emissions = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    transitions = torch.zeros(3, 3, requires_grad=True)
    crf = LinearChainCRF(emissions, transitions, lengths=torch.tensor([4, 1]), allowed=allowed)
    assert crf.log_partition[0] == -math.inf
    close(crf.log_partition[1], emissions[1, 0].logsumexp(0))
    crf.log_partition.sum().backward()
    assert bool((emissions.grad[0] == 0).all())
    assert bool((transitions.grad == 0).all())
    close(emissions.grad[1, 0], emissions[1, 0].softmax(0))
    emissions.grad = None
    crf = LinearChainCRF(emissions, transitions, lengths=torch.tensor([4, 1]), allowed=allowed)
    assert bool((crf.log_marginals[0] == -math.inf).all())
    (crf.log_marginals[1, 0] * torch.tensor([0.2, 0.3, 0.5])).sum().backward()
    assert bool((emissions.grad[0] == 0).all())
    assert bool(torch.isfinite(emissions.grad).all())
    tags, score = crf.argmax()
    assert score[0] == -math.inf
    assert bool((tags[0] == -100).all())
    assert bool((crf.sample(2)[0] == -100).all())
    assert crf.entropy()[0] == 0
    assert crf.topk(2).valid.tolist() == [[False, False], [True, True]]


def test_illegal_gold_path_is_minus_infinity_without_gradient():
    """Danger: a NaN from a gold path that the constraints forbid."""
    emissions = torch.zeros(2, 3, 2, requires_grad=True)
    allowed = torch.tensor([[True, False], [True, True]])
    crf = LinearChainCRF(emissions, torch.zeros(2, 2), allowed=allowed)
    gold = torch.tensor([[0, 1, 1], [0, 0, 0]])
    assert crf.log_prob(gold, allow_illegal=True)[0] == -math.inf
    loss = crf.cross_entropy(SufficientStatistics.from_tags(gold, 2))
    assert loss[0] == math.inf
    close(loss[1], torch.tensor(4.0).log())
    loss.sum().backward()
    assert bool((emissions.grad[0] == 0).all())
    assert bool(torch.isfinite(emissions.grad).all())
    assert crf.log_prob(gold[1:].expand(2, -1)).shape == (2,)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ([2, 0, 0], ["sentence 1", "path 0", "tag 2 cannot be first"]),
        ([0, 0, 1], ["tag 1 cannot be last"]),
        ([0, 1, 2], ["tag 1 at word 1 cannot follow tag 0"]),
        ([1, 2, 0], ["tag 2 is excluded at word 1"]),
    ],
)
def test_an_illegal_path_is_refused_and_the_step_named(path, words):
    """Danger: -inf that reaches a mean and makes it -inf, without a word about which tag was wrong."""
    allowed = torch.ones(3, 3, dtype=torch.bool)
    allowed[0, 1] = False
    emissions = torch.zeros(2, 4, 3)
    emissions[1, 1, 2] = -math.inf
    crf = LinearChainCRF(
        emissions,
        torch.zeros(3, 3),
        lengths=torch.tensor([4, 3]),
        allowed=allowed,
        allowed_start=torch.tensor([True, True, False]),
        allowed_end=torch.tensor([True, False, True]),
    )
    gold = torch.tensor([[0, 0, 0, 0], [*path, -100]])
    with pytest.raises(ValueError, match="allowed path") as error:
        crf.log_prob(gold)
    assert all(word in str(error.value) for word in words), error.value


def test_unlabelled_sentences_have_no_loss_and_no_gradient():
    """Danger: padding-only rows that contribute log Z, or its gradient."""
    emissions = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    crf = LinearChainCRF(emissions, torch.zeros(4, 4), lengths=torch.tensor([3, 2]))
    tags = torch.tensor([[-100, -100, -100], [1, 2, -100]])
    loss = crf.cross_entropy(SufficientStatistics.from_tags(tags, 4))
    assert loss[0] == 0
    assert loss[1] > 0
    loss.sum().backward()
    assert bool((emissions.grad[0] == 0).all())
    assert bool((emissions.grad[1, :2] != 0).any())


def test_golden_example_of_the_paper():
    """Danger: posterior or k-best targets that are not the paper's (Wang et al. 2020, Table 1).

    Its edge scores differ by position; a tag set of (label, position) pairs with constraints expresses them.
    """
    potentials = torch.tensor([[[2, 1 / 2], [1 / 2, 2]], [[1 / 3, 3], [4, 1 / 4]]])
    transitions = torch.zeros(6, 6)
    allowed = torch.zeros(6, 6, dtype=torch.bool)
    for edge in (0, 1):
        here, there = slice(2 * edge, 2 * edge + 2), slice(2 * edge + 2, 2 * edge + 4)
        transitions[here, there] = potentials[edge].log()
        allowed[here, there] = True
    first = torch.tensor([True, True, False, False, False, False])
    crf = LinearChainCRF(torch.zeros(1, 3, 6), transitions, allowed=allowed, allowed_start=first)
    close(crf.log_partition.exp(), torch.tensor([18.958]), rtol=0, atol=1e-3)
    names = ["".join("FT"[tag % 2] for tag in path) for path in crf.topk(9).tags[0].tolist()]
    assert names[:8] == ["TTF", "FFT", "FTF", "TFT", "FFF", "TTT", "TFF", "FTT"]
    assert crf.topk(9).valid[0].tolist() == [True] * 8 + [False]
    paper = torch.tensor([[0.422, 0.316, 0.105, 0.079, 0.035, 0.026, 0.009, 0.007]])
    close(crf.topk(8).log_prob.exp(), paper, rtol=0, atol=6e-4)
    close(crf.topk(2).log_prob.softmax(1), torch.tensor([[0.57, 0.43]]), rtol=0, atol=5e-3)
    close(crf.marginals[0, [0, 1, 2], [0, 2, 4]], torch.tensor([0.46, 0.44, 0.57]), rtol=0, atol=6e-3)


def test_samples_follow_the_distribution():
    """Danger: samples from the emissions, from the marginals, or biased by constraints."""
    generator = torch.Generator().manual_seed(5)
    args = [torch.randn(2, 3, 3, generator=generator), torch.randn(3, 3, generator=generator)]
    allowed = torch.tensor([[True, True, False], [True, True, True], [True, False, True]])
    options = {"lengths": torch.tensor([3, 2]), "allowed": allowed}
    ours, truth = LinearChainCRF(*args, **options), EnumeratedCRF(*args, **options)
    n = 20_000
    drawn = ours.sample(n, generator)
    assert drawn.shape == (2, n, 3)
    assert bool((drawn[1, :, 2] == -100).all())
    for b, paths in enumerate(truth.paths):
        counts = torch.stack([(drawn[b, :, : paths.shape[1]] == path).all(1).sum() for path in paths])
        assert int(counts.sum()) == n, "a sample outside the allowed paths"
        p = truth.probabilities(b)
        assert float(((counts / n - p).abs() / (p * (1 - p) / n).sqrt()).max()) < 4.5
    again = ours.sample(50, torch.Generator().manual_seed(1))
    close(again, ours.sample(50, torch.Generator().manual_seed(1)))


def random_chain(dtype=torch.float32, requires_grad=False, B=3, T=7, C=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(*shape, generator=generator) for shape in ((B, T, C), (C, C), (C,), (C,))]
    return [part.to(dtype).requires_grad_(requires_grad) for part in parts]


def test_low_precision_inputs_lose_nothing():
    """Danger: bfloat16 recursions; autocast rounding the inner products."""
    args = random_chain(torch.bfloat16)
    exact = LinearChainCRF(*(part.double() for part in args))
    for context in (torch.autocast("cpu", torch.bfloat16), torch.no_grad(), torch.inference_mode()):
        with context:
            crf = LinearChainCRF(*args)
            assert crf.log_partition.dtype == torch.float32
            close(crf.log_partition.double(), exact.log_partition, rtol=1e-6, atol=1e-6)
            close(crf.marginals.double(), exact.marginals, rtol=0, atol=1e-6)
            close(crf.edge_counts.double(), exact.edge_counts, rtol=0, atol=1e-6)
            close(crf.topk(3).log_prob.double(), exact.topk(3).log_prob, rtol=1e-6, atol=1e-6)
            close(crf.sample(4) >= 0, torch.ones(3, 4, 7, dtype=torch.bool))
            close(crf.kl(crf), torch.zeros(3))


def test_training_under_autocast():
    """Danger: gradients in the wrong type, or rounded on the way, when the encoder runs in bfloat16."""
    args = random_chain(requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        LinearChainCRF(args[0].bfloat16(), *args[1:]).log_marginals.square().sum().backward()
    assert [part.grad.dtype for part in args] == [torch.float32] * 4
    rounded = [args[0].detach().bfloat16().double(), *(part.detach().double() for part in args[1:])]
    exact = [part.requires_grad_() for part in rounded]
    LinearChainCRF(*exact).log_marginals.square().sum().backward()
    close(args[1].grad.double(), exact[1].grad, rtol=1e-5, atol=1e-5)


def test_a_value_seen_without_gradients_does_not_hide_them():
    """Danger: a cached tensor from no_grad or inference_mode that silently cuts training."""
    for context in (torch.no_grad(), torch.inference_mode()):
        args = random_chain(requires_grad=True)
        crf = LinearChainCRF(*args)
        with context:
            before = crf.log_partition
            crf.log_marginals  # noqa: B018
            crf.topk(2), crf.log_prob(torch.zeros(3, 7, dtype=torch.long))
        crf.log_partition.sum().backward(retain_graph=True)
        crf.log_marginals.sum().backward()
        score = crf.log_prob(torch.zeros(3, 7, dtype=torch.long)).sum()
        (slope,) = torch.autograd.grad(score, args[0], create_graph=True)
        slope.square().sum().backward()
        close(before.clone(), crf.log_partition.detach())
        assert all(part.grad is not None for part in args)


def test_temperature_flattens_and_inputs_stay():
    """Danger: a temperature applied to some of the scores, or in place."""
    args = random_chain(torch.float64)
    kept = [part.clone() for part in args]
    crf = LinearChainCRF(*args)
    close(crf.with_temperature(2.0).log_partition, LinearChainCRF(*(part / 2 for part in args)).log_partition)
    assert bool((crf.with_temperature(3.0).entropy() > crf.entropy()).all())
    crf.topk(3)
    for before, after in zip(kept, args):
        close(before, after, rtol=0, atol=0)


def every_result(crf):
    tags, score = crf.argmax()
    best = crf.topk(2)
    spans = (torch.tensor([0, 2]), torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([[0, 1], [2, -100]]))
    yield from (tags, score, *best, crf.sample(2), *crf.statistics, crf.edge_marginals(), crf.log_marginals)
    yield from (crf.log_partition, crf.log_prob(torch.zeros(3, 7, dtype=torch.long)), crf.span_log_prob(*spans))
    yield from (crf.log_prob_of_set(torch.ones(3, 7, 4, dtype=torch.bool)), crf.entropy(), crf.kl(crf))


def test_every_result_comes_back_to_the_callers_device():
    """Danger: on a device without float64 the sums are made on the CPU; a result left there fails far away."""
    crf = LinearChainCRF(*random_chain())
    crf._device = torch.device("meta")
    assert [result.device.type for result in every_result(crf)] == ["meta"] * 17


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs an Apple GPU, a device without float64")
def test_a_device_without_float64_gives_the_same_numbers():
    """Danger: an error, or float32 sums, where float64 does not exist."""
    parts = [part.detach() for part in random_chain()]
    results = []
    for device in ("cpu", "mps"):
        torch.manual_seed(0)
        crf = LinearChainCRF(*(part.to(device) for part in parts))
        results.append([result.cpu() for result in every_result(crf)])
    for here, there in zip(*results):
        close(there, here)


def bad(**changes):
    options = {"emissions": torch.zeros(2, 3, 4), "transitions": torch.zeros(4, 4), **changes}
    return LinearChainCRF(options.pop("emissions"), options.pop("transitions"), **options)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: bad(emissions=torch.zeros(3, 4)), ["emissions", "(3, 4)"]),
        (lambda: bad(emissions=torch.zeros(2, 0, 4)), ["emissions", "(2, 0, 4)"]),
        (lambda: bad(emissions=torch.zeros(2, 3, 4, dtype=torch.long)), ["emissions", "int64"]),
        (lambda: bad(transitions=torch.zeros(4, 5)), ["transitions", "(4, 4)", "(4, 5)"]),
        (lambda: bad(transitions=torch.zeros(5, 5)), ["transitions", "(5, 5)"]),
        (lambda: bad(transitions=torch.full((4, 4), math.nan)), ["transitions", "NaN"]),
        (lambda: bad(start_transitions=torch.zeros(3)), ["start_transitions", "(3,)"]),
        (lambda: bad(end_transitions=torch.zeros(4, 1)), ["end_transitions", "(4, 1)"]),
        (lambda: bad(lengths=torch.tensor([0, 3])), ["lengths", "[0, 3]"]),
        (lambda: bad(lengths=torch.tensor([4, 3])), ["lengths", "1..3"]),
        (lambda: bad(lengths=torch.tensor([3])), ["lengths", "(1,)"]),
        (lambda: bad(lengths=torch.tensor([1.0, 2.0])), ["lengths", "float32"]),
        (lambda: bad(allowed=torch.ones(4)), ["allowed", "(4,)"]),
        (lambda: bad(allowed=torch.ones(4, 4)), ["allowed", "bool"]),
        (lambda: bad(allowed_start=torch.ones(4, 4).bool()), ["allowed_start", "(4, 4)"]),
        (lambda: bad(allowed_end=torch.ones(5).bool()), ["allowed_end", "(5,)"]),
        (lambda: bad().log_prob(torch.zeros(2, 4).long()), ["tags", "(2, 3)", "(2, 4)"]),
        (lambda: bad().log_prob(torch.zeros(3).long()), ["tags", "(3,)"]),
        (lambda: bad().log_prob(torch.tensor([[0, 1, 2], [0, 4, 0]])), ["tags", "4", "sentence 1", "word 1"]),
        (lambda: bad().log_prob(torch.tensor([[0, 1, 2], [0, -100, 0]])), ["tags", "-100", "sentence 1"]),
        (lambda: bad().topk(0), ["k", "0"]),
        (lambda: bad().sample(0), ["n", "0"]),
        (lambda: bad().with_temperature(0.0), ["temperature", "0.0"]),
        (lambda: bad().restrict(torch.ones(2, 3).bool()), ["tags_allowed", "(2, 3)"]),
        (lambda: bad().kl(LinearChainCRF(torch.zeros(2, 3, 5), torch.zeros(5, 5))), ["(2, 3, 5)", "(2, 3, 4)"]),
        (lambda: bad().kl(bad(lengths=torch.tensor([3, 2]))), ["lengths", "[3, 2]"]),
        (
            lambda: bad().span_log_prob(*(torch.tensor([n]) for n in (0, 2, 4)), torch.zeros(1, 2).long()),
            ["span 0", "2", "4"],
        ),
        (
            lambda: bad().span_log_prob(*(torch.tensor([n]) for n in (2, 0, 1)), torch.zeros(1, 2).long()),
            ["span 0", "sentence 2"],
        ),
        (
            lambda: bad().span_log_prob(*(torch.tensor([n]) for n in (0, 0, 1)), torch.full((1, 2), 4)),
            ["span 0", "tag"],
        ),
        (lambda: SufficientStatistics.from_tags(torch.full((2, 3), 9), 4), ["tags", "9"]),
        (lambda: SufficientStatistics.from_tags(torch.zeros(2, 3), 4), ["tags", "float32"]),
        (
            lambda: SufficientStatistics.from_tags(torch.zeros(2, 5, 3).long(), 4, torch.ones(2, 3)),
            ["weights", "(2, 5)", "(2, 3)"],
        ),
        (
            lambda: bad().cross_entropy(SufficientStatistics.from_tags(torch.zeros(2, 4).long(), 4)),
            ["nodes", "(2, 4, 4)"],
        ),
    ],
)
def test_bad_input_is_named(build, words):
    """Danger: an obscure failure deep inside, or none."""
    with pytest.raises(ValueError, match=r".+") as error:
        build()
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_scores_are_located(value):
    """Danger: a NaN loss that nobody can trace to its sentence; or a false alarm from the padding."""
    emissions = torch.zeros(2, 3, 4)
    emissions[1, 2, 0] = value
    with pytest.raises(ValueError, match="sentence 1, word 2, tag 0"):
        LinearChainCRF(emissions, torch.zeros(4, 4))
    LinearChainCRF(emissions, torch.zeros(4, 4), lengths=torch.tensor([3, 2]))


@pytest.mark.parametrize(
    "name", ["transitions", "start_transitions", "end_transitions", "allowed", "allowed_start", "allowed_end"]
)
def test_an_argument_of_a_wrong_shape_is_named(name):
    """Danger: the shape of one of six is wrong, and the message speaks of another."""
    given = {
        "transitions": torch.zeros(3, 3),
        name: torch.zeros(2, 2, dtype=torch.bool if "allowed" in name else None),
    }
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        LinearChainCRF(torch.zeros(1, 2, 3), **given)
