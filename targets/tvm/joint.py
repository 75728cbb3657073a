"""Kernels that compute what would be several: which they are, and whether they pay. No TVM."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.core import Op
from graphopt.targets.machine import Machine
from graphopt.targets.tvm import chains, means, pools


def family(ops: Sequence[Op]) -> str | None:
    """The family of the kernel that computes a region's ops together; None if there is none."""
    if chains.chain_of(ops):
        return chains.FAMILY
    if means.mean_of(ops):
        return means.FAMILY
    found = pools.pooled_of(ops)
    if found is None:
        return None
    return pools.TILES if found.conv.kind.name == "conv_winograd" else pools.FAMILY


def pays(ops: Sequence[Op], machine: Machine) -> bool:
    """Whether that kernel is sooner done than those of its parts."""
    if chain := chains.chain_of(ops):
        return chains.pays(chain, machine)
    if mean := means.mean_of(ops):
        return means.pays(mean, machine)
    found = pools.pooled_of(ops)
    return found is not None and pools.pays(found, machine)
