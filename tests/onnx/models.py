"""Small models of one node at any opset, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

Array = Any
OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26)


@dataclass
class Node:
    """A node with its operands: `feeds` are inputs of the model, `consts` initializers."""

    op_type: str
    feeds: Mapping[str, Array]
    consts: Mapping[str, Array] = field(default_factory=dict[str, Array])
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inputs: Sequence[str] | None = None
    outputs: Sequence[str] = ("y",)


@dataclass
class Case:
    """A node of an op: `make` gives it for an opset, `kinds` what it is read as."""

    name: str
    since: int
    kinds: tuple[str, ...]
    make: Callable[[int], Node]
    tolerance: float = 2e-5


def versions(case: Case) -> list[int]:
    """The opsets at which the case's op has another definition, and the newest."""
    found = {case.since, OPSETS[-1]}
    for opset in range(case.since, OPSETS[-1] + 1):
        found.add(defs.get_schema(case.make(opset).op_type, opset, "").since_version)
    return sorted(o for o in found if o >= case.since)


def model(node: Node, opset: int, *, dynamic: bool = False) -> onnx.ModelProto:
    """The model of a node; `dynamic` makes every dimension of its inputs symbolic."""
    names = node.inputs or [*node.feeds, *node.consts]
    proto = helper.make_node(node.op_type, names, node.outputs, name="n", **node.attrs)
    graph = helper.make_graph(
        [proto],
        "g",
        [value(k, v, dynamic) for k, v in node.feeds.items()],
        [onnx.ValueInfoProto(name=o) for o in node.outputs if o],
        [numpy_helper.from_array(v, k) for k, v in node.consts.items()],
    )
    return finish(graph, opset)


def finish(graph: onnx.GraphProto, opset: int, **kw: Any) -> onnx.ModelProto:
    """A model of a graph, with the IR version that fits the opset."""
    imports = [helper.make_opsetid("", opset)]
    ir = max(4, helper.find_min_ir_version_for(imports))
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, **kw)


def value(name: str, array: Array, dynamic: bool = False) -> onnx.ValueInfoProto:
    """An input of an array's type."""
    shape = [f"{name}{i}" for i in range(array.ndim)] if dynamic else list(array.shape)
    code = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, code, shape)


