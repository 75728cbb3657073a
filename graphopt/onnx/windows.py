"""The window attributes that convolutions and pools share: kernel, strides, pads, auto_pad."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.types import Dim
from graphopt.onnx.node import NodeView

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """A sliding window over spatial axes of the given sizes (None: the rank is unknown)."""

    kernel: Ints
    strides: Ints
    dilations: Ints
    given: Ints  # pads as the node says, begins then ends
    auto_pad: str
    sizes: tuple[Dim, ...] | None

    def reach(self, i: int) -> int:
        """The extent of the window along spatial axis i."""
        return (self.kernel[i] - 1) * self.dilations[i] + 1

    def pads(self, *, ceil: bool = False) -> Ints | None:
        """Explicit pads, auto_pad resolved, ceil_mode as end padding; None: can't be said."""
        pairs = [self._pair(i, ceil) for i in range(len(self.kernel))]
        known = [p for p in pairs if p is not None]
        if len(known) != len(pairs):
            return None
        return tuple(b for b, _ in known) + tuple(e for _, e in known)

    def _pair(self, i: int, ceil: bool) -> tuple[int, int] | None:
        if self.auto_pad == "VALID":
            begin = end = 0
        elif self.auto_pad == "NOTSET":
            begin, end = self.given[i], self.given[len(self.kernel) + i]
        else:
            return self._same(i)
        if not ceil or self.strides[i] == 1:
            return begin, end
        return self._overhang(i, begin, end)

    def _same(self, i: int) -> tuple[int, int] | None:
        """Pads for ceil(size / stride) windows; the odd one goes to the named side."""
        size, stride = self.sizes[i] if self.sizes else None, self.strides[i]
        if stride == 1:
            total = self.reach(i) - 1
        elif isinstance(size, int):
            total = max((-(-size // stride) - 1) * stride + self.reach(i) - size, 0)
        else:
            return None
        half = total // 2
        return (half, total - half) if self.auto_pad == "SAME_UPPER" else (total - half, half)

    def _overhang(self, i: int, begin: int, end: int) -> tuple[int, int] | None:
        """Pads that let the last, overhanging window in, unless it would start in the padding."""
        size, stride = self.sizes[i] if self.sizes else None, self.strides[i]
        if not isinstance(size, int):
            return None
        rest = size + begin + end - self.reach(i)
        if rest < 0:
            return None
        windows = -(-rest // stride) + 1
        if (windows - 1) * stride >= size + begin:
            windows -= 1
        return begin, end + max((windows - 1) * stride - rest, 0)


def read_window(n: NodeView, kernel: Ints, sizes: tuple[Dim, ...] | None) -> Window | None:
    """The window of a node; None where its attributes contradict one another."""
    axes = len(kernel)
    strides = n.attr("strides") or (1,) * axes
    dilations = n.attr("dilations") or (1,) * axes
    pads = n.attr("pads") or (0,) * (2 * axes)
    good = axes > 0 and len(strides) == len(dilations) == axes and len(pads) == 2 * axes
    wrong_rank = sizes is not None and len(sizes) != axes
    if not good or wrong_rank or min(*kernel, *strides, *dilations) < 1:
        return None
    auto_pad = n.attr("auto_pad", "NOTSET") or "NOTSET"
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        return None
    return Window(kernel, strides, dilations, pads, auto_pad, sizes)
