"""The compiled library of a bundle, by ctypes: contexts, runs, addresses of buffers."""

from __future__ import annotations

import ctypes
import math
import threading
from _ctypes import dlclose
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError, InputError
from graphopt.runtime.tensors import Array

_POINTERS = ctypes.POINTER(ctypes.c_void_p)
_INT = ctypes.c_int

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "new": (ctypes.c_void_p, [_INT]),
    "free": (None, [ctypes.c_void_p]),
    "threads": (_INT, [ctypes.c_void_p]),
    "run": (_INT, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]),
    "run_range": (_INT, [ctypes.c_void_p, _POINTERS, _POINTERS, _INT, _INT]),
    "profile": (_INT, [ctypes.c_void_p, _POINTERS, _POINTERS, ctypes.c_void_p, _INT, _INT]),
    "buffer": (ctypes.c_void_p, [ctypes.c_void_p, _INT]),
    "error": (ctypes.c_char_p, [_INT]),
}

_lock = threading.Lock()
_generations: dict[Path, list[tuple[int, int, int]]] = {}


class Library:
    """A loaded library; every call releases Python's lock. Close it after its contexts."""

    def __init__(self, path: Path, prefix: str) -> None:
        """Load it; InputError if the file isn't a library with a driver's functions."""
        try:
            self._library = ctypes.CDLL(_unique(path))
            self._functions: dict[str, Callable[..., Any]] = {}
            for name, (result, args) in _SIGNATURES.items():
                function = getattr(self._library, f"{prefix}_{name}")
                function.restype, function.argtypes = result, args
                self._functions[name] = function
        except (OSError, AttributeError) as error:
            raise InputError(f"{path} can't be loaded: {error}") from error

    def call(self, name: str, *args: object) -> Any:
        """Call the function `PREFIX_name`."""
        return self._functions[name](*args)

    def check(self, code: int) -> None:
        """Raise GraphoptError, in the library's words, for a return code that isn't 0."""
        if code:
            words = self.call("error", code).decode()
            raise GraphoptError(f"the compiled model failed: {words} (code {code})")

    def close(self) -> None:
        """Unload it."""
        dlclose(self._library._handle)


class Context:
    """One run's memory and threads. Used by one thread at a time."""

    def __init__(self, library: Library, threads: int) -> None:
        """Start it; GraphoptError if memory or threads can't be had."""
        self._library = library
        self._pointer = library.call("new", threads)
        if not self._pointer:
            raise GraphoptError(f"no memory or threads for a context with {threads} threads")
        self.staging: dict[int, tuple[Array, int]] = {}  # copies of inputs, and their addresses
        self._slots: tuple[_Addresses, _Addresses] | None = None
        self._run = partial(library.call, "run", self._pointer)

    def slots(self, inputs: int, outputs: int) -> tuple[_Addresses, _Addresses]:
        """The addresses of inputs and outputs that `run_all` uses; the same arrays every time."""
        if self._slots is None:
            made = (ctypes.c_void_p * (inputs + 1))(), (ctypes.c_void_p * (outputs + 1))()
            self._run = partial(self._run, *map(ctypes.addressof, made))
            self._slots = made
        return self._slots

    def run_all(self) -> None:
        """Run every step, of a model of kernels alone, on what the slots hold."""
        code = self._run()
        if code:
            self._library.check(code)

    @property
    def threads(self) -> int:
        """How many threads it runs on."""
        return self._library.call("threads", self._pointer)

    def run(self, inputs: _Addresses, outputs: _Addresses, first: int, last: int) -> None:
        """Run the steps [first, last)."""
        self._library.check(
            self._library.call("run_range", self._pointer, inputs, outputs, first, last)
        )

    def profile(self, inputs: _Addresses, outputs: _Addresses, first: int, last: int) -> list[int]:
        """Run the steps [first, last) and give the nanoseconds that each took."""
        ns = np.zeros(last - first, np.int64)
        code = self._library.call(
            "profile", self._pointer, inputs, outputs, ns.ctypes.data, first, last
        )
        self._library.check(code)
        return ns.tolist()

    def buffer(self, index: int, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """A view of a temporary or constant buffer of the plan, valid until close."""
        address = self._library.call("buffer", self._pointer, index)
        if not address:
            raise GraphoptError(f"the library has no buffer {index}: the bundle is damaged")
        nbytes = math.prod(shape) * dtype.itemsize
        raw = memoryview((ctypes.c_uint8 * nbytes).from_address(address))
        return np.frombuffer(raw, np.uint8).view(dtype).reshape(shape)

    def close(self) -> None:
        """End its threads and free its memory."""
        if self._pointer:
            self._library.call("free", self._pointer)
        self._pointer = None


_Addresses = ctypes.Array[ctypes.c_void_p]


def addresses(arrays: Sequence[Array | None]) -> _Addresses:
    """A C array of the arrays' addresses (NULL for None)."""
    values = [None if a is None else a.ctypes.data for a in arrays]
    return (ctypes.c_void_p * (len(values) + 1))(*values)


def _unique(path: Path) -> str:
    """A spelling of the path that no other file had that this process loaded.

    The system's loader takes a path that is still loaded for the same library, even if the file
    was replaced since (a bundle that was made anew): so each new file gets one more `./`.
    """
    path = path.resolve()
    stat = path.stat()
    identity = (stat.st_dev, stat.st_ino, stat.st_mtime_ns)
    with _lock:
        known = _generations.setdefault(path, [])
        if identity not in known:
            known.append(identity)
        return f"{path.parent}/{'./' * known.index(identity)}{path.name}"
