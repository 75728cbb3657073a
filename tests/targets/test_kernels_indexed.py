# pyright: basic
# Tables of cases of mixed types.
"""Kernels that index, sort, accumulate and scatter, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.parser import parse
from tests.kernelcheck import check, run

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def places(size: int, *shape: int, dtype: type = np.int64) -> np.ndarray:
    """Indices, negative ones too."""
    return RNG.integers(-size, size, shape).astype(dtype)


GATHERS = [
    ("%x: f32[3,4,5], %i: i64[2,4,5]", "gather_elements(%x, %i)", [floats(3, 4, 5), places(3, 2, 4, 5)]),
    ("%x: i64[3,4], %i: i32[3,6]", "gather_elements(%x, %i) {axis=1}",
     [places(9, 3, 4), places(4, 3, 6, dtype=np.int32)]),
    ("%x: f32[3,4,5], %i: i64[6,2]", "gather_nd(%x, %i)", [floats(3, 4, 5), places(3, 6, 2)]),
    ("%x: f32[3,4,5], %i: i64[3,7,1]", "gather_nd(%x, %i) {batch_dims=1}", [floats(3, 4, 5), places(4, 3, 7, 1)]),
    ("%x: f32[3,4], %i: i64[2]", "gather_nd(%x, %i)", [floats(3, 4), places(3, 2)]),
    ("%i: i64[2,3], %v: f32[2]", "one_hot(%i, %v) {depth=5}", [np.array([[0, -1, 4], [-5, 7, -9]]), floats(2)]),
    ("%i: i32[4], %v: i64[2]", "one_hot(%i, %v) {depth=3,axis=0}", [places(5, 4, dtype=np.int32), places(9, 2)]),
    *((f"%x: {t}[2,5,6]", f"trilu(%x) {{upper={u},k={k}}}", None)
      for t, u, k in (("f32", "true", 0), ("i64", "false", -2), ("bool", "true", 3), ("f32", "false", 9))),
    ("%x: f32[5,3,2], %n: i64[3]", "reverse_sequence(%x, %n)", [floats(5, 3, 2), np.array([5, 1, 3])]),
    ("%x: f32[3,5], %n: i64[3]", "reverse_sequence(%x, %n) {time_axis=1,batch_axis=0}",
     [floats(3, 5), np.array([2, 5, 0])]),
]  # fmt: skip


@pytest.mark.parametrize(("args", "op", "arrays"), GATHERS)
def test_gathering(args: str, op: str, arrays: list[np.ndarray] | None) -> None:
    check(f"graph @k({args}) {{ %y = {op}\n return(%y) }}", arrays=arrays)


def test_gathering_is_fused_with_what_follows() -> None:
    check(
        """graph @k(%x: f32[3,4], %i: i64[3,2]) {
      %g = gather_elements(%x, %i) {axis=1}
      %t = trilu(%g)
      %y = exp(%t)
      return(%y) }""",
        arrays=[floats(3, 4), places(4, 3, 2)],
    )


def test_an_index_out_of_range_reads_nothing_outside() -> None:
    graph = parse(
        "graph @k(%x: f32[4], %i: i64[3]) { %y = gather_elements(%x, %i)\n return(%y) }"
    ).main
    (got,) = run(graph, "avx2", [np.arange(4, dtype=np.float32), np.array([2**40, -(2**40), 9])])
    assert set(got.tolist()) <= {0.0, 3.0}


@pytest.mark.parametrize("kind", ["cum_sum", "cum_prod"])
@pytest.mark.parametrize("dtype", ["f32", "i64", "f64", "i32"])
@pytest.mark.parametrize(
    "options",
    [
        "axis=1",
        "axis=0,exclusive=true",
        "axis=-1,reverse=true",
        "axis=2,exclusive=true,reverse=true",
    ],
)
def test_running_totals(kind: str, dtype: str, options: str) -> None:
    check(
        f"graph @k(%x: {dtype}[3,7,5]) {{ %y = {kind}(%x) {{{options}}}\n return(%y) }}",
        tolerance=0,
    )


def test_running_totals_of_one_element() -> None:
    check("graph @k(%x: f32[1]) { %y = cum_sum(%x) {axis=0,exclusive=true}\n return(%y) }")


TIES = np.array([[3, 1, 3, 2, 2, 3, 0], [1, 1, 1, 1, 1, 1, 1]], np.float32)


@pytest.mark.parametrize(
    "options", ["k=3", "k=7,largest=false", "k=1,axis=0", "k=2,axis=0,largest=false"]
)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_the_k_largest_in_order_the_first_of_equals_first(options: str, dtype: type) -> None:
    name = {np.float32: "f32", np.int64: "i64", np.uint8: "u8"}[dtype]
    check(
        f"graph @k(%x: {name}[2,7]) {{ %v, %i = top_k(%x) {{{options}}}\n return(%v, %i) }}",
        arrays=[TIES.astype(dtype)],
    )


@pytest.mark.parametrize("largest", ["true", "false"])
def test_the_k_largest_of_many_rows_with_nan(largest: str) -> None:
    x = floats(300, 40)
    x[RNG.random(x.shape) < 0.1] = np.nan
    graph = parse(
        f"graph @k(%x: f32[300,40]) {{ %v, %i = top_k(%x) {{k=9,largest={largest}}}\n return(%v, %i) }}"
    ).main
    values, where = run(graph, "avx2", [x])
    np.testing.assert_array_equal(np.take_along_axis(x, where, 1), values)
    wanted = np.sort(x, axis=1)
    np.testing.assert_array_equal(
        values, wanted[:, ::-1][:, :9] if largest == "true" else wanted[:, :9]
    )


SCATTERS = [
    ("%x: f32[3,4], %i: i64[2,4], %u: f32[2,4]", "scatter_elements", [floats(3, 4), places(3, 2, 4), floats(2, 4)]),
    ("%x: i64[3,4], %i: i32[3,6], %u: i64[3,6]", "scatter_elements|axis=1",
     [places(9, 3, 4), places(4, 3, 6, dtype=np.int32), places(9, 3, 6)]),
    ("%x: f32[3,4,5], %i: i64[4,2], %u: f32[4,5]", "scatter_nd", [floats(3, 4, 5), places(3, 4, 2), floats(4, 5)]),
    ("%x: f32[6], %i: i64[9,1], %u: f32[9]", "scatter_nd", [floats(6), places(6, 9, 1), floats(9)]),
]  # fmt: skip


@pytest.mark.parametrize("reduction", ["set", "add", "mul", "min", "max"])
@pytest.mark.parametrize(("args", "op", "arrays"), SCATTERS)
def test_scattering(args: str, op: str, arrays: list[np.ndarray], reduction: str) -> None:
    kind, _, options = op.partition("|")
    options = ",".join(filter(None, [options, f"reduction={reduction}"]))
    check(
        f"graph @k({args}) {{ %y = {kind}(%x, %i, %u) {{{options}}}\n return(%y) }}", arrays=arrays
    )


def test_a_constant_of_one_element_is_an_immediate() -> None:
    check("""graph @k(%x: f32[5]) {
      %i = const dense [3] : i64[1]
      %u = const dense [2.5] : f32[1]
      %y = scatter_elements(%x, %i, %u) {reduction=add}
      return(%y) }""")
