"""Layers with weights, norms, pools, attention in PyTorch; the formulas are those of the kinds."""

from __future__ import annotations

import math
from typing import Any

from graphopt.errors import UnsupportedError
from graphopt.ops import excite, linalg, nn
from graphopt.passes.distill.library import Tensor, Torch
from graphopt.passes.distill.table import FUNCTIONS, torch_of


def spatial(t: Torch, name: str, axes: int) -> Any:
    """A function of torch.nn.functional for so many spatial axes.

    Raises:
        UnsupportedError: it has none for more than three.
    """
    if not 1 <= axes <= 3:
        raise UnsupportedError(f"distill can't train through {name} of {axes} spatial axes")
    return getattr(t.nn.functional, f"{name}{axes}d")


def padded(t: Torch, x: Tensor, pads: tuple[int, ...], value: float = 0.0) -> Tensor:
    """Pad the spatial axes; `pads` holds all begins, then all ends (negative: crop)."""
    if not any(pads):
        return x
    n = len(pads) // 2
    pairs = [p for i in reversed(range(n)) for p in (pads[i], pads[n + i])]  # the last axis first
    return t.nn.functional.pad(x, pairs, value=value)


def even(pads: tuple[int, ...]) -> bool:
    """Whether both sides of every axis are padded alike, by nothing negative."""
    n = len(pads) // 2
    return pads[:n] == pads[n:] and min(pads, default=0) >= 0


