"""The recurrence of LSTM and GRU layers, apart from their products with the input.

A layer is a product of the whole sequence by the input weights, which any matrix kernel computes,
and a scan over time with the hidden weights, which is what these kinds are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.core import OpKind
from graphopt.ir.types import Array, TensorType, ValueType
from graphopt.lazy import Lazy
from graphopt.ops.shapes import agree, tensors

_special: Any = Lazy("scipy.special")


class Scan(OpKind):
    """A recurrence over time: `reverse` runs from the last step to the first.

    xw: [T, B, D, G, H], the input's products and all biases that don't depend on the state, by
    direction (this one is `part`) and gate; r: [G, H, H], hidden weights by gate, output unit,
    input unit; h0 (and c0): [B, H], absent for zeros; scale: [G, H], by which sums over r are
    multiplied, absent for 1. Results: y [T, B, H] and the last state(s) [B, H].
    """

    reverse: bool
    part: int
    gates = 0
    states = 1

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """See the class."""
        xw, r, *states = tensors(*types)
        if xw.shape is None or r.shape is None:
            return (TensorType(xw.dtype, None),) * (1 + self.states)
        if len(xw.shape) != 5 or len(r.shape) != 3:
            raise ValueError(f"{xw} and {r} aren't a sequence by gates and their weights")
        t, b, parts, g, h = xw.shape
        if isinstance(parts, int) and not 0 <= self.part < parts:
            raise ValueError(f"direction {self.part} of {parts}")
        agree(g, self.gates, "gates of xw")
        agree(r.shape[0], self.gates, "gates of r")
        agree(r.shape[1], h, "hidden units of xw and r")
        agree(r.shape[2], h, "hidden units of r")
        last = TensorType(xw.dtype, (b, h))
        for s in states:
            if s.shape is not None and len(s.shape) == 2:
                agree(s.shape[1], h, "hidden units of a state")
        return (TensorType(xw.dtype, (t, b, h)), *(last,) * self.states)

    def order(self, steps: int) -> Iterator[int]:
        """The steps as they are taken."""
        return iter(range(steps - 1, -1, -1) if self.reverse else range(steps))


def _scaled(r: Array, scale: Array | None) -> Array:
    """The hidden weights that r and its scale stand for."""
    return r if scale is None else r * scale[:, :, None]


def _state(given: Array | None, xw: Array) -> Array:
    return np.zeros((xw.shape[1], xw.shape[3]), xw.dtype) if given is None else given


@dataclass(frozen=True)
class LSTMScan(Scan, name="lstm_scan"):
    """i, o, f = sigmoid(xw + h r^T); c = f c + i tanh(xw_c + h r_c^T); h = o tanh(c).

    Gates are in ONNX's order: input, output, forget, cell (Hochreiter and Schmidhuber 1997, with
    the forget gate of Gers et al. 2000; ONNX LSTM).
    """

    reverse: bool = False
    part: int = 0
    operands = ("xw", "r", "h0?", "c0?", "scale?")
    gates = 4
    states = 2

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """See the class; the scale isn't a state."""
        return super().infer(*types[:4])

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Step by step."""
        xw, r, h0, c0, scale = (*arrays, None, None, None)[:5]
        assert xw is not None and r is not None
        r = _scaled(r, scale)
        xw = xw[:, :, self.part]
        h, c = _state(h0, xw), _state(c0, xw)
        y = np.zeros((*xw.shape[:2], xw.shape[3]), xw.dtype)
        for t in self.order(len(xw)):
            gates = xw[t] + np.einsum("bk,ghk->bgh", h, r)
            i, o, f = (_special.expit(gates[:, j]) for j in range(3))
            c = f * c + i * np.tanh(gates[:, 3])
            h = y[t] = o * np.tanh(c)
        return y, np.asarray(h, xw.dtype), np.asarray(c, xw.dtype)


@dataclass(frozen=True)
class GRUScan(Scan, name="gru_scan"):
    """z, r = sigmoid(xw + h r^T); n = tanh(xw_n + r (h r_n^T + b)); h = (1 - z) n + z h.

    Gates are in ONNX's order: update, reset, new. b: [H] is the new gate's bias inside the reset;
    without `linear_before_reset` the reset scales h itself: n = tanh(xw_n + (r h) r_n^T), and b is
    part of xw (Cho et al., arXiv 1406.1078; ONNX GRU).
    """

    reverse: bool = False
    part: int = 0
    linear_before_reset: bool = True
    operands = ("xw", "r", "b?", "h0?", "scale?")
    gates = 3
    states = 1

    def infer(self, *types: ValueType | None) -> tuple[ValueType, ...]:
        """See the class; neither b nor the scale is a state."""
        return super().infer(*types[:2], *types[3:4])

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        """Step by step."""
        xw, r, b, h0, scale = (*arrays, None, None, None)[:5]
        assert xw is not None and r is not None
        r = _scaled(r, scale)
        xw = xw[:, :, self.part]
        h = _state(h0, xw)
        y = np.zeros((*xw.shape[:2], xw.shape[3]), xw.dtype)
        for t in self.order(len(xw)):
            z, reset = (_special.expit(xw[t][:, j] + h @ r[j].T) for j in range(2))
            if self.linear_before_reset:
                inner = h @ r[2].T + (0 if b is None else b)
                n = np.tanh(xw[t][:, 2] + reset * inner)
            else:
                n = np.tanh(xw[t][:, 2] + (reset * h) @ r[2].T)
            h = y[t] = (1 - z) * n + z * h
        return y, np.asarray(h, xw.dtype)
