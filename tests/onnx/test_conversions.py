"""Every modelled kind at every opset: read and interpreted, read and written, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.analysis.interpret import interpret
from graphopt.errors import InputError, UnsupportedError
from graphopt.ir.builtin import Const, Opaque, Return
from graphopt.ir.core import Module, OpKind
from graphopt.ir.verify import verify
from graphopt.onnx import Reference, evaluate_opaque, load, to_proto
from tests.onnx.models import CASES, OPSETS, Case, model, versions

NEWEST = OPSETS[-1]
QUICK = (7, 9, 10, 11, 13, 18, NEWEST)
ALL = pytest.param(OPSETS, marks=pytest.mark.slow, id="all")
LOWERED = {
    "reorder", "fused", "squeeze_excite", "lstm_scan", "gru_scan", "conv_winograd", "conv_integer",
    "matmul_integer", "requantize", "lookup", "calibrated", "part", "quantize_by_inverse",
}  # fmt: skip
IDS = [f"{i} {c.name}" for i, c in enumerate(CASES)]


def close(got: dict[str, Any], want: dict[str, Any], tolerance: float) -> None:
    assert list(got) == list(want)
    for name, a in want.items():
        assert got[name].dtype == a.dtype
        assert got[name].shape == a.shape
        np.testing.assert_allclose(got[name], a, rtol=tolerance, atol=tolerance)


def baselines(case: Case) -> Iterator[tuple[int, onnx.ModelProto, dict[str, Any], dict[str, Any]]]:
    """The case at each opset that redefines its op, where ONNX Runtime runs it."""
    for opset in versions(case):
        node = case.make(opset)
        proto = model(node, opset)
        try:
            reference = Reference(proto)
            outputs = reference.run(node.feeds)
        except InputError:
            continue
        if reference.engine == "onnxruntime":
            yield opset, proto, dict(node.feeds), outputs


def kinds(module: Module) -> tuple[str, ...]:
    return tuple(op.kind.name for op in module.main if not isinstance(op.kind, Return))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_each_opset(case: Case) -> None:
    ran = 0
    for opset, proto, feeds, want in baselines(case):
        module = load(proto)
        verify(module)
        made = [k for k in kinds(module) if k != "const" or "const" in case.kinds]
        wanted = list(case.kinds)
        assert set(made) == set(wanted), f"opset {opset}: {made}"
        close(interpret(module, feeds, opaque=evaluate_opaque), want, case.tolerance)
        close(Reference(to_proto(module)).run(feeds), want, case.tolerance)
        ran += 1
    assert ran


@pytest.mark.parametrize("opsets", [pytest.param(QUICK, id="quick"), ALL])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_each_kind_at_each_opset(case: Case, opsets: tuple[int, ...]) -> None:
    """Read at the newest opset, written at all others: the same numbers, or one clear refusal."""
    runs = list(baselines(case))
    _, proto, feeds, want = runs[-1]
    module = load(proto)
    written: list[int] = []
    refusals: list[str] = []
    kernels: list[str] = []
    for opset in opsets:
        try:
            lowered = to_proto(module, opset=opset)
        except UnsupportedError as why:
            refusals.append(str(why))
            continue
        written.append(opset)
        assert lowered.opset_import[0].version == opset
        try:
            reference = Reference(lowered)
        except InputError as why:
            kernels.append(str(why))
            continue
        if reference.engine == "onnxruntime":
            close(reference.run(feeds), want, case.tolerance)
    assert all("opset" in r and "\n" not in r for r in refusals)
    assert all("NOT_IMPLEMENTED" in k for k in kernels)  # ONNX Runtime lacks a kernel
    assert set(written) >= {o for o, *_ in runs if o in opsets}, f"written at {written} only"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_symbolic_shapes(case: Case) -> None:
    """With every dimension unknown: modelled where it can be, and right in any case."""
    opset = max(case.since, 17)
    node = case.make(opset)
    proto = model(node, opset, dynamic=True)
    try:
        want = Reference(proto).run(node.feeds)
    except InputError:
        pytest.skip("ONNX Runtime has no kernel for it")
    module = load(proto)
    verify(module)
    close(interpret(module, node.feeds, opaque=evaluate_opaque), want, case.tolerance)
    close(Reference(to_proto(module)).run(node.feeds), want, case.tolerance)


def test_every_kind_is_reached() -> None:
    """The cases above reach every kind but those that only passes make."""
    reached = {k for c in CASES for k in c.kinds}
    made = {n for n, k in OpKind.registry.items() if not issubclass(k, Const | Opaque | Return)}
    ours = {n for n in made if OpKind.registry[n].__module__.startswith("graphopt.ops")}
    assert ours - reached <= LOWERED
