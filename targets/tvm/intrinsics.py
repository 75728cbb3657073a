# pyright: basic
# TVM ships no types.
"""The functions of `vecmath` and `intmath` as TIR operators: vectorizable, pure, LLVM's below."""

from __future__ import annotations

import importlib
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import SBlockRealize, Schedule
from tvm.tirx.op import register_intrin_lowering

from graphopt.targets.machine import Machine
from graphopt.targets.tvm import intmath, neon, vecmath

Expr = Any
DTYPES = {"i8": "uint8", "i32": "int32", "float": "float32"}  # of LLVM's scalar types
used: dict[str, None] = {}  # functions called since `start`, in order


def start() -> None:
    """Forget which functions were called: a new kernel begins."""
    used.clear()


def call(name: str, *args: Expr) -> Expr:
    """A call of a function of `vecmath` (on float32 expressions) or `intmath`."""
    used[name] = None
    result = DTYPES[intmath.FUNCTIONS[name].result] if name in intmath.FUNCTIONS else "float32"
    return tirx.call_intrin(result, f"tirx.graphopt_{name}", *args)


def source(machine: Machine) -> str:
    """The LLVM IR of the functions called since `start`."""
    floats, words = ([n for n in sorted(used) if n in m.FUNCTIONS] for m in (vecmath, intmath))
    return vecmath.module(floats, machine) + intmath.module(words, machine)


def attach(func: Any, machine: Machine) -> Any:
    """Hand the LLVM IR of the called functions over with a scheduled TIR function.

    `portable` finds the functions that portable C needs by itself.
    """
    if neon.is_neon(machine):
        used["hidden"] = None  # called by `quads`, once the function is lowered
    if not used or machine.portable:
        return func
    if not isinstance(func.body, SBlockRealize):  # loops written out
        body = tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm",
                             tvm.ir.StringImm(source(machine)), func.body)  # fmt: skip
        return tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)
    sch = Schedule(func)
    root = sch.get_sblock("root")
    block = sch.get_child_blocks(root)[0]
    sch.annotate(sch.get_loops(block)[0], "pragma_import_llvm", source(machine))
    return sch.mod["main"]


def _register(name: str, meaning: str) -> None:
    op = f"tirx.graphopt_{name}"
    api: Any = importlib.import_module("tvm.ir._ffi_api")  # filled in when it is imported
    api.RegisterOp(op, meaning)
    tvm.ir.register_op_attr(op, "TVectorizable", True)
    tvm.ir.register_op_attr(op, "TCallEffectKind", tirx.CallEffectKind.Pure.value)
    tvm.ir.register_op_attr(op, "TScriptPrinterName", f"graphopt_{name}")

    def lower(node: Any) -> Any:
        _, _, width = str(node.ty.dtype).partition("x")
        symbol = vecmath.symbol(name, int(width or 1))
        return tirx.call_pure_extern(node.ty, symbol, *node.args)

    register_intrin_lowering(op, target="default", f=lower)


for _name, (_, _function) in vecmath.FUNCTIONS.items():
    _register(_name, _function.__doc__ or "")
for _name, _typed in intmath.FUNCTIONS.items():
    _register(_name, _typed.body.__doc__ or "")
