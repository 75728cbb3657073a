"""Large weights, written into a linked library by ourselves.

An assembler and a linker would each read and write all of them. Here the linker lays out a section
of a few bytes in their place, with a segment of its own after everything else in memory
(`SCRIPT`); then the weights are appended to the file and that segment made to be them. Formats:
System V ABI, chapters 4 and 5 (ELF: sections, program headers).
"""

from __future__ import annotations

import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from graphopt.targets.driver.archive import Section, sections, text_at

PAYS = 1 << 20  # bytes of weights: fewer are linked as soon, without a page's padding
SECTION = ".weights"
SCRIPT = f"""SECTIONS {{
  {SECTION} ALIGN(CONSTANT(MAXPAGESIZE)) + CONSTANT(MAXPAGESIZE) : {{ *({SECTION}) }}
}} INSERT AFTER .bss;
"""
"""For GNU ld and LLVM's; a page is left out, so that no segment that may be written reaches it."""

_LOAD, _READ = 1, 4
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Segment:
    """A row of the table of segments; `at` is where the row lies in the file."""

    at: int
    type: int
    flags: int
    offset: int
    address: int
    file_bytes: int
    memory_bytes: int
    align: int


def place(library: Path, weights: Path) -> bool:
    """Write the weights into a library that was linked with `SCRIPT`, in place of its section.

    Gives False, and leaves the library as it is, where the linker has laid it out otherwise.

    Raises:
        GraphoptError: not a 64-bit little-endian ELF file.
    """
    elf = library.read_bytes()
    found = _own(elf)
    if found is None:
        return False
    section, segment = found
    size = weights.stat().st_size
    at = -(-len(elf) // segment.align) * segment.align
    with library.open("r+b") as file, weights.open("rb") as content:
        file.seek(at)
        shutil.copyfileobj(content, file, _CHUNK)
        _write(file, segment.at + 8, at)  # p_offset
        _write(file, segment.at + 32, size, size)  # p_filesz, p_memsz
        _write(file, section.at + 24, at, size)  # sh_offset, sh_size
    return True


def _own(elf: bytes) -> tuple[Section, _Segment] | None:
    """The section and its segment, if that may grow: nothing else in it, nothing behind it."""
    table = sections(elf)
    (names,) = struct.unpack_from("<H", elf, 0x3E)
    named = [s for s in table if text_at(elf, table[names].offset + s.name) == SECTION]
    if len(named) != 1:
        return None
    section = named[0]
    loaded = [s for s in _segments(elf) if s.type == _LOAD]
    last = max(loaded, key=lambda s: s.address)
    whole = (last.offset, last.address, last.file_bytes, last.memory_bytes)
    alone = whole == (section.offset, section.address, section.size, section.size)
    aligned = last.align > 0 and not last.address % last.align
    return (section, last) if alone and aligned and last.flags == _READ else None


def _segments(elf: bytes) -> list[_Segment]:
    (table,) = struct.unpack_from("<Q", elf, 0x20)
    width, count = struct.unpack_from("<HH", elf, 0x36)
    found: list[_Segment] = []
    for at in range(table, table + width * count, width):
        kind, flags, offset, address, _, file_bytes, memory, align = struct.unpack_from(
            "<IIQQQQQQ", elf, at
        )
        found.append(_Segment(at, kind, flags, offset, address, file_bytes, memory, align))
    return found


def _write(file: BinaryIO, at: int, *words: int) -> None:
    file.seek(at)
    file.write(struct.pack(f"<{len(words)}Q", *words))
