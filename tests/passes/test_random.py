"""Any graph, any pipeline of exact and reassociating passes: the numbers stay."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphopt.passes
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.ir.core import Module
from graphopt.ir.parser import parse
from graphopt.ir.printer import to_text
from graphopt.ir.verify import verify
from graphopt.pipeline import Context, Hook, Pass, PassResult, parse_pipeline, run_pipeline
from tests.strategies import modules

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
quick = settings(max_examples=150, deadline=None, suppress_health_check=SLOW)


class VerifyEach(Hook):
    """Verifies after every pass."""

    def after(self, number: int, p: Pass, module: Module, result: PassResult) -> None:
        """Check the module."""
        verify(module)


def check(module: Module, text: str, *, exact: bool) -> None:
    """Run a pipeline: it keeps the numbers, and its second run changes nothing."""
    verify(module)
    assert to_text(parse(to_text(module))) == to_text(module)
    inputs = random_inputs(module)
    want = interpret(module, inputs)
    pipeline = parse_pipeline(text, graphopt.passes.PIPELINES)
    before = sum(op.kind.name not in ("const", "return") for op in module.main)
    run_pipeline(pipeline, module, Context(), [VerifyEach()])
    got = interpret(module, inputs)
    for a, b in zip(want.values(), got.values(), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if exact:
            np.testing.assert_array_equal(a, b)
        else:  # float64: far below any wrong number, far above what reassociating gives
            scale = np.abs(a[np.isfinite(a)]).max(initial=1)
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7 * scale)
    assert sum(op.kind.name not in ("const", "return") for op in module.main) <= before
    again = run_pipeline(pipeline, module, Context())
    assert not any(r.changed for r in again), [r.text for r in again if r.changed]


@quick
@given(modules(), st.sampled_from(["fold", "simplify", "cse", "dce", "fold,simplify,cse,simplify"]))
def test_exact_passes_keep_every_bit(module: Module, text: str) -> None:
    """Results are equal bit by bit."""
    check(module, text, exact=True)


@quick
@given(modules(steps=False), st.sampled_from(["fuse", "default", "default"]))
def test_reassociating_passes_keep_the_numbers(module: Module, text: str) -> None:
    """Results are equal up to rounding; jumps are left out, which would magnify it."""
    check(module, text, exact=False)
