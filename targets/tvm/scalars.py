"""The functions of `vecmath` and `intmath` in C: their LLVM IR of one lane, line by line.

So there is one definition of each. Integers are kept unsigned in a function, where C's arithmetic
wraps as LLVM's does; Body emits straight lines of a few instructions.
"""

from __future__ import annotations

import re
import struct
from dataclasses import replace

from graphopt.errors import UnsupportedError
from graphopt.targets.machine import load
from graphopt.targets.tvm import intmath, vecmath

PLAIN = replace(load("portable"), cpu_features=())  # no instruction of any CPU

_KINDS = {"float": "float", "i32": "uint32_t", "i8": "uint8_t", "i64": "uint64_t", "i1": "int",
          "ptr": "const uint8_t *", "<4 x i8>": "uint32_t"}  # fmt: skip
_GIVEN = {"float": "float", "i32": "int32_t", "i8": "uint8_t", "ptr": "const void *"}
_FLOATS = {"fadd": "+", "fsub": "-", "fmul": "*", "fdiv": "/"}
_WORDS = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "shl": "<<", "lshr": ">>"}
_COMPARED = {"olt": "{} < {}", "ogt": "{} > {}", "oeq": "{} == {}", "oge": "{} >= {}",
             "uno": "({0} != {0} || {1} != {1})"}  # fmt: skip
_ORDERED = {"lt": "<", "gt": ">", "le": "<=", "ge": ">="}
_CALLED = {"llvm.fabs.f32": ("float", "fabsf({})"), "llvm.floor.f32": ("float", "floorf({})"),
           "llvm.roundeven.f32": ("float", "nearbyintf({})"),
           "llvm.lrint.i32.f32": ("i32", "(uint32_t)(int32_t)lrintf({})"),
           "llvm.arithmetic.fence.f32": ("float", "fenced({})"),
           "llvm.fma.f32": ("float", "fmaf({}, {}, {})")}  # fmt: skip
_CONVERTED = {
    ("bitcast", "float", "i32"): "float_bits({})",
    ("bitcast", "i32", "float"): "bits_float({})",
    ("bitcast", "<4 x i8>", "i32"): "{}",
    ("sitofp", "i32", "float"): "(float)(int32_t){}",
    ("fptosi", "float", "i32"): "(uint32_t)(int32_t){}",
    ("zext", "i8", "i64"): "{}",
    ("trunc", "i32", "i8"): "(uint8_t){}",
}
_TYPE = r"(float|i32|i8|i64|i1|ptr|<4 x i8>)"


def known(symbol: str) -> str:
    """The function that a symbol of one lane calls; empty: none of ours."""
    found = re.fullmatch(r"graphopt_(\w+)_1", symbol)
    name = found[1] if found else ""
    return name if name in vecmath.FUNCTIONS or name in intmath.EVERYWHERE else ""


def define(name: str) -> str:
    """The C function of one of them, guarded, since every kernel brings those that it calls.

    Raises:
        UnsupportedError: it has an instruction that isn't known here.
    """
    word = name in intmath.EVERYWHERE
    text = intmath.define(name, 1, PLAIN) if word else vecmath.define(name, 1)
    head, *lines, _ = text.splitlines()
    given = re.findall(rf"{_TYPE} %(a\d)", head)
    result = _GIVEN[head.split()[2]]
    guard = f"HAVE_{name.upper()}"
    args = ", ".join(f"{_GIVEN[kind]} {'given_' if kind == 'i32' else ''}{a}" for kind, a in given)
    words = [f"  uint32_t {a} = (uint32_t)given_{a};" for kind, a in given if kind == "i32"]
    words += [f"  (void){a};" for _, a in given]
    body = [_statement(line.strip(), result) for line in lines if line.strip()]
    return "\n".join([f"#ifndef {guard}", f"#define {guard}",
                      f"static inline {result} graphopt_{name}_1({args}) {{",
                      *words, *body, "}", "#endif", ""])  # fmt: skip


