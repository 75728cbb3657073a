"""Chains of convolutions that one kernel computes: a depthwise one, and the 1x1 around it. No TVM.

    expand: 1x1 -> filter: depthwise K x K -> project: 1x1

An inverted residual (arXiv 1801.04381) is all three, a depthwise separable convolution the last
two; of a block with squeeze and excitation the first two can be one kernel. Element-wise ops may
follow each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graphopt.ir.builtin import Const, Return
from graphopt.ir.core import Op, Value
from graphopt.ir.layout import physical_shape
from graphopt.ir.types import DType
from graphopt.ops.elementwise import Cast, Elementwise
from graphopt.ops.quant import Dequantize
from graphopt.targets.machine import Machine
from graphopt.targets.roofline import described
from graphopt.targets.tvm.legal import depthwise, is_anchor

FAMILY = "conv_chain"


@dataclass(frozen=True)
class Chain:
    """The convolutions of a chain; at least one of the outer two is there."""

    expand: Op | None
    filter: Op
    project: Op | None

    @property
    def convolutions(self) -> list[Op]:
        """Those that are there, in order."""
        return [op for op in (self.expand, self.filter, self.project) if op]


def chain_of(ops: Iterable[Op]) -> Chain | None:
    """The chain that a region's ops are; None if they aren't one that a kernel computes."""
    every = [op for op in ops if not isinstance(op.kind, Const | Return)]
    anchors = [op for op in every if is_anchor(op)]
    if not every or anchors[:1] != every[:1] or not in_line(every) or not all(map(whole, every)):
        return None
    if not 2 <= len(anchors) <= 3 or any(op.kind.name != "conv" for op in anchors):
        return None
    at = next((i for i, op in enumerate(anchors[:2]) if depthwise(op)), None)
    if at is None or (at == 0 and len(anchors) == 3):
        return None
    before, after = anchors[:at], anchors[at + 1 :]
    if not all(_blocked(op) for op in anchors) or not all(map(_pointwise, (*before, *after))):
        return None
    if not _sees_image(anchors[at]):
        return None
    if any(b.operand(0).type != a.result.type for a, b in itertools.pairwise(anchors)):
        return None
    return Chain(before[0] if before else None, anchors[at], after[0] if after else None)


def whole(op: Op) -> bool:
    """Whether an op is in float32, and reads nothing that its kernel would have to widen first."""
    makers = (v.op.kind for v in op.operands if v and v.op)
    floats = all(r.tensor.dtype is DType.f32 for r in op.results)
    return floats and not any(isinstance(kind, Cast | Dequantize) for kind in makers)


def in_line(ops: list[Op]) -> bool:
    """Whether each op is an anchor or element-wise, and each anchor reads the op before it."""
    return all(
        b.operand(0) is a.result if is_anchor(b) else isinstance(b.kind, Elementwise)
        for a, b in itertools.pairwise(ops)
    )


def _pointwise(op: Op) -> bool:
    """Whether a convolution is a product at each pixel."""
    kind: Any = op.kind
    shape = op.operand(1).tensor.static or (0, 0, 0)
    ones = all(d == 1 for d in (*shape[2:], *kind.strides))
    return ones and kind.group == 1 and not any(kind.pads)


def _sees_image(op: Op) -> bool:
    """Whether no window of a convolution lies in the padding alone, at any side."""
    kind: Any = op.kind
    window = zip(sizes_of(op.operand(1))[2:] * 2, kind.dilations * 2, kind.pads, strict=True)
    return all(pad <= (k - 1) * d for k, d, pad in window)


def _blocked(op: Op) -> bool:
    """Whether an image convolution's operands are stored as kernels want them."""
    x, w, y = (v.tensor for v in (op.operand(0), op.operand(1), op.result))
    if any(t.dtype is not DType.f32 or t.static is None or len(t.static) != 4 for t in (x, w, y)):
        return False
    block = block_of(op.result)
    weights = f"Abcd{block}a" if depthwise(op) else f"ABcd{block}b{block}a"
    return bool(block) and x.layout == y.layout and w.layout == weights


def block_of(value: Value) -> int:
    """The channels of a block; 0 where a value isn't an image stored in blocks."""
    tag = value.tensor.layout
    size = tag.removeprefix("aBcd").removesuffix("b")
    return int(size) if tag == f"aBcd{size}b" and size.isdigit() else 0


@dataclass(frozen=True)
class Sizes:
    """Sizes of a chain.

    n images; channels of the operand, between, of the result; rows and columns of the filter's
    operand and result; the filter's window.
    """

    n: int
    ins: int
    inner: int
    outs: int
    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, ...]
    dilations: tuple[int, int]

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns of the operand that an element of the result sees."""
        down, across = ((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        return down, across

    @property
    def kept(self) -> int:
        """Rows of the filter's operand that a buffer keeps: a power of two, to count round."""
        return 1 << (self.reach[0] - 1).bit_length()


def sizes(chain: Chain) -> Sizes:
    """Read the sizes off the convolutions."""
    kind: Any = chain.filter.kind
    first, last = chain.convolutions[0], chain.convolutions[-1]
    n, ins, *_ = sizes_of(first.operand(0))
    _, inner, *size = sizes_of(chain.filter.operand(0))
    _, _, *out = sizes_of(chain.filter.result)
    window = sizes_of(chain.filter.operand(1))[2:]
    return Sizes(n, ins, inner, sizes_of(last.result)[1], (size[0], size[1]), (out[0], out[1]),
                 (window[0], window[1]), kind.strides, kind.pads, kind.dilations)  # fmt: skip


