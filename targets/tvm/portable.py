# pyright: basic
# TVM ships no types.
"""Kernels as portable C: a scheduled TIR function, lowered without vectors, printed.

TVM's own generator for C refuses buffers of scope `local`, which is where every tile of ours lives;
this one prints them as arrays, gives parallel loops to the driver's threads, and leaves vectors to
the C compiler. What it writes is included by the driver (`driver/model.c.j2`), whose types and
functions it uses.
"""

from __future__ import annotations

import math
import re
from typing import Any

import tvm
from tvm import s_tir, tirx

from graphopt.errors import UnsupportedError
from graphopt.targets.program import ALIGN, Workspace
from graphopt.targets.tvm import scalars
from graphopt.targets.tvm.cexpr import Expressions, ctype, element

STACK = 16384  # bytes of a buffer on the stack, as in `stack`
SMALL = 1024  # of one that isn't a tile


def lowering() -> list[Any]:
    """TVM's lowering of schedules, but for vectors, unrolling and the packed interface."""
    s, x = s_tir.transform, tirx.transform
    return [
        s.CanonicalizeLoop(), s.LowerInitBlock(), s.PlanAndUpdateBufferAllocationLocation(),
        s.ConvertBlocksToOpaque(), s.CompactBufferAllocation(), s.LowerMatchBuffer(),
        s.StmtSimplify(), s.LowerOpaqueBlock(), x.FlattenBuffer(), x.BF16ComputeLegalize(),
        x.NarrowDataType(32), s.LoopPartition(), x.VectorizeLoop(False), s.HoistIfThenElse(),
        s.RenormalizeSplitPattern(), x.StmtSimplify(), x.RemoveNoOp(), s.RewriteUnsafeSelect(),
        x.CommonSubexprElim(), x.LowerIntrin(),
    ]  # fmt: skip


def source(func: Any, symbol: str) -> tuple[str, Workspace]:
    """The C text of a scheduled function, and the memory that it asks for.

    Raises:
        UnsupportedError: it has something that there is no C for.
    """
    module = tvm.IRModule({symbol: func.with_attr("target", tvm.target.Target("c"))})
    lowered = tvm.ir.transform.Sequential(lowering())(module)[symbol]
    printer = Printer(symbol)
    text = printer.function(lowered)
    defined = "\n".join(scalars.define(name) for name in sorted(printer.called))
    return defined + text, Workspace(printer.asked, printer.asked_by_tasks)


