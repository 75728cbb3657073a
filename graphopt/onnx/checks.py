"""Whether a node is one that its ONNX schema allows: op, attributes, numbers of operands."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple, cast

import onnx
from onnx import defs

from graphopt.errors import InputError, UnsupportedError

MIN_OPSET = 7  # the first with numpy's broadcasting
MAX_OPSET = defs.onnx_opset_version()
MANY = 1000  # results: schemas say more of an op with any number of them

A = onnx.AttributeProto


def check_opsets(opsets: dict[str, int], label: str) -> None:
    """Refuse models without a standard opset, and opsets that aren't known.

    Raises:
        InputError: the model imports no opset of the standard domain, but a nonsensical one.
        UnsupportedError: it is older than 7, or newer than the installed onnx.
    """
    version = opsets.get("", MAX_OPSET)
    if version < 1:
        raise InputError(f"{label}: imports opset {version}, which doesn't exist")
    if version < MIN_OPSET:
        raise UnsupportedError(f"{label}: has opset {version}; graphopt reads {MIN_OPSET} and up")
    if version > MAX_OPSET:
        raise UnsupportedError(
            f"{label}: has opset {version}, and the installed onnx {onnx.__version__} knows "
            f"opsets up to {MAX_OPSET}; a newer onnx may read it"
        )


@lru_cache(maxsize=4096)
def schema(op_type: str, version: int, domain: str) -> defs.OpSchema | None:
    """The op's schema at an opset; None where there is none."""
    try:
        return defs.get_schema(op_type, version, domain)
    except (defs.SchemaError, TypeError):  # TypeError: a name that isn't UTF-8 is bytes here
        return None


@lru_cache(maxsize=1)
def domains() -> frozenset[str]:
    """The domains whose ops have schemas, so that an unknown op there is an error."""
    return frozenset({s.domain for s in defs.get_all_schemas()})


_EQUATION = re.compile(rb"[A-Za-z., ]*(->[A-Za-z. ]*)?\Z")


def is_text(name: object) -> bool:
    """Whether a string field is text: protobuf gives bytes where it isn't UTF-8."""
    return isinstance(name, str)


def check_text(node: onnx.NodeProto, label: str) -> None:
    """Refuse text that isn't UTF-8, and Einsum equations on which ONNX's inference never ends."""
    try:
        "".join((node.name, node.op_type, node.domain, *node.input, *node.output))
        "".join([a.name for a in node.attribute])
    except TypeError:  # protobuf gives text as bytes where it isn't UTF-8
        what = f"a node of type {node.op_type!r}"
        raise InputError(f"{label}: {what} has a name that isn't text") from None
    if node.op_type == "Einsum":
        for a in node.attribute:
            if a.name == "equation" and not _EQUATION.match(a.s):
                raise InputError(f"{label}: node {node.name!r} (Einsum): bad equation {a.s!r}")


class Known(NamedTuple):
    """What a schema says of a node's form."""

    operands: tuple[int, int]
    results: tuple[int, int]
    attributes: dict[str, int]  # name -> AttributeProto.AttributeType
    required: tuple[str, ...]
    deprecated: bool
    since: int


@lru_cache(maxsize=4096)
def known(op_type: str, version: int, domain: str) -> Known | None:
    """The schema's essentials, read once."""
    found = schema(op_type, version, domain)
    if found is None:
        return None
    attributes = {k: int(cast("Any", v.type).value) for k, v in found.attributes.items()}
    required = tuple(k for k, v in found.attributes.items() if v.required)
    counts = (found.min_input, found.max_input), (found.min_output, found.max_output)
    return Known(*counts, attributes, required, found.deprecated, found.since_version)


def optional_results(op_type: str, version: int, domain: str, count: int) -> range:
    """Which of an op's first `count` results a node may leave unnamed."""
    found = known(op_type, version, domain)
    if found is None or found.results[1] > MANY:  # those of If, Loop and Split belong together
        return range(0)
    return range(found.results[0], count)


def check_node(node: onnx.NodeProto, domain: str, version: int, where: str) -> None:
    """Check one node against its schema.

    Raises:
        InputError: the op doesn't exist at that opset; an attribute is unknown, missing or of the
            wrong sort; there are too many or too few operands or results.
    """
    if domain not in domains():
        return
    found = known(node.op_type, version, domain)
    if found is None:
        raise InputError(
            f"{where}: opset {version} of {domain or 'ai.onnx'} has no op {node.op_type!r}"
        )
    if found.deprecated:
        raise InputError(f"{where}: {node.op_type} no longer exists at opset {version}")
    _count(len(node.input), found.operands, "operands", where)
    _count(len(node.output), found.results, "results", where)
    _attributes(node, found, where)


def check_counts(node: onnx.NodeProto, label: str) -> None:
    """Check what ONNX's shape inference takes on trust, and allocates by (InputError)."""
    if node.op_type != "Split":
        return
    for a in node.attribute:
        if a.name == "num_outputs" and a.i != len(node.output):
            raise InputError(
                f"{label}: node {node.name!r} (Split): num_outputs is {a.i}, and it has "
                f"{len(node.output)} outputs"
            )


def _count(number: int, bounds: tuple[int, int], what: str, where: str) -> None:
    least, most = bounds
    if not least <= number <= most:
        bound = f"at least {least}" if number < least else f"at most {most}"
        raise InputError(f"{where}: has {number} {what}; the op has {bound}")


def _attributes(node: onnx.NodeProto, found: Known, where: str) -> None:
    seen: set[str] = set()
    for a in node.attribute:
        want = found.attributes.get(a.name)
        if want is None:
            raise InputError(f"{where}: {node.op_type} has no attribute {a.name!r} at this opset")
        if a.ref_attr_name:
            raise InputError(f"{where}: attribute {a.name!r} refers to a function's attribute")
        if a.name in seen:
            raise InputError(f"{where}: attribute {a.name!r} is given twice")
        seen.add(a.name)
        if a.type != want:
            got, wanted = (A.AttributeType.Name(t) for t in (a.type, want))
            raise InputError(f"{where}: attribute {a.name!r} is of type {got}, not {wanted}")
    for name in found.required:
        if name not in seen:
            raise InputError(f"{where}: attribute {name!r} is missing")
