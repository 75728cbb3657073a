"""layout: store convolutional activations in channel blocks and pack weights for the kernels.

Convolutions whose channels fill blocks run in `aBcd16b` (16 the vector width), and what can follow
in that layout does: elementwise ops, pools, response normalisations, spatial means, resizes,
spatial pads, concatenations of whole blocks. Everything else stays dense, and so do fewer channels
than a block that nothing wants in blocks. A `reorder` stands at each boundary, and before each
weight: lowering packs a reordered constant when it compiles.

Why it is exact: a layout is where elements are stored, not what they are. Padded lanes of a blocked
tensor are zero in memory; each kernel writes them so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Loc, Module, Op, Value
from graphopt.ir.types import DType, TensorType
from graphopt.ops.elementwise import Elementwise
from graphopt.ops.movement import Reorder
from graphopt.ops.quant import Scaled
from graphopt.pipeline import Context, Pass, PassResult

LETTERS = "abcdef"
CONVS = {"conv", "conv_integer", "conv_transpose", "conv_winograd"}
POOLS = {"max_pool", "avg_pool"}
SPATIAL = {f"reduce_{how}" for how in ("sum", "mean", "max", "min")}
WASTED = 4.0  # times the useful products that a grouped convolution in blocks may compute
TYPES = {DType.f32, DType.i32, DType.u8, DType.i8}
WORD = 4  # 8-bit channels that are multiplied at once
FEW = 8  # input channels that a first convolution reads from a dense tensor


@dataclass(frozen=True)
class Layout(Pass, name="layout"):
    """Store activations of convolutions in blocks of channels, and pack weights, for the target.

    `block` is the number of channels of a block; auto: the target's vector width, at least 8.
    """

    block: Literal["auto"] | int = "auto"

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Choose layouts in the main graph."""
        lanes = ctx.lanes if self.block == "auto" else int(self.block)
        if lanes == 0:
            return PassResult(False)
        catalog = ctx.catalog

        def compiled(op: Op) -> bool:
            return catalog is None or catalog.family(op) is not None

        return PassResult(assign_layouts(module.main, lanes, compiled) > 0)


def anything(op: Op) -> bool:
    """Every op may take part."""
    return True


@dataclass
class Layouts:
    """The choice for one graph: block size, and the reorders made so far."""

    graph: Graph
    block: int
    compiled: Callable[[Op], bool] = anything
    made: dict[tuple[Value, str], Value] = field(default_factory=dict[tuple[Value, str], Value])
    count: int = 0

    def tag(self, rank: int) -> str:
        """The layout of blocked activations of a rank: aBcd16b."""
        return f"aB{LETTERS[2:rank]}{self.block}b"

    def stored(self, value: Value, tag: str, before: Op) -> Value:
        """The value in a layout: itself, or its reorder (one is made for all users after it)."""
        if value.tensor.layout == tag:
            return value
        key = (value, tag)
        if key not in self.made:
            kind = replace(value.tensor, layout=tag)
            maker = value.op.loc if value.op else Loc()
            loc = maker if maker.nodes else before.loc
            op = Op(Reorder(), [value], [kind], loc=loc, hints=[value.hint])
            self.graph.insert(op, _after(value, self.graph, before))
            self.made[key] = op.result
            self.count += 1
        return self.made[key]

    def take(self, op: Op, index: int, tag: str) -> None:
        """Make operand `index` be stored in a layout."""
        value = op.operand(index)
        op.set_operand(index, self.stored(value, tag, op))


def _after(value: Value, graph: Graph, before: Op) -> Op:
    """The op after the one that makes a value, so that a reorder serves every later user."""
    if value.op is None:
        return (graph.first or before) if value.owner is graph else before
    return (value.op.next or before) if value.op.graph is graph else before


def assign_layouts(graph: Graph, lanes: int, compiled: Callable[[Op], bool] | None = None) -> int:
    """Choose the layouts of a graph in place, and insert reorders.

    Args:
        graph: static float32 parts are considered; the rest stays dense.
        lanes: float32 elements of a vector register; blocks are that, but at least 8 channels.
        compiled: which ops a kernel computes; the others get and give dense tensors.

    Returns:
        The number of reorders inserted.
    """
    layouts = Layouts(graph, max(lanes, 8), compiled or anything)
    for op in list(graph):
        _assign(layouts, op)
    return layouts.count