class Printer(Expressions):
    """Prints one function; tasks of parallel loops become functions before it."""

    def __init__(self, symbol: str) -> None:
        """Begin with nothing printed."""
        super().__init__()
        self.symbol = symbol
        self.tasks: list[str] = []
        self.rooms: list[list[str]] = []  # the driver's memory that each scope has to give back
        self.asked = self.asked_by_tasks = 0
        self.parallel = 0

    def function(self, func: Any) -> str:
        """The kernel, as the driver calls it."""
        for i, param in enumerate(func.params):
            kind = f"{element(param)} *"
            name = self.declare(param, kind)
            self.line(f"{kind}{name} = ((Tensor *)args[{i}].value.pointer)->data;")
        self.depth = 0
        self.inner(func.body)
        head = (f"static int __tvm_ffi_{self.symbol}(void *self, const Any *args, int32_t count, "
                "Any *result) {")  # fmt: skip
        unused = "  (void)self, (void)count, (void)result, (void)args;"
        return "\n".join([*self.tasks, head, unused, *self.lines, "  return 0;", "}", ""])

    def task(self, loop: Any) -> None:
        """A parallel loop: its body is a function that gets all it may use in a struct."""
        scope, number = dict(self.scope), len(self.tasks)
        outer, self.lines = self.lines, []
        depth, self.depth = self.depth, 1
        self.parallel += 1
        begin, extent = self.expr(loop.min), self.expr(loop.extent)
        var = self.declare(loop.loop_var, "int32_t")
        self.line(f"int32_t share = ({extent} + group->tasks - 1) / group->tasks;")
        self.line(f"int32_t first = {begin} + task * share, last = {begin} + {extent};")
        self.line("if (last > first + share) last = first + share;")
        self.line(f"for (int32_t {var} = first; {var} < last; {var}++) {{")
        self.inner(loop.body)
        self.line("}")
        body, self.lines = self.lines, outer
        self.depth = depth
        self.parallel -= 1
        self.scope = scope
        words = set(re.findall(r"\w+", "\n".join(body)))
        shared = {n: kind for n, kind in scope.items() if n in words}
        struct, name = f"struct {self.symbol}_shared{number}", f"{self.symbol}_task{number}"
        self.tasks.append("\n".join([
            f"{struct} {{", *(f"  {kind} {n};" for n, kind in shared.items()), "};", "",
            f"static int {name}(int32_t task, Group *group, void *data) {{",
            f"  {struct} *shared = data;",
            *(f"  {kind} {n} = shared->{n};" for n, kind in shared.items()), *body,
            "  return 0;", "}", "",
        ]))  # fmt: skip
        self.line(f"{struct} given{number} = {{{', '.join(shared)}}};")
        self.line(f"int code{number} = parallel_launch({name}, &given{number}, 0);")
        self.line(f"if (code{number}) return code{number};")

    def inner(self, body: Any) -> None:
        """A statement with a scope of its own; what it took is given back."""
        scope = dict(self.scope)
        self.depth += 1
        self.rooms.append([])
        self.statement(body)
        for name in reversed(self.rooms.pop()):
            self.line(f"workspace_free(1, 0, {name});")
        self.depth -= 1
        self.scope = scope

    def statement(self, s: Any) -> None:
        """Print a statement.

        Raises:
            UnsupportedError: there is no C for it.
        """
        kind = type(s).__name__
        print_it = getattr(self, f"print_{kind.lower()}", None)
        if print_it is None:
            raise UnsupportedError(f"portable C has no {kind}")
        print_it(s)

    def print_seqstmt(self, s: Any) -> None:
        """One after another."""
        for one in s.seq:
            self.statement(one)

    def print_attrstmt(self, s: Any) -> None:
        """What attributes say is for other targets."""
        self.statement(s.body)

    def print_declbuffer(self, s: Any) -> None:
        """Another name of memory."""
        kind = f"{element(s.buffer)} *"
        data = self.expr(s.data)
        name = self.declare(s.buffer, kind)
        self.line(f"{kind}{name} = ({kind}){data};")

    def print_bind(self, s: Any) -> None:
        """A value with a name."""
        value, kind = self.expr(s.value), ctype(s.var)
        self.line(f"{kind} {self.declare(s.var, kind)} = {value};")

    def print_allocbuffer(self, s: Any) -> None:
        """An array on the stack if it is small, else the driver's memory."""
        count = math.prod(int(d) for d in s.buffer.ty.shape)
        kind = element(s.buffer)
        size = -(-count * tvm.DataType(str(s.buffer.ty.dtype.dtype)).bits // 8)
        limit = STACK if s.buffer.ty.storage_scope == "local" else SMALL
        name = self.declare(s.buffer, f"{kind} *")
        if size <= limit:
            self.line(f"{kind} {name}[{count}];")
            return
        lines = -(-size // ALIGN) * ALIGN
        self.asked += lines
        self.asked_by_tasks += lines if self.parallel else 0
        self.rooms[-1].append(name)
        self.line(f"{kind} *{name} = workspace_alloc(1, 0, {size}, 0, 0);")
        self.line(f"if (!{name}) return -1;")

    def print_bufferstore(self, s: Any) -> None:
        """Write an element."""
        (index,) = s.indices
        self.line(f"{self.name(s.buffer)}[{self.expr(index)}] = {self.expr(s.value)};")

    def print_for(self, s: Any) -> None:
        """A loop; a parallel one on the driver's threads."""
        if s.kind == tirx.ForKind.PARALLEL and not self.parallel:
            self.task(s)
            return
        scope = dict(self.scope)
        begin, extent, kind = self.expr(s.min), self.expr(s.extent), ctype(s.loop_var)
        var = self.declare(s.loop_var, kind)
        end = extent if begin == "0" else f"{begin} + {extent}"
        self.line(f"for ({kind} {var} = {begin}; {var} < {end}; {var}++) {{")
        self.inner(s.body)
        self.line("}")
        self.scope = scope

    def print_while(self, s: Any) -> None:
        """A loop as long as something holds."""
        self.line(f"while ({self.expr(s.condition)}) {{")
        self.inner(s.body)
        self.line("}")

    def print_ifthenelse(self, s: Any) -> None:
        """A choice of statements."""
        self.line(f"if ({self.expr(s.condition)}) {{")
        self.inner(s.then_case)
        if s.else_case is not None:
            self.line("} else {")
            self.inner(s.else_case)
        self.line("}")

    def print_evaluate(self, s: Any) -> None:
        """Nothing but its effect; hints for a CPU have none."""
        kind = type(s.value).__name__
        hint = kind == "Call" and s.value.op.name == "tirx.call_llvm_intrin"
        if kind != "IntImm" and not (hint and str(s.value.ty.dtype) in ("void", "")):
            self.line(f"(void){self.expr(s.value)};")
