# pyright: basic
# TVM ships no types.
"""What kernels of integer sums share: padding with a zero point."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as ir

from graphopt.ir.core import Op, Value
from graphopt.ir.types import DType
from graphopt.targets.tvm.region import Region, shape_of, static


def border(region: Region, op: Op) -> Any:
    """The value of padding: a number, or an expression where it is an operand."""
    kind: Any = op.kind
    given = op.operands[2]
    return kind.pad_value if given is None else region.at(given, [])


def border_word(region: Region, op: Op) -> Any:
    """It four times over."""
    value = border(region, op)
    if isinstance(value, int):
        word = int.from_bytes(bytes([value & 255] * 4), "little", signed=True)
        return tirx.const(word, "int32")
    byte = tirx.Cast("uint32", tirx.Cast("uint8", value))
    return tirx.reinterpret("int32", byte * tirx.const(0x01010101, "uint32"))


def begun(region: Region, bias: Value | None, ob: Any, count: int, block: int) -> Any:
    """Sums [count, block] of a tile in a block of channels: they begin with the bias, or with 0."""
    acc = ir.alloc_buffer((count, block), "int32", scope="local")
    for c in range(count):
        with ir.vectorized(0, block) as lane:
            first: Any = tirx.const(0, "int32")
            if bias is not None:
                first = region.at(bias, [ob * block + lane, 0, 0])
            ir.buffer_store(acc, first, [c, lane])
    return acc


def biased(region: Region, op: Op, block: int) -> tuple[Op, Value | None]:
    """The add of a bias that sums may begin with, and the bias [C, 1, ..]; else the op, and None.

    It must be an argument, of as many channels as fill blocks.
    """
    result = op.result
    user = next((u.op for u in result.uses), None)
    if user is None or result.use_count != 1 or user.kind.name != "add":
        return op, None
    bias = next((v for v in user.operands if v is not None and v is not result), None)
    if bias is None or bias not in region.tensors:
        return op, None
    channels, *ones = shape_of(bias) or (0,)
    alike = static(bias).dtype is DType.i32 and not static(bias).layout
    ranks = len(ones) == len(shape_of(result)) - 2 and all(d == 1 for d in ones)
    if not alike or not ranks or channels != shape_of(result)[1] or channels % block:
        return op, None
    return user, bias
