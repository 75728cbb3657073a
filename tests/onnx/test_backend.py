"""ONNX's own node tests: a quick part by default, all of them with -m slow."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "backend_suite.py"


@pytest.fixture(scope="module")
def suite() -> ModuleType:
    spec = importlib.util.spec_from_file_location("backend_suite", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["backend_suite"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("names", ["_pad", "conv", "reduce_l", "slice", "loop", "sequence", "softmax_"])
def test_some(suite: ModuleType, names: str) -> None:
    outcomes = [suite.run_case(c) for c in suite.cases(names)]
    assert suite.report(outcomes, verbose=False)


@pytest.mark.slow
@pytest.mark.parametrize("passes", ["", "default"])
def test_all(suite: ModuleType, passes: str) -> None:
    outcomes = [suite.run_case(c, passes) for c in suite.cases()]
    assert sum(o.ran for o in outcomes) > 2500
    assert suite.report(outcomes, verbose=True)
