"""Run ONNX's own node tests through graphopt: load -> (passes) -> save must keep every output.

Every node test of `onnx.backend.test` that ONNX Runtime passes (its optimizer off) is run twice: as
it is, and with all operands but the first turned into constants, which lets ops with parameters
(Reshape, Pad ...) be modelled. `python tools/backend_suite.py --help`; exit code 1 unless all pass.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import onnx
from ml_dtypes import finfo
from onnx import numpy_helper

from graphopt.analysis.interpret import interpret
from graphopt.errors import GraphoptError
from graphopt.ir.builtin import Const, Opaque, Return
from graphopt.ir.core import Module
from graphopt.ir.types import DType
from graphopt.ir.verify import verify
from graphopt.onnx import Reference, evaluate_opaque, load, to_proto


@dataclass
class Case:
    """One test: a model, its inputs, and the outputs that the test expects."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Any]
    expected: list[Any]
    rtol: float
    atol: float


@dataclass
class Outcome:
    """What came of a case: `ran` tells whether the reference passes it; errors are sentences."""

    name: str
    ran: bool
    engine: str = ""
    error: str = ""
    numpy_error: str = ""
    identical: bool = False
    changed: bool = False
    kinds: Counter[str] = field(default_factory=Counter[str])


def cases(names: str = "") -> Iterator[Case]:
    """The node tests whose name contains `names`, each as it is and with constant operands."""
    from onnx.backend.test import loader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own tests overflow and divide by zero on purpose
        tests = loader.load_model_tests(kind="node")
    for test in tests:
        if names not in test.name or test.model is None or _ancient(test.model):
            continue
        for number, (inputs, outputs) in enumerate(test.data_sets or ()):
            name = f"{test.name}{f'#{number}' if number else ''}"
            names_of = (i.name for i in test.model.graph.input)
            fed = dict(zip(names_of, map(_array, inputs), strict=False))
            case = Case(name, test.model, fed, [*map(_array, outputs)], test.rtol, test.atol)
            yield case
            yield from _with_constants(case)


def _array(value: Any) -> Any:
    """A test's value as arrays: it may be a message, a numpy scalar, or a list of either."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list | tuple):
        return [_array(v) for v in cast("list[Any]", value)]
    return cast("Any", np.asarray)(value) if isinstance(value, np.generic) else value


def _ancient(model: onnx.ModelProto) -> bool:
    """Before opset 7, which graphopt doesn't read."""
    return any(o.domain == "" and o.version < 7 for o in model.opset_import)


def _with_constants(case: Case) -> Iterator[Case]:
    """The case with every tensor operand but the first as an initializer; none if there is none."""
    fixed = {k: v for k, v in list(case.inputs.items())[1:] if _is_tensor(v)}
    if not fixed:
        return
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, 4)
    kept = [i for i in model.graph.input if i.name not in fixed]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    weights = (numpy_helper.from_array(np.asarray(v), k) for k, v in fixed.items())
    model.graph.initializer.extend(weights)
    inputs = {k: v for k, v in case.inputs.items() if k not in fixed}
    yield Case(f"{case.name}+constants", model, inputs, case.expected, case.rtol, case.atol)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic)


def run_case(case: Case, passes: str = "", interpreted: bool = True) -> Outcome:
    """Run one case.

    Args:
        case: the test.
        passes: pipeline text; empty: only load and save.
        interpreted: whether to compare the numpy interpreter too.
    """
    try:
        reference = Reference(case.model)
        baseline = list(reference.run(case.inputs).values())
        problem = difference(baseline, case.expected, case)
    except GraphoptError as why:
        return Outcome(case.name, False, error=str(why))
    if problem:
        return Outcome(case.name, False, error=problem)
    outcome = Outcome(case.name, True, reference.engine)
    try:
        _check(case, passes, interpreted, baseline, outcome)
    except GraphoptError as why:
        outcome.error = f"{type(why).__name__}: {why}"
    except Exception as why:  # a traceback is a bug of ours, and one more line in the list
        outcome.error = f"BUG {type(why).__name__}: {why}"
    return outcome


def _check(
    case: Case, passes: str, interpreted: bool, baseline: list[Any], outcome: Outcome
) -> None:
    module = load(case.model)
    verify(module)
    outcome.kinds = _kinds(module)
    if interpreted:
        outcome.numpy_error = _interpreted(module, case, baseline)
    if passes:
        outcome.changed = _optimize(module, passes)
        verify(module)
    written = Reference(to_proto(module).SerializeToString())
    if list(written.outputs) != [o.name for o in case.model.graph.output]:
        outcome.error = f"the outputs are named {list(written.outputs)}"
        return
    result = list(written.run(case.inputs).values())
    outcome.error = difference(result, case.expected, case)
    outcome.identical = not difference(result, baseline, Case("", case.model, {}, [], 0, 0))


def _kinds(module: Module) -> Counter[str]:
    kinds = (op.kind for op in module.main.walk() if not isinstance(op.kind, Const | Return))
    return Counter(f"opaque {k.op_type}" if isinstance(k, Opaque) else k.name for k in kinds)


