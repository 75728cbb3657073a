"""Resizing that no kind models (cubic, antialiased ...) as products with constant matrices.

Resizing an image is linear in it, axis by axis, so that each axis is a product with a matrix; its
rows are what resizing makes of the basis vectors. No formula of a mode stands here: the op itself
is run on the basis, once, when the model is lowered.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.builtin import Const, Opaque
from graphopt.ir.core import Op, Value
from graphopt.ir.types import Array, DType, TensorType
from graphopt.ops.linalg import MatMul
from graphopt.rewrite import Miss, Rewriter

LARGEST = 1 << 20  # elements of a matrix
MODES = {"linear", "cubic"}


def as_products(rw: Rewriter, op: Op, kind: Opaque) -> Value | None:
    """resize(x) -> matmul(V, matmul(x, W)), on the last two axes.

    Raises:
        Miss: it isn't linear (it extrapolates), resizes other axes, or is of unknown sizes.
    """
    if kind.domain or kind.op_type != "Resize" or kind.attr("mode", "nearest") not in MODES:
        return None
    old, new = _static(op.operand(0)), _static(op.result)
    if kind.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise Miss("it crops")
    if len(old) < 3 or old[:-2] != new[:-2]:
        raise Miss("it resizes other axes than the last two")
    factors = _factors(op, kind, len(old))
    x = op.operand(0)
    for axis in sorted((-1, -2), key=lambda a: new[a] / old[a]):  # the one that shrinks first
        if old[axis] == new[axis] and factors[axis] in (None, 1.0):
            continue
        if old[axis] * new[axis] > LARGEST:
            raise Miss(f"a matrix of {old[axis]} x {new[axis]} elements is too large")
        matrix = _matrix(kind, old[axis], new[axis], factors[axis])
        if axis == -1:
            x = rw.make(MatMul(), x, rw.const(matrix))
        else:
            x = rw.make(MatMul(), rw.const(np.ascontiguousarray(matrix.T)), x)
    return x


def _static(value: Value) -> tuple[int, ...]:
    t = value.type
    if not isinstance(t, TensorType) or t.static is None or t.dtype is not DType.f32:
        raise Miss("it isn't of float32 and known sizes")
    return t.static


def _factors(op: Op, kind: Opaque, rank: int) -> list[float | None]:
    """The scale of each axis, where the op gives scales; else None: the sizes say it."""
    scales = op.operands[2] if len(op.operands) > 2 else None
    if scales is None:
        return [None] * rank
    if scales.op is None or not isinstance(scales.op.kind, Const):
        raise Miss("its scales aren't constant")
    numbers = scales.op.kind.data.numpy().tolist()
    if not numbers:
        return [None] * rank
    axes: Any = kind.attr("axes") or range(rank)
    found: list[float | None] = [1.0] * rank
    for axis, number in zip(axes, numbers, strict=True):
        found[axis] = float(number)
    return found


def _matrix(kind: Opaque, old: int, new: int, factor: float | None) -> Array:
    """[old, new]: row i is what resizing along one axis makes of the basis vector i."""
    from graphopt.onnx import evaluate_opaque  # on first use: onnx takes a while to import

    kept = tuple((k, v) for k, v in kind.attrs if k not in ("axes", "keep_aspect_ratio_policy"))
    basis = np.eye(old, dtype=np.float32)[None, None]
    scales = None if factor is None else np.array([1, 1, 1, factor], np.float32)
    sizes = np.array([1, 1, old, new]) if factor is None else None
    alone = Opaque("Resize", "", kind.version, kept)
    (rows,) = evaluate_opaque(alone, (basis, None, scales, sizes), results=1)
    if rows.shape != (1, 1, old, new):
        raise Miss(f"along one axis it gives {rows.shape[-1]} elements, not {new}")
    return np.ascontiguousarray(rows[0, 0])
