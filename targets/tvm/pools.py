"""A convolution and the pool or global mean after it, as one kernel computes them. No TVM.

    y = pool(act(conv(x, w) + b))

Element-wise ops may follow both. What is between them isn't stored: of a window's rows as many are
kept as it sees, of a mean one; minimal filtering pools its own tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.ir.builtin import Const, Return
from graphopt.ir.core import Op
from graphopt.ops.winograd import TILE
from graphopt.targets.machine import Machine
from graphopt.targets.tvm.chains import (
    STREAMED,
    WORTH,
    block_of,
    in_line,
    nbytes,
    rates,
    sizes_of,
    whole,
)
from graphopt.targets.tvm.legal import is_anchor

FAMILY = "conv_pool"
TILES = "winograd"  # the family that pools its own tiles
AHEAD = 1 << 18  # bytes of weights, above which a convolution's own kernel fetches them ahead


@dataclass(frozen=True)
class Window:
    """What a result sees of the rows and columns of the convolution's; `out` results a side."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    out: tuple[int, int]

    @property
    def kept(self) -> int:
        """Rows that a buffer keeps: a power of two, to count round."""
        return 1 << (self.kernel[0] - 1).bit_length()

    @property
    def again(self) -> int:
        """Rows that two neighbouring results see."""
        return max(self.kernel[0] - self.strides[0], 0)


@dataclass(frozen=True)
class Pooled:
    """A convolution, direct or by minimal filtering, and its pool: windows, or one mean of all."""

    conv: Op
    pool: Op
    window: Window
    mean: bool

    @property
    def largest(self) -> bool:
        """Whether windows give their largest element."""
        return self.pool.kind.name == "max_pool"

    @property
    def between(self) -> tuple[int, int]:
        """Rows and columns of what the pool reads."""
        rows, columns = sizes_of(self.pool.operand(0))[2:]
        return rows, columns


def pooled_of(ops: Iterable[Op]) -> Pooled | None:
    """What a region's ops are; None if they aren't a convolution and a pool of a kernel's."""
    every = [op for op in ops if not isinstance(op.kind, Const | Return)]
    anchors = [op for op in every if is_anchor(op)]
    if len(anchors) != 2 or anchors[0] is not every[0] or not in_line(every):
        return None
    conv, pool = anchors
    if not all(map(whole, every)) or not block_of(conv.result):
        return None
    if pool.operand(0).type != conv.result.type or not _plain(conv):
        return None
    window = _window(pool)
    if window is None:
        return None
    if conv.kind.name == "conv_winograd" and not (_halves(pool, window) and _inside(every, conv)):
        return None
    return Pooled(conv, pool, window, window.out == (1, 1) and pool.kind.name != "max_pool")


def _plain(conv: Op) -> bool:
    """Whether a convolution of images is in the layouts of kernels, and in one group."""
    if conv.kind.name == "conv_winograd":
        return True
    kind: Any = conv.kind
    if conv.kind.name != "conv" or kind.group != 1 or len(sizes_of(conv.result)) != 4:
        return False
    block, x = block_of(conv.result), conv.operand(0).tensor
    inner = block_of(conv.operand(0))
    tags = {0: f"Abcd{block}a", block: f"ABcd{block}b{block}a"}
    return (inner > 0 or not x.layout) and conv.operand(1).tensor.layout == tags.get(inner)


def _window(pool: Op) -> Window | None:
    """The windows of a pool; None where they aren't all alike."""
    kind: Any = pool.kind
    x, y = pool.operand(0).tensor, pool.result.tensor
    rows, columns = sizes_of(pool.operand(0))[2:]
    if kind.name == "reduce_mean":
        full = sizes_of(pool.operand(0))[1] % block_of(pool.operand(0)) == 0
        one = Window((rows, columns), (1, 1), (0, 0), (1, 1))
        return one if kind.axes == (2, 3) and (full or y.layout == x.layout) else None
    if kind.name not in ("max_pool", "avg_pool") or y.layout != x.layout:
        return None
    out, kernel = sizes_of(pool.result)[2:], kind.kernel
    ends = [(o - 1) * s + k for o, s, k in zip(out, kind.strides, kernel, strict=True)]
    padded = any(kind.pads) or ends[0] > rows or ends[1] > columns
    if any(d != 1 for d in kind.dilations) or (padded and kind.name == "avg_pool"):
        return None
    if any(p >= k for p, k in zip(kind.pads, kernel * 2, strict=True)):
        return None
    return Window(kernel, kind.strides, kind.pads[:2], (out[0], out[1]))


def _halves(pool: Op, window: Window) -> bool:
    """Whether windows of 2 x 2 lie side by side: then none crosses a tile of 4 x 4."""
    two = window.kernel == window.strides == (2, 2) and window.pads == (0, 0)
    sides = zip(window.out, sizes_of(pool.operand(0))[2:], strict=True)
    return two and pool.kind.name != "reduce_mean" and all(2 * o <= d for o, d in sides)


def _inside(every: Sequence[Op], conv: Op) -> bool:
    """Whether tiles fill the image, or no residual is read, which ends where the image does."""
    _, _, *pixels = sizes_of(conv.result)
    between = (op for op in every[1:] if op.result.type == conv.result.type)
    others = [v for op in between for v in op.operands if v and v.op not in every]
    return all(d % TILE == 0 for d in pixels) or all(
        len(sizes_of(v)) < 4 or math.prod(sizes_of(v)[2:]) == 1 for v in others
    )


def rows_of_bands(found: Pooled, machine: Machine) -> int:
    """Rows of results in a band: as many as feed all cores, so that few rows are computed twice."""
    n, height = sizes_of(found.conv.result)[0], found.window.out[0]
    bands = min(height, -(-machine.cores // n))
    return -(-height // bands)


def macs(found: Pooled) -> int:
    """Multiply-adds of the convolution."""
    w = sizes_of(found.conv.operand(1))
    return math.prod(sizes_of(found.conv.result)) * math.prod(w[1:])


def pays(found: Pooled, machine: Machine) -> bool:
    """Whether one kernel is sooner done than two, on as many cores as there are."""
    if found.conv.kind.name == "conv_winograd":  # pools its own tiles
        return True
    between, at = nbytes(found.pool.operand(0)), rates(machine)
    gain = 2 * between / (at.near if between <= machine.l2_bytes // 2 else at.far)
    weights = nbytes(found.conv.operand(1))
    n, outs = sizes_of(found.conv.result)[:2]
    if found.mean:
        tasks = n * -(-outs // block_of(found.conv.result))
        return weights <= AHEAD and tasks >= machine.cores
    bands = -(-found.window.out[0] // rows_of_bands(found, machine))
    seconds = 2 * macs(found) / at.flops
    twice = (bands - 1) * found.window.again / found.between[0] * seconds
    passes = weights / STREAMED + (n * bands - 1) * weights / at.near
    least = WORTH * seconds
    return n * bands >= machine.cores and weights <= AHEAD and gain > least + twice + passes
