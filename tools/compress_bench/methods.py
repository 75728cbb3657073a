"""The methods that are compared: our pipelines by what they save and how they are repaired, peers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quant_bench.methods import Method

CHILDREN = {
    "graphopt": Path(__file__).with_name("child.py"),
    "torch_pruning": Path(__file__).with_name("torch_pruning_child.py"),
}
SAVED = (30, 50)  # percent of the multiply-adds
REWRITES = {
    "factorize": "factorize{{ratio={0}}}",
    "lowrank": "lowrank{{ratio={0}}}",
    "prune": "prune{{ratio={0},criterion=reconstruct}}",
}
PLAIN = "default,prune{{ratio={0},criterion=l1}}"
DISTILL = "distill{epochs=6}"
REPAIR = "reconstruct{samples=1024}"  # all of them: rows are judged by samples of their own


def ours(name: str, passes: str) -> Method:
    """One of our pipelines."""
    return Method(name, "graphopt", {"passes": passes})


def methods(distill: str = DISTILL) -> Iterator[Method]:
    """All rows of a task, in order; their names are `METHOD-PERCENT`, then what repairs."""
    for percent in SAVED:
        ratio = percent / 100
        for name, text in REWRITES.items():
            passes = f"default,{text.format(ratio)}"
            yield ours(f"{name}-{percent}", passes)
            yield ours(f"{name}-{percent}+reconstruct", f"{passes},{REPAIR}")
            yield ours(f"{name}-{percent}+distill", f"{passes},{REPAIR},{distill}")
        yield ours(f"l1-{percent}", PLAIN.format(ratio))
        for where in ("local", "global"):
            options = {"ratio": ratio, "everywhere": where == "global"}
            yield Method(f"Torch-Pruning {where}-{percent}", "torch_pruning", options)
