# pyright: basic
# Tables of cases of mixed types.
"""Reductions, softmax and normalisations: kernels against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernelcheck import block, check, runnable

KINDS = ["sum", "mean", "max", "min", "prod", "l1", "l2", "sum_square", "log_sum_exp"]
SHAPES = [
    ((4, 70), (1,), True),
    ((4, 5, 6), (0, 2), False),
    ((7, 32), (0,), True),
    ((3, 300), (0, 1), False),
]


def dims(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


def reduction(
    kind: str, shape: tuple[int, ...], axes: tuple[int, ...], keep: bool, dtype: str = "f32"
) -> str:
    out = tuple(1 if a in axes else d for a, d in enumerate(shape) if keep or a not in axes)
    return f"""graph @k(%x: {dtype}[{dims(shape)}]) {{
      %y = {kind}(%x) {{axes=[{dims(axes)}],keepdims={str(keep).lower()}}} : {dtype}[{dims(out)}]
      return(%y) }}"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_reduction(kind: str, case: tuple) -> None:
    shape, axes, keep = case
    rng = np.random.default_rng(1)
    x = rng.uniform(0.9, 1.1, shape).astype(np.float32)  # so that products stay finite
    check(reduction(f"reduce_{kind}", shape, axes, keep), arrays=[x], tolerance=1e-5)


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("channels", [64, 20])
def test_spatial_mean_of_blocks(channels: int, name: str) -> None:
    tag = f":aBcd{block(name)}b"
    for out in (tag, ""):
        check(
            f"""graph @k(%x: f32[2,{channels},7,5{tag}]) {{
          %y = reduce_mean(%x) {{axes=[2,3]}} : f32[2,{channels},1,1{out}]
          return(%y) }}""",
            name,
        )
    check(
        f"""graph @k(%x: f32[2,{channels},7,5{tag}]) {{
      %y = reduce_mean(%x) {{axes=[2,3],keepdims=false}} : f32[2,{channels}]
      return(%y) }}""",
        name,
    )


@pytest.mark.parametrize("dtype", ["i64", "i32", "f64"])
def test_other_element_types(dtype: str) -> None:
    check(reduction("reduce_sum", (3, 100), (1,), True, dtype), tolerance=1e-12)
    check(reduction("reduce_max", (3, 100), (0,), True, dtype), tolerance=0)


@pytest.mark.parametrize("kind", ["reduce_max", "reduce_min"])
def test_nan_wins_an_extreme(kind: str) -> None:
    x = np.ones((4, 70), np.float32)
    x[1, 3] = x[2, 69] = np.nan
    check(reduction(kind, (4, 70), (1,), True), arrays=[x])


@pytest.mark.parametrize("kind", ["arg_max", "arg_min"])
@pytest.mark.parametrize("last", ["true", "false"])
@pytest.mark.parametrize("dtype", ["f32", "i32"])
def test_index_of_extreme(kind: str, last: str, dtype: str) -> None:
    check(f"""graph @k(%x: {dtype}[3,20,5]) {{
      %y = {kind}(%x) {{axis=1,keepdims=false,select_last={last}}} : i64[3,5]
      return(%y) }}""")


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("kind", ["softmax", "log_softmax"])
@pytest.mark.parametrize(("shape", "axis", "blocked"), [
    ((4, 10), -1, False), ((2, 3, 100), -1, False), ((2, 32, 5, 4), 1, False), ((2, 20, 5, 4), 1, True),
])  # fmt: skip
def test_softmax(kind: str, shape: tuple, axis: int, blocked: bool, name: str) -> None:
    tag = f":aBcd{block(name)}b" if blocked else ""
    check(
        f"""graph @k(%x: f32[{dims(shape)}{tag}]) {{
      %y = {kind}(%x) {{axis={axis}}} : f32[{dims(shape)}{tag}]
      return(%y) }}""",
        name,
    )


@pytest.mark.parametrize(("kind", "shape", "parameters", "attrs", "bias"), [
    ("layer_norm", "2,7,96", "96", "", True), ("layer_norm", "2,7,50", "50", "", False),
    ("layer_norm", "2,3,5,4", "5,4", "{axis=-2}", True), ("rms_norm", "2,7,96", "96", "", False),
    ("instance_norm", "2,6,5,7", "6", "", True), ("instance_norm", "2,20,5,7:aBcd16b", "20", "", True),
])  # fmt: skip
def test_norm(kind: str, shape: str, parameters: str, attrs: str, bias: bool) -> None:
    more, use = (f", %b: f32[{parameters}]", ", %b") if bias else ("", "")
    check(
        f"""graph @k(%x: f32[{shape}], %s: f32[{parameters}]{more}) {{
      %y = {kind}(%x, %s{use}) {attrs} : f32[{shape}]
      return(%y) }}""",
        tolerance=1e-5,
    )


def test_lrn() -> None:
    check("""graph @k(%x: f32[2,12,4,5]) {
      %y = lrn(%x) {size=5,alpha=0.1} : f32[2,12,4,5]
      return(%y) }""")


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize(("shape", "options"), [
    ("2,36,9,11", "size=5,alpha=0.1"), ("1,64,3,5", "size=4,alpha=0.2,beta=0.6"),
    ("1,20,7", "size=1,bias=2.0"), ("1,32,2,3,4", "size=37,alpha=0.5"),
])  # fmt: skip
def test_lrn_in_blocks(shape: str, options: str, name: str) -> None:
    tag = f"aB{'cde'[: shape.count(',') - 1]}{block(name)}b"
    check(
        f"""graph @k(%x: f32[{shape}:{tag}]) {{
      %l = lrn(%x) {{{options}}} : f32[{shape}:{tag}]
      %y = relu(%l) : f32[{shape}:{tag}]
      return(%y) }}""",
        name,
    )


def test_batch_norm() -> None:
    p = ", ".join(f"%{n}: f32[32]" for n in "sbm")
    v = np.linspace(0.5, 2, 32).astype(np.float32)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((2, 32, 4, 5), 32, 32, 32)]
    check(
        f"""graph @k(%x: f32[2,32,4,5:aBcd16b], {p}, %v: f32[32]) {{
      %y = batch_norm(%x, %s, %b, %m, %v) : f32[2,32,4,5:aBcd16b]
      return(%y) }}""",
        arrays=[*arrays, v],
    )
