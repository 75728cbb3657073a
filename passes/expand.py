"""expand: ops without a kernel, written as the ONNX functions that define them.

ONNX defines many ops by a function of simpler ones: Attention in all its forms, RotaryEmbedding,
CenterCropPad, losses. A target that lacks such an op has kernels for what its function is made of.
Cubic and antialiased resizing have no function, but are products with matrices (`separable`).
The exported model keeps the op: this runs where a target lowers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir.builtin import Const, Opaque, Return
from graphopt.ir.core import Module, Op, Value
from graphopt.ir.types import TensorType
from graphopt.passes.cse import Cse
from graphopt.passes.dce import Dce
from graphopt.passes.fold import Fold
from graphopt.passes.fuse import Fuse
from graphopt.passes.group import is_view
from graphopt.passes.separable import as_products
from graphopt.passes.simplify import Simplify
from graphopt.passes.table import RulePass
from graphopt.pipeline import Catalog, Context, Effect, run_pipeline
from graphopt.rewrite import Miss, Rewriter, Rule, rule

EXACT = (Fold(), Simplify(), Cse(), Fuse(), Simplify(), Cse(), Dce())
# Its function takes E[x^2] - E[x]^2 for the variance, which loses what ONNX Runtime keeps.
KEPT = {"LayerNormalization"}


@dataclass(frozen=True)
class Expand(RulePass, name="expand"):
    """Write an op that has no kernel as the function that defines it, if that has kernels."""

    effect: ClassVar[Effect] = "reassociating"

    def rules(self, ctx: Context) -> Iterable[Rule[Any]]:
        """The rules; the first asks the target what it can compute (without one: nothing)."""

        @rule(Opaque)
        def define(rw: Rewriter, op: Op, kind: Opaque) -> tuple[Value, ...] | None:
            """f(x, y) -> the ops by which ONNX defines f."""
            return _define(rw, op, kind, ctx)

        @rule(Opaque)
        def resize_by_products(rw: Rewriter, op: Op, kind: Opaque) -> Value | None:
            """resize(x) -> V x W, the rows of V' and W resized basis vectors."""
            return as_products(rw, op, kind)

        return (define, resize_by_products)


def _define(rw: Rewriter, op: Op, kind: Opaque, ctx: Context) -> tuple[Value, ...] | None:
    from graphopt.onnx import evaluate_opaque  # on first use: onnx takes a while to import
    from graphopt.onnx.definition import defined, definition

    if kind.op_type in KEPT or not defined(kind) or (ctx.catalog and ctx.catalog.family(op)):
        return None
    if op.graph and op.graph.parent:
        raise Miss("it is in a branch or loop, whose body isn't compiled")
    types = [v.type for v in op.operands if v]
    if not all(isinstance(t, TensorType) and t.static is not None for t in types):
        raise Miss("the shapes of its operands aren't known")
    found = definition(op)
    if found is None:
        raise Miss("ONNX gives no function for this form")
    module, inputs = found
    inner = Context(evaluate=evaluate_opaque, fold_bytes=ctx.fold_bytes, catalog=ctx.catalog)
    run_pipeline((*EXACT, Expand()), module, inner)  # a function may call another
    if ctx.catalog:
        _check(module, ctx.catalog)
    return _inserted(rw, op, kind, module, inputs)


def _check(module: Module, catalog: Catalog) -> None:
    """Raise Miss unless every op of a function has a kernel, or needs none."""
    for op in module.main:
        if isinstance(op.kind, Const | Return) or is_view(op) or catalog.family(op) is not None:
            continue
        raise Miss(f"its function needs {getattr(op.kind, 'op_type', op.kind.name)}")


def _inserted(
    rw: Rewriter, op: Op, kind: Opaque, module: Module, inputs: list[Value]
) -> tuple[Value, ...]:
    """The function's ops where `op` stands; the values of its results."""
    mapped = dict(zip(module.main.args, inputs, strict=True))
    for inner in module.main:
        if isinstance(inner.kind, Return):
            continue
        operands = [mapped[v] if v else None for v in inner.operands]
        copy = rw.op(inner.kind, *operands, types=[r.type for r in inner.results])
        for old, new in zip(inner.results, copy.results, strict=True):
            mapped[old], new.hint = new, old.hint
    named = iter(module.main.outputs)
    missing = [i in kind.missing for i in range(len(op.results))]
    values = [None if gone else mapped[next(named)] for gone in missing]
    some = next(v for v in values if v is not None)
    return tuple(some if v is None else v for v in values)  # nothing uses a result without a name
