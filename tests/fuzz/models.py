# pyright: basic
# Mutations put anything anywhere: the point is that types do not hold.
"""The models that are mutated: those of models/, and small ones that hold what those lack."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper, parser

ROOT = Path(__file__).parents[2]

CONV = """<ir_version: 8, opset_import: ["" : 17]>
conv (float[1,3,8,8] x) => (float[1,5] y) {
  c1 = Conv <pads=[1,1,1,1], strides=[1,1], kernel_shape=[3,3]> (x, w1)
  n1 = BatchNormalization <epsilon=0.001> (c1, g, b, m, v)
  r1 = Relu (n1)
  p0 = Pad (r1, pads)
  c2 = Conv <group=8, dilations=[1,1]> (p0, w2, b2)
  a2 = Add (c2, r1)
  u2 = ConvTranspose <strides=[2,2]> (a2, wt)
  m2 = MaxPool <kernel_shape=[2,2], strides=[2,2]> (u2)
  v2 = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1> (m2)
  z2 = Resize <mode="nearest"> (v2, , scales)
  p = GlobalAveragePool (z2)
  f = Flatten <axis=1> (p)
  y = Gemm <transB=1, alpha=0.5> (f, w3, b3)
}"""
CONV_WEIGHTS = {
    "w1": (8, 3, 3, 3), "g": (8,), "b": (8,), "m": (8,), "v": (8,), "w2": (8, 1, 3, 3), "b2": (8,),
    "wt": (8, 4, 2, 2), "w3": (5, 4), "b3": (5,), "scales": [1.0, 1.0, 2.0, 2.0],
    "pads": [0, 0, 1, 1, 0, 0, 1, 1],
}  # fmt: skip

SHAPES = """<ir_version: 8, opset_import: ["" : 18]>
shapes (float[N,6,4] x, int64[2] k) => (float[N,M] y, float[A,B] z, float[O,P] o, float[C] r,
    int64[D] i) {
  s = Shape (x)
  n = Gather <axis=0> (s, zero)
  n1 = Unsqueeze (n, zero1)
  t = Concat <axis=0> (n1, minus)
  f = Reshape (x, t)
  l = Slice (f, zero1, twenty, one)
  y = Clip (l, low, high)
  o = ConstantOfShape (k)
  e = Expand (high, size)
  q = Tile (e, reps)
  z = Transpose <perm=[1,0]> (q)
  g = Range (from, to, step)
  h = Cast <to=1> (g)
  w = Where (yes, h, h)
  r = CumSum (w, zero)
  a, b = Split <axis=0, num_outputs=2> (g)
  top, at = TopK <axis=0> (g, one)
  nz = NonZero (r)
  i = Squeeze (at)
}"""
SHAPES_WEIGHTS = {
    "zero": np.int64(0), "zero1": [0], "minus": [-1], "twenty": [20], "one": [1], "low": np.float32(0),
    "high": np.float32(6), "size": [3, 2], "reps": [2, 1], "from": np.int64(0), "to": np.int64(8),
    "step": np.int64(1), "yes": np.array([True]),
}  # fmt: skip

CONTROL = """<ir_version: 8, opset_import: ["" : 17]>
control (float[2,3] x, bool cond, int64 trip) => (float[2,3] y, float[K,2,3] ys, float[2,3] z) {
  t = If (cond) <
    then_branch = yes () => (float[2,3] a) { a = Add (x, w) },
    else_branch = no () => (float[2,3] b) { c = Mul (x, w)  b = Relu (c) } >
  count = Constant <value_int=4> ()
  go = Constant <value = bool {1}> ()
  y, ys = Loop (count, go, t) <
    body = step (int64 i, bool on, float[2,3] s) => (bool more, float[2,3] u, float[2,3] keep) {
      more = Identity (on)  u = Add (s, x)  keep = Tanh (u) } >
  z, zs = Scan <num_scan_inputs=1, body = scan (float[2,3] h, float[2,3] e)
     => (float[2,3] h2, float[2,3] o) { h2 = Add (h, e)  o = Mul (h2, w) } > (x, ys)
}"""
SEQUENCES = """<ir_version: 8, opset_import: ["" : 17]>
sequences (float[4,3] x) => (float[A,B] y, int64 n, float[C] m, seq(float[2,3]) all) {
  all = SplitToSequence <axis=0, keepdims=1> (x, two)
  first = SequenceAt (all, zero)
  more = SequenceInsert (all, first)
  less = SequenceErase (more, zero)
  y = ConcatFromSequence <axis=0> (less)
  n = SequenceLength (more)
  e = SequenceEmpty <dtype=1> ()
  c = SequenceConstruct (first, first)
  o = Optional (first)
  h = OptionalHasElement (o)
  g = OptionalGetElement (o)
  m = ReduceMean <axes=[0], keepdims=0> (g)
}"""
FUNCTIONS = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
functions (float[2,4] x) => (float[2,4] y) {
  a = local.norm <eps=0.1> (x, w)
  b = local.twice (a)
  y = Sub (b, x)
}
<domain: "local", opset_import: ["" : 17]>
norm <eps> (x, w) => (y) {
  e = Constant <value_float: float = @eps> ()
  m = ReduceMean <axes=[-1]> (x)  d = Sub (x, m)  q = Mul (d, d)
  s = ReduceMean <axes=[-1]> (q)  t = Add (s, e)  r = Sqrt (t)  n = Div (d, r)  y = Mul (n, w)
}
<domain: "local", opset_import: ["" : 17, "local" : 1]>
twice (x) => (y) { y = Add (x, x) }"""
RECURRENT = """<ir_version: 8, opset_import: ["" : 14]>
recurrent (float[5,2,3] x) => (float[5,1,2,4] y, float[S,D,B,H] g) {
  y, yh, yc = LSTM <hidden_size=4, direction="forward", activations=["Sigmoid","Tanh","Tanh"]>
    (x, w, r, b)
  g, gh = GRU <hidden_size=4, linear_before_reset=1> (x, gw, gr)
}"""
RECURRENT_WEIGHTS = {
    "w": (1, 16, 3),
    "r": (1, 16, 4),
    "b": (1, 32),
    "gw": (1, 12, 3),
    "gr": (1, 12, 4),
}
INTEGERS = """<ir_version: 8, opset_import: ["" : 17]>
integers (int32[3,4] x, int64[2] at, float[2,3] q) => (int32[3,4] y, int32[A,4] g, float[2,3] d,
    float[E,F] hot, int32[3,3] mm) {
  a = Div (x, seven)
  b = Mod (a, three)
  u = Cast <to=12> (b)
  s = BitShift <direction="LEFT"> (u, u)
  y = Cast <to=6> (s)
  g = Gather <axis=0> (x, at)
  qx = QuantizeLinear (q, scale, point)
  d = DequantizeLinear (qx, scale, point)
  hot = OneHot <axis=-1> (at, depth, values)
  xt = Transpose (x)
  mm = MatMul (x, xt)
}"""
INTEGERS_WEIGHTS = {
    "seven": np.int32(7), "three": np.int32(3), "scale": np.float32(0.1), "point": np.uint8(128),
    "depth": np.int64(5), "values": np.array([0, 1], np.float32),
}  # fmt: skip
ATTENTION = """<ir_version: 9, opset_import: ["" : 20]>
attention (float[2,4,8] x) => (float[2,4,8] y) {
  q = MatMul (x, wq)
  k = MatMul (x, wk)
  t = Transpose <perm=[0,2,1]> (k)
  s = MatMul (q, t)
  h = Mul (s, half)
  p = Softmax <axis=-1> (h)
  o = MatMul (p, x)
  n = LayerNormalization <axis=-1, epsilon=0.00001> (o, g, b)
  l = Gelu (n)
  y = Einsum <equation="abc,cd->abd"> (l, wq)
}"""
ATTENTION_WEIGHTS = {
    "wq": (8, 8), "wk": (8, 8), "half": np.float32(0.35), "g": (8,), "b": (8,),
}  # fmt: skip
OLD = """<ir_version: 3, opset_import: ["" : 9]>
old (float[1,2,4,4] x, float[4,2,1,1] w) => (float[Q,R] y) {
  c = Conv (x, w)
  p = Pad <mode="constant", pads=[0,0,1,1,0,0,1,1], value=0.5> (c)
  u = Upsample <mode="nearest"> (p, scales)
  s = Slice <starts=[0,1], ends=[4,3], axes=[2,3]> (u)
  d = Dropout <ratio=0.5> (s)
  q = ReduceSum <axes=[3], keepdims=0> (d)
  e = Squeeze <axes=[0]> (q)
  y = Softmax <axis=1> (e)
}"""
OLD_WEIGHTS = {"scales": [1.0, 1.0, 2.0, 2.0], "w": (4, 2, 1, 1)}

