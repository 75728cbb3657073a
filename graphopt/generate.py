"""Calibration without data: generated inputs, and activations set to what BatchNorm remembers.

A BatchNorm keeps the mean and variance that its inputs had in training. Here the model is run on
images of noise (amplitudes falling with frequency, as those of photographs do: Field 1987), and
every BatchNorm normalises by the statistics of the batch that it sees, as it does in training. So
each of its channels has exactly the mean and variance that it has on real data, whatever the images
look like, and the ranges after it follow. (Nagel et al. 2019, arXiv 1906.04721, section 4.1, take
ranges from these statistics by formula; images let them pass through additions and pools.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from graphopt.activations import SampleRuns
from graphopt.analysis.bind import bind
from graphopt.analysis.interpret import random_inputs
from graphopt.analysis.padding import padding_mask
from graphopt.data import Feed, Samples
from graphopt.errors import InputError
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_module
from graphopt.ir.core import Module, Op, OpKind, Value
from graphopt.ir.data import Inline
from graphopt.ir.types import Array, DType, Sym, TensorType
from graphopt.lazy import Lazy
from graphopt.ops.elementwise import Add, Div, Mul, Sqrt, Sub
from graphopt.ops.movement import Reshape
from graphopt.ops.nn import BatchNorm, Conv
from graphopt.ops.reduce import ReduceMean

_linalg: Any = Lazy("scipy.linalg")
GENERATED = 32  # inputs that are made up for passes where no data is given
BATCH = 32  # images that statistics are taken of
LEAST = 64  # numbers a channel that tell its variance
NOISE = "generated"


class Generated(SampleRuns):
    """Runs on generated inputs; values that `source` has too come from it, its statistics set.

    Nothing is made before it is asked for.
    """

    def __init__(self, module: Module, load: Callable[[], Module], runs: int) -> None:
        """For a model of which nobody gave samples.

        Args:
            module: its shapes bound, as it is optimized.
            load: reads it once more, its batch open where it was.
            runs: how many inputs to make for `module`.
        """
        normed = any(isinstance(op.kind, BatchNorm) for op in module.main)
        self.module, self.load = clone_module(module), load
        data = NOISE if normed else "seeded"
        super().__init__(lambda: self.made, runs, data, origin=self.module, made_up=True)

    @cached_property
    def made(self) -> list[Feed]:
        """The inputs."""
        return [inputs(self.module, seed) for seed in range(self.runs)]

    @cached_property
    def source(self) -> Module | None:
        """The original for a batch of BATCH, every BatchNorm normalising by the batch.

        None where it has none, or can't take a batch.
        """
        if self.data != NOISE:
            return None
        source = self.load()
        try:
            bind(source, batched(source))
        except InputError:
            return None
        for op in source.main:
            if isinstance(op.kind, BatchNorm):
                _by_batch(source, op, op.kind)
        return source

    @property
    def note(self) -> str:
        """What readers must know."""
        if self.data == NOISE:
            return ("no --data: passes see generated images, each BatchNorm's mean and variance "
                    "being what it remembers")  # fmt: skip
        return ("no --data, and no BatchNorm that remembers any: passes see random inputs, and "
                "ranges may be far from real ones")  # fmt: skip

    def watch(
        self, module: Module, values: Sequence[Value], runs: int | None = None, own: bool = False
    ) -> Iterator[tuple[int, Array]]:
        """Pairs of an index into `values` and its array (see `SampleRuns.watch`)."""
        known = {} if own else self._known()
        there = [i for i, v in enumerate(values) if v.hint in known and _alike(v, known[v.hint])]
        rest = [i for i in range(len(values)) if i not in set(there)]
        self.used = self.runs
        if there and (source := self.source):
            batch = SampleRuns(lambda: [inputs(source)], 1, NOISE)
            twins = [known[values[i].hint] for i in there]
            for i, array in batch.watch(source, twins):
                yield there[i], array
        for i, array in super().watch(module, [values[i] for i in rest], runs):
            yield rest[i], array

    def _known(self) -> dict[str, Value]:
        """The source's float values by name."""
        graph = self.source.main if self.source else None
        values = [] if graph is None else [*graph.args, *(r for op in graph for r in op.results)]
        return {v.hint: v for v in values if v.hint and _is_float(v)}


def _alike(value: Value, source: Value) -> bool:
    """Whether values have the same shape but for the batch: one that was pruned hasn't."""
    mine, theirs = value.tensor.shape, source.tensor.shape
    if not mine or not theirs:
        return False
    return len(mine) == len(theirs) and mine[1:] == theirs[1:]


