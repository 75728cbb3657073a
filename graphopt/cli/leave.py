"""How the process of a command ends."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from typing import NoReturn

_received = [int(signal.SIGINT)]  # the last one is what interrupted


def heed_signals() -> None:
    """Let what asks a process to end (`kill`, a closed terminal) end it as Ctrl-C does.

    So its temporary folders go, and its child processes. What is ignored (`nohup`) stays so.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one would interrupt the tidying up
    _received.append(number)
    raise KeyboardInterrupt


def interrupted() -> tuple[int, str]:
    """The exit code of an interrupted command, as a shell reports the signal, and what to say."""
    number = _received[-1]
    name = signal.Signals(number).name
    return 128 + number, "interrupted" if number == signal.SIGINT else f"interrupted by {name}"


def leave(code: int) -> NoReturn:
    """End this process with an exit code, its memory as it is.

    Python would free every object first, and ONNX Runtime its sessions: 0.1 s. What anything has
    registered to run at exit (temporary folders, the child process) does run, and output is
    written. Where a thread still works that Python would wait for, it is left to Python.
    """
    others = (t for t in threading.enumerate() if t is not threading.main_thread())
    if not all(t.daemon for t in others):
        sys.exit(code)
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]  # as `multiprocessing` does
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (OSError, ValueError):
        sys.exit(code)  # Python says what it can't write
    os._exit(code)
