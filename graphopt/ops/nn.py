"""Convolution, pooling and normalisation. Layout N, C, spatial...; any number of spatial axes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import UNKNOWN, Array, Dim, DType, TensorType, ValueType, add, mul
from graphopt.ops.common import OneTensor, wide
from graphopt.ops.shapes import Ints, agree, check_windows, normal_axis, tensors, window


def _pad(x: Array, pads: Ints, value: float) -> Array:
    """Pad the spatial axes; `pads` holds all begins, then all ends (negative: crop)."""
    n = len(pads) // 2
    widths = [(0, 0), (0, 0), *((max(pads[i], 0), max(pads[n + i], 0)) for i in range(n))]
    return np.pad(x, widths, constant_values=value)


def _windows(x: Array, kernel: Ints, strides: Ints, dilations: Ints) -> Array:
    """View [N, C, out..., kernel...] of sliding windows."""
    axes = tuple(range(2, x.ndim))
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    if any(s < r for s, r in zip(x.shape[2:], reach, strict=True)):
        sizes = zip(x.shape[2:], reach, strides, strict=True)
        out = (max((s - r) // step + 1, 0) for s, r, step in sizes)
        return np.zeros((*x.shape[:2], *out, *kernel), x.dtype)
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axes)
    steps = (slice(None),) * 2 + tuple(slice(None, None, s) for s in strides)
    return view[steps + tuple(slice(None, None, d) for d in dilations)]


@dataclass(frozen=True)
class Conv(OpKind, name="conv"):
    """Grouped N-D convolution (ONNX Conv).

    x: [N, C, spatial...]; w: [M, C/group, kernel...]; b: [M]. `pads`: begins, then ends.
    """

    strides: Ints
    pads: Ints
    dilations: Ints
    group: int = 1
    operands = ("x", "w", "b?")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """[N, M, windows...]."""
        x, w = tensors(*types)[:2]
        if x.shape is None or w.shape is None:
            return (TensorType(x.dtype, None),)
        n = len(self.strides)
        if len(x.shape) != n + 2 or len(w.shape) != n + 2:
            raise ValueError(f"x {x} and w {w} don't have {n} spatial axes")
        check_windows(n, self.strides, self.pads, self.dilations)
        if self.group < 1:
            raise ValueError(f"group is {self.group}")
        agree(mul(w.shape[1], self.group), x.shape[1], "channels of x and w")
        if isinstance(w.shape[0], int) and w.shape[0] % self.group:
            raise ValueError(f"{w.shape[0]} output channels don't split into {self.group} groups")
        spatial = tuple(
            window(x.shape[i + 2], w.shape[i + 2], self.strides[i],
                   self.pads[i] + self.pads[n + i], self.dilations[i])
            for i in range(n)
        )  # fmt: skip
        return (TensorType(x.dtype, (x.shape[0], w.shape[0], *spatial)),)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """A matrix product over unfolded windows, group by group."""
        x, w, b = arrays
        assert x is not None and w is not None
        kind, x, w = x.dtype, wide(x), wide(w)
        views = _windows(_pad(x, self.pads, 0), w.shape[2:], self.strides, self.dilations)
        n, spatial, g = len(self.strides), views.shape[2 : x.ndim], self.group
        order = (0, *range(2, 2 + n), 1, *range(2 + n, 2 + 2 * n))
        count = x.shape[0] * math.prod(spatial)
        outs: list[Array] = []
        for vs, ws in zip(np.split(views, g, axis=1), np.split(w, g), strict=True):
            rows = vs.transpose(order).reshape(count, math.prod(ws.shape[1:]))
            outs.append(rows @ ws.reshape(len(ws), -1).T)
        y = np.concatenate(outs, axis=1).reshape(x.shape[0], *spatial, len(w))
        y = np.moveaxis(y if b is None else y + wide(b), -1, 1)
        return (np.ascontiguousarray(y, dtype=kind),)


@dataclass(frozen=True)
class ConvTranspose(OpKind, name="conv_transpose"):
    """Transposed convolution (ONNX ConvTranspose). w: [C, M/group, kernel...]."""

    strides: Ints
    pads: Ints
    dilations: Ints
    output_padding: Ints
    group: int = 1
    operands = ("x", "w", "b?")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """Spatial size (in-1)*stride + output_padding + (k-1)*dilation + 1 - pads."""
        x, w = tensors(*types)[:2]
        if x.shape is None or w.shape is None:
            return (TensorType(x.dtype, None),)
        n = len(self.strides)
        if len(x.shape) != n + 2 or len(w.shape) != n + 2:
            raise ValueError(f"x {x} and w {w} don't have {n} spatial axes")
        check_windows(n, self.strides, self.pads, self.dilations)
        if len(self.output_padding) != n or self.group < 1:
            raise ValueError(f"output padding {self.output_padding} or group {self.group}")
        agree(w.shape[0], x.shape[1], "channels of x and w")
        sizes = tuple(self._size(i, x.shape[i + 2], w.shape[i + 2]) for i in range(n))
        return (TensorType(x.dtype, (x.shape[0], mul(w.shape[1], self.group), *sizes)),)

    def _size(self, i: int, size: Dim, kernel: Dim) -> Dim:
        if not isinstance(kernel, int):
            return UNKNOWN
        n = len(self.strides)
        rest = self.output_padding[i] + (kernel - 1) * self.dilations[i] + 1
        rest -= self.pads[i] + self.pads[n + i]
        return add(mul(add(size, -1), self.strides[i]), rest)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Scatter-add of every kernel tap."""
        x, w, b = arrays
        assert x is not None and w is not None
        kind, x, w = x.dtype, wide(x), wide(w)
        n, g = len(self.strides), self.group
        full = [(s - 1) * st + (k - 1) * d + 1 + o for s, st, k, d, o in
                zip(x.shape[2:], self.strides, w.shape[2:], self.dilations,
                    self.output_padding, strict=True)]  # fmt: skip
        y = np.zeros((x.shape[0], w.shape[1] * g, *full), x.dtype)
        parts = [(xs, ws) for xs, ws in zip(np.split(x, g, axis=1), np.split(w, g), strict=True)]
        for tap in itertools.product(*map(range, w.shape[2:])):
            at = tuple(
                slice(t * d, t * d + (s - 1) * st + 1, st)
                for t, d, s, st in zip(tap, self.dilations, x.shape[2:], self.strides, strict=True)
            )
            taps = [np.einsum("nc...,cm->nm...", xs, ws[(..., *tap)]) for xs, ws in parts]
            y[(slice(None), slice(None), *at)] += np.concatenate(taps, axis=1)
        crop = tuple(slice(self.pads[i], full[i] - self.pads[n + i]) for i in range(n))
        y = y[(slice(None), slice(None), *crop)]
        if b is not None:
            y = y + wide(b).reshape(-1, *(1,) * n)
        return (np.ascontiguousarray(y, dtype=kind),)


