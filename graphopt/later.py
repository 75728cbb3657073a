"""Work beside other work: in a thread, for what waits for other processes or lets go of the GIL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Later(Generic[T]):
    """Work that has begun in a thread of its own; what it gives, or raises, is had by `wait`."""

    def __init__(self, work: Callable[[], T]) -> None:
        """Begin. The thread doesn't keep the process from ending."""
        self._work = work
        self._error: BaseException | None = None
        self._found: T | None = None
        self._thread = threading.Thread(target=self._do, daemon=True)
        self._thread.start()

    def _do(self) -> None:
        try:
            self._found = self._work()
        except BaseException as error:
            self._error = error

    def wait(self) -> T:
        """The result; any error of the work is raised here."""
        self._thread.join()
        if self._error:
            raise self._error
        return cast("T", self._found)
