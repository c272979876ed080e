"""Compiled loops give what the torch loops give, and are used only on request.

`test_crf.py`, `test_crf_sums.py` and `test_crf_paths.py` run with both (the `loops` fixture).
"""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from hf_structkd.modeling import crf_compiled as native
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


def test_compiled_loops_read_no_constant_of_another_file():
    """Danger: numba keeps compiled code until its own file changes, and goes on with an old value of a constant."""
    pytest.importorskip("numba")
    for module in (native, native):
        for name, function in vars(module).items():
            if hasattr(function, "py_func"):
                used = inspect.getclosurevars(function.py_func).globals
                assert not [n for n, value in used.items() if not callable(value) and n != "np"], name


def test_compiled_loops_are_opt_in(monkeypatch):
    """Danger: results, or seconds of compilation, that depend on what happens to be installed."""
    before = native.use_native(False)
    try:
        assert not native.native_enabled(torch.device("cpu"))
        monkeypatch.setattr(native, "numba", None)
        with pytest.raises(ImportError, match=r"hf_structkd\[fast\]"):
            native.use_native(True)
    finally:
        monkeypatch.undo()
        native.use_native(before)


@pytest.mark.slow
def test_the_fixture_compiles_all_loops_before_any_test_is_timed(loops):
    """Danger: the first example of a timed property also pays for the compiler."""
    compile_loops()
    every = {name: value for name, value in vars(native).items() if hasattr(value, "signatures")}
    assert len(every) > 5
    plain = [value for value in vars(native).values() if inspect.isfunction(value) or inspect.isclass(value)]
    methods = [m for value in plain if inspect.isclass(value) for m in vars(value).values() if inspect.isfunction(m)]
    called = {name for f in [*plain, *methods] if inspect.isfunction(f) for name in f.__code__.co_names}
    entered = {name: loop for name, loop in every.items() if name in called}  # others are compiled into these
    assert len(entered) > 3
    assert [name for name, loop in entered.items() if not loop.signatures] == []
