# pyright: basic
# TVM ships no types.
"""TIR's expressions as C, for `portable`."""

from __future__ import annotations

import re
from typing import Any

import tvm

from graphopt.errors import UnsupportedError
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
                             "acosh", "atanh", "atan2", "fmod")}  # fmt: skip
WORDS = (  # C's, and names that the text around a kernel uses
    "self args count result shared task group data share first last auto break case char const "
    "continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile "
    "while"
)


class Expressions:
    """The names of one function's variables, and its expressions in C.

    `scope` has the C type of each name that is there, `called` the functions of ours.
    """

    def __init__(self) -> None:
        """Begin with nothing printed."""
        self.names: dict[Any, str] = {}
        self.taken = set(WORDS.split())
        self.scope: dict[str, str] = {}
        self.lines: list[str] = []
        self.called: set[str] = set()
        self.depth = 1

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
        return scalars.literal(float(e.value), "" if ctype(e) == "double" else "f")

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
        if op.endswith(".isnan"):
            return f"({given[0]} != {given[0]})"
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
    small = kind in ("int8_t", "int16_t", "uint8_t", "uint16_t") and str(e.ty.dtype) != "bool"
    return f"({kind}){text}" if small else text


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
    if given == "float64" and to in ("int64", "uint64"):
        return f"({TYPES[to]})double_bits({value})"
    if given in ("int64", "uint64") and to == "float64":
        return f"bits_double((uint64_t){value})"
    if {given, to} <= {"int32", "uint32", "int8", "uint8", "int16", "uint16", "bfloat16"}:
        return f"({TYPES[to]}){value}"
    raise UnsupportedError(f"portable C can't take {given} for {to}")
