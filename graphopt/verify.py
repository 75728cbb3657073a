"""Compare outputs with the reference's, under a tolerance that is derived and stated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from graphopt.ir.builtin import Fused
from graphopt.ir.core import Graph, Op
from graphopt.ir.types import Array, DType, TensorType
from graphopt.ops.linalg import Attention, Gemm, MatMul
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.ops.reduce import Reduce

SAFETY = 16.0  # multiples of the expected rounding error; models seen stay below 3
FUNCTION_TERMS = 64  # exp, tanh and the like err by a few units in the last place: (8 ulp)^2


@dataclass(frozen=True)
class Tolerance:
    """The largest error that rounding explains, relative to an output's largest magnitude.

    A sum of K products in another order differs by about sqrt(K) units of rounding u (random walk;
    Higham, Accuracy and Stability of Numerical Algorithms, section 2.8), and independent errors of
    successive ops add in squares, so `value` = SAFETY * u * sqrt(sum of K over the ops).
    """

    value: float
    terms: int
    unit: float

    def __str__(self) -> str:
        """Say it with its derivation."""
        how = f"{SAFETY:g} u sqrt({self.terms}), u = {self.unit:.0e}"
        return f"{self.value:.1e} of an output's range ({how})"


def tolerance(graph: Graph) -> Tolerance:
    """Derive the tolerance for a graph."""
    terms = max(1, sum(map(_terms, graph.walk())))
    floats = {t.dtype for op in graph.walk() for t in _tensors(op) if t.dtype.is_float}
    half = {DType.f16: 2.0**-11, DType.bf16: 2.0**-8}
    unit = max([half.get(t, 2.0**-24) for t in floats], default=2.0**-24)
    return Tolerance(SAFETY * unit * math.sqrt(terms), terms, unit)


def _tensors(op: Op) -> Iterable[TensorType]:
    return (r.type for r in op.results if isinstance(r.type, TensorType))


def _terms(op: Op) -> int:
    """The number of roundings that make one element of the op's result."""
    if isinstance(op.kind, Fused) or op.kind.name in ("const", "return"):
        return 0
    shapes = [
        v.type.static or () if v and isinstance(v.type, TensorType) else () for v in op.operands
    ]
    match op.kind:
        case Conv() | ConvTranspose():
            return math.prod(shapes[1][1:])
        case MatMul() | Gemm() | Attention():
            return FUNCTION_TERMS + max(shapes[0], default=1) + (shapes[0][-1] if shapes[0] else 1)
        case Reduce():
            return math.prod(shapes[0][a] for a in op.kind.axes) if shapes[0] else FUNCTION_TERMS
        case _:
            return FUNCTION_TERMS if op.kind.name not in _PLAIN else 1


_PLAIN = {
    "add", "sub", "mul", "div", "relu", "clip", "max", "min", "neg", "abs", "identity", "reshape",
    "transpose", "concat", "split", "slice", "gather", "pad", "expand", "squeeze", "unsqueeze",
    "tile", "max_pool", "avg_pool", "shape", "reorder", "where", "cast", "leaky_relu", "prelu",
    "depth_to_space", "space_to_depth", "resize", "batch_norm",
}  # fmt: skip


@dataclass(frozen=True)
class OutputError:
    """How one output differs from the reference, over all samples.

    `relative` is max|y - ref| / max|ref|; `sqnr_db` the signal to error ratio in decibels (inf when
    equal); `agreement` the share of equal elements (discrete) or of equal argmax along the last
    axis (floats of rank 2 and more); `ok` whether it is within the tolerance.
    """

    name: str
    relative: float
    absolute: float
    sqnr_db: float
    agreement: float | None
    ok: bool
    why: str = ""


@dataclass(frozen=True)
class Check:
    """A comparison of two runs of a model: what was compared, on what, and the result."""

    what: str
    samples: int
    data: str
    tolerance: Tolerance
    outputs: tuple[OutputError, ...]

    @property
    def ok(self) -> bool:
        """Whether every output is within the tolerance."""
        return all(o.ok for o in self.outputs)

    @property
    def worst(self) -> OutputError | None:
        """The output that differs most."""
        return max(self.outputs, key=lambda o: (not o.ok, o.relative), default=None)

    def __str__(self) -> str:
        """Say it in one sentence."""
        worst = self.worst
        if worst is None:
            return f"{self.what}: the model has no outputs"
        verdict = "agrees" if self.ok else f"DIFFERS at output {worst.name!r}"
        why = f" ({worst.why})" if worst.why else ""
        samples = f"{self.samples} {self.data} sample{'s' if self.samples != 1 else ''}"
        return (f"{self.what} {verdict}{why}: largest error {worst.relative:.1e} of the range on "
                f"{samples}; limit {self.tolerance}")  # fmt: skip


