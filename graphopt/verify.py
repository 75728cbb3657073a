"""Compare outputs with the reference's, under a tolerance that is derived and stated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from graphopt.ir.builtin import Fused
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ir.types import Array, DType, TensorType
from graphopt.loss import decibels
from graphopt.ops.excite import SqueezeExcite
from graphopt.ops.linalg import Attention, Gemm, MatMul
from graphopt.ops.nn import Conv, ConvTranspose
from graphopt.ops.quant import limits
from graphopt.ops.reduce import Reduce
from graphopt.perturb import perturbed, quantizes, redrawn, shaken

SAFETY = 16.0  # multiples of the expected rounding error; models seen stay below 3
AMPLIFIED = 4.0  # multiples of the largest response seen to a rounding
MOST = 0.01  # of an output's range: beyond that nothing counts as rounding
REDRAWN = 2.0  # multiples of the largest response seen to other roundings to few bits
MOST_REDRAWN = 0.5  # of an output's range: what rounds so much says nothing
PERTURBATIONS = 3  # of the original, where its response to rounding is measured
FUNCTION_TERMS = 64  # exp, tanh and the like err by a few units in the last place: (8 ulp)^2

Feeds = Sequence[Mapping[str, Any]]
Respond = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Tolerance:
    """The largest error that rounding explains, relative to an output's largest magnitude.

    A sum of K products in another order differs by about sqrt(K) units of rounding u (random walk;
    Higham, Accuracy and Stability of Numerical Algorithms, section 2.8), and independent errors of
    successive ops add in squares, so `value` = SAFETY * u * sqrt(sum of K over the ops).

    That is for models that don't amplify errors. Where a check fails, `respond` measures how far
    each output of the original itself moves when every weight and input is off by one unit of
    rounding; AMPLIFIED times that is allowed then. A wrong rewrite moves outputs by far more.

    A quantized model (`few_bits`) rounds to a few bits as it runs, and so does one that keeps
    numbers as bfloat16. Of a number close to the middle
    between two integers, float rounding decides which it becomes, and that is a whole step. It
    moves sums after it, so that more of them fall to the other side, and after some layers nothing
    may be left of what two correct runs had in common but the numbers that they round. (Moving what
    is rounded by 1/200 of a step moves the outputs of models seen almost as far as by 1/2.) So
    `respond` measures for it what other roundings do, each drawn by chance, and REDRAWN times that
    is allowed. It finds what a rewrite does wrong to a layer, not to a rounding; whether the
    compiled integers are the right ones is a check of its own, and exact (`graphopt.exact`).

    `ranges` are the ranges that outputs have whatever the data: 1 for a sigmoid, which is as
    precise near 0 as it is near 1; for 8-bit integers that were quantized, 255. `numbers` are the
    outputs that are such integers, `exact` those that must be equal to the bit.
    """

    value: float
    terms: int
    unit: float
    ranges: Mapping[str, float] = field(default_factory=dict[str, float])
    moves: Mapping[str, float] = field(default_factory=dict[str, float])
    respond: Respond | None = field(default=None, repr=False, compare=False)
    few_bits: bool = False
    numbers: frozenset[str] = frozenset()
    exact: frozenset[str] = frozenset()

    def at(self, name: str) -> float:
        """The tolerance of one output."""
        return max(self.value, self._allowed(self.moves.get(name, 0.0)))

    def _allowed(self, moved: float) -> float:
        """What a response allows."""
        if self.few_bits:
            return min(MOST_REDRAWN, REDRAWN * moved)
        return min(MOST, AMPLIFIED * moved)

    def measured(self) -> Tolerance:
        """The tolerance with the original's own response to rounding, which is measured now."""
        return replace(self, moves=self.respond(), respond=None) if self.respond else self

    def __str__(self) -> str:
        """Say it with its derivation."""
        value, how = self.value, f"{SAFETY:g} u sqrt({self.terms}), u = {self.unit:.0e}"
        most = self._allowed(max(self.moves.values(), default=0.0))
        if most > value:
            value, how = most, f"{AMPLIFIED:g} times what one rounding of weights and inputs"
            if self.few_bits:
                how = f"{REDRAWN:g} times what drawing all roundings to few bits anew"
            how += " does to the original"
        if not value:
            return "0: the same bits"
        return f"{value:.1e} of an output's range ({how})"


def tolerance(graph: Graph, respond: Respond | None = None) -> Tolerance:
    """Derive the tolerance for a graph.

    Args:
        graph: the original's main graph.
        respond: measures the original's response to rounding (see `response`), if it is needed.
    """
    terms = max(1, sum(map(_terms, graph.walk())))
    half = {DType.f16: 2.0**-11, DType.bf16: 2.0**-8}
    unit = max([half.get(t, 2.0**-24) for t in _computed(graph)], default=2.0**-24)
    names: tuple[str, ...] = getattr(graph.terminator.kind, "names", ())
    named = list(zip(names, graph.outputs, strict=False))
    ranges = {n: 1.0 for n, v in named if _is_share(v)}
    numbers = {n: limits(v.tensor.dtype) for n, v in named if _is_quantized(v)}
    ranges.update({n: float(high - low) for n, (low, high) in numbers.items()})
    return Tolerance(
        SAFETY * unit * math.sqrt(terms), terms, unit, ranges, respond=respond,
        few_bits=quantizes(graph), numbers=frozenset(numbers),
    )  # fmt: skip


