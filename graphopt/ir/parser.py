"""Text to IR: the exact inverse of `graphopt.ir.printer`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from graphopt.errors import GraphoptError, want
from graphopt.ir.builtin import Const
from graphopt.ir.core import Graph, Loc, Module, Op, OpKind, Value
from graphopt.ir.data import Data, Inline, Mapped, MappedFile, Rand, Splat, from_bytes
from graphopt.ir.layout import parse_layout
from graphopt.ir.types import (
    UNKNOWN,
    Dim,
    DType,
    MapType,
    OptionalType,
    SequenceType,
    SparseType,
    Sym,
    TensorType,
    UnknownType,
    ValueType,
)
from graphopt.scanner import Scanner
from graphopt.spec import build, nearest, parse_options

MAX_DEPTH = 100  # nested regions or types; real models stay below 10


class Parser:
    """Recursive descent over `Scanner`, one method a construct."""

    def __init__(self, text: str, file: str, resolve: Callable[[str], MappedFile] | None) -> None:
        """See parse."""
        self.scan = Scanner(text, file)
        self.resolve = resolve
        self.values: dict[str, Value] = {}
        self.depth = 0

    def module(self) -> Module:
        """`module "name" opset "" 17 meta "k" "v"` (optional), then the main graph."""
        scan, name = self.scan, "model"
        opsets, metadata = dict[str, int](), dict[str, str]()
        if scan.has("module"):
            name = scan.string()
            while scan.token in ("opset", "meta"):
                if scan.advance() == "opset":
                    domain = scan.string()
                    opsets[domain] = scan.integer()
                else:
                    key = scan.string()
                    metadata[key] = scan.string()
        graph = self.graph()
        if scan.kind != "end":
            scan.fail(f"expected the end of the text, found {scan.token!r}")
        return Module(graph, name, opsets or {"": 17}, metadata)

    def graph(self) -> Graph:
        """`graph @name(%a: f32[1], ...) { ops }`."""
        scan = self.scan
        scan.take("graph")
        scan.take("@")
        bare = scan.kind in ("word", "number")
        graph = Graph(name=scan.advance() if bare else scan.string())
        scan.items("(", ")", lambda: self.argument(graph))
        scan.take("{")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            scan.fail(f"regions nested deeper than {MAX_DEPTH}")
        while not scan.has("}"):
            graph.insert(self.op())
        self.depth -= 1
        return graph

    def argument(self, graph: Graph) -> None:
        """`%x: f32[1,3]`."""
        at, name = self.scan.start, self.new_name()
        self.scan.take(":")
        self.define(name, graph.add_arg(self.type()), at)

    def new_name(self) -> str:
        """A value's name where it is defined."""
        if self.scan.kind != "value":
            self.scan.fail(f"expected a value like %x, found {self.scan.token!r}")
        return self.scan.advance()

    def define(self, token: str, value: Value, at: int) -> None:
        """Enter a value under its name."""
        if token in self.values:
            self.scan.fail(f"{token} is defined twice", at)
        name = self.scan.unquote(token[1:]) if token[1] == '"' else token[1:]
        value.hint = "" if name.isdigit() else name
        self.values[token] = value

    def operand(self) -> Value | None:
        """`%x`, or `_` where an optional operand is absent."""
        if self.scan.has("_"):
            return None
        token = self.scan.token
        if self.scan.kind != "value":
            self.scan.fail(f"expected a value or _, found {token!r}")
        if token not in self.values:
            self.scan.fail(f"{token} is used before it is defined")
        self.scan.advance()
        return self.values[token]

    def op(self) -> Op:
        """`%y = kind(%x) {attrs} : type @ "node" { regions }`."""
        scan, outs = self.scan, list[tuple[str, int]]()
        while scan.kind == "value":
            at = scan.start
            outs.append((self.new_name(), at))
            if not scan.has(","):
                scan.take("=")
                break
        start = scan.start
        name = scan.word("the name of an op")
        if name not in OpKind.registry:
            scan.fail(f"unknown op {name!r}{nearest(name, OpKind.registry)}", start)
        cls: type[OpKind] = OpKind.registry[name]
        kind, operands, types = self.body(cls, start)
        loc = Loc(tuple(self.locations())) if scan.has("@") else Loc()
        regions = self.regions() if scan.token == "{" else []
        return self.finish(kind, operands, types, loc, regions, outs, start)

    def body(
        self, cls: type[OpKind], start: int
    ) -> tuple[OpKind, list[Value | None], list[ValueType]]:
        """What stands between the kind's name and the location."""
        scan = self.scan
        if cls is Const:
            payload = self.payload()
            scan.take(":")
            at = scan.start
            type_ = self.type()
            data = self.data(payload, type_, at)
            return Const(data), [], [type_]
        operands = scan.items("(", ")", self.operand)
        kind = build(cls, parse_options(scan, cls), scan, start)
        types: list[ValueType] = []
        if scan.has(":"):
            types.append(self.type())
            while scan.has(","):
                types.append(self.type())
        return kind, operands, types

    def finish(
        self,
        kind: OpKind,
        operands: list[Value | None],
        types: list[ValueType],
        loc: Loc,
        regions: list[Graph],
        outs: list[tuple[str, int]],
        start: int,
    ) -> Op:
        """Construct the op and name its results."""
        least, most = kind.arity()
        if len(operands) < least or (most is not None and len(operands) > most):
            wants = ", ".join(kind.operands) or "none"
            self.scan.fail(f"{kind.name} has {len(operands)} operands; it wants {wants}", start)
        try:
            op = Op(kind, operands, types or None, loc=loc, regions=regions)
        except (ValueError, GraphoptError) as why:
            self.scan.fail(str(why), start)
        if len(op.results) != len(outs):
            self.scan.fail(f"{kind.name} has {len(op.results)} results, not {len(outs)}", start)
        for (token, at), value in zip(outs, op.results, strict=True):
            self.define(token, value, at)
        return op

    def locations(self) -> list[str]:
        """`"a", "b"`."""
        found = [self.scan.string()]
        while self.scan.has(","):
            found.append(self.scan.string())
        return found

    def regions(self) -> list[Graph]:
        """`{ graph ... graph ... }`."""
        self.scan.take("{")
        found: list[Graph] = []
        while not self.scan.has("}"):
            found.append(self.graph())
        return found

    def payload(self) -> tuple[str, Any]:
        """The part of a constant between `const` and its type."""
        scan, at = self.scan, self.scan.start
        how = scan.word("dense, splat, base64, file or rand")
        match how:
            case "dense":
                return how, scan.value()
            case "splat":
                return how, scan.value()
            case "base64":
                return how, scan.string()
            case "rand":
                return how, scan.integer()
            case "file":
                name = scan.string()
                return how, (name, scan.integer())
            case "elided":
                scan.fail(
                    "the numbers were left out when this was printed; print without elide", at
                )
            case _:
                scan.fail(f"a constant is dense, splat, base64, file or rand, not {how!r}", at)

    def data(self, payload: tuple[str, Any], type_: ValueType, at: int) -> Data:
        """Make a constant's data of its payload and type."""
        if not isinstance(type_, TensorType) or type_.static is None:
            self.scan.fail("a constant has a static tensor type", at)
        dtype, shape = type_.dtype, type_.static
        how, what = payload
        try:
            match how:
                case "rand":
                    return Rand(dtype, shape, what)
                case "splat":
                    return Splat(dtype, shape, _number(what, dtype).item())
                case "file":
                    return self.mapped(what[0], what[1], dtype, shape)
                case "base64":
                    raw = base64.b64decode(what, validate=True)
                    return Inline(from_bytes(raw, dtype, shape))
                case _:
                    return Inline(_dense(what, dtype, shape))
        except (ValueError, TypeError, OverflowError, binascii.Error) as why:
            self.scan.fail(f"bad constant: {why}", at)

    def mapped(self, name: str, offset: int, dtype: DType, shape: tuple[int, ...]) -> Data:
        """Data in a file beside the text."""
        if self.resolve is None:
            raise ValueError("this text has no folder, so it can't name a file")
        data = Mapped(self.resolve(name), offset, dtype, shape)
        _ = data.raw  # checks the range now, not when a pass asks
        return data

    def type(self) -> ValueType:
        """`f32[N,3]`, `seq<...>`, `optional<...>`, `map<k, v>`, `sparse<...>`, `?`."""
        scan, at = self.scan, self.scan.start
        if scan.has("?"):
            return UnknownType()
        word = scan.word("a type")
        if scan.token == "<":
            return self.compound(word, at)
        try:
            dtype = DType.from_value(word)
        except ValueError:
            scan.fail(f"unknown element type {word!r}{nearest(word, [str(t) for t in DType])}", at)
        if self.scan.text.startswith("*", scan.end):
            scan.take("[")
            scan.take("*")
            scan.take("]")
            return TensorType(dtype, None)
        return self.tensor(dtype)

    def tensor(self, dtype: DType) -> TensorType:
        """`[N,3,8,8:aBcd16b]`, after the element type."""
        scan, dims, tag = self.scan, list[Dim](), ""
        scan.take("[")
        while scan.token not in ("]", ":"):
            dims.append(self.dim())
            if not scan.has(",") and scan.token not in ("]", ":"):
                scan.fail(f"expected ',' or ']', found {scan.token!r}")
        if scan.has(":"):
            at, tag = scan.start, scan.word("a layout tag")
            try:
                rank = len(parse_layout(tag).order)
            except ValueError as why:
                scan.fail(str(why), at)
            if rank != len(dims):
                scan.fail(f"layout {tag} has rank {rank}", at)
        scan.take("]")
        try:
            return TensorType(dtype, tuple(dims), tag)
        except ValueError as why:
            scan.fail(str(why))

    def compound(self, word: str, at: int) -> ValueType:
        """`word<type>`."""
        scan = self.scan
        self.depth += 1
        if self.depth > MAX_DEPTH:
            scan.fail(f"types nested deeper than {MAX_DEPTH}")
        scan.take("<")
        inner = self.type() if word != "map" else self.map_type()
        scan.take(">")
        self.depth -= 1
        if isinstance(inner, MapType) and word == "map":
            return inner
        if word == "sparse" and isinstance(inner, TensorType):
            return SparseType(inner.dtype, inner.shape)
        if word not in ("seq", "optional"):
            scan.fail(f"unknown type {word!r}", at)
        return SequenceType(inner) if word == "seq" else OptionalType(inner)

    def map_type(self) -> MapType:
        """`key, value` of a map."""
        key = DType.from_value(self.scan.word("a key type"))
        self.scan.take(",")
        return MapType(key, self.type())

    def dim(self) -> Dim:
        """`3`, `?`, `N`, `2*N+1`, `(N+3)/2`."""
        scan = self.scan
        if scan.has("("):
            inner = self.affine()
            scan.take(")")
            scan.take("/")
            return Sym(inner.name, inner.mul, inner.add, scan.integer())
        if scan.kind == "number" and not scan.text.startswith("*", scan.end):
            size = scan.integer()
            if size < 0:
                scan.fail("a dimension can't be negative")
            return size
        return self.affine()

    def affine(self) -> Sym:
        """`mul*name+add`."""
        scan, scale, offset = self.scan, 1, 0
        if scan.kind == "number":
            scale = scan.integer()
            scan.take("*")
        if scan.has("?"):
            return UNKNOWN
        name = scan.string() if scan.kind == "string" else scan.word("the name of a dimension")
        if scan.kind == "number" and scan.token[0] in "+-":
            offset = scan.integer()
        return Sym(name, scale, offset)