def _interpreted(module: Module, case: Case, baseline: list[Any]) -> str:
    try:
        result = interpret(module, case.inputs, opaque=evaluate_opaque)
    except GraphoptError as why:
        return str(why)
    except Exception as why:
        return f"BUG {type(why).__name__}: {why}"
    return difference(list(result.values()), baseline, case)


def _optimize(module: Module, text: str) -> bool:
    from graphopt.passes import PIPELINES
    from graphopt.pipeline import Context, parse_pipeline, run_pipeline

    passes = parse_pipeline(text, PIPELINES)
    records = run_pipeline(passes, module, Context(evaluate=evaluate_opaque))
    return any(r.changed for r in records)


def difference(got: Sequence[Any], want: Sequence[Any], case: Case) -> str:
    """How two lists of outputs differ; empty if they agree within the test's tolerance."""
    if len(got) != len(want):
        return f"{len(got)} outputs instead of {len(want)}"
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        found = _differs(a, b, case)
        if found:
            return f"output {i}: {found}"
    return ""


def _differs(a: Any, b: Any, case: Case) -> str:
    if a is None or b is None:
        return "" if a is b else f"{type(a).__name__} instead of {type(b).__name__}"
    if isinstance(a, list) and isinstance(b, list):
        return difference(cast("list[Any]", a), cast("list[Any]", b), case)
    array: Any = np.asarray
    x, y = array(a), array(b)
    if x.shape != y.shape:
        return f"shape {x.shape} instead of {y.shape}"
    if DType.of(x) is not DType.of(y):
        return f"type {x.dtype} instead of {y.dtype}"
    if x.dtype.kind in "OUS":
        return "" if x.astype(str).tolist() == y.astype(str).tolist() else f"{x} instead of {y}"
    ulp = float(cast("Any", finfo)(x.dtype).eps) if DType.of(x).is_float else 0.0
    rtol = max(case.rtol, 2 * ulp if case.rtol else 0.0)  # bfloat16's own steps are 0.8 %
    wide = [v if v.dtype.kind in "bc" else v.astype(np.float64) for v in (x, y)]
    if np.allclose(*wide, rtol=rtol, atol=case.atol, equal_nan=True):
        return ""
    worst = np.nanmax(np.abs(wide[0].astype(np.complex128) - wide[1].astype(np.complex128)))
    return f"differs by up to {worst:.3g}"


def _job(job: tuple[str, str, int, int]) -> list[Outcome]:
    """One process's share of the cases."""
    names, passes, part, parts = job
    chosen = (c for i, c in enumerate(cases(names)) if i % parts == part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [run_case(c, passes) for c in chosen]


def report(outcomes: Sequence[Outcome], verbose: bool) -> bool:
    """Print the counts and the failures; tell whether every test passed."""
    ran = [o for o in outcomes if o.ran]
    failed = [o for o in ran if o.error]
    differ = [o for o in ran if o.numpy_error]
    kinds = sum((o.kinds for o in ran), Counter[str]())
    opaque = sum(v for k, v in kinds.items() if k.startswith("opaque "))
    for o in failed:
        print(f"FAILED {o.name}: {o.error}")
    for o in differ:
        print(f"NUMPY  {o.name}: {o.numpy_error}")
    if verbose:
        print("modelled:", ", ".join(sorted(k for k in kinds if not k.startswith("opaque "))))
        rest = (f"{k[7:]} {v}" for k, v in sorted(kinds.items()) if k.startswith("opaque "))
        print("opaque:", ", ".join(rest))
    print(f"tests                  {len(outcomes)}")
    print(f"ONNX Runtime passes    {sum(o.engine == 'onnxruntime' for o in ran)}")
    print(f"onnx.reference passes  {sum(o.engine == 'onnx.reference' for o in ran)} of the others")
    print(f"graphopt passes        {len(ran) - len(failed)}")
    print(f"  bit-identical        {sum(o.identical for o in ran)}")
    print(f"  numpy interpreter    {len(ran) - len(differ)}")
    print(f"changed by the passes  {sum(o.changed for o in ran)}")
    print(f"ops modelled / opaque  {sum(kinds.values()) - opaque} / {opaque}")
    return bool(ran) and not failed and not differ


def main() -> int:
    """Run the suite from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="?", default="", help="run tests whose name contains this")
    parser.add_argument("--passes", default="", help="pipeline text, such as default")
    parser.add_argument("-j", type=int, default=2, help="processes (default 2)")
    parser.add_argument("-v", action="store_true", help="list the modelled and the opaque ops")
    options = parser.parse_args()
    jobs = [(options.names, options.passes, i, options.j) for i in range(options.j)]
    with ProcessPoolExecutor(options.j) as pool:
        outcomes = [o for part in pool.map(_job, jobs) for o in part]
    return 0 if report(outcomes, options.v) else 1


if __name__ == "__main__":
    sys.exit(main())