def _computed(graph: Graph) -> set[DType]:
    """The float types that ops compute in: not those that numbers are only kept in."""
    ops = (op for op in graph.walk() if op.kind.name not in ("const", "cast"))
    return {t.dtype for op in ops for t in _tensors(op) if t.dtype.is_float}


def _maker(value: Value) -> tuple[Value, Op | None]:
    """The value before what gives it another shape only, and the op that makes that."""
    op = value.op
    while op and getattr(op.kind, "op_type", op.kind.name).lower() in _MOVES:
        value, op = op.operand(0), op.operand(0).op
    return value, op


def _is_quantized(value: Value) -> bool:
    """Whether a value is numbers rounded to few bits."""
    _, op = _maker(value)
    return op is not None and op.kind.name in ("quantize", "requantize")


def _is_share(value: Value) -> bool:
    """Whether a value is a sigmoid's, in whatever shape, or their mean; an If's results, too."""
    value, op = _maker(value)
    if op and op.regions and not isinstance(op.kind, Fused):
        index = op.results.index(value)
        ends = [region.outputs for region in op.regions]
        return all(index < len(e) and _is_share(e[index]) for e in ends)
    return op is not None and op.kind.name in ("sigmoid", "hard_sigmoid")


_MOVES = {
    "identity", "reshape", "transpose", "squeeze", "unsqueeze", "slice", "gather", "reduce_mean",
    "reducemean",
}  # fmt: skip


def response(
    module: Module, feeds: Feeds, wanted: Feeds, run: Callable[[Module, Feeds], Feeds]
) -> Mapping[str, float]:
    """How far each output moves, relative to its range, when weights and inputs are rounded.

    Every float constant (of several elements) and input is multiplied by 1 + r u, r = 1 or -1 at
    random. That is the backward view: a run's result is the exact one for slightly other data
    (Higham, section 1.5). Where the model rounds to few bits, all of that is drawn anew, too.

    Args:
        module: the original.
        feeds: inputs.
        wanted: the outputs for them.
        run: gives the outputs of a module for several inputs.
    """
    moved: dict[str, float] = {}
    limit = tolerance(module.main)
    for seed in range(PERTURBATIONS):
        rng = np.random.default_rng(seed)
        near = [{k: shaken(v, rng) for k, v in feed.items()} for feed in feeds]
        other = redrawn(module, rng) if limit.few_bits else perturbed(module, rng)
        found = compare("", "", limit, wanted, run(other, near))
        for o in found.outputs:
            if math.isfinite(o.relative):
                moved[o.name] = max(moved.get(o.name, 0.0), o.relative)
    return moved


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
        case SqueezeExcite():
            return 2 * FUNCTION_TERMS + math.prod(shapes[0][2:]) + sum(shapes[1][:2])
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
    check = Check(what, len(wanted), data, limit, tuple(errors))
    if check.ok or limit.respond is None:
        return check
    return compare(what, data, limit.measured(), wanted, got)


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
    sqnr = decibels(signal, noise)
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
    discrete = want.dtype.kind not in "fc" and not DType.of(want).is_float
    if name in limit.exact or (discrete and name not in limit.numbers):
        return _discrete(name, want, got, limit)
    want = want.astype(np.complex128 if want.dtype.kind == "c" else np.float64)
    got = got.astype(want.dtype)
    odd: Array = ~np.isfinite(want)
    if not np.array_equal(odd, ~np.isfinite(got)) or not _same_odd(want[odd], got[odd]):
        return _broken(name, "NaN or infinity in other places")
    error = float(np.max(np.abs(_finite(got) - _finite(want))))
    scale = max(float(np.max(np.abs(_finite(want)))), limit.ranges.get(name, 0.0))
    relative = error / scale if scale else error
    agreement = None
    if want.ndim >= 2 and want.shape[-1] > 1 and want.dtype.kind == "f":
        same: Array = np.equal(np.argmax(want, -1), np.argmax(got, -1))
        agreement = float(np.mean(same))
    ok = relative <= limit.at(name)
    return OutputError(name, relative, error, math.inf, agreement, ok)


def _same_odd(want: Array, got: Array) -> bool:
    return bool(np.array_equal(want, got, equal_nan=True))


def _discrete(name: str, want: Array, got: Array, limit: Tolerance) -> OutputError:
    """Integers, bools and strings: equal, but for one element in 1000, which rounding may flip.

    Where the original's own response to rounding is to flip more, as many may differ. Of what is
    exact, none may.
    """
    same: Array = np.equal(want, got)
    equal, differ = float(np.mean(same)), want.size - int(np.sum(same))
    most = max(want.size // 1000, limit.moves.get(name, 0.0) * want.size)
    ok = differ <= (0 if name in limit.exact else most)
    why = "" if ok else f"{differ} of {want.size} discrete elements differ"
    return OutputError(name, 1 - equal, float(differ), math.inf, equal, ok, why)
