"""What is asked of an optimization: the arguments of `graphopt.api.optimize`, completed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from graphopt.analysis.bind import Shapes
from graphopt.errors import want
from graphopt.ir.core import Module
from graphopt.pipeline import Hook, Pass
from graphopt.targets.base import Build, Target


@dataclass(frozen=True)
class Request:
    """What the user asks of an optimization (see `graphopt.api.optimize`)."""

    source: Any
    load: Callable[[], Module]
    target: Target | None
    passes: tuple[Pass, ...]
    data: Any
    input_shapes: Shapes
    threads: int
    hooks: tuple[Hook, ...]
    build: Build
    max_drop: float | None = None

    @property
    def lossy(self) -> bool:
        """Whether a pass approximates."""
        return any(p.effect == "lossy" for p in self.passes)


def request(
    source: Any,
    load: Callable[[], Module],
    target: Target | None,
    passes: tuple[Pass, ...],
    data: Any,
    input_shapes: Shapes | None,
    threads: int | None,
    hooks: Sequence[Hook],
    build: Build | None,
    max_drop: float | None,
) -> Request:
    """A request with what wasn't said filled in.

    Raises:
        InputError: an argument that isn't what it should be.
    """
    if build is not None:
        want("build", _is(build, Build), "a Build", build)
    watching = all(isinstance(h, Hook) for h in _sequence("hooks", hooks, "Hooks"))
    want("hooks", watching, "a sequence of Hooks", hooks)
    if threads is not None:
        want("threads", _is_count(threads) and threads >= 1, "an integer of 1 or more", threads)
    if max_drop is not None:
        good = _is(max_drop, int | float) and 0 <= max_drop < math.inf
        want("max_drop", good, "a number of points, 0 or more", max_drop)
    count = threads or os.cpu_count() or 1
    build = replace(build or Build(), threads=count)
    return Request(source, load, target, passes, data, _shapes(input_shapes), count, tuple(hooks),
                   build, max_drop)  # fmt: skip


def checked_target(target: object) -> Target | None:
    """A target, or None.

    Raises:
        InputError: something else.
    """
    if target is not None:
        want("target", isinstance(target, Target), "a name as x86 or a Target", target)
    return cast("Target | None", target)


def checked_passes(passes: object) -> tuple[Pass, ...]:
    """Passes in a sequence.

    Raises:
        InputError: something else.
    """
    found = _sequence("passes", passes, "passes")
    for one in found:
        want("passes", isinstance(one, Pass), "pipeline text or a sequence of passes", one)
    return cast("tuple[Pass, ...]", found)


def _sequence(what: str, given: object, of: str) -> tuple[object, ...]:
    want(what, _is(given, Iterable), f"a sequence of {of}", given)
    return tuple(cast("Iterable[object]", given))


def _shapes(given: object) -> Shapes:
    """Shapes by input name, as tuples."""
    wanted = "{name: (1, 3, 224, 224)}, sizes being 0 or more"
    want("input_shapes", given is None or _is(given, Mapping), wanted, given)
    found = cast("Mapping[object, object]", given or {})
    for name, shape in found.items():
        sizes = cast("Sequence[object]", shape) if _is(shape, list | tuple) else ("",)
        good = all(_is_count(d) and cast("int", d) >= 0 for d in sizes)
        want("input_shapes", _is(name, str) and good, wanted, given)
    return {str(name): tuple(cast("Sequence[int]", shape)) for name, shape in found.items()}


def _is(value: object, kind: Any) -> bool:
    """Whether a value is of a kind, whatever a type checker knows of it."""
    return isinstance(value, kind)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