def _is_float(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype is DType.f32


def sample_runs(
    module: Module, samples: Samples | None, load: Callable[[], Module], runs: int = GENERATED
) -> SampleRuns:
    """What passes see: the user's samples, else generated ones.

    Args:
        module: its shapes bound as far as they will be.
        samples: checked against it; None: there are none.
        load: reads the model once more.
        runs: how many inputs to generate.
    """
    if samples is None:
        return Generated(module, load, runs)
    origin = clone_module(module)
    graph = origin.main
    return SampleRuns(lambda: samples.feeds(graph), samples.runs(graph), "given",
                      mask=padding_mask(graph), origin=origin)  # fmt: skip


def batched(module: Module) -> dict[str, tuple[int, ...]]:
    """A batch of BATCH for the inputs whose first size is open and the rest known."""
    found: dict[str, tuple[int, ...]] = {}
    for arg in module.main.args:
        shape = arg.tensor.shape or ()
        sizes = tuple(d for d in shape[1:] if isinstance(d, int))
        if shape and isinstance(shape[0], Sym) and len(sizes) == len(shape) - 1:
            found[arg.hint] = (BATCH, *sizes)
    return found


def _by_batch(module: Module, op: Op, kind: BatchNorm) -> None:
    """batch_norm(x, s, b, m, v) -> (x - mean(x)) / sqrt(mean((x - mean(x))^2) + e) * s + b."""
    x = op.operand(0)
    shape = x.tensor.static
    if shape is None or len(shape) < 2 or int(np.prod(shape)) // max(shape[1], 1) < LEAST:
        return
    graph = module.main
    axes = (0, *range(2, len(shape)))
    wide = (shape[1], *(1,) * (len(shape) - 2))

    def make(k: OpKind, *operands: Value) -> Value:
        return graph.insert(Op(k, operands, loc=op.loc), op).result

    def constant(array: Array) -> Value:
        return make(Const(Inline(array)))

    centered = make(Sub(), x, make(ReduceMean(axes, True), x))
    variance = make(ReduceMean(axes, True), make(Mul(), centered, centered))
    stable = make(Add(), variance, constant(np.array(kind.epsilon, np.float32)))
    scale, bias = (make(Reshape(wide), op.operand(i)) for i in (1, 2))
    scaled = make(Mul(), make(Div(), centered, make(Sqrt(), stable)), scale)
    new = make(Add(), scaled, bias)
    new.hint, op.result.hint = op.result.hint, ""
    op.result.replace_all_uses_with(new)
    graph.erase(op)


def inputs(module: Module, seed: int = 0) -> Feed:
    """Inputs for one run: images of noise of the mean and spread that the first layer expects."""
    found: dict[str, Any] = random_inputs(module, seed)
    for arg in module.main.args:
        shape = arg.tensor.static if isinstance(arg.type, TensorType) else None
        if shape and len(shape) == 4 and arg.tensor.dtype is DType.f32:
            images = noise(shape, seed)
            mean, spread = expected(arg, images)
            found[arg.hint] = (images * spread + mean.reshape(1, -1, 1, 1)).astype(np.float32)
    return found


def noise(shape: tuple[int, ...], seed: int) -> Array:
    """Images whose amplitudes fall as 1/frequency; each channel has mean 0 and variance 1."""
    rng = np.random.default_rng(seed)
    axes = (np.fft.fftfreq(shape[2])[:, None], np.fft.fftfreq(shape[3])[None])
    frequency = np.maximum(np.hypot(*axes), 1 / max(shape[2:]))
    spectrum = np.fft.fft2(rng.normal(size=shape)) / frequency
    images = np.fft.ifft2(spectrum).real
    images = images - images.mean((2, 3), keepdims=True)
    return images / np.maximum(images.std((2, 3), keepdims=True), 1e-12)


def expected(arg: Value, images: Array) -> tuple[Array, float]:
    """The mean of each channel and the spread of inputs that a first conv + BatchNorm has seen.

    The means that fit E[y] = sum(w) mean + b, and the variance that fits Var[y], by least squares.
    Where the input doesn't go into these: 0 and 1.
    """
    channels = arg.tensor.static[1] if arg.tensor.static else 1
    plain = np.zeros(channels), 1.0
    conv = next((u.op for u in arg.uses if isinstance(u.op.kind, Conv) and u.index == 0), None)
    norm = conv and next((u.op for u in conv.result.uses if isinstance(u.op.kind, BatchNorm)), None)
    w = _constant(conv, 1) if conv else None
    if not conv or not norm or w is None or w.shape[1] != channels:
        return plain
    mean, variance = _constant(norm, 3), _constant(norm, 4)
    if mean is None or variance is None:
        return plain
    bias = _constant(conv, 2)
    target: Array = mean if bias is None else mean - bias
    sums = w.reshape(*w.shape[:2], -1).sum(2)
    inverse: Array = _linalg.pinv(sums.astype(np.float64), rtol=1e-3)
    found: Array = inverse @ target
    few = images[:4].astype(np.float32)
    (y,) = conv.kind.evaluate(few, w, None)
    own = y.var(axis=(0, *range(2, y.ndim)))
    square = float(own @ variance) / max(float(own @ own), 1e-12)
    return found, float(np.sqrt(max(square, 1e-12)))


def _constant(op: Op, index: int) -> Array | None:
    value = op.operands[index] if len(op.operands) > index else None
    kind = value.op.kind if value and value.op else None
    return kind.data.numpy() if isinstance(kind, Const) else None
