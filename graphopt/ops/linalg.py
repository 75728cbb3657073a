"""Matrix products and attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import Array, DType, TensorType, ValueType
from graphopt.ops.common import wide
from graphopt.ops.shapes import agree, broadcast, tensors


@dataclass(frozen=True)
class MatMul(OpKind, name="matmul"):
    """numpy's matmul: [..., M, K] x [..., K, N], leading axes broadcast, vectors as numpy does."""

    operands = ("a", "b")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """numpy's rule."""
        a, b = tensors(*types)
        if a.dtype is not b.dtype:
            raise ValueError(f"element types differ: {a.dtype}, {b.dtype}")
        if a.shape is None or b.shape is None:
            return (TensorType(a.dtype, None),)
        if not a.shape or not b.shape:
            raise ValueError("a matrix product of scalars")
        left = a.shape if len(a.shape) > 1 else (1, *a.shape)
        right = b.shape if len(b.shape) > 1 else (*b.shape, 1)
        agree(left[-1], right[-2], "inner sizes")
        batch = broadcast(left[:-2], right[:-2])
        assert batch is not None
        rows = left[-2:-1] if len(a.shape) > 1 else ()
        columns = right[-1:] if len(b.shape) > 1 else ()
        return (TensorType(a.dtype, (*batch, *rows, *columns)),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """numpy's matmul."""
        a, b = arrays
        assert a is not None and b is not None
        return (np.asarray(np.matmul(wide(a), wide(b)), a.dtype),)


@dataclass(frozen=True)
class Gemm(OpKind, name="gemm"):
    """alpha * op(a) @ op(b) + beta * c, op a transpose where asked for; a, b are matrices."""

    alpha: float = 1.0
    beta: float = 1.0
    trans_a: bool = False
    trans_b: bool = False
    operands = ("a", "b", "c?")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """[M, N]."""
        a, b = tensors(*types)[:2]
        if a.shape is None or b.shape is None:
            return (TensorType(a.dtype, None),)
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise ValueError(f"{a} and {b} are not matrices")
        m, k = a.shape[::-1] if self.trans_a else a.shape
        k2, n = b.shape[::-1] if self.trans_b else b.shape
        agree(k, k2, "inner sizes")
        return (TensorType(a.dtype, (m, n)),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formula."""
        a, b, c = arrays
        assert a is not None and b is not None
        left, right = wide(a.T if self.trans_a else a), wide(b.T if self.trans_b else b)
        y = left @ right
        y = y if self.alpha == 1 else (y * np.asarray(self.alpha, y.dtype)).astype(y.dtype)
        if c is not None:
            added = wide(c)
            y = y + (added if self.beta == 1 else added * np.asarray(self.beta, added.dtype))
        return (y.astype(a.dtype),)


@dataclass(frozen=True)
class Attention(OpKind, name="attention"):
    """softmax(q k^T * scale + mask) v (arXiv 1706.03762, eq. 1).

    q: [..., T, D]; k: [..., S, D]; v: [..., S, E]; mask broadcasts to [..., T, S].
    `rounded`: what v is multiplied by is the softmax's result rounded to bfloat16.
    """

    scale: float
    rounded: bool = False
    operands = ("q", "k", "v", "mask?")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """[..., T, E]."""
        q, k, v = tensors(*types)[:3]
        if q.shape is None or k.shape is None or v.shape is None:
            return (TensorType(q.dtype, None),)
        agree(q.shape[-1], k.shape[-1], "width of q and k")
        agree(k.shape[-2], v.shape[-2], "length of k and v")
        batch = broadcast(q.shape[:-2], k.shape[:-2], v.shape[:-2])
        assert batch is not None
        return (TensorType(q.dtype, (*batch, q.shape[-2], v.shape[-1])),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formula."""
        q, k, v, mask = arrays
        assert q is not None and k is not None and v is not None
        left = wide(q) * np.asarray(self.scale, wide(q).dtype)
        scores = left @ np.swapaxes(wide(k), -1, -2)
        scores = scores if mask is None else scores + wide(mask)
        with np.errstate(all="ignore"):
            e = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights = e / e.sum(axis=-1, keepdims=True)
            if self.rounded:
                weights = weights.astype(DType.bf16.numpy).astype(weights.dtype)
        return ((weights @ wide(v)).astype(q.dtype),)
