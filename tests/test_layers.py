"""Imports go one way; the front door is fast; the compiler stays in its folder."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"errors", "lazy", "later"}, {"scanner"}, {"spec", "limits", "portions", "blas", "folders"}, {"ir"}, {"ops"}, {"onnx", "rewrite", "analysis"}, {"loss"}, {"pipeline", "choices"},
    {"perturb"}, {"hooks", "data", "activations", "verify", "exact"}, {"judge", "generate"}, {"truth", "attempts"}, {"passes"}, {"targets"}, {"report"}, {"measure"}, {"profiler"}, {"account"}, {"request"}, {"job"}, {"api"}, {"cli"},
]  # fmt: skip
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}
# The facade: Module.save and the public names, each loading the layer above on first use; and the
# type of LimitError.best.
FACADE = {("graphopt/ir/core.py", "graphopt.api"), ("graphopt/errors.py", "graphopt.api")}


def files() -> Iterator[tuple[str, str]]:
    for folder, package in (("graphopt", ""), ("passes", "passes"), ("targets", "targets")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT / folder)
            if not package and relative.parts[0] in ("passes", "targets"):
                continue  # the symlinks
            part = package or relative.parts[0].removesuffix(".py")
            yield str(path.relative_to(ROOT)), part


def imports(path: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(("path", "part"), list(files()))
def test_imports_go_one_way(path: str, part: str) -> None:
    if part == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "graphopt" or len(parts) < 2 or (path, ".".join(parts[:2])) in FACADE:
            continue
        if part == "runtime":
            assert parts[1] in ("errors", "runtime"), f"{path} imports {name}"
        elif parts[1] in RANK:
            assert RANK[parts[1]] <= RANK[part], f"{path} ({part}) imports {name}"


@pytest.mark.parametrize(("path", "part"), list(files()))
def test_heavy_packages_stay_in_their_folders(path: str, part: str) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        if top == "tvm":
            assert path.startswith("targets/tvm/"), f"{path} imports tvm"
        if top in ("onnx", "onnx_graphsurgeon"):
            assert path.startswith("graphopt/onnx/"), f"{path} imports {top}"
        assert top not in ("passes", "targets"), f"{path} imports the bare name {top}"


def test_the_front_door_loads_nothing_heavy() -> None:
    code = (
        "import graphopt, sys; print([m for m in ('tvm','onnxruntime','onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_library_loads_only_what_any_model_needs() -> None:
    late = ("passes.quantize", "passes.distill", "passes.prune", "targets.arm", "targets.emulator")
    code = (
        "import graphopt.api, sys\n"
        f"print([m for m in {late} if f'graphopt.{{m}}' in sys.modules])\n"
        "print([m for m in ('tvm', 'onnxruntime', 'scipy', 'networkx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


@pytest.mark.parametrize(("folder", "family"), [("passes", "Pass"), ("targets", "Target")])
def test_all_that_has_a_name_is_found_by_it(folder: str, family: str) -> None:
    module = {"Pass": "passes", "Target": "targets.base"}[family]
    code = (
        f"import graphopt.{module}, graphopt.pipeline, graphopt.targets.base as base\n"
        f"family = {{'Pass': graphopt.pipeline.Pass, 'Target': base.Target}}['{family}']\n"
        "print(*sorted(family.member_names()))\n"
        "assert all(family.member(n).name == n for n in family.member_names())\n"
        "print(*family.members())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = (line.split() for line in done.stdout.splitlines())
    assert before == after == sorted(named(folder))


def named(folder: str) -> Iterator[str]:
    """The names that classes of a folder's files are given."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                given = {k.arg: k.value for k in node.keywords}
                if isinstance(name := given.get("name"), ast.Constant):
                    yield str(name.value)
