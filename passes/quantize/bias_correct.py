"""bias_correct: take the mean of what quantization changes out of the biases.

    y' = y + e -> y' - E[e], by output channel

Rounded weights and clipped activations shift a layer's mean (Nagel et al. 2019, arXiv 1906.04721,
section 3.2). The shift is measured on samples (its appendix D), each layer by itself: beside the
float layer and on its inputs, quantized (`beside`), so that layers don't correct each other's
errors twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.core import Module, Value
from graphopt.ir.types import Array
from graphopt.ops.elementwise import Sub
from graphopt.ops.nn import Conv
from graphopt.ops.reduce import ReduceMean
from graphopt.passes.quantize.beside import Beside, layers, watch
from graphopt.passes.quantize.bias import shift
from graphopt.pipeline import Context, Effect, Pass, PassResult
from graphopt.rewrite import Remark


@dataclass(frozen=True)
class BiasCorrect(Pass, name="bias_correct"):
    """Take the mean error of each quantized layer out of its bias.

    `samples`: runs of the model to take the mean over, at most. Means are taken as the model runs,
    so the memory is that of one run of the float model, twice.
    """

    effect: ClassVar[Effect] = "lossy"
    samples: int = 64

    def run(self, module: Module, ctx: Context) -> PassResult:
        """Change the biases.

        Raises:
            InputError: nothing is quantized, no samples, or an option out of its range.
        """
        if self.samples < 1:
            raise InputError(f"samples={self.samples} is no number of samples")
        found = layers(module)
        if not found or ctx.before is None:
            raise InputError("nothing is quantized; put `quantize` before `bias_correct`")
        if ctx.samples is None or not ctx.samples.runs:
            raise InputError("there are no samples to take means of; give some with --data")
        sums: dict[int, Array] = {}
        turns: dict[int, int] = {}
        for i, error in watch(ctx.before, found, _mean_error, ctx.samples, self.samples):
            sums[i] = sums.get(i, 0) + error.astype(np.float64)
            turns[i] = turns.get(i, 0) + 1
        remarks: list[Remark] = []
        for i, total in sums.items():
            op, mean = found[i].op, total / turns[i]
            if mean.any() and ctx.permit("bias_correct", op.loc) and shift(op, -mean):
                told = f"a shift of up to {np.abs(mean).max():.1e}"
                remarks.append(Remark("bias_correct", op.loc, True, told))
        return PassResult(bool(remarks), tuple(remarks))


def _mean_error(beside: Beside, wanted: Value, got: Value) -> tuple[Value]:
    """The mean of the difference, by output channel."""
    rank = wanted.tensor.rank or 0
    channel = 1 if wanted.op and isinstance(wanted.op.kind, Conv) else rank - 1
    axes = tuple(a for a in range(rank) if a != channel)
    return (beside.add(ReduceMean(axes, False), beside.add(Sub(), got, wanted)),)
