"""Where large constants go when IR text is saved: one file of bytes beside the text."""

from __future__ import annotations

import hashlib
from pathlib import Path

from graphopt.errors import InputError
from graphopt.ir.core import Module
from graphopt.ir.data import Data, MappedFile, to_bytes
from graphopt.ir.parser import parse
from graphopt.ir.printer import to_text

ALIGN = 64


class FileStore:
    """An append-only file of constant bytes; equal bytes are kept once.

    With a path the bytes go to disk as they come; without, they wait in memory for `save`.
    """

    def __init__(self, path: Path | None) -> None:
        """Start an empty file at `path`."""
        self.path, self.size = path, 0
        self.chunks: list[bytes] = []
        self._seen: dict[bytes, int] = {}
        self._kept: dict[int, tuple[Data, int]] = {}  # by identity; holds the data, so ids stay
        if path:
            path.write_bytes(b"")

    def put(self, data: Data) -> tuple[str, int]:
        """Keep the bytes of `data`; give the file's name and the offset."""
        name = self.path.name if self.path else "weights.bin"
        if id(data) not in self._kept:
            self._kept[id(data)] = (data, self._add(to_bytes(data.numpy(), data.dtype)))
        return name, self._kept[id(data)][1]

    def _add(self, raw: bytes) -> int:
        digest = hashlib.sha256(raw).digest()
        if digest in self._seen:
            return self._seen[digest]
        offset = self._seen[digest] = self.size
        padded = raw + b"\0" * (-len(raw) % ALIGN)
        if self.path:
            with self.path.open("ab") as file:
                file.write(padded)
        else:
            self.chunks.append(padded)
        self.size += len(padded)
        return offset

    def save(self, path: Path) -> None:
        """Write what waits in memory."""
        path.write_bytes(b"".join(self.chunks))


def save_gir(module: Module, path: Path) -> None:
    """Write `x.gir` and, if it has constants over 1 KB, `x.gir.bin` beside it.

    Raises:
        InputError: the files can't be written.
    """
    folder = path.parent
    temporary, blob = path.with_name(f".{path.name}.tmp"), path.with_name(f"{path.name}.bin")
    waiting = blob.with_name(f".{blob.name}.tmp")
    try:
        store = FileStore(waiting)
        text = to_text(module, store=_Renamed(store, blob.name))
        temporary.write_text(text, "utf-8")
        if store.size:
            waiting.rename(blob)
        temporary.rename(path)
    except OSError as why:
        raise InputError(f"{path}: can't write: {why.strerror} in {folder}") from why
    finally:
        waiting.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)


class _Renamed:
    """A store that gives its file the name it will have."""

    def __init__(self, store: FileStore, name: str) -> None:
        self.store, self.name = store, name

    def put(self, data: Data) -> tuple[str, int]:
        return self.name, self.store.put(data)[1]


def load_gir(path: Path) -> Module:
    """Read IR text; the files that its constants name must lie in its folder.

    Raises:
        InputError: the file can't be read; ParseError: it isn't IR.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as why:
        raise InputError(f"{path}: can't read IR text: {why}") from why
    files: dict[str, MappedFile] = {}

    def resolve(name: str) -> MappedFile:
        inside = (path.parent / name).resolve()
        if not inside.is_relative_to(path.parent.resolve()):
            raise ValueError(f"{name!r} lies outside the folder of the text")
        return files.setdefault(name, MappedFile(inside))

    return parse(text, str(path), resolve=resolve)