class Pool(OneTensor):
    """A window reduction; ceil_mode is expressed by padding where the model is read."""

    kernel: Ints
    strides: Ints
    pads: Ints
    dilations: Ints

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """[N, C, windows...]."""
        n = len(self.kernel)
        if len(shape) != n + 2:
            raise ValueError(f"x {x} doesn't have {n} spatial axes")
        check_windows(n, self.strides, self.pads, self.dilations)
        sizes = tuple(
            window(shape[i + 2], self.kernel[i], self.strides[i],
                   self.pads[i] + self.pads[n + i], self.dilations[i])
            for i in range(n)
        )  # fmt: skip
        return (*shape[:2], *sizes)


@dataclass(frozen=True)
class MaxPool(Pool, name="max_pool"):
    """The largest of each window; padding never wins."""

    kernel: Ints
    strides: Ints
    pads: Ints
    dilations: Ints

    def compute(self, x: Array) -> Array:
        """The maximum over the windows."""
        low = -np.inf if DType.of(x).is_float else np.iinfo(x.dtype).min
        views = _windows(_pad(x, self.pads, low), self.kernel, self.strides, self.dilations)
        return views.max(axis=tuple(range(x.ndim, views.ndim))).astype(x.dtype)


@dataclass(frozen=True)
class AvgPool(Pool, name="avg_pool"):
    """The mean of each window, over its real elements or (count_include_pad) over all of it."""

    kernel: Ints
    strides: Ints
    pads: Ints
    dilations: Ints
    count_include_pad: bool = False

    def compute(self, x: Array) -> Array:
        """Sum over count."""
        exact = wide(x)
        window_axes = tuple(range(x.ndim, x.ndim + len(self.kernel)))
        total = self._views(exact, 0).sum(axis=window_axes)
        ones = np.ones((1, 1, *x.shape[2:]), exact.dtype)
        count = self._views(ones, int(self.count_include_pad)).sum(axis=window_axes)
        return (total / count).astype(x.dtype)

    def _views(self, x: Array, fill: int) -> Array:
        return _windows(_pad(x, self.pads, fill), self.kernel, self.strides, self.dilations)


@dataclass(frozen=True)
class BatchNorm(OpKind, name="batch_norm"):
    """(x - mean) * scale / sqrt(var + epsilon) + bias, by channel (arXiv 1502.03167), inference."""

    epsilon: float = 1e-5
    operands = ("x", "scale", "bias", "mean", "var")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The type of x."""
        x, *params = tensors(*types)
        for p in params:
            if p.shape is not None and len(p.shape) != 1:
                raise ValueError(f"a statistic is a number a channel, not {p}")
            if p.shape is not None and x.shape is not None and len(x.shape) > 1:
                agree(p.shape[0], x.shape[1], "channels of x and a statistic")
        return (x,)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formula."""
        x, *params = (a for a in arrays if a is not None)
        shape = (-1, *(1,) * (x.ndim - 2))
        scale, bias, mean, var = (wide(p).reshape(shape) for p in params)
        y = (wide(x) - mean) * (scale / np.sqrt(var + np.asarray(self.epsilon, var.dtype))) + bias
        return (y.astype(x.dtype),)


