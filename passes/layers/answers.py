"""What a model's outputs say, before a last function that hides how sure they are of it."""

from __future__ import annotations

from graphopt.ir.core import Module, Value
from graphopt.ops.elementwise import Cast, Identity, Sigmoid
from graphopt.ops.movement import Reshape, Squeeze, Transpose
from graphopt.ops.nn import LogSoftmax, Softmax
from graphopt.ops.reduce import ArgMax

MOVED = (Reshape, Squeeze, Transpose, Cast, Identity)
HIDING = (Softmax, LogSoftmax, Sigmoid, ArgMax)


def told(module: Module) -> list[Value]:
    """Floats that a module's outputs are made of, one an output, in order; others are left out.

    Logits stand for what a softmax, a sigmoid or an arg_max makes of them: where a model is sure of
    its answer these hardly move however much of the noise arrives, until the answer is another.
    """
    found = [said(v) for v in module.main.outputs]
    return [v for v in found if v.tensor.dtype.is_float]


def said(output: Value) -> Value:
    """The logits of an output, perhaps of another shape than it; itself where it has none."""
    found = at = output
    while at.op and isinstance(at.op.kind, MOVED + HIDING):
        hides, at = isinstance(at.op.kind, HIDING), at.op.operand(0)
        found = at if hides else found
    return found


def pairs(before: Module, module: Module) -> list[tuple[Value, Value]]:
    """What the original tells and what a changed module does, output by output.

    Where the two logits haven't one shape (the ends are others by now), the outputs themselves are
    compared; those that aren't floats are left out.
    """
    found = list[tuple[Value, Value]]()
    for ends in zip(before.main.outputs, module.main.outputs, strict=True):
        theirs, ours = map(said, ends)
        if theirs.tensor.shape != ours.tensor.shape:
            theirs, ours = ends
        if theirs.tensor.dtype.is_float and ours.tensor.dtype.is_float:
            found.append((theirs, ours))
    return found
