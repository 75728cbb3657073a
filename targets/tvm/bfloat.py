# pyright: basic
# TVM ships no types.
"""bfloat16 in memory, float32 in registers; s8 weights and float16 likewise, where a cast says so.

bfloat16 is the upper half of a float32. CPUs without AMX multiply float32 faster than bfloat16, so
kernels know the type at their loads and stores alone: a stored element is 16 bits; an expression of
type bf16 is a float32 whose lower half is zero. Widening is exact; `rounded` is the one place that
rounds, to nearest even, as numpy's (ml_dtypes') conversion. Bytes that stand for floats (weights
whose scale is applied to the result) are read in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from graphopt.ir.types import DType
from graphopt.targets.tvm.intrinsics import call

Expr = Any
STORED = "uint16"
SHORT = (DType.bf16, DType.f16, DType.i8)  # what kernels read as float32 where a `cast` says so


def tvm_dtype(dtype: DType) -> str:
    """TVM's name of the type that expressions of an element type have."""
    if dtype is DType.bf16:
        return "float32"
    return "bool" if dtype is DType.bool_ else dtype.value[0]


def stored_dtype(dtype: DType) -> str:
    """TVM's name of an element type in memory."""
    return STORED if dtype is DType.bf16 else tvm_dtype(dtype)


def widened(bits: Expr) -> Expr:
    """The float32 of a stored element."""
    wide = tirx.Cast("uint32", bits)
    return tirx.reinterpret("float32", tirx.shift_left(wide, tirx.const(16, "uint32")))


def narrowed(x: Expr) -> Expr:
    """The stored element of a float32 that is a bfloat16."""
    bits = tirx.reinterpret("uint32", x)
    return tirx.Cast(STORED, tirx.shift_right(bits, tirx.const(16, "uint32")))


def rounded(x: Expr) -> Expr:
    """The bfloat16 nearest to a float32 (of two, the even one), as a float32; NaN stays NaN.

    On machines that convert by an instruction, denormals become zero.
    """
    return call("nearest_half", x)


def held(x: Expr, dtype: DType) -> Expr:
    """A number as an element type holds it: bfloat16 rounds float32."""
    return rounded(x) if dtype is DType.bf16 else x


def readable(tensor: Any, dtype: DType) -> Any:
    """A tensor or buffer of stored elements, as what reads them in the type of expressions."""
    return Readable(tensor) if dtype is DType.bf16 else tensor


def floats(tensor: Any, dtype: DType) -> Any:
    """A tensor or buffer of elements that a kernel reads as float32 (see SHORT)."""
    return Readable(tensor, plain=True) if dtype in (DType.i8, DType.f16) else tensor


def raw(tensor: Any) -> Any:
    """The tensor or buffer of stored elements itself."""
    return tensor.tensor if isinstance(tensor, Readable) else tensor


@dataclass(frozen=True)
class Readable:
    """A tensor of stored elements whose elements read as float32: bfloat16, or by a plain cast."""

    tensor: Any
    plain: bool = False

    @property
    def shape(self) -> Any:
        """The tensor's."""
        return self.tensor.shape

    def __call__(self, *at: Expr) -> Expr:
        """The element there, of a stage's tensor."""
        return self._wide(self.tensor(*at))

    def __getitem__(self, at: Any) -> Expr:
        """The element there, of a buffer."""
        return self._wide(self.tensor[at])

    def _wide(self, stored: Expr) -> Expr:
        return tirx.Cast("float32", stored) if self.plain else widened(stored)
