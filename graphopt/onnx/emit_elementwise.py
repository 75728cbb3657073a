"""Writing element-wise kinds."""

from __future__ import annotations

import math

from graphopt.ir.core import Op, OpKind
from graphopt.ir.types import DType
from graphopt.onnx.emitter import EMITTERS, Emitter, NeedsOpset, emits, kind_of
from graphopt.ops import elementwise as el

Strs = list[str]

_PLAIN: dict[type[OpKind], str] = {
    el.Abs: "Abs", el.Neg: "Neg", el.Exp: "Exp", el.Log: "Log", el.Sqrt: "Sqrt",
    el.Reciprocal: "Reciprocal", el.Floor: "Floor", el.Ceil: "Ceil", el.Round: "Round",
    el.Sign: "Sign", el.Sin: "Sin", el.Cos: "Cos", el.Tan: "Tan", el.Asin: "Asin",
    el.Acos: "Acos", el.Atan: "Atan", el.Sinh: "Sinh", el.Cosh: "Cosh", el.Asinh: "Asinh",
    el.Acosh: "Acosh", el.Atanh: "Atanh", el.Tanh: "Tanh", el.Erf: "Erf", el.Sigmoid: "Sigmoid",
    el.Relu: "Relu", el.Softplus: "Softplus", el.Softsign: "Softsign", el.Not: "Not",
    el.IsNaN: "IsNaN", el.Identity: "Identity", el.Add: "Add", el.Sub: "Sub", el.Mul: "Mul",
    el.Div: "Div", el.Pow: "Pow", el.PRelu: "PRelu",
    el.Equal: "Equal", el.Less: "Less", el.Greater: "Greater", el.And: "And", el.Or: "Or",
    el.Xor: "Xor", el.Where: "Where",
}  # fmt: skip


def _plain(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node(_PLAIN[type(op.kind)], ins, outs)


EMITTERS.update((kind, _plain) for kind in _PLAIN)


def _dtype(op: Op) -> DType:
    return op.operand(0).tensor.dtype


@emits(el.LessEqual, el.GreaterEqual)
def _or_equal(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Before opset 12: a < b or a == b (not `not a > b`, which is true of NaN)."""
    strict = "Less" if isinstance(op.kind, el.LessEqual) else "Greater"
    if e.opset >= 12:
        e.node(f"{strict}OrEqual", ins, outs)
        return
    if e.opset < 11 and _dtype(op).is_float:
        raise NeedsOpset(11, "Equal of floats")
    e.node("Or", [e.temp(strict, ins), e.temp("Equal", ins)], outs)


@emits(el.Min, el.Max)
def _extreme(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Broadcasts from opset 8 on."""
    op_type = "Min" if isinstance(op.kind, el.Min) else "Max"
    a, b = (op.operand(i).tensor.static for i in (0, 1))
    if e.opset < 8 and (a is None or a != b):
        raise NeedsOpset(8, f"{op_type} that broadcasts")
    e.node(op_type, ins, outs)


@emits(el.LeakyRelu)
def _leaky_relu(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("LeakyRelu", ins, outs, alpha=kind_of(op).alpha)


@emits(el.Elu)
def _elu(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("Elu", ins, outs, alpha=kind_of(op).alpha)


@emits(el.HardSigmoid)
def _hard_sigmoid(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("HardSigmoid", ins, outs, alpha=kind_of(op).alpha, beta=kind_of(op).beta)


@emits(el.HardSwish, native=14)
def _hard_swish(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """x * hard_sigmoid(x)."""
    if e.opset >= 14:
        e.node("HardSwish", ins, outs)
        return
    e.node("Mul", [ins[0], e.temp("HardSigmoid", ins, alpha=1 / 6, beta=0.5)], outs)


@emits(el.Mish, native=18)
def _mish(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """x * tanh(softplus(x))."""
    if e.opset >= 18:
        e.node("Mish", ins, outs)
        return
    e.node("Mul", [ins[0], e.temp("Tanh", [e.temp("Softplus", ins)])], outs)


@emits(el.Gelu, native=20)
def _gelu(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """x/2 * (1 + erf(x / sqrt 2)), or x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))."""
    approximate, dtype = kind_of(op).approximate, _dtype(op)
    if e.opset >= 20:
        e.node("Gelu", ins, outs, approximate=None if approximate == "none" else approximate)
        return
    if approximate == "none":
        bent = e.temp("Erf", [e.temp("Div", [ins[0], e.number(math.sqrt(2), dtype)])])
    else:
        cube = e.temp("Mul", [e.temp("Mul", [ins[0], ins[0]]), ins[0]])
        inner = e.temp("Add", [ins[0], e.temp("Mul", [cube, e.number(0.044715, dtype)])])
        scaled = e.temp("Mul", [inner, e.number(math.sqrt(2 / math.pi), dtype)])
        bent = e.temp("Tanh", [scaled])
    twice = e.temp("Mul", [ins[0], e.temp("Add", [bent, e.number(1.0, dtype)])])
    e.node("Mul", [twice, e.number(0.5, dtype)], outs)


@emits(el.Silu, native=24)
def _silu(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """x * sigmoid(alpha x)."""
    alpha = kind_of(op).alpha
    if e.opset >= 24:
        e.node("Swish", ins, outs, alpha=None if alpha == 1 else alpha)
        return
    scaled = ins[0] if alpha == 1 else e.temp("Mul", [ins[0], e.number(alpha, _dtype(op))])
    e.node("Mul", [ins[0], e.temp("Sigmoid", [scaled])], outs)


@emits(el.Clip)
def _clip(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    """Bounds are attributes before opset 11, where only floats are clipped."""
    lo, hi, dtype = kind_of(op).lo, kind_of(op).hi, _dtype(op)
    if e.opset < 11:
        if not dtype.is_float:
            raise NeedsOpset(12, "Clip of integers")
        low, high = (None if v is None else float(v) for v in (lo, hi))
        e.node("Clip", ins, outs, min=low, max=high)
        return
    names = ["" if v is None else e.number(v, dtype) for v in (lo, hi)]
    e.node("Clip", [*ins, *names], outs)


@emits(el.Cast)
def _cast(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("Cast", ins, outs, to=kind_of(op).to.onnx)


@emits(el.Mod)
def _mod(e: Emitter, op: Op, ins: Strs, outs: Strs) -> None:
    e.node("Mod", ins, outs, fmod=int(kind_of(op).fmod))
