"""What the kernel library covers, as the passes ask for it (`graphopt.pipeline.Catalog`)."""

from __future__ import annotations

from graphopt.errors import UnsupportedError
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Op
from graphopt.targets.tvm import legal


class KernelCatalog:
    """The TVM kernels of `graphopt.targets.tvm`; stateless."""

    def family(self, op: Op) -> str | None:
        """The kernel family that computes the op; None where there is none."""
        try:
            return legal.family(op)
        except UnsupportedError:
            return None

    def anchors(self, op: Op) -> bool:
        """Whether the op has a schedule of its own that an epilogue can join."""
        return legal.is_anchor(op)

    def joins(self, op: Op) -> bool:
        """Whether the op may be the epilogue of a kernel."""
        return legal.joins_epilogue(op)

    def reason(self, op: Op) -> str:
        """Why an op is not compiled."""
        if isinstance(op.kind, Opaque):
            domain = f"{op.kind.domain}." if op.kind.domain else ""
            return f"{domain}{op.kind.op_type} has no kernel, or its parameters aren't constant"
        return legal.refusal(op) or "it depends on a dynamic value"


KERNELS = KernelCatalog()
