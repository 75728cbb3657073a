"""Prune an ONNX model with Torch-Pruning, without training; run by the Python that has it.

    python -P tools/compress_bench/torch_pruning_child.py \
        '{"model": ..., "out": ..., "ratio": 0.5, "everywhere": false}'

`ratio` is the share of multiply-adds to save: the share of channels that saves it is found by
bisection. The importance is the L1 norm of groups (its MagnitudeImportance(p=1)); the classifier
keeps its outputs. `everywhere`: channels of all layers are ranked together, not each layer's by
itself. Where it can't follow a model's additions (the padded shortcuts of CIFAR ResNets), the
layers that are added keep theirs, too. The ONNX file lies in the folder `out`. Prints JSON.
"""

from __future__ import annotations

import copy
import importlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

onnx: Any = importlib.import_module("onnx")
torch: Any = importlib.import_module("torch")
tp: Any = importlib.import_module("torch_pruning")
onnx2torch: Any = importlib.import_module("onnx2torch")

STEPS = 12  # of the bisection
LAYERS = (torch.nn.Linear, torch.nn.Conv2d)


@dataclass(frozen=True)
class Pruning:
    """A model to prune; `added`: layers that are added keep their channels."""

    model: Any
    example: Any
    everywhere: bool
    added: bool

    def pruned(self, channels: float) -> Any:
        """A copy with a share of its channels removed."""
        found = copy.deepcopy(self.model)
        pruner = tp.pruner.MagnitudePruner(
            found, self.example, importance=tp.importance.MagnitudeImportance(p=1),
            pruning_ratio=channels, global_pruning=self.everywhere,
            ignored_layers=fixed(found, self.added),
        )  # fmt: skip
        pruner.step()
        found(self.example)
        return found

    def macs(self, model: Any) -> float:
        """Multiply-adds of a run."""
        return float(tp.utils.count_ops_and_params(model, self.example)[0])

    def searched(self, ratio: float) -> Any:
        """The model with just so many channels removed that it saves `ratio`."""
        whole, low, high = self.macs(self.model), 0.0, 0.95
        for _ in range(STEPS):
            middle = (low + high) / 2
            enough = 1 - self.macs(self.pruned(middle)) / whole >= ratio
            low, high = (low, middle) if enough else (middle, high)
        return self.pruned(high)


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


def main() -> None:
    """Prune, write, report."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(job["threads"])
    graph = onnx.load(job["model"]).graph
    given, names = graph.input[0], [o.name for o in graph.output]
    shape = [d.dim_value or 1 for d in given.type.tensor_type.shape.dim]
    example, model = torch.randn(shape), onnx2torch.convert(job["model"]).eval()
    began, everywhere = time.perf_counter(), bool(job["everywhere"])
    try:
        found = Pruning(model, example, everywhere, added=False).searched(job["ratio"])
    except RuntimeError:  # shapes that don't fit any more
        found = Pruning(model, example, everywhere, added=True).searched(job["ratio"])
    seconds, out = time.perf_counter() - began, Path(job["out"])
    out.mkdir()
    torch.onnx.export(found, (example,), str(out / "model.onnx"), input_names=[given.name],
                      output_names=names, dynamo=False)  # fmt: skip
    print(json.dumps({"seconds": seconds, "version": tp.__version__}))


if __name__ == "__main__":
    main()
