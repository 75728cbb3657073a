"""Passes over the graph IR; see `graphopt passes`.

Importing this defines those that make any model exact and fast; the others are imported when they
are named, which halves what starting takes.
"""

from collections.abc import Mapping
from types import MappingProxyType

from graphopt.passes import (
    cse,
    dce,
    expand,
    fold,
    fuse,
    group,
    halves,
    integers,
    layout,
    phased,
    recurrent,
    scales,
    simplify,
    tiles,
    winograd,
)
from graphopt.pipeline import Pass

Pass.homes.update({
    "adaround": "graphopt.passes.quantize",
    "bias_correct": "graphopt.passes.quantize",
    "calibrate": "graphopt.passes.quantize",
    "cluster": "graphopt.passes.cluster",
    "distill": "graphopt.passes.distill",
    "equalize": "graphopt.passes.quantize",
    "factorize": "graphopt.passes.factorize",
    "half": "graphopt.passes.half",
    "lowrank": "graphopt.passes.lowrank",
    "prune": "graphopt.passes.prune",
    "quantize": "graphopt.passes.quantize",
    "reconstruct": "graphopt.passes.reconstruct",
    "smooth": "graphopt.passes.quantize",
    "sparsify": "graphopt.passes.sparsify",
})  # fmt: skip

DEFAULT = "fold,simplify,cse,fuse,simplify,cse,dce"
PIPELINES: Mapping[str, str] = MappingProxyType({
    "default": DEFAULT,
    "int8": "smooth,calibrate,quantize,adaround,bias_correct",
})  # fmt: skip
"""What may stand for several passes in a pipeline's text, by name; a target may have its own."""

__all__ = [
    "DEFAULT",
    "PIPELINES",
    "cse",
    "dce",
    "expand",
    "fold",
    "fuse",
    "group",
    "halves",
    "integers",
    "layout",
    "phased",
    "recurrent",
    "scales",
    "simplify",
    "tiles",
    "winograd",
]