def _statement(line: str, result: str) -> str:
    """One line of LLVM IR."""
    if found := re.fullmatch(rf"ret {_TYPE} (\S+)", line):
        return f"  return ({result}){_value(found[2], found[1])};"
    name, _, text = line.partition(" = ")
    kind, value = _instruction(text)
    return f"  {_KINDS[kind]} {name.removeprefix('%')} = {value};"


def _instruction(text: str) -> tuple[str, str]:
    """The LLVM type and the C text of an instruction."""
    what, rest = text.split(" ", 1)
    operands = [o.strip() for o in re.sub(rf"^(contract |[a-z]+ )?{_TYPE} ", "", rest).split(",")]
    if what in _FLOATS:
        return "float", f" {_FLOATS[what]} ".join(_value(o, "float") for o in operands)
    if what in _WORDS:
        return "i32", f" {_WORDS[what]} ".join(_value(o, "i32") for o in operands)
    if what == "ashr":
        return "i32", f"shifted({_value(operands[0], 'i32')}, {operands[1]})"
    if what == "fcmp":
        pair = (_value(o, "float") for o in operands)
        return "i1", _COMPARED[rest.split()[0]].format(*pair)
    if what == "icmp":
        return "i1", _compared(rest.split()[0], *(_value(o, "i32") for o in operands))
    if found := re.fullmatch(rf"i1 (\S+), {_TYPE} (\S+), {_TYPE} (\S+)", rest):
        kind = found[2]
        yes, no = _value(found[3], kind), _value(found[5], kind)
        return kind, f"{found[1][1:]} ? {yes} : {no}"
    if found := re.fullmatch(rf"{_TYPE} (\S+) to {_TYPE}", rest):
        form = _CONVERTED.get((what, found[1], found[3]))
        if form:
            return found[3], form.format(_value(found[2], found[1]))
    return _memory(what, rest)


def _compared(how: str, a: str, b: str) -> str:
    """A comparison of integers."""
    if how[0] == "s":
        a, b = f"(int32_t){a}", f"(int32_t){b}"
    return f"{a} {_ORDERED[how[1:]]} {b}"


def _memory(what: str, rest: str) -> tuple[str, str]:
    """Calls, and what `columns` and `lookup` read."""
    if found := re.fullmatch(rf"{_TYPE} @([^(]+)\((.*)\)", rest):
        kind, form = _CALLED[found[2]]
        given = (operand.split(" ") for operand in found[3].split(", "))
        return kind, form.format(*(_value(text, its) for its, text in given))
    if found := re.fullmatch(r"i8, ptr (\S+), i64 (\S+)", rest):
        return "ptr", f"(const uint8_t *){found[1][1:]} + {found[2][1:]}"
    if found := re.fullmatch(r"i8, ptr (\S+)", rest):
        return "i8", f"*{found[1][1:]}"
    if found := re.fullmatch(r"i32, ptr (\S+), i32 (\S+)", rest):
        return "ptr", f"(const uint8_t *){found[1][1:]} + 4 * (int32_t){found[2][1:]}"
    if found := re.fullmatch(r"i32, ptr (\S+), align 4", rest):
        return "i32", f"bytes_word({found[1][1:]})"
    if found := re.fullmatch(r"<4 x i8>, ptr (\S+), align 1", rest):
        return "<4 x i8>", f"bytes_word({found[1][1:]})"
    same = ", ".join(f"i32 {i}" for i in range(4))
    if found := re.fullmatch(rf"<4 x i8> (\S+), <4 x i8> poison, <4 x i32> <{same}>", rest):
        return "<4 x i8>", found[1][1:]
    raise UnsupportedError(f"portable C has no {what} {rest}")


def _value(text: str, kind: str) -> str:
    """A name, or a constant."""
    if text.startswith("%"):
        return text[1:]
    if kind != "float":
        return f"{int(text) & 0xFFFFFFFF}u"
    if text.startswith("0x"):
        (number,) = struct.unpack(">d", bytes.fromhex(text[2:]))
        return literal(number)
    return literal(float(text))


def literal(value: float, suffix: str = "f") -> str:
    """A constant in C, exactly; with the suffix `f` a float."""
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    text = re.sub(r"\.?0*p", "p", value.hex()) + suffix
    return f"({text})" if text.startswith("-") else text
