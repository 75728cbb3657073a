"""Build a large transformer in ONNX with seeded weights, for measuring time and memory.

    python tools/build_transformer.py big.onnx            # about 2,600 nodes and 1.2 GB

Primitive ops only (LayerNorm, GELU and attention written out, shape computations kept), as
exporters of older opsets write them. The weights go to `<name>.data`, streamed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from onnx import TensorProto, helper


class Builder:
    """Collects nodes and streams weights."""

    def __init__(self, blob: IO[bytes], location: str, seed: int) -> None:
        """`location` is what the model calls the file `blob`."""
        self.blob, self.location = blob, location
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.count = 0

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output; give the output's name."""
        self.count += 1
        out = f"{op.lower()}_{self.count}"
        self.nodes.append(
            helper.make_node(op, inputs, [out], name=f"/{op}_{self.count}", **attributes)
        )
        return out

    def weight(self, *shape: int, scale: float = 0.02) -> str:
        """Append a float32 weight of seeded numbers, streamed to the blob."""
        self.count += 1
        tensor = TensorProto(name=f"w_{self.count}", data_type=TensorProto.FLOAT, dims=shape)
        array = self.rng.standard_normal(shape, np.float32) * np.float32(scale)
        tensor.data_location = TensorProto.EXTERNAL
        fields = {"location": self.location, "offset": self.blob.tell(), "length": array.nbytes}
        for key, value in fields.items():
            tensor.external_data.add(key=key, value=str(value))
        self.blob.write(array.tobytes())
        self.weights.append(tensor)
        return tensor.name

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        """A Constant node."""
        tensor = onnx.numpy_helper.from_array(np.asarray(value, dtype))
        return self.node("Constant", value=tensor)


def layer_norm(b: Builder, x: str, width: int) -> str:
    """LayerNorm, written out."""
    centred = b.node("Sub", x, b.node("ReduceMean", x, axes=[-1]))
    var = b.node("ReduceMean", b.node("Pow", centred, b.const(2.0)), axes=[-1])
    root = b.node("Sqrt", b.node("Add", var, b.const(1e-5)))
    scaled = b.node("Mul", b.node("Div", centred, root), b.weight(width, scale=1.0))
    return b.node("Add", scaled, b.weight(width))


def linear(b: Builder, x: str, inner: int, outer: int) -> str:
    """x @ W + b."""
    return b.node("Add", b.node("MatMul", x, b.weight(inner, outer)), b.weight(outer))


def heads(b: Builder, x: str, width: int, count: int, perm: list[int]) -> str:
    """Split into heads by the shape that the graph computes."""
    shape = b.node("Shape", x)
    axis = b.const([0], np.int64)
    sizes = [b.node("Unsqueeze", b.node("Gather", shape, b.const(i, np.int64)), axis)
             for i in (0, 1)]  # fmt: skip
    rest = [b.const([n], np.int64) for n in (count, width // count)]
    target = b.node("Concat", *sizes, *rest, axis=0)
    return b.node("Transpose", b.node("Reshape", x, target), perm=perm)


def block(b: Builder, x: str, width: int, count: int) -> str:
    """One pre-norm transformer block."""
    h = layer_norm(b, x, width)
    q, k, v = (linear(b, h, width, width) for _ in range(3))
    q, v = (heads(b, t, width, count, [0, 2, 1, 3]) for t in (q, v))
    k = heads(b, k, width, count, [0, 2, 3, 1])
    scores = b.node("Div", b.node("MatMul", q, k), b.const((width // count) ** 0.5))
    mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), v)
    flat = b.node(
        "Reshape", b.node("Transpose", mixed, perm=[0, 2, 1, 3]), b.const([0, 0, width], np.int64)
    )
    x = b.node("Add", x, linear(b, flat, width, width))
    h = linear(b, layer_norm(b, x, width), width, 4 * width)
    erf = b.node("Erf", b.node("Div", h, b.const(2**0.5)))
    gelu = b.node("Mul", b.node("Mul", h, b.node("Add", erf, b.const(1.0))), b.const(0.5))
    return b.node("Add", x, linear(b, gelu, 4 * width, width))


def build(path: Path, layers: int, width: int, count: int, length: int, seed: int) -> None:
    """Write the model and its data."""
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") as blob:
        b = Builder(blob, data.name, seed)
        x = "input"
        for _ in range(layers):
            x = block(b, x, width, count)
        x = layer_norm(b, x, width)
    b.nodes[-1].output[0] = "output"
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", length, width])
        for n in ("input", "output")
    ]
    graph = helper.make_graph(b.nodes, "transformer", ends[:1], ends[1:], b.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    print(f"{path}: {len(b.nodes)} nodes, {data.stat().st_size / 1e9:.2f} GB of weights")


def main() -> None:
    """Read the options and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--width", type=int, default=960)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    build(o.path, o.layers, o.width, o.heads, o.length, o.seed)


if __name__ == "__main__":
    main()
