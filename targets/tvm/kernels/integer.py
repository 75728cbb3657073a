# pyright: basic
# TVM ships no types.
"""What kernels of integer sums share: sums of `dot`, and padding with a zero point."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from graphopt.ir.core import Op
from graphopt.targets.tvm import loops
from graphopt.targets.tvm.intrinsics import call
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


def contract(func: Any) -> Any:
    """acc + dot(0, x, w) -> dot(acc, x, w) in a scheduled function: TE has no such reduction."""
    sch = loops.schedule(func)
    ref = sch.get_sblock("anchor_update")
    block = sch.get(ref)
    store = block.body
    acc, product = store.value.a, store.value.b
    made = tirx.BufferStore(
        store.buffer, call("dot", acc, product.args[1], product.args[2]), list(store.indices)
    )
    new = s_tir.SBlock(block.iter_vars, block.reads, block.writes, block.name_hint, made,
                       alloc_buffers=block.alloc_buffers, match_buffers=block.match_buffers,
                       annotations=block.annotations)  # fmt: skip
    sch.state.replace(sch.get_sref(ref), new, {block: new})
    return sch.mod["main"]
