"""Whether a model fits the memory limit, told from its types before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graphopt.errors import LimitError
from graphopt.ir.core import Module, Value
from graphopt.ir.types import TensorType, ValueType
from graphopt.limits import gigabytes, max_memory

KEPT = 16  # times the outputs' bytes: several samples, several runs, and the error in float64


def check_memory(module: Module) -> None:
    """Refuse a model that can't be run within the limit: running needs each value whole.

    Constants don't count: they may lie in a file, and small parts of large ones be used.

    Raises:
        LimitError: the inputs together, the outputs kept to be compared, or a result of an op,
            are larger.
    """
    check_inputs(a.type for a in module.main.args)
    limit = max_memory()
    held = KEPT * sum(_bytes(v.type) for v in module.main.outputs)
    if held > limit:
        raise LimitError(f"comparing the outputs takes {gigabytes(held)}, over the {_limit(limit)}")
    for value in _computed(module):
        if _bytes(value.type) > limit:
            name = value.hint or str(value.op and value.op.loc)
            raise LimitError(
                f"value {name!r}, {value.type}, takes {gigabytes(_bytes(value.type))}, "
                f"over the {_limit(limit)}"
            )


def check_inputs(types: Iterable[ValueType]) -> None:
    """Refuse inputs that together don't fit (LimitError)."""
    total, limit = sum(map(_bytes, types)), max_memory()
    if total > limit:
        raise LimitError(f"the inputs take {gigabytes(total)}, over the {_limit(limit)}")


def _computed(module: Module) -> Iterator[Value]:
    for op in module.main.walk():
        if op.kind.name != "const":
            yield from op.results


def _bytes(type_: ValueType) -> int:
    return type_.nbytes or 0 if isinstance(type_, TensorType) else 0


def _limit(limit: int) -> str:
    return f"limit of {gigabytes(limit)} (--max-memory)"
