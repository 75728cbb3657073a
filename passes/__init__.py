"""Passes over the graph IR. Importing this registers them all; see `graphopt passes`."""

from graphopt.passes import (
    cse,
    dce,
    distill,
    expand,
    fold,
    fuse,
    group,
    half,
    halves,
    integers,
    layout,
    lowrank,
    prune,
    quantize,
    reconstruct,
    recurrent,
    simplify,
    tiles,
    winograd,
)

DEFAULT = "fold,simplify,cse,fuse,simplify,cse,dce"

__all__ = [
    "DEFAULT",
    "cse",
    "dce",
    "distill",
    "expand",
    "fold",
    "fuse",
    "group",
    "half",
    "halves",
    "integers",
    "layout",
    "lowrank",
    "prune",
    "quantize",
    "reconstruct",
    "recurrent",
    "simplify",
    "tiles",
    "winograd",
]