def _number(value: object, dtype: DType) -> np.ndarray[Any, Any]:
    if dtype in (DType.c64, DType.c128):
        real, imag = cast("tuple[float, float]", value)
        return np.asarray(complex(real, imag), dtype.numpy)
    return np.asarray(value).astype(dtype.numpy)


def _dense(value: object, dtype: DType, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if not isinstance(value, tuple):
        raise ValueError("expected a list")
    items = cast("tuple[Any, ...]", value)
    if dtype in (DType.c64, DType.c128):
        items = tuple(complex(*v) for v in items)
    if dtype is DType.string:
        return np.array(items, object).reshape(shape)
    if dtype.is_int and dtype.bits >= 8:
        return np.array(items, dtype.numpy).reshape(shape)  # out of range: OverflowError
    return np.asarray(items, dtype=None if items else np.float64).astype(dtype.numpy).reshape(shape)


def parse(
    text: str, file: str = "<text>", *, resolve: Callable[[str], MappedFile] | None = None
) -> Module:
    """Read IR text.

    Args:
        text: what `Module.to_text` printed.
        file: its name in messages.
        resolve: finds the files that `const file "name" offset` names; None: there are none.

    Raises:
        ParseError: with file:line:column and a caret.
        InputError: it is no text.
    """
    want("IR text", isinstance(text, str), "a string", text)  # pyright: ignore[reportUnnecessaryIsInstance]
    return Parser(text, file, resolve).module()
