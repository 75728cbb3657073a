"""Goldens: a pipeline, a graph, and the graph and remarks that come out of it.

Each run also checks that text round-trips, that every stage verifies, that a second run of the
pipeline changes nothing, and that the numbers stay. `pytest tests/test_golden.py --update` writes
what came out into the files; read the diff before committing it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt.passes as passes
from graphopt.activations import SampleRuns
from graphopt.analysis.interpret import interpret, random_inputs
from graphopt.ir.clone import clone_module
from graphopt.ir.parser import parse
from graphopt.ir.printer import to_text
from graphopt.ir.types import Array
from graphopt.ir.verify import verify
from graphopt.onnx.evaluate import evaluate_opaque
from graphopt.passes.table import RulePass
from graphopt.pipeline import Context, Pass, parse_pipeline, run_pipeline
from graphopt.rewrite import Rule
from graphopt.targets import machine
from graphopt.targets.catalog import KernelCatalog

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(FOLDER.rglob("*.gir"))
SAMPLES = 4  # seeded runs, for passes that look at values
CATALOGS = {"group": KernelCatalog(machine=machine.load("avx512vnni"))}  # for passes that ask one
HEAD, EXPECT = "// passes: ", "// expect:\n"


def name(path: Path) -> str:
    """`simplify/relu-twice`."""
    return str(path.relative_to(FOLDER).with_suffix(""))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    """One file."""
    head, _, rest = path.read_text().partition("\n")
    before, _, want = rest.partition(EXPECT)
    pipeline = parse_pipeline(head.removeprefix(HEAD), passes.PIPELINES)
    module = parse(before, path.name)
    verify(module)
    assert to_text(parse(to_text(module))) == to_text(module)
    inputs = random_inputs(module)
    reference = interpret(module, inputs, opaque=evaluate_opaque)
    original = clone_module(module)
    seeded = SampleRuns(lambda: [random_inputs(original, s) for s in range(SAMPLES)], SAMPLES, "")
    ctx = Context(evaluate=evaluate_opaque, catalog=CATALOGS.get(path.parent.name), samples=seeded)
    records = run_pipeline(pipeline, module, ctx)
    verify(module)
    effects = {p.effect for p in pipeline}
    loose = 250.0 if "lossy" in effects else 1.0 if "reassociating" in effects else 0.0
    compare(reference, interpret(module, inputs, opaque=evaluate_opaque), loose)
    remarks = "".join(f"// {r}\n" for record in records for r in record.remarks)
    again = run_pipeline(pipeline, module, ctx)
    assert not any(record.changed for record in again)
    got = module.to_text(elide=True) + remarks
    if request.config.getoption("--update"):
        path.write_text(f"{head}\n{before}{EXPECT}{got}")
    else:
        assert got == want


def compare(want: dict[str, Array], got: dict[str, Array], loose: float) -> None:
    """Equal bit by bit; up to rounding where a pass may reassociate (1), far more where it loses.

    There, a sum of n products in another order differs by n * 2^-24 of the sum of their magnitudes
    (float32), and the goldens' sums are of less than 200 terms around 1.
    """
    for a, b in zip(want.values(), got.values(), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if not loose:
            np.testing.assert_array_equal(a, b)
        else:
            scale = np.abs(a[np.isfinite(a)]).max(initial=1)
            np.testing.assert_allclose(a, b, rtol=1e-4 * loose, atol=2e-5 * loose * scale)


def tables() -> Iterator[tuple[str, Rule[Any]]]:
    """(pass, rule) for every rule of every pass that is a table."""
    for cls in Pass.members().values():
        if issubclass(cls, RulePass):
            yield from ((cls.name, r) for r in cls().rules(Context()))


@pytest.mark.parametrize(("owner", "rule"), list(tables()), ids=lambda x: getattr(x, "name", x))
def test_every_rule_has_a_golden(owner: str, rule: Rule[Any]) -> None:
    """A file of the rule's name, in which it is applied, and an algebra of one line."""
    assert "->" in rule.algebra
    owners = (owner, "simplify")  # `fuse` has some rules of `simplify` too
    found = [FOLDER / o / f"{rule.name}.gir" for o in owners]
    text = next(path for path in found if path.exists()).read_text()
    assert f"// applied: {rule.name} at" in text
