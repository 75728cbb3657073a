"""Program -> the C sources of its driver.

The driver is data (tables of buffers, arguments and steps) and a fixed text around it (the
templates beside this file): a thread pool, a workspace cache, and a small public interface.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment

from graphopt.errors import GraphoptError, UnsupportedError
from graphopt.ir.types import DType
from graphopt.targets.program import (
    Arena,
    Buffer,
    Dynamic,
    Input,
    KernelCall,
    Output,
    Program,
    Step,
    Weight,
    Workspace,
    check,
)
from graphopt.targets.stored.blob import Constant, Stored
from graphopt.targets.templates import environment

WEIGHTS_FILE = "weights.bin"
"""The name under which weights.S includes the weights blob."""

PUBLIC = ("new", "free", "threads", "buffer", "error", "run", "run_range", "profile")
"""The functions of the interface, without the prefix."""

NO_WORKSPACE = Workspace()

# x86's code model and every linker's relocations reach 2 GiB; some of it is the code's.
_MOST_WEIGHTS = 2**31 - 2**26

# DLPack's type codes of the types that aren't int, uint or float.
_CODES = {
    DType.bool_: 6,
    DType.bf16: 4,
    DType.c64: 5,
    DType.c128: 5,
    DType.f8e4m3fn: 10,
    DType.f8e4m3fnuz: 11,
    DType.f8e5m2: 12,
    DType.f8e5m2fnuz: 13,
    DType.f8e8m0: 14,
}
_INT, _UINT, _FLOAT = 0, 1, 2


@dataclass(frozen=True)
class _Tensor:
    """An input or output of the model, as model.h states it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    static: bool


@dataclass(frozen=True)
class _Buffer:
    """A row of the table of buffers."""

    place: str
    code: int
    bits: int
    rank: int
    shape: int
    where: int


@dataclass(frozen=True)
class _Step:
    """A row of the table of steps; no symbol for a segment that ONNX Runtime runs."""

    symbol: str
    first: int
    count: int


@dataclass(frozen=True)
class _Copy:
    """An output that no step writes: copied from `buffer` at the end of a run."""

    buffer: int
    output: int
    bytes: int


@dataclass(frozen=True)
class _Coded:
    """A row of the table of constants that are decoded."""

    decode: str
    at: int
    stored: int
    made: int
    count: int
    width: int
    sum: int


def generate(
    program: Program,
    *,
    prefix: str = "go",
    amx: bool = False,
    stored: Stored | None = None,
    workspace: Workspace = NO_WORKSPACE,
    kernels: Sequence[Path] | None = None,
    weights: Path | None = None,
) -> dict[str, str]:
    """Give the C sources of a program's driver.

    Args:
        program: what to run; its kernels are `__tvm_ffi_SYMBOL` functions of the objects that the
            sources will be linked with.
        prefix: what the public names start with, so that one C program can hold two models.
        amx: whether kernels use AMX tiles, which a process has to ask Linux for.
        stored: where the constants are in the file of weights; None: as the program has them.
        workspace: the memory that kernels ask for, which each context has ready.
        kernels: C files of kernels that become part of the driver's, and with them the `weights`,
            the file that `stored` describes; None: both are linked with it.

    Returns:
        The texts of `plan.c`, `model.h`, `weights.S`, `version.map` (what the library exports)
        and, unless a part of the program needs ONNX Runtime, the example `main.c`. With `kernels`
        there is `model.c` in the place of `plan.c` and `weights.S`.

    Raises:
        UnsupportedError: a static buffer's elements aren't whole bytes, or the weights are too big.
        GraphoptError: the program is malformed.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", prefix):
        raise GraphoptError(f"the prefix {prefix!r} is not a lower-case C name")
    check(program)
    _check_supported(program)
    if stored is None or not stored.coded:
        stored = Stored((), program.weight_bytes)
    values = {"p": prefix, "P": prefix.upper(), "amx": amx, "workspace": workspace,
              **_values(program, stored)}  # fmt: skip
    names = ["model.h", "version.map"]
    values["portable"] = kernels is not None
    if kernels is None:
        names += ["plan.c", "weights.S"]
    dynamic = any(isinstance(b.place, Dynamic) for b in _ends(program))
    if not dynamic and not any(program.fallbacks()):
        names.append("main.c")
    env = _environment()
    sources = {name: env.get_template(f"{name}.j2").render(values) for name in names}
    if kernels is not None:
        values["kernels"] = [path.read_text("utf-8") for path in kernels]
        values["words"] = _words(weights)
        sources["model.c"] = env.get_template("plan.c.j2").render(values)
    return sources


def _words(weights: Path | None) -> list[str]:
    """The bytes of a file as C's constants of 64 bits, four a line; zeros fill the last."""
    data = weights.read_bytes() if weights else b""
    words = np.frombuffer(data + bytes(-len(data) % 8), "<u8")
    return [", ".join(f"{w:#x}" for w in words[at : at + 4]) for at in range(0, len(words), 4)]


