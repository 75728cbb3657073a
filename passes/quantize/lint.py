"""Where a quantized ONNX file would saturate on CPUs without VNNI.

There ONNX Runtime adds two products of a u8 by an s8 in 16 bits, which saturates: 255 (a + b) is
over 32767 where two weights of one sign add up to more than 128. So it can be told from the
weights which pairs may. graphopt's own kernels widen, and never do.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir.core import Module
from graphopt.ir.types import Array
from graphopt.passes.quantize.beside import layers
from graphopt.passes.quantize.points import source
from graphopt.passes.quantize.weights import channel_axis
from graphopt.rewrite import const

MOST = 128  # what two weights may add up to
SHOWN = 3  # layers that a note names


def pairs(q: Array, axis: int) -> float:
    """The share of pairs of weights that may saturate; q: s8, `axis` its output channels.

    Which weights meet is up to the kernel: neighbours along the input channels (which come last)
    or along the window are taken, whichever is worse.
    """
    rows = np.moveaxis(q, axis, 0).astype(np.int16)
    orders = [rows.reshape(len(rows), -1)]
    if rows.ndim > 2:
        orders.append(np.moveaxis(rows, 1, -1).reshape(len(rows), -1))
    return max(_share(order) for order in orders)


def _share(rows: Array) -> float:
    even = rows[:, : rows.shape[1] // 2 * 2].reshape(len(rows), -1, 2)
    same = np.sign(even[..., 0]) == np.sign(even[..., 1])
    over = same & (np.abs(even.astype(np.int32).sum(-1)) > MOST)
    return float(over.mean()) if over.size else 0.0


def saturating(module: Module) -> dict[str, float]:
    """The layers of a quantized module that may saturate: their names, the share of their pairs."""
    found: dict[str, float] = {}
    for layer in layers(module):
        maker = source(layer.op.operand(1)).op
        q = const(maker.operand(0)) if maker else None
        share = pairs(q.numpy(), channel_axis(layer.op)) if q else 0.0
        if share:
            found[layer.op.loc.nodes[0] if layer.op.loc.nodes else layer.name] = share
    return found


def note(module: Module) -> tuple[str, ...]:
    """One sentence, where there is something to say."""
    found = saturating(module)
    if not found:
        return ()
    names = sorted(found, key=lambda n: (-found[n], n))
    shown = ", ".join(f"{n} ({100 * found[n]:.1f} % of pairs)" for n in names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (f"on CPUs without VNNI, ONNX Runtime may saturate in model.onnx at {shown}{more}; "
            "quantize{bits=7} rules it out (the compiled library never saturates)",)  # fmt: skip
