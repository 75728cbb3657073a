"""What the numbers of anything that was optimized or compiled are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt import onnx as onnx_io
from graphopt.data import Feed
from graphopt.ir.core import Module
from graphopt.verify import Check, Feeds, compare, response, tolerance


@dataclass
class Truth:
    """Outputs of a module to hold others against, for `feeds`, which are `data`."""

    module: Module
    data: str
    feeds: Sequence[Feed]
    wanted: Sequence[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])

    def check(self, what: str, got: Feeds) -> Check:
        """Compare outputs for the first of the feeds, as close as rounding allows."""
        feeds, wanted = self.feeds[: len(got)], self.wanted[: len(got)]
        respond = lambda: response(self.module, feeds, wanted, runs)  # noqa: E731
        limit = tolerance(self.module.main, respond)
        return compare(what, self.data, limit, wanted, got)


def runs(module: Module, feeds: Feeds) -> Feeds:
    """The outputs of a module for several inputs, in ONNX Runtime with its optimizer off."""
    reference = onnx_io.Reference(module)
    return [reference.run(feed) for feed in feeds]
