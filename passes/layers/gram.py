"""Gram matrices of what layers read on samples: all that least squares need to know of inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.core import Module, Op
from graphopt.ir.types import Array
from graphopt.passes.layers.unfold import columns, places, positions, rows
from graphopt.pipeline import Activations
from graphopt.portions import portions
from graphopt.rewrite import const

AT_ONCE = 512 << 20  # bytes of Gram matrices that one go over the samples fills
EACH = 8  # columns of unfolded inputs for each of a row's numbers
FEWEST = 4096  # of those
TOGETHER = 1024  # that are multiplied at once

Through = Callable[[Array], Array]


def _same(x: Array) -> Array:
    return x


@dataclass
class Gram:
    """Sums over the unfolded inputs of a layer, at places chosen by a seed.

    `op`: a convolution or product with constant weights; K numbers are in a row of them (see
    `unfold.rows`), in each group. `runs` of the model give the inputs; `through` is done to them.
    `products`: float32 [groups, K, K]; `sums`: float64 [groups, K]; `count`: columns seen. Both are
    of differences from `centre` (float32 [groups, K, 1]), the mean of the first run: what hardly
    varies about a large mean would be lost in the rounding of its squares.
    `waiting`: columns not yet in `products`: a few large products are faster than many small ones.
    """

    op: Op
    runs: int
    through: Through = _same
    count: int = 0
    products: Array = field(default_factory=lambda: np.zeros((), np.float32))
    sums: Array = field(default_factory=lambda: np.zeros(()))
    centre: Array | None = None
    waiting: list[Array] = field(default_factory=list[Array])
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, x: Array) -> None:
        """Take in what the layer reads in one run."""
        wanted = math.ceil(max(EACH * row_length(self.op), FEWEST) / self.runs)
        at = places(positions(self.op, x), wanted, self.random)
        taken = self.through(columns(self.op, x, at))
        if self.centre is None:
            self.centre = taken.mean(-1, np.float64, keepdims=True).astype(np.float32)
        with np.errstate(all="ignore"):
            taken = taken - self.centre
        self.count += len(at)
        self.sums = self.sums + taken.sum(-1, dtype=np.float64)
        self.waiting.append(taken)
        if sum(t.shape[-1] for t in self.waiting) >= TOGETHER:
            self._multiply()

    def _multiply(self) -> None:
        if self.waiting:
            taken = np.concatenate(self.waiting, -1)
            with np.errstate(all="ignore"):  # `covariances` looks at what came out
                self.products = self.products + taken @ taken.transpose(0, 2, 1)
            self.waiting.clear()

    def mean(self) -> Array:
        """E[x], float64 [groups, K]."""
        centre = 0.0 if self.centre is None else self.centre[..., 0].astype(np.float64)
        return centre + self._shift()

    def _shift(self) -> Array:
        """E[x] - centre, float64 [groups, K]."""
        return self.sums / max(self.count, 1)

    def moments(self) -> Iterator[Array]:
        """E[x x^T] of each group, float64 [K, K]."""
        for covariance, mean in zip(self.covariances(), self.mean(), strict=True):
            covariance += np.outer(mean, mean)
            yield covariance

    def covariances(self) -> Iterator[Array]:
        """E[x x^T] - E[x] E[x]^T of each group, float64 [K, K].

        Raises:
            InputError: they aren't finite.
        """
        self._multiply()
        if not np.isfinite(self.products).all():
            name = self.op.loc.nodes[0] if self.op.loc.nodes else self.op.result.hint
            raise InputError(f"what {name} reads on the samples isn't finite, or too large for its "
                             "squares to be float32: look at the data and the weights")  # fmt: skip
        for products, shift in zip(self.products, self._shift(), strict=True):
            covariance = products.astype(np.float64) / max(self.count, 1)
            covariance -= np.outer(shift, shift)
            yield covariance


def row_length(op: Op) -> int:
    """How many numbers a row of a layer's weights has, its K."""
    data = const(op.operand(1))
    assert data is not None
    return math.prod(data.shape) // _outputs(op, data.shape)


def _outputs(op: Op, shape: tuple[int, ...]) -> int:
    empty = np.broadcast_to(np.int8(0), shape)  # takes no memory
    groups, m, _ = rows(op, empty).shape
    return groups * m


def gram_bytes(op: Op) -> int:
    """Bytes of a layer's `products`."""
    groups = getattr(op.kind, "group", 1)
    return 4 * groups * row_length(op) ** 2


def grams(
    module: Module, ops: Sequence[Op], samples: Activations, runs: int | None = None
) -> Iterator[Gram]:
    """What layers of a module read on samples, one after another, a portion of them at a time.

    Memory: AT_ONCE bytes of matrices (or one layer's), besides the values of one run.
    """
    wanted = min(samples.runs, runs or samples.runs)
    for part in portions(ops, gram_bytes, AT_ONCE):
        found = [Gram(op, wanted) for op in part]
        for i, x in samples.watch(module, [op.operand(0) for op in part], wanted):
            found[i].add(x)
        yield from found
