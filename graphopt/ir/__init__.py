"""The IR: core (Module, Graph, Op, Value), types, constant data, text form, verifier."""

from graphopt.ir.core import Graph, Loc, Module, Op, OpKind, Use, Value
from graphopt.ir.data import Computed, Data, Inline, Mapped, MappedFile, Rand, Splat
from graphopt.ir.types import (
    UNKNOWN,
    Array,
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

__all__ = [
    "UNKNOWN", "Array", "Computed", "DType", "Data", "Dim", "Graph", "Inline", "Loc", "MapType",
    "Mapped", "MappedFile", "Module", "Op", "OpKind", "OptionalType", "Rand", "SequenceType",
    "SparseType", "Splat", "Sym", "TensorType", "UnknownType", "Use", "Value", "ValueType",
]  # fmt: skip
