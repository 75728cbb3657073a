# pyright: basic
# TVM ships no types.
"""What kernels of integer sums share: padding with a zero point."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from graphopt.ir.core import Op
from graphopt.targets.tvm.region import Region


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
