"""Common subexpressions: equal ops on equal operands are computed once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Loc, Module, Op, OpKind, Value
from graphopt.ir.data import Data, Mapped, Rand, Splat, nbytes, to_bytes
from graphopt.ir.types import DType
from graphopt.pipeline import Context, Pass, PassResult
from graphopt.rewrite import Remark

HASHED = 4096  # bytes: larger constants are equal only if they are the same place in one file

Key = tuple[object, ...]


@dataclass(frozen=True)
class Cse(Pass, name="cse"):
    """Value numbering: an op equal to an earlier one (in its graph or one around it) goes."""

    def run(self, module: Module, ctx: Context) -> PassResult:
        """One pass in order; what is merged makes later ops equal."""
        remarks: list[Remark] = []
        _Numbering(ctx, remarks).graph(module.main, None)
        return PassResult(bool(remarks), tuple(remarks))


class _Numbering:
    def __init__(self, ctx: Context, remarks: list[Remark]) -> None:
        self.ctx, self.remarks = ctx, remarks

    def graph(self, graph: Graph, around: _Scope | None) -> None:
        """Number a graph; a region sees what is around it, not the other way round."""
        seen = _Scope(around)
        for op in graph:
            key = None if op.regions or not op.results or not op.kind.pure() else _key(op)
            if key is None:
                for region in op.regions:
                    self.graph(region, seen)
                continue
            first = seen.find(key)
            if first is None:
                seen.here[key] = op
            elif _stands_for(first, op) and self.ctx.permit("same-value", first.loc | op.loc):
                self.merge(graph, op, first)

    def merge(self, graph: Graph, op: Op, first: Op) -> None:
        for old, new in zip(op.results, first.results, strict=True):
            new.hint = new.hint or old.hint
            old.replace_all_uses_with(new)
        if first.kind.name != "const":
            first.loc = first.loc | op.loc
        graph.erase(op)
        loc = first.loc if first.loc.nodes else Loc((f"%{first.results[0].hint}",))
        self.remarks.append(Remark("same-value", loc, True, op.kind.name))


class _Scope:
    """The ops of a graph by key, over those of the graphs around it."""

    def __init__(self, around: _Scope | None) -> None:
        self.around, self.here = around, dict[Key, Op]()

    def find(self, key: Key) -> Op | None:
        scope: _Scope | None = self
        while scope:
            if key in scope.here:
                return scope.here[key]
            scope = scope.around
        return None


def _stands_for(first: Op, op: Op) -> bool:
    """Whether no type would become less known or be stored otherwise."""
    return all(a.type == b.type for a, b in zip(first.results, op.results, strict=True))


def _key(op: Op) -> Key | None:
    """What makes two ops equal; None for what is never equal to another."""
    if isinstance(op.kind, Const):
        return data_key(op.kind.data)
    return (_kind_key(op.kind), *map(_identity, op.operands))


def _identity(value: Value | None) -> int:
    return id(value) if value else 0


def _kind_key(kind: OpKind) -> Key:
    fields = dataclasses.fields(cast("Any", kind))
    return (type(kind), *(_exact(getattr(kind, f.name)) for f in fields))


def _exact(value: object) -> object:
    """Equality that tells -0.0 from 0.0 and 1 from 1.0, and knows nan from nothing else."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, tuple):
        return tuple(map(_exact, cast("tuple[object, ...]", value)))
    return (type(value), value)


def data_key(data: Data) -> Key | None:
    """What makes two constants equal; None for what is never equal to another."""
    head: Key = (Const, data.dtype, data.shape)
    if data.dtype is DType.string:
        return None
    match data:
        case Splat(value=value, dtype=dtype):
            return (*head, "splat", np.asarray(value, dtype.numpy).tobytes())
        case Rand(seed=seed):
            return (*head, "rand", seed)
        case _ if nbytes(data) <= HASHED:
            return (*head, "bytes", to_bytes(data.numpy(), data.dtype))
        case Mapped(file=file, offset=offset):
            return (*head, "file", id(file), offset)
        case _:
            return None
