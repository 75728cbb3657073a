"""The contexts of a Session: lent to one run at a time."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from queue import SimpleQueue

from graphopt.errors import InputError
from graphopt.runtime.native import Context, Library


class ContextPool:
    """A fixed number of contexts; who finds none free waits."""

    def __init__(self, library: Library, threads: int, count: int) -> None:
        """Start `count` contexts of `threads` threads each."""
        self._library = library
        self._free: SimpleQueue[Context | None] = SimpleQueue()  # None: there will be no more
        self._count = 0
        self._lock = threading.Lock()
        self._closed = False
        try:
            while self._count < count:
                self._free.put(Context(library, threads))
                self._count += 1
        except BaseException:
            self.close()
            raise

    def take(self) -> Context:
        """A context, to be given back; InputError once the pool is closed."""
        context = None if self._closed else self._free.get()
        if context is None:
            self._free.put(None)  # for the next who waits
            raise InputError("the session is closed")
        return context

    def give(self, context: Context) -> None:
        """Give back a context that was taken."""
        self._free.put(context)

    @contextmanager
    def lend(self) -> Generator[Context, None, None]:
        """A context for the time of a `with`; InputError once the pool is closed."""
        context = self.take()
        try:
            yield context
        finally:
            self.give(context)

    def close(self) -> None:
        """Wait for the runs under way, end the contexts and unload the library."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        left = self._count
        while left:
            context = self._free.get()
            if context is not None:  # someone who came after the pool was closed put that there
                context.close()
                left -= 1
        self._free.put(None)
        self._library.close()