@dataclass(frozen=True)
class InstanceNorm(OpKind, name="instance_norm"):
    """Normalise each channel of each sample over its spatial axes (arXiv 1607.08022)."""

    epsilon: float = 1e-5
    operands = ("x", "scale", "bias")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The type of x."""
        return (tensors(*types)[0],)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formula."""
        x, scale, bias = (a for a in arrays if a is not None)
        exact, axes = wide(x), tuple(range(2, x.ndim))
        centred = exact - exact.mean(axis=axes, keepdims=True)
        var = (centred**2).mean(axis=axes, keepdims=True)
        shape = (-1, *(1,) * (x.ndim - 2))
        y = centred / np.sqrt(var + np.asarray(self.epsilon, var.dtype))
        return ((y * wide(scale).reshape(shape) + wide(bias).reshape(shape)).astype(x.dtype),)


@dataclass(frozen=True)
class LayerNorm(OpKind, name="layer_norm"):
    """Normalise over the axes from `axis` on (arXiv 1607.06450); axis counts from the end."""

    axis: int = -1
    epsilon: float = 1e-5
    operands = ("x", "scale", "bias?")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The type of x."""
        return (tensors(*types)[0],)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formula, in float32 or wider."""
        x, scale, bias = arrays
        assert x is not None and scale is not None
        exact, axes = wide(x), tuple(range(self.axis, 0))
        centred = exact - exact.mean(axis=axes, keepdims=True)
        var = (centred * centred).mean(axis=axes, keepdims=True)
        y = centred / np.sqrt(var + np.asarray(self.epsilon, var.dtype)) * wide(scale)
        return ((y if bias is None else y + wide(bias)).astype(x.dtype),)


@dataclass(frozen=True)
class RMSNorm(OpKind, name="rms_norm"):
    """x / sqrt(mean(x^2) + epsilon) * scale over the axes from `axis` on (arXiv 1910.07467)."""

    axis: int = -1
    epsilon: float = 1e-5
    operands = ("x", "scale")

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The type of x."""
        return (tensors(*types)[0],)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """The formula, in float32 or wider."""
        x, scale = arrays
        assert x is not None and scale is not None
        exact = wide(x)
        mean = (exact * exact).mean(axis=tuple(range(self.axis, 0)), keepdims=True)
        y = exact / np.sqrt(mean + np.asarray(self.epsilon, mean.dtype))
        return ((y * wide(scale)).astype(x.dtype),)


@dataclass(frozen=True)
class LRN(OneTensor, name="lrn"):
    """Local response normalisation across channels (AlexNet; ONNX LRN)."""

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The shape of x, which has channels."""
        if len(shape) < 2:
            raise ValueError(f"x {x} has no axis of channels")
        return shape

    def compute(self, x: Array) -> Array:
        """x / (bias + alpha/size * sum of squares of the near channels)^beta."""
        exact = wide(x)
        before = (self.size - 1) // 2
        around = [(0, 0), (before, self.size - 1 - before)] + [(0, 0)] * (x.ndim - 2)
        near = np.lib.stride_tricks.sliding_window_view(np.pad(exact**2, around), self.size, 1)
        total = near.sum(axis=-1)
        return (exact / (self.bias + self.alpha / self.size * total) ** self.beta).astype(x.dtype)


class AlongAxis(OneTensor):
    """A function of floats along one axis, given what is shifted by the maximum along it."""

    axis: int

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """The type of x, which holds floats."""
        (x,) = tensors(*types)
        if not x.dtype.is_float:
            raise ValueError(f"x is {x}, not of floats")
        return super().infer(x)

    def resize(self, x: TensorType, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """The shape of x, which has the axis."""
        normal_axis(self.axis, len(shape))
        return shape

    def compute(self, x: Array) -> Array:
        """`shifted` of x less its maximum along the axis, 16-bit floats in float32."""
        exact = wide(x)
        with np.errstate(all="ignore"):
            low = exact - exact.max(axis=self.axis, keepdims=True, initial=-np.inf)
            return self.shifted(low).astype(x.dtype)

    def shifted(self, x: Array) -> Array:
        """The function of x, of which no element is above 0."""
        raise NotImplementedError


@dataclass(frozen=True)
class Softmax(AlongAxis, name="softmax"):
    """e^x / sum(e^x) along one axis."""

    axis: int = -1

    def shifted(self, x: Array) -> Array:
        """The quotient."""
        e = np.exp(x)
        return e / e.sum(axis=self.axis, keepdims=True)


@dataclass(frozen=True)
class LogSoftmax(AlongAxis, name="log_softmax"):
    """x - ln(sum(e^x)) along one axis."""

    axis: int = -1

    def shifted(self, x: Array) -> Array:
        """The difference."""
        return x - np.log(np.exp(x).sum(axis=self.axis, keepdims=True))
