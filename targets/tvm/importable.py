"""Which ONNX ops that no kind models TVM's importer computes as ONNX says. No TVM here.

Each was compared with ONNX Runtime over ONNX's node tests; what differed there is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Op
from graphopt.ir.types import DType

UNSIGNED = (DType.u8, DType.u16, DType.u32, DType.u64)
Check = Callable[[Op, Opaque], bool]


def always(op: Op, kind: Opaque) -> bool:
    """Every form of the op."""
    return True


IMPORTED: dict[str, Check] = {
    "AveragePool": always,
    # a negative shift, or one by the width and more, has a meaning for signed integers alone
    "BitShift": lambda op, kind: op.operand(0).tensor.dtype in UNSIGNED,
    "BitwiseAnd": always,
    "BitwiseNot": always,
    "BitwiseOr": always,
    "BitwiseXor": always,
    "Einsum": always,
    "GlobalMaxPool": always,
    "GridSample": always,
    "Hardmax": always,
    # the importer ignores that only one sign is asked for
    "IsInf": lambda op, kind: bool(
        kind.attr("detect_positive", 1) and kind.attr("detect_negative", 1)
    ),
    "LpPool": always,
    "RoiAlign": lambda op, kind: kind.attr("mode", "avg") == "avg",
    "Softmax": always,
    "Trilu": always,
}


def importable(op: Op) -> bool:
    """Whether an opaque op is one that the importer computes rightly."""
    kind = op.kind
    if not isinstance(kind, Opaque) or kind.domain or op.regions:
        return False
    check = IMPORTED.get(kind.op_type)
    return check is not None and check(op, kind)