@torch_of(nn.Conv, trains=(1, 2))
def conv(t: Torch, kind: nn.Conv, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """Grouped convolution; padding that differs by side is an op of its own."""
    n, pads = len(kind.strides), kind.pads
    if not even(pads):
        x, pads = padded(t, x, pads), (0,) * 2 * n
    run = spatial(t, "conv", n)
    return run(x, w, b, kind.strides, pads[:n], kind.dilations, kind.group)


@torch_of(nn.ConvTranspose, trains=(1, 2))
def conv_transpose(
    t: Torch, kind: nn.ConvTranspose, x: Tensor, w: Tensor, b: Tensor | None
) -> Tensor:
    """Transposed convolution; what `pads` crop may differ by side, so it is cropped after."""
    n = len(kind.strides)
    run = spatial(t, "conv_transpose", n)
    y = run(x, w, b, kind.strides, 0, kind.output_padding, kind.group, kind.dilations)
    return padded(t, y, tuple(-p for p in kind.pads))


@torch_of(nn.MaxPool)
def max_pool(t: Torch, kind: nn.MaxPool, x: Tensor) -> Tensor:
    """The largest of each window; padding never wins."""
    x = padded(t, x, kind.pads, -math.inf)
    run = spatial(t, "max_pool", len(kind.kernel))
    return run(x, kind.kernel, kind.strides, 0, kind.dilations)


@torch_of(nn.AvgPool)
def avg_pool(t: Torch, kind: nn.AvgPool, x: Tensor) -> Tensor:
    """The mean over a padded window, over the share of it that counts."""
    mean = _window_mean(t, kind, padded(t, x, kind.pads))
    if not any(kind.pads) or kind.count_include_pad:
        return mean
    ones = t.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    return mean / _window_mean(t, kind, padded(t, ones, kind.pads))


def _window_mean(t: Torch, kind: nn.AvgPool, x: Tensor) -> Tensor:
    """The mean over windows inside x; PyTorch's pool lacks dilation, a convolution has it."""
    if all(d == 1 for d in kind.dilations):
        return spatial(t, "avg_pool", len(kind.kernel))(x, kind.kernel, kind.strides)
    channels = x.shape[1]
    w = t.full((channels, 1, *kind.kernel), 1 / math.prod(kind.kernel), dtype=x.dtype)
    run = spatial(t, "conv", len(kind.kernel))
    return run(x, w, None, kind.strides, 0, kind.dilations, channels)


@torch_of(nn.BatchNorm, trains=(1, 2))
def batch_norm(
    t: Torch, kind: nn.BatchNorm, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    """With the statistics that the model has: they stay as they are."""
    return t.nn.functional.batch_norm(x, mean, var, scale, bias, False, 0.0, kind.epsilon)


def _normal(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) over some axes."""
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + epsilon).sqrt()


@torch_of(nn.InstanceNorm, trains=(1, 2))
def instance_norm(
    t: Torch, kind: nn.InstanceNorm, x: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    """Each channel of each sample by itself."""
    shape = (-1, *(1,) * (x.ndim - 2))
    y = _normal(x, tuple(range(2, x.ndim)), kind.epsilon)
    return y * scale.reshape(shape) + bias.reshape(shape)


@torch_of(nn.LayerNorm, trains=(1, 2))
def layer_norm(
    t: Torch, kind: nn.LayerNorm, x: Tensor, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Over the axes from `axis` on."""
    y = _normal(x, tuple(range(kind.axis, 0)), kind.epsilon) * scale
    return y if bias is None else y + bias


@torch_of(nn.RMSNorm, trains=(1,))
def rms_norm(t: Torch, kind: nn.RMSNorm, x: Tensor, scale: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) scale."""
    mean = x.square().mean(tuple(range(kind.axis, 0)), keepdim=True)
    return x / (mean + kind.epsilon).sqrt() * scale


@torch_of(nn.LRN)
def lrn(t: Torch, kind: nn.LRN, x: Tensor) -> Tensor:
    """x / (bias + alpha/size * sum of squares of the near channels)^beta."""
    before, channels = (kind.size - 1) // 2, x.shape[1]
    around = (0, 0) * (x.ndim - 2) + (before, kind.size - 1 - before)
    squares = t.nn.functional.pad(x.square(), around)
    total = sum(squares[:, i : i + channels] for i in range(kind.size))
    return x / (kind.bias + kind.alpha / kind.size * total) ** kind.beta


@torch_of(nn.Softmax)
def softmax(t: Torch, kind: nn.Softmax, x: Tensor) -> Tensor:
    """e^x / sum(e^x)."""
    return t.softmax(x, kind.axis)


@torch_of(nn.LogSoftmax)
def log_softmax(t: Torch, kind: nn.LogSoftmax, x: Tensor) -> Tensor:
    """x - ln(sum(e^x))."""
    return t.log_softmax(x, kind.axis)


@torch_of(linalg.MatMul, trains=(0, 1))
def matmul(t: Torch, kind: linalg.MatMul, a: Tensor, b: Tensor) -> Tensor:
    """The matrix product."""
    return t.matmul(a, b)


@torch_of(linalg.Gemm, trains=(0, 1, 2))
def gemm(t: Torch, kind: linalg.Gemm, a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
    """alpha op(a) op(b) + beta c."""
    y = t.matmul(a.T if kind.trans_a else a, b.T if kind.trans_b else b)
    y = y if kind.alpha == 1 else y * kind.alpha
    return y if c is None else y + (c if kind.beta == 1 else c * kind.beta)


@torch_of(linalg.Attention)
def attention(
    t: Torch, kind: linalg.Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> Tensor:
    """softmax(q k^T scale + mask) v."""
    scores = t.matmul(q * kind.scale, k.transpose(-1, -2))
    weights = t.softmax(scores if mask is None else scores + mask, -1)
    if kind.rounded:
        weights = weights.to(t.bfloat16).to(v.dtype)
    return t.matmul(weights, v)


@torch_of(excite.SqueezeExcite, trains=(1, 2, 3, 4))
def squeeze_excite(
    t: Torch, kind: excite.SqueezeExcite, x: Tensor, w1: Tensor, w2: Tensor,
    b1: Tensor | None, b2: Tensor | None,
) -> Tensor:  # fmt: skip
    """gate(w2 activation(w1 mean(x) + b1) + b2)."""
    y = x.mean(tuple(range(2, x.ndim)))
    for w, b, function in zip((w1, w2), (b1, b2), kind.functions(), strict=True):
        y = t.nn.functional.linear(y, w.reshape(w.shape[:2]), b)
        y = FUNCTIONS[type(function)](t, function, y)
    return y.reshape(*y.shape, *(1,) * (x.ndim - 2))
