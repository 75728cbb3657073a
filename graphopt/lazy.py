"""Packages that are imported when they are first used: half of a command's start, else."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Lazy:
    """Stands for a module, which is imported when something of it is asked for. Untyped."""

    def __init__(self, name: str) -> None:
        """Only keep the name."""
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """What the module has by this name; ImportError and AttributeError as ever."""
        return getattr(import_module(self._name), attribute)
