"""Converters of convolution, normalisation, matrix products and attention."""

from __future__ import annotations

from graphopt.ir.types import DType
from graphopt.onnx.node import Modelled, NodeView, Step, converts
from graphopt.onnx.windows import Window, read_window
from graphopt.ops import linalg, nn

Ints = tuple[int, ...]


@converts("Conv")
def _conv(n: NodeView) -> Modelled | None:
    window = kernel_window(n)
    pads = window and window.pads()
    if window is None or pads is None:
        return None
    kind = nn.Conv(window.strides, pads, window.dilations, n.attr("group", 1))
    return Step(kind, n.operands)


def kernel_window(n: NodeView, weight: int = 1) -> Window | None:
    """The window of a convolution, whose kernel's size is that of the operand `weight`."""
    shape, weights = n.shape(0), n.shape(weight)
    given = n.attr("kernel_shape") or (None if weights is None else weights[2:])
    kernel: Ints = tuple(k for k in given or () if isinstance(k, int))
    if given is None or len(kernel) != len(given):
        return None
    if weights is not None and weights[2:] != kernel:
        return None
    return read_window(n, kernel, None if shape is None else shape[2:])


@converts("ConvTranspose")
def _conv_transpose(n: NodeView) -> Modelled | None:
    window = kernel_window(n)
    if window is None:
        return None
    extra = n.attr("output_padding") or (0,) * len(window.kernel)
    if len(extra) != len(window.kernel):
        return None
    pads = _transposed_pads(n, window, extra)
    if pads is None:
        return None
    kind = nn.ConvTranspose(window.strides, pads, window.dilations, extra, n.attr("group", 1))
    return Step(kind, n.operands)


def _transposed_pads(n: NodeView, w: Window, extra: Ints) -> Ints | None:
    """Pads that give `output_shape`, or size * stride for auto_pad SAME_*."""
    wanted, same = n.attr("output_shape"), w.auto_pad.startswith("SAME")
    if not wanted and not same:
        return w.pads()
    totals: list[int] = []
    for i, (k, s, d) in enumerate(zip(w.kernel, w.strides, w.dilations, strict=True)):
        size = w.sizes[i] if w.sizes else None
        total = (k - 1) * d + 1 + extra[i] - s  # the whole extent less size * stride
        if wanted and not isinstance(size, int):
            return None
        if wanted and isinstance(size, int):
            total += size * s - wanted[-len(w.kernel) :][i]
        if total < 0:
            return None
        totals.append(total)
    lower = w.auto_pad != "SAME_UPPER"
    begins = tuple(t - t // 2 if lower else t // 2 for t in totals)
    return begins + tuple(t - b for t, b in zip(totals, begins, strict=True))


@converts("MaxPool")
def _max_pool(n: NodeView) -> Modelled | None:
    window = pool_window(n)
    pads = window and window.pads(ceil=bool(n.attr("ceil_mode", 0)))
    if window is None or pads is None or not n.single:
        return None
    return Step(nn.MaxPool(window.kernel, window.strides, pads, window.dilations), n.operands)


@converts("AveragePool")
def _average_pool(n: NodeView) -> Modelled | None:
    """With ceil_mode the windows' overhang is not counted, so padding can't replace it there."""
    window, counted = pool_window(n), bool(n.attr("count_include_pad", 0))
    ceil = bool(n.attr("ceil_mode", 0))
    pads = window and window.pads(ceil=ceil)
    if window is None or pads is None or (counted and ceil and pads != window.pads()):
        return None
    kind = nn.AvgPool(window.kernel, window.strides, pads, window.dilations, counted)
    return Step(kind, n.operands)


def pool_window(n: NodeView) -> Window | None:
    """The window of a pool, as its attributes say."""
    shape = n.shape(0)
    kernel = n.attr("kernel_shape", ())
    return read_window(n, kernel, shape[2:]) if kernel and shape is not None else None


@converts("BatchNormalization")
def _batch_norm(n: NodeView) -> Modelled | None:
    """The form of inference: one output, and no training mode."""
    training = n.attr("training_mode", 0) if n.version >= 14 else any(n.outputs[1:])
    if training or not n.attr("spatial", 1):
        return None
    return Step(nn.BatchNorm(n.attr("epsilon", 1e-5)), n.operands)


@converts("InstanceNormalization")
def _instance_norm(n: NodeView) -> Modelled:
    return Step(nn.InstanceNorm(n.attr("epsilon", 1e-5)), n.operands)


@converts("LayerNormalization", "RMSNormalization")
def _layer_norm(n: NodeView) -> Modelled | None:
    """The statistics are computed in float32 or wider; other `stash_type`s aren't modelled."""
    axis, rank = n.attr("axis", -1), n.rank(0)
    wide = n.attr("stash_type", DType.f32.onnx) == DType.f32.onnx
    if not wide or not n.single or (axis >= 0 and rank is None):
        return None
    axis -= (rank or 0) if axis >= 0 else 0
    kind = nn.LayerNorm if n.op_type == "LayerNormalization" else nn.RMSNorm
    return Step(kind(axis, n.attr("epsilon", 1e-5)), n.operands)


@converts("LRN")
def _lrn(n: NodeView) -> Modelled:
    alpha, beta, bias = n.attr("alpha", 1e-4), n.attr("beta", 0.75), n.attr("bias", 1.0)
    return Step(nn.LRN(n.attr("size"), alpha, beta, bias), n.operands)


@converts("MatMul")
def _matmul(n: NodeView) -> Modelled:
    return Step(linalg.MatMul(), n.operands)


@converts("Gemm")
def _gemm(n: NodeView) -> Modelled:
    alpha, beta = n.attr("alpha", 1.0), n.attr("beta", 1.0)
    kind = linalg.Gemm(alpha, beta, bool(n.attr("transA", 0)), bool(n.attr("transB", 0)))
    return Step(kind, n.operands)


@converts("Attention")
def _attention(n: NodeView) -> Modelled | None:
    """softmax(q k^T scale + mask) v of rank 4 with as many heads everywhere, and nothing more."""
    q, k, v = n.shape(0), n.shape(1), n.shape(2)
    if q is None or k is None or v is None or not len(q) == len(k) == len(v) == 4:
        return None
    exotic = any(value for name, value in n.attrs.items() if name != "scale")
    more = any(n.has(i) for i in range(4, 7)) or not n.single
    heads = isinstance(q[1], int) and q[1] == k[1] == v[1] and q[0] == k[0] == v[0]
    masked = n.has(3) and (n.dtype(3) is not n.dtype(0) or n.rank(3) is None)
    if exotic or more or masked or not heads or not isinstance(q[3], int):
        return None
    return Step(linalg.Attention(n.attr("scale", q[3] ** -0.5)), n.operands[:4])
