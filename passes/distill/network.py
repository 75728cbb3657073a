"""A graph as a function in PyTorch whose weights can be trained, and are put back when they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from graphopt.ir.builtin import Const, Return
from graphopt.ir.core import Graph, Op, Value
from graphopt.ir.data import Inline
from graphopt.ir.types import Array, DType
from graphopt.passes.distill import elementwise, layers, moves  # fills the table
from graphopt.passes.distill.elementwise import dtype_of
from graphopt.passes.distill.library import Tensor, Torch
from graphopt.passes.distill.table import TRAINED, call, function_of
from graphopt.passes.reconstruct.repair import few_values

__all__ = ["Network", "elementwise", "layers", "moves", "parameters"]

ROUNDING = 1e-3  # of the largest number: what another order of sums may change
LARGEST = 1e4  # magnitudes from here on are masks, or stand for infinity


def parameters(graph: Graph) -> list[Op]:
    """The constants that training may change, in order.

    Float32, of more than one number, and only read where the table says so; not those that share
    few values (clustered weights are stored as a table of them).
    """
    return [op for op in graph if isinstance(op.kind, Const) and _trained(op, op.kind)]


def _trained(op: Op, kind: Const) -> bool:
    data, uses = kind.data, op.result.uses
    if data.dtype is not DType.f32 or not data.shape or not uses:
        return False
    if any(u.index not in TRAINED.get(type(u.op.kind), ()) for u in uses):
        return False
    numbers = data.numpy()
    able = numbers.size > 1 and bool((np.abs(numbers) < LARGEST).all())  # NaN isn't
    return able and not few_values(numbers)


class Network:
    """Computes values of a graph, for many runs of the model at once.

    `weights`: by constant, what is trained; `masks`: where matrices among them have zeros, which
    stay zero (a sparsified weight keeps its pattern), 0 and 1 by element.
    """

    def __init__(self, torch: Torch, graph: Graph, wanted: Sequence[Value], train: bool) -> None:
        """Convert the ops that the wanted values need.

        Raises:
            UnsupportedError: one of them has no function in the table.
        """
        self.torch, self.graph, self.wanted = torch, graph, list(wanted)
        self.ops = _needed(wanted)
        for op in self.ops:
            if not isinstance(op.kind, Const):
                function_of(op)
        chosen = set(parameters(graph)) if train else set[Op]()
        self.weights: dict[Op, Tensor] = {}
        self.constants: dict[Value, Tensor] = {}
        for op in self.ops:
            if isinstance(op.kind, Const):
                tensor = _tensor(torch, op.kind.data.numpy())
                self.constants[op.result] = tensor
                if op in chosen:
                    self.weights[op] = tensor.requires_grad_()
        self.masks = {op: _pattern(w) for op, w in self.weights.items() if _pattern(w) is not None}
        self.last = _last_uses(self.ops, self.wanted)
        self.batched: Any = torch.func.vmap(self._run)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The wanted values, [runs, shape of one run...], for inputs [runs, shape...]."""
        return self.batched(*inputs)

    def merge(self, inputs: Sequence[Tensor], bf16: bool = False) -> bool:
        """From now on compute all runs as one batch, if that gives the same for some.

        It does unless ops have the batch of one run baked in; it takes less time than `vmap`.

        Args:
            inputs: of two runs or more, which differ.
            bf16: multiply in bfloat16.
        """
        shapes = [v.tensor.static for v in (*self.graph.args, *self.wanted)]
        if len(inputs[0]) < 2 or any(not s or s[0] != 1 for s in shapes):
            return False
        with self.torch.no_grad():
            apart = self(inputs)
            try:
                together = self._merged(False, *inputs)
            except RuntimeError:  # a shape doesn't fit
                return False
        same = all(_alike(a, b) for a, b in zip(apart, together, strict=True))
        if same:
            self.batched = partial(self._merged, bf16)
        return same

    def _merged(self, bf16: bool, *inputs: Tensor) -> tuple[Tensor, ...]:
        """All runs as one; images with their channels last, as convolutions are faster so."""
        t = self.torch
        one = [x.flatten(0, 1) for x in inputs]
        last = t.channels_last
        one = [x.contiguous(memory_format=last) if x.ndim == 4 else x for x in one]
        with t.autocast("cpu", t.bfloat16, enabled=bf16):
            return tuple(y.float().unsqueeze(1) for y in self._run(*one))

    def _run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """For the inputs of one run."""
        values: dict[Value, Tensor] = {**self.constants}
        values.update(zip(self.graph.args, inputs, strict=True))
        for op in self.ops:
            if isinstance(op.kind, Const):
                continue
            operands = [None if v is None else values[v] for v in op.operands]
            values.update(zip(op.results, call(self.torch, op, operands), strict=True))
            for dead in self.last.get(op, ()):
                del values[dead]
        return tuple(values[v] for v in self.wanted)

    def keep_zeros(self) -> None:
        """Let gradients leave zeros of matrices alone."""
        for op, mask in self.masks.items():
            if self.weights[op].grad is not None:
                self.weights[op].grad *= mask

    def state(self) -> list[Tensor]:
        """A copy of what is trained."""
        return [w.detach().clone() for w in self.weights.values()]

    def write(self, state: Iterable[Tensor]) -> None:
        """Put trained numbers into the graph, in the place of the constants that they were."""
        for op, tensor in zip(self.weights, state, strict=True):
            old, array = op.result, np.array(tensor.numpy(), np.float32)
            kind = Const(Inline(array.reshape(op.result.tensor.static or ())))
            new = self.graph.insert(Op(kind, loc=op.loc, hints=[old.hint]), op)
            old.replace_all_uses_with(new.result)
            self.graph.erase(op)


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same but for rounding."""
    if a.shape != b.shape:
        return False
    scale = float(a.abs().max()) if a.numel() else 0.0
    return not a.numel() or float((a - b).abs().max()) <= ROUNDING * scale


def _needed(wanted: Sequence[Value]) -> list[Op]:
    """The ops that values depend on, in the order of their graph."""
    found: set[Op] = set()
    todo = [v.op for v in wanted if v.op]
    while todo:
        op = todo.pop()
        if op not in found:
            found.add(op)
            todo += [v.op for v in op.operands if v and v.op]
    graph = next((op.graph for op in found), None)
    return [op for op in graph or () if op in found and not isinstance(op.kind, Return)]


def _last_uses(ops: Sequence[Op], wanted: Sequence[Value]) -> dict[Op, list[Value]]:
    """The results by the op after which nothing reads them."""
    last: dict[Value, Op] = {}
    for op in ops:
        if not isinstance(op.kind, Const):
            last.update((r, op) for r in op.results)
            last.update((v, op) for v in op.operands if v in last)
    dying: dict[Op, list[Value]] = {}
    for value, op in last.items():
        if value not in wanted:
            dying.setdefault(op, []).append(value)
    return dying


def _tensor(torch: Torch, array: Array) -> Tensor:
    """A tensor of its own memory; floats of 16 bits go through float32."""
    dtype = DType.of(array)
    wide = array.astype(np.float32) if dtype.is_float and dtype.bits < 32 else np.array(array)
    return torch.from_numpy(np.ascontiguousarray(wide).reshape(array.shape)).to(
        dtype_of(torch, dtype)
    )


def _pattern(weight: Tensor) -> Tensor | None:
    """Where a matrix isn't zero; None where it has no zeros."""
    kept = weight.detach() != 0
    return kept if weight.ndim > 1 and not bool(kept.all()) else None
