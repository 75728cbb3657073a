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

TYPES = {"float32": "float", "float64": "double", "bool": "uint8_t", "bfloat16": "uint16_t",
         **{f"{u}int{n}": f"{u}int{n}_t" for u in ("", "u") for n in (8, 16, 32, 64)}}  # fmt: skip
BINARY = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "Mod": "%", "EQ": "==", "NE": "!=",
          "LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "And": "&&", "Or": "||", "BitwiseAnd": "&",
          "BitwiseOr": "|", "BitwiseXor": "^", "RShift": ">>"}  # fmt: skip
CALLS = {"tirx.shift_right": ">>", "tirx.bitwise_and": "&", "tirx.bitwise_or": "|",
         "tirx.bitwise_xor": "^"}  # fmt: skip
MATH = {n: f"{n}f" for n in ("exp", "log", "sqrt", "floor", "ceil", "trunc", "round", "fabs", "erf",
                             "tanh", "sin", "cos", "tan", "pow", "nearbyint", "exp2", "log2",
                             "log10", "log1p", "asin", "acos", "atan", "sinh", "cosh", "asinh",
                             "acosh", "atanh", "atan2", "fmod", "rsqrt", "sigmoid")}  # fmt: skip
TAKEN = ("self args count result shared task group data share first last int float double char "
         "short long auto static const if else for while do switch case default break continue "
         "return void signed unsigned struct union enum sizeof volatile register extern goto "
         "inline restrict typedef").split()  # fmt: skip
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


class Printer:
    """Prints one function; tasks of parallel loops become functions before it.

    `scope` has the C type of each name that a task may use.
    """

    def __init__(self, symbol: str) -> None:
        """Begin with nothing printed."""
        self.symbol = symbol
        self.names: dict[Any, str] = {}
        self.taken = set(TAKEN)
        self.scope: dict[str, str] = {}
        self.lines: list[str] = []
        self.tasks: list[str] = []
        self.called: set[str] = set()
        self.rooms: list[list[str]] = []  # the driver's memory that each scope has to give back
        self.asked = self.asked_by_tasks = 0
        self.depth, self.parallel = 1, 0

    # ---- names and types ----

    def name(self, var: Any) -> str:
        """A variable's name in C, its own wherever it can be."""
        if var not in self.names:
            plain = re.sub(r"\W", "_", var.name, flags=re.ASCII)
            name, n = plain, 0
            while name in self.taken or not re.match("[a-zA-Z]", name):
                plain = plain if re.match("[a-zA-Z]", plain) else f"v{plain}"
                name, n = f"{plain}_{n}", n + 1
            self.taken.add(name)
            self.names[var] = name
        return self.names[var]

    def declare(self, var: Any, kind: str) -> str:
        """A new variable's name."""
        name = self.name(var)
        self.scope[name] = kind
        return name

    def line(self, text: str) -> None:
        """Print one."""
        self.lines.append("  " * self.depth + text)

    # ---- functions ----

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

    # ---- statements ----

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
        if type(s.value).__name__ == "Call" and s.value.op.name == "tirx.call_llvm_intrin":
            if str(s.value.ty.dtype) in ("void", ""):
                return
        if type(s.value).__name__ != "IntImm":
            self.line(f"(void){self.expr(s.value)};")

    # ---- expressions ----

    def expr(self, e: Any) -> str:
        """The C text of an expression, in parentheses where it needs them.

        Raises:
            UnsupportedError: there is no C for it.
        """
        kind = type(e).__name__
        if kind in BINARY:
            a, b = self.expr(e.a), self.expr(e.b)
            if kind == "Mod" and ctype(e) == "float":
                return f"fmodf({a}, {b})"
            return narrowed(e, f"({a} {BINARY[kind]} {b})")
        print_it = getattr(self, f"expr_{kind.lower()}", None)
        if print_it is None:
            raise UnsupportedError(f"portable C has no {kind}")
        return print_it(e)

    def expr_var(self, e: Any) -> str:
        """A variable."""
        return self.name(e)

    def expr_intimm(self, e: Any) -> str:
        """An integer."""
        value, bits = int(e.value), tvm.DataType(str(e.ty.dtype)).bits
        text = f"{value}LL" if bits == 64 else str(value)
        if value == -(2**31) or value == -(2**63):
            text = f"({value + 1}{'LL' if bits == 64 else ''} - 1)"
        if str(e.ty.dtype) in ("uint32", "uint64"):
            text += "u"
        return f"({text})" if value < 0 else text

    def expr_floatimm(self, e: Any) -> str:
        """A float."""
        if ctype(e) == "double":
            return scalars.literal(float(e.value)).replace("f", "") if math.isfinite(e.value) else \
                scalars.literal(float(e.value))
        return scalars.literal(float(e.value))

    def expr_not(self, e: Any) -> str:
        """Not."""
        return f"!{self.expr(e.a)}"

    def expr_bitwisenot(self, e: Any) -> str:
        """All bits the other way."""
        return narrowed(e, f"(~{self.expr(e.a)})")

    def expr_lshift(self, e: Any) -> str:
        """To the left, bits lost at the end."""
        kind = ctype(e)
        wide = "uint64_t" if "64" in kind else "uint32_t"
        return f"({kind})(({wide}){self.expr(e.a)} << {self.expr(e.b)})"

    def expr_min(self, e: Any) -> str:
        """The smaller."""
        a, b = self.expr(e.a), self.expr(e.b)
        return f"({a} < {b} ? {a} : {b})"

    def expr_max(self, e: Any) -> str:
        """The larger."""
        a, b = self.expr(e.a), self.expr(e.b)
        return f"({a} > {b} ? {a} : {b})"

    def expr_select(self, e: Any) -> str:
        """A choice."""
        return self.choice(e.condition, e.true_value, e.false_value)

    def choice(self, condition: Any, yes: Any, no: Any) -> str:
        """The text of one; the side that isn't taken isn't computed."""
        return f"({self.expr(condition)} ? {self.expr(yes)} : {self.expr(no)})"

    def expr_cast(self, e: Any) -> str:
        """Another type; bfloat16 is kept as its bits."""
        to, given = str(e.ty.dtype), str(e.value.ty.dtype)
        value = self.expr(e.value)
        if given == "bfloat16":
            value = f"half_float({value})"
        if to == "bfloat16":
            return f"float_half((float){value})"
        if to == "bool":
            return f"({value} != 0)"
        return f"({TYPES[to]}){value}"

    def expr_tensorload(self, e: Any) -> str:
        """An element."""
        (index,) = e.indices
        return f"{self.expr(e.source)}[{self.expr(index)}]"

    def expr_let(self, e: Any) -> str:
        """A value with a name, before the statement."""
        value, kind = self.expr(e.value), ctype(e.var)
        self.line(f"{kind} {self.declare(e.var, kind)} = {value};")
        return self.expr(e.body)

    def expr_call(self, e: Any) -> str:
        """A function, or an operator that TIR writes as one.

        Raises:
            UnsupportedError: it isn't known here.
        """
        op, args = e.op.name, list(e.args)
        if op in ("tirx.call_pure_extern", "tirx.call_extern"):
            return self.extern(args[0].value, args[1:])
        if op == "prim.if_then_else":
            return self.choice(*args)
        if op == "tirx.buffer_data":
            return self.expr(args[0])
        if op == "tirx.address_of":
            return f"(&{self.expr(args[0])})"
        given = [self.expr(a) for a in args]
        if op in CALLS:
            return narrowed(e, f"({given[0]} {CALLS[op]} {given[1]})")
        if op == "tirx.shift_left":
            return f"({ctype(e)})((uint32_t){given[0]} << {given[1]})"
        if op.endswith(".reinterpret"):
            return reinterpreted(str(args[0].ty.dtype), str(e.ty.dtype), given[0])
        name = MATH.get(op.split(".")[-1])
        if name and ctype(e) == "float":
            return f"{name}({', '.join(given)})"
        raise UnsupportedError(f"portable C has no {op}")

    def extern(self, symbol: str, args: list[Any]) -> str:
        """A function of ours, or of libm.

        Raises:
            UnsupportedError: it is another one.
        """
        if name := scalars.known(symbol):
            self.called.add(name)
        elif symbol.removesuffix("f") not in MATH:
            raise UnsupportedError(f"portable C has no {symbol}")
        return f"{symbol}({', '.join(self.expr(a) for a in args)})"


