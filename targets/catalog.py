"""What the kernel library covers, as the passes ask for it (`graphopt.pipeline.Catalog`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from graphopt.errors import UnsupportedError
from graphopt.ir.builtin import Const, Return
from graphopt.ir.core import Op
from graphopt.ir.parser import parse
from graphopt.ir.types import TensorType
from graphopt.ops.movement import Part
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import amx, eights, halves, joint, legal, shorts

Refused = Mapping[tuple[str, ...], str]


@dataclass(frozen=True)
class KernelCatalog:
    """The TVM kernels of `graphopt.targets.tvm`, but for ops that the compiler has refused.

    `refused` maps the signature of an op (kind, attributes, types) to the reason; `tiles` says
    whether the machine has AMX. `machine` tells whether computing several convolutions by one
    kernel pays; None: it isn't asked for.
    """

    refused: Refused = field(default_factory=dict[tuple[str, ...], str])
    tiles: bool = False
    machine: Machine | None = None

    def refusing(self, text: str, why: str) -> KernelCatalog:
        """This catalog without the ops of a kernel's text; of a joint one, without that."""
        ops = [op for op in parse(text).main if not isinstance(op.kind, Const | Return | Part)]
        found = [_joint(ops)] if joint.family(ops) else [_signature(op) for op in ops]
        return replace(self, refused={**self.refused, **dict.fromkeys(found, why)})

    def family(self, op: Op) -> str | None:
        """The kernel family that computes the op; None where there is none."""
        if (self.refused and _signature(op) in self.refused) or self._lacks(op):
            return None
        try:
            return legal.family(op)
        except UnsupportedError:
            return None

    def alone(self, op: Op) -> bool:
        """Whether the op's kernel takes no epilogue."""
        return not (legal.is_anchor(op) or legal.is_injective(op))

    def _lacks(self, op: Op) -> bool:
        """Whether the op computes in float16, and the machine doesn't."""
        features = self.machine.cpu_features if self.machine else ()
        return legal.FLOAT16 not in features and legal.computes_halves(op)

    def joins(self, op: Op) -> bool:
        """Whether the op may be the epilogue of a kernel."""
        return legal.joins_epilogue(op)

    def together(self, ops: Sequence[Op]) -> str | None:
        """The family of a kernel that computes several kernels' ops, sooner than they would."""
        found = joint.family(ops) if self.machine else None
        if found is None or self.machine is None or _joint(ops) in self.refused:
            return None
        return found if joint.pays(ops, self.machine) else None

    def any_order(self, op: Op) -> bool:
        """Whether the op's kernel reads the channels of its operand in any order for nothing."""
        return legal.any_order(op)

    def reads_halves(self, op: Op, index: int) -> bool:
        """Whether the op's kernel can read an operand as bfloat16 and make float32 of it."""
        return self.family(op) is not None and halves.reads(op, index)

    def keeps_wide(self, op: Op, index: int) -> str:
        """Why a constant operand is better float32 though its numbers are bfloat16; else empty."""
        if not self.reads_halves(op, index):
            return "its kernel reads float32 alone"
        return halves.slower(op, index)

    def tiled_weights(self, op: Op) -> str:
        """The layout of weights that the op's kernel wants besides `layout`'s; empty: none."""
        if not self.family(op):
            return ""
        if self.tiles:
            return amx.weights(op)
        if self.machine is None:
            return ""
        found = eights.weights(op, self.machine) or shorts.weights(op, self.machine)
        return found or halves.pairs(op, self.machine)

    @property
    def signed(self) -> bool:
        """Whether kernels multiply signed bytes by signed ones, not unsigned by signed."""
        return self.machine is not None and self.machine.signed

    def reason(self, op: Op) -> str:
        """Why an op is not compiled."""
        refused = self.refused.get(_signature(op))
        if not refused and self._lacks(op):
            name = self.machine.name if self.machine else "the target"
            return f"{op.kind.name} of f16 has no kernel: {name} doesn't compute in float16"
        return refused or legal.refusal(op) or "it depends on a dynamic value"


def _signature(op: Op) -> tuple[str, ...]:
    """An op's kind, attributes and types, whatever their layouts."""
    types = [v.type for v in (*op.operands, *op.results) if v]
    return (str(op.kind), *(str(t.logical if isinstance(t, TensorType) else t) for t in types))


def _joint(ops: Iterable[Op]) -> tuple[str, ...]:
    """The signature of several ops together."""
    return tuple(part for op in ops for part in _signature(op))


KERNELS = KernelCatalog()
