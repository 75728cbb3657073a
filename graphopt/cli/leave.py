"""How the process of a command ends."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn


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
