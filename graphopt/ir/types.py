"""Types of values: element types, dimensions (numbers or affine symbols), tensors, sequences."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MAX_SIZE = 2**63 - 1  # of a dimension: ONNX has 64 signed bits for it


class DType(Enum):
    """Element types of tensors; the value is (numpy name, ONNX TensorProto code, bits)."""

    f32 = ("float32", 1, 32)
    u8 = ("uint8", 2, 8)
    i8 = ("int8", 3, 8)
    u16 = ("uint16", 4, 16)
    i16 = ("int16", 5, 16)
    i32 = ("int32", 6, 32)
    i64 = ("int64", 7, 64)
    string = ("object", 8, 0)
    bool_ = ("bool", 9, 8)
    f16 = ("float16", 10, 16)
    f64 = ("float64", 11, 64)
    u32 = ("uint32", 12, 32)
    u64 = ("uint64", 13, 64)
    c64 = ("complex64", 14, 64)
    c128 = ("complex128", 15, 128)
    bf16 = ("bfloat16", 16, 16)
    f8e4m3fn = ("float8_e4m3fn", 17, 8)
    f8e4m3fnuz = ("float8_e4m3fnuz", 18, 8)
    f8e5m2 = ("float8_e5m2", 19, 8)
    f8e5m2fnuz = ("float8_e5m2fnuz", 20, 8)
    u4 = ("uint4", 21, 4)
    i4 = ("int4", 22, 4)
    f4e2m1 = ("float4_e2m1fn", 23, 4)
    f8e8m0 = ("float8_e8m0fnu", 24, 8)
    u2 = ("uint2", 25, 2)
    i2 = ("int2", 26, 2)

    def __str__(self) -> str:
        """Give the short name used in IR text."""
        return self.name.rstrip("_")

    @property
    def onnx(self) -> int:
        """The code of `TensorProto.DataType`."""
        return self.value[1]

    @property
    def bits(self) -> int:
        """Bits an element takes in ONNX's packed form; 0 for strings."""
        return self.value[2]

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype (from ml_dtypes where numpy has none; strings are objects)."""
        name = self.value[0]
        return np.dtype(getattr(ml_dtypes, name, None) or name)

    @property
    def is_float(self) -> bool:
        """Whether it is a real floating-point type."""
        return self.name[0] == "f" or self is DType.bf16

    @property
    def is_int(self) -> bool:
        """Whether it is an integer type, signed or not (bool is not)."""
        return self.name[0] in "iu"

    @staticmethod
    def of(array: Array | np.dtype[Any]) -> DType:
        """The element type of an array or numpy dtype."""
        dtype = array if isinstance(array, np.dtype) else array.dtype
        return _BY_NUMPY["object" if dtype.kind in "OUST" else dtype.name]

    @staticmethod
    def from_onnx(code: int) -> DType:
        """The element type of a TensorProto code; KeyError if there is none."""
        return _BY_CODE[code]

    @staticmethod
    def from_value(raw: object) -> DType:
        """Read one in an option value (`to=f32`)."""
        name = str(raw)
        if name not in _BY_TEXT:
            raise ValueError(name)
        return _BY_TEXT[name]


_BY_NUMPY = {t.value[0]: t for t in DType}
_BY_CODE = {t.value[1]: t for t in DType}
_BY_TEXT = {str(t): t for t in DType}

_NAME = re.compile(r"[A-Za-z_]\w*\Z")
_AFFINE = re.compile(
    r"(?P<open>\()?(?:(?P<mul>\d+)\*)?(?P<name>[A-Za-z_]\w*)(?P<add>[-+]\d+)?(?(open)\)/(?P<div>\d+))\Z"
)


@dataclass(frozen=True, slots=True)
class Sym:
    """A symbolic dimension, floor((mul*name + add) / div).

    The form is closed under adding a constant, flooring division and (for div 1) scaling, which is
    what convolution, pooling, padding and upsampling do to a size. `?` is an unknown dimension.
    """

    name: str
    mul: int = 1
    add: int = 0
    div: int = 1

    def __str__(self) -> str:
        """Give the text form: `N`, `2*N+1`, `(N+3)/2`."""
        name = self.name if _NAME.match(self.name) or self.name == "?" else json.dumps(self.name)
        text = (f"{self.mul}*" if self.mul != 1 else "") + name
        text += f"{self.add:+d}" if self.add else ""
        return text if self.div == 1 else f"({text})/{self.div}"

    def plus(self, k: int) -> Sym:
        """This + k."""
        return (
            UNKNOWN
            if self is UNKNOWN
            else Sym(self.name, self.mul, self.add + k * self.div, self.div)
        )

    def times(self, k: int) -> Dim:
        """This * k; unknown where the form can't say it."""
        if k == 1 or k == 0:
            return self if k else 0
        known = self.div == 1 and self.name != "?"
        return Sym(self.name, self.mul * k, self.add * k) if known else UNKNOWN

    def floordiv(self, k: int) -> Sym:
        """floor(this / k), k > 0."""
        if k == 1 or self.name == "?":
            return self
        if self.div == 1 and self.mul % k == 0 and self.add % k == 0:
            return Sym(self.name, self.mul // k, self.add // k)
        return Sym(self.name, self.mul, self.add, self.div * k)

    def bind(self, sizes: Mapping[str, int]) -> Dim:
        """The number this is when names have the given sizes; itself where not given."""
        if self.name not in sizes:
            return self
        return (self.mul * sizes[self.name] + self.add) // self.div

    @staticmethod
    def read(text: str) -> Sym:
        """Read an ONNX dim_param: our affine form if it is one, else an atomic name."""
        m = _AFFINE.match(text)
        if not m:
            return Sym(text)
        return Sym(m["name"], int(m["mul"] or 1), int(m["add"] or 0), int(m["div"] or 1) or 1)


UNKNOWN = Sym("?")
Dim = int | Sym


def add(a: Dim, b: Dim) -> Dim:
    """a + b; unknown where two symbols meet."""
    if isinstance(a, int):
        return a + b if isinstance(b, int) else b.plus(a)
    return a.plus(b) if isinstance(b, int) else UNKNOWN


def mul(a: Dim, b: Dim) -> Dim:
    """a * b; unknown where two symbols meet."""
    if isinstance(a, int):
        return a * b if isinstance(b, int) else b.times(a)
    return a.times(b) if isinstance(b, int) else UNKNOWN


def floordiv(a: Dim, k: int) -> Dim:
    """floor(a / k), k > 0."""
    return a // k if isinstance(a, int) else a.floordiv(k)


def product(dims: tuple[Dim, ...]) -> Dim:
    """The product of dimensions."""
    total: Dim = 1
    for d in dims:
        total = mul(total, d)
    return total


def same(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are known to be equal (an unknown one equals nothing)."""
    return a == b and a != UNKNOWN


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor's element type and shape; shape None means that even the rank is unknown.

    `layout` is how it is stored (a tag of `graphopt.ir.layout`, "" for dense row-major). It is a
    choice of the op's maker, not part of the meaning: kinds infer and evaluate logical tensors.
    """

    dtype: DType
    shape: tuple[Dim, ...] | None
    layout: str = ""

    def __post_init__(self) -> None:
        """Refuse what no tensor can be (ValueError)."""
        for d in self.shape or ():
            if isinstance(d, int) and not 0 <= d <= MAX_SIZE:
                raise ValueError(f"a tensor's size can't be {d}")

    def __str__(self) -> str:
        """Give `f32[N,3,224,224]`, `f32[1,64,56,56:aBcd16b]`, or `f32[*]` for an unknown rank."""
        dims = "*" if self.shape is None else ",".join(map(str, self.shape))
        return f"{self.dtype}[{dims}{':' if self.layout else ''}{self.layout}]"

    @property
    def logical(self) -> TensorType:
        """The same type, dense."""
        return TensorType(self.dtype, self.shape) if self.layout else self

    @property
    def rank(self) -> int | None:
        """The number of dimensions, if known."""
        return None if self.shape is None else len(self.shape)

    @property
    def static(self) -> tuple[int, ...] | None:
        """The shape, if every dimension is a number."""
        if self.shape is None:
            return None
        for d in self.shape:
            if not isinstance(d, int):
                return None
        return cast("tuple[int, ...]", self.shape)

    @property
    def size(self) -> int | None:
        """The number of elements, if static."""
        shape = self.static
        return None if shape is None else math.prod(shape)

    @property
    def nbytes(self) -> int | None:
        """Bytes of the dense tensor, if static (strings count 0)."""
        size = self.size
        return None if size is None else (size * self.dtype.bits + 7) // 8


@dataclass(frozen=True, slots=True)
class SequenceType:
    """An ONNX sequence of values of one type."""

    of: ValueType

    def __str__(self) -> str:
        """Give `seq<f32[*]>`."""
        return f"seq<{self.of}>"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """An ONNX optional value."""

    of: ValueType

    def __str__(self) -> str:
        """Give `optional<f32[*]>`."""
        return f"optional<{self.of}>"


@dataclass(frozen=True, slots=True)
class MapType:
    """An ONNX map (ai.onnx.ml)."""

    key: DType
    of: ValueType

    def __str__(self) -> str:
        """Give `map<i64, f32[]>`."""
        return f"map<{self.key}, {self.of}>"


@dataclass(frozen=True, slots=True)
class SparseType:
    """An ONNX sparse tensor."""

    dtype: DType
    shape: tuple[Dim, ...] | None

    def __str__(self) -> str:
        """Give `sparse<f32[3,4]>`."""
        return f"sparse<{TensorType(self.dtype, self.shape)}>"


@dataclass(frozen=True, slots=True)
class UnknownType:
    """What ONNX's inference could not tell, such as the result of a custom op."""

    def __str__(self) -> str:
        """Give `?`."""
        return "?"


ValueType = TensorType | SequenceType | OptionalType | MapType | SparseType | UnknownType