def _assign(layouts: Layouts, op: Op) -> None:
    if op.kind.name in ("reorder", "const"):
        return
    if not op.regions and op.kind.name != "return" and layouts.compiled(op) and _block(layouts, op):
        return
    for i, v in enumerate(op.operands):  # dense operands for everything else
        if v is not None and _is_blocked(v):
            layouts.take(op, i, "")
    for inner in (o for region in op.regions for o in region.walk()):
        for i, v in enumerate(inner.operands):
            if v is not None and _is_blocked(v):
                inner.set_operand(i, layouts.stored(v, "", op))


def _block(layouts: Layouts, op: Op) -> bool:
    """Let an op work in blocks if it can; packs the weights of matrix products on the way."""
    if op.kind.name == "conv_integer":
        return _convolve_integers(layouts, op)
    if op.kind.name == "conv_winograd":
        return _filter_tiles(layouts, op)
    if op.kind.name in CONVS and _convolve(layouts, op):
        return True
    if op.kind.name == "squeeze_excite":
        return _excite(layouts, op)
    if op.kind.name in ("lstm_scan", "gru_scan"):
        _pack_gates(layouts, op)
    if op.kind.name in ("matmul", "matmul_integer", "gemm"):
        _pack_matrix(layouts, op)
    return any(v is not None and _is_blocked(v) for v in op.operands) and _follow(layouts, op)


def _is_blocked(value: Value) -> bool:
    """Whether a value is stored in channel blocks (weights' own layouts don't spread)."""
    t = value.type
    return isinstance(t, TensorType) and t.layout.startswith("aB")


def _shape(value: Value) -> tuple[int, ...] | None:
    t = value.type
    return t.static if isinstance(t, TensorType) and t.dtype in TYPES else None


def _mark(op: Op, tag: str) -> None:
    for result in op.results:
        result.type = replace(result.tensor, layout=tag)


