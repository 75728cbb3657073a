"""Passes over the graph IR. Importing this registers them all; see `graphopt passes`."""

from collections.abc import Mapping
from types import MappingProxyType

from graphopt.passes import (
    cluster,
    cse,
    dce,
    distill,
    expand,
    factorize,
    fold,
    fuse,
    group,
    half,
    halves,
    integers,
    layout,
    lowrank,
    phased,
    prune,
    quantize,
    reconstruct,
    recurrent,
    simplify,
    sparsify,
    tiles,
    winograd,
)

DEFAULT = "fold,simplify,cse,fuse,simplify,cse,dce"
PIPELINES: Mapping[str, str] = MappingProxyType({
    "default": DEFAULT,
    "int8": "smooth,calibrate,quantize,adaround,bias_correct",
})  # fmt: skip
"""What may stand for several passes in a pipeline's text, by name; a target may have its own."""

__all__ = [
    "DEFAULT",
    "PIPELINES",
    "cluster",
    "cse",
    "dce",
    "distill",
    "expand",
    "factorize",
    "fold",
    "fuse",
    "group",
    "half",
    "halves",
    "integers",
    "layout",
    "lowrank",
    "phased",
    "prune",
    "quantize",
    "reconstruct",
    "recurrent",
    "simplify",
    "sparsify",
    "tiles",
    "winograd",
]
