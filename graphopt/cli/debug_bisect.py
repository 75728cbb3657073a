"""`graphopt debug bisect`: the single rewrite that makes the numbers differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.cli import console
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
)
from graphopt.errors import MismatchError

if TYPE_CHECKING:
    from graphopt.cli.numbers import Trial
    from graphopt.ir.core import Module
    from graphopt.pipeline import Pass
    from graphopt.verify import Check


@dataclass(frozen=True)
class Attempt:
    """The passes run with a limit on rewrites: how many were asked for, and what came of it.

    `trouble` is empty where the numbers agree; `kind` is `numbers` or an exception's name; `last`
    names the last rewrite that was allowed.
    """

    asked: int
    trouble: str
    kind: str
    last: str


def bisect(
    model: Model, passes: Passes = "default", data: Data = None, input_shape: Shapes = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Find the one rewrite with which the numbers first differ (or a pass fails); then exit 1.

    Runs the passes again and again with another limit on rewrites (a binary search), so a pass
    must do the same each time. A pass that changes the model without asking for single rewrites
    is named as a whole. Exit 0: the numbers agree.
    """
    from graphopt import api
    from graphopt.analysis.bind import bind
    from graphopt.cli.numbers import trial

    if data:
        existing(Path(data))
    chain = read_passes(passes)
    module = api.load(model_file(model))
    shapes = parse_shapes(input_shape)
    bind(module, shapes)
    search = Search(module, chain, trial(model, module, data, samples=1))
    found = search.find()
    if json:
        console.show_json({"runs": search.runs, **found})
    if found["trouble"]:
        raise MismatchError(_sentence(found, model, passes, input_shape))
    if not json:
        console.show(f"nothing to bisect: with all {found['rewrites']} rewrites the numbers agree")


def _sentence(found: dict[str, Any], model: Path, passes: str, shapes: list[str] | None) -> str:
    import shlex

    fixed = "".join(f" --input-shape {shlex.quote(s)}" for s in shapes or ())
    again = f"graphopt opt {shlex.quote(str(model))} --passes {shlex.quote(passes)}{fixed}"
    again += " --check-each"
    if found["culprit"] is None:
        what = f"{found['pass'] or 'reading the model'} makes the difference, not a single rewrite"
        return f"{what}: {found['trouble']}; see it with `{again}`"
    number = found["culprit"]
    head = f"rewrite {number} of {found['rewrites']}, {found['rewrite']}, makes the difference"
    return f"{head}: {found['trouble']}; see it with `{again} --bisect-limit {number}`"


class Search:
    """Runs pipelines on copies of a module and tells whether the numbers hold."""

    def __init__(self, module: Module, chain: Sequence[Pass], t: Trial) -> None:
        """`t` has the inputs and what the reference makes of them."""
        self.module, self.chain, self.trial = module, chain, t
        self.runs = 0

    def find(self) -> dict[str, Any]:
        """`{trouble, rewrites, culprit, rewrite, pass}`: culprit is a number from 1, or None."""
        whole = self.attempt(None)
        found: dict[str, Any] = {"trouble": whole.trouble, "rewrites": whole.asked, "culprit": None,
                                 "rewrite": None, "pass": None}  # fmt: skip
        if not whole.trouble:
            return found
        none = self.attempt(0)
        if none.trouble:
            return {**found, "trouble": none.trouble, "pass": self._pass()}
        limit = least(lambda n: bool(self.attempt(n).trouble), 1, whole.asked)
        last = self.attempt(limit)
        return {**found, "trouble": last.trouble, "culprit": limit, "rewrite": last.last}

    def _pass(self) -> str | None:
        """The pass that makes the trouble even without single rewrites; None: none, the reading."""
        if self.attempt(0, 0).trouble:
            return None
        count = least(lambda n: bool(self.attempt(0, n).trouble), 1, len(self.chain))
        return f"pass {count} ({self.chain[count - 1]})"

    def attempt(self, limit: int | None, count: int | None = None) -> Attempt:
        """Run the first `count` passes (None: all) with a limit on rewrites (None: no limit)."""
        from graphopt.api import context
        from graphopt.hooks import BisectLimit
        from graphopt.ir.clone import clone_module
        from graphopt.pipeline import run_pipeline

        self.runs += 1
        permit = BisectLimit(1 << 60 if limit is None else limit)
        copy, kind = clone_module(self.module), "numbers"
        try:
            run_pipeline(self.chain[:count], copy, context(permit=permit))
            check = self.check(copy)
            trouble = "" if check.ok else str(check)
        except MemoryError:
            raise
        except Exception as error:  # whatever a pass raises is trouble, too
            kind = type(error).__name__
            trouble = f"{kind}: {' '.join(str(error).split())}"
        allowed = permit.log[:limit]
        last = "{} at {}".format(*allowed[-1]) if allowed else ""
        return Attempt(len(permit.log), trouble, kind if trouble else "", last)

    def check(self, module: Module) -> Check:
        """Compare a module with the reference."""
        from graphopt.cli.numbers import run_module
        from graphopt.ir.verify import verify

        verify(module)
        return self.trial.check("the model", lambda feed: run_module(module, feed))


def least(fails: Callable[[int], bool], low: int, high: int) -> int:
    """The first number of low..high that fails, where `high` fails and failing is monotonic."""
    while low < high:
        middle = (low + high) // 2
        if fails(middle):
            high = middle
        else:
            low = middle + 1
    return low