def _convolve(layouts: Layouts, op: Op) -> bool:
    """Block a convolution's result, its operand unless it has few channels, and its weights."""
    kind: Any = op.kind
    x, w, y = (_shape(v) for v in (op.operand(0), op.operand(1), op.result))
    if x is None or w is None or y is None or not 3 <= len(x) <= 5:
        return False
    block, rank = layouts.block, len(x)
    rest = LETTERS[2:rank]
    if op.kind.name == "conv_transpose":
        if kind.group > 1:
            return False
        layouts.take(op, 0, layouts.tag(rank))
        layouts.take(op, 1, f"BA{rest}{block}a{block}b")
    elif kind.group > 1 and w[1] == 1 and w[0] == kind.group:
        layouts.take(op, 0, layouts.tag(rank))
        layouts.take(op, 1, f"Ab{rest}{block}a")
    elif kind.group > 1 and (w[1] % block or (w[0] // kind.group) % block):
        if _wasted(w[0], kind.group, block) > WASTED:
            return False
        layouts.take(op, 0, layouts.tag(rank))
        layouts.take(op, 1, f"Ab{rest}{block}a")
    elif w[1] <= FEW and not _is_blocked(op.operand(0)):
        layouts.take(op, 1, f"Ab{rest}{block}a")
    else:
        layouts.take(op, 0, layouts.tag(rank))
        layouts.take(op, 1, f"AB{rest}{block}b{block}a")
    if op.operands[2] is not None and y[1] % block:
        layouts.take(op, 2, f"A{block}a")
    if y[1] >= block or w[1] == 1 or _wants_blocks(op.result):
        _mark(op, layouts.tag(rank))
    return True


def _wants_blocks(value: Value) -> bool:
    """Whether anything that reads a value, or an element-wise function of it, is in blocks."""
    for user in (use.op for use in value.uses):
        name = user.kind.name
        if name in CONVS | POOLS | SPATIAL | {"resize", "lrn", "pad", "concat", "batch_norm"}:
            return True
        if isinstance(user.kind, Elementwise) and _wants_blocks(user.result):
            return True
    return False


def _wasted(outs: int, groups: int, block: int) -> float:
    """Products computed in blocks for each useful one: a block computes every group it meets."""
    per = outs // groups
    firsts = range(0, outs, block)
    met = sum((min(f + block, outs) - 1) // per - f // per + 1 for f in firsts)
    return met * block / outs


def _filter_tiles(layouts: Layouts, op: Op) -> bool:
    """Minimal filtering: operand and result in blocks, which the channels fill."""
    layouts.take(op, 0, layouts.tag(4))
    layouts.take(op, 1, f"aBc{layouts.block}b")
    _mark(op, layouts.tag(4))
    return True


def _convolve_integers(layouts: Layouts, op: Op) -> bool:
    """As floats, but that weights and operand are packed in words of four input channels."""
    kind: Any = op.kind
    x, w = _shape(op.operand(0)), _shape(op.operand(1))
    if x is None or w is None or not 3 <= len(x) <= 5:
        return False
    block, rest = layouts.block, LETTERS[2 : len(x)]
    whole = w[1] % block == 0 and (w[0] // kind.group) % block == 0
    if kind.group > 1 and w[1] == 1 and w[0] == kind.group:
        tags = (layouts.tag(len(x)), f"Ab{rest[:-1]}{rest[-1].upper()}{block}a{WORD}{rest[-1]}")
    elif op.operand(0).tensor.dtype is not DType.u8 or (kind.group > 1 and not whole):
        return False
    elif w[1] <= WORD and not _is_blocked(op.operand(0)):
        tags = (f"aB{rest}{WORD}b", f"AB{rest}{block}a{WORD}b")
    else:
        tags = (layouts.tag(len(x)), f"AB{rest}{block // WORD}b{block}a{WORD}b")
    for i, tag in enumerate(tags):
        layouts.take(op, i, tag)
    _mark(op, layouts.tag(len(x)))
    return True


def _pack_matrix(layouts: Layouts, op: Op) -> None:
    """Pack a constant right-hand matrix in panels of columns."""
    kind: Any = op.kind
    b = op.operand(1)
    shape = _shape(b)
    if shape is None or len(shape) != 2 or not (b.op and isinstance(b.op.kind, Const)):
        return
    if op.kind.name == "matmul_integer":
        types = op.operand(0).tensor.dtype, b.tensor.dtype
        if types == (DType.u8, DType.i8):
            layouts.take(op, 1, f"BA{layouts.block}b{WORD}a")
        return
    transposed = op.kind.name == "gemm" and kind.trans_b
    layouts.take(op, 1, f"Ab{layouts.block}a" if transposed else f"Ba{layouts.block}b")


def _pack_gates(layouts: Layouts, op: Op) -> None:
    """Pack a recurrence's weights in vectors of units, which have to fill them."""
    units = (op.operand(1).tensor.static or (0, 1))[1]
    width = math.gcd(layouts.block, units)
    layouts.take(op, 1, f"Bca{width}b" if width > 1 else "bca")


def _excite(layouts: Layouts, op: Op) -> bool:
    """Pack the weights of a squeeze and excitation in panels; x stays as it is, the gate follows.

    The gate of a blocked x is blocked, so that partial blocks meet x as they are.
    """
    x = _shape(op.operand(0))
    if x is None or any(_shape(v) is None for v in op.operands if v):
        return False
    block = layouts.block
    for i in (1, 2):
        layouts.take(op, i, f"Ab{LETTERS[2 : len(x)]}{block}a")
    for i in (3, 4):
        if op.operands[i] is not None and (op.operand(i).tensor.static or (0,))[0] % block:
            layouts.take(op, i, f"A{block}a")
    if _is_blocked(op.operand(0)):
        _mark(op, layouts.tag(len(x)))
    return True


def _follow(layouts: Layouts, op: Op) -> bool:
    """Let an op with a blocked operand work in blocks, if its kind can."""
    if any(_shape(v) is None for v in op.results):
        return False
    name = op.kind.name
    if isinstance(op.kind, Elementwise):
        return _follow_elementwise(layouts, op)
    shape = _shape(op.operand(0))
    if shape is None:
        return False
    can = (
        name in POOLS
        or name in ("resize", "lrn", "dynamic_quantize")
        or (name == "batch_norm" and shape[1] % layouts.block == 0)
        or (name in SPATIAL and _spatial_mean(op, len(shape)))
        or (name == "pad" and _spatial_pad(op, len(shape)))
        or (name == "concat" and _whole_blocks(layouts, op))
    )
    if not can:
        return False
    for i, v in enumerate(op.operands):
        if v is not None and (name != "batch_norm" or i == 0):
            layouts.take(op, i, layouts.tag(len(shape)))
    if name == "dynamic_quantize":  # its scale and zero point are scalars
        op.results[0].type = replace(op.results[0].tensor, layout=layouts.tag(len(shape)))
    elif not (name in SPATIAL and _leaves_blocks(op)):
        _mark(op, layouts.tag(len(shape)))
    return True


def _leaves_blocks(op: Op) -> bool:
    """Whether a global pool's few results are dense: no convolution follows, or they are a row."""
    kind: Any = op.kind
    return not kind.keepdims or not any(use.op.kind.name in CONVS for use in op.result.uses)


def _follow_elementwise(layouts: Layouts, op: Op) -> bool:
    """Operands of the result's shape are blocked; broadcast ones stay dense where that is free."""
    shape, scaled = _shape(op.result), isinstance(op.kind, Scaled)
    if shape is None or len(shape) < 3 or any(_shape(v) is None for v in op.operands if v):
        return False
    if not any(v and _is_blocked(v) and _shape(v) == shape for v in op.operands):
        return False
    for i, v in enumerate(op.operands):
        if v is not None:
            layouts.take(op, i, _parameter_tag(layouts, op, v, shape) if i and scaled else (
                _operand_tag(layouts, v, shape)))  # fmt: skip
    _mark(op, layouts.tag(len(shape)))
    return True


def _parameter_tag(layouts: Layouts, op: Op, v: Value, shape: tuple[int, ...]) -> str:
    """Scales and zero points are dense, but padded where the channels are."""
    kind: Any = op.kind
    vector = _shape(v) not in ((), (1,)) and kind.axis % len(shape) == 1
    return f"A{layouts.block}a" if vector and shape[1] % layouts.block else ""


def _operand_tag(layouts: Layouts, v: Value, result: tuple[int, ...]) -> str:
    """Blocked for an operand with channels, dense for one without or with whole blocks alone."""
    shape, rank = v.tensor.static or (), len(result)
    axis = len(shape) - (rank - 1)  # where the channels are; absent below 0
    if axis < 0 or shape[axis] == 1:
        return ""
    if len(shape) == rank and (shape[2:] != (1,) * (rank - 2) or _is_blocked(v)):
        return layouts.tag(rank)
    if shape[axis] % layouts.block == 0:
        return ""  # one vector a block either way
    letter = LETTERS[axis]
    letters = LETTERS[: len(shape)].replace(letter, letter.upper())
    return f"{letters}{layouts.block}{letter}"


def _spatial_mean(op: Op, rank: int) -> bool:
    kind: Any = op.kind
    return sorted(a % rank for a in kind.axes) == list(range(2, rank))


def _spatial_pad(op: Op, rank: int) -> bool:
    kind: Any = op.kind
    pads: tuple[int, ...] = kind.pads
    return not any((*pads[:2], *pads[rank : rank + 2])) and min(pads) >= 0


def _whole_blocks(layouts: Layouts, op: Op) -> bool:
    """Concatenation of channels where every part but the last fills its blocks."""
    kind: Any = op.kind
    shapes = [_shape(v) for v in op.operands if v]
    if any(s is None for s in shapes) or kind.axis % len(shapes[0] or ()) != 1:
        return False
    return all(s is not None and s[1] % layouts.block == 0 for s in shapes[:-1])
