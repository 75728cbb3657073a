"""The layers that can be repaired, and the original's values that they are to give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.clone import captured
from graphopt.ir.core import Graph, Module, Op, Use, Value
from graphopt.ir.types import Array, DType, TensorType
from graphopt.ops.elementwise import Add, Clip, Relu
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.nn import Conv
from graphopt.ops.quant import Dequantize
from graphopt.rewrite import Remark, const, made_by

Channels = Mapping[str, tuple[int, ...]]
NAME = "reconstruct"


@dataclass(frozen=True)
class Layer:
    """y = W x + b with constant W (and b): `out` is y, after an addition of a row to a product.

    `bias`: where b stands, or would; None: there is no place for one.
    """

    op: Op
    out: Value
    bias: Use | None

    @property
    def axis(self) -> int:
        """Of the channels of `out`."""
        return 1 if isinstance(self.op.kind, Conv) else -1


@dataclass(frozen=True)
class Site:
    """A layer with a target: out + others should be `target`, a value of the original.

    `others`: what is added to the layer's result before the value that the target is compared
    with; `kept`: the target's channels that are left; `low`, `high`: what an activation that alone
    reads the value clips it to, beyond which errors are none.
    """

    layer: Layer
    target: Value
    others: tuple[Value, ...] = ()
    kept: tuple[int, ...] | None = None
    low: float = -np.inf
    high: float = np.inf


def layers(graph: Graph) -> Iterator[Layer | Remark]:
    """The layers of a graph, or why one can't be repaired."""
    for op in graph:
        if not isinstance(op.kind, Conv | Gemm | MatMul):
            continue
        if made_by(op.operand(1), Dequantize):
            yield _missed(op, "its weights are integers, which stay: reconstruct before quantize")
        elif const(op.operand(1)):
            yield _layer(op)


def _layer(op: Op) -> Layer | Remark:
    w = op.operand(1)
    data = const(w)
    if data is None or data.dtype is not DType.f32:
        return _missed(op, "its weights aren't float32")
    if w.use_count > 1:
        return _missed(op, "another layer has the same weights")
    if (isinstance(op.kind, Gemm) and op.kind.trans_a) or len(data.shape) < 2:
        return _missed(op, "a transposed operand or a vector")
    if isinstance(op.kind, Gemm) and not op.kind.alpha * op.kind.beta:
        return _missed(op, "a factor of 0")
    if isinstance(op.kind, MatMul):
        return _product(op, data.shape)
    m, bias = _outputs(op, data.shape), op.operands[2]
    if bias is None:
        return Layer(op, op.result, Use(op, 2))
    if not _is_row(bias, m):
        return _missed(op, "its bias isn't one number a channel")
    return Layer(op, op.result, Use(op, 2))


def _product(op: Op, shape: tuple[int, ...]) -> Layer | Remark:
    """A matrix product, with the row that is added to it where there is one."""
    if len(shape) != 2:
        return _missed(op, "its weights are no matrix")
    uses = op.result.uses
    if len(uses) == 1 and isinstance(uses[0].op.kind, Add):
        add, at = uses[0].op, 1 - uses[0].index
        if _is_row(add.operand(at), shape[1]) and add.result.type == op.result.type:
            return Layer(op, add.result, Use(add, at))
    return Layer(op, op.result, None)


def _outputs(op: Op, shape: tuple[int, ...]) -> int:
    last = isinstance(op.kind, Gemm) and not op.kind.trans_b
    return shape[1] if last else shape[0]


def _is_row(value: Value, m: int) -> bool:
    """Whether a value is a float32 constant of one number for each of m channels, the last axis."""
    data = const(value)
    row = data is not None and data.shape[-1:] == (m,) and data.dtype is DType.f32
    return bool(row and data and np.prod(data.shape) == m)


def _missed(op: Op, why: str) -> Remark:
    return Remark(NAME, op.loc, False, why)


def sites(module: Module, before: Module, channels: Channels) -> tuple[list[Site], list[Remark]]:
    """The layers of a compressed module that the original says something about, in order.

    Args:
        module: compressed.
        before: the original; values that stand for its values have their names.
        channels: which of the original's channels a value still has, by name.
    """
    finder = _Finder(module.main, _named(before.main), channels)
    found, remarks = list[Site](), list[Remark]()
    for layer in layers(module.main):
        if isinstance(layer, Remark):
            remarks.append(layer)
            continue
        site = finder.site(layer)
        finder.passed.add(layer.op)
        if isinstance(site, Site):
            found.append(site)
        else:
            remarks.append(site)
    return found, remarks


