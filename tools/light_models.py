"""Runnable models out of ONNX's light_*.onnx: nine ImageNet CNNs, their weights drawn from a seed.

    python tools/light_models.py OUT_DIR [NAME...]       # light_resnet50 ...; all nine: 0.8 GB

`onnx.backend.test` ships the structures with weights that are ConstantOfShape nodes. Here each
becomes an initializer of numbers that fit its role, so that activations neither vanish nor explode:

    convolution, Gemm: normal, variance 2 / fan-in (He et al., arXiv 1502.01852), in residual
        networks 1 / fan-in, because each block adds its variance; biases: 0.05 N(0, 1)
    BatchNorm: scale, variance in [0.7, 1.3]; mean, bias: 0.1 N(0, 1); Mul and Add after it likewise
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Floats = NDArray[np.float32]
BIASES = {("Conv", 2), ("Gemm", 2)}
SCALES = {("BatchNormalization", 1), ("BatchNormalization", 4), ("Mul", 0), ("Mul", 1)}
VIEWS = ("Unsqueeze", "Reshape")


def sources() -> dict[str, Path]:
    """The structures that the installed onnx ships, by name."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return {p.stem: p for p in sorted(folder.glob("light_*.onnx"))}


def roles(graph: onnx.GraphProto) -> dict[str, tuple[str, int]]:
    """What reads each tensor, (op type, operand), looking through views."""
    found: dict[str, tuple[str, int]] = {}
    views: dict[str, str] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            found.setdefault(name, (node.op_type, i))
        if node.op_type in VIEWS:
            views[node.input[0]] = node.output[0]
    return {name: _through(name, found, views) for name in found}


def _through(
    name: str, found: dict[str, tuple[str, int]], views: dict[str, str]
) -> tuple[str, int]:
    while found[name][0] in VIEWS and views.get(name) in found:
        name = views[name]
    return found[name]


def draw(
    role: tuple[str, int], shape: tuple[int, ...], gain: float, rng: np.random.Generator
) -> Floats:
    """Numbers for a weight of a role; `gain` is what fan-in divides."""
    if role in SCALES:
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    normal = rng.standard_normal(shape, np.float32)
    if role in BIASES:
        return normal * np.float32(0.05)
    if len(shape) >= 2 and role[0] in ("Conv", "Gemm"):
        return normal * np.float32(math.sqrt(gain / math.prod(shape[1:])))
    return normal * np.float32(0.1)


def _shapes(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The float weights and their shapes: the initializers, and what ConstantOfShape nodes make."""
    known = {t.name: t for t in graph.initializer}
    for t in graph.initializer:
        if t.data_type == onnx.TensorProto.FLOAT:
            yield t.name, tuple(t.dims)
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            yield node.output[0], tuple(numpy_helper.to_array(known[node.input[0]]).tolist())


def fill(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The model with seeded weights as initializers; the network itself is untouched."""
    graph, rng = model.graph, np.random.default_rng(seed)
    role = roles(graph)
    gain = 1.0 if any(n.op_type == "Sum" for n in graph.node) else 2.0
    weights = [numpy_helper.from_array(draw(role[name], shape, gain, rng), name)
               for name, shape in _shapes(graph) if name in role]  # fmt: skip
    nodes = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    read = {name for n in nodes for name in n.input}
    integers = [
        t for t in graph.initializer if t.name in read and t.data_type == onnx.TensorProto.INT64
    ]
    fixed = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in fixed]
    made = onnx.helper.make_graph(nodes, graph.name, inputs, graph.output, [*integers, *weights])
    return onnx.helper.make_model(made, opset_imports=model.opset_import, ir_version=4)


def main() -> None:
    """Write the models asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(sources()))
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    for name in o.names or sources():
        path = o.out / f"{name}.onnx"
        model = onnx.ModelProto.FromString(sources()[name].read_bytes())
        path.write_bytes(fill(model, o.seed).SerializeToString())
        print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
