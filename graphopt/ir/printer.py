"""IR to text. `graphopt.ir.parser` is the exact inverse."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Protocol, cast

import numpy as np

from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.ir.data import Data, Inline, Rand, Splat, nbytes, size, to_bytes
from graphopt.ir.types import DType
from graphopt.spec import show, show_options

_BARE = re.compile(r"[\w./$-]+\Z")
_WORD = re.compile(r"[A-Za-z_][\w.-]*\Z")
DENSE = 64  # elements: more than this prints as bytes
_DECIMAL = {DType.bool_, DType.string}


class Store(Protocol):
    """Where the bytes of large constants go when text is saved beside a file."""

    def put(self, data: Data) -> tuple[str, int]:
        """Keep the bytes; give the file's name and the offset."""
        ...


class Printer:
    """Gives every value a name, unique in the module, and prints line by line."""

    def __init__(
        self,
        *,
        elide: bool = False,
        store: Store | None = None,
        locs: bool = True,
        hints: bool = True,
    ) -> None:
        """See to_text; without `hints`, values are numbered, so that equal graphs print equal."""
        self.elide, self.store, self.locs, self.hints = elide, store, locs, hints
        self.names: dict[Value, str] = {}
        self.taken: dict[str, int] = {}

    def name(self, value: Value | None) -> str:
        """The text name of a value (`_`: an absent operand)."""
        if value is None:
            return "_"
        if value not in self.names:
            self.names[value] = self._fresh((self.hints and value.hint) or str(len(self.names)))
        return self.names[value]

    def _fresh(self, base: str) -> str:
        name, count = base, self.taken.get(base, 0)
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken[base] = count
        self.taken[name] = 0
        return f"%{name}" if _BARE.match(name) else f"%{json.dumps(name)}"

    def module(self, module: Module) -> Iterator[str]:
        """The module's lines."""
        head = f"module {json.dumps(module.name)}"
        head += "".join(f" opset {json.dumps(d)} {v}" for d, v in module.opsets.items())
        meta = (f" meta {json.dumps(k)} {json.dumps(v)}" for k, v in module.metadata.items())
        yield head + "".join(meta)
        yield from self.graph(module.main, "")

    def graph(self, graph: Graph, pad: str) -> Iterator[str]:
        """A graph's lines."""
        args = ", ".join(f"{self.name(a)}: {a.type}" for a in graph.args)
        title = f"@{graph.name}" if _WORD.match(graph.name) else f"@{json.dumps(graph.name)}"
        yield f"{pad}graph {title}({args}) {{"
        for op in graph:
            yield from self.op(op, pad + "  ")
        yield pad + "}"

    def op(self, op: Op, pad: str) -> Iterator[str]:
        """An op's lines: one, and those of its regions."""
        results = ", ".join(map(self.name, op.results))
        left = f"{results} = " if results else ""
        types = f" : {', '.join(str(r.type) for r in op.results)}" if results else ""
        at = ""
        if self.locs and op.loc.nodes:
            at = f" @ {', '.join(map(json.dumps, op.loc.nodes))}"
        body = " {" if op.regions else ""
        yield f"{pad}{left}{self.right(op)}{types}{at}{body}"
        for region in op.regions:
            yield from self.graph(region, pad + "  ")
        if op.regions:
            yield pad + "}"

    def right(self, op: Op) -> str:
        """The kind, operands and attributes."""
        if isinstance(op.kind, Const):
            return f"const {self.data(op.kind.data)}"
        operands = list(op.operands)
        while operands and operands[-1] is None:
            operands.pop()
        attrs = show_options(op.kind.options())
        return f"{op.kind.name}({', '.join(map(self.name, operands))}){' ' if attrs else ''}{attrs}"

    def data(self, data: Data) -> str:
        """The payload of a constant."""
        match data:
            case Rand(seed=seed):
                return f"rand {seed}"
            case Splat(value=value, dtype=dtype):
                return f"splat {literal(value, dtype)}"
            case _:
                return self._numbers(data)

    def _numbers(self, data: Data) -> str:
        floats = data.dtype.is_float and isinstance(data, Inline)
        if self.elide and (size(data) > DENSE or (data.dtype.is_float and not floats)):
            return "elided"
        if size(data) <= DENSE or data.dtype in _DECIMAL:
            flat = data.numpy().reshape(-1).tolist()
            return f"dense [{', '.join(literal(v, data.dtype) for v in flat)}]"
        if self.store and nbytes(data) > 1024:
            name, offset = self.store.put(data)
            return f"file {json.dumps(name)} {offset}"
        raw = to_bytes(data.numpy(), data.dtype)
        return f'base64 "{base64.b64encode(raw).decode()}"'


def literal(value: object, dtype: DType) -> str:
    """One number as text that reads back exactly."""
    if dtype in (DType.c64, DType.c128):
        number = complex(cast("complex", value))
        return f"[{number.real!r}, {number.imag!r}]"
    if dtype is DType.f32:  # the shortest decimal that reads back to the same float32
        return show(float(str(np.float32(cast("float", value)))))
    if dtype.is_float:
        return show(float(value))  # pyright: ignore[reportArgumentType]
    if dtype is DType.string:
        text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
        return json.dumps(text)
    return show(bool(value) if dtype is DType.bool_ else int(value))  # pyright: ignore


def to_text(
    module: Module, *, elide: bool = False, store: Store | None = None, locs: bool = True
) -> str:
    """Print a module.

    Args:
        module: what to print.
        elide: print `elided` for large or computed float constants (readable, not parseable).
        store: where the bytes of constants over 1 KB go (default: base64 in the text).
        locs: print source locations.
    """
    return "\n".join(Printer(elide=elide, store=store, locs=locs).module(module)) + "\n"
