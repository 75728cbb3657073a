"""Passes that learn from samples, and what they do where there are none but made-up ones."""

from __future__ import annotations

from graphopt.errors import InputError
from graphopt.ir.core import Loc
from graphopt.pipeline import Context, PassResult
from graphopt.rewrite import Remark

DECLINED = ("no --data: smooth, adaround and bias_correct{method=empirical} leave the model as it "
            "is, since what generated inputs teach is wrong for real ones")  # fmt: skip


def required(ctx: Context, purpose: str) -> None:
    """Raise InputError if there are no samples at all, not even generated ones, for a purpose."""
    if ctx.samples is None or not ctx.samples.runs:
        raise InputError(f"there are no samples to {purpose}; give some with --data")


def declined(name: str, ctx: Context, purpose: str) -> PassResult | None:
    """What a pass that needs real samples gives where they are generated; None: they are real.

    Raises:
        InputError: there are none at all to do something for (`purpose`).
    """
    required(ctx, purpose)
    assert ctx.samples
    if not ctx.samples.made_up:
        return None
    told = "no samples were given, and generated ones don't tell"
    return PassResult(False, (Remark(name, Loc(), False, told),), notes=(DECLINED,))
