"""`graphopt debug reduce`: the smallest part of a model on which the passes still go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import console
from graphopt.cli.debug_bisect import Search
from graphopt.cli.options import (
    Data,
    Json,
    Model,
    Passes,
    Shapes,
    existing,
    model_file,
    parse_shapes,
    read_passes,
    writable,
)
from graphopt.errors import InputError

if TYPE_CHECKING:
    from graphopt.ir.core import Graph, Module, Value
    from graphopt.pipeline import Pass

Feed = Mapping[str, Any]


def reduce(
    model: Model,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="OUT", show_default=False, help=".onnx or .gir"),
    ],
    passes: Passes = "default",
    data: Data = None,
    input_shape: Shapes = None,
    json: Json = False,
) -> None:
    """Shrink a failing model: fewer outputs, values cut off as inputs, ops skipped.

    It fails where the numbers differ after the passes, or a pass raises. The values that were cut
    off become inputs; what they were is written beside OUT as .npz, for `--data`.
    """
    from graphopt import api
    from graphopt.analysis.bind import bind
    from graphopt.cli.numbers import feeds

    place = writable(output)
    if place.suffix not in (".onnx", ".gir"):
        raise InputError(f"-o {place}: the name must end in .onnx or .gir")
    if data:
        existing(Path(data))
    chain = read_passes(passes)
    module = api.load(model_file(model))
    bind(module, parse_shapes(input_shape))
    feed = feeds(module, data, samples=1)[1][0]
    reducer = Reducer(chain)
    case = reducer.reduce(Case(module, feed))
    api.save(case.module, place)
    _save_feed(place.with_suffix(".npz"), case.feed)
    _tell(module, case, reducer.runs, place, passes, json)


def _save_feed(path: Path, feed: Feed) -> None:
    """Write inputs as data of one sample: with a leading sample axis."""
    import numpy as np

    from graphopt.cli.run_bundle import write_npz

    write_npz(path, {name: np.asarray(a)[None] for name, a in feed.items()})


def _tell(before: Module, case: Case, runs: int, place: Path, passes: str, json: bool) -> None:
    import shlex

    counts = [sum(op.kind.name not in ("const", "return") for op in m.main)
              for m in (before, case.module)]  # fmt: skip
    again = f"graphopt opt {shlex.quote(str(place))} --passes {shlex.quote(passes)} --check-each"
    again += f" --data {shlex.quote(str(place.with_suffix('.npz')))}"
    if json:
        console.show_json({"ops_before": counts[0], "ops_after": counts[1], "runs": runs,
                           "output": str(place), "replay": again})  # fmt: skip
    else:
        console.show(f"{counts[0]} ops -> {counts[1]} ops in {runs} runs: {place}",
                     f"replay it with `{again}`")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model and inputs on which it fails."""

    module: Module
    feed: Feed


