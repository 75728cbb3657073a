"""One idiom for anything named and configurable: a frozen dataclass with a text form.

A spec prints as `name{option=value,...}` (defaults left out) and parses back to an equal object.
Pass pipelines, op attributes and targets share this value syntax:
`true`, `3`, `-0.5`, `word`, `"quoted text"`, `none`, `[value,value]`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, ClassVar, TypeVar, cast

from graphopt.scanner import Scanner

S = TypeVar("S", bound="Spec")


class Spec:
    """Base of named, configurable things: subclass a family, as a frozen dataclass.

    A direct subclass of Spec is a *family* (Pass, OpKind, Target) with a registry of its own; a
    subclass of a family with `name="..."` is a member, found by that name when text is parsed.
    Members that few commands need have `homes`: the modules that are imported to define them.
    """

    name: ClassVar[str]
    registry: ClassVar[dict[str, type[Any]]]
    homes: ClassVar[dict[str, str]]

    def __init_subclass__(cls, name: str = "", **kw: object) -> None:
        """Register the class under `name` in its family."""
        super().__init_subclass__(**kw)
        if Spec in cls.__bases__:
            cls.registry, cls.homes = {}, {}
        if not name:
            return
        cls.name = name
        known = cls.registry.setdefault(name, cls)
        if known.__qualname__ != cls.__qualname__ or known.__module__ != cls.__module__:
            raise TypeError(f"two specs named {name!r}: {known} and {cls}")
        cls.registry[name] = cls

    @classmethod
    def member(cls, name: str) -> type[Any] | None:
        """The member of this family by its name, if there is one."""
        if name not in cls.registry and name in cls.homes:
            import_module(cls.homes[name])
        return cls.registry.get(name)

    @classmethod
    def member_names(cls) -> set[str]:
        """The names of all members, defined or not yet."""
        return {*cls.registry, *cls.homes}

    @classmethod
    def members(cls) -> dict[str, type[Any]]:
        """All members of this family by name, in the order of their names."""
        return {name: cast("type[Any]", cls.member(name)) for name in sorted(cls.member_names())}

    def options(self) -> Iterator[tuple[str, object]]:
        """Yield the (field, value) pairs that differ from the field's default."""
        for field in dataclasses.fields(cast("Any", self)):
            value: object = getattr(self, field.name)
            if not _same(value, field.default):
                yield field.name, value

    def __str__(self) -> str:
        """Give the text form, `name{option=value}`."""
        return self.name + show_options(self.options())


def _same(a: object, b: object) -> bool:
    """Equality that tells 1 from 1.0 and True, so that text keeps the type."""
    return type(a) is type(b) and a == b


def show_options(options: Iterable[tuple[str, object]]) -> str:
    """Give `{k=v,k=v}`, or the empty string when there are none."""
    shown = ",".join(f"{k}={show(v)}" for k, v in options)
    return f"{{{shown}}}" if shown else ""


_WORD = re.compile(r"([A-Za-z_][\w.-]*|\d+:\d+)\Z")
_RESERVED = {"true", "false", "none", "nan", "inf"}


