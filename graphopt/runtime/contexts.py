"""The contexts of a Session: lent to one run at a time."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

from graphopt.errors import InputError
from graphopt.runtime.native import Context, Library


class ContextPool:
    """A fixed number of contexts; who finds none free waits."""

    def __init__(self, library: Library, threads: int, count: int) -> None:
        """Start `count` contexts of `threads` threads each."""
        self._library = library
        self._changed = threading.Condition()
        self._free: list[Context] = []
        self._count = count
        self._closed = False
        try:
            for _ in range(count):
                self._free.append(Context(library, threads))
        except BaseException:
            self._count = len(self._free)
            self.close()
            raise

    @contextmanager
    def lend(self) -> Generator[Context, None, None]:
        """A context for the time of a `with`; InputError once the pool is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._closed)
            if self._closed:
                raise InputError("the session is closed")
            context = self._free.pop()
        try:
            yield context
        finally:
            with self._changed:
                self._free.append(context)
                self._changed.notify_all()

    def close(self) -> None:
        """Wait for the runs under way, end the contexts and unload the library."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) == self._count)
        for context in self._free:
            context.close()
        self._library.close()