def nbytes(value: Value) -> int:
    """Bytes of a value as it is stored."""
    return 4 * math.prod(physical_shape(sizes_of(value), value.tensor.layout))


def sizes_of(value: Value) -> tuple[int, ...]:
    """A value's static shape."""
    return value.tensor.static or ()


STREAMED = 20e9  # bytes a second, of weights that nothing fetched ahead
REACHED = 0.9  # of a machine's peak, by products
WORTH = 0.03  # of the products' time: a smaller gain is within the error of the estimate
TURNS = 3, 2, 1  # blocks of channels that a kernel expands at once, where they divide all


@dataclass(frozen=True)
class Rates:
    """What one core does a second; what counts is how they compare.

    flops: operations of products; near: bytes from and to the second cache; far: the same of what
    doesn't fit there, or wasn't there before.
    """

    flops: float = 160e9
    near: float = 120e9
    far: float = 50e9


def rates(machine: Machine) -> Rates:
    """Those measured on a machine; else those of a server with AVX-512."""
    if not machine.bandwidth:
        return Rates()
    roof = described(machine)
    near, far = (roof.bytes_a_second(n) for n in (machine.l2_bytes // 2, 4 * machine.l2_bytes))
    return Rates(REACHED * roof.peak("f32"), near, far)


@dataclass(frozen=True)
class Plan:
    """How a chain is computed: in bands of `rows` rows of the filter's result.

    gain: seconds that it saves on one thread, below 0 where it loses; tasks: parts that threads can
    share; scratch: bytes of a thread's buffers.
    """

    rows: int
    gain: float
    tasks: int
    scratch: int


def plan(chain: Chain, machine: Machine, turn: int) -> Plan:
    """The bands that lose least, of those whose scratch fits and that feed all cores.

    `turn` is how many blocks of channels are expanded at once.
    """
    s, block = sizes(chain), block_of(chain.filter.result)
    shared = 1 if chain.project else -(-s.inner // block) // turn  # independent parts of a band
    heights = {-(-s.out[0] // bands) for bands in range(1, s.out[0] + 1)}
    tasks = {rows: s.n * shared * -(-s.out[0] // rows) for rows in heights}
    enough = [r for r in heights if tasks[r] >= min(machine.cores, max(tasks.values()))]
    least = min(_scratch(chain, s, r, turn) for r in enough)
    most = max(least, machine.l2_bytes // 2)
    fitting = [r for r in enough if _scratch(chain, s, r, turn) <= most]
    lost, rows = min((_lost(chain, s, r, turn, rates(machine)), -r) for r in fitting)
    return Plan(-rows, _saved(chain, machine) - lost, tasks[-rows], _scratch(chain, s, -rows, turn))


def _scratch(chain: Chain, s: Sizes, rows: int, turn: int) -> int:
    """Bytes of a band's buffers: some rows that the filter sees, and its result."""
    block = block_of(chain.filter.result)
    across = (s.out[1] - 1) * s.strides[1] + s.reach[1]
    seen = turn * s.kept * across if copies(chain, s) else 0
    return 4 * block * (seen + (-(-s.inner // block) * rows * s.out[1] if chain.project else 0))


def copies(chain: Chain, s: Sizes) -> bool:
    """Whether the rows that the filter sees are made in a buffer, not read in place."""
    return chain.expand is not None or any(s.pads)


def macs(chain: Chain, s: Sizes) -> tuple[int, int]:
    """Multiply-adds of the products before and after the filter."""
    before = s.n * s.ins * s.inner * s.size[0] * s.size[1] if chain.expand else 0
    after = s.n * s.inner * s.outs * s.out[0] * s.out[1] if chain.project else 0
    return before, after


def _saved(chain: Chain, machine: Machine) -> float:
    """Seconds that kernels of their own spend on writing and reading what is between them."""
    found, at = 0.0, rates(machine)
    for op in chain.convolutions[1:]:
        passed = nbytes(op.operand(0))
        found += 2 * passed / (at.near if passed <= machine.l2_bytes // 2 else at.far)
    return found


def _lost(chain: Chain, s: Sizes, rows: int, turn: int, at: Rates) -> float:
    """Seconds for rows that two bands make, for scratch, and for weights once a band."""
    bands = -(-s.out[0] // rows)
    twice = (bands - 1) * max(s.reach[0] - s.strides[0], 0) / s.size[0]
    made = 2 * macs(chain, s)[0] / at.flops
    if not chain.expand and copies(chain, s):
        made = 2 * nbytes(chain.filter.operand(0)) / at.near
    weights = sum(nbytes(op.operand(1)) for op in (chain.expand, chain.project) if op)
    passes = weights / STREAMED + (s.n * bands - 1) * weights / at.near
    return twice * made + 2 * _scratch(chain, s, rows, turn) / at.far + passes


def pays(chain: Chain, machine: Machine) -> bool:
    """Whether one kernel is sooner done than one a convolution, on as many cores as there are."""
    s = sizes(chain)
    blocks = -(-s.inner // block_of(chain.filter.result))
    found = plan(chain, machine, next(d for d in TURNS if blocks % d == 0))
    least = WORTH * 2 * sum(macs(chain, s)) / rates(machine).flops
    fits = found.scratch <= machine.l2_bytes // 2
    return found.gain > least and found.tasks >= machine.cores and fits
