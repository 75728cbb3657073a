# pyright: basic
# TVM ships no types.
"""Results of 8 bits, narrowed several vectors at a time.

A register tile of 32-bit numbers becomes bytes by four vectors at once: AVX-512 packs them into one
with saturation, so that no vector needs its lower clamp, its zero point or its store alone. A
schedule marks the loop over the columns of a tile; once it is made, `spread` lets each turn store
as many columns as a vector of bytes holds.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from tvm import tirx

from graphopt.ir.core import Value
from graphopt.ir.layout import physical_shape
from graphopt.ir.types import DType
from graphopt.ops.inverse import QuantizeByInverse
from graphopt.ops.quant import Requantize
from graphopt.targets.tvm import expr, formulas, marks
from graphopt.targets.tvm.intrinsics import call
from graphopt.targets.tvm.region import Reader, Region, shape_of, static

MARK = "graphopt.packed"
NEAR = "near"  # the stage of 32-bit numbers
LANES = 16
AT_ONCE = (4, 2, 1)  # vectors of 32-bit numbers


def fits(region: Region, output: Value) -> bool:
    """Whether a result is bytes in blocks of 16 that a region rounds to."""
    op = output.op
    rounds = op is not None and op.kind.name in formulas.QUOTIENTS
    tag = static(output).layout
    return (
        rounds and static(output).dtype is DType.u8 and tag.startswith("aB")
        and tag.endswith(f"{LANES}b") and len(shape_of(output)) > 2
        and "avx512bw" in region.machine.cpu_features
    )  # fmt: skip


def numbers(region: Region, output: Value) -> tuple[Reader, Any, Any]:
    """A result that fits, before it is packed: its reader, what its padding is, and the zero point.

    The numbers are those of the result less the zero point; larger ones become its largest, now or
    when they are packed.
    """
    op = output.op
    assert op is not None
    kind: Any = op.kind
    end = 1 + kind.factors
    zero = op.operands[end] if len(op.operands) > end else None
    shift = expr.cast(region.at(zero, []), "int32") if zero else tirx.const(0, "int32")

    def rounded(index: Any) -> Any:
        ratio = formulas.QUOTIENTS[kind.name](*islice(region.scaled(op, kind, index), end))
        if isinstance(kind, Requantize | QuantizeByInverse) and kind.small:
            return call("whole", ratio)
        return call("nearest", ratio, expr.cast(tirx.const(255, "int32") - shift, "float32"))

    return rounded, tirx.const(0, "int32") - shift, shift


def stages(region: Region, output: Value) -> Any:
    """The stage `out0` of a result that fits, from a stage `near` of its numbers before packing."""
    shape, tag = shape_of(output), static(output).layout
    rounded, padding, shift = numbers(region, output)

    def near(*at: Any) -> Any:
        return region.element(output, region.logical(tag, at), tag, rounded, padding)

    made = region.compute(physical_shape(shape, tag), near, NEAR)
    return region.compute(
        physical_shape(shape, tag), lambda *at: call("narrow", made(*at), shift), "out0"
    )


def tile(sch: Any, inner: Any, columns: Any, outer: int) -> None:
    """Compute `near` in registers in the loop `inner`, the last of `outer`; mark the columns."""
    near = sch.get_sblock(NEAR)
    sch.compute_at(near, inner, preserve_unit_loops=True)
    *space, last = sch.get_loops(near)[outer:]
    for loop in space:
        sch.unroll(loop)
    sch.vectorize(last)
    sch.set_scope(near, 0, "local")
    sch.annotate(columns, MARK, 1)


def turns(columns: int) -> int:
    """In how many stores the columns of a tile leave."""
    whole, rest = divmod(columns, AT_ONCE[0])
    return whole + rest.bit_count()


def spread(func: Any) -> Any:
    """The function with marked loops over columns turned into stores of several columns."""

    def change(loop: Any, around: marks.Loops) -> Any:
        return _stores(loop) if MARK in loop.annotations else loop

    return marks.rewritten(func, change)


def _stores(loop: Any) -> Any:
    """Stores of all columns of a loop, as many at once as go into a vector."""
    last, realize = loop.body, loop.body.body
    store, made, first = realize.block.body, list[Any](), 0
    variables = [v.var for v in realize.block.iter_vars]
    for count in AT_ONCE:
        while int(loop.extent) - first >= count:
            lane = tirx.Var("lane", "int32")
            at = {loop.loop_var: first + tirx.floordiv(lane, LANES),
                  last.loop_var: tirx.floormod(lane, LANES)}  # fmt: skip
            values = [_put(e, at) for e in realize.iter_values]
            at |= dict(zip(variables, values, strict=True))
            index = [_put(i, at) for i in store.indices]
            stored = tirx.BufferStore(store.buffer, _put(store.value, at), index)
            begin, extent = (tirx.const(n, "int32") for n in (0, LANES * count))
            made.append(tirx.For(lane, begin, extent, tirx.ForKind.VECTORIZED, stored))
            first += count
    return tirx.SeqStmt(made) if len(made) > 1 else made[0]


def _put(e: Any, at: dict[Any, Any]) -> Any:
    """An expression with values in the place of variables."""
    match type(e).__name__:
        case "Var":
            return at.get(e, e)
        case "TensorLoad":
            return tirx.BufferLoad(e.source, [_put(i, at) for i in e.indices])
        case "Call":
            return tirx.op.Call(e.op, [_put(a, at) for a in e.args], ret_ty=e.ty)
        case "Cast":
            return tirx.Cast(e.ty.dtype, _put(e.value, at))
        case _ if hasattr(e, "a"):
            return type(e)(_put(e.a, at), _put(e.b, at))
        case _:
            return e
