"""Op kinds that passes and kernels know. Everything else is `opaque`. Importing registers them."""

from graphopt.ir.builtin import Const, Fused, Opaque, Return
from graphopt.ops import (
    elementwise,
    excite,
    indexed,
    inverse,
    linalg,
    movement,
    nn,
    ordered,
    quant,
    recurrent,
    reduce,
    resize,
    winograd,
)

__all__ = [
    "Const", "Fused", "Opaque", "Return", "elementwise", "excite", "indexed", "inverse", "linalg",
    "movement", "nn", "ordered", "quant", "recurrent", "reduce", "resize",
    "winograd",
]  # fmt: skip