class Reducer:
    """Tries smaller and smaller cases, keeping each that still fails."""

    def __init__(self, chain: tuple[Pass, ...]) -> None:
        """The passes that go wrong."""
        self.chain, self.runs, self.kind = chain, 0, ""

    def reduce(self, case: Case) -> Case:
        """Give a case none of whose reductions fails.

        Raises:
            InputError: the case doesn't fail, so there is nothing to reduce.
        """
        self.kind = self.trouble(case)
        if not self.kind:
            raise InputError("nothing to reduce: with these passes the numbers agree")
        size = _size(case.module) + 1
        while _size(case.module) < size:
            size = _size(case.module)
            case = self.one_output(case)
            case = self.cut_inputs(case)
            case = self.skip_ops(case)
        return case

    def fails(self, case: Case) -> bool:
        """Whether the passes go wrong on the case, in the way that they did at first."""
        return self.trouble(case) == self.kind

    def trouble(self, case: Case) -> str:
        """`numbers` where the passes make others, the name of what they raise, or nothing."""
        from graphopt.cli.numbers import Trial, run_module
        from graphopt.verify import tolerance

        self.runs += 1
        try:
            wanted = run_module(case.module, case.feed)
        except Exception:  # not a model that runs: no smaller case of the same trouble
            return ""
        t = Trial("seeded", [case.feed], [wanted], tolerance(case.module.main))
        return Search(case.module, self.chain, t).attempt(None).kind

    def one_output(self, case: Case) -> Case:
        """Keep the earliest single value that still fails as the only output."""
        for name in _values(case.module):
            smaller = _edited(case, lambda g, n=name: _return_only(g, n))
            if smaller and _size(smaller.module) < _size(case.module) and self.fails(smaller):
                return smaller
        return case

    def cut_inputs(self, case: Case) -> Case:
        """Cut the largest beginning off that leaves the failure in: its values become inputs."""
        names = _values(case.module)
        chunk = len(names) // 2
        while chunk:
            for start in range(0, len(names), chunk):
                smaller = self._cut(case, names[start : start + chunk])
                case = smaller or case
            chunk //= 2
        return case

    def _cut(self, case: Case, names: list[str]) -> Case | None:
        from graphopt.cli.numbers import run_module
        from graphopt.hooks import observe

        present = set(_values(case.module))
        wanted = [n for n in names if n in present]
        known = observe(case.module, case.feed, run_module)
        values = {n: known[n] for n in wanted if n in known}
        if not values:
            return None
        smaller = _edited(case, lambda g: _make_inputs(g, values.keys()), values)
        better = smaller and _size(smaller.module) < _size(case.module) and self.fails(smaller)
        return smaller if better else None

    def skip_ops(self, case: Case) -> Case:
        """Replace an op by one of its operands of the same type, where the failure stays."""
        for name in reversed(_values(case.module)):
            smaller = _edited(case, lambda g, n=name: _skip(g, n))
            if smaller and _size(smaller.module) < _size(case.module) and self.fails(smaller):
                case = smaller
        return case


def _size(module: Module) -> int:
    return sum(op.kind.name not in ("const", "return") for op in module.main.walk())


def _values(module: Module) -> list[str]:
    """The names of the values that ops of the main graph make, in order."""
    return [r.hint for op in module.main if op.kind.name not in ("const", "return")
            for r in op.results if r.hint]  # fmt: skip


def _find(graph: Graph, name: str) -> Value | None:
    return next((r for op in graph for r in op.results if r.hint == name), None)


def _edited(case: Case, edit: Callable[[Graph], bool], values: Feed | None = None) -> Case | None:
    """A copy of a case, edited and swept of what nothing uses; None where the edit didn't apply."""
    from graphopt.ir.clone import clone_module

    copy = clone_module(case.module)
    if not edit(copy.main):
        return None
    _sweep(copy.main)
    feed = {**case.feed, **(values or {})}
    return Case(copy, {a.hint: feed[a.hint] for a in copy.main.args})


def _sweep(graph: Graph) -> None:
    """Erase dead ops, last first, and unused arguments."""
    for op in reversed(list(graph)):
        if op.results and op.dead():
            graph.erase(op)
    graph.args[:] = [a for a in graph.args if a.use_count]
    for i, a in enumerate(graph.args):
        a.index = i


def _return_only(graph: Graph, name: str) -> bool:
    from graphopt.ir.builtin import Return
    from graphopt.ir.core import Op

    value = _find(graph, name)
    if value is None:
        return False
    graph.erase(graph.terminator)
    graph.insert(Op(Return((name,)), [value]))
    return True


def _make_inputs(graph: Graph, names: Iterable[str]) -> bool:
    """Give each value that is used elsewhere an argument of the graph to be."""
    done = False
    for name in names:
        value = _find(graph, name)
        if value is None or not value.use_count or value in graph.outputs:
            continue
        value.replace_all_uses_with(graph.add_arg(value.type, name))
        value.hint = ""
        done = True
    return done


def _skip(graph: Graph, name: str) -> bool:
    value = _find(graph, name)
    if value is None or value.op is None:
        return False
    same = [v for v in value.op.operands if v and v.type == value.type]
    if not same or value in graph.outputs:
        return False
    value.replace_all_uses_with(same[0])
    return True
