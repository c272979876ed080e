"""Compiled loops give what the torch loops give, and are used where numba is installed unless switched off.

`test_crf.py` and `test_crf_sums.py` run with both (the `loops` fixture).
"""

from __future__ import annotations

import inspect
import math
import os
import subprocess
import sys

import pytest
import torch

from hf_structkd.modeling import crf_compiled as native
from hf_structkd.modeling import crf_loops
from hf_structkd.modeling.crf import LinearChainCRF
from hf_structkd.modeling.crf_reference import Scores
from tests.modeling.conftest import compile_loops
from tests.modeling.test_crf_sums import chain

close = torch.testing.assert_close


@pytest.fixture
def loops():
    """Whatever a test switches, what was set before comes back."""
    pytest.importorskip("numba")
    before = native.use_native(True)
    yield
    native.use_native(before)


@pytest.mark.slow  # numba compiles for a quarter of a minute in a fresh checkout
@pytest.mark.parametrize(("C", "density"), [(4, 1.0), (4, 0.5), (40, 1.0)])
@pytest.mark.parametrize("scale", [0.0, 5.0, 100.0])
def test_compiled_loops_agree_with_torch(loops, C, density, scale):
    """Danger: two implementations, two answers: sums, gradients, ties or the order of the k best."""
    scores, lengths = chain(5, 30, C, scale, seed=14, density=density)
    rounded = Scores(*(part.round() for part in scores))
    for case in (scores, rounded):
        results = []
        for on in (True, False):
            native.use_native(on)
            leaves = [part.clone().requires_grad_() for part in case]
            crf = LinearChainCRF(*leaves, lengths=lengths)
            posterior = torch.where(crf.log_marginals > -math.inf, crf.log_marginals, 0.0)
            (posterior.square().sum() + crf.log_partition.sum()).backward()
            best = crf.topk(7)
            values = [crf.log_partition, crf.log_marginals, best.log_prob, *(part.grad for part in leaves)]
            results.append(([value.detach() for value in values], [*crf.argmax()[:1], best.tags, best.valid]))
        for ours, truth in zip(results[0][0], results[1][0]):
            close(ours, truth, rtol=1e-10, atol=1e-10)
        for ours, truth in zip(results[0][1], results[1][1]):
            close(ours, truth)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_log_probabilities_in_one_call_agree_with_torch(loops, dtype):
    """Danger: one compiled gradient of paths and log Z together: wrong for several, missing, illegal or repeated
    paths, weights of 0, sentences of one word, or when it is differentiated again."""
    scores, lengths = chain(6, 12, 5, 2.0, seed=3, density=0.7)
    lengths[0] = 1
    results = []
    for on in (True, False):
        native.use_native(on)
        leaves = [part.to(dtype).requires_grad_() for part in scores]
        crf = LinearChainCRF(*leaves, lengths=lengths)
        paths = crf.topk(4).tags
        paths[1, 2] = -100  # missing
        paths[2, 1] = paths[2, 0]  # repeated
        paths[3, 0, : lengths[3]] = torch.arange(int(lengths[3])) % 5  # probably illegal
        paths = torch.where(torch.arange(12) < lengths[:, None, None], paths, 7)  # padding is not read
        paths[paths.eq(7) & (torch.arange(12) < lengths[:, None, None])] = -100
        values = crf.log_prob(paths, allow_illegal=True)
        weights = torch.tensor([1.0, 0.0, -0.5, 2.0]).expand_as(values)
        loss = torch.where(values > -math.inf, values.double() * weights, 0.0)
        first = torch.autograd.grad(loss.sum(), leaves, retain_graph=True)
        recorded = torch.autograd.grad(loss.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(part.double().square().sum() for part in recorded), leaves)
        results.append([values.detach(), *first, *(part.detach() for part in recorded), *second])
    assert bool((results[1][0] == -math.inf).any())
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for ours, truth in zip(*results):
        close(ours, truth, rtol=tolerance, atol=tolerance * float(truth[truth.isfinite()].abs().max().clamp(min=1)))