def compare(
    what: str,
    data: str,
    limit: Tolerance,
    wanted: Sequence[Mapping[str, Any]],
    got: Sequence[Mapping[str, Any]],
) -> Check:
    """Compare runs sample by sample; outputs are arrays, sequences (lists) or maps."""
    names = list(wanted[0]) if wanted else []
    errors = (_output(n, [w[n] for w in wanted], [g.get(n) for g in got], limit) for n in names)
    return Check(what, len(wanted), data, limit, tuple(errors))


def _output(name: str, wanted: list[Any], got: list[Any], limit: Tolerance) -> OutputError:
    flat_want, flat_got = _flatten(wanted), _flatten(got)
    if len(flat_want) != len(flat_got):
        return _broken(name, "another number of elements in a sequence")
    worst = OutputError(name, 0.0, 0.0, math.inf, None, True)
    noise = signal = 0.0
    agreements: list[float] = []
    for w, g in zip(flat_want, flat_got, strict=True):
        if w.shape != g.shape or w.dtype != g.dtype:
            return _broken(name, f"{g.dtype}{list(g.shape)} instead of {w.dtype}{list(w.shape)}")
        one = _array(name, w, g, limit)
        if w.dtype.kind == "f" and w.size:
            difference = _finite(g.astype(np.float64) - w.astype(np.float64))
            noise += float(np.sum(difference**2))
            signal += float(np.sum(_finite(w.astype(np.float64)) ** 2))
        if one.agreement is not None:
            agreements.append(one.agreement)
        if (not one.ok, one.relative) > (not worst.ok, worst.relative):
            worst = one
    sqnr = 10 * math.log10(signal / noise) if noise and signal else math.inf
    mean = float(np.mean(agreements)) if agreements else None
    return OutputError(name, worst.relative, worst.absolute, sqnr, mean, worst.ok, worst.why)


def _broken(name: str, why: str) -> OutputError:
    return OutputError(name, math.inf, math.inf, -math.inf, None, False, why)


def _finite(x: Array) -> Array:
    return np.where(np.isfinite(x), x, 0)


def _flatten(values: Iterable[Any]) -> list[Array]:
    """Arrays of possibly nested sequences and maps, in order."""
    found: list[Array] = []
    for v in values:
        if isinstance(v, dict):
            found += _flatten(cast("dict[Any, Any]", v).values())
        elif isinstance(v, list | tuple):
            found += _flatten(cast("list[Any]", v))
        elif v is None:
            found.append(np.zeros(0, np.bool_))
        else:
            found.append(np.asarray(v))
    return found


def _array(name: str, want: Array, got: Array, limit: Tolerance) -> OutputError:
    if not want.size:
        return OutputError(name, 0.0, 0.0, math.inf, None, True)
    if want.dtype.kind not in "fc" and not DType.of(want).is_float:
        return _discrete(name, want, got)
    want = want.astype(np.complex128 if want.dtype.kind == "c" else np.float64)
    got = got.astype(want.dtype)
    odd: Array = ~np.isfinite(want)
    if not np.array_equal(odd, ~np.isfinite(got)) or not _same_odd(want[odd], got[odd]):
        return _broken(name, "NaN or infinity in other places")
    error = float(np.max(np.abs(_finite(got) - _finite(want))))
    scale = float(np.max(np.abs(_finite(want))))
    relative = error / scale if scale else error
    agreement = None
    if want.ndim >= 2 and want.shape[-1] > 1 and want.dtype.kind == "f":
        agreement = float(np.mean(np.argmax(want, -1) == np.argmax(got, -1)))
    ok = relative <= limit.value
    return OutputError(name, relative, error, math.inf, agreement, ok)


def _same_odd(want: Array, got: Array) -> bool:
    return bool(np.array_equal(want, got, equal_nan=True))


def _discrete(name: str, want: Array, got: Array) -> OutputError:
    """Integers, bools and strings: equal, but for one element in 1000, which rounding may flip."""
    same: Array = np.equal(want, got)
    equal, differ = float(np.mean(same)), want.size - int(np.sum(same))
    ok = differ <= want.size // 1000
    why = "" if ok else f"{differ} of {want.size} discrete elements differ"
    return OutputError(name, 1 - equal, float(differ), math.inf, equal, ok, why)
