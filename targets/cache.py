"""Where graphopt keeps what it may need again: compiled kernels, measured machines and costs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder of the user's cache: $XDG_CACHE_HOME/graphopt/NAME, or ~/.cache/graphopt/NAME."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "graphopt" / name
