"""What is asked of an optimization: the arguments of `graphopt.api.optimize`, completed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphopt.analysis.bind import Shapes
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
    """A request with what wasn't said filled in."""
    count = threads or os.cpu_count() or 1
    build = replace(build or Build(), threads=count)
    return Request(source, load, target, passes, data, input_shapes or {}, count, tuple(hooks),
                   build, max_drop)  # fmt: skip
