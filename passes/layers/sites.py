"""Layers with constant weights that could be computed another way, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphopt.choices import Choice
from graphopt.errors import InputError
from graphopt.ir.core import Graph, Loc, Op
from graphopt.ir.data import Data
from graphopt.ir.types import Array, DType
from graphopt.ops.linalg import Gemm, MatMul
from graphopt.ops.nn import Conv
from graphopt.passes.layers.names import offered
from graphopt.passes.layers.unfold import rows
from graphopt.rewrite import const


@dataclass(frozen=True)
class Site:
    """A convolution, or a product with a constant matrix.

    `name` tells it from the others of its graph. A group reads `ins` channels and makes `outs`;
    `taps` are the sizes of the window, none of a product's. `centred` says whether the layer can
    have a bias of one number a channel, which takes up the mean of what is changed. `twins` are the
    later layers with the same weights, in order: what is done to one is done to all.
    """

    op: Op
    name: str
    groups: int
    outs: int
    ins: int
    taps: tuple[int, ...]
    centred: bool
    twins: tuple[Site, ...] = ()

    @property
    def family(self) -> tuple[Site, ...]:
        """The layer and its twins."""
        return (self, *self.twins)

    @property
    def loc(self) -> Loc:
        """The ONNX nodes of all."""
        return Loc(tuple(dict.fromkeys(n for one in self.family for n in one.op.loc.nodes)))

    @property
    def shared(self) -> bool:
        """Whether something else has the weights, too, so that they would stay in the file."""
        return self.op.operand(1).use_count > len(self.family)

    @property
    def length(self) -> int:
        """The numbers in a row of the weight, K."""
        return self.ins * math.prod(self.taps)

    @property
    def weight(self) -> Data:
        """The weight, as it is stored."""
        data = const(self.op.operand(1))
        assert data
        return data

    def rows(self) -> Array:
        """The weight as float64 [groups, outs, K]."""
        return rows(self.op, self.weight.numpy()).astype(np.float64)

    @property
    def scale(self) -> float:
        """What products are multiplied by."""
        return self.op.kind.alpha if isinstance(self.op.kind, Gemm) else 1.0

    def bias(self) -> Array:
        """What is added by output channel, float64 [groups, outs]; zeros where nobody can tell."""
        given = const(self.op.operands[2]) if len(self.op.operands) > 2 else None
        if given is None or not self.centred:
            return np.zeros((self.groups, self.outs))
        beta = self.op.kind.beta if isinstance(self.op.kind, Gemm) else 1.0
        row = given.numpy().astype(np.float64).reshape(-1) * beta
        return np.broadcast_to(row, (self.groups * self.outs,)).reshape(self.groups, self.outs)


def sites(graph: Graph) -> list[Site]:
    """Those of a graph, in its order, twins with the first of them; regions stay as they are."""
    families, names = dict[object, list[Site]](), set[str]()
    for op in graph:
        data = _weight(op)
        if data is None:
            continue
        name = fresh(layer_name(op), names)
        site = Site(op, name, *_sizes(op, data), _centred(op))
        same = op.operand(1), type(op.kind), getattr(op.kind, "trans_b", False), site.groups
        families.setdefault(same, []).append(site)
    return [replace(first, twins=tuple(twins)) for first, *twins in families.values()]


def _weight(op: Op) -> Data | None:
    """The float32 weight of a layer of known shapes; None for any other op."""
    if not isinstance(op.kind, Conv | Gemm | MatMul):
        return None
    if isinstance(op.kind, Gemm) and op.kind.trans_a:
        return None
    data, x = const(op.operand(1)), op.operand(0).tensor
    if data is None or data.dtype is not DType.f32 or const(op.operand(0)) is not None:
        return None
    if x.dtype is not DType.f32 or 0 in data.shape or (x.rank or 0) < 2:
        return None
    return data if isinstance(op.kind, Conv) or len(data.shape) == 2 else None


def _sizes(op: Op, data: Data) -> tuple[int, int, int, tuple[int, ...]]:
    """Groups, output and input channels of one, and the window."""
    match op.kind:
        case Conv(group=g):
            return g, data.shape[0] // g, data.shape[1], tuple(data.shape[2:])
        case Gemm(trans_b=True):
            return 1, data.shape[0], data.shape[1], ()
        case _:
            return 1, data.shape[1], data.shape[0], ()


def _centred(op: Op) -> bool:
    """Whether a layer has, or can get, one bias for each output channel."""
    if isinstance(op.kind, MatMul):
        return False
    if op.operands[2] is None:
        return True
    data, outs = const(op.operands[2]), op.result.tensor.shape
    width = outs[1] if outs else None
    return data is not None and data.shape in ((width,), (1, width), (1,), (), (1, 1))


def layer_name(op: Op) -> str:
    """What a layer is called, be it the only one of this name."""
    return op.results[0].hint or (op.loc.nodes or ("layer",))[0]


def fresh(name: str, names: set[str]) -> str:
    """A name that no other layer has; it is added to the names."""
    unique, number = name, 2
    while unique in names:
        unique, number = f"{name}#{number}", number + 1
    names.add(unique)
    return unique


def skipped(found: Sequence[Site], parts: Iterable[str], others: Iterable[Choice]) -> set[str]:
    """The names of layers that have one of some parts in those of their ONNX nodes.

    Args:
        found: the layers.
        parts: of names.
        others: of layers that stay anyhow, which may be named, too.

    Raises:
        InputError: no layer has one of them.
    """
    names = [n for site in found for n in _names(site)]
    names += [n for other in others for n in (*other.loc.nodes, other.layer)]
    parts = tuple(parts)
    for part in parts:
        if not any(part in n for n in names):
            raise InputError(f"skip: no layer's name has {part!r} in it{offered(part, names)}")
    return {s.name for s in found if any(part in n for part in parts for n in _names(s))}


def _names(site: Site) -> Iterator[str]:
    yield from site.loc.nodes
    yield from (one.name for one in site.family)
