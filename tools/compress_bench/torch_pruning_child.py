"""Prune an ONNX model with Torch-Pruning, without training; run by the Python that has it.

    python torch_pruning_child.py IN.onnx OUT.onnx RATIO local|global

RATIO is the share of multiply-adds to save: the share of channels that saves it is found by
bisection. The importance is the L1 norm of groups (its MagnitudeImportance(p=1)); the classifier
keeps its outputs. Where it can't follow a model's additions (the padded shortcuts of CIFAR ResNets),
the layers that are added keep theirs, too. Prints JSON: seconds, and the share of multiply-adds that was saved.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from typing import Any

import onnx
import torch
import torch_pruning
from onnx2torch import convert

tp: Any = torch_pruning
STEPS = 12  # of the bisection
LAYERS = torch.nn.Linear | torch.nn.Conv2d


def fixed(model: Any, added: bool) -> list[Any]:
    """The layers that keep their outputs: the last one, and those whose results are `added`."""
    calls = [n for n in model.graph.nodes if n.op == "call_module"]
    layers = [n for n in calls if isinstance(model.get_submodule(n.target), LAYERS)]
    kept = [layers[-1], *(n for n in layers if added and reaches_addition(model, n))]
    return [model.get_submodule(n.target) for n in kept]


def reaches_addition(model: Any, node: Any) -> bool:
    """Whether an addition reads a layer's result, through normalisations and activations."""
    for user in node.users:
        if user.op != "call_module":
            continue
        inner = model.get_submodule(user.target)
        if "BinaryMath" in type(inner).__name__:
            return True
        if not isinstance(inner, LAYERS) and reaches_addition(model, user):
            return True
    return False


def pruned(model: Any, example: Any, channels: float, everywhere: bool, added: bool) -> Any:
    """A copy with a share of its channels removed."""
    found = copy.deepcopy(model)
    pruner = tp.pruner.MagnitudePruner(
        found, example, importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=channels,
        global_pruning=everywhere, ignored_layers=fixed(found, added),
    )  # fmt: skip
    pruner.step()
    found(example)
    return found


def macs(model: Any, example: Any) -> float:
    """Multiply-adds of a run."""
    return float(tp.utils.count_ops_and_params(model, example)[0])


def searched(model: Any, example: Any, ratio: float, everywhere: bool, added: bool) -> Any:
    """The model with just so many channels removed that it saves `ratio`."""
    whole, low, high = macs(model, example), 0.0, 0.95
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = pruned(model, example, middle, everywhere, added)
        enough = 1 - macs(found, example) / whole >= ratio
        low, high = (low, middle) if enough else (middle, high)
    return pruned(model, example, high, everywhere, added)


def main() -> None:
    """Prune, write, report."""
    source, out, ratio, where = sys.argv[1:]
    torch.manual_seed(0)
    given = onnx.load(source).graph.input[0]
    shape = [d.dim_value or 1 for d in given.type.tensor_type.shape.dim]
    example, model = torch.randn(shape), convert(source).eval()
    began, everywhere = time.perf_counter(), where == "global"
    try:
        found = searched(model, example, float(ratio), everywhere, added=False)
    except RuntimeError:  # shapes that don't fit any more
        found = searched(model, example, float(ratio), everywhere, added=True)
    saved = 1 - macs(found, example) / macs(model, example)
    told = {"seconds": time.perf_counter() - began, "saved": saved}
    torch.onnx.export(found, (example,), out, input_names=[given.name], dynamo=False,
                      dynamic_axes={given.name: {0: "N"}})  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main()