Weights = dict[str, object]


def built(text: str, weights: Weights) -> onnx.ModelProto:
    """A model from its text, with initializers: a tuple is a shape of seeded numbers."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(text)
    for name, given in weights.items():
        if isinstance(given, tuple):
            array = np.abs(rng.normal(size=given)).astype(np.float32)
        else:
            array = np.asarray(given)
            array = array.astype(np.float32) if array.dtype == np.float64 else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def attributes(custom: bool) -> onnx.ModelProto:
    """Constants of every sort; an op of an unknown domain with every sort of attribute."""
    model = built(CONV, CONV_WEIGHTS)
    tensor = numpy_helper.from_array(np.arange(6, dtype=np.int64), "t")
    values = numpy_helper.from_array(np.array([1, 2], np.float32), "values")
    indices = numpy_helper.from_array(np.array([0, 4], np.int64), "indices")
    sparse = helper.make_sparse_tensor(values, indices, [5])
    constant = helper.make_node("Constant", [], ["sparse"], "sparse", sparse_value=sparse)
    texts = helper.make_node("Constant", [], ["texts"], "texts", value_strings=["a", "b"])
    total = helper.make_node("Add", ["sparse", "b3"], ["sum"], "sum")
    model.graph.node.extend([constant, texts, total])
    model.graph.output.append(helper.make_tensor_value_info("sum", 1, [5]))
    model.graph.output.append(helper.make_tensor_value_info("texts", 8, [2]))
    if custom:
        model.graph.node.append(_custom(tensor, sparse))
        model.graph.output.append(onnx.ValueInfoProto(name="every"))
        model.opset_import.add(domain="custom", version=1)
    return model


def _custom(tensor: onnx.TensorProto, sparse: onnx.SparseTensorProto) -> onnx.NodeProto:
    inner = helper.make_node("Relu", ["y"], ["inner"])
    graph = helper.make_graph([inner], "g", [], [helper.make_tensor_value_info("inner", 1, None)])
    node = helper.make_node("Every", ["y"], ["every"], "every", domain="custom", t=tensor,
                            ts=[tensor, tensor], g=graph, gs=[graph], a=1, b=2.5, s="text",
                            i=[1, 2], fs=[1.0, 2.0], ss=["x", "y"])  # fmt: skip
    type_ = helper.make_tensor_type_proto(TensorProto.FLOAT, [1, "N"])
    node.attribute.add(name="tp", type=AttributeProto.TYPE_PROTO).tp.CopyFrom(type_)
    node.attribute.add(name="tps", type=AttributeProto.TYPE_PROTOS).type_protos.append(type_)
    node.attribute.add(name="sp", type=AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(sparse)
    return node


SMALL: dict[str, Callable[[], onnx.ModelProto]] = {
    "conv": lambda: built(CONV, CONV_WEIGHTS),
    "shapes": lambda: built(SHAPES, SHAPES_WEIGHTS),
    "control": lambda: built(CONTROL, {"w": (2, 3)}),
    "sequences": lambda: built(SEQUENCES, {"two": np.int64(2), "zero": np.int64(0)}),
    "functions": lambda: built(FUNCTIONS, {"w": (4,)}),
    "recurrent": lambda: built(RECURRENT, RECURRENT_WEIGHTS),
    "integers": lambda: built(INTEGERS, INTEGERS_WEIGHTS),
    "attention": lambda: built(ATTENTION, ATTENTION_WEIGHTS),
    "old": lambda: built(OLD, OLD_WEIGHTS),
    "constants": lambda: attributes(False),
    "custom": lambda: attributes(True),
}


@cache
def _bytes(name: str) -> bytes:
    if name in SMALL:
        return SMALL[name]().SerializeToString()
    return (ROOT / "models" / f"{name}.onnx").read_bytes()


def real() -> list[str]:
    """The names of the trained models of models/."""
    return sorted(p.stem for p in (ROOT / "models").glob("*.onnx"))


def model(name: str) -> onnx.ModelProto:
    """A fresh copy of a model."""
    return onnx.ModelProto.FromString(_bytes(name))
