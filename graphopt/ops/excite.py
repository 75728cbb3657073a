"""Squeeze and excitation: a gate a channel, from the means of all channels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from graphopt.errors import ParseError
from graphopt.ir.core import OpKind
from graphopt.ir.types import Array, TensorType, ValueType
from graphopt.ops.common import wide
from graphopt.ops.elementwise import Cast, Predicate, Unary
from graphopt.ops.shapes import agree, tensors
from graphopt.scanner import Scanner
from graphopt.spec import parse_spec


@lru_cache(maxsize=256)
def activation(text: str) -> Unary:
    """The function that a text names, `silu` or `clip{lo=0.0,hi=6.0}`.

    Raises:
        ValueError: it names no function of one float that gives a float.
    """
    scan = Scanner(text, "activation")
    try:
        found = parse_spec(OpKind, scan, what="activation")
    except ParseError as why:
        raise ValueError(f"{text!r} names no activation") from why
    if not isinstance(found, Unary) or isinstance(found, Predicate | Cast) or scan.kind != "end":
        raise ValueError(f"{text!r} names no activation")
    return found


@dataclass(frozen=True)
class SqueezeExcite(OpKind, name="squeeze_excite"):
    """gate(w2 activation(w1 mean(x) + b1) + b2) (arXiv 1709.01507, eq. 2 and 3).

    x: [N, C, spatial...], of which the mean over the spatial axes is taken; w1: [R, C, 1...] and
    w2: [C, R, 1...], 1x1 convolutions of the rank of x; b1: [R]; b2: [C]. The result is the gate
    [N, C, 1...]. Its product with x (eq. 4) is an op of its own, so that it can join the kernel of
    what comes next. `activation` and `gate` are texts of element-wise kinds.
    """

    activation: str = "relu"
    gate: str = "sigmoid"
    operands = ("x", "w1", "w2", "b1?", "b2?")

    def __post_init__(self) -> None:
        """Check that both texts name activations (ValueError)."""
        self.functions()

    def functions(self) -> tuple[Unary, Unary]:
        """The two functions: between the products, and of the gate."""
        return activation(self.activation), activation(self.gate)

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """[N, C, 1...]."""
        x, w1, w2 = tensors(*types)[:3]
        if any(t.dtype is not x.dtype for t in tensors(*types)) or not x.dtype.is_float:
            raise ValueError(f"element types differ or are no floats: {x.dtype}, {w1.dtype}")
        if x.shape is None or w1.shape is None or w2.shape is None:
            return (TensorType(x.dtype, None),)
        n = len(x.shape) - 2
        for w in (w1.shape, w2.shape):
            if n < 1 or len(w) != n + 2 or any(d != 1 for d in w[2:]):
                raise ValueError(f"w1 {w1} or w2 {w2} is no 1x1 convolution of {x}")
        agree(w1.shape[1], x.shape[1], "channels of x and w1")
        agree(w2.shape[1], w1.shape[0], "channels of w1 and w2")
        agree(w2.shape[0], x.shape[1], "channels of x and the gate")
        for bias, w in zip(types[3:], (w1, w2), strict=True):
            if isinstance(bias, TensorType) and bias.shape is not None and w.shape is not None:
                agree(len(bias.shape), 1, "rank of a bias")
                agree(bias.shape[0], w.shape[0], "channels of weights and bias")
        return (TensorType(x.dtype, (x.shape[0], w2.shape[0], *(1,) * n)),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formula, 16-bit floats in float32."""
        x, w1, w2, b1, b2 = (v if v is None else wide(v) for v in arrays)
        assert x is not None and w1 is not None and w2 is not None and arrays[0] is not None
        with np.errstate(all="ignore"):
            y: Array = x.mean(axis=tuple(range(2, x.ndim)))
            for w, b, function in zip((w1, w2), (b1, b2), self.functions(), strict=True):
                y = y @ w.reshape(w.shape[:2]).T
                y = function.compute(y if b is None else y + b)
        return (y.astype(arrays[0].dtype).reshape(*y.shape, *(1,) * (x.ndim - 2)),)
