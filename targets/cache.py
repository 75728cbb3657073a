"""Where graphopt keeps what it may need again: compiled kernels, measured machines and costs.

A computer may stop while it writes, and a disk may lose bits: what would be run or linked is kept
with its hash, and what doesn't fit its hash is as if it weren't there.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder of the user's cache: $XDG_CACHE_HOME/graphopt/NAME, or ~/.cache/graphopt/NAME."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "graphopt" / name


def write(path: Path, data: bytes) -> None:
    """Write a file of the cache, all of it or nothing.

    Raises:
        OSError: the folder can't be made or written, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with made.open("xb") as file:
            file.write(data)
        made.replace(path)
    except BaseException:
        with suppress(OSError):
            made.unlink()
        raise


def keep(path: Path, data: bytes) -> None:
    """Write a file of the cache, all of it or nothing; without errors where that can't be."""
    with suppress(OSError):
        write(path, data)


def keep_hashed(path: Path, data: bytes) -> None:
    """Keep data after their hash, for `kept_hashed`."""
    keep(path, hashlib.sha256(data).digest() + data)


def kept_hashed(path: Path) -> bytes | None:
    """What `keep_hashed` wrote; None if there is nothing, or it is damaged."""
    try:
        found = path.read_bytes()
    except OSError:
        return None
    return found[32:] if hashlib.sha256(found[32:]).digest() == found[:32] else None
