"""Where graphopt keeps what it may need again: compiled kernels, measured machines and costs."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder of the user's cache: $XDG_CACHE_HOME/graphopt/NAME, or ~/.cache/graphopt/NAME."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "graphopt" / name


def keep(path: Path, data: bytes) -> None:
    """Write a file of the cache, all of it or nothing; without errors where that can't be."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        os.replace(file.name, path)
