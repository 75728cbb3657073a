"""Parts of layers' names that a user says, looked for before a pipeline runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from graphopt.errors import InputError
from graphopt.ir.builtin import Const
from graphopt.ir.core import Module, Op
from graphopt.spec import nearest

NUMBER = re.compile(r"([/_]\d*)+$")  # what passes put behind a name for parts of a layer


def check_skip(module: Module, parts: Iterable[str]) -> None:
    """Find parts of names that no layer can have by the time that a pass looks for them.

    Args:
        module: as it was read. Exact passes merge names, and passes that make several layers of
            one number them; neither makes a name of nothing.
        parts: of names.

    Raises:
        InputError: nothing has such a name; the nearest ones are offered.
    """
    every = {n for op in module.main.walk() for n in _names(op)}
    for part in parts:
        start = NUMBER.sub("", part)
        if not any(start in n for n in every):
            layers = {n for op in module.main.walk() if _weighted(op) for n in op.loc.nodes}
            raise InputError(f"skip: no layer's name has {part!r} in it{offered(part, layers)}")


def offered(part: str, names: Iterable[str]) -> str:
    """The nearest name, or piece of one as long as the part, for a message."""
    return nearest(part, {p for n in names for p in (n, *_pieces(n, 1 + part.count("/")))} - {""})


def _pieces(name: str, count: int) -> Iterator[str]:
    """So many steps of a path, one after the other."""
    steps = name.split("/")
    yield from ("/".join(steps[i : i + count]) for i in range(len(steps) - count + 1))


def _names(op: Op) -> Iterator[str]:
    yield from op.loc.nodes
    yield from (r.hint for r in op.results)


def _weighted(op: Op) -> bool:
    return any(v and v.op and isinstance(v.op.kind, Const) for v in op.operands[1:])