def show(value: object) -> str:
    """Print one option value so that it parses back to an equal one."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return repr(value)
        case bytes():
            return f"hex:{value.hex()}"
        case str():
            plain = _WORD.match(value) and value not in _RESERVED
            return value if plain else json.dumps(value)
        case tuple():
            return f"[{','.join(map(show, cast('tuple[object, ...]', value)))}]"
        case _:
            return str(value)


def parse_spec(family: type[S], scan: Scanner, *, what: str, also: Iterable[str] = ()) -> S:
    """Read one `name{options}` of a family; `also` are other names that could have been meant.

    Raises:
        ParseError: an unknown name (the nearest is offered), option, or value.
    """
    start = scan.start
    name = scan.word(f"the name of a {what}")
    cls: type[S] | None = family.member(name)
    if cls is None:
        near = nearest(name, {*family.member_names(), *also})
        scan.fail(f"no {what} named {name!r}{near}", start)
    return build(cls, parse_options(scan, cls), scan, start)


def build(cls: type[S], options: Mapping[str, object], scan: Scanner, start: int) -> S:
    """Construct a spec; the class's own complaint (ValueError) is reported at `start`."""
    missing = [
        f.name
        for f in dataclasses.fields(cast("Any", cls))
        if f.name not in options
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        scan.fail(f"{cls.name!r} needs {', '.join(missing)}", start)
    try:
        return cls(**options)
    except ValueError as why:
        scan.fail(f"{cls.name}: {why}", start)


def nearest(name: str, known: Iterable[str]) -> str:
    """Give `; did you mean 'x'?`, or what there is when nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are {', '.join(known)}" if 0 < len(known) <= 30 else ""


def parse_options(scan: Scanner, cls: type[Spec]) -> dict[str, object]:
    """Read an optional `{k=v,...}` as fields of the dataclass `cls`, converted to their types."""
    found: dict[str, object] = {}
    if scan.token != "{":
        return found
    hints = _hints(cls)

    def one() -> None:
        at = scan.start
        key = scan.word("the name of an option")
        if key not in hints:
            has = ", ".join(sorted(hints)) or "none"
            scan.fail(f"{cls.name!r} has no option {key!r}; it has {has}", at)
        if key in found:
            scan.fail(f"option {key!r} is given twice", at)
        scan.take("=")
        at = scan.start
        raw = scan.value()
        try:
            found[key] = convert(raw, hints[key])
        except (ValueError, TypeError):
            scan.fail(f"option {key!r} of {cls.name!r} wants {describe(hints[key])}", at)

    scan.items("{", "}", one)
    return found


_HINTS: dict[type, dict[str, Any]] = {}  # a cache of pure facts about classes


def _hints(cls: type[Spec]) -> dict[str, Any]:
    if cls not in _HINTS:
        every = typing.get_type_hints(cls)
        _HINTS[cls] = {f.name: every[f.name] for f in dataclasses.fields(cast("Any", cls))}
    return _HINTS[cls]


def describe(hint: Any) -> str:
    """Say a field's type as a user would: `true or false`, `one of a, b`, `a list of int`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join("none" if a is type(None) else describe(a) for a in args)
    if origin is tuple:
        return f"a list like [{describe(args[0])}, ...]"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def convert(raw: object, hint: Any) -> object:
    """Convert a parsed value to the annotated type of a field.

    Raises:
        ValueError, TypeError: it doesn't fit.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return raw
    if origin in (types.UnionType, typing.Union):
        return _convert_union(raw, args)
    if origin is typing.Literal:
        return _checked(raw, raw in args)
    if origin is tuple:
        return _convert_tuple(raw, args)
    if hint is type(None):
        return _checked(raw, raw is None)
    if hint is float:
        _checked(raw, isinstance(raw, int | float) and not isinstance(raw, bool))
        return float(cast("float", raw))
    if hint in (bool, int, str, bytes):
        return _checked(raw, type(raw) is hint)
    return hint.from_value(raw)


def misfit(one: Spec) -> str:
    """Which option isn't of its field's type, as a sentence; empty where all are.

    Text can't make such a one, but Python can. A field's own default is of its type.
    """
    every = dataclasses.fields(cast("Any", one))
    given = [f.name for f in every if getattr(one, f.name) is not f.default]
    hints = _hints(type(one)) if given else {}  # slow the first time
    for name in given:
        hint, value = hints[name], cast("object", getattr(one, name))
        try:
            convert(value, hint)
        except (ValueError, TypeError):
            told = describe(hint).replace("a list like [", "a tuple like (").replace("]", ")")
            return f"option {name!r} of {one.name!r} wants {told}, not {value!r}"
        except AttributeError:  # a type that no text stands for
            continue
    return ""


def _checked(raw: object, good: bool) -> object:
    if not good:
        raise ValueError(raw)
    return raw


def _convert_union(raw: object, args: tuple[Any, ...]) -> object:
    exact = [a for a in args if a is type(raw)]
    for arg in (*exact, *args):
        try:
            return convert(raw, arg)
        except (ValueError, TypeError):
            continue
    raise ValueError(raw)


def _convert_tuple(raw: object, args: tuple[Any, ...]) -> tuple[object, ...]:
    if not isinstance(raw, tuple):
        raise TypeError("not a list")
    items = cast("tuple[object, ...]", raw)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(convert(r, args[0]) for r in items)
    if len(args) != len(items):
        raise ValueError(f"{len(items)} values where {len(args)} should be")
    return tuple(convert(r, a) for r, a in zip(items, args, strict=True))
