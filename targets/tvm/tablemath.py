"""Looking bytes up in a table of 256, as LLVM IR, next to the functions of `intmath`.

With AVX-512 VBMI four registers hold the table, and two instructions choose among 128 bytes each.
Before it, byte shuffles choose among 16: the table's sixteen parts are tried in turn, each giving 0
for a byte that isn't its own.
"""

from __future__ import annotations

from collections.abc import Callable

from graphopt.targets.machine import Machine
from graphopt.targets.tvm.vecmath import Body

PERMUTE = "llvm.x86.avx512.vpermi2var.qi.512"
SHUFFLES = (  # bytes of a register, the feature, the intrinsic
    (16, "ssse3", "llvm.x86.ssse3.pshuf.b.128"),
    (32, "avx2", "llvm.x86.avx2.pshuf.b"),
    (64, "avx512bw", "llvm.x86.avx512.pshuf.b.512"),
)


def look_up(b: Body, machine: Machine) -> str:
    """The bytes of a table, given by its address, that bytes x stand for."""
    if b.width == 1:
        return _byte(b, "%a1")
    if "avx512vbmi" in machine.cpu_features:
        return _by_parts(b, 64, _permute)
    found = _shuffle_of(machine, b.width)
    if found is None:
        return _one_by_one(b)
    return _by_parts(b, found[0], lambda b, x: _shuffle(b, x, *found))


def declare(width: int, machine: Machine) -> str:
    """The intrinsics of a width."""
    found = _shuffle_of(machine, width)
    if width == 1 or not (found or "avx512vbmi" in machine.cpu_features):
        return ""
    if "avx512vbmi" in machine.cpu_features:
        return f"declare <64 x i8> @{PERMUTE}(<64 x i8>, <64 x i8>, <64 x i8>)"
    size, name = found or (0, "")
    kind = f"<{size} x i8>"
    return (f"declare {kind} @{name}({kind}, {kind})\n"
            f"declare {kind} @llvm.uadd.sat.v{size}i8({kind}, {kind})")  # fmt: skip


def _shuffle_of(machine: Machine, width: int) -> tuple[int, str] | None:
    """The bytes and the name of the byte shuffle for a width: the least register that holds it."""
    known = [(s, n) for s, feature, n in SHUFFLES if feature in machine.cpu_features]
    return next((k for k in known if k[0] >= width), known[-1] if known else None)


def _byte(b: Body, x: str) -> str:
    index = b.emit(f"zext i8 {x} to i64")
    place = b.emit(f"getelementptr i8, ptr %a0, i64 {index}")
    return b.emit(f"load i8, ptr {place}")


def _one_by_one(b: Body) -> str:
    """Each lane by itself."""
    kind, found = b.type("i8"), "poison"
    for i in range(b.width):
        byte = _byte(b, b.emit(f"extractelement {kind} %a1, i32 {i}"))
        found = b.emit(f"insertelement {kind} {found}, i8 {byte}, i32 {i}")
    return found


def _by_parts(b: Body, size: int, look: Callable[[Body, str], str]) -> str:
    """A function of registers of `size` bytes, done to x part by part."""
    parts = [look(b, _lanes(b, "%a1", b.width, at, size)) for at in range(0, b.width, size)]
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [_joined(b, low, high, size) for low, high in pairs]
        size *= 2
    return parts[0] if size == b.width else _lanes(b, parts[0], size, 0, b.width)


def _lanes(b: Body, x: str, have: int, begin: int, count: int) -> str:
    """`count` lanes of x from `begin`; those beyond its end may be anything."""
    if have == count and not begin:
        return x
    lanes = ", ".join(f"i32 {i if i < have else 'poison'}" for i in range(begin, begin + count))
    kind = f"<{have} x i8>"
    return b.emit(f"shufflevector {kind} {x}, {kind} poison, <{count} x i32> <{lanes}>")


def _joined(b: Body, x: str, y: str, size: int) -> str:
    lanes = ", ".join(f"i32 {i}" for i in range(2 * size))
    kind = f"<{size} x i8>"
    return b.emit(f"shufflevector {kind} {x}, {kind} {y}, <{2 * size} x i32> <{lanes}>")


def _permute(b: Body, x: str) -> str:
    """Two choices among 128 bytes; the top bit of x says which holds."""
    kind = "<64 x i8>"
    table = [_part(b, 64 * i, 64) for i in range(4)]
    low, high = (
        b.emit(f"call {kind} @{PERMUTE}({kind} {p}, {kind} {x}, {kind} {q})")
        for p, q in (table[:2], table[2:])
    )
    upper = b.emit(f"icmp slt {kind} {x}, zeroinitializer")
    return b.emit(f"select <64 x i1> {upper}, {kind} {high}, {kind} {low}")


def _part(b: Body, at: int, count: int) -> str:
    place = b.emit(f"getelementptr i8, ptr %a0, i64 {at}")
    return b.emit(f"load <{count} x i8>, ptr {place}, align {count}")


def _shuffle(b: Body, x: str, size: int, name: str) -> str:
    """x - 16 i is in part i if it is below 16: then adding 112 leaves its top bit clear."""
    kind, found = f"<{size} x i8>", ""
    for i in range(16):
        part = _part(b, 16 * i, 16)
        every = ", ".join(f"i32 {j % 16}" for j in range(size))
        table = b.emit(
            f"shufflevector <16 x i8> {part}, <16 x i8> poison, <{size} x i32> <{every}>"
        )
        own = b.emit(f"sub {kind} {x}, splat (i8 {16 * i})") if i else x
        index = b.emit(f"call {kind} @llvm.uadd.sat.v{size}i8({kind} {own}, {kind} splat (i8 112))")
        chosen = b.emit(f"call {kind} @{name}({kind} {table}, {kind} {index})")
        found = b.emit(f"or {kind} {found}, {chosen}") if found else chosen
    return found