def rand(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Normal numbers (integers: -8 to 7)."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0 if np.dtype(dtype).kind == "u" else -8, 8, shape).astype(dtype)
    if np.dtype(dtype).kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.normal(size=shape).astype(dtype)


def ints(*values: int) -> Array:
    """An int64 vector."""
    return np.array(values, np.int64)


X = rand(2, 3, 4)
IMAGE = rand(2, 4, 7, 6)


def _unary(op_type: str, since: int, kind: str, x: Array = X, **attrs: Any) -> Case:
    return Case(op_type + str(attrs or ""), since, (kind,), lambda _: Node(op_type, {"x": x}, attrs=attrs))


def _binary(op_type: str, since: int, kind: str, a: Array, b: Array, **attrs: Any) -> Case:
    name = f"{op_type} {a.dtype}{list(b.shape)}{attrs or ''}"
    return Case(name, since, (kind,), lambda _: Node(op_type, {"a": a, "b": b}, attrs=attrs))


POSITIVE, UNIT = np.abs(X) + 0.1, np.clip(X / 4, -0.9, 0.9)
UNARY = [
    *(_unary(o, 7, o.lower(), X) for o in ("Abs", "Neg", "Exp", "Floor", "Ceil", "Sin", "Cos", "Tan",
      "Atan", "Tanh", "Sigmoid", "Relu", "Softplus", "Softsign", "Identity")),
    *(_unary(o, 7, o.lower(), POSITIVE) for o in ("Log", "Sqrt", "Reciprocal")),
    *(_unary(o, 7, o.lower(), UNIT) for o in ("Asin", "Acos")),
    *(_unary(o, 9, o.lower(), X) for o in ("Sign", "Erf", "Sinh", "Cosh", "Asinh")),
    _unary("Acosh", 9, "acosh", POSITIVE + 1), _unary("Atanh", 9, "atanh", UNIT),
    _unary("Round", 11, "round", np.array([0.5, 1.5, -2.5, 0.4999, 3.2], np.float32)),
    _unary("IsNaN", 9, "is_nan", np.array([1, np.nan, np.inf], np.float32)),
    _unary("Not", 7, "not", X > 0),
    _unary("Neg", 7, "neg", rand(3, dtype=np.int32)), _unary("Abs", 7, "abs", rand(3, dtype=np.int64)),
    _unary("HardSwish", 14, "hard_swish"), _unary("Mish", 18, "mish"),
    _unary("Gelu", 20, "gelu"), _unary("Gelu", 20, "gelu", approximate="tanh"),
    _unary("Swish", 24, "silu"), _unary("Swish", 24, "silu", alpha=1.5),
    _unary("LeakyRelu", 7, "leaky_relu"), _unary("LeakyRelu", 7, "leaky_relu", alpha=0.2),
    _unary("Elu", 7, "elu", alpha=0.7), _unary("HardSigmoid", 7, "hard_sigmoid", alpha=0.3, beta=0.4),
    *(_unary("Cast", 9, "cast", x, to=t) for x, t in (
        (X * 3, TensorProto.INT32), (X * 3, TensorProto.INT8), (X, TensorProto.FLOAT16),
        (X, TensorProto.DOUBLE), (X, TensorProto.BOOL), (rand(4, dtype=np.int64), TensorProto.FLOAT),
        (X > 0, TensorProto.FLOAT), (rand(5, dtype=np.int32), TensorProto.BOOL),
        (np.array([300, -5, 70000], np.int32), TensorProto.UINT8))),
]  # fmt: skip

INTS, J = rand(2, 3, 4, dtype=np.int64), rand(3, 1, seed=1, dtype=np.int64)
B = rand(4, seed=1)
BINARY = [
    *(_binary(o, 7, o.lower(), X, b) for o in ("Add", "Sub", "Mul", "Div")
      for b in (B, rand(2, 3, 4, seed=2), rand(3, 1, seed=3), rand(1, seed=4))),
    *(_binary(o, 7, o.lower(), INTS, J) for o in ("Add", "Sub", "Mul")),
    _binary("Div", 7, "div", INTS, np.where(J == 0, 3, J)),
    _binary("Div", 14, "div", INTS.astype(np.int8), np.where(J == 0, -3, J).astype(np.int8)),
    _binary("Add", 7, "add", X.astype(np.float64), B.astype(np.float64)),
    _binary("Pow", 7, "pow", POSITIVE, B), _binary("Pow", 12, "pow", X, ints(2)),
    _binary("Pow", 12, "pow", np.abs(INTS), ints(2)), _binary("Pow", 12, "pow", np.abs(INTS) + 1, B),
    _binary("Mod", 10, "mod", INTS, np.where(J == 0, 3, J)),
    _binary("Mod", 10, "mod", INTS, np.where(J == 0, 3, J), fmod=1), _binary("Mod", 10, "mod", X, B, fmod=1),
    *(_binary(o, 8, o.lower(), X, B) for o in ("Min", "Max")),
    *(_binary(o, 12, o.lower(), INTS, J) for o in ("Min", "Max")),
    *(_binary(o, 7, o.lower(), X > 0, B > 0) for o in ("And", "Or", "Xor")),
    *(_binary(o, 7, o.lower(), X, B) for o in ("Less", "Greater")),
    *(_binary(o, 9, o.lower(), INTS, J) for o in ("Less", "Greater")),
    _binary("Equal", 7, "equal", INTS, J), _binary("Equal", 11, "equal", X, X.copy()),
    _binary("LessOrEqual", 12, "less_equal", X, B), _binary("GreaterOrEqual", 12, "greater_equal", INTS, J),
    _binary("LessOrEqual", 12, "less_equal", np.array([np.nan, 1], np.float32), np.array([1, 1], np.float32)),
    _binary("PRelu", 7, "prelu", X, B), _binary("PRelu", 7, "prelu", IMAGE, rand(4, 1, 1, seed=5)),
]  # fmt: skip


def _case(name: str, since: int, kind: str, make: Callable[[int], Node], **kw: Any) -> Case:
    return Case(name, since, tuple(kind.split()), make, **kw)


def _clip(opset: int) -> Node:
    if opset < 11:
        return Node("Clip", {"x": X}, attrs={"min": -0.5, "max": 0.25})
    return Node("Clip", {"x": X}, {"lo": np.float32(-0.5), "hi": np.float32(0.25)})


def _axes(op_type: str, x: Array, axes: Sequence[int], since: int, **attrs: Any) -> Callable[[int], Node]:
    """`axes` as an attribute before opset `since`, then as an operand."""

    def make(opset: int) -> Node:
        if opset < since:
            return Node(op_type, {"x": x}, attrs={"axes": list(axes), **attrs})
        return Node(op_type, {"x": x}, {"axes": ints(*axes)}, attrs)

    return make


VARIADIC = [
    _case(f"{o} of {n}", 8, k, lambda _, o=o, n=n: Node(o, {f"x{i}": rand(2, 3, seed=i) for i in range(n)}))
    for o, k in (("Sum", "add"), ("Max", "max"), ("Min", "min")) for n in (2, 3, 5)
] + [
    _case("Sum of 1", 8, "identity", lambda _: Node("Sum", {"x": X})),
    _case("Mean", 8, "add add const div", lambda _: Node("Mean", {"a": X, "b": B, "c": rand(3, 1, seed=8)})),
    _case("Where", 9, "where", lambda _: Node("Where", {"c": B > 0, "a": X, "b": rand(3, 1)})),
    _case("Clip", 7, "clip", _clip),
    _case("Clip of one side", 11, "clip",
          lambda _: Node("Clip", {"x": X}, {"hi": np.float32(0.25)}, inputs=["x", "", "hi"])),
    _case("Clip of integers", 12, "clip",
          lambda _: Node("Clip", {"x": INTS}, {"lo": np.int64(-2), "hi": np.int64(3)})),
    _case("Dropout", 7, "identity", lambda _: Node("Dropout", {"x": X}, attrs={})),
    _case("CastLike", 15, "cast", lambda _: Node("CastLike", {"x": X * 4}, {"like": ints(1)})),
]  # fmt: skip

MOVEMENT = [
    _case("Reshape", 7, "reshape", lambda _: Node("Reshape", {"x": X}, {"s": ints(0, -1, 2)})),
    _case("Transpose", 7, "transpose", lambda _: Node("Transpose", {"x": X}, attrs={"perm": [2, 0, 1]})),
    _case("Transpose reversed", 7, "transpose", lambda _: Node("Transpose", {"x": X})),
    *(_case(f"Flatten {a}", 7 if a >= 0 else 11, "reshape",
            lambda _, a=a: Node("Flatten", {"x": X}, attrs={"axis": a})) for a in (0, 1, 2, 3, -1)),
    _case("Concat", 7, "concat", lambda _: Node("Concat", {"a": X, "b": rand(2, 1, 4)}, attrs={"axis": 1})),
    _case("Concat at the end", 11, "concat", lambda _: Node("Concat", {"a": X, "b": X}, attrs={"axis": -1})),
    _case("Split", 7, "split", lambda o: Node(
        "Split", {"x": X}, {"s": ints(1, 3)} if o >= 13 else {},
        {"axis": 2} if o >= 13 else {"axis": 2, "split": [1, 3]}, outputs=["y", "z"])),
    _case("Split evenly", 7, "split", lambda o: Node(
        "Split", {"x": X}, {}, {"axis": 2, **({"num_outputs": 2} if o >= 18 else {})}, outputs=["y", "z"])),
    _case("Split unevenly", 18, "split", lambda _: Node(
        "Split", {"x": rand(7)}, {}, {"num_outputs": 3}, outputs=["y", "z", "w"])),
    _case("Slice", 7, "slice", lambda o: Node("Slice", {"x": X}, attrs={
        "starts": [1, -3], "ends": [9, -1], "axes": [0, 2]}) if o < 10 else Node(
        "Slice", {"x": X}, {"s": ints(1, -3), "e": ints(9, -1), "a": ints(0, -1)})),
    _case("Slice backwards", 10, "slice", lambda _: Node("Slice", {"x": X}, {
        "s": ints(-1, 3), "e": ints(-(2**31), 0), "a": ints(1, 2), "t": ints(-1, -2)})),
    _case("Slice of nothing", 10, "slice", lambda _: Node("Slice", {"x": X}, {
        "s": ints(3), "e": ints(1), "a": ints(2), "t": ints(1)})),
    _case("Gather", 7, "gather", lambda _: Node("Gather", {"x": X}, {"i": np.array([[0, 2], [1, 1]])}, {"axis": 1})),
    _case("Gather a scalar", 11, "gather", lambda _: Node("Gather", {"x": X}, {"i": np.array(-1)}, {"axis": 2})),
    *(_case(f"Pad {m}", 19 if m == "wrap" else 7, "pad", lambda o, m=m: Node(
        "Pad", {"x": X}, attrs={"pads": [0, 1, 2, 0, 1, 1], "mode": m, **({"value": 1.5} if m == "constant" else {})})
        if o < 11 else Node("Pad", {"x": X}, {
            "p": ints(0, 1, 2, 0, 1, 1), **({"v": np.float32(1.5)} if m == "constant" else {})}, {"mode": m}))
      for m in ("constant", "reflect", "edge", "wrap")),
    _case("Pad that crops", 11, "pad", lambda _: Node("Pad", {"x": X}, {"p": ints(0, -1, 2, 0, 0, -1)})),
    _case("Pad of some axes", 18, "pad", lambda _: Node(
        "Pad", {"x": INTS}, {"p": ints(1, 2), "v": np.int64(7), "a": ints(-1)})),
    _case("Expand", 8, "expand", lambda _: Node("Expand", {"x": rand(3, 1)}, {"s": ints(2, 1, 4)})),
    _case("Squeeze", 7, "squeeze", _axes("Squeeze", rand(1, 3, 1, 2), [0, 2], 13)),
    _case("Squeeze of all", 7, "squeeze", lambda _: Node("Squeeze", {"x": rand(1, 3, 1, 2)})),
    _case("Squeeze from the end", 11, "squeeze", _axes("Squeeze", rand(1, 3, 1, 2), [-2], 13)),
    _case("Unsqueeze", 7, "unsqueeze", _axes("Unsqueeze", X, [0, 3], 13)),
    _case("Unsqueeze from the end", 11, "unsqueeze", _axes("Unsqueeze", X, [-1, 0], 13)),
    _case("Tile", 7, "tile", lambda _: Node("Tile", {"x": X}, {"r": ints(2, 1, 3)})),
    _case("DepthToSpace", 7, "depth_to_space", lambda _: Node(
        "DepthToSpace", {"x": rand(1, 8, 2, 3)}, attrs={"blocksize": 2})),
    _case("DepthToSpace CRD", 11, "depth_to_space", lambda _: Node(
        "DepthToSpace", {"x": rand(1, 8, 2, 3)}, attrs={"blocksize": 2, "mode": "CRD"})),
    _case("SpaceToDepth", 7, "space_to_depth", lambda _: Node(
        "SpaceToDepth", {"x": rand(1, 2, 4, 6)}, attrs={"blocksize": 2})),
    _case("Shape", 7, "shape", lambda _: Node("Shape", {"x": X})),
    _case("Shape in part", 15, "shape", lambda _: Node("Shape", {"x": X}, attrs={"start": -2})),
    _case("Shape in the middle", 15, "shape", lambda _: Node("Shape", {"x": X}, attrs={"start": 1, "end": 2})),
    _case("ConstantOfShape", 9, "const", lambda _: Node("ConstantOfShape", {}, {"s": ints(2, 3)}, {
        "value": numpy_helper.from_array(np.array([7], np.int32))})),
]  # fmt: skip

_REDUCED = {
    "ReduceSum": "reduce_sum", "ReduceMean": "reduce_mean", "ReduceMax": "reduce_max",
    "ReduceMin": "reduce_min", "ReduceProd": "reduce_prod", "ReduceL1": "reduce_l1",
    "ReduceL2": "reduce_l2", "ReduceSumSquare": "reduce_sum_square",
    "ReduceLogSumExp": "reduce_log_sum_exp",
}  # fmt: skip
REDUCE = [
    *(_case(f"{o} {a} {keep}", 7 if min(a) >= 0 else 11, k,
            _axes(o, x, a, 13 if o == "ReduceSum" else 18, keepdims=keep))
      for o, k in _REDUCED.items() for x, a, keep in ((X, (0, 2), 1), (X, (1,), 0), (X, (-1,), 1), (IMAGE, (2, 3), 1))),
    *(_case(f"{o} of all", 7, k, lambda _, o=o: Node(o, {"x": X}, attrs={"keepdims": 0})) for o, k in _REDUCED.items()),
    *(_case(f"{o} of integers", 7, _REDUCED[o], _axes(o, INTS.astype(np.int32), (1,), 13 if o == "ReduceSum" else 18))
      for o in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceSumSquare")),
    _case("ReduceSum of nothing", 13, "identity", lambda _: Node(
        "ReduceSum", {"x": X}, {"a": np.zeros(0, np.int64)}, {"noop_with_empty_axes": 1})),
    *(_case(f"{o} {a}", 7 if a >= 0 else 11, k, lambda _, o=o, a=a: Node(o, {"x": X}, attrs={"axis": a, "keepdims": 0}))
      for o, k in (("ArgMax", "arg_max"), ("ArgMin", "arg_min")) for a in (0, 1, -1)),
    _case("ArgMax of the last", 12, "arg_max", lambda _: Node(
        "ArgMax", {"x": rand(3, 4, dtype=np.int32) // 4}, attrs={"axis": 1, "select_last_index": 1})),
    *(_case(f"{o} {a}", 13 if a == 1 else 7, k, lambda _, o=o, a=a: Node(o, {"x": X}, attrs={"axis": a}))
      for o, k in (("Softmax", "softmax"), ("LogSoftmax", "log_softmax")) for a in (1, 2)),
    _case("Softmax of an image's channels", 7, "softmax",
          lambda _: Node("Softmax", {"x": rand(2, 5, 1, 1)}, attrs={"axis": 1})),
    _case("Softmax by default", 13, "softmax", lambda _: Node("Softmax", {"x": X})),
    _case("GlobalAveragePool", 7, "reduce_mean", lambda _: Node("GlobalAveragePool", {"x": IMAGE})),
    _case("GlobalMaxPool", 7, "reduce_max", lambda _: Node("GlobalMaxPool", {"x": IMAGE})),
]  # fmt: skip


def _conv(x: Array, w: Array, bias: bool = True, **attrs: Any) -> Callable[[int], Node]:
    return lambda _: Node("Conv", {"x": x}, {"w": w, **({"b": rand(w.shape[0], seed=3)} if bias else {})}, attrs)


def _transposed(w: Array, **attrs: Any) -> Callable[[int], Node]:
    return lambda _: Node("ConvTranspose", {"x": IMAGE}, {"w": w}, attrs)


def _pool(op_type: str, since: int, x: Array = IMAGE, **attrs: Any) -> Case:
    kind = "max_pool" if op_type == "MaxPool" else "avg_pool"
    return _case(f"{op_type} {attrs}", since, kind, lambda _: Node(op_type, {"x": x}, attrs=attrs))


W = rand(6, 4, 3, 3, seed=1)
CONV = [
    _case("Conv", 7, "conv", _conv(IMAGE, W)),
    _case("Conv, padded and strided", 7, "conv", _conv(IMAGE, W, pads=[1, 0, 2, 1], strides=[2, 1])),
    _case("Conv, dilated, no bias", 7, "conv", _conv(IMAGE, W, False, dilations=[2, 1], kernel_shape=[3, 3])),
    _case("Conv, grouped", 7, "conv", _conv(IMAGE, rand(6, 2, 3, 3), group=2)),
    _case("Conv, depthwise", 7, "conv", _conv(IMAGE, rand(8, 1, 3, 3), group=4, auto_pad="SAME_UPPER")),
    _case("Conv SAME_UPPER", 7, "conv", _conv(IMAGE, W, auto_pad="SAME_UPPER", strides=[2, 2])),
    _case("Conv SAME_LOWER", 7, "conv", _conv(IMAGE, W, auto_pad="SAME_LOWER", strides=[3, 2])),
    _case("Conv VALID", 7, "conv", _conv(IMAGE, W, auto_pad="VALID")),
    _case("Conv of a signal", 7, "conv", _conv(rand(1, 2, 9), rand(3, 2, 4), pads=[1, 2])),
    _case("Conv of a volume", 7, "conv", _conv(rand(1, 2, 5, 4, 6), rand(3, 2, 3, 2, 1), strides=[1, 2, 2])),
    _case("ConvTranspose", 7, "conv_transpose", _transposed(rand(4, 3, 3, 3))),
    _case("ConvTranspose, strided", 7, "conv_transpose", _transposed(
        rand(4, 3, 3, 3), strides=[2, 3], pads=[1, 0, 1, 2], output_padding=[1, 0])),
    _case("ConvTranspose, grouped and dilated", 7, "conv_transpose", _transposed(
        rand(4, 3, 2, 3), group=2, dilations=[2, 1])),
    _case("ConvTranspose to a shape", 7, "conv_transpose", _transposed(
        rand(4, 3, 3, 3), strides=[2, 2], output_shape=[14, 12])),
    _case("ConvTranspose to an odd shape", 7, "conv_transpose", _transposed(
        rand(4, 3, 4, 4), strides=[2, 2], output_shape=[13, 13])),
    _case("ConvTranspose SAME_UPPER", 7, "conv_transpose", _transposed(
        rand(4, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER")),
    _case("ConvTranspose SAME_LOWER", 7, "conv_transpose", _transposed(
        rand(4, 3, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER")),
    _pool("MaxPool", 7, kernel_shape=[3, 2]), _pool("MaxPool", 7, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    _pool("MaxPool", 7, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    _pool("MaxPool", 10, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    _pool("MaxPool", 10, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    _pool("MaxPool", 10, kernel_shape=[2, 2], dilations=[2, 3]),
    _pool("MaxPool", 12, rand(1, 2, 5, 5, dtype=np.uint8), kernel_shape=[2, 2], pads=[1, 1, 0, 0]),
    _pool("AveragePool", 7, kernel_shape=[3, 2], pads=[1, 1, 1, 0]),
    _pool("AveragePool", 7, kernel_shape=[3, 2], pads=[1, 1, 1, 0], count_include_pad=1),
    _pool("AveragePool", 7, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    _pool("AveragePool", 10, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    _pool("AveragePool", 10, kernel_shape=[3, 3], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
    _pool("AveragePool", 19, kernel_shape=[2, 2], dilations=[2, 2]),
    _pool("AveragePool", 7, rand(1, 3, 8), kernel_shape=[3], strides=[2]),
]  # fmt: skip


def _stats(x: Array, n: int) -> dict[str, Array]:
    names = ("scale", "bias", "mean", "var")
    return {k: np.abs(rand(x.shape[1], seed=i)) + 0.1 for i, k in enumerate(names[:n])}


def _resize(opset: int, sizes: Any = None, scales: Any = None, **attrs: Any) -> Node:
    x = rand(1, 2, 4, 5)
    given = {"s": np.array((1, 1, *scales), np.float32)} if scales else {"z": ints(1, 2, *(sizes or ()))}
    if opset < 9:
        return Node("Upsample", {"x": x}, attrs={"scales": [1.0, 1.0, *(scales or ())], **attrs})
    if opset < 11:
        return Node("Upsample" if opset < 10 else "Resize", {"x": x}, given, attrs)
    roi = {} if opset >= 13 else {"roi": np.zeros(0, np.float32)}
    none = {"e": np.zeros(0, np.float32)} if sizes and opset < 13 else {}
    names = ["x", "roi" if roi else "", "s" if scales else "e" if none else "", *(["z"] if sizes else [])]
    return Node("Resize", {"x": x}, {**roi, **none, **given}, attrs, names)


NN = [
    _case("BatchNormalization", 7, "batch_norm", lambda _: Node(
        "BatchNormalization", {"x": IMAGE}, _stats(IMAGE, 4), {"epsilon": 0.01})),
    _case("BatchNormalization of a matrix", 9, "batch_norm", lambda _: Node(
        "BatchNormalization", {"x": rand(3, 5)}, _stats(rand(3, 5), 4))),
    _case("InstanceNormalization", 7, "instance_norm", lambda _: Node(
        "InstanceNormalization", {"x": IMAGE}, _stats(IMAGE, 2))),
    _case("LayerNormalization", 17, "layer_norm", lambda _: Node(
        "LayerNormalization", {"x": X}, {"s": rand(4), "b": rand(4, seed=1)})),
    _case("LayerNormalization of two axes", 17, "layer_norm", lambda _: Node(
        "LayerNormalization", {"x": X}, {"s": rand(3, 4)}, {"axis": 1, "epsilon": 0.1})),
    _case("RMSNormalization", 23, "rms_norm", lambda _: Node("RMSNormalization", {"x": X}, {"s": rand(4)})),
    _case("RMSNormalization of two axes", 23, "rms_norm", lambda _: Node(
        "RMSNormalization", {"x": X}, {"s": rand(3, 4)}, {"axis": -2, "epsilon": 0.1})),
    _case("LRN", 7, "lrn", lambda _: Node("LRN", {"x": IMAGE}, attrs={"size": 3, "alpha": 0.1, "bias": 2.0})),
    _case("LRN of an even size", 7, "lrn", lambda _: Node("LRN", {"x": IMAGE}, attrs={"size": 3, "beta": 0.5})),
    *(_case(f"MatMul {a}x{b}", 7, "matmul", lambda _, a=a, b=b: Node("MatMul", {"a": rand(*a), "b": rand(*b, seed=1)}))
      for a, b in (((3, 4), (4, 5)), ((4,), (4, 5)), ((2, 3, 4), (4,)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)))),
    _case("MatMul of integers", 9, "matmul", lambda _: Node(
        "MatMul", {"a": rand(3, 4, dtype=np.int32), "b": rand(4, 2, dtype=np.int32)})),
    _case("Gemm", 7, "gemm", lambda _: Node("Gemm", {"a": rand(3, 4)}, {"b": rand(4, 5), "c": rand(5, seed=1)})),
    _case("Gemm, transposed and scaled", 7, "gemm", lambda _: Node(
        "Gemm", {"a": rand(4, 3)}, {"b": rand(5, 4), "c": rand(3, 1)}, {"alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1})),
    _case("Gemm without a bias", 11, "gemm", lambda _: Node("Gemm", {"a": rand(3, 4)}, {"b": rand(4, 5)})),
    _case("Attention", 23, "attention", lambda _: Node("Attention", {
        "q": rand(2, 3, 4, 8), "k": rand(2, 3, 5, 8, seed=1), "v": rand(2, 3, 5, 6, seed=2)})),
    _case("Attention, masked", 23, "attention", lambda _: Node("Attention", {
        "q": rand(2, 3, 4, 8), "k": rand(2, 3, 5, 8, seed=1), "v": rand(2, 3, 5, 6, seed=2)},
        {"m": rand(4, 5)}, {"scale": 0.3})),
]  # fmt: skip

_HALF = "half_pixel"
RESIZE = [
    _case("Resize nearest twice", 7, "resize", lambda o: _resize(
        o, scales=(2, 3), mode="nearest", **({} if o < 11 else {
            "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}))),
    _case("Resize linear twice", 7, "resize", lambda o: _resize(
        o, scales=(2, 2), mode="linear", **({} if o < 11 else {"coordinate_transformation_mode": "asymmetric"}))),
    *(_case(f"Resize {m} {c} {s}", 11, "resize", lambda o, m=m, c=c, s=s: _resize(
        o, **s, mode=m, coordinate_transformation_mode=c))
      for m in ("nearest", "linear") for c in (_HALF, "asymmetric", "align_corners", "pytorch_half_pixel")
      for s in ({"sizes": (7, 3)}, {"scales": (1.5, 2.0)}, {"sizes": (1, 1)})
      if (m, c, s) != ("linear", "align_corners", {"sizes": (1, 1)})),
    *(_case(f"Resize by {r}", 11, "resize", lambda o, r=r: _resize(
        o, sizes=(6, 8), mode="nearest", nearest_mode=r))
      for r in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
]  # fmt: skip

AT = np.array([[0, 2, 1, -1], [1, 0, 2, -2]], np.int64)
PAIRS = np.array([[0, 2], [1, -1], [0, 2]], np.int64)
INDEXED = [
    _case("GatherElements", 11, "gather_elements", lambda _: Node("GatherElements", {"x": X[0], "i": AT})),
    _case("GatherElements of the last axis", 11, "gather_elements", lambda _: Node(
        "GatherElements", {"x": X[0]}, {"i": AT[:, :3].astype(np.int32)}, {"axis": -1})),
    _case("GatherND", 11, "gather_nd", lambda _: Node("GatherND", {"x": X}, {"i": PAIRS})),
    _case("GatherND of common axes", 12, "gather_nd", lambda _: Node(
        "GatherND", {"x": X, "i": PAIRS[:2, :, None]}, {}, {"batch_dims": 1})),
    _case("Scatter", 9, "scatter_elements", lambda o: Node(
        "Scatter" if o < 11 else "ScatterElements", {"x": X[0], "u": rand(2, 4)}, {"i": AT if o >= 11 else AT % 3}, {},
        ["x", "i", "u"])),
    *(_case(f"ScatterElements {how}", since, "scatter_elements", lambda _, how=how: Node(
        "ScatterElements", {"x": X[0], "i": AT, "u": rand(2, 4)}, {}, {"axis": 0, "reduction": how}))
      for how, since in (("add", 16), ("mul", 16), ("max", 18), ("min", 18))),
    _case("ScatterND", 11, "scatter_nd", lambda _: Node("ScatterND", {"x": X, "i": PAIRS, "u": rand(3, 4, seed=2)})),
    *(_case(f"ScatterND {how}", since, "scatter_nd", lambda _, how=how: Node(
        "ScatterND", {"x": X, "i": PAIRS, "u": rand(3, 4, seed=2)}, {}, {"reduction": how}))
      for how, since in (("add", 16), ("mul", 16), ("max", 18), ("min", 18))),
    _case("OneHot", 9, "one_hot", lambda _: Node("OneHot", {"i": ints(0, 2, 1)}, {"d": ints(3), "v": rand(2)})),
    _case("OneHot in front", 11, "one_hot", lambda _: Node(
        "OneHot", {"i": AT.astype(np.int32)}, {"d": np.array(3, np.int32), "v": rand(2)}, {"axis": 0})),
    _case("Trilu", 14, "trilu", lambda _: Node("Trilu", {"x": X})),
    _case("Trilu below", 14, "trilu", lambda _: Node("Trilu", {"x": INTS}, {"k": np.int64(-1)}, {"upper": 0})),
    _case("ReverseSequence", 10, "reverse_sequence", lambda _: Node(
        "ReverseSequence", {"x": rand(4, 3, 2), "n": ints(1, 4, 2)})),
    _case("ReverseSequence of rows", 10, "reverse_sequence", lambda _: Node(
        "ReverseSequence", {"x": X, "n": ints(3, 2)}, {}, {"time_axis": 1, "batch_axis": 0})),
    _case("CumSum", 11, "cum_sum", lambda _: Node("CumSum", {"x": X}, {"a": np.int64(1)})),
    _case("CumSum from the end", 11, "cum_sum", lambda _: Node(
        "CumSum", {"x": INTS}, {"a": np.int32(-1)}, {"exclusive": 1, "reverse": 1})),
    _case("CumProd", 26, "cum_prod", lambda _: Node("CumProd", {"x": X}, {"a": np.int64(2)}, {"exclusive": 1})),
    _case("TopK", 7, "top_k", lambda o: Node(
        "TopK", {"x": X}, {"k": ints(3)} if o >= 10 else {}, {} if o >= 10 else {"k": 3}, outputs=["y", "z"])),
    _case("TopK of the smallest", 11, "top_k", lambda _: Node(
        "TopK", {"x": INTS}, {"k": ints(2)}, {"axis": 1, "largest": 0}, outputs=["y", "z"])),
]  # fmt: skip

SCALE, SCALES = np.array(0.02, np.float32), np.array([0.02, 0.01, 0.05], np.float32)
ZERO, ZEROS = np.array(7, np.uint8), np.array([3, 0, 250], np.uint8)
BYTES = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
FILTERS = np.arange(-27, 27, dtype=np.int8).reshape(2, 3, 3, 3)
QUANTIZED = [
    _case("QuantizeLinear", 10, "quantize", lambda _: Node("QuantizeLinear", {"x": X}, {"s": SCALE, "z": ZERO})),
    _case("QuantizeLinear to s8, by channel", 13, "quantize", lambda _: Node(
        "QuantizeLinear", {"x": X}, {"s": SCALES, "z": ZEROS.astype(np.int8)}, {"axis": 1})),
    _case("DequantizeLinear", 10, "dequantize", lambda _: Node(
        "DequantizeLinear", {"x": BYTES}, {"s": SCALE, "z": ZERO})),
    _case("DequantizeLinear of sums", 13, "dequantize", lambda _: Node(
        "DequantizeLinear", {"x": BYTES.astype(np.int32)}, {"s": SCALES})),
    _case("DynamicQuantizeLinear", 11, "dynamic_quantize", lambda _: Node(
        "DynamicQuantizeLinear", {"x": X}, outputs=["y", "s", "z"])),
    _case("QLinearConv", 10, "dequantize conv quantize", lambda _: Node(
        "QLinearConv", {"x": BYTES}, {"xs": SCALE, "xz": ZERO, "w": FILTERS, "ws": SCALE, "wz": np.int8(0), "ys": SCALE,
                                      "yz": ZERO}, {"pads": (1, 1, 1, 1)})),
    _case("QLinearMatMul", 10, "dequantize matmul quantize", lambda _: Node(
        "QLinearMatMul", {"a": BYTES}, {"as": SCALE, "az": ZERO, "b": FILTERS[0, 0].repeat(5, 0)[:5], "bs": SCALE,
                                        "bz": np.int8(0), "ys": np.float32(0.3), "yz": ZERO})),
]  # fmt: skip

CASES = [*UNARY, *BINARY, *VARIADIC, *MOVEMENT, *REDUCE, *CONV, *NN, *RESIZE, *INDEXED, *QUANTIZED]
