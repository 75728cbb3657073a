"""Objects -> one static library whose only visible symbols are the model's interface.

Every model's objects define the same names (the entry points that TVM's kernels call, the shim for
its errors), so two static libraries of models would clash in one program. `ld -r` joins a model's
objects, then all that isn't in the interface is made local. Formats: System V ABI, chapters 4 (ELF:
sections, symbols, relocations) and 7 (archives).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from graphopt.errors import GraphoptError

_SYMTAB, _RELA, _REL, _GROUP, _SYMTAB_SHNDX = 2, 4, 9, 17, 18
_SECTION = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, addr, offset, size, link, info, ...
_SYMBOL = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size
_LOCAL = 0
_MEMBER = b"model.o/"


@dataclass(frozen=True)
class Section:
    """A row of the table of sections; `at` is where the row lies in the file."""

    at: int
    name: int
    type: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    entry: int


def sections(elf: bytes | bytearray) -> list[Section]:
    """The sections of a 64-bit little-endian ELF file.

    Raises:
        GraphoptError: it is none.
    """
    if elf[:6] != b"\x7fELF\x02\x01":
        raise GraphoptError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    width, count = struct.unpack_from("<HH", elf, 0x3A)
    found: list[Section] = []
    for i in range(count):
        at = table + i * width
        name, kind, _, address, offset, size, link, info, _, entry = _SECTION.unpack_from(elf, at)
        found.append(Section(at, name, kind, address, offset, size, link, info, entry))
    return found


def text_at(elf: bytes | bytearray, at: int) -> str:
    """The string that begins at an offset and ends with a zero."""
    return elf[at : elf.index(0, at)].decode()


@dataclass(frozen=True)
class Symbol:
    """A named address; `type` is ELF's (2: a function)."""

    name: str
    type: int
    value: int


def symbols(elf: bytes) -> list[Symbol]:
    """The symbols of a file that defines them, in the order of its table."""
    table, found = sections(elf), list[Symbol]()
    for symtab in (s for s in table if s.type == _SYMTAB):
        strings = table[symtab.link].offset
        for at in range(symtab.offset, symtab.offset + symtab.size, _SYMBOL.size):
            name, info, _, where, value, _ = _SYMBOL.unpack_from(elf, at)
            if where:
                found.append(Symbol(text_at(elf, strings + name), info & 15, value))
    return found


def localize(elf: bytes, public: Collection[str]) -> bytes:
    """Make every symbol local that an object defines and that isn't `public`.

    Raises:
        GraphoptError: not an object with one table of symbols.
    """
    made, table = bytearray(elf), sections(elf)
    tables = [i for i, s in enumerate(table) if s.type == _SYMTAB]
    if len(tables) != 1 or any(s.type == _SYMTAB_SHNDX for s in table):
        raise GraphoptError("an object file without exactly one plain table of symbols")
    symtab = table[tables[0]]
    strings = table[symtab.link].offset
    rows = [list(_SYMBOL.unpack_from(elf, symtab.offset + i * _SYMBOL.size))
            for i in range(symtab.size // _SYMBOL.size)]  # fmt: skip
    for row in rows:
        if row[1] >> 4 != _LOCAL and row[3] and text_at(elf, strings + row[0]) not in public:
            row[1], row[2] = row[1] & 15, 0
    order = sorted(range(len(rows)), key=lambda i: rows[i][1] >> 4 != _LOCAL)  # locals come first
    for new, old in enumerate(order):
        _SYMBOL.pack_into(made, symtab.offset + new * _SYMBOL.size, *rows[old])
    first_global = sum(row[1] >> 4 == _LOCAL for row in rows)
    struct.pack_into("<I", made, symtab.at + 44, first_global)
    _renumber(made, table, tables[0], {old: new for new, old in enumerate(order)})
    return bytes(made)


def _renumber(made: bytearray, table: list[Section], symtab: int, number: dict[int, int]) -> None:
    """Let relocations and groups name symbols by their new numbers."""
    for section in (s for s in table if s.link == symtab):
        if section.type == _GROUP:
            struct.pack_into("<I", made, section.at + 44, number[section.info])
        if section.type not in (_RELA, _REL):
            continue
        for at in range(section.offset, section.offset + section.size, section.entry):
            (symbol,) = struct.unpack_from("<I", made, at + 12)  # the upper half of r_info
            struct.pack_into("<I", made, at + 12, number[symbol])


def archive(elf: bytes, public: Collection[str]) -> bytes:
    """A static library of one object, with the index of symbols that linkers look names up in."""
    names = sorted(public)
    index = b"".join(n.encode() + b"\0" for n in names)
    size = 4 + 4 * len(names) + len(index)
    index += b"\0" * (size % 2)
    at = len(b"!<arch>\n") + 60 + size + size % 2
    head = struct.pack(f">{1 + len(names)}I", len(names), *[at] * len(names))
    return b"".join((b"!<arch>\n", *_member(b"/", head + index), *_member(_MEMBER, elf)))


def _member(name: bytes, content: bytes) -> Iterator[bytes]:
    """A file of an archive: its head of 60 bytes without times or owners, then its bytes."""
    yield name.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"644".ljust(8)
    yield str(len(content)).encode().ljust(10) + b"`\n"
    yield content + b"\n" * (len(content) % 2)
