# pyright: basic
# TVM ships no types.
"""The functions of `vecmath` as TIR operators: vectorizable, pure, lowered to LLVM functions."""

from __future__ import annotations

import importlib
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx.op import register_intrin_lowering

from graphopt.targets.tvm import vecmath

Expr = Any
used: dict[str, None] = {}  # functions called since `start`, in order


def start() -> None:
    """Forget which functions were called: a new kernel begins."""
    used.clear()


def call(name: str, *args: Expr) -> Expr:
    """A call of a function of `vecmath` on float32 expressions."""
    used[name] = None
    return tirx.call_intrin("float32", f"tirx.graphopt_{name}", *args)


def attach(func: Any) -> Any:
    """Hand the LLVM IR of the called functions over with a scheduled TIR function."""
    if not used:
        return func
    sch = Schedule(func)
    root = sch.get_sblock("root")
    block = sch.get_child_blocks(root)[0]
    text = vecmath.module(sorted(used))
    sch.annotate(sch.get_loops(block)[0], "pragma_import_llvm", text)
    return sch.mod["main"]


def _register(name: str) -> None:
    op = f"tirx.graphopt_{name}"
    api: Any = importlib.import_module("tvm.ir._ffi_api")  # filled in when it is imported
    api.RegisterOp(op, vecmath.FUNCTIONS[name][1].__doc__ or "")
    tvm.ir.register_op_attr(op, "TVectorizable", True)
    tvm.ir.register_op_attr(op, "TCallEffectKind", tirx.CallEffectKind.Pure.value)
    tvm.ir.register_op_attr(op, "TScriptPrinterName", f"graphopt_{name}")

    def lower(node: Any) -> Any:
        _, _, width = str(node.ty.dtype).partition("x")
        symbol = vecmath.symbol(name, int(width or 1))
        return tirx.call_pure_extern(node.ty, symbol, *node.args)

    register_intrin_lowering(op, target="default", f=lower)


for _name in vecmath.FUNCTIONS:
    _register(_name)
