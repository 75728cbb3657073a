# pyright: basic
# TVM ships no types.
"""Ops without a template of ours: TVM's ONNX importer gives the body, a plain schedule the loops.

The op is written as an ONNX model, imported to relax, legalized to TIR and merged into one
function. Small constants that the importer makes become immediates. What needs more than loops over
buffers (a library call, a size known at run time, a table) is refused, and falls back.
"""

from __future__ import annotations

import warnings
from typing import Any

import tvm
from tvm import relax, te, tirx

from graphopt.errors import UnsupportedError
from graphopt.ir.builtin import Const
from graphopt.ir.clone import clone_graph
from graphopt.ir.core import Graph, Module, Op, Value
from graphopt.onnx import to_proto
from graphopt.targets.tvm import loops
from graphopt.targets.tvm.bfloat import tvm_dtype
from graphopt.targets.tvm.build import target
from graphopt.targets.tvm.region import Region, shape_of, static, table

TABLE = 64  # elements of a constant of several numbers: each read is a tree of choices
PARALLEL = 1 << 14  # elements of a loop nest from which threads are worth their call


def build(region: Region) -> Any:
    """The function of a region with one opaque op."""
    (op,) = (o for o in region.graph if not isinstance(o.kind, Const) and o.kind.name != "return")
    merged = _merge(_legalized(region.graph, op, region))
    functions = [f for f in merged.functions.values() if isinstance(f, tirx.PrimFunc)]
    if len(functions) != 1 or "call_packed" in str(merged) or "call_dps" in str(merged):
        raise UnsupportedError("TVM's importer gives no loops for it")
    if not _fits(functions[0], [*region.graph.args, *region.graph.outputs]):
        raise UnsupportedError("TVM's importer gives it other operands or results")
    return _scheduled(functions[0])


def _fits(func: Any, values: list[Value]) -> bool:
    """Whether a function's buffers have the types of the values; the import may have guessed."""
    buffers = [(str(p.dtype), tuple(int(d) for d in p.shape)) for p in func.params]
    return buffers == [(tvm_dtype(static(v).dtype), shape_of(v)) for v in values]


def _legalized(graph: Graph, op: Op, region: Region) -> Any:
    """The op as relax calls of TIR functions."""
    from tvm.relax.frontend.onnx import from_onnx

    module = Module(clone_graph(graph, {}), "imported", {"": op.kind.version})  # pyright: ignore
    for i, arg in enumerate(module.main.args):
        arg.hint = f"in{i}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        imported = from_onnx(to_proto(module), keep_params_in_input=False)
    steps = [relax.transform.DecomposeOpsForInference(), relax.transform.LegalizeOps(),
             relax.transform.FoldConstant()]  # fmt: skip
    with target(region.machine):
        return tvm.transform.Sequential(steps)(imported)


def _merge(module: Any) -> Any:
    """All calls of `main` as one TIR function: `main` becomes the primitive that a new one calls.

    Raises:
        UnsupportedError: the import has large constants or control flow, which can't be merged.
    """
    module = _without_constants(module)
    body = module["main"]
    for name in list(dict(body.attrs or {})):
        body = body.without_attr(name)
    body = relax.utils.copy_with_new_vars(body.with_attr("Primitive", True))
    others = {k: f for k, f in module.functions.items() if k.name_hint != "main"}
    builder = relax.BlockBuilder(tvm.IRModule(others))
    args = [relax.Var(f"a{i}", p.ty) for i, p in enumerate(body.params)]
    inner = builder.add_func(body, "body")
    with builder.function("main", args):
        with builder.dataflow():
            out = builder.emit_output(builder.emit(relax.Call(inner, args)))
        builder.emit_func_output(out)
    try:
        return relax.transform.FuseTIR()(builder.finalize())
    except tvm.error.InternalError as why:
        raise UnsupportedError("TVM's importer gives it more than loops over buffers") from why


@relax.expr_functor.mutator
class _Constants(relax.PyExprMutator):
    """Each constant as a function that computes its elements, since FuseTIR merges only those."""

    def visit_generic_const_(self, constant: Any) -> Any:
        """A constant of the import."""
        array = constant.value.numpy()
        if array.size > TABLE and not (array == array.reshape(-1)[0]).all():
            raise UnsupportedError(f"TVM's importer gives it a constant of {array.size} elements")

        def element(*at: Any) -> Any:
            return table(array, str(array.dtype), [tirx.Cast("int32", i) for i in at])

        shape = [tirx.const(d, "int64") for d in array.shape]
        return self.builder_.emit_te(lambda: te.compute(shape, element, name="constant"))


def _without_constants(module: Any) -> Any:
    """The module, its `main` without constants."""
    mutator = _Constants(module)
    mutator.builder_.update_func(module.get_global_var("main"), mutator.visit_expr(module["main"]))
    return mutator.builder_.get()


def _scheduled(func: Any) -> Any:
    """Threads over the outermost loop where there is enough work; LLVM vectorizes inside."""
    sch = loops.schedule(func)
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if str(sch.get(block).name_hint).startswith("constant"):
            sch.compute_inline(block)
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        nest = sch.get_loops(block)
        kinds = [v.iter_type for v in sch.get(block).iter_vars]
        spatial = bool(nest) and kinds and kinds[0] == tirx.IterVar.DataPar
        total = 1
        for loop in nest:
            total *= loops.extent(sch, loop)
        if spatial and total >= PARALLEL:
            sch.parallel(nest[0])
    return sch.mod["main"]
