"""Quantization without a division: by the scale's inverse, held as the sum of two float32 numbers.

    x / scale ~ x * inverse + x * rest        inverse + rest ~ 1 / scale, to 48 bits

One product is rounded, the other exact, and their sum is rounded once (a fused multiply-add), so it
is the float32 number nearest to x / scale for all but some 2^-23 of all x. What counts is the
integer that follows. `inverses` proves for a scale that this is the division's, whatever x is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir.types import Array, DType, ValueType
from graphopt.ops.quant import NARROW, Scaled, along, limits, saturate
from graphopt.ops.shapes import tensors

LEAST, LARGEST = 2.0**-64, 2.0**64  # scales whose inverse and rest are normal numbers, as is x
ULPS = np.arange(-2, 3, dtype=np.int32)  # around a place where the integer changes


def fused(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float32, rounded once.

    The product is exact in float64. The sum is rounded to odd there, so that rounding it once more,
    to float32, is as if it were exact (Boldo and Melquiond, IEEE TC 57(4), 2008).
    """
    product, added = a.astype(np.float64) * b, np.asarray(c, np.float64)
    total = np.asarray(product + added)
    part = total - product
    lost = np.asarray((product - (total - part)) + (added - part))  # Knuth's TwoSum
    even = (total.view(np.int64) & 1) == 0
    near = np.isfinite(total) & (lost != 0) & even
    return np.where(near, np.nextafter(total, np.copysign(np.inf, lost)), total).astype(np.float32)


def multiplied(x: Array, inverse: Array, rest: Array) -> Array:
    """x * inverse + x * rest as kernels compute it."""
    return fused(x, inverse, (x * rest).astype(np.float32))


def inverses(scale: Array, dtype: DType) -> tuple[Array, Array] | None:
    """(inverse, rest) by which any float32 gives the integer that dividing by the scale gives.

    Args:
        scale: float32, of any shape.
        dtype: of the integers, which saturate; the zero point may be any of them.

    Returns:
        Arrays of the scale's shape; None where a scale is no ordinary positive number, or where
        some x would give another integer.
    """
    if not ((scale >= LEAST) & (scale <= LARGEST)).all():
        return None
    whole = 1 / scale.astype(np.float64)
    inverse = whole.astype(np.float32)
    inverse = np.where(inverse >= whole, np.nextafter(inverse, np.float32(0)), inverse)
    left: Array = (1 - inverse * scale.astype(np.float64)) * whole  # above 0, for infinite x
    rest: Array = np.asarray(left, np.float32)
    low, high = limits(dtype)
    rows = zip(scale.reshape(-1), inverse.reshape(-1), rest.reshape(-1), strict=True)
    agree = all(_agree(s, i, r, high - low) for s, i, r in rows)
    return (inverse, rest) if agree else None


def _agree(scale: Array, inverse: Array, rest: Array, most: int) -> bool:
    """Whether both ways give the same integers up to `most`, where what is larger is `most`, too.

    Both grow with x, and both change their sign with x. So each integer begins somewhere, and if
    both agree on the floats before and after each beginning, they agree on all.
    """
    n = np.arange(most, dtype=np.float64)[:, None]
    middle = ((n + 0.5) * np.float64(scale)).astype(np.float32)
    x = (middle.view(np.int32) + ULPS).view(np.float32)
    divided, product = np.rint(x / scale), np.rint(multiplied(x, inverse, rest))
    framed = (divided[:, :1] == n) & (divided[:, -1:] == n + 1)
    return bool(framed.all() and (divided == product).all())


@dataclass(frozen=True)
class QuantizeByInverse(Scaled, name="quantize_by_inverse"):
    """saturate(round(x * inverse + x * rest) + zero) of float32 x; the products' sum rounds once.

    inverse, rest: float32, scalars or [C] as a scale's, from `inverses`; so it is `quantize`.
    `small`: no sum is of more than 32 bits, or NaN.
    """

    dtype: DType
    axis: int = 1
    small: bool = False
    operands = ("x", "inverse", "rest", "zero?")
    factors = 2

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The shape of x."""
        x, inverse, rest, *zero = tensors(*types)
        if rest != inverse:
            raise ValueError(f"the rest is a {rest}, the inverse a {inverse}")
        return super().infer(x, inverse, *zero)

    def type_of(self, x: DType) -> DType:
        """The attribute."""
        if x is not DType.f32 or self.dtype not in NARROW:
            raise ValueError(f"quantizes {x} to {self.dtype}")
        return self.dtype

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formula."""
        x, inverse, rest, zero = (*arrays, None)[:4]
        assert x is not None and inverse is not None and rest is not None
        i, z = self.parameters(x, inverse, zero)
        with np.errstate(all="ignore"):
            rounded = np.rint(multiplied(x, i, along(rest, self.axis, x.ndim)))
            return (saturate(rounded, z, self.dtype),)
