"""`graphopt debug diff`: two models side by side, op by op, with their numbers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import console
from graphopt.cli.options import Data, Json, Shapes, existing, model_file, parse_shapes
from graphopt.errors import InputError, MismatchError

if TYPE_CHECKING:
    from graphopt.ir.core import Module, Op
    from graphopt.verify import OutputError, Tolerance

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A pair of ops: `state` is same, changed, removed (only left) or added (only right)."""

    state: str
    left: str
    right: str
    nodes: tuple[str, ...]
    value: str
    error: OutputError | None = None


def diff(
    left: Annotated[Path, typer.Argument(metavar="A", show_default=False, help=".onnx or .gir")],
    right: Annotated[Path, typer.Argument(metavar="B", show_default=False, help=".onnx or .gir")],
    every: Annotated[bool, typer.Option("--all", help="Show ops that are the same, too.")] = False,
    data: Data = None,
    input_shape: Shapes = None,
    json: Json = False,
) -> None:
    """Show which ops differ, and by how much the values of the same name do; exit 1 if outputs do.

    Two dumps of `--debug` show what a pass did: `graphopt debug diff 001_fold.gir 003_fuse.gir`.
    """
    from graphopt import api
    from graphopt.analysis.bind import bind

    if data:
        existing(Path(data))
    shapes = parse_shapes(input_shape)
    a, b = (api.load(model_file(p)) for p in (left, right))
    for module in (a, b):
        bind(module, shapes)
    _same_inputs(a, b)
    numbers = Numbers(a, b, data)
    rows = [numbers.priced(row) for row in compare_ops(a, b)]
    _show(rows, numbers, every, json)
    if not numbers.outputs.ok:
        raise MismatchError(str(numbers.outputs))


def _same_inputs(a: Module, b: Module) -> None:
    ends = [{v.hint: str(v.type) for v in m.main.args} for m in (a, b)]
    if ends[0] != ends[1]:
        shown = (", ".join(f"{n}: {t}" for n, t in e.items()) or "nothing" for e in ends)
        raise InputError("the models take different inputs: {}; and {}".format(*shown))


class Numbers:
    """The values of two models on the same inputs."""

    def __init__(self, a: Module, b: Module, data: str | None) -> None:
        """Run both, every value of the main graphs watched."""
        from graphopt.cli.numbers import feeds, run_module
        from graphopt.hooks import observe
        from graphopt.verify import compare, tolerance

        what, inputs = feeds(a, data, samples=1)
        feed = inputs[0]
        self.limit: Tolerance = tolerance(a.main)
        wanted, got = run_module(a, feed), run_module(b, feed)
        self.outputs = compare("B", what, self.limit, [wanted], [_renamed(wanted, got)])
        self.left: Values = observe(a, feed, run_module)
        self.right: Values = observe(b, feed, run_module)

    def priced(self, row: Row) -> Row:
        """Add how far the values of the same name are apart."""
        import dataclasses

        from graphopt.verify import compare

        name = row.value
        if name not in self.left or name not in self.right:
            return row
        check = compare("", "", self.limit, [{name: self.left[name]}], [{name: self.right[name]}])
        return dataclasses.replace(row, error=check.worst)


def _renamed(wanted: Values, got: Values) -> Values:
    """Outputs by position where their names differ."""
    if wanted.keys() == got.keys() or len(wanted) != len(got):
        return got
    return dict(zip(wanted, got.values(), strict=True))


def compare_ops(a: Module, b: Module) -> Iterator[Row]:
    """Align the ops of two models, in order."""
    left, right = (_ops(m) for m in (a, b))
    texts = ([text for text, _ in ops] for ops in (left, right))
    matcher = difflib.SequenceMatcher(None, *texts, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            pairs = zip(left[i1:i2], right[j1:j2], strict=True)
            yield from (_row("same", one, other) for one, other in pairs)
        else:
            yield from _changed(left[i1:i2], right[j1:j2])


def _changed(left: list[tuple[str, Op]], right: list[tuple[str, Op]]) -> Iterator[Row]:
    """Pair ops that make values of the same name; the others stand alone."""
    names = {_value(op): (text, op) for text, op in right if _value(op)}
    paired = {_value(op) for _, op in left} & names.keys()
    waiting = [one for one in right if _value(one[1]) not in paired]
    for one in left:
        name = _value(one[1])
        both = name in paired
        yield _row("changed", one, names[name]) if both else _row("removed", one, None)
    yield from (_row("added", None, one) for one in waiting)


def _row(state: str, left: tuple[str, Op] | None, right: tuple[str, Op] | None) -> Row:
    op = (right or left or ("", None))[1]
    assert op is not None
    before, after = (one[0] if one else "" for one in (left, right))
    return Row(state, before, after, op.loc.nodes, _value(op))


def _value(op: Op) -> str:
    return op.results[0].hint if op.results else ""


def _ops(module: Module) -> list[tuple[str, Op]]:
    """The ops of the main graph, each with its text: kind, operands, attributes, type."""
    from graphopt.ir.printer import Printer

    printer = Printer(elide=True, locs=False)
    return [
        ("\n".join(printer.op(op, "")), op) for op in module.main
        if op.kind.name not in ("const", "return")
    ]  # fmt: skip


def _show(rows: list[Row], numbers: Numbers, every: bool, json: bool) -> None:
    import dataclasses
    from collections import Counter

    from graphopt.report.model import check_json

    states = Counter(r.state for r in rows)
    if json:
        told = [dataclasses.asdict(r) for r in rows if every or r.state != "same"]
        console.show_json({"counts": states, "rows": told, "ok": numbers.outputs.ok,
                           "outputs": check_json(numbers.outputs)["outputs"],
                           "text": str(numbers.outputs)})  # fmt: skip
        return
    shown = [
        (_MARK[r.state], r.left, r.right, _apart(r)) for r in rows
        if every or r.state != "same" or (r.error and not r.error.ok)
    ]  # fmt: skip
    console.show(console.table(("", "A", "B", "error"), shown, left=3))
    console.show(", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "no ops")
    if numbers.outputs.ok:
        console.show(str(numbers.outputs))


_MARK = {"same": " ", "changed": "~", "removed": "-", "added": "+"}


def _apart(row: Row) -> str:
    if row.error is None:
        return ""
    return row.error.why or f"{row.error.relative:.1e}{'' if row.error.ok else ' !'}"
