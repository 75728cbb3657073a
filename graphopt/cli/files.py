"""Files that commands write: whole, or not at all."""

from __future__ import annotations

from pathlib import Path

from graphopt.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write a text file; what stood there before stays until all is written.

    Raises:
        InputError: it can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except OSError as why:
        raise InputError(f"{path}: can't write: {why.strerror}") from why
    finally:
        temporary.unlink(missing_ok=True)
