"""How much of a quantized model is in integers: a model that keeps layers float is easily exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU"}
MOVERS = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather",
          "MaxPool", "Pad", "Expand", "Concat", "Identity"}  # fmt: skip


def integer_layers(path: Path) -> tuple[int, int]:
    """Products whose two operands are dequantized integers, and all products."""
    nodes: Any = onnx.ModelProto.FromString(path.read_bytes()).graph.node
    makers = {name: node for node in nodes for name in node.output}
    layers = [node for node in nodes if node.op_type in LAYERS]
    return sum(all(_integer(n, makers) for n in layer.input[:2]) for layer in layers), len(layers)


def _integer(name: str, makers: dict[str, Any]) -> bool:
    """Whether a value is dequantized, moved about at most."""
    while (node := makers.get(name)) is not None and node.op_type in MOVERS:
        name = node.input[0]
    return node is not None and node.op_type == "DequantizeLinear"