def _named(graph: Graph) -> dict[str, Value]:
    """The values of a graph whose name no other has."""
    found, twice = dict[str, Value](), set[str]()
    for v in (r for op in graph if not isinstance(op.kind, Const) for r in op.results):
        twice |= {v.hint} & found.keys()
        found[v.hint] = v
    return {name: v for name, v in found.items() if name and name not in twice}


class _Finder:
    """Finds what layers are to give; `passed` are those that come before."""

    def __init__(self, graph: Graph, named: Mapping[str, Value], channels: Channels) -> None:
        self.named, self.channels = named, channels
        self.passed: set[Op] = set()
        self.layers = {one.op for one in layers(graph) if isinstance(one, Layer)}

    def site(self, layer: Layer) -> Site | Remark:
        """The outermost sum that the layer's result goes into and that has a target, or itself."""
        found, why = self._target(layer, layer.out, ())
        at, others = layer.out, tuple[Value, ...]()
        while step := self._sum(at):
            at, others = step[0], (*others, step[1])
            if not self._ready(step[1]):
                break
            further, _ = self._target(layer, at, others)
            found = further or found
        return found or _missed(layer.op, why)

    def _sum(self, value: Value) -> tuple[Value, Value] | None:
        """The sum that alone reads a value, and what is added to it."""
        uses = value.uses
        if len(uses) != 1 or not isinstance(uses[0].op.kind, Add):
            return None
        add = uses[0].op
        same = add.result.type == value.type
        return (add.result, add.operand(1 - uses[0].index)) if same else None

    def _ready(self, value: Value) -> bool:
        """Whether no layer that a value depends on is still to be repaired."""
        seen, todo = set[Op](), [value.op]
        while todo:
            op = todo.pop()
            if op is None or op in seen:
                continue
            if op in self.layers and op not in self.passed:
                return False
            seen.add(op)
            todo += [v.op for v in (*op.operands, *captured(op)) if v]
        return True

    def _target(
        self, layer: Layer, value: Value, others: tuple[Value, ...]
    ) -> tuple[Site | None, str]:
        target = self.named.get(value.hint)
        if target is None:
            return None, "its result stands for no value of the original"
        kept = self.channels.get(value.hint)
        if not _fits(value, target, kept, layer.axis):
            return None, "its result has another shape than the original's"
        return Site(layer, target, others, kept, *_range(value, target)), ""


def _fits(value: Value, target: Value, kept: tuple[int, ...] | None, axis: int) -> bool:
    """Whether a value has a target's shape, the channels that are left aside."""
    if not isinstance(value.type, TensorType) or not isinstance(target.type, TensorType):
        return False
    have, want = value.type.shape, target.type.shape
    if have is None or want is None or len(have) != len(want):
        return False
    shape = list(want)
    if kept is not None:
        shape[axis] = len(kept)
    return tuple(shape) == have


def _range(value: Value, target: Value) -> tuple[float, float]:
    """What the activation that alone reads both values clips them to."""
    kinds = {u.op.kind for v in (value, target) for u in v.uses}
    if len(kinds) != 1 or value.use_count != 1 or target.use_count != 1:
        return -np.inf, np.inf
    match kinds.pop():
        case Relu():
            return 0.0, np.inf
        case Clip(lo=low, hi=high):
            return -np.inf if low is None else low, np.inf if high is None else high
        case _:
            return -np.inf, np.inf


def results(layer: Layer, y: Array, at: Array, groups: int) -> Array:
    """Chosen columns of a layer's result, as `unfold.columns` orders them.

    Args:
        layer: says where the channels are.
        y: float32, as `layer.out`.
        at: indices of columns.
        groups: of the layer.

    Returns:
        float32 [groups, M / groups, len(at)].
    """
    if layer.axis == -1:
        picked = y.reshape(-1, y.shape[-1])[at].T
    else:
        image, place = np.divmod(at, int(np.prod(y.shape[2:])))
        picked = y.reshape(*y.shape[:2], -1)[image, :, place].T
    return picked.reshape(groups, -1, len(at))
