"""Where a tensor's bytes are: in the model itself, or in files beside it that it may name."""

from __future__ import annotations

import stat
from pathlib import Path

import onnx

from graphopt.errors import InputError
from graphopt.ir.data import Data, Inline, Mapped, MappedFile, from_bytes
from graphopt.ir.types import DType
from graphopt.onnx.wire import SELF

EAGER = 200  # files mapped at once; more (one file a tensor) are opened when a pass asks


def open_file(path: Path, label: str) -> MappedFile:
    """Map a regular file (InputError for folders, devices and what can't be read)."""
    file = MappedFile(path)
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{label}: {path} is not a regular file")
    return file


def pin(file: MappedFile) -> MappedFile:
    """Open a file now, so that a later replacement of it under the same name changes nothing."""
    try:
        file.bytes(0, min(1, file.size))
    except OSError as why:
        raise InputError(f"{file.path}: can't read the file: {why.strerror}") from why
    return file


class Sources:
    """The bytes that the tensors of one model may name: its own, and those of files beside it."""

    def __init__(self, label: str, own: MappedFile | memoryview | None, path: Path | None) -> None:
        """Make it for a model.

        Args:
            label: the model's name in messages.
            own: the serialised model, where its tensors were cut out.
            path: the model's file, whose folder external data must be in (None: it has none).
        """
        self.label, self.own, self.path = label, own, path
        self.files: dict[str, MappedFile] = {}

    def data(
        self, tensor: onnx.TensorProto, dtype: DType, shape: tuple[int, ...], where: str
    ) -> Data:
        """The data of a tensor stored outside its message; ranges are checked, nothing is read."""
        entries = {e.key: e.value for e in tensor.external_data}
        want = (_product(shape) * dtype.bits + 7) // 8
        location = entries.get("location", "")
        offset = self._number(entries.get("offset", "0"), where)
        length = self._number(entries.get("length", str(want)), where)
        if length != want:
            raise InputError(f"{where} holds {length} bytes, but its shape wants {want}")
        if dtype is DType.string:
            raise InputError(f"{where} holds strings, which can't be stored outside the message")
        if location == SELF and isinstance(self.own, memoryview):
            if offset + length > len(self.own):
                raise InputError(f"{where} wants bytes {offset}..{offset + length} of the model")
            return Inline(from_bytes(self.own[offset : offset + length], dtype, shape))
        own = self.own if isinstance(self.own, MappedFile) else None
        file = own if location == SELF and own else self.file(location, where)
        if offset + length > file.size:
            raise InputError(
                f"{where} wants bytes {offset}..{offset + length} of {file.path}, "
                f"which has {file.size}"
            )
        return Mapped(file, offset, dtype, shape)

    def file(self, location: str, where: str) -> MappedFile:
        """The mapped file of a location, which must lie in the model's folder."""
        if location not in self.files:
            file = open_file(self._path(location, where), where)
            self.files[location] = pin(file) if len(self.files) < EAGER else file
        return self.files[location]

    def _path(self, location: str, where: str) -> Path:
        if self.path is None:
            raise InputError(
                f"{where} is stored in the file {location!r}, but a model given as bytes or as a "
                "ModelProto has no folder; give its path"
            )
        relative = Path(location)
        if not location or "\0" in location or relative.is_absolute() or ".." in relative.parts:
            raise InputError(f"{where} names the file {location!r}, outside the model's folder")
        folder = self.path.parent
        try:
            path = (folder / relative).resolve(strict=True)
        except (OSError, RuntimeError):
            raise InputError(
                f"{where} is stored in {folder / relative}, which doesn't exist"
            ) from None
        # A cache that links models and data into one store (as Hugging Face's does) is in order.
        homes = (folder.resolve(), self.path.resolve().parent)
        if not any(path.is_relative_to(home) for home in homes):
            raise InputError(f"{where} names {location!r}, a link out of the model's folder")
        return path

    def _number(self, text: str, where: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 19:
            raise InputError(f"{where} has the bad offset or length {text[:40]!r}")
        return int(text)


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for d in shape:
        total *= d
    return total
