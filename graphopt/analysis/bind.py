"""Bind symbolic dimensions to numbers: what the user gives, and 1 for batch-like ones."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.errors import InputError
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ir.types import (
    UNKNOWN,
    Dim,
    MapType,
    OptionalType,
    SequenceType,
    SparseType,
    Sym,
    TensorType,
    UnknownType,
    ValueType,
)

BATCH_NAMES = {"n", "b", "batch", "batch_size", "batchsize", "bs", "unk__0", "dynamic_axes_1"}
Shapes = Mapping[str, tuple[int, ...]]


def bind(module: Module, shapes: Shapes | None = None) -> list[str]:
    """Make input shapes static where they can be, in place; returns notes for the user.

    Inputs named in `shapes` get exactly that shape. Of the rest, a symbolic first dimension or one
    with a batch-like name becomes 1. Other symbols stay.

    Raises:
        InputError: a name that is no input, or a shape that contradicts the model's.
    """
    sizes: dict[str, int] = {}
    given = dict(shapes or {})
    known = {a.hint: a for a in module.main.args}
    for name, shape in given.items():
        if name not in known:
            raise InputError(
                f"--input-shape names {name!r}, but the model's inputs are {', '.join(known)}"
            )
        _solve(known[name], shape, sizes)
    notes: list[str] = []
    for value in module.main.args:
        if value.hint not in given:
            _batch(value, sizes, notes)
    if sizes or given or notes:
        try:
            _apply(module, sizes)
        except ValueError as why:
            raise InputError(f"the input shapes don't fit the model: {why}") from why
    return notes + _left(module)


def _solve(value: Value, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Enter what a given shape says about the input's symbols, and give the input that type."""
    have = value.type
    text = "x".join(map(str, shape))
    if not isinstance(have, TensorType):
        raise InputError(f"--input-shape {value.hint}={text}: that input is {have}, not a tensor")
    if have.shape is not None and len(have.shape) != len(shape):
        raise InputError(f"--input-shape {value.hint}={text}: the model says {have}")
    for dim, want in zip(have.shape or (), shape, strict=False):
        if isinstance(dim, int):
            fits = dim == want
        else:
            atomic = dim == Sym(dim.name) and dim != UNKNOWN
            fits = not atomic or sizes.setdefault(dim.name, want) == want
        if not fits:
            raise InputError(
                f"--input-shape {value.hint}={text} contradicts the model, which says {have}"
            )
    value.type = TensorType(have.dtype, shape)


def _batch(value: Value, sizes: dict[str, int], notes: list[str]) -> None:
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.shape is None:
        return
    dims = list(type_.shape)
    for i, d in enumerate(dims):
        if isinstance(d, int) or d.name in sizes:
            continue
        if d == UNKNOWN and i == 0:
            dims[0] = 1
            notes.append(f"the batch of input {value.hint!r} is taken as 1")
        elif d != UNKNOWN and (i == 0 or d.name.lower() in BATCH_NAMES) and d == Sym(d.name):
            sizes[d.name] = 1
            notes.append(f"the batch size {d.name!r} of input {value.hint!r} is taken as 1")
    value.type = TensorType(type_.dtype, tuple(dims))


def _left(module: Module) -> list[str]:
    """A note on every input that is still symbolic, with the option that would fix it."""
    notes: list[str] = []
    for value in module.main.args:
        type_ = value.type
        if isinstance(type_, TensorType) and type_.static is None:
            example = "x".join(
                str(d) if isinstance(d, int) else f"<{d}>" for d in type_.shape or ()
            )
            notes.append(
                f"input {value.hint!r} keeps a dynamic shape, so what depends on it runs in ONNX "
                f"Runtime; give --input-shape {value.hint}={example or '<shape>'} to compile it"
            )
    return notes


def _apply(module: Module, sizes: dict[str, int]) -> None:
    """Carry the numbers through every type: symbols by name, modelled ops by inference."""
    for value in module.main.args:
        value.type = _bound(value.type, sizes)
    _infer(module.main, sizes)


def _infer(graph: Graph, sizes: dict[str, int]) -> None:
    for op in graph:
        for region in op.regions:
            for arg in region.args:
                arg.type = _bound(arg.type, sizes)
            _infer(region, sizes)
        types = _inferred(op)
        for result, type_ in zip(op.results, types, strict=True):
            result.type = _bound(type_, sizes)


def _inferred(op: Op) -> tuple[ValueType, ...]:
    try:
        types = op.kind.infer(*(v and v.type for v in op.operands))
    except ValueError as why:
        raise InputError(
            f"the given input shape does not fit {op.kind.name} at {op.loc}: {why}"
        ) from why
    return tuple(r.type for r in op.results) if types is None else types


def _bound(type_: ValueType, sizes: dict[str, int]) -> ValueType:
    match type_:
        case TensorType(dtype, shape, layout):
            return TensorType(dtype, _dims(shape, sizes), layout)
        case SparseType(dtype, shape):
            return SparseType(dtype, _dims(shape, sizes))
        case SequenceType(of):
            return SequenceType(_bound(of, sizes))
        case OptionalType(of):
            return OptionalType(_bound(of, sizes))
        case MapType(key, of):
            return MapType(key, _bound(of, sizes))
        case UnknownType():
            return type_


def _dims(shape: tuple[Dim, ...] | None, sizes: dict[str, int]) -> tuple[Dim, ...] | None:
    if shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.bind(sizes) for d in shape)