def decoder_text(decoders: Collection[str]) -> str:
    """The C functions (`decode_indices`, `decode_sparse`) that decode constants, alone."""
    head = "#include <stdint.h>\n#include <string.h>\n\n"
    return head + _environment().get_template("decode.c.j2").render(decoders=decoders)


def needed_copies(program: Program) -> dict[int, int]:
    """The outputs that no step writes, as {output's position: buffer to copy from}."""
    return {
        position: index
        for position, index in enumerate(program.outputs)
        if program.buffers[index].place != Output(position)
        and not isinstance(program.buffers[index].place, Dynamic)
    }


def _environment() -> Environment:
    env = environment("graphopt.targets.driver", autoescape=False, newline=True)
    env.filters["cstring"] = c_string
    env.filters["comment"] = _comment
    return env


def c_string(text: str) -> str:
    """The C literal of a string: UTF-8, with octal escapes for all that could be misread."""
    plain = set(range(32, 127)) - set(b'"\\?')  # ? because of trigraphs
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'


def _comment(text: str) -> str:
    return re.sub(r"[^\w .,:;()+-]", "_", text, flags=re.ASCII)


def _check_supported(program: Program) -> None:
    for b in program.buffers:
        if not isinstance(b.place, Dynamic) and (b.dtype.bits % 8 or not b.dtype.bits):
            raise UnsupportedError(f"buffer {b.name} has elements of {b.dtype}, not whole bytes")
    if program.weight_bytes > _MOST_WEIGHTS:
        size = program.weight_bytes / 2**30
        raise UnsupportedError(f"{size:.1f} GiB of weights do not fit in one library (2 GiB)")


def _ends(program: Program) -> list[Buffer]:
    return [program.buffers[i] for i in (*program.inputs, *program.outputs)]


def _values(p: Program, stored: Stored) -> dict[str, object]:
    calls = [s for s in p.steps if isinstance(s, KernelCall)]
    copies = needed_copies(p)
    return {
        "name": p.name,
        "arena_bytes": p.arena_bytes,
        "weight_bytes": p.weight_bytes,
        "inputs": [_tensor(p.buffers[i]) for i in p.inputs],
        "outputs": [_tensor(p.buffers[i]) for i in p.outputs],
        "buffers": _buffer_rows(p.buffers, stored),
        "shapes": [d for b in p.buffers for d in b.shape],
        "args": [a for call in calls for a in call.args],
        "steps": _step_rows(p.steps),
        "symbols": sorted({call.kernel for call in calls}),
        "copies": [_Copy(b, o, p.buffers[b].nbytes) for o, b in copies.items()],
        "bound": [i for i, b in enumerate(p.buffers) if isinstance(b.place, Input | Output)],
        "public": PUBLIC,
        "needed_inputs": _positions(p, Input),
        "needed_outputs": sorted({*_positions(p, Output), *copies}),
        "fallbacks": sum(1 for _ in p.fallbacks()),
        "coded": [_coded(c) for c in stored.coded],
        "decoders": {_decoder(c) for c in stored.coded},
        "made_bytes": stored.made_bytes,
        "stored_bytes": stored.file_bytes,
    }


def _decoder(c: Constant) -> str:
    return f"decode_{c.coder}"


def _coded(c: Constant) -> _Coded:
    count = c.nbytes // c.width
    return _Coded(_decoder(c), c.at, c.stored, c.made, count, c.width, c.sum)


def _positions(p: Program, kind: type[Input] | type[Output]) -> list[int]:
    return sorted({b.place.index for b in p.buffers if isinstance(b.place, kind)})


def _tensor(b: Buffer) -> _Tensor:
    static = not isinstance(b.place, Dynamic)
    return _Tensor(b.name, b.dtype.value[0], b.shape, b.nbytes, static)


def _buffer_rows(buffers: tuple[Buffer, ...], stored: Stored) -> list[_Buffer]:
    rows: list[_Buffer] = []
    start = 0
    for b in buffers:
        place, where = _place(b, stored)
        rows.append(_Buffer(place, _type_code(b.dtype), b.dtype.bits, len(b.shape), start, where))
        start += len(b.shape)
    return rows


def _place(b: Buffer, stored: Stored) -> tuple[str, int]:
    match b.place:
        case Input(index):
            return "INPUT", index
        case Output(index):
            return "OUTPUT", index
        case Weight(offset) if not stored.coded:
            return "WEIGHT", offset
        case Weight(offset):
            made, where = stored.find(offset)
            return "MADE" if made else "WEIGHT", where
        case Arena(offset):
            return "ARENA", offset
        case Dynamic():
            return "NONE", 0


def _type_code(dtype: DType) -> int:
    if dtype in _CODES:
        return _CODES[dtype]
    if dtype.is_int:
        return _UINT if dtype.name[0] == "u" else _INT
    return _FLOAT


def _step_rows(steps: tuple[Step, ...]) -> list[_Step]:
    rows: list[_Step] = []
    first = 0
    for step in steps:
        if not isinstance(step, KernelCall):
            rows.append(_Step("", 0, 0))
            continue
        rows.append(_Step(step.kernel, first, len(step.args)))
        first += len(step.args)
    return rows