@pytest.mark.slow
def test_a_log_probability_after_other_quantities_shares_their_messages(loops):
    """Danger: the same CRF is asked for marginals and for paths, in either order, in and out of inference mode."""
    scores, lengths = chain(3, 6, 4, 1.0, seed=5)
    tags = LinearChainCRF(*scores, lengths=lengths).argmax()[0]
    truth = None
    for order in ("paths first", "marginals first", "inference first"):
        leaves = [part.clone().requires_grad_() for part in scores]
        crf = LinearChainCRF(*leaves, lengths=lengths)
        if order == "inference first":
            with torch.inference_mode():
                crf.log_prob(tags)
        parts = [lambda crf=crf: crf.log_prob(tags).sum(), lambda crf=crf: crf.marginals.square().sum()]
        total = sum(part() for part in (parts if order == "paths first" else parts[::-1]))
        gradients = torch.autograd.grad(total, leaves)
        truth = truth or gradients
        for ours, expected in zip(gradients, truth):
            close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_wrong_tags_are_named_as_torch_names_them(loops):
    """Danger: a compiled loop that reads outside its arrays, or an error without a place."""
    crf = LinearChainCRF(torch.zeros(2, 3, 4), torch.zeros(4, 4), lengths=torch.tensor([3, 2]))
    for tags in ([[0, 1, 2], [4, 0, 9]], [[0, 1, 2], [0, -100, 0]], [[0, -1, 2], [0, 0, 0]]):
        messages = []
        for on in (True, False):
            native.use_native(on)
            with pytest.raises(ValueError, match="tags must be in") as error:
                crf.log_prob(torch.tensor(tags))
            messages.append(str(error.value))
        assert messages[0] == messages[1]


@pytest.mark.slow
@pytest.mark.parametrize(("C", "k"), [(3, 100), (150, 50), (9, 1)])
def test_long_lists_of_paths_agree_with_torch(loops, C, k):
    """Danger: a candidate is passed over because it looks worse than the last path kept, ties included."""
    scores, lengths = chain(4, 20, C, 1.0, seed=8)
    for case in (scores, Scores(*(part.round() for part in scores))):
        best = []
        for on in (True, False):
            native.use_native(on)
            best.append(LinearChainCRF(*case, lengths=lengths).topk(k))
        close(best[0].tags, best[1].tags)
        close(best[0].valid, best[1].valid)


def test_sums_over_many_tags_use_matrix_products(loops):
    """Danger: the default is slower than torch where the loops lose."""
    for C, compiled in ((native.MAX_TAGS, True), (native.MAX_TAGS + 1, False)):
        crf = LinearChainCRF(torch.zeros(1, 2, C), torch.zeros(C, C))
        assert native.native_sums(crf._chain) is compiled
        assert native.native_maxima(crf._chain)


def test_compiled_loops_read_no_constant_of_another_file():
    """Danger: numba keeps compiled code until its own file changes, and goes on with an old value of a constant."""
    pytest.importorskip("numba")
    loops = [(name, value) for name, value in vars(crf_loops).items() if hasattr(value, "py_func")]
    assert len(loops) > 8
    for name, function in loops:
        used = inspect.getclosurevars(function.py_func).globals
        assert not [n for n, value in used.items() if not callable(value) and n != "np"], name


@pytest.mark.parametrize(("setting", "installed", "expected"), [
    ("", True, True), ("", False, False), ("0", True, False), ("1", True, True),
])  # fmt: skip
def test_compiled_loops_are_the_default_where_numba_is_installed(setting, installed, expected):
    """Danger: the fast extra is installed and nothing uses it; or a setting from outside is not read; or importing
    the package imports numba."""
    code = f"""
import importlib.util, sys, torch
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba" and not {installed} else find(name, *rest)
from hf_structkd.modeling import crf_compiled
from hf_structkd.modeling.crf import LinearChainCRF
assert "numba" not in sys.modules
print(crf_compiled.native_sums(LinearChainCRF(torch.zeros(1, 2, 3), torch.zeros(3, 3))._chain))
"""
    if installed:
        pytest.importorskip("numba")
    environment = {**os.environ, "HF_STRUCTKD_NATIVE": setting}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.stdout.strip() == str(expected), result.stderr


def test_a_setting_that_is_no_switch_is_refused():
    """Danger: HF_STRUCTKD_NATIVE=false switches the loops on."""
    code = "from hf_structkd.modeling import crf_compiled"
    environment = {**os.environ, "HF_STRUCTKD_NATIVE": "false"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "HF_STRUCTKD_NATIVE is 0 (torch alone) or 1 (compiled loops), not 'false'" in result.stderr


def test_loops_without_numba_are_refused_by_name(monkeypatch):
    """Danger: compiled loops are asked for, and torch is used without a word."""
    monkeypatch.setattr(native, "_installed", lambda: False)
    with pytest.raises(ImportError, match=r"hf_structkd\[fast\]"):
        native.use_native(True)


@pytest.mark.slow
def test_the_fixture_compiles_all_loops_before_any_test_is_timed(loops):
    """Danger: the first example of a timed property also pays for the compiler."""
    compile_loops()
    every = {name: value for name, value in vars(crf_loops).items() if hasattr(value, "signatures")}
    entered = [loop for name, loop in every.items() if not name.startswith("_")]  # others are compiled into these
    assert len(entered) > 6
    assert [loop.__name__ for loop in entered if not loop.signatures] == []
