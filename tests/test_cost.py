"""Counts of multiply-accumulates."""

from __future__ import annotations

import pytest

from graphopt.analysis.cost import macs
from graphopt.analysis.einsum import einsum_macs
from graphopt.ir.builtin import Opaque
from graphopt.ir.core import Graph, Op
from graphopt.ir.types import DType, Sym, TensorType


@pytest.mark.parametrize(("equation", "shapes", "count"), [
    ("ij,jk->ik", [(2, 3), (3, 5)], 30),
    ("ij , jk", [(2, 3), (3, 5)], 30),
    ("bhid,bhjd->bhij", [(2, 4, 7, 8), (2, 4, 9, 8)], 2 * 4 * 7 * 9 * 8),
    ("...ij,...jk->...ik", [(6, 2, 3), (4, 1, 3, 5)], 4 * 6 * 30),  # axes are aligned at the right
    ("ij,ij->ij", [(2, 3), (2, 3)], 6),
    ("i,j->ij", [(2,), (3,)], 6),
    ("ij,ij->", [(2, 3), (1, 3)], 6),
    ("ii->i", [(3, 3)], 0),
    ("ij,jk,kl->il", [(2, 3), (3, 5), (5, 7)], 30 + 2 * 5 * 7),
    ("ij,jk,k", [(2, 3), (3, 5), (5,)], 30 + 2 * 5),  # the result is i
    ("ij,jk->ik", [(2, 3)], 0),
    ("ij,jk->ik", [(2,), (3, 5)], 0),
    ("ij,jk->ik", [(2, 3, 4), (3, 5)], 0),
])  # fmt: skip
def test_what_an_einsum_multiplies(
    equation: str, shapes: list[tuple[int, ...]], count: int
) -> None:
    assert einsum_macs(equation, shapes) == count


def test_an_einsum_counts_by_the_types_of_its_operands() -> None:
    types = [TensorType(DType.f32, s) for s in (((Sym("N"), 4, 6)), (6, 5))]
    graph = Graph(types)
    kind = Opaque("Einsum", "", 12, (("equation", "nij,jk->nik"),))
    op = Op(kind, graph.args, [TensorType(DType.f32, (Sym("N"), 4, 5))])
    assert macs(op) == 4 * 6 * 5  # a symbolic size counts as 1
    other = Op(Opaque("Einsum", "elsewhere", 1), graph.args, [types[0]])
    assert macs(other) == 0
