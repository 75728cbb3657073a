"""Which opset a module is written at, and the lowest IR version that goes with it."""

from __future__ import annotations

from functools import lru_cache

from onnx import helper

from graphopt.errors import UnsupportedError
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Module, Op, OpKind
from graphopt.ir.types import DType, TensorType
from graphopt.onnx.checks import MAX_OPSET, MIN_OPSET, known, schema
from graphopt.onnx.emitter import NATIVE
from graphopt.ops.excite import SqueezeExcite

CAP = 26  # the newest opset that ONNX Runtime 1.31 reads
DEFAULT = 17  # for a module that names no standard opset

# Ops whose later versions only add types, or attributes and operands whose absence means what the
# earlier version did: {op: the first version of which that is true}.
_WIDENED = {
    "Reshape": 5, "Transpose": 1, "Identity": 1, "Shape": 1, "Size": 1, "Slice": 10, "Pad": 11,
    "Gather": 1, "GatherElements": 11, "GatherND": 11, "Expand": 8, "Tile": 6, "Concat": 4,
    "Squeeze": 13, "Unsqueeze": 13, "Where": 9, "Equal": 7, "ConstantOfShape": 9, "Constant": 1,
    "If": 1, "Loop": 1, "Scan": 9, "LSTM": 7, "GRU": 7, "RNN": 7, "Flatten": 1, "NonZero": 9,
    "TopK": 11, "CumSum": 11, "OneHot": 9, "ScatterND": 16, "ScatterElements": 16, "Range": 11,
    "Resize": 19, "QuantizeLinear": 10, "DequantizeLinear": 10, "CastLike": 15, "Einsum": 12,
    "IsInf": 10, "GridSample": 16, "NonMaxSuppression": 10, "Selu": 6, "ThresholdedRelu": 10,
    "RoiAlign": 16, "Trilu": 14, "Conv": 1, "ConvTranspose": 1, "MaxPool": 8, "AveragePool": 7,
    "InstanceNormalization": 6, "GlobalLpPool": 2, "LpPool": 11, "Dropout": 12, "EyeLike": 9,
    "Cast": 9, "Split": 13,
}  # fmt: skip


@lru_cache(maxsize=4096)
def compatible(op_type: str, old: int, new: int) -> bool:
    """Whether an op written for one standard opset means the same at another."""
    before, after = schema(op_type, old, ""), schema(op_type, new, "")
    if before is None or after is None:
        return False
    if before.since_version == after.since_version:
        return True
    first = _WIDENED.get(op_type)
    return first is not None and first <= before.since_version < after.since_version


def opaque_ops(module: Module) -> set[tuple[str, int]]:
    """The (op, opset) pairs of the standard domain that are written as they are."""
    kinds = (op.kind for op in module.main.walk())
    return {(k.op_type, k.version) for k in kinds if isinstance(k, Opaque) and k.domain == ""}


def candidates(module: Module, opset: int | None) -> list[int]:
    """The opsets to try, best first.

    The model's own, unless a kind is a single op only at a later one that every opaque op allows;
    at most the newest that ONNX Runtime reads, if opaque ops allow that.

    Raises:
        UnsupportedError: `opset` doesn't exist, or an op kept as it is means something else there.
    """
    fixed = opaque_ops(module)
    if opset is not None:
        _check_pinned(fixed, opset)
        return [opset]
    own = module.opsets.get("", DEFAULT)

    def allowed(version: int) -> bool:
        return all(compatible(op_type, v, version) for op_type, v in fixed)

    start = CAP if own > CAP and allowed(CAP) else own
    native = {NATIVE.get(type(k), 0) for op in module.main.walk() for k in _kinds(op)}
    wanted = sorted((v for v in native if start < v <= CAP), reverse=True)
    found = next((v for v in wanted if allowed(v)), start)
    later = [v for v in range(start, MAX_OPSET + 1) if v != found and allowed(v)]
    return [found, *later]


def _kinds(op: Op) -> tuple[OpKind, ...]:
    """The kind of an op, and those of the activations that it holds."""
    return (op.kind, *(op.kind.functions() if isinstance(op.kind, SqueezeExcite) else ()))


def _check_pinned(fixed: set[tuple[str, int]], opset: int) -> None:
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise UnsupportedError(f"opset {opset}: can be {MIN_OPSET} to {MAX_OPSET}")
    for op_type, version in sorted(fixed):
        if not compatible(op_type, version, opset):
            raise UnsupportedError(
                f"opset {opset}: {op_type} is kept as it is at opset {version}, and means "
                "something else there"
            )


_NEEDS_IR = {
    DType.f8e4m3fn: 9, DType.f8e4m3fnuz: 9, DType.f8e5m2: 9, DType.f8e5m2fnuz: 9, DType.i4: 10,
    DType.u4: 10, DType.f4e2m1: 11, DType.f8e8m0: 12, DType.i2: 13, DType.u2: 13,
}  # fmt: skip


def ir_version(opsets: dict[str, int], types: set[DType]) -> int:
    """The lowest IR version that allows the opsets and element types (and constants: 4)."""
    pairs = [("ai.onnx" if d == "" else d, v) for d, v in opsets.items()]
    table = helper.OP_SET_ID_VERSION_MAP
    return max([4, *(table.get(p, 4) for p in pairs), *(_NEEDS_IR.get(t, 4) for t in types)])


def element_types(module: Module) -> set[DType]:
    """Every element type that a value of the module has."""
    found = {a.type.dtype for a in module.main.args if isinstance(a.type, TensorType)}
    for op in module.main.walk():
        found.update(r.type.dtype for r in op.results if isinstance(r.type, TensorType))
    return found


def expressible(op_type: str, opset: int, dtype: DType, index: int) -> bool:
    """Whether an op of the standard domain takes operand `index` of an element type."""
    return known(op_type, opset, "") is None or dtype.onnx in _allowed(op_type, opset, index)


@lru_cache(maxsize=4096)
def _allowed(op_type: str, opset: int, index: int) -> frozenset[int]:
    """The element types (TensorProto codes) of an operand, by its schema."""
    found = schema(op_type, opset, "")
    if found is None or not found.inputs:
        return frozenset()
    types = found.inputs[min(index, len(found.inputs) - 1)].types
    names = {helper.tensor_dtype_to_string(t.onnx)[12:].lower(): t.onnx for t in DType}
    inner = (t[7:-1] for t in types if t.startswith("tensor("))
    return frozenset(names[n] for n in inner if n in names)
