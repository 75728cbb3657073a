"""Converters of element-wise ONNX ops."""

from __future__ import annotations

from typing import Any

from graphopt.ir.builtin import Const
from graphopt.ir.core import OpKind
from graphopt.ir.data import Splat
from graphopt.ir.types import DType
from graphopt.onnx.node import CONVERTERS, Modelled, NodeView, Step, converts
from graphopt.ops import elementwise as el

# Kinds without attributes: the op's operands are the kind's.
_PLAIN: dict[str, type[OpKind]] = {
    "Abs": el.Abs, "Neg": el.Neg, "Exp": el.Exp, "Log": el.Log, "Sqrt": el.Sqrt,
    "Reciprocal": el.Reciprocal, "Floor": el.Floor, "Ceil": el.Ceil, "Round": el.Round,
    "Sign": el.Sign, "Sin": el.Sin, "Cos": el.Cos, "Tan": el.Tan, "Asin": el.Asin,
    "Acos": el.Acos, "Atan": el.Atan, "Sinh": el.Sinh, "Cosh": el.Cosh, "Asinh": el.Asinh,
    "Acosh": el.Acosh, "Atanh": el.Atanh, "Tanh": el.Tanh, "Erf": el.Erf, "Sigmoid": el.Sigmoid,
    "Relu": el.Relu, "Softplus": el.Softplus, "Softsign": el.Softsign, "Mish": el.Mish,
    "HardSwish": el.HardSwish, "Not": el.Not, "IsNaN": el.IsNaN, "Identity": el.Identity,
    "Add": el.Add, "Sub": el.Sub, "Mul": el.Mul, "Div": el.Div, "Pow": el.Pow,
    "PRelu": el.PRelu, "Equal": el.Equal, "Less": el.Less, "LessOrEqual": el.LessEqual,
    "Greater": el.Greater, "GreaterOrEqual": el.GreaterEqual, "And": el.And, "Or": el.Or,
    "Xor": el.Xor, "Where": el.Where,
}  # fmt: skip

# Types whose conversion numpy does as ONNX does (float8 saturates, strings are formatted).
_CASTS = {
    DType.f32, DType.f64, DType.f16, DType.bf16, DType.bool_,
    DType.u8, DType.u16, DType.u32, DType.u64, DType.i8, DType.i16, DType.i32, DType.i64,
}  # fmt: skip


def _plain(n: NodeView) -> Modelled | None:
    return Step(_PLAIN[n.op_type](), n.operands)


CONVERTERS.update((("", op_type), _plain) for op_type in _PLAIN)


@converts("LeakyRelu")
def _leaky_relu(n: NodeView) -> Modelled:
    return Step(el.LeakyRelu(n.attr("alpha", 0.01)), n.operands)


@converts("Elu")
def _elu(n: NodeView) -> Modelled:
    return Step(el.Elu(n.attr("alpha", 1.0)), n.operands)


@converts("HardSigmoid")
def _hard_sigmoid(n: NodeView) -> Modelled:
    return Step(el.HardSigmoid(n.attr("alpha", 0.2), n.attr("beta", 0.5)), n.operands)


@converts("Gelu")
def _gelu(n: NodeView) -> Modelled | None:
    approximate = n.attr("approximate", "none")
    return Step(el.Gelu(approximate), n.operands) if approximate in ("none", "tanh") else None


@converts("Swish")
def _swish(n: NodeView) -> Modelled:
    return Step(el.Silu(n.attr("alpha", 1.0)), n.operands)


@converts("Clip")
def _clip(n: NodeView) -> Modelled | None:
    """Bounds are attributes before opset 11; the defaults there are float32's extremes."""
    if n.version < 11:
        lo, hi = n.attr("min"), n.attr("max")
    else:
        lo, hi = (n.number(i) if n.has(i) else None for i in (1, 2))
        if (n.has(1) and lo is None) or (n.has(2) and hi is None):
            return None
    return Step(el.Clip(lo, hi), n.operands[:1])


@converts("Cast")
def _cast(n: NodeView) -> Modelled | None:
    return _cast_to(n, next((t for t in DType if t.onnx == n.attr("to")), None))


@converts("CastLike")
def _cast_like(n: NodeView) -> Modelled | None:
    return _cast_to(n, n.dtype(1))


def _cast_to(n: NodeView, to: DType | None) -> Modelled | None:
    if to is None or to not in _CASTS or n.dtype(0) not in _CASTS:
        return None
    return Step(el.Cast(to), n.operands[:1])


@converts("Mod")
def _mod(n: NodeView) -> Modelled | None:
    """Of floats it was only C's fmod before opset 28."""
    dtype = n.dtype(0)
    if not n.attr("fmod", 0) and (dtype is None or dtype.is_float):
        return None
    return Step(el.Mod(bool(n.attr("fmod", 0))), n.operands)


@converts("Dropout")
def _dropout(n: NodeView) -> Modelled | None:
    """At inference the identity; from opset 12 on `training_mode` is an operand."""
    training = n.version >= 12 and n.has(2) and n.number(2) is not False
    return Step(el.Identity(), n.operands[:1]) if n.single and not training else None


_CHAINS: dict[str, type[OpKind]] = {"Sum": el.Add, "Min": el.Min, "Max": el.Max, "Mean": el.Add}


@converts(*_CHAINS)
def _variadic(n: NodeView) -> Modelled | None:
    """f(f(a, b), c) ...; the mean is divided by the count at the end."""
    kind: Any = _CHAINS[n.op_type]
    if not n.operands:
        return None
    steps: list[Step] = []
    for operand in n.operands[1:]:
        left = len(steps) - 1 if steps else n.operands[0]
        steps.append(Step(kind(), (left, operand)))
    if not steps:
        return Step(el.Identity(), n.operands)
    if n.op_type == "Mean":
        dtype = n.dtype(0)
        if dtype is None:
            return None
        count = Const(Splat(dtype, (), float(len(n.operands))))
        steps += [Step(count, ()), Step(el.Div(), (len(steps) - 1, len(steps)))]
    return steps[0] if len(steps) == 1 else steps
