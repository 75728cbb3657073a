"""Which ops have a kernel, in which family, and which may join another's epilogue. No TVM here.

Kinds are of three sorts: an *anchor* is computed by a loop nest of its own (convolution, product,
pool, reduction, normalisation, a form like attention); *elementwise* and *movement* kinds are
injective: each result element is an expression of elements of the operands. A region holds one
anchor and elementwise ops of its result's shape after it, or any chain of injective ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from graphopt.errors import UnsupportedError
from graphopt.ir.builtin import Const, Opaque
from graphopt.ir.core import Op
from graphopt.ir.layout import parse_layout
from graphopt.ir.types import DType, TensorType
from graphopt.ops.elementwise import Elementwise
from graphopt.targets.tvm.importable import importable

FLOATS = frozenset({DType.f32})
PICKED = frozenset({DType.f32, DType.f16, DType.u8, DType.i8})  # what max_pool may be of
INTEGERS = frozenset({
    DType.i64, DType.i32, DType.i16, DType.i8, DType.u64, DType.u32, DType.u16, DType.u8,
})  # fmt: skip
NUMBERS = INTEGERS | {DType.f32, DType.f64}
ELEMENTS = NUMBERS | {DType.bool_}
MULTIPLIED = frozenset({DType.f32, DType.f16})  # by convolutions and products
FLOAT16 = "asimdhp"  # of a machine: it computes in float16
HALVES = frozenset({  # kinds that are computed in float16, where the machine does
    "conv", "matmul", "gemm", "max_pool", "cast", "relu", "clip", "add", "sub", "mul", "neg", "abs",
    "identity",
})  # fmt: skip
FLOAT_ONLY = frozenset({
    "exp", "log", "sqrt", "reciprocal", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
    "asinh", "acosh", "atanh", "tanh", "erf", "sigmoid", "softplus", "softsign", "mish",
    "hard_swish", "gelu", "silu", "elu", "hard_sigmoid", "is_nan",
})  # fmt: skip
MOVEMENT = frozenset({
    "reshape", "transpose", "concat", "split", "slice", "gather", "pad", "expand", "squeeze",
    "unsqueeze", "tile", "depth_to_space", "space_to_depth", "reorder", "resize",
    "gather_elements", "gather_nd", "one_hot", "trilu", "reverse_sequence",
})  # fmt: skip
VIEWS = frozenset({"reshape", "squeeze", "unsqueeze", "identity"})
ANCHORS = {
    "conv": "conv",
    "conv_integer": "conv_integer",
    "conv_winograd": "winograd",
    "conv_transpose": "conv_transpose",
    "matmul": "matmul",
    "matmul_integer": "matmul_integer",
    "lstm_scan": "recurrent",
    "gru_scan": "recurrent",
    "gemm": "matmul",
    "max_pool": "pool",
    "avg_pool": "pool",
    "softmax": "softmax",
    "log_softmax": "softmax",
    "layer_norm": "norm",
    "rms_norm": "norm",
    "instance_norm": "norm",
    "lrn": "norm",
    "attention": "attention",
    "squeeze_excite": "excite",
    "dynamic_quantize": "dynamic",
    "arg_max": "reduce",
    "arg_min": "reduce",
    **{f"reduce_{how}": "reduce"
       for how in ("sum", "mean", "max", "min", "prod", "l1", "l2", "sum_square", "log_sum_exp")},
}  # fmt: skip
ALONE = {  # written out as loops in a given order, without an epilogue
    "cum_sum": "scan", "cum_prod": "scan", "top_k": "topk",
    "scatter_elements": "scatter", "scatter_nd": "scatter",
}  # fmt: skip


def is_anchor(op: Op) -> bool:
    """Whether an op is computed by a loop nest of its own."""
    return op.kind.name in ANCHORS


def is_injective(op: Op) -> bool:
    """Whether an op's result elements are expressions of its operands' elements."""
    name = op.kind.name
    return isinstance(op.kind, Elementwise) or name in MOVEMENT or name == "batch_norm"


def is_movement(op: Op) -> bool:
    """Whether an op only moves elements."""
    return op.kind.name in MOVEMENT


def joins_epilogue(op: Op) -> bool:
    """Whether an op may follow an anchor in its region: elementwise, and it has a kernel."""
    return isinstance(op.kind, Elementwise) and refusal(op) is None


def depthwise(op: Op) -> bool:
    """Whether a convolution filters each channel by itself."""
    kind: Any = op.kind
    shape = op.operand(1).tensor.static
    return kind.group > 1 and shape is not None and shape[0] == kind.group and shape[1] == 1


def any_order(op: Op) -> bool:
    """Whether an op's kernel reads one channel at a time: grouped 1 x 1 convolution in blocks.

    Wider kernels read a padded copy, whose making a shuffle would slow down.
    """
    kind: Any = op.kind
    if op.kind.name != "conv" or kind.group == 1 or depthwise(op) or any(kind.pads):
        return False
    w, tag = op.operand(1).tensor.static, op.result.tensor.layout
    block = dict(parse_layout(tag).blocks).get(1, 1) if tag else 1
    return w is not None and block > 1 and any(d % block for d in (w[0] // kind.group, w[1]))


def family(op: Op) -> str:
    """The kernel family of a top-level op.

    Raises:
        UnsupportedError: there is no kernel; the message says why.
    """
    reason = refusal(op)
    if reason is not None:
        raise UnsupportedError(reason)
    if isinstance(op.kind, Opaque):
        return "imported"
    if op.kind.name in ("conv", "conv_integer") and depthwise(op):
        return "depthwise" if op.kind.name == "conv" else "depthwise_integer"
    return {**ANCHORS, **ALONE}.get(op.kind.name, "elementwise")


def refusal(op: Op) -> str | None:
    """Why an op has no kernel; None if it has one."""
    name = op.kind.name
    if isinstance(op.kind, Opaque):
        name = op.kind.op_type
        if not importable(op):
            return f"{op.kind.domain}{'.' if op.kind.domain else ''}{name} has no kernel"
    elif not (is_anchor(op) or is_injective(op) or name in ALONE):
        return f"{name} has no kernel"
    types = [v.type for v in (*op.operands, *op.results) if v is not None]
    for t in types:
        if not isinstance(t, TensorType) or t.static is None:
            return f"{name} of {t}: its shape isn't known when compiling"
        if t.dtype not in ELEMENTS and not _halves(op, t.dtype):
            return f"{name} of {t.dtype} has no kernel"
    if any(t.size == 0 for t in types if isinstance(t, TensorType)):
        return f"{name} of an empty tensor has no kernel"
    if any((t.size or 0) >= 2**31 for t in types if isinstance(t, TensorType)):
        return f"{name} of 2^31 elements or more has no kernel"
    return _CHECKS.get(name, _default)(op)


def computes_halves(op: Op) -> bool:
    """Whether an op has a kernel only where the machine computes in float16."""
    types = (v.type for v in (*op.operands, *op.results) if v)
    return any(isinstance(t, TensorType) and t.dtype is DType.f16 for t in types)


def _halves(op: Op, dtype: DType) -> bool:
    """Whether an op has a kernel of a float type of 16 bits."""
    if dtype is DType.f16:
        return op.kind.name in HALVES | (MOVEMENT - {"resize"})
    return dtype is DType.bf16 and _keeps_halves(op)


def _keeps_halves(op: Op) -> bool:
    """Whether an op moves bfloat16 or converts it from or to float32, which is all we do with it.

    A kernel's sums are of float32: what it reads as bfloat16 is converted in its region.
    """
    if op.kind.name == "cast":
        return {op.operand(0).tensor.dtype, op.result.tensor.dtype} == {DType.bf16, DType.f32}
    return op.kind.name in MOVEMENT - {"resize"}


def _dtype(op: Op) -> DType:
    return op.operand(0).tensor.dtype


def _wants(op: Op, allowed: frozenset[DType]) -> str | None:
    if _dtype(op) in allowed:
        return None
    return f"{op.kind.name} of {_dtype(op)} has no kernel"


def _default(op: Op) -> str | None:
    if op.kind.name in FLOAT_ONLY:
        return _wants(op, frozenset({DType.f32, DType.f64}))
    if op.kind.name in ANCHORS or op.kind.name == "batch_norm":
        return _wants(op, FLOATS)
    return None


def _numeric(op: Op) -> str | None:
    return _wants(op, NUMBERS | {DType.f16} if op.kind.name in HALVES else NUMBERS)


def _conv(op: Op) -> str | None:
    kind: Any = op.kind
    if not 1 <= len(kind.strides) <= 3:
        return f"{op.kind.name} over {len(kind.strides)} spatial axes has no kernel"
    if any(p < 0 for p in kind.pads):
        return f"{op.kind.name} with negative padding has no kernel"
    if op.kind.name == "conv_integer":
        return None
    if _dtype(op) is DType.f16 and kind.group > 1 and not depthwise(op):
        return "conv of f16 in groups has no kernel"
    return _wants(op, MULTIPLIED)


def _pool(op: Op) -> str | None:
    kind: Any = op.kind
    if not 1 <= len(kind.strides) <= 3 or any(p < 0 for p in kind.pads):
        return f"{op.kind.name}{{strides={kind.strides},pads={kind.pads}}} has no kernel"
    size = op.operand(0).tensor.static
    if size and math.prod(kind.kernel) > 4 * math.prod(size[2:]):  # most of it is padding
        return f"{op.kind.name} over windows much larger than the image has no kernel"
    counted = op.kind.name == "avg_pool" and not kind.count_include_pad
    if counted and any(kind.pads) and any(d > 1 for d in kind.dilations):
        return "avg_pool with both padding and dilation has no kernel"
    return _wants(op, PICKED if op.kind.name == "max_pool" else FLOATS)


def _reduce(op: Op) -> str | None:
    float_only = op.kind.name in ("reduce_l2", "reduce_log_sum_exp", "reduce_mean")
    if float_only:
        return _wants(op, FLOATS)
    return _wants(op, frozenset({DType.f32, DType.f64, DType.i64, DType.i32}))


def _matmul(op: Op) -> str | None:
    if len(op.operand(0).tensor.shape or ()) < 1:
        return "a product of scalars"
    return None if op.kind.name == "matmul_integer" else _wants(op, MULTIPLIED)


def _gather(op: Op) -> str | None:
    indices = op.operand(1).tensor
    if indices.dtype not in (DType.i64, DType.i32):
        return f"{op.kind.name} with indices of {indices.dtype} has no kernel"
    return None


def _scatter(op: Op) -> str | None:
    return _gather(op) or _numeric(op)


def _pad(op: Op) -> str | None:
    kind: Any = op.kind
    if kind.mode != "constant" and any(p < 0 for p in kind.pads):
        return f"pad that crops in mode {kind.mode} has no kernel"
    return None


def _resize(op: Op) -> str | None:
    kind: Any = op.kind
    return _wants(op, FLOATS) if kind.mode == "linear" else None


def _where(op: Op) -> str | None:
    return None if _dtype(op) is DType.bool_ else "where wants a bool condition"


def _reshape(op: Op) -> str | None:
    return None if math.prod(op.result.tensor.static or (0,)) else "an empty reshape"


_CHECKS: dict[str, Callable[[Op], str | None]] = {
    "conv": _conv,
    "conv_integer": _conv,
    "conv_transpose": _conv,
    "max_pool": _pool,
    "avg_pool": _pool,
    "matmul": _matmul,
    "matmul_integer": _matmul,
    "gemm": _matmul,
    "gather": _gather, "gather_elements": _gather, "gather_nd": _gather,
    "scatter_elements": _scatter, "scatter_nd": _scatter,
    "cum_sum": _numeric, "cum_prod": _numeric, "top_k": _numeric,
    "pad": _pad,
    "resize": _resize,
    "where": _where,
    "reshape": _reshape,
    "arg_max": _reduce,
    "arg_min": _reduce,
    "neg": _numeric, "abs": _numeric, "sign": _numeric, "relu": _numeric, "clip": _numeric,
    "leaky_relu": _numeric, "sub": _numeric, "div": _numeric, "pow": _numeric, "mod": _numeric,
    "min": _numeric, "max": _numeric, "prelu": _numeric, "less": _numeric,
    "less_equal": _numeric, "greater": _numeric, "greater_equal": _numeric,
    **{name: _reduce for name in ANCHORS if name.startswith("reduce_")},
}  # fmt: skip


def is_small_const(op: Op, limit: int = 64) -> bool:
    """Whether a constant may stand inside a region, as immediates."""
    if not isinstance(op.kind, Const):
        return False
    t = op.result.tensor
    return t.dtype in ELEMENTS | {DType.f16} and t.size is not None and t.size <= limit