def element(buffer: Any) -> str:
    """The C type of a buffer's elements.

    Raises:
        UnsupportedError: there is none.
    """
    name = str(buffer.ty.dtype.dtype)
    if name not in TYPES:
        raise UnsupportedError(f"portable C has no {name}")
    return TYPES[name]


def ctype(e: Any) -> str:
    """The C type of a value.

    Raises:
        UnsupportedError: there is none.
    """
    if type(e.ty).__name__ == "PointerType":
        return f"{TYPES[str(e.ty.element_type.dtype)]} *"
    name = str(e.ty.dtype)
    if name not in TYPES:
        raise UnsupportedError(f"portable C has no {name}")
    return TYPES[name]


def narrowed(e: Any, text: str) -> str:
    """Arithmetic of small integers wraps in TIR; C does it in int."""
    kind = ctype(e)
    return f"({kind}){text}" if kind in ("int8_t", "int16_t", "uint16_t") or (
        kind == "uint8_t" and str(e.ty.dtype) != "bool") else text


def reinterpreted(given: str, to: str, value: str) -> str:
    """The same bits.

    Raises:
        UnsupportedError: of types that nothing here asks for.
    """
    if given == to:
        return value
    if (given, to) in (("float32", "int32"), ("float32", "uint32")):
        return f"({TYPES[to]})float_bits({value})"
    if (given, to) in (("int32", "float32"), ("uint32", "float32")):
        return f"bits_float((uint32_t){value})"
    if {given, to} <= {"int32", "uint32", "int8", "uint8", "int16", "uint16", "bfloat16"}:
        return f"({TYPES[to]}){value}"
    raise UnsupportedError(f"portable C can't take {given} for {to}")
